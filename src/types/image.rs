//! What reads a tree of files at one moment: a view, a mount, or a plain directory.

use std::sync::Arc;

use bytes::Bytes;

use super::{Attributes, FileId, FileKind};

/// Everything `stat` says of a file, and who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub file: FileId,
    pub attributes: Attributes,
    /// Bytes of a regular file, length of a link's text, else 0.
    pub size: u64,
    /// Names of the file; for a directory 2 and one for each directory in it.
    pub link_count: u32,
    /// Bytes that storage holds for it, as far as that is known cheaply; else `size`.
    pub allocated_bytes: u64,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    pub name: Bytes,
    pub file: FileId,
    pub kind: FileKind,
}

/// Why an image could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ImageError {
    #[error("no file {0:?} in this image")]
    NoSuchFile(FileId),
    #[error("{file:?} is not a {expected}")]
    WrongKind { file: FileId, expected: &'static str },
    /// Stored bytes are damaged; `what` names object and place. Nothing else is ever returned in their stead.
    #[error("damaged: {what}")]
    Damaged { what: String },
    /// Storage did not answer.
    #[error("cannot read {what}: {source}")]
    Storage { what: String, source: Arc<std::io::Error> },
}

/// A read-only tree of files at one moment.
///
/// All calls may block on storage and may run at the same time from many threads. Files keep their ids for
/// the image's life; a file without a name stays readable by id.
pub trait Image: Send + Sync {
    /// The directory that a mount shows as its root.
    fn root(&self) -> FileId;

    /// # Errors
    /// `ImageError::NoSuchFile` for an id this image does not hold.
    fn status(&self, file: FileId) -> Result<Status, ImageError>;

    /// The file with this name, `None` if there is none.
    ///
    /// # Errors
    /// `ImageError::WrongKind` if `directory` is not one.
    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<Option<FileId>, ImageError>;

    /// Names greater than `after` (all, if `None`) in ascending order of bytes, at most `limit`; without `.` and `..`.
    ///
    /// # Errors
    /// `ImageError::WrongKind` if `directory` is not one.
    fn read_directory(
        &self,
        directory: FileId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ImageError>;

    /// The directory that holds this directory; the root has itself.
    ///
    /// # Errors
    /// `ImageError::WrongKind` if `directory` is not one.
    fn parent(&self, directory: FileId) -> Result<FileId, ImageError>;

    /// The text of a symbolic link as a mount shows it: re-targeted, as a relative path, if it leads into a
    /// captured root.
    ///
    /// # Errors
    /// `ImageError::WrongKind` if `file` is not a link.
    fn read_link(&self, file: FileId) -> Result<Bytes, ImageError>;

    /// Names of extended attributes in ascending order.
    ///
    /// # Errors
    /// `ImageError::NoSuchFile`.
    fn list_xattrs(&self, file: FileId) -> Result<Vec<Bytes>, ImageError>;

    /// The value of an extended attribute, `None` if there is none.
    ///
    /// # Errors
    /// `ImageError::NoSuchFile`.
    fn xattr(&self, file: FileId, name: &[u8]) -> Result<Option<Bytes>, ImageError>;

    /// Fills `buf` from `offset_bytes` on, any alignment; returns how many bytes, fewer only at the end of
    /// the file. Ranges never written read as zeros.
    ///
    /// # Errors
    /// `ImageError::Damaged` and `ImageError::Storage`; `buf` is then unspecified.
    fn read_at(&self, file: FileId, offset_bytes: u64, buf: &mut [u8]) -> Result<usize, ImageError>;

    /// The first offset at or after `offset_bytes` where data begins, as SEEK_DATA; `None` if only a hole
    /// follows. An image that does not know its holes has data everywhere.
    ///
    /// # Errors
    /// As [`Image::read_at`].
    fn next_data(&self, file: FileId, offset_bytes: u64) -> Result<Option<u64>, ImageError>;

    /// The first offset at or after `offset_bytes` where a hole begins, as SEEK_HOLE; the size at the latest.
    ///
    /// # Errors
    /// As [`Image::read_at`].
    fn next_hole(&self, file: FileId, offset_bytes: u64) -> Result<u64, ImageError>;

    /// Absolute targets of links that lead out of every captured root: path of the link, target.
    ///
    /// # Errors
    /// As [`Image::read_at`].
    fn external_links(&self) -> Result<Vec<(Bytes, Bytes)>, ImageError>;

    /// `target`, the text of a link in `directory`, re-targeted if it leads into a captured root, as a
    /// mount shows it; `None` if it needs no change.
    ///
    /// # Errors
    /// As [`Image::read_at`].
    fn retarget(&self, directory: FileId, target: &[u8]) -> Result<Option<Bytes>, ImageError>;
}
