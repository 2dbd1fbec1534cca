//! A plain directory, read as an image: a mount, or any tree of files that nobody changes meanwhile.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::types::{Attributes, DirectoryEntry, FileId, FileKind, Image, ImageError, Status, Time};

/// Files are known by their inode, and found by a path at which they were seen.
pub struct DirectoryImage {
    root: FileId,
    device: u64,
    paths: Mutex<HashMap<FileId, PathBuf>>,
}

impl DirectoryImage {
    /// # Errors
    /// `ImageError::Storage` if `root` cannot be examined, `ImageError::WrongKind` if it is no directory.
    pub fn open(root: &Path) -> Result<DirectoryImage, ImageError> {
        let metadata = fs::metadata(root).map_err(storage(root))?;
        let file = FileId(metadata.ino());
        if !metadata.is_dir() {
            return Err(ImageError::WrongKind { file, expected: "directory" });
        }
        let paths = Mutex::new(HashMap::from([(file, root.to_owned())]));
        Ok(DirectoryImage { root: file, device: metadata.dev(), paths })
    }

    fn path(&self, file: FileId) -> Result<PathBuf, ImageError> {
        self.paths.lock().get(&file).cloned().ok_or(ImageError::NoSuchFile(file))
    }

    /// The file with this path, known from now on; what is mounted inside the directory is no part of it.
    fn meet(&self, path: PathBuf) -> Result<Option<(FileId, FileKind)>, ImageError> {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(storage(&path)(error)),
        };
        if metadata.dev() != self.device {
            return Ok(None);
        }
        let file = FileId(metadata.ino());
        self.paths.lock().entry(file).or_insert(path);
        Ok(Some((file, kind_of(&metadata))))
    }

    /// Where data or a hole begins; `None` behind the last data.
    fn seek(&self, file: FileId, to: SeekFrom) -> Result<Option<u64>, ImageError> {
        let path = self.path(file)?;
        let open = File::open(&path).map_err(storage(&path))?;
        match rustix::fs::seek(&open, to) {
            Ok(offset_bytes) => Ok(Some(offset_bytes)),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(storage(&path)(error.into())),
        }
    }
}

fn storage(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let what = path.display().to_string();
    move |source| ImageError::Storage { what, source: Arc::new(source) }
}

fn kind_of(metadata: &Metadata) -> FileKind {
    let kind = metadata.file_type();
    if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Symlink
    } else if kind.is_fifo() {
        FileKind::Fifo
    } else if kind.is_socket() {
        FileKind::Socket
    } else if kind.is_char_device() {
        FileKind::CharacterDevice
    } else if kind.is_block_device() {
        FileKind::BlockDevice
    } else {
        FileKind::Regular
    }
}

impl Image for DirectoryImage {
    fn root(&self) -> FileId {
        self.root
    }

    fn status(&self, file: FileId) -> Result<Status, ImageError> {
        let path = self.path(file)?;
        let metadata = fs::symlink_metadata(&path).map_err(storage(&path))?;
        let kind = kind_of(&metadata);
        let attributes = Attributes {
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            rdev: metadata.rdev(),
            mtime: Time::join(metadata.mtime(), metadata.mtime_nsec() as u32),
        };
        let size = if matches!(kind, FileKind::Regular | FileKind::Symlink) { metadata.size() } else { 0 };
        let link_count = u32::try_from(metadata.nlink()).unwrap_or(u32::MAX);
        Ok(Status { file, attributes, size, link_count, allocated_bytes: metadata.blocks() * 512 })
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<Option<FileId>, ImageError> {
        let path = self.path(directory)?.join(OsStr::from_bytes(name));
        Ok(self.meet(path)?.map(|(file, _)| file))
    }

    fn read_directory(
        &self,
        directory: FileId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ImageError> {
        let path = self.path(directory)?;
        let entries = fs::read_dir(&path).map_err(storage(&path))?;
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(storage(&path))?.file_name().into_vec();
            if after.is_none_or(|after| name.as_slice() > after) {
                names.push(name);
            }
        }
        names.sort_unstable();
        let mut found = Vec::new();
        for name in names {
            if found.len() == limit {
                break;
            }
            if let Some((file, kind)) = self.meet(path.join(OsStr::from_bytes(&name)))? {
                found.push(DirectoryEntry { name: name.into(), file, kind });
            }
        }
        Ok(found)
    }

    fn parent(&self, directory: FileId) -> Result<FileId, ImageError> {
        if directory == self.root {
            return Ok(directory);
        }
        let path = self.path(directory)?;
        let parent = path.parent().unwrap_or(&path);
        Ok(FileId(fs::metadata(parent).map_err(storage(parent))?.ino()))
    }

    fn read_link(&self, file: FileId) -> Result<Bytes, ImageError> {
        let path = self.path(file)?;
        let target = fs::read_link(&path).map_err(storage(&path))?;
        Ok(target.into_os_string().into_vec().into())
    }

    fn list_xattrs(&self, file: FileId) -> Result<Vec<Bytes>, ImageError> {
        let path = self.path(file)?;
        let mut list = vec![0; 64 << 10];
        let len = match rustix::fs::llistxattr(&path, &mut list[..]) {
            Ok(len) => len,
            Err(Errno::OPNOTSUPP) => 0,
            Err(error) => return Err(storage(&path)(error.into())),
        };
        let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let mut names: Vec<Bytes> = names.map(Bytes::copy_from_slice).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn xattr(&self, file: FileId, name: &[u8]) -> Result<Option<Bytes>, ImageError> {
        let path = self.path(file)?;
        let mut value = vec![0; 64 << 10];
        match rustix::fs::lgetxattr(&path, OsStr::from_bytes(name), &mut value[..]) {
            Ok(len) => Ok(Some(Bytes::copy_from_slice(&value[..len]))),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(storage(&path)(error.into())),
        }
    }

    fn read_at(&self, file: FileId, offset_bytes: u64, buf: &mut [u8]) -> Result<usize, ImageError> {
        let path = self.path(file)?;
        let open = File::open(&path).map_err(storage(&path))?;
        let mut filled = 0;
        while filled < buf.len() {
            match open.read_at(&mut buf[filled..], offset_bytes + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(storage(&path)(error)),
            }
        }
        Ok(filled)
    }

    fn next_data(&self, file: FileId, offset_bytes: u64) -> Result<Option<u64>, ImageError> {
        self.seek(file, SeekFrom::Data(offset_bytes))
    }

    fn next_hole(&self, file: FileId, offset_bytes: u64) -> Result<u64, ImageError> {
        match self.seek(file, SeekFrom::Hole(offset_bytes))? {
            Some(hole) => Ok(hole),
            None => Ok(self.status(file)?.size.max(offset_bytes)),
        }
    }

    /// A directory does not know what its links lead to.
    fn external_links(&self) -> Result<Vec<(Bytes, Bytes)>, ImageError> {
        Ok(Vec::new())
    }

    fn retarget(&self, _: FileId, _: &[u8]) -> Result<Option<Bytes>, ImageError> {
        Ok(None)
    }
}
