//! Inode operations over a view or an overlay, as any protocol needs them, with POSIX's side effects.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::errno;
use crate::io::fuse::Errno;
use crate::overlay::{NewFile, Overlay, OverlayError, RenameMode, XattrMode};
use crate::types::{AttributeChange, DirectoryEntry, FileId, FileKind, Image, ImageError, Status, Time};

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;
const CAPABILITY: &[u8] = b"security.capability";

/// What one mount serves: a read-only image, or an overlay over it.
pub struct Export {
    image: Arc<dyn Image>,
    overlay: Option<Arc<Overlay>>,
    /// A path in the file system that holds the overlay, or the repository: `statfs` shows its room.
    storage: PathBuf,
}

/// Everything `stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub status: Status,
    pub change_time: Time,
}

/// Attributes to set; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    pub size: Option<u64>,
    pub change: AttributeChange,
    /// The caller may not keep set-id bits when it changes the size.
    pub drops_privileges: bool,
}

/// Room in the file system that holds what is written, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub available_bytes: u64,
}

/// What a range of a file is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeOperation {
    Allocate { keep_size: bool },
    Zero { keep_size: bool },
}

impl Export {
    #[must_use]
    pub fn read_only(image: Arc<dyn Image>, storage: PathBuf) -> Export {
        Export { image, overlay: None, storage }
    }

    #[must_use]
    pub fn writable(overlay: Arc<Overlay>, storage: PathBuf) -> Export {
        Export { image: Arc::clone(&overlay) as Arc<dyn Image>, overlay: Some(overlay), storage }
    }

    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.overlay.is_none()
    }

    #[must_use]
    pub fn root(&self) -> FileId {
        self.image.root()
    }

    fn overlay(&self) -> Result<&Overlay, Errno> {
        self.overlay.as_deref().ok_or(Errno::ROFS)
    }

    /// # Errors
    /// `ESTALE` for an unknown file, `EIO`.
    pub fn stat(&self, file: FileId) -> Result<Stat, Errno> {
        let status = self.image.status(file).map_err(image)?;
        self.complete(status)
    }

    fn complete(&self, status: Status) -> Result<Stat, Errno> {
        let change_time = match &self.overlay {
            Some(overlay) => overlay.change_time(status.file).map_err(changing)?,
            None => status.attributes.mtime,
        };
        Ok(Stat { status, change_time })
    }

    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EIO`.
    pub fn lookup(&self, directory: FileId, name: &[u8]) -> Result<Stat, Errno> {
        let file = match name {
            b"." => directory,
            b".." => self.parent(directory)?,
            name => self.image.lookup(directory, name).map_err(image)?.ok_or(Errno::NOENT)?,
        };
        self.stat(file)
    }

    /// # Errors
    /// `ENOTDIR`, `EIO`.
    pub fn parent(&self, directory: FileId) -> Result<FileId, Errno> {
        self.image.parent(directory).map_err(image)
    }

    /// # Errors
    /// `ENOTDIR`, `EIO`.
    pub fn read_directory(
        &self,
        directory: FileId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, Errno> {
        self.image.read_directory(directory, after, limit).map_err(image)
    }

    /// # Errors
    /// `EINVAL` if it is no link, `EIO`.
    pub fn read_link(&self, file: FileId) -> Result<Bytes, Errno> {
        self.image.read_link(file).map_err(image)
    }

    /// Fills `buf`; fewer bytes only at the end of the file.
    ///
    /// # Errors
    /// `EIO` for damaged or failing storage.
    pub fn read(&self, file: FileId, offset_bytes: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        self.image.read_at(file, offset_bytes, buf).map_err(image)
    }

    /// # Errors
    /// `ENXIO` at or beyond the end, or if only a hole follows where data is sought.
    pub fn seek(&self, file: FileId, offset_bytes: u64, data: bool) -> Result<u64, Errno> {
        if offset_bytes >= self.image.status(file).map_err(image)?.size {
            return Err(Errno::NXIO);
        }
        if data {
            self.image.next_data(file, offset_bytes).map_err(image)?.ok_or(Errno::NXIO)
        } else {
            self.image.next_hole(file, offset_bytes).map_err(image)
        }
    }

    /// # Errors
    /// `ENODATA`, `EIO`.
    pub fn xattr(&self, file: FileId, name: &[u8]) -> Result<Bytes, Errno> {
        self.image.xattr(file, name).map_err(image)?.ok_or(Errno::NODATA)
    }

    /// # Errors
    /// `EIO`.
    pub fn list_xattrs(&self, file: FileId) -> Result<Vec<Bytes>, Errno> {
        self.image.list_xattrs(file).map_err(image)
    }

    /// Makes a file of any kind. In a directory with the set-group-id bit it gets that group, and a new
    /// directory the bit too.
    ///
    /// # Errors
    /// `EROFS`, `EEXIST`, `EPERM` for a link that leads outside, `ENOSPC`, `EIO`.
    pub fn make(&self, parent: FileId, name: &[u8], new: NewFile<'_>) -> Result<Stat, Errno> {
        let overlay = self.overlay()?;
        let directory = self.image.status(parent).map_err(image)?.attributes;
        let mut new = new;
        if directory.mode & SET_GID != 0 {
            new.gid = directory.gid;
            if new.kind == FileKind::Directory {
                new.mode |= SET_GID;
            }
        }
        self.complete(overlay.make(parent, name, &new).map_err(changing)?)
    }

    /// # Errors
    /// `EROFS`, `EEXIST`, `EPERM` for a directory, `ENOSPC`, `EIO`.
    pub fn link(&self, file: FileId, parent: FileId, name: &[u8]) -> Result<Stat, Errno> {
        match self.overlay()?.link(file, parent, name) {
            Ok(status) => self.complete(status),
            Err(OverlayError::IsADirectory) => Err(Errno::PERM),
            Err(error) => Err(changing(error)),
        }
    }

    /// # Errors
    /// `EROFS`, `ENOENT`, `EISDIR`, `EIO`.
    pub fn unlink(&self, parent: FileId, name: &[u8]) -> Result<(), Errno> {
        self.overlay()?.unlink(parent, name).map_err(changing)
    }

    /// # Errors
    /// `EROFS`, `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, `EIO`.
    pub fn remove_directory(&self, parent: FileId, name: &[u8]) -> Result<(), Errno> {
        self.overlay()?.remove_directory(parent, name).map_err(changing)
    }

    /// # Errors
    /// `EROFS` and those of `rename(2)`.
    pub fn rename(
        &self,
        parent: FileId,
        name: &[u8],
        new_parent: FileId,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), Errno> {
        self.overlay()?.rename(parent, name, new_parent, new_name, mode).map_err(changing)
    }

    /// Writes all of `data`. With `drops_privileges` set-id bits and capabilities go first.
    ///
    /// # Errors
    /// `EROFS`, `EFBIG`, `ENOSPC`, `EIO`.
    pub fn write(
        &self,
        file: FileId,
        offset_bytes: u64,
        data: &[u8],
        drops_privileges: bool,
    ) -> Result<(), Errno> {
        let overlay = self.overlay()?;
        if drops_privileges {
            self.drop_privileges(overlay, file, AttributeChange::default())?;
        }
        overlay.write(file, offset_bytes, data).map_err(changing)
    }

    /// Changes size and attributes. A new owner or group costs a file its set-id bits and capabilities.
    ///
    /// # Errors
    /// `EROFS`, `EFBIG`, `ENOSPC`, `EIO`.
    pub fn set(&self, file: FileId, setting: &Setting) -> Result<Stat, Errno> {
        let overlay = self.overlay()?;
        let change = setting.change;
        if let Some(size) = setting.size {
            overlay.truncate(file, size).map_err(changing)?;
        }
        let owner_changes = change.uid.is_some() || change.gid.is_some();
        let size_change_drops = setting.size.is_some() && setting.drops_privileges;
        if (owner_changes || size_change_drops) && change.mode.is_none() {
            self.drop_privileges(overlay, file, change)?;
        } else if change != AttributeChange::default() {
            overlay.set_attributes(file, change).map_err(changing)?;
        }
        self.stat(file)
    }

    /// Applies `change` with the set-id bits taken from the mode, and removes capabilities.
    fn drop_privileges(
        &self,
        overlay: &Overlay,
        file: FileId,
        mut change: AttributeChange,
    ) -> Result<(), Errno> {
        let attributes = self.image.status(file).map_err(image)?.attributes;
        if attributes.kind != FileKind::Directory {
            // Without the execute bit for the group, set-group-id means mandatory locking, and stays.
            let kept_group_bit = if attributes.mode & GROUP_EXECUTE == 0 { SET_GID } else { 0 };
            let mode = attributes.mode & !(SET_UID | SET_GID) | (attributes.mode & kept_group_bit);
            if mode != attributes.mode {
                change.mode = Some(mode);
            }
            if self.image.xattr(file, CAPABILITY).map_err(image)?.is_some() {
                overlay.remove_xattr(file, CAPABILITY).map_err(changing)?;
            }
        }
        if change != AttributeChange::default() {
            overlay.set_attributes(file, change).map_err(changing)?;
        }
        Ok(())
    }

    /// # Errors
    /// `EROFS`, `EINVAL`, `EFBIG`, `ENOSPC`, `EIO`.
    pub fn change_range(
        &self,
        file: FileId,
        offset_bytes: u64,
        len_bytes: u64,
        operation: RangeOperation,
    ) -> Result<(), Errno> {
        let overlay = self.overlay()?;
        match operation {
            RangeOperation::Allocate { keep_size } => {
                overlay.allocate(file, offset_bytes, len_bytes, keep_size)
            }
            RangeOperation::Zero { keep_size } => overlay.zero(file, offset_bytes, len_bytes, keep_size),
        }
        .map_err(changing)
    }

    /// # Errors
    /// `EROFS`, `EEXIST`, `ENODATA`, `E2BIG`, `ENOSPC`, `EIO`; `EOPNOTSUPP` for access control lists, which
    /// nothing here would enforce.
    pub fn set_xattr(&self, file: FileId, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        let overlay = self.overlay()?;
        if name.starts_with(b"system.") {
            return Err(Errno::OPNOTSUPP);
        }
        overlay.set_xattr(file, name, value, mode).map_err(changing)
    }

    /// # Errors
    /// `EROFS`, `ENODATA`, `ENOSPC`, `EIO`.
    pub fn remove_xattr(&self, file: FileId, name: &[u8]) -> Result<(), Errno> {
        self.overlay()?.remove_xattr(file, name).map_err(changing)
    }

    /// Makes all changes durable; of a read-only export there are none.
    ///
    /// # Errors
    /// `EIO`.
    pub fn sync(&self) -> Result<(), Errno> {
        self.overlay.as_ref().map_or(Ok(()), |overlay| overlay.sync().map_err(changing))
    }

    /// Nobody knows this file by id any more.
    pub fn forget(&self, file: FileId) {
        if let Some(overlay) = &self.overlay {
            overlay.forget(file);
        }
    }

    /// # Errors
    /// The operating system's.
    pub fn room(&self) -> Result<Room, Errno> {
        let found = rustix::fs::statvfs(&self.storage)?;
        let mut room = Room {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bfree.saturating_mul(found.f_frsize),
            available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        };
        if let Some(overlay) = &self.overlay
            && let Some(quota_bytes) = overlay.quota_bytes()
        {
            let left = quota_bytes.saturating_sub(overlay.log_bytes());
            room.total_bytes = room.total_bytes.min(quota_bytes);
            room.free_bytes = room.free_bytes.min(left);
            room.available_bytes = room.available_bytes.min(left);
        }
        Ok(room)
    }
}

fn image(error: ImageError) -> Errno {
    errno::of_image(&error)
}

fn changing(error: OverlayError) -> Errno {
    errno::of_overlay(&error)
}
