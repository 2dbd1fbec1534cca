//! Changes of names and attributes: whether each is allowed, and its record.

use bytes::Bytes;

use super::record::Draft;
use super::{Overlay, OverlayError};
use crate::types::{AttributeChange, Attributes, FileId, FileKind, Image, NamespaceChange, Status, Time};

/// Longest name of a file or an attribute, as on Linux.
const NAME_BYTES_MAX: usize = 255;
const TARGET_BYTES_MAX: usize = 4095;
const XATTR_BYTES_MAX: usize = 64 << 10;
const LINKS_MAX: u32 = 65_000;

/// What a rename does with what stands at the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// Whether an attribute must, may or must not exist before it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    Any,
    Create,
    Replace,
}

/// What a new file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFile<'a> {
    pub kind: FileKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    /// Text of a symbolic link, else empty.
    pub target: &'a [u8],
}

impl Overlay {
    /// Makes a file of any kind.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `NotADirectory`, `TooLong`; `ExternalLink` for a link that leads out of every
    /// captured root or of the mount, unless that was allowed; those of writing the log.
    pub fn make(&self, parent: FileId, name: &[u8], new: &NewFile<'_>) -> Result<Status, OverlayError> {
        let _changing = self.changing.lock();
        self.check_parent(parent)?;
        check_name(name)?;
        if self.lookup(parent, name)?.is_some() {
            return Err(OverlayError::Exists);
        }
        self.make_checked(Some(parent), name, new)
    }

    /// Makes a regular file that has no name yet (O_TMPFILE) in the file system of `parent`.
    ///
    /// # Errors
    /// As [`Overlay::make`].
    pub fn make_nameless(&self, parent: FileId, new: &NewFile<'_>) -> Result<Status, OverlayError> {
        let _changing = self.changing.lock();
        self.check_parent(parent)?;
        self.make_checked(None, b"", new)
    }

    fn make_checked(
        &self,
        parent: Option<FileId>,
        name: &[u8],
        new: &NewFile<'_>,
    ) -> Result<Status, OverlayError> {
        if new.kind == FileKind::Symlink {
            self.check_target(parent.unwrap_or_else(|| self.root()), new.target)?;
        }
        let now = self.clock.now();
        let attributes = Attributes {
            kind: new.kind,
            mode: new.mode & 0o7777,
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            mtime: now,
        };
        let file = FileId(self.state.read().next_file);
        let change = NamespaceChange::Create {
            file,
            parent,
            name: Bytes::copy_from_slice(name),
            attributes,
            target: Bytes::copy_from_slice(new.target),
            parent_mtime: now,
        };
        self.record_names(&change, now, false)?;
        Ok(self.status(file)?)
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `NotADirectory`, `IsADirectory`, `TooLong`, `TooManyLinks`; those of writing the log.
    pub fn link(&self, file: FileId, parent: FileId, name: &[u8]) -> Result<Status, OverlayError> {
        let _changing = self.changing.lock();
        self.check_parent(parent)?;
        check_name(name)?;
        let status = self.status(file)?;
        if status.attributes.kind == FileKind::Directory {
            return Err(OverlayError::IsADirectory);
        }
        if self.lookup(parent, name)?.is_some() {
            return Err(OverlayError::Exists);
        }
        if status.link_count >= LINKS_MAX {
            return Err(OverlayError::TooManyLinks(file));
        }
        let now = self.clock.now();
        let name = Bytes::copy_from_slice(name);
        self.record_names(&NamespaceChange::Link { file, parent, name, parent_mtime: now }, now, false)?;
        Ok(self.status(file)?)
    }

    /// Removes a name of anything but a directory. The file stays readable by id until [`Overlay::forget`].
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`; those of writing the log.
    pub fn unlink(&self, parent: FileId, name: &[u8]) -> Result<(), OverlayError> {
        let _changing = self.changing.lock();
        let (_, kind) = self.named(parent, name)?.ok_or(OverlayError::NotFound)?;
        if kind == FileKind::Directory {
            return Err(OverlayError::IsADirectory);
        }
        self.record_unlink(parent, name)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `NotEmpty`; those of writing the log.
    pub fn remove_directory(&self, parent: FileId, name: &[u8]) -> Result<(), OverlayError> {
        let _changing = self.changing.lock();
        let (file, kind) = self.named(parent, name)?.ok_or(OverlayError::NotFound)?;
        if kind != FileKind::Directory {
            return Err(OverlayError::NotADirectory);
        }
        self.check_empty(file)?;
        self.record_unlink(parent, name)
    }

    /// Moves a name.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `NotADirectory`, `IsADirectory`, `NotEmpty`, `TooLong`; `Invalid` for a directory
    /// moved into itself; those of writing the log.
    pub fn rename(
        &self,
        parent: FileId,
        name: &[u8],
        new_parent: FileId,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), OverlayError> {
        let _changing = self.changing.lock();
        self.check_parent(new_parent)?;
        check_name(new_name)?;
        let (file, kind) = self.named(parent, name)?.ok_or(OverlayError::NotFound)?;
        let target = self.named(new_parent, new_name)?;
        self.check_not_within(new_parent, file, kind)?;
        match (mode, target) {
            (RenameMode::Exchange, None) => return Err(OverlayError::NotFound),
            (RenameMode::NoReplace, Some(_)) => return Err(OverlayError::Exists),
            (_, Some((other, _))) if other == file => return Ok(()),
            (RenameMode::Exchange, Some((other, other_kind))) => {
                self.check_not_within(parent, other, other_kind)?
            }
            (RenameMode::Replace, Some((other, other_kind))) => match (kind, other_kind) {
                (FileKind::Directory, FileKind::Directory) => self.check_empty(other)?,
                (FileKind::Directory, _) => return Err(OverlayError::NotADirectory),
                (_, FileKind::Directory) => return Err(OverlayError::IsADirectory),
                _ => {}
            },
            (_, None) => {}
        }
        let now = self.clock.now();
        let change = NamespaceChange::Rename {
            parent,
            name: Bytes::copy_from_slice(name),
            new_parent,
            new_name: Bytes::copy_from_slice(new_name),
            exchange: mode == RenameMode::Exchange,
            parent_mtime: now,
            new_parent_mtime: now,
        };
        self.record_names(&change, now, false)
    }

    /// Changes attributes other than the size.
    ///
    /// # Errors
    /// `OverlayError::Image` for an unknown file; those of writing the log.
    pub fn set_attributes(&self, file: FileId, change: AttributeChange) -> Result<Status, OverlayError> {
        let _changing = self.changing.lock();
        self.status(file)?;
        let change = AttributeChange { mode: change.mode.map(|mode| mode & 0o7777), ..change };
        self.record_names(&NamespaceChange::Attributes { file, change }, self.clock.now(), false)?;
        Ok(self.status(file)?)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `Exists` and `NoAttribute` according to `mode`, `TooLong`, `ValueTooBig`; those of writing the log.
    pub fn set_xattr(
        &self,
        file: FileId,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), OverlayError> {
        let _changing = self.changing.lock();
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(OverlayError::TooLong);
        }
        if value.len() > XATTR_BYTES_MAX {
            return Err(OverlayError::ValueTooBig);
        }
        match (mode, self.xattr(file, name)?.is_some()) {
            (XattrMode::Create, true) => return Err(OverlayError::Exists),
            (XattrMode::Replace, false) => return Err(OverlayError::NoAttribute),
            _ => {}
        }
        let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        self.record_names(&NamespaceChange::SetXattr { file, name, value }, self.clock.now(), false)
    }

    /// # Errors
    /// `NoAttribute`; those of writing the log.
    pub fn remove_xattr(&self, file: FileId, name: &[u8]) -> Result<(), OverlayError> {
        let _changing = self.changing.lock();
        if self.xattr(file, name)?.is_none() {
            return Err(OverlayError::NoAttribute);
        }
        let name = Bytes::copy_from_slice(name);
        self.record_names(&NamespaceChange::RemoveXattr { file, name }, self.clock.now(), false)
    }

    /// Lets go of a file that nobody has open any more; what it held is dropped if it has no name.
    pub fn forget(&self, file: FileId) {
        if self.state.read().nodes.get(&file).is_some_and(|node| node.link_count == 0) {
            let _changing = self.changing.lock();
            self.state.write().forget(file);
        }
    }

    /// When anything of the file last changed; of a file as in the image, when its data did.
    ///
    /// # Errors
    /// `OverlayError::Image` for an unknown file.
    pub fn change_time(&self, file: FileId) -> Result<Time, OverlayError> {
        if let Some(node) = self.state.read().nodes.get(&file) {
            return Ok(node.change_time);
        }
        Ok(self.base.status(file)?.attributes.mtime)
    }

    fn named(&self, parent: FileId, name: &[u8]) -> Result<Option<(FileId, FileKind)>, OverlayError> {
        Ok(self.state.read().lookup(self.base.as_ref(), parent, name)?)
    }

    fn record_unlink(&self, parent: FileId, name: &[u8]) -> Result<(), OverlayError> {
        let now = self.clock.now();
        let name = Bytes::copy_from_slice(name);
        self.record_names(&NamespaceChange::Unlink { parent, name, parent_mtime: now }, now, true)
    }

    /// Appends and applies; the caller holds `changing`, so that no other change comes between.
    fn record_names(&self, change: &NamespaceChange, now: Time, frees: bool) -> Result<(), OverlayError> {
        self.log.append(&mut Draft::names(change, now), frees)?;
        Ok(self.state.write().apply_names(self.base.as_ref(), change, now)?)
    }

    fn check_parent(&self, parent: FileId) -> Result<(), OverlayError> {
        let status = self.status(parent)?;
        if status.attributes.kind != FileKind::Directory {
            return Err(OverlayError::NotADirectory);
        }
        if status.link_count == 0 { Err(OverlayError::NotFound) } else { Ok(()) }
    }

    fn check_empty(&self, directory: FileId) -> Result<(), OverlayError> {
        if self.read_directory(directory, None, 1)?.is_empty() { Ok(()) } else { Err(OverlayError::NotEmpty) }
    }

    /// A directory cannot be moved into itself or below.
    fn check_not_within(
        &self,
        new_parent: FileId,
        moved: FileId,
        kind: FileKind,
    ) -> Result<(), OverlayError> {
        if kind != FileKind::Directory {
            return Ok(());
        }
        let state = self.state.read();
        let mut at = new_parent;
        loop {
            if at == moved {
                return Err(OverlayError::Invalid("a directory cannot be moved into itself"));
            }
            if at == self.base.root() {
                return Ok(());
            }
            at = state.parent(self.base.as_ref(), at)?;
        }
    }

    /// A link may lead into a captured root, which is shown re-targeted, or stay within the mount.
    fn check_target(&self, directory: FileId, target: &[u8]) -> Result<(), OverlayError> {
        if target.is_empty() {
            return Err(OverlayError::NotFound);
        }
        if target.len() > TARGET_BYTES_MAX {
            return Err(OverlayError::TooLong);
        }
        let escapes = if target.starts_with(b"/") {
            self.retarget(directory, target)?.is_none()
        } else {
            climbs_out(self.depth(directory)?, target)
        };
        if escapes && !self.options.allow_external_links {
            return Err(OverlayError::ExternalLink { target: String::from_utf8_lossy(target).into_owned() });
        }
        Ok(())
    }
}

/// Whether the parts of a relative target lead above the root, seen from a directory this deep.
fn climbs_out(depth: usize, target: &[u8]) -> bool {
    let mut depth = depth;
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(above) => depth = above,
                None => return true,
            },
            _ => depth += 1,
        }
    }
    false
}

fn check_name(name: &[u8]) -> Result<(), OverlayError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(OverlayError::TooLong);
    }
    let impossible = matches!(name, b"" | b"." | b"..") || name.iter().any(|&byte| byte == b'/' || byte == 0);
    if impossible { Err(OverlayError::Invalid("not a name")) } else { Ok(()) }
}
