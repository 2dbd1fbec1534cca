//! Reading an overlay's log from the start: what is whole, what was torn, what is damaged.
//!
//! Records carry how far the log was durable when they were written. A bad record in front of the furthest
//! such mark is damage, and nothing is opened; the first bad one behind it was torn by a crash, and it and all
//! after it are cut: no sync had covered them.

use std::io;
use std::sync::Arc;

use super::OverlayError;
use super::extents::Place;
use super::record::{
    Entry, LOG_HEADER_BYTES, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, RECORD_MAGIC, RecordHeader, Seed,
    decode_entry,
};
use crate::io::DiskFile;
use crate::types::{PAGE_BYTES, Time};

const WINDOW_BYTES: usize = 64 << 10;

/// What a log holds.
pub(super) struct Replayed {
    pub end_bytes: u64,
    /// What lies in front of this was durable for certain.
    pub durable_bytes: u64,
    pub next_sequence: u64,
    pub records: u64,
    pub discarded_bytes: u64,
}

/// Calls `apply` with every whole record in order; its error is damage at that record.
pub(super) fn replay(
    file: &Arc<dyn DiskFile>,
    path: &str,
    seed: Seed,
    apply: &mut dyn FnMut(Entry, Time, Place) -> Result<(), String>,
) -> Result<Replayed, OverlayError> {
    let mut scan = Scan { window: Window::new(file.as_ref(), path)?, seed };
    let damaged =
        |offset_bytes, what: String| OverlayError::Damaged { path: path.to_owned(), offset_bytes, what };

    let mut offset = LOG_HEADER_BYTES;
    let mut durable_bytes = LOG_HEADER_BYTES;
    let mut sequence = 0;
    while let Some(header) = scan.record_at(offset, Some(sequence))? {
        durable_bytes = durable_bytes.max(header.durable_bytes);
        offset += header.total_len();
        sequence += 1;
    }
    let headers_end = offset;
    let (claim, written_end) = scan.search_behind(headers_end)?;
    durable_bytes = durable_bytes.max(claim);
    if durable_bytes > headers_end {
        return Err(damaged(
            headers_end,
            format!("a record is lost that was durable up to byte {durable_bytes}"),
        ));
    }

    let (mut offset, mut sequence) = (LOG_HEADER_BYTES, 0);
    while offset < headers_end {
        let Some(header) = scan.record_at(offset, Some(sequence))? else {
            return Err(damaged(offset, "the record changed while it was read".to_owned()));
        };
        let entry = scan.entry(offset, &header)?;
        if offset >= durable_bytes && !scan.pages_are_whole(offset, &header, &entry)? {
            break;
        }
        let place =
            Place { data_offset: offset + header.prefix_len(), table_offset: offset + header.table_offset() };
        apply(entry, header.time, place).map_err(|what| damaged(offset, what))?;
        offset += header.total_len();
        sequence += 1;
    }
    let discarded_bytes = written_end.max(headers_end).saturating_sub(offset);
    Ok(Replayed {
        end_bytes: offset,
        durable_bytes,
        next_sequence: sequence,
        records: sequence,
        discarded_bytes,
    })
}

/// Writes again what may be readable without being stored: after a failed sync the system keeps such bytes, and
/// a later sync does not know of them.
pub(super) fn renew(file: &dyn DiskFile, replayed: &Replayed) -> io::Result<()> {
    let mut at = replayed.durable_bytes;
    let mut bytes = vec![0; WINDOW_BYTES];
    while at < replayed.end_bytes {
        let len = (replayed.end_bytes - at).min(WINDOW_BYTES as u64) as usize;
        let read = file.read_at(at, &mut bytes[..len])?;
        if read < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_at(at, &bytes[..len])?;
        at += len as u64;
    }
    Ok(())
}

struct Scan<'a> {
    window: Window<'a>,
    seed: Seed,
}

impl Scan<'_> {
    /// The header of the record at `offset` if that record's prefix is whole.
    fn record_at(
        &mut self,
        offset: u64,
        sequence: Option<u64>,
    ) -> Result<Option<RecordHeader>, OverlayError> {
        let Some(header) = RecordHeader::decode(self.window.get(offset, RECORD_HEADER_BYTES)?) else {
            return Ok(None);
        };
        if sequence.is_some_and(|sequence| sequence != header.sequence)
            || offset + header.total_len() > self.window.len
        {
            return Ok(None);
        }
        let seed = self.seed;
        let prefix = self.window.get(offset, header.prefix_len() as usize)?;
        let whole = prefix.len() as u64 == header.prefix_len()
            && seed.prefix_checksum(offset, &prefix[8..]) == header.checksum;
        Ok(whole.then_some(header))
    }

    fn entry(&mut self, offset: u64, header: &RecordHeader) -> Result<Entry, OverlayError> {
        let start = offset + RECORD_HEADER_BYTES as u64;
        let description = self.window.get(start, header.description_len as usize)?;
        let decoded = decode_entry(header, description);
        decoded.map_err(|error| OverlayError::Damaged {
            path: self.window.path.to_owned(),
            offset_bytes: offset,
            what: error.to_string(),
        })
    }

    fn pages_are_whole(
        &mut self,
        offset: u64,
        header: &RecordHeader,
        entry: &Entry,
    ) -> Result<bool, OverlayError> {
        let Entry::Data { change, spans } = entry else { return Ok(true) };
        let seed = self.seed;
        let table = self.window.get(offset + header.table_offset(), 4 * header.page_count as usize)?.to_vec();
        let mut data_offset = offset + header.prefix_len();
        let numbers = spans.iter().flat_map(|span| span.first..span.first + span.count);
        for (number, checksum) in numbers.zip(table.chunks_exact(4)) {
            let page = self.window.get(data_offset, PAGE_BYTES)?;
            if page.len() != PAGE_BYTES
                || seed.page_checksum(change.file, number, page).to_le_bytes() != checksum
            {
                return Ok(false);
            }
            data_offset += PAGE_BYTES as u64;
        }
        Ok(true)
    }

    /// Looks through everything behind the last whole record: how far a record there says that the log was
    /// durable, and where the last byte other than zero ends.
    fn search_behind(&mut self, start: u64) -> Result<(u64, u64), OverlayError> {
        let (mut claim, mut written_end) = (0, start);
        let mut block_start = start;
        while block_start < self.window.len {
            let block = self.window.get(block_start, WINDOW_BYTES)?.to_vec();
            if block.is_empty() {
                break;
            }
            if let Some(last) = block.iter().rposition(|&byte| byte != 0) {
                written_end = block_start + last as u64 + 1;
                for (at, candidate) in (block_start..)
                    .zip(block.chunks(RECORD_ALIGNMENT as usize))
                    .map(|(index, chunk)| (block_start + (index - block_start) * RECORD_ALIGNMENT, chunk))
                {
                    if candidate.starts_with(&RECORD_MAGIC)
                        && let Some(header) = self.record_at(at, None)?
                    {
                        claim = claim.max(header.durable_bytes);
                    }
                }
            }
            block_start += block.len() as u64;
        }
        Ok((claim, written_end))
    }
}

/// Reads a file front to back through one buffer.
struct Window<'a> {
    file: &'a dyn DiskFile,
    path: &'a str,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn DiskFile, path: &'a str) -> Result<Window<'a>, OverlayError> {
        let len = file
            .len()
            .map_err(|error| OverlayError::Storage { path: path.to_owned(), source: Arc::new(error) })?;
        Ok(Window { file, path, len, start: 0, bytes: Vec::new() })
    }

    /// Up to `len` bytes from `offset` on; fewer only at the end of the file.
    fn get(&mut self, offset: u64, len: usize) -> Result<&[u8], OverlayError> {
        let held = self.start..self.start + self.bytes.len() as u64;
        let wanted_end = (offset + len as u64).min(self.len);
        if offset >= self.len {
            return Ok(&[]);
        }
        if offset < held.start || wanted_end > held.end {
            self.bytes.resize(len.max(WINDOW_BYTES), 0);
            let read = self.file.read_at(offset, &mut self.bytes).map_err(|error| OverlayError::Storage {
                path: self.path.to_owned(),
                source: Arc::new(error),
            })?;
            self.bytes.truncate(read);
            self.start = offset;
        }
        let begin = (offset - self.start) as usize;
        let end = (begin + len).min(self.bytes.len());
        Ok(&self.bytes[begin..end])
    }
}
