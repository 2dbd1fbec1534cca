//! Content of regular files: copied in pieces by several threads, holes left holes, and read back.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::RestoreError;
use super::plan::PlannedFile;
use crate::types::{Image, PAGE_BYTES};

/// The unit that one thread copies at a time.
const PIECE_BYTES: u64 = 16 << 20;
const BUFFER_BYTES: usize = 1 << 20;

/// A span of one file.
struct Piece {
    file: usize,
    offset_bytes: u64,
    len_bytes: u64,
    /// Digest of the piece as the image gave it, holes as zeros; filled by the copy.
    digest: Mutex<Option<blake3::Hash>>,
}

/// The regular files of a plan, cut into pieces.
pub(super) struct Copy<'a> {
    image: &'a dyn Image,
    files: &'a [PlannedFile],
    base: &'a Path,
    pieces: Vec<Piece>,
    /// Bytes that were not zero and so were written.
    pub written_bytes: AtomicU64,
}

impl<'a> Copy<'a> {
    pub fn new(image: &'a dyn Image, files: &'a [PlannedFile], base: &'a Path) -> Copy<'a> {
        let mut pieces = Vec::new();
        for (file, planned) in files.iter().enumerate() {
            if planned.status.attributes.kind != crate::types::FileKind::Regular {
                continue;
            }
            let mut offset_bytes = 0;
            while offset_bytes < planned.status.size {
                let len_bytes = PIECE_BYTES.min(planned.status.size - offset_bytes);
                pieces.push(Piece { file, offset_bytes, len_bytes, digest: Mutex::new(None) });
                offset_bytes += len_bytes;
            }
        }
        Copy { image, files, base, pieces, written_bytes: AtomicU64::new(0) }
    }

    /// Writes every piece; `done` is told how many bytes of content each step covered.
    pub fn run(&self, threads: usize, done: &(dyn Fn(u64) + Sync)) -> Result<(), RestoreError> {
        self.for_every_piece(threads, |piece| {
            let digest = self.copy_piece(piece, done)?;
            *piece.digest.lock() = Some(digest);
            Ok(())
        })
    }

    /// Reads every piece back from storage and compares it with what the image gave.
    pub fn verify(&self, threads: usize, done: &(dyn Fn(u64) + Sync)) -> Result<(), RestoreError> {
        self.for_every_piece(threads, |piece| self.verify_piece(piece, done))
    }

    fn copy_piece(&self, piece: &Piece, done: &(dyn Fn(u64) + Sync)) -> Result<blake3::Hash, RestoreError> {
        let planned = &self.files[piece.file];
        let path = self.base.join(&planned.path);
        let target = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(RestoreError::write("open", &path))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let end = piece.offset_bytes + piece.len_bytes;
        let mut at = piece.offset_bytes;
        while at < end {
            let data =
                self.image.next_data(planned.status.file, at).map_err(RestoreError::read(&planned.path))?;
            let data = data.unwrap_or(end).clamp(at, end);
            hash_zeros(&mut hasher, data - at);
            done(data - at);
            at = data;
            if at == end {
                break;
            }
            let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let buffer = &mut buffer[..wanted];
            let read = self
                .image
                .read_at(planned.status.file, at, buffer)
                .map_err(RestoreError::read(&planned.path))?;
            if read == 0 {
                // The size said otherwise; the rest of the file reads as zeros there and here.
                hash_zeros(&mut hasher, end - at);
                break;
            }
            hasher.update(&buffer[..read]);
            self.write_sparsely(&target, at, &buffer[..read]).map_err(RestoreError::write("write", &path))?;
            done(read as u64);
            at += read as u64;
        }
        Ok(hasher.finalize())
    }

    /// Writes what is not zero, in runs of whole pages.
    fn write_sparsely(&self, target: &File, offset_bytes: u64, bytes: &[u8]) -> std::io::Result<()> {
        let mut run_start = None;
        let mut at = 0;
        while at <= bytes.len() {
            let page_len = (PAGE_BYTES - (offset_bytes as usize + at) % PAGE_BYTES).min(bytes.len() - at);
            let is_data = page_len > 0 && bytes[at..at + page_len].iter().any(|byte| *byte != 0);
            match (run_start, is_data) {
                (None, true) => run_start = Some(at),
                (Some(start), false) => {
                    target.write_all_at(&bytes[start..at], offset_bytes + start as u64)?;
                    self.written_bytes.fetch_add((at - start) as u64, Ordering::Relaxed);
                    run_start = None;
                }
                _ => {}
            }
            if page_len == 0 {
                break;
            }
            at += page_len;
        }
        Ok(())
    }

    fn verify_piece(&self, piece: &Piece, done: &(dyn Fn(u64) + Sync)) -> Result<(), RestoreError> {
        let path = self.base.join(&self.files[piece.file].path);
        let copy = File::open(&path).map_err(RestoreError::write("open", &path))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let end = piece.offset_bytes + piece.len_bytes;
        let mut at = piece.offset_bytes;
        while at < end {
            let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let read =
                copy.read_at(&mut buffer[..wanted], at).map_err(RestoreError::write("read back", &path))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            done(read as u64);
            at += read as u64;
        }
        if *piece.digest.lock() != Some(hasher.finalize()) {
            return Err(RestoreError::Mismatch { path, offset_bytes: piece.offset_bytes });
        }
        Ok(())
    }

    /// Runs `work` on all pieces with several threads; the first error ends all.
    fn for_every_piece(
        &self,
        threads: usize,
        work: impl Fn(&Piece) -> Result<(), RestoreError> + Sync,
    ) -> Result<(), RestoreError> {
        let next = AtomicUsize::new(0);
        let stopped = AtomicBool::new(false);
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, self.pieces.len().max(1)) {
                scope.spawn(|| {
                    while !stopped.load(Ordering::Relaxed) {
                        let Some(piece) = self.pieces.get(next.fetch_add(1, Ordering::Relaxed)) else {
                            break;
                        };
                        if let Err(error) = work(piece) {
                            stopped.store(true, Ordering::Relaxed);
                            failure.lock().get_or_insert(error);
                        }
                    }
                });
            }
        });
        failure.into_inner().map_or(Ok(()), Err)
    }
}

fn hash_zeros(hasher: &mut blake3::Hasher, mut count: u64) {
    while count > 0 {
        let step = count.min(PAGE_BYTES as u64);
        hasher.update(&crate::types::ZERO_PAGE[..step as usize]);
        count -= step;
    }
}
