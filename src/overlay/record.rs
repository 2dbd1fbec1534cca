//! The byte form of an overlay's log: its header, and the header of each record. Drawn in `docs/disk-format.md`.

use crate::types::{
    DataChange, DecodeError, Decoder, Encoder, FileId, NamespaceChange, PAGE_BYTES, PageRange, Time,
};

use super::OverlayIdentity;

/// Length of the log's header; the first record follows it.
pub(super) const LOG_HEADER_BYTES: u64 = 4096;
pub(super) const LOG_VERSION: u32 = 1;
const LOG_MAGIC: [u8; 8] = *b"PITGOVLY";

/// Length of a record's fixed part.
pub(super) const RECORD_HEADER_BYTES: usize = 48;
/// Stands before every record, so that records behind a damaged one can be found.
pub(super) const RECORD_MAGIC: [u8; 4] = *b"OvRc";
/// Records begin at multiples of this.
pub(super) const RECORD_ALIGNMENT: u64 = 8;
/// No record describes more than this; a longer length is damage.
const DESCRIPTION_BYTES_MAX: u32 = 1 << 20;
const PAGES_MAX: u32 = 1 << 16;

const KIND_NAMES: u8 = 1;
const KIND_DATA: u8 = 2;
const KIND_CLOSE: u8 = 3;

/// Why bytes are not the header of a log.
pub(super) enum HeaderError {
    NotALog,
    NewerVersion(u32),
    Damaged(&'static str),
}

pub(super) fn encode_log_header(identity: &OverlayIdentity, created: Time) -> Vec<u8> {
    let mut out = Encoder::new();
    out.raw(&LOG_MAGIC);
    out.u32(LOG_VERSION);
    out.raw(&identity.overlay);
    out.raw(&identity.repository);
    out.raw(&identity.source);
    out.u64(identity.position.0);
    out.i64(created.0);
    // Reserved: cipher and key id.
    out.u32(0);
    out.raw(&[0; 16]);
    let mut bytes = out.finish();
    bytes.resize(LOG_HEADER_BYTES as usize - 4, 0);
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

pub(super) fn decode_log_header(bytes: &[u8]) -> Result<OverlayIdentity, HeaderError> {
    let truncated = |_| HeaderError::NotALog;
    let mut input = Decoder::new(bytes);
    if input.raw(8).map_err(truncated)? != LOG_MAGIC {
        return Err(HeaderError::NotALog);
    }
    let version = input.u32().map_err(truncated)?;
    if version > LOG_VERSION {
        return Err(HeaderError::NewerVersion(version));
    }
    if bytes.len() != LOG_HEADER_BYTES as usize {
        return Err(HeaderError::Damaged("the header is cut short"));
    }
    let (body, checksum) = bytes.split_at(bytes.len() - 4);
    if crc32c::crc32c(body).to_le_bytes() != checksum {
        return Err(HeaderError::Damaged("the header does not match its checksum"));
    }
    let mut id = || -> Result<[u8; 16], DecodeError> {
        let mut id = [0; 16];
        id.copy_from_slice(input.raw(16)?);
        Ok(id)
    };
    let (overlay, repository, source) =
        (id().map_err(truncated)?, id().map_err(truncated)?, id().map_err(truncated)?);
    let position = crate::types::Position(input.u64().map_err(truncated)?);
    Ok(OverlayIdentity { overlay, repository, source, position })
}

/// What one record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Names(NamespaceChange),
    /// `pages` of the change are empty of bytes here: their spans are in `spans`, their bytes in the log.
    Data {
        change: DataChange,
        spans: Vec<PageRange>,
    },
    /// The overlay was closed in good order after a sync.
    Close,
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub checksum: u32,
    pub sequence: u64,
    /// Everything in front of this offset was durable when the record was written.
    pub durable_bytes: u64,
    pub time: Time,
    pub kind: u8,
    pub description_len: u32,
    pub page_count: u32,
}

impl RecordHeader {
    /// The header at the front of `bytes`, `None` if there cannot be one. Its checksum is not yet checked.
    pub fn decode(bytes: &[u8]) -> Option<RecordHeader> {
        let mut input = Decoder::new(bytes);
        if input.raw(4).ok()? != RECORD_MAGIC {
            return None;
        }
        let header = RecordHeader {
            checksum: input.u32().ok()?,
            sequence: input.u64().ok()?,
            durable_bytes: input.u64().ok()?,
            time: Time(input.i64().ok()?),
            kind: input.u8().ok()?,
            description_len: {
                input.raw(3).ok()?;
                input.u32().ok()?
            },
            page_count: input.u32().ok()?,
        };
        input.raw(4).ok()?;
        let plausible = (KIND_NAMES..=KIND_CLOSE).contains(&header.kind)
            && header.description_len <= DESCRIPTION_BYTES_MAX
            && header.page_count <= PAGES_MAX;
        plausible.then_some(header)
    }

    /// Bytes in front of the pages: header, description, table of checksums, padding.
    pub fn prefix_len(&self) -> u64 {
        let unpadded =
            RECORD_HEADER_BYTES as u64 + u64::from(self.description_len) + 4 * u64::from(self.page_count);
        unpadded.next_multiple_of(RECORD_ALIGNMENT)
    }

    /// Offset within the record of the table with one checksum a page.
    pub fn table_offset(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.description_len)
    }

    pub fn total_len(&self) -> u64 {
        self.prefix_len() + u64::from(self.page_count) * PAGE_BYTES as u64
    }
}

/// Binds checksums to one overlay.
#[derive(Clone, Copy)]
pub(super) struct Seed(u32);

impl Seed {
    pub fn new(identity: &OverlayIdentity) -> Seed {
        Seed(crc32c::crc32c(&identity.overlay))
    }

    /// The checksum of a record's prefix from its sequence number on, bound to where it lies.
    pub fn prefix_checksum(self, offset_bytes: u64, prefix_after_checksum: &[u8]) -> u32 {
        crc32c::crc32c_append(
            crc32c::crc32c_append(self.0, &offset_bytes.to_le_bytes()),
            prefix_after_checksum,
        )
    }

    /// The checksum of a page, bound to its file and number.
    pub fn page_checksum(self, file: FileId, page: u64, bytes: &[u8]) -> u32 {
        let seed = crc32c::crc32c_append(self.0, &file.0.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(seed, &page.to_le_bytes()), bytes)
    }
}

/// A record ready to be written, except for what depends on its place.
pub(super) struct Draft {
    bytes: Vec<u8>,
    header: RecordHeader,
}

impl Draft {
    pub fn names(change: &NamespaceChange, time: Time) -> Draft {
        let mut out = Encoder::after(vec![0; RECORD_HEADER_BYTES]);
        change.encode(&mut out);
        Draft::finish(out.finish(), KIND_NAMES, time, 0)
    }

    pub fn close(time: Time) -> Draft {
        Draft::finish(vec![0; RECORD_HEADER_BYTES], KIND_CLOSE, time, 0)
    }

    pub fn data(change: &DataChange, time: Time, seed: Seed) -> Draft {
        let page_count: usize = change.pages.iter().map(|write| write.bytes.len() / PAGE_BYTES).sum();
        let mut bytes = vec![0; RECORD_HEADER_BYTES];
        // Room for the description, the table and the pages at once.
        bytes.reserve(page_count * (PAGE_BYTES + 4) + 128 + 20 * change.pages.len());
        let mut out = Encoder::after(bytes);
        encode_data(change, &mut out);
        let description_end = out.len();
        for write in &change.pages {
            for (page, bytes) in (write.first_page..).zip(write.bytes.chunks_exact(PAGE_BYTES)) {
                out.u32(seed.page_checksum(change.file, page, bytes));
            }
        }
        let mut draft = Draft::finish(out.finish(), KIND_DATA, time, page_count as u32);
        draft.header.description_len = (description_end - RECORD_HEADER_BYTES) as u32;
        for write in &change.pages {
            draft.bytes.extend_from_slice(&write.bytes);
        }
        draft
    }

    /// Pads the prefix; `bytes` holds it from the header's place on.
    fn finish(mut bytes: Vec<u8>, kind: u8, time: Time, page_count: u32) -> Draft {
        let description_len = (bytes.len() - RECORD_HEADER_BYTES) as u32;
        bytes.resize(bytes.len().next_multiple_of(RECORD_ALIGNMENT as usize), 0);
        let header = RecordHeader {
            checksum: 0,
            sequence: 0,
            durable_bytes: 0,
            time,
            kind,
            description_len,
            page_count,
        };
        Draft { bytes, header }
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Completes the header for this place and gives the record's bytes.
    pub fn place(&mut self, seed: Seed, offset_bytes: u64, sequence: u64, durable_bytes: u64) -> &[u8] {
        self.header.sequence = sequence;
        self.header.durable_bytes = durable_bytes;
        let mut out = Encoder::new();
        out.raw(&RECORD_MAGIC);
        out.u32(0);
        out.u64(sequence);
        out.u64(durable_bytes);
        out.i64(self.header.time.0);
        out.u8(self.header.kind);
        out.raw(&[0; 3]);
        out.u32(self.header.description_len);
        out.u32(self.header.page_count);
        out.u32(0);
        self.bytes[..RECORD_HEADER_BYTES].copy_from_slice(&out.finish());
        let prefix_len = self.header.prefix_len() as usize;
        let checksum = seed.prefix_checksum(offset_bytes, &self.bytes[8..prefix_len]);
        self.bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        self.header.checksum = checksum;
        &self.bytes
    }

    pub fn header(&self) -> &RecordHeader {
        &self.header
    }
}

fn encode_data(change: &DataChange, out: &mut Encoder) {
    out.varint(change.file.0);
    out.varint(change.size_after);
    out.bool(change.mtime.is_some());
    if let Some(mtime) = change.mtime {
        out.i64(mtime.0);
    }
    out.bool(change.cut);
    out.bool(change.zero.is_some());
    if let Some(zero) = change.zero {
        out.varint(zero.first);
        out.varint(zero.count);
    }
    out.varint(change.pages.len() as u64);
    for write in &change.pages {
        out.varint(write.first_page);
        out.varint((write.bytes.len() / PAGE_BYTES) as u64);
    }
}

fn decode_data(input: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let file = FileId(input.varint()?);
    let size_after = input.varint()?;
    let mtime = if input.bool()? { Some(Time(input.i64()?)) } else { None };
    let cut = input.bool()?;
    let page_limit = crate::types::pages_of(u64::MAX);
    let range = |input: &mut Decoder<'_>| {
        let range = PageRange { first: input.varint()?, count: input.varint()? };
        let fits =
            range.count > 0 && range.first.checked_add(range.count).is_some_and(|end| end <= page_limit);
        if fits { Ok(range) } else { Err(input.error("range of pages")) }
    };
    let zero = if input.bool()? { Some(range(input)?) } else { None };
    let mut spans = Vec::new();
    for _ in 0..input.varint()? {
        spans.push(range(input)?);
    }
    Ok(Entry::Data { change: DataChange { file, size_after, mtime, cut, zero, pages: Vec::new() }, spans })
}

/// What the description of a record with this header says.
pub(super) fn decode_entry(header: &RecordHeader, description: &[u8]) -> Result<Entry, DecodeError> {
    let mut input = Decoder::new(description);
    let entry = match header.kind {
        KIND_NAMES => Entry::Names(NamespaceChange::decode(&mut input)?),
        KIND_DATA => {
            let entry = decode_data(&mut input)?;
            if let Entry::Data { spans, .. } = &entry {
                let total = spans.iter().try_fold(0u64, |sum, span| sum.checked_add(span.count));
                if total != Some(u64::from(header.page_count)) {
                    return Err(input.error("number of pages"));
                }
            }
            entry
        }
        KIND_CLOSE => Entry::Close,
        _ => return Err(input.error("kind of record")),
    };
    input.finish()?;
    Ok(entry)
}
