//! What storage must offer to hold a repository or an overlay.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory tree that holds what persists. Paths are relative to its root, without `..`.
///
/// Durability: bytes of a file are durable once [`DiskFile::sync`] returned; its name (and a removal) once
/// [`Disk::sync_directory`] of its directory returned. Everything else may be lost, in any order, and
/// sectors of 512 bytes may be torn from each other.
pub trait Disk: Send + Sync {
    /// Opens an existing file for reading.
    ///
    /// # Errors
    /// The operating system's; `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// The operating system's.
    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file that must not exist.
    ///
    /// # Errors
    /// `AlreadyExists` if it does.
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a directory and those above it; one that exists is fine.
    ///
    /// # Errors
    /// The operating system's.
    fn create_directories(&self, path: &Path) -> io::Result<()>;

    /// Names in a directory, ascending.
    ///
    /// # Errors
    /// The operating system's.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// Removes a file.
    ///
    /// # Errors
    /// The operating system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Moves a file, replacing what is at `to`; atomic, durable once both directories are synced.
    ///
    /// # Errors
    /// The operating system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The operating system's; the state is then unknown and the caller must not go on writing.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Takes the lock on `path` (created if missing) until the guard is dropped or the process ends; `None`
    /// if another holds it. Several holders may share it if all ask for `shared`.
    ///
    /// # Errors
    /// The operating system's.
    fn try_lock(&self, path: &Path, shared: bool) -> io::Result<Option<Lock>>;

    /// Bytes that can still be written, as the file system tells an unprivileged process.
    ///
    /// # Errors
    /// The operating system's.
    fn available_bytes(&self) -> io::Result<u64>;

    /// How a person names `path`: the whole path on a real disk.
    fn display(&self, path: &Path) -> String;
}

/// A held lock; dropping it releases it.
pub struct Lock(pub Box<dyn Send + Sync>);

/// An open file of a [`Disk`]. Reads and writes may run at the same time from many threads.
#[expect(clippy::len_without_is_empty, reason = "a length that may fail has no cheap emptiness")]
pub trait DiskFile: Send + Sync {
    /// Reads up to `buf.len()` bytes at `offset_bytes`; fewer only at the end of the file.
    ///
    /// # Errors
    /// The operating system's.
    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset_bytes`, extending the file if needed.
    ///
    /// # Errors
    /// The operating system's; an unknown part may have been written.
    fn write_at(&self, offset_bytes: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes data and size durable (`fdatasync`).
    ///
    /// # Errors
    /// The operating system's; what was written since the last success is then in doubt for good, and a later
    /// success proves nothing of it.
    fn sync(&self) -> io::Result<()>;

    /// The size in bytes.
    ///
    /// # Errors
    /// The operating system's.
    fn len(&self) -> io::Result<u64>;

    /// Cuts the file or extends it with zeros.
    ///
    /// # Errors
    /// The operating system's.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;

    /// Reserves storage for a range, which reads as zeros; the size grows to its end.
    ///
    /// # Errors
    /// `StorageFull` if there is none; nothing is reserved then.
    fn preallocate(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()>;
}
