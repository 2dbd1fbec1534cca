//! The bytes of one record: a header that is checked by itself, and a payload that the header vouches for.
//!
//! Segments' larger shape is not known here. Drawn in `docs/disk-format.md`.

use bytes::Bytes;

use super::segment::Seeds;
use crate::types::{Decoder, Encoder, FileId, PAGE_BYTES, Position, Time, pages_of};

/// Bytes of the fixed part of a header.
pub const HEADER_BYTES: usize = 32;
/// Every record begins at a multiple of this.
pub const ALIGN_BYTES: usize = 8;
/// The longest variable part of a header.
pub const EXTRA_MAX_BYTES: usize = 64;
/// The longest payload any record has; names and values of attributes are far below it.
pub const PAYLOAD_MAX_BYTES: u32 = 1 << 20;
/// Pages in a data record at the most, and when it belongs to an image.
pub const CHUNK_PAGES_MAX: usize = 16;
pub const IMAGE_CHUNK_PAGES_MAX: usize = 4;
/// Bytes of a flush record and of an end record.
pub const FLUSH_BYTES: usize = HEADER_BYTES + 16;
pub const END_BYTES: usize = HEADER_BYTES;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Data = 1,
    Names = 2,
    Mark = 3,
    /// Carries what was durable before it was written.
    Flush = 4,
    /// No record follows. What lies behind it was written after it was durable.
    End = 5,
}

pub mod flag {
    /// The payload is a zstd frame.
    pub const ZSTD: u8 = 1;
    /// No payload: the pages read as zeros.
    pub const ZERO: u8 = 2;
    /// The zeros reach to the end of the file, however long: a truncation.
    pub const CUT: u8 = 4;
    /// Another record of the same change follows; one came before.
    pub const CONTINUES: u8 = 8;
    pub const CONTINUATION: u8 = 16;
    /// The wall clock had gone back; the time was held.
    pub const HELD: u8 = 32;
    /// The pages belong to an image or a comparison, nobody wrote them.
    pub const IMAGE: u8 = 64;
}

/// Position and time of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    pub position: Position,
    pub time: Time,
    /// The time was held because the wall clock went back.
    pub held: bool,
}

/// The variable part of a data record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHead {
    pub file: FileId,
    pub first_page: u64,
    pub page_count: u64,
    pub size_after: u64,
    pub mtime: Option<Time>,
}

impl DataHead {
    pub fn encode(&self, stamp: Stamp, out: &mut Encoder) {
        out.varint(self.file.0);
        out.varint(self.first_page);
        out.varint(self.page_count);
        out.varint(self.size_after);
        // Files are mostly written now: the difference is short.
        if let Some(mtime) = self.mtime {
            out.signed_varint(stamp.time.0.wrapping_sub(mtime.0));
        }
    }

    fn decode(head: &Header, extra: &[u8]) -> Option<DataHead> {
        let mut input = Decoder::new(extra);
        let file = FileId(input.varint().ok()?);
        let first_page = input.varint().ok()?;
        let page_count = input.varint().ok()?;
        let size_after = input.varint().ok()?;
        let mtime = match input.is_empty() {
            true => None,
            false => Some(Time(head.stamp.time.0.wrapping_sub(input.signed_varint().ok()?))),
        };
        input.finish().ok()?;
        first_page.checked_add(page_count).filter(|end| *end <= pages_of(u64::MAX))?;
        let data = DataHead { file, first_page, page_count, size_after, mtime };
        data.fits(head).then_some(data)
    }

    /// Whether pages and payload agree.
    fn fits(&self, head: &Header) -> bool {
        let zero = head.has(flag::ZERO);
        if zero || self.page_count == 0 {
            return head.payload_len == 0 && !head.has(flag::ZSTD) && (zero || !head.has(flag::CUT));
        }
        let chunk_fits = self.page_count <= CHUNK_PAGES_MAX as u64 && !head.has(flag::CUT);
        let whole_len = self.page_count.saturating_mul(PAGE_BYTES as u64);
        let payload_len = u64::from(head.payload_len);
        chunk_fits && if head.has(flag::ZSTD) { payload_len < whole_len } else { payload_len == whole_len }
    }
}

/// The fixed part of a header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub flags: u8,
    pub extra_len: u8,
    pub payload_len: u32,
    pub payload_crc: u32,
    pub stamp: Stamp,
}

impl Header {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Header and payload, without padding.
    pub fn len_bytes(&self) -> u32 {
        (HEADER_BYTES + usize::from(self.extra_len)) as u32 + self.payload_len
    }

    /// With the padding that follows.
    pub fn padded_len_bytes(&self) -> u64 {
        u64::from(self.len_bytes()).next_multiple_of(ALIGN_BYTES as u64)
    }

    /// The bytes of the header but for its checksum, which [`seal_header`] sets once the place is known.
    pub fn encode(&self, extra: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.payload_crc.to_le_bytes());
        out.extend_from_slice(&self.payload_len.to_le_bytes());
        let flags = if self.stamp.held { self.flags | flag::HELD } else { self.flags };
        out.extend_from_slice(&[self.kind as u8, flags, self.extra_len, 0]);
        out.extend_from_slice(&self.stamp.position.0.to_le_bytes());
        out.extend_from_slice(&self.stamp.time.0.to_le_bytes());
        out.extend_from_slice(extra);
    }

    /// The header that `bytes` begin with, if they were written at `offset_bytes` of the segment with this
    /// seed. The payload may still be damaged.
    pub fn decode(bytes: &[u8], seed: u32, offset_bytes: u64) -> Option<Header> {
        let fixed = bytes.get(..HEADER_BYTES)?;
        let kind = match fixed[12] {
            1 => Kind::Data,
            2 => Kind::Names,
            3 => Kind::Mark,
            4 => Kind::Flush,
            5 => Kind::End,
            _ => return None,
        };
        let extra_len = fixed[14];
        let payload_len = u32_at(fixed, 8);
        if usize::from(extra_len) > EXTRA_MAX_BYTES || payload_len > PAYLOAD_MAX_BYTES || fixed[15] != 0 {
            return None;
        }
        let covered = bytes.get(4..HEADER_BYTES + usize::from(extra_len))?;
        if u32_at(fixed, 0) != header_crc(covered, seed, offset_bytes) {
            return None;
        }
        let stamp = Stamp {
            position: Position(u64_at(fixed, 16)),
            time: Time(u64_at(fixed, 24) as i64),
            held: fixed[13] & flag::HELD != 0,
        };
        let payload_crc = u32_at(fixed, 4);
        Some(Header { kind, flags: fixed[13], extra_len, payload_len, payload_crc, stamp })
    }
}

/// A record whose header and payload are sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRecord<'a> {
    pub header: Header,
    pub extra: &'a [u8],
    pub payload: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// The record that `bytes` begin with.
    pub fn decode(bytes: &'a [u8], seeds: Seeds, offset_bytes: u64) -> Option<RawRecord<'a>> {
        let header = Header::decode(bytes, seeds.segment, offset_bytes)?;
        let extra_end = HEADER_BYTES + usize::from(header.extra_len);
        let payload = bytes.get(extra_end..header.len_bytes() as usize)?;
        let sound = payload_crc(payload, seeds.payload) == header.payload_crc;
        sound.then_some(RawRecord { header, extra: &bytes[HEADER_BYTES..extra_end], payload })
    }

    pub fn data_head(&self) -> Option<DataHead> {
        data_head(&self.header, self.extra)
    }

    /// What a flush record says: durable position and durable end of the file.
    pub fn flush(&self) -> Option<(Position, u64)> {
        let sound = self.header.kind == Kind::Flush && self.extra.len() == 16;
        sound.then(|| (Position(u64_at(self.extra, 0)), u64_at(self.extra, 8)))
    }

    /// The pages of a data record, decompressed.
    pub fn pages(&self, data: &DataHead) -> Option<Bytes> {
        let whole_len = usize::try_from(data.page_count).ok()?.checked_mul(PAGE_BYTES)?;
        if !self.header.has(flag::ZSTD) {
            return (self.payload.len() == whole_len).then(|| Bytes::copy_from_slice(self.payload));
        }
        if data.page_count > CHUNK_PAGES_MAX as u64 {
            return None;
        }
        let pages = DECOMPRESSOR.with_borrow_mut(|zstd| zstd.decompress(self.payload, whole_len)).ok()?;
        (pages.len() == whole_len).then(|| Bytes::from(pages))
    }
}

/// The data part of a header that is known to be sound.
pub fn data_head(header: &Header, extra: &[u8]) -> Option<DataHead> {
    (header.kind == Kind::Data).then(|| DataHead::decode(header, extra)).flatten()
}

thread_local! {
    // A context costs more to make than most records to decompress.
    static DECOMPRESSOR: std::cell::RefCell<zstd::bulk::Decompressor<'static>> =
        std::cell::RefCell::new(zstd::bulk::Decompressor::new().expect("zstd gives a context"));
}

/// The checksum a header carries of its payload. It is bound to the place through the header's own.
pub fn payload_crc(payload: &[u8], seed: u32) -> u32 {
    crc32c::crc32c_append(seed, payload)
}

fn header_crc(covered: &[u8], seed: u32, offset_bytes: u64) -> u32 {
    let seed = crc32c::crc32c_append(seed, &offset_bytes.to_le_bytes());
    crc32c::crc32c_append(seed, covered)
}

/// Binds the header that `record` begins with to its place.
pub fn seal_header(record: &mut [u8], seed: u32, offset_bytes: u64) {
    let end = HEADER_BYTES + usize::from(record[14]);
    let crc = header_crc(&record[4..end], seed, offset_bytes);
    record[..4].copy_from_slice(&crc.to_le_bytes());
}

/// A whole flush record for this place.
pub fn encode_flush(
    stamp: Stamp,
    durable: Position,
    durable_end_bytes: u64,
    seeds: Seeds,
    offset_bytes: u64,
) -> Vec<u8> {
    let mut extra = [0; 16];
    extra[..8].copy_from_slice(&durable.0.to_le_bytes());
    extra[8..].copy_from_slice(&durable_end_bytes.to_le_bytes());
    encode_bare(Kind::Flush, stamp, &extra, seeds, offset_bytes)
}

/// A whole end record for this place.
pub fn encode_end(stamp: Stamp, seeds: Seeds, offset_bytes: u64) -> Vec<u8> {
    encode_bare(Kind::End, stamp, &[], seeds, offset_bytes)
}

fn encode_bare(kind: Kind, stamp: Stamp, extra: &[u8], seeds: Seeds, offset_bytes: u64) -> Vec<u8> {
    let payload_crc = payload_crc(&[], seeds.payload);
    let extra_len = extra.len() as u8;
    let mut record = Vec::with_capacity(HEADER_BYTES + extra.len());
    Header { kind, flags: 0, extra_len, payload_len: 0, payload_crc, stamp }.encode(extra, &mut record);
    seal_header(&mut record, seeds.segment, offset_bytes);
    record
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(array)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut array = [0; 8];
    array.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(array)
}
