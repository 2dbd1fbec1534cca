//! Changes of data: writes, truncation, zeroed ranges. Everything is widened to whole pages.
//!
//! Invariant: in a page that the log holds, bytes at or after the file's size are zero, so that a file that
//! shrinks and grows again reads as zeros there.

use bytes::Bytes;

use super::record::Draft;
use super::{Overlay, OverlayError};
use crate::types::{DataChange, FileId, FileKind, Image, PAGE_BYTES, PageRange, PageWrite, Status, pages_of};

/// Linux's limit on the size of a file.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Longest data that one record takes; longer writes become several.
const RECORD_DATA_BYTES_MAX: usize = 4 << 20;

impl Overlay {
    /// Writes `data` at any offset; the file grows if needed. All of it, or an error and a front part.
    ///
    /// # Errors
    /// `TooLarge`; `OverlayError::Image` if a page that is changed in part cannot be read; those of writing
    /// the log.
    pub fn write(&self, file: FileId, offset_bytes: u64, data: &[u8]) -> Result<(), OverlayError> {
        let mut at = offset_bytes;
        for part in data.chunks(RECORD_DATA_BYTES_MAX) {
            self.write_part(file, at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn write_part(&self, file: FileId, offset: u64, data: &[u8]) -> Result<(), OverlayError> {
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|&end| end <= FILE_BYTES_MAX)
            .ok_or(OverlayError::TooLarge { limit_bytes: FILE_BYTES_MAX })?;
        let _changing = self.changing.lock();
        let status = self.regular(file)?;
        let first_page = offset / PAGE_BYTES as u64;
        let head_len = (offset % PAGE_BYTES as u64) as usize;
        let tail_len = (pages_of(end) * PAGE_BYTES as u64 - end) as usize;
        let mut bytes = Vec::with_capacity(head_len + data.len() + tail_len);
        bytes.resize(head_len, 0);
        self.read_bytes(file, offset - head_len as u64, &mut bytes, true)?;
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len() + tail_len, 0);
        if end < status.size {
            let tail_start = bytes.len() - tail_len;
            self.read_bytes(file, end, &mut bytes[tail_start..], true)?;
        }
        let pages = vec![PageWrite { first_page, bytes: Bytes::from(bytes) }];
        self.record_data(file, status.size.max(end), false, None, pages)
    }

    /// Sets the size. Growing adds a hole; what is cut off reads as zeros if the file grows again.
    ///
    /// # Errors
    /// As [`Overlay::write`].
    pub fn truncate(&self, file: FileId, size: u64) -> Result<Status, OverlayError> {
        if size > FILE_BYTES_MAX {
            return Err(OverlayError::TooLarge { limit_bytes: FILE_BYTES_MAX });
        }
        let _changing = self.changing.lock();
        let status = self.regular(file)?;
        let cut = size < status.size;
        let mut pages = Vec::new();
        let kept_in_last_page = (size % PAGE_BYTES as u64) as usize;
        if cut && kept_in_last_page > 0 {
            pages.extend(self.page_zeroed(file, size / PAGE_BYTES as u64, kept_in_last_page, PAGE_BYTES)?);
        }
        self.record_data(file, size, cut, None, pages)?;
        Ok(self.status(file)?)
    }

    /// Makes a range read as zeros, and the file grow to its end unless `keep_size`.
    ///
    /// # Errors
    /// As [`Overlay::write`].
    pub fn zero(
        &self,
        file: FileId,
        offset_bytes: u64,
        len_bytes: u64,
        keep_size: bool,
    ) -> Result<(), OverlayError> {
        let end = self.range_end(offset_bytes, len_bytes)?;
        let _changing = self.changing.lock();
        let status = self.regular(file)?;
        let size_after = if keep_size { status.size } else { status.size.max(end) };
        // What lies behind the end is zero already.
        let (start, end) = (offset_bytes, end.min(status.size));
        let mut pages = Vec::new();
        let mut zero = None;
        if start < end {
            let page_bytes = PAGE_BYTES as u64;
            let (first_whole, end_whole) = (pages_of(start), end / page_bytes);
            let end_in_page = |page: u64| (end - page * page_bytes).min(page_bytes) as usize;
            if !start.is_multiple_of(page_bytes) {
                let page = start / page_bytes;
                pages.extend(self.page_zeroed(
                    file,
                    page,
                    (start % page_bytes) as usize,
                    end_in_page(page),
                )?);
            }
            if !end.is_multiple_of(page_bytes) && end_whole >= first_whole {
                pages.extend(self.page_zeroed(file, end_whole, 0, end_in_page(end_whole))?);
            }
            if first_whole < end_whole {
                zero = Some(PageRange { first: first_whole, count: end_whole - first_whole });
            }
        }
        self.record_data(file, size_after, false, zero, pages)
    }

    /// Grows the file to hold the range unless `keep_size`. Space is not reserved.
    ///
    /// # Errors
    /// As [`Overlay::write`].
    pub fn allocate(
        &self,
        file: FileId,
        offset_bytes: u64,
        len_bytes: u64,
        keep_size: bool,
    ) -> Result<(), OverlayError> {
        let end = self.range_end(offset_bytes, len_bytes)?;
        let _changing = self.changing.lock();
        let status = self.regular(file)?;
        if keep_size || end <= status.size {
            return Ok(());
        }
        self.record_data(file, end, false, None, Vec::new())
    }

    fn range_end(&self, offset_bytes: u64, len_bytes: u64) -> Result<u64, OverlayError> {
        if len_bytes == 0 {
            return Err(OverlayError::Invalid("an empty range"));
        }
        let end = offset_bytes.checked_add(len_bytes).filter(|&end| end <= FILE_BYTES_MAX);
        end.ok_or(OverlayError::TooLarge { limit_bytes: FILE_BYTES_MAX })
    }

    /// The page as it is, but zero from `from` up to `to` within it; `None` if it is a hole anyway.
    fn page_zeroed(
        &self,
        file: FileId,
        page: u64,
        from: usize,
        to: usize,
    ) -> Result<Option<PageWrite>, OverlayError> {
        let start = page * PAGE_BYTES as u64;
        let data = self.next_data(file, start)?;
        if data.is_none_or(|data| data >= start + PAGE_BYTES as u64) {
            return Ok(None);
        }
        let mut bytes = vec![0; PAGE_BYTES];
        self.read_bytes(file, start, &mut bytes, true)?;
        bytes[from..to].fill(0);
        Ok(Some(PageWrite { first_page: page, bytes: Bytes::from(bytes) }))
    }

    fn regular(&self, file: FileId) -> Result<Status, OverlayError> {
        let status = self.status(file)?;
        match status.attributes.kind {
            FileKind::Regular => Ok(status),
            FileKind::Directory => Err(OverlayError::IsADirectory),
            _ => Err(OverlayError::Invalid("not a regular file")),
        }
    }

    /// Appends and applies; the caller holds `changing`.
    fn record_data(
        &self,
        file: FileId,
        size_after: u64,
        cut: bool,
        zero: Option<PageRange>,
        pages: Vec<PageWrite>,
    ) -> Result<(), OverlayError> {
        let now = self.clock.now();
        let change = DataChange { file, size_after, mtime: Some(now), cut, zero, pages };
        let placed = self.log.append(&mut Draft::data(&change, now, self.log.seed), cut || zero.is_some())?;
        let spans: Vec<PageRange> = change
            .pages
            .iter()
            .map(|write| PageRange {
                first: write.first_page,
                count: (write.bytes.len() / PAGE_BYTES) as u64,
            })
            .collect();
        Ok(self.state.write().apply_data(self.base.as_ref(), &change, &spans, placed, now)?)
    }
}
