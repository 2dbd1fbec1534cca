//! The append log of an overlay: placing records, syncing them for many callers at once, and reading pages back.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::OverlayError;
use super::extents::Place;
use super::record::{Draft, Seed};
use crate::io::DiskFile;
use crate::types::{FileId, ImageError, PAGE_BYTES};

/// What a change that frees or renames may use beyond the quota, so that a full overlay can be cleared up.
const QUOTA_SLACK_BYTES: u64 = 1 << 20;

/// A sync of no more than this is one that a program waits for again and again.
const SMALL_SYNC_BYTES: u64 = 256 << 10;
/// How far the log is written with zeros ahead of its end while syncs are small: a sync within that space changes
/// no metadata of the file system below, which is half the cost.
const ZEROS_AHEAD_BYTES: u64 = 1 << 20;

/// The open log. `durable_bytes <= tail.end_bytes <= tail.zeros_end_bytes`.
pub(super) struct Log {
    file: Arc<dyn DiskFile>,
    /// As a person names it.
    path: String,
    pub(super) seed: Seed,
    quota_bytes: Option<u64>,
    tail: Mutex<Tail>,
    durable_bytes: AtomicU64,
    /// Held while a sync runs: those who wait for it are mostly served by it.
    syncing: Mutex<()>,
    poison: Mutex<Option<String>>,
}

struct Tail {
    end_bytes: u64,
    /// Up to here the file holds zeros behind its end.
    zeros_end_bytes: u64,
    sequence: u64,
}

impl Log {
    /// A log that ends at `end_bytes`, all of it durable, and goes on with `sequence`.
    pub fn new(
        file: Arc<dyn DiskFile>,
        path: String,
        seed: Seed,
        quota_bytes: Option<u64>,
        end_bytes: u64,
        sequence: u64,
    ) -> Log {
        Log {
            file,
            path,
            seed,
            quota_bytes,
            tail: Mutex::new(Tail { end_bytes, zeros_end_bytes: end_bytes, sequence }),
            durable_bytes: AtomicU64::new(end_bytes),
            syncing: Mutex::new(()),
            poison: Mutex::new(None),
        }
    }

    pub fn end_bytes(&self) -> u64 {
        self.tail.lock().end_bytes
    }

    /// Writes a record behind all others and says where its pages lie. After an error nothing of it is there.
    ///
    /// `frees` marks changes that a full overlay must still take.
    pub fn append(&self, draft: &mut Draft, frees: bool) -> Result<Place, OverlayError> {
        let mut tail = self.tail.lock();
        self.check_poison()?;
        let offset = tail.end_bytes;
        if let Some(quota_bytes) = self.quota_bytes {
            let slack = if frees { QUOTA_SLACK_BYTES } else { 0 };
            if offset + draft.len() > quota_bytes.saturating_add(slack) {
                return Err(OverlayError::QuotaReached { quota_bytes });
            }
        }
        let durable_bytes = self.durable_bytes.load(Ordering::Acquire);
        let bytes = draft.place(self.seed, offset, tail.sequence, durable_bytes);
        if let Err(error) = self.file.write_at(offset, bytes) {
            return Err(self.write_failed(error));
        }
        let header = draft.header();
        let pages =
            Place { data_offset: offset + header.prefix_len(), table_offset: offset + header.table_offset() };
        tail.end_bytes += header.total_len();
        tail.zeros_end_bytes = tail.zeros_end_bytes.max(tail.end_bytes);
        tail.sequence += 1;
        Ok(pages)
    }

    /// A full disk leaves the tail where it was, and the next record overwrites what was written of this one.
    /// After any other failure nobody knows what the log holds.
    fn write_failed(&self, error: io::Error) -> OverlayError {
        let full = is_full(&error);
        let source = Arc::new(error);
        if full {
            return OverlayError::NoSpace { path: self.path.clone(), source };
        }
        *self.poison.lock() = Some(format!("cannot write {}: {source}", self.path));
        OverlayError::Storage { path: self.path.clone(), source }
    }

    /// Makes everything appended so far durable. Callers that come while a sync runs share the next one.
    pub fn sync(&self) -> Result<(), OverlayError> {
        let wanted = self.end_bytes();
        self.check_poison()?;
        if self.durable_bytes.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        let _syncing = self.syncing.lock();
        self.check_poison()?;
        if self.durable_bytes.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        let end_bytes = self.write_zeros_ahead()?;
        match self.file.sync() {
            Ok(()) => {
                self.durable_bytes.store(end_bytes, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                // The kernel may have dropped the dirty pages: a later success would prove nothing.
                *self.poison.lock() = Some(format!("sync of {} failed: {error}", self.path));
                Err(OverlayError::Storage { path: self.path.clone(), source: Arc::new(error) })
            }
        }
    }

    /// Prepares space for the next small syncs if this is one; gives the end of the records.
    fn write_zeros_ahead(&self) -> Result<u64, OverlayError> {
        // Held, so that no record is written where the zeros go.
        let mut tail = self.tail.lock();
        let end_bytes = tail.end_bytes;
        let is_small = end_bytes - self.durable_bytes.load(Ordering::Acquire) <= SMALL_SYNC_BYTES;
        let runs_out = tail.zeros_end_bytes < end_bytes + SMALL_SYNC_BYTES;
        if !is_small || !runs_out {
            return Ok(end_bytes);
        }
        let start = tail.zeros_end_bytes;
        let zeros_end = end_bytes + ZEROS_AHEAD_BYTES;
        let over_quota = self.quota_bytes.is_some_and(|quota_bytes| zeros_end > quota_bytes);
        if over_quota {
            return Ok(end_bytes);
        }
        match self.file.write_at(start, &vec![0; (zeros_end - start) as usize]) {
            Ok(()) => tail.zeros_end_bytes = zeros_end,
            // A nearly full disk: slower, and nothing is lost.
            Err(error) if is_full(&error) => {}
            Err(error) => return Err(self.write_failed(error)),
        }
        Ok(end_bytes)
    }

    /// Gives back what was only prepared.
    pub fn trim(&self) -> Result<(), OverlayError> {
        let mut tail = self.tail.lock();
        self.file.set_len(tail.end_bytes).map_err(|error| self.write_failed(error))?;
        tail.zeros_end_bytes = tail.end_bytes;
        Ok(())
    }

    pub fn check_poison(&self) -> Result<(), OverlayError> {
        match &*self.poison.lock() {
            None => Ok(()),
            Some(cause) => Err(OverlayError::Poisoned { cause: cause.clone() }),
        }
    }

    /// Reads whole pages of `file`, the first of which is number `page`, and checks each.
    pub fn read_pages(
        &self,
        file: FileId,
        page: u64,
        place: Place,
        buf: &mut [u8],
    ) -> Result<(), ImageError> {
        let count = buf.len() / PAGE_BYTES;
        let mut table = vec![0; 4 * count];
        self.read_exactly(place.table_offset, &mut table)?;
        self.read_exactly(place.data_offset, buf)?;
        for (index, (bytes, checksum)) in buf.chunks_exact(PAGE_BYTES).zip(table.chunks_exact(4)).enumerate()
        {
            let number = page + index as u64;
            if self.seed.page_checksum(file, number, bytes).to_le_bytes() != checksum {
                let offset = place.data_offset + (index * PAGE_BYTES) as u64;
                return Err(ImageError::Damaged {
                    what: format!("overlay {} at byte {offset}: page {number} of {file:?}", self.path),
                });
            }
        }
        Ok(())
    }

    fn read_exactly(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        match self.file.read_at(offset_bytes, buf) {
            Ok(read) if read == buf.len() => Ok(()),
            Ok(_) => {
                Err(ImageError::Damaged { what: format!("overlay {} ends before its pages", self.path) })
            }
            Err(error) => {
                Err(ImageError::Storage { what: format!("overlay {}", self.path), source: Arc::new(error) })
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}
