//! The first block of a segment: whose it is and where it begins.

use super::error::JournalError;
use super::segment::{JournalIdentity, SegmentId};
use crate::types::{Decoder, Encoder, Epoch, Position, Time};

/// Bytes of the block; the first record follows.
pub const HEADER_BLOCK_BYTES: usize = 4096;
pub const MAGIC: [u8; 8] = *b"PITGSEGM";
pub const VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub identity: JournalIdentity,
    pub id: SegmentId,
    pub first_position: Position,
    pub first_time: Time,
}

/// What the first block turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderBlock {
    Sound(SegmentHeader),
    Newer(u32),
    Damaged,
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(&MAGIC);
        out.u32(VERSION);
        out.u32(0);
        out.raw(&self.identity.repository);
        out.raw(&self.identity.source);
        out.u32(self.id.epoch.0);
        out.u32(self.id.sequence);
        out.u64(self.first_position.0);
        out.i64(self.first_time.0);
        // Reserved: a cipher's number, none so far, and the id of its key.
        out.u32(0);
        out.raw(&[0; 16]);
        let mut block = out.finish();
        block.resize(HEADER_BLOCK_BYTES, 0);
        let crc = block_crc(&block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        block
    }

    pub fn decode(block: &[u8]) -> HeaderBlock {
        decode(block).unwrap_or(HeaderBlock::Damaged)
    }

    /// Whether the block belongs to this segment.
    ///
    /// # Errors
    /// `JournalError::Foreign`.
    pub fn expect(&self, identity: &JournalIdentity, id: SegmentId) -> Result<(), JournalError> {
        if self.identity == *identity && self.id == id {
            return Ok(());
        }
        Err(JournalError::Foreign { path: id.file_name(), expected: id })
    }
}

fn decode(block: &[u8]) -> Option<HeaderBlock> {
    let mut input = Decoder::new(block.get(..HEADER_BLOCK_BYTES)?);
    if input.raw(8).ok()? != MAGIC {
        return None;
    }
    let version = input.u32().ok()?;
    if input.u32().ok()? != block_crc(block) {
        return None;
    }
    if version > VERSION {
        return Some(HeaderBlock::Newer(version));
    }
    let repository = input.raw(16).ok()?.try_into().ok()?;
    let source = input.raw(16).ok()?.try_into().ok()?;
    let identity = JournalIdentity { repository, source };
    let id = SegmentId { epoch: Epoch(input.u32().ok()?), sequence: input.u32().ok()? };
    let first_position = Position(input.u64().ok()?);
    let first_time = Time(input.i64().ok()?);
    Some(HeaderBlock::Sound(SegmentHeader { identity, id, first_position, first_time }))
}

/// Covers the block but for the checksum. Not seeded: the block is what tells the identity.
fn block_crc(block: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&block[..12]);
    crc32c::crc32c_append(crc, &block[16..HEADER_BLOCK_BYTES])
}
