//! Images to mount: an empty one, and one that an overlay filled.

use std::sync::Arc;

use bytes::Bytes;
use pitgate::overlay::Overlay;
use pitgate::types::{Attributes, DirectoryEntry, FileId, FileKind, Image, ImageError, Status, Time};

pub const ROOT: FileId = FileId(2);

/// A root directory and nothing in it. Links to `/captured` lead into the source.
pub struct EmptyImage;

impl Image for EmptyImage {
    fn root(&self) -> FileId {
        ROOT
    }

    fn status(&self, file: FileId) -> Result<Status, ImageError> {
        if file != ROOT {
            return Err(ImageError::NoSuchFile(file));
        }
        let kind = FileKind::Directory;
        let attributes = Attributes { kind, mode: 0o755, uid: 0, gid: 0, rdev: 0, mtime: Time(0) };
        Ok(Status { file, attributes, size: 0, link_count: 2, allocated_bytes: 0 })
    }

    fn lookup(&self, _directory: FileId, _name: &[u8]) -> Result<Option<FileId>, ImageError> {
        Ok(None)
    }

    fn read_directory(
        &self,
        _directory: FileId,
        _after: Option<&[u8]>,
        _limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ImageError> {
        Ok(Vec::new())
    }

    fn parent(&self, directory: FileId) -> Result<FileId, ImageError> {
        Ok(directory)
    }

    fn read_link(&self, file: FileId) -> Result<Bytes, ImageError> {
        Err(ImageError::NoSuchFile(file))
    }

    fn list_xattrs(&self, _file: FileId) -> Result<Vec<Bytes>, ImageError> {
        Ok(Vec::new())
    }

    fn xattr(&self, _file: FileId, _name: &[u8]) -> Result<Option<Bytes>, ImageError> {
        Ok(None)
    }

    fn read_at(&self, file: FileId, _offset_bytes: u64, _buf: &mut [u8]) -> Result<usize, ImageError> {
        Err(ImageError::NoSuchFile(file))
    }

    fn next_data(&self, file: FileId, _offset_bytes: u64) -> Result<Option<u64>, ImageError> {
        Err(ImageError::NoSuchFile(file))
    }

    fn next_hole(&self, file: FileId, _offset_bytes: u64) -> Result<u64, ImageError> {
        Err(ImageError::NoSuchFile(file))
    }

    fn external_links(&self) -> Result<Vec<(Bytes, Bytes)>, ImageError> {
        Ok(Vec::new())
    }

    fn retarget(&self, _directory: FileId, target: &[u8]) -> Result<Option<Bytes>, ImageError> {
        Ok(target.strip_prefix(b"/captured/").map(Bytes::copy_from_slice))
    }
}

/// A filled overlay as if it were a view: its files get ids that a journal could have given.
pub struct FilledImage(pub Arc<Overlay>);

const SHIFT: u64 = FileId::OVERLAY_FIRST.0 - 1000;

fn outer(file: FileId) -> FileId {
    if file.is_overlay() { FileId(file.0 - SHIFT) } else { file }
}

fn inner(file: FileId) -> FileId {
    if file.0 >= 1000 { FileId(file.0.saturating_add(SHIFT)) } else { file }
}

impl Image for FilledImage {
    fn root(&self) -> FileId {
        ROOT
    }

    fn status(&self, file: FileId) -> Result<Status, ImageError> {
        self.0.status(inner(file)).map(|status| Status { file, ..status })
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<Option<FileId>, ImageError> {
        Ok(self.0.lookup(inner(directory), name)?.map(outer))
    }

    fn read_directory(
        &self,
        directory: FileId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ImageError> {
        let mut entries = self.0.read_directory(inner(directory), after, limit)?;
        for entry in &mut entries {
            entry.file = outer(entry.file);
        }
        Ok(entries)
    }

    fn parent(&self, directory: FileId) -> Result<FileId, ImageError> {
        self.0.parent(inner(directory)).map(outer)
    }

    fn read_link(&self, file: FileId) -> Result<Bytes, ImageError> {
        self.0.read_link(inner(file))
    }

    fn list_xattrs(&self, file: FileId) -> Result<Vec<Bytes>, ImageError> {
        self.0.list_xattrs(inner(file))
    }

    fn xattr(&self, file: FileId, name: &[u8]) -> Result<Option<Bytes>, ImageError> {
        self.0.xattr(inner(file), name)
    }

    fn read_at(&self, file: FileId, offset_bytes: u64, buf: &mut [u8]) -> Result<usize, ImageError> {
        self.0.read_at(inner(file), offset_bytes, buf)
    }

    fn next_data(&self, file: FileId, offset_bytes: u64) -> Result<Option<u64>, ImageError> {
        self.0.next_data(inner(file), offset_bytes)
    }

    fn next_hole(&self, file: FileId, offset_bytes: u64) -> Result<u64, ImageError> {
        self.0.next_hole(inner(file), offset_bytes)
    }

    fn external_links(&self) -> Result<Vec<(Bytes, Bytes)>, ImageError> {
        self.0.external_links()
    }

    fn retarget(&self, directory: FileId, target: &[u8]) -> Result<Option<Bytes>, ImageError> {
        self.0.retarget(inner(directory), target)
    }
}
