//! Changes of mode, owner, times and extended attributes; each is recorded as the backing then shows it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{OFlags, Stat};

use super::backing;
use super::data::{has_set_id, load};
use super::node::Node;
use super::pass::{CACHE_TTL, PassThrough};
use crate::io::fuse::{Caller, Errno, NodeAttributes, SetAttributes};
use crate::types::{AttributeChange, FileKind, NamespaceChange};

const ACCESS_LIST: &[u8] = b"system.posix_acl_access";

impl PassThrough {
    pub(super) fn set_attributes(
        &self,
        caller: &Caller,
        node: &Arc<Node>,
        set: &SetAttributes,
    ) -> Result<(NodeAttributes, Duration), Errno> {
        self.shared.recorder.admit()?;
        let open = set.handle.and_then(|handle| self.handles.get(handle).ok());
        if let Some(size) = set.size {
            match &open {
                Some(open) => self.set_size(caller, node, &open.file, size)?,
                None => {
                    let fd = node.descriptor()?;
                    let file = self.shared.descriptors.reopen(fd.as_fd(), OFlags::RDWR)?;
                    self.set_size(caller, node, &file, size)?;
                }
            }
        }
        let fd = node.descriptor()?;
        if set.mode.is_some()
            || set.uid.is_some()
            || set.gid.is_some()
            || set.atime.is_some()
            || set.mtime.is_some()
        {
            self.change_attributes(node, fd.as_fd(), set)?;
        }
        let stat = backing::stat_fd(&*fd)?;
        Ok((self.node_attributes(node.file, &stat)?, CACHE_TTL))
    }

    fn change_attributes(&self, node: &Node, fd: BorrowedFd<'_>, set: &SetAttributes) -> Result<(), Errno> {
        let mut state = node.state.lock();
        if node.kind == FileKind::Regular {
            load(&mut state, fd)?;
        }
        let before = backing::stat_fd(fd)?;
        let applied = self.apply_attributes(node, fd, set);
        let after = backing::stat_fd(fd)?;
        state.set_id = has_set_id(&after);
        let mut changed = difference(&before, &after);
        if state.stamped.take().is_some() {
            // The journal has the clock's time until now.
            changed.mtime = Some(backing::mtime(&after));
        }
        if changed != AttributeChange::default() && !state.nameless {
            let change = NamespaceChange::Attributes { file: node.file, change: changed };
            node.touch(self.shared.recorder.record_names(change)?);
        }
        if !state.nameless {
            // A change of mode is one of the access list, if there is one; a change of owner takes the capability.
            if changed.mode.is_some() && backing::xattr(fd, ACCESS_LIST).is_ok() {
                self.record_xattr(node, fd, ACCESS_LIST)?;
            }
            if state.capability {
                self.drop_privileges(node, &mut state, fd, false)?;
            }
        }
        applied
    }

    fn apply_attributes(&self, node: &Node, fd: BorrowedFd<'_>, set: &SetAttributes) -> Result<(), Errno> {
        if let Some(mode) = set.mode {
            if node.kind == FileKind::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            self.shared.descriptors.chmod(fd, mode)?;
        }
        if set.uid.is_some() || set.gid.is_some() {
            backing::chown_fd(fd, set.uid, set.gid)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            self.shared.descriptors.set_times(fd, set.atime, set.mtime)?;
        }
        Ok(())
    }

    pub(super) fn set_xattr(&self, node: &Node, name: &[u8], value: &[u8], flags: i32) -> Result<(), Errno> {
        self.shared.recorder.admit()?;
        let fd = node.descriptor()?;
        let mut state = node.state.lock();
        let before = backing::stat_fd(&*fd)?;
        backing::set_xattr(fd.as_fd(), name, value, flags)?;
        state.capability |= name == b"security.capability";
        if state.nameless {
            return Ok(());
        }
        self.record_xattr(node, fd.as_fd(), name)?;
        self.record_difference(node, &before, &backing::stat_fd(&*fd)?)
    }

    pub(super) fn remove_xattr(&self, node: &Node, name: &[u8]) -> Result<(), Errno> {
        self.shared.recorder.admit()?;
        let fd = node.descriptor()?;
        let state = node.state.lock();
        let before = backing::stat_fd(&*fd)?;
        backing::remove_xattr(fd.as_fd(), name)?;
        if state.nameless {
            return Ok(());
        }
        self.record_xattr(node, fd.as_fd(), name)?;
        self.record_difference(node, &before, &backing::stat_fd(&*fd)?)
    }

    /// Records an extended attribute as the backing shows it: an access list that says no more than the mode is
    /// not kept, and a capability may be kept in another form than it was set.
    fn record_xattr(&self, node: &Node, fd: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let (file, xattr) = (node.file, Bytes::copy_from_slice(name));
        let change = match backing::xattr(fd, name) {
            Ok(value) => NamespaceChange::SetXattr { file, name: xattr, value: value.into() },
            Err(Errno::NODATA) => NamespaceChange::RemoveXattr { file, name: xattr },
            Err(errno) => return Err(errno),
        };
        node.touch(self.shared.recorder.record_names(change)?);
        Ok(())
    }

    /// An access list set as an extended attribute changes the mode with it.
    fn record_difference(&self, node: &Node, before: &Stat, after: &Stat) -> Result<(), Errno> {
        let change = difference(before, after);
        if change != AttributeChange::default() {
            let change = NamespaceChange::Attributes { file: node.file, change };
            node.touch(self.shared.recorder.record_names(change)?);
        }
        Ok(())
    }
}

/// What differs between two `stat` of one file.
fn difference(before: &Stat, after: &Stat) -> AttributeChange {
    let differs = |before: u32, after: u32| (before != after).then_some(after);
    AttributeChange {
        mode: differs(before.st_mode & 0o7777, after.st_mode & 0o7777),
        uid: differs(before.st_uid, after.st_uid),
        gid: differs(before.st_gid, after.st_gid),
        mtime: (backing::mtime(before) != backing::mtime(after)).then(|| backing::mtime(after)),
    }
}
