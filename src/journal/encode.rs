//! Turns changes into the bytes of records: chunks, compression, elided zeros.
//!
//! Where the records will lie is not known yet; [`Batch::bind`] finishes them when it is.

use std::ops::Range;

use super::error::JournalError;
use super::record::{
    ALIGN_BYTES, CHUNK_PAGES_MAX, DataHead, FLUSH_BYTES, HEADER_BYTES, Header, IMAGE_CHUNK_PAGES_MAX, Kind,
    Stamp, flag, payload_crc, seal_header,
};
use crate::types::{
    ChangeBody, DataChange, Encoder, Mark, NamespaceChange, PAGE_BYTES, PageRange, ZERO_PAGE, pages_of,
};

/// What a record adds to its segment's index and sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Data { head: DataHead, flags: u8 },
    Names(NamespaceChange),
    Mark(Mark),
}

/// An encoded record within a batch.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Where it begins in the batch's bytes, a multiple of eight.
    pub at: usize,
    /// Without padding.
    pub len_bytes: u32,
    pub stamp: Stamp,
    /// The first record of a change: a segment may end before it.
    pub begins_change: bool,
    pub content: Content,
}

/// Records of consecutive changes, back to back.
#[derive(Debug)]
pub struct Batch {
    /// Begins with room for a flush record.
    bytes: Vec<u8>,
    records: Vec<Encoded>,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch { bytes: vec![0; FLUSH_BYTES], records: Vec::new() }
    }
}

impl Batch {
    pub fn records(&self) -> &[Encoded] {
        &self.records
    }

    /// Bytes of all records, padding included.
    pub fn len_bytes(&self) -> u64 {
        (self.bytes.len() - FLUSH_BYTES) as u64
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.truncate(FLUSH_BYTES);
        self.records.clear();
    }

    /// Where record number `index` begins in the bytes; behind the last record, where they end.
    pub fn start_of(&self, index: usize) -> usize {
        self.records.get(index).map_or(self.bytes.len(), |record| record.at)
    }

    /// Binds the headers of these records to their places, the first at `offset_bytes`, and gives their
    /// bytes, with `flush` before them if there is one.
    pub fn bind(
        &mut self,
        records: Range<usize>,
        flush: Option<&[u8]>,
        seed: u32,
        offset_bytes: u64,
    ) -> &[u8] {
        let (start, end) = (self.start_of(records.start), self.start_of(records.end));
        for record in &self.records[records] {
            let place = offset_bytes + (record.at - start) as u64;
            seal_header(&mut self.bytes[record.at..], seed, place);
        }
        let Some(flush) = flush else {
            return &self.bytes[start..end];
        };
        // What lies before `start` is the free room, or records that were handed to storage already.
        let flush_start = start - flush.len();
        self.bytes[flush_start..start].copy_from_slice(flush);
        &self.bytes[flush_start..end]
    }
}

/// Encodes changes; one for each thread.
pub struct ChangeEncoder {
    zstd: zstd::bulk::Compressor<'static>,
    seed: u32,
}

impl ChangeEncoder {
    /// # Errors
    /// `JournalError::Storage` if there is no memory for a context, or no such level.
    pub fn new(level: i32, seed: u32) -> Result<ChangeEncoder, JournalError> {
        let zstd = zstd::bulk::Compressor::new(level)
            .map_err(|source| JournalError::storage("set up", "compression", source))?;
        Ok(ChangeEncoder { zstd, seed })
    }

    /// Appends the records of `change` to `out`.
    pub fn encode(&mut self, stamp: Stamp, change: &ChangeBody, out: &mut Batch) {
        match change {
            ChangeBody::Data(data) => self.encode_data(stamp, data, out),
            ChangeBody::Names(names) => {
                let mut payload = Encoder::new();
                names.encode(&mut payload);
                self.push_plain(Kind::Names, stamp, &payload.finish(), Content::Names(names.clone()), out);
            }
            ChangeBody::Mark(mark) => {
                let mut payload = Encoder::new();
                mark.encode(&mut payload);
                self.push_plain(Kind::Mark, stamp, &payload.finish(), Content::Mark(mark.clone()), out);
            }
        }
    }

    fn encode_data(&mut self, stamp: Stamp, data: &DataChange, out: &mut Batch) {
        let first = out.records.len();
        let image = if data.mtime.is_none() { flag::IMAGE } else { 0 };
        let head = |first_page, page_count| DataHead {
            file: data.file,
            first_page,
            page_count,
            size_after: data.size_after,
            mtime: data.mtime,
        };
        if data.cut {
            let first_page = pages_of(data.size_after);
            let cut = head(first_page, pages_of(u64::MAX) - first_page);
            self.push_data(stamp, cut, flag::ZERO | flag::CUT | image, None, out);
        }
        if let Some(PageRange { first, count }) = data.zero {
            self.push_data(stamp, head(first, count), flag::ZERO | image, None, out);
        }
        let chunk_pages = if image != 0 { IMAGE_CHUNK_PAGES_MAX } else { CHUNK_PAGES_MAX };
        for write in &data.pages {
            let mut page = write.first_page;
            for chunk in write.bytes.chunks(chunk_pages * PAGE_BYTES) {
                let head = head(page, (chunk.len() / PAGE_BYTES) as u64);
                page += head.page_count;
                if is_zero(chunk) {
                    self.push_data(stamp, head, flag::ZERO | image, None, out);
                } else {
                    self.push_data(stamp, head, image, Some(chunk), out);
                }
            }
        }
        if out.records.len() == first {
            self.push_data(stamp, head(0, 0), image, None, out);
        }
        mark_parts(out, first);
    }

    /// Appends a data record with the payload compressed, or as it is if that does not pay.
    fn push_data(&mut self, stamp: Stamp, head: DataHead, flags: u8, pages: Option<&[u8]>, out: &mut Batch) {
        let mut extra = Encoder::new();
        head.encode(stamp, &mut extra);
        let extra = extra.finish();
        let at = out.bytes.len();
        let payload_at = at + HEADER_BYTES + extra.len();
        let mut flags = flags;
        let raw = pages.unwrap_or_default();
        // What saves less than an eighth is not worth the time of every reader.
        out.bytes.resize(payload_at + raw.len() / 8 * 7, 0);
        match self.zstd.compress_to_buffer(raw, &mut out.bytes[payload_at..]) {
            Ok(len) if !raw.is_empty() => {
                flags |= flag::ZSTD;
                out.bytes.truncate(payload_at + len);
            }
            _ => {
                out.bytes.truncate(payload_at);
                out.bytes.extend_from_slice(raw);
            }
        }
        let header = self.header(Kind::Data, flags, &extra, &out.bytes[payload_at..], stamp);
        finish_record(at, &header, &extra, Content::Data { head, flags }, out);
    }

    fn push_plain(&mut self, kind: Kind, stamp: Stamp, payload: &[u8], content: Content, out: &mut Batch) {
        let at = out.bytes.len();
        out.bytes.resize(at + HEADER_BYTES, 0);
        out.bytes.extend_from_slice(payload);
        let header = self.header(kind, 0, &[], payload, stamp);
        finish_record(at, &header, &[], content, out);
    }

    fn header(&self, kind: Kind, flags: u8, extra: &[u8], payload: &[u8], stamp: Stamp) -> Header {
        let payload_crc = payload_crc(payload, self.seed);
        let (extra_len, payload_len) = (extra.len() as u8, payload.len() as u32);
        Header { kind, flags, extra_len, payload_len, payload_crc, stamp }
    }
}

/// Writes the header before a payload that is in place already, and pads.
fn finish_record(at: usize, header: &Header, extra: &[u8], content: Content, out: &mut Batch) {
    let mut head = Vec::with_capacity(HEADER_BYTES + extra.len());
    header.encode(extra, &mut head);
    out.bytes[at..at + head.len()].copy_from_slice(&head);
    out.bytes.resize(out.bytes.len().next_multiple_of(ALIGN_BYTES), 0);
    let len_bytes = header.len_bytes();
    out.records.push(Encoded { at, len_bytes, stamp: header.stamp, begins_change: true, content });
}

/// Ties the records of one change, from number `first` on, together.
fn mark_parts(out: &mut Batch, first: usize) {
    let last = out.records.len() - 1;
    for (number, record) in out.records.iter_mut().enumerate().skip(first) {
        let mut parts = 0;
        if number > first {
            parts |= flag::CONTINUATION;
            record.begins_change = false;
        }
        if number < last {
            parts |= flag::CONTINUES;
        }
        // The header's flags; its checksum comes when the place is known.
        out.bytes[record.at + 13] |= parts;
        if let Content::Data { flags, .. } = &mut record.content {
            *flags |= parts;
        }
    }
}

fn is_zero(pages: &[u8]) -> bool {
    pages.chunks(PAGE_BYTES).all(|page| page == &ZERO_PAGE[..page.len()])
}
