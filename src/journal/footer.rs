//! The last blocks of a sealed segment: what is in it and where.
//!
//! The footer is written twice, so that one damaged block does not make a segment unreadable.

use super::header::HEADER_BLOCK_BYTES;
use super::publish::SegmentSummary;
use super::sections::SectionKind;
use super::segment::{JournalIdentity, SegmentId};
use crate::index::IndexRoot;
use crate::types::{DecodeError, Decoder, Encoder, Position, Time};

pub const FOOTER_BYTES: usize = 4096;
pub const FOOTER_COPIES: usize = 2;
const MAGIC: [u8; 8] = *b"PITGSEGF";
const VERSION: u32 = 1;

/// Where a section lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SectionPlace {
    pub offset_bytes: u64,
    pub stored_len_bytes: u64,
    pub raw_len_bytes: u64,
    /// Seeded with the segment's identity and the offset.
    pub crc: u32,
}

/// `HEADER_BLOCK_BYTES <= records_end_bytes <= index_offset_bytes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    pub summary: SegmentSummary,
    /// Behind the end record.
    pub records_end_bytes: u64,
    pub index_offset_bytes: u64,
    pub index_root: IndexRoot,
    pub sections: [SectionPlace; SectionKind::ALL.len()],
}

/// What a block turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FooterBlock {
    Sound(Box<Footer>),
    Newer(u32),
    /// Has the magic, fails its checksum.
    Damaged,
    /// Not a footer.
    None,
}

impl Footer {
    /// One copy, for this place.
    pub fn encode(&self, identity: &JournalIdentity, id: SegmentId, offset_bytes: u64) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(&MAGIC);
        out.u32(VERSION);
        out.u32(0);
        let summary = &self.summary;
        out.u64(summary.first_position.0);
        out.u64(summary.last_position.0);
        out.i64(summary.first_time.0);
        out.i64(summary.last_time.0);
        out.u64(summary.data_changes);
        out.u64(summary.names_changes);
        out.u64(summary.marks);
        out.u64(summary.page_versions);
        out.u64(summary.captured_bytes);
        out.u64(summary.record_bytes);
        out.u64(summary.index_bytes);
        out.u64(self.records_end_bytes);
        out.u64(self.index_offset_bytes);
        self.index_root.encode(&mut out);
        for place in &self.sections {
            out.u64(place.offset_bytes);
            out.u64(place.stored_len_bytes);
            out.u64(place.raw_len_bytes);
            out.u32(place.crc);
        }
        let mut block = out.finish();
        block.resize(FOOTER_BYTES, 0);
        let crc = block_crc(&block, identity.seed(id), offset_bytes);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// The footer in `block`, which lies at `offset_bytes`.
    pub fn decode(block: &[u8], identity: &JournalIdentity, id: SegmentId, offset_bytes: u64) -> FooterBlock {
        if block.len() != FOOTER_BYTES || block[..8] != MAGIC {
            return FooterBlock::None;
        }
        let mut input = Decoder::new(&block[8..]);
        let (Ok(version), Ok(crc)) = (input.u32(), input.u32()) else {
            return FooterBlock::None;
        };
        if crc != block_crc(block, identity.seed(id), offset_bytes) {
            return FooterBlock::Damaged;
        }
        if version > VERSION {
            return FooterBlock::Newer(version);
        }
        match decode(&mut input) {
            Ok(footer) if footer.is_possible(offset_bytes) => FooterBlock::Sound(Box::new(footer)),
            _ => FooterBlock::Damaged,
        }
    }

    /// Whether all places lie before the footer and in order.
    fn is_possible(&self, offset_bytes: u64) -> bool {
        let index_end = self.index_offset_bytes.checked_add(self.index_root.len_bytes());
        HEADER_BLOCK_BYTES as u64 <= self.records_end_bytes
            && self.records_end_bytes <= self.index_offset_bytes
            && index_end.is_some_and(|end| end <= offset_bytes)
            && self.summary.first_position <= self.summary.last_position
            && self.sections.iter().all(|place| {
                place.offset_bytes.checked_add(place.stored_len_bytes).is_some_and(|end| end <= offset_bytes)
            })
    }
}

fn decode(input: &mut Decoder<'_>) -> Result<Footer, DecodeError> {
    let summary = SegmentSummary {
        first_position: Position(input.u64()?),
        last_position: Position(input.u64()?),
        first_time: Time(input.i64()?),
        last_time: Time(input.i64()?),
        data_changes: input.u64()?,
        names_changes: input.u64()?,
        marks: input.u64()?,
        page_versions: input.u64()?,
        captured_bytes: input.u64()?,
        record_bytes: input.u64()?,
        index_bytes: input.u64()?,
    };
    let (records_end_bytes, index_offset_bytes) = (input.u64()?, input.u64()?);
    let index_root = IndexRoot::decode(input)?;
    let mut sections = [SectionPlace::default(); SectionKind::ALL.len()];
    for place in &mut sections {
        *place = SectionPlace {
            offset_bytes: input.u64()?,
            stored_len_bytes: input.u64()?,
            raw_len_bytes: input.u64()?,
            crc: input.u32()?,
        };
    }
    Ok(Footer { summary, records_end_bytes, index_offset_bytes, index_root, sections })
}

/// The checksum of bytes other than records, bound to segment and place.
pub fn place_crc(bytes: &[u8], seed: u32, offset_bytes: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &offset_bytes.to_le_bytes()), bytes)
}

fn block_crc(block: &[u8], seed: u32, offset_bytes: u64) -> u32 {
    crc32c::crc32c_append(place_crc(&block[..12], seed, offset_bytes), &block[16..])
}
