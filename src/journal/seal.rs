//! Completes a segment: index, sections and footers behind the records, one sync, and it never changes again.

use std::path::PathBuf;
use std::sync::Arc;

use super::contents::Contents;
use super::error::JournalError;
use super::footer::{FOOTER_BYTES, FOOTER_COPIES, Footer, SectionPlace, place_crc};
use super::publish::SealedSegment;
use super::sections::{Section, SectionKind, pack};
use super::segment::{JournalIdentity, SegmentId};
use crate::index::BLOCK_BYTES;
use crate::io::DiskFile;

/// A segment whose records are complete and durable, the end record included.
pub struct UnsealedSegment {
    pub identity: JournalIdentity,
    pub id: SegmentId,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    /// Behind the end record.
    pub records_end_bytes: u64,
    /// Of all bytes up to there.
    pub hasher: blake3::Hasher,
    pub contents: Contents,
}

impl UnsealedSegment {
    /// Writes what is missing and makes it durable.
    ///
    /// # Errors
    /// `JournalError::Storage`; the segment can be recovered as an open one.
    pub fn seal(self) -> Result<SealedSegment, JournalError> {
        let UnsealedSegment { identity, id, path, file, records_end_bytes, hasher, mut contents } = self;
        let seed = identity.seed(id);
        let error = |source| JournalError::storage("seal", path.display().to_string(), source);
        let mut tail = Tail { file: file.as_ref(), end_bytes: records_end_bytes, hasher, seed };

        tail.pad(BLOCK_BYTES).map_err(error)?;
        let index_offset_bytes = tail.end_bytes;
        let index = std::mem::take(&mut contents.index).finish(u64::from(seed));
        tail.write(&index.bytes).map_err(error)?;
        contents.summary.index_bytes = index.root.len_bytes();

        let mut sections = [SectionPlace::default(); SectionKind::ALL.len()];
        let activity = std::mem::take(&mut contents.activity).finish();
        tail.write_section(&contents.names, &mut sections).map_err(error)?;
        tail.write_section(&contents.marks, &mut sections).map_err(error)?;
        tail.write_section(&contents.times, &mut sections).map_err(error)?;
        tail.write_section(&activity, &mut sections).map_err(error)?;
        tail.write_section(&contents.damaged, &mut sections).map_err(error)?;

        tail.pad(FOOTER_BYTES).map_err(error)?;
        let summary = contents.summary.clone();
        let footer =
            Footer { summary, records_end_bytes, index_offset_bytes, index_root: index.root, sections };
        for _ in 0..FOOTER_COPIES {
            let block = footer.encode(&identity, id, tail.end_bytes);
            tail.write(&block).map_err(error)?;
        }
        // What was reserved and not needed goes back.
        file.set_len(tail.end_bytes).map_err(error)?;
        file.sync().map_err(error)?;
        Ok(SealedSegment {
            id,
            len_bytes: tail.end_bytes,
            digest: *tail.hasher.finalize().as_bytes(),
            path,
            summary: contents.summary,
            names: contents.names,
            marks: contents.marks,
            damaged: contents.damaged,
        })
    }
}

/// The growing end of the file.
struct Tail<'a> {
    file: &'a dyn DiskFile,
    end_bytes: u64,
    hasher: blake3::Hasher,
    seed: u32,
}

impl Tail<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_at(self.end_bytes, bytes)?;
        self.hasher.update(bytes);
        self.end_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Zeros up to a multiple of `align_bytes`. Written, not assumed: a torn tail may have been there.
    fn pad(&mut self, align_bytes: usize) -> std::io::Result<()> {
        let missing = self.end_bytes.next_multiple_of(align_bytes as u64) - self.end_bytes;
        self.write(&vec![0; missing as usize])
    }

    fn write_section<S: Section>(
        &mut self,
        section: &S,
        places: &mut [SectionPlace; SectionKind::ALL.len()],
    ) -> std::io::Result<()> {
        let (stored, raw_len_bytes) = pack(section)?;
        places[S::KIND as usize] = SectionPlace {
            offset_bytes: self.end_bytes,
            stored_len_bytes: stored.len() as u64,
            raw_len_bytes,
            crc: place_crc(&stored, self.seed, self.end_bytes),
        };
        self.write(&stored)
    }
}
