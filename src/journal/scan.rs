//! Walks over the records of a file, whatever state it is in: sound records, damaged stretches between them,
//! and the blank end.

use std::io;

use super::record::{ALIGN_BYTES, EXTRA_MAX_BYTES, HEADER_BYTES, Header, RawRecord};
use super::segment::Seeds;
use crate::io::DiskFile;

/// Bytes read at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// What lies at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A sound record, without padding.
    Record { offset_bytes: u64, bytes: Vec<u8>, padding_is_zero: bool },
    /// Bytes that are no sound record, up to the next one. `header` is there if the header is sound and only
    /// the payload is not; it comes with the header's variable part.
    Damaged { offset_bytes: u64, len_bytes: u64, header: Option<(Header, Vec<u8>)> },
}

/// Walks from one place to another.
pub struct Scanner<'a> {
    window: Window<'a>,
    seeds: Seeds,
    at_bytes: u64,
}

impl<'a> Scanner<'a> {
    pub fn new(file: &'a dyn DiskFile, seeds: Seeds, start_bytes: u64, end_bytes: u64) -> Scanner<'a> {
        let window = Window { file, start_bytes, end_bytes, bytes: Vec::new() };
        Scanner { window, seeds, at_bytes: start_bytes }
    }

    /// Where the next record would begin.
    pub fn at_bytes(&self) -> u64 {
        self.at_bytes
    }

    /// The next record or damaged stretch; `None` if only zeros follow.
    pub fn next(&mut self) -> io::Result<Option<Found>> {
        let offset_bytes = self.at_bytes;
        let seed = self.seeds.segment;
        let head = self.window.get(offset_bytes, HEADER_BYTES + EXTRA_MAX_BYTES)?;
        let Some(header) = Header::decode(head, seed, offset_bytes) else {
            return self.skip_damage();
        };
        let extra = head[HEADER_BYTES..HEADER_BYTES + usize::from(header.extra_len)].to_vec();
        let padded_len = header.padded_len_bytes();
        let bytes = self.window.get(offset_bytes, padded_len as usize)?;
        let len = header.len_bytes() as usize;
        self.at_bytes += padded_len;
        if RawRecord::decode(bytes, self.seeds, offset_bytes).is_some() {
            let padding_is_zero = bytes[len..].iter().all(|byte| *byte == 0);
            return Ok(Some(Found::Record { offset_bytes, bytes: bytes[..len].to_vec(), padding_is_zero }));
        }
        self.at_bytes = self.at_bytes.min(self.window.end_bytes);
        let len_bytes = self.at_bytes - offset_bytes;
        Ok(Some(Found::Damaged { offset_bytes, len_bytes, header: Some((header, extra)) }))
    }

    /// Goes on to the next sound header.
    fn skip_damage(&mut self) -> io::Result<Option<Found>> {
        let offset_bytes = self.at_bytes;
        let mut nonzero_end = None;
        while self.at_bytes < self.window.end_bytes {
            let bytes = self.window.get_more(self.at_bytes, HEADER_BYTES + EXTRA_MAX_BYTES)?;
            if bytes.is_empty() {
                break;
            }
            // Zeros are the usual case, by far: what was reserved and never used.
            let zeros = leading_zeros(bytes);
            if zeros >= ALIGN_BYTES || zeros == bytes.len() {
                self.at_bytes += (zeros / ALIGN_BYTES * ALIGN_BYTES).max(zeros.min(ALIGN_BYTES)) as u64;
                continue;
            }
            let head = &bytes[..bytes.len().min(HEADER_BYTES + EXTRA_MAX_BYTES)];
            if self.at_bytes > offset_bytes
                && Header::decode(head, self.seeds.segment, self.at_bytes).is_some()
            {
                let len_bytes = self.at_bytes - offset_bytes;
                return Ok(Some(Found::Damaged { offset_bytes, len_bytes, header: None }));
            }
            self.at_bytes += ALIGN_BYTES as u64;
            nonzero_end = Some(self.at_bytes.min(self.window.end_bytes));
        }
        self.at_bytes = self.window.end_bytes;
        Ok(nonzero_end.map(|end| Found::Damaged {
            offset_bytes,
            len_bytes: end - offset_bytes,
            header: None,
        }))
    }

    /// Whether any byte from here on is not zero.
    pub fn anything_follows(&mut self) -> io::Result<bool> {
        let mut at_bytes = self.at_bytes;
        loop {
            let bytes = self.window.get_more(at_bytes, 1)?;
            if bytes.is_empty() {
                return Ok(false);
            }
            if leading_zeros(bytes) < bytes.len() {
                return Ok(true);
            }
            at_bytes += bytes.len() as u64;
        }
    }
}

fn leading_zeros(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 512] = [0; 512];
    let whole = bytes.chunks(512).take_while(|chunk| **chunk == ZEROS[..chunk.len()]).count() * 512;
    let whole = whole.min(bytes.len());
    whole + bytes[whole..].iter().take_while(|byte| **byte == 0).count()
}

/// A stretch of the file in memory.
struct Window<'a> {
    file: &'a dyn DiskFile,
    start_bytes: u64,
    /// Nothing behind this is read.
    end_bytes: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// `len` bytes at `offset_bytes`; fewer only at the end.
    fn get(&mut self, offset_bytes: u64, len: usize) -> io::Result<&[u8]> {
        let bytes = self.get_more(offset_bytes, len)?;
        Ok(&bytes[..len.min(bytes.len())])
    }

    /// What is in memory from `offset_bytes` on; less than `len` bytes only at the end.
    fn get_more(&mut self, offset_bytes: u64, len: usize) -> io::Result<&[u8]> {
        let wanted_end = (offset_bytes + len as u64).min(self.end_bytes);
        let have_end = self.start_bytes + self.bytes.len() as u64;
        if offset_bytes < self.start_bytes || wanted_end > have_end {
            self.fill(offset_bytes, len.max(WINDOW_BYTES))?;
        }
        let start = (offset_bytes.saturating_sub(self.start_bytes) as usize).min(self.bytes.len());
        Ok(&self.bytes[start..])
    }

    fn fill(&mut self, offset_bytes: u64, len: usize) -> io::Result<()> {
        let len = (len as u64).min(self.end_bytes.saturating_sub(offset_bytes)) as usize;
        self.bytes.resize(len, 0);
        self.start_bytes = offset_bytes;
        let mut filled = 0;
        while filled < len {
            match self.file.read_at(offset_bytes + filled as u64, &mut self.bytes[filled..])? {
                0 => break,
                got => filled += got,
            }
        }
        self.bytes.truncate(filled);
        if filled < len {
            self.end_bytes = offset_bytes + filled as u64;
        }
        Ok(())
    }
}
