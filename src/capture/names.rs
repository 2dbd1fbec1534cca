//! Changes of names: lookup, creation, removal, renaming and linking.
//!
//! A directory's lock is held from before the backing changes until the change is sequenced, so names appear in
//! the journal in the order in which the backing took them. The kernel holds the directory that is removed or
//! replaced as well, so nothing can happen in it meanwhile.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{MutexGuard, RwLockWriteGuard};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};

use super::backing::{self, InodeKey};
use super::data::backing_flags;
use super::node::{FileState, Node, Place};
use super::pass::PassThrough;
use crate::io::fuse::{Caller, Entry, Errno, Opened};
use crate::types::{FileId, FileKind, NamespaceChange, Position, Time};

impl PassThrough {
    pub(super) fn look_up(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Entry, Errno> {
        let directory = parent.descriptor()?;
        {
            let _held = parent.names.read();
            let fd = backing::open_path(directory.as_fd(), name)?;
            let stat = backing::stat_fd(&fd)?;
            if let Some(file) = self.shared.table.file_of(InodeKey::of(&stat)) {
                self.refer(file, &stat, parent, name, Some(fd))?;
                return self.entry(file, &stat);
            }
        }
        self.shared.adopt(parent, name)?;
        let _held = parent.names.read();
        let stat = backing::stat_name(directory.as_fd(), name)?;
        let file = self.shared.table.file_of(InodeKey::of(&stat)).ok_or(Errno::STALE)?;
        self.refer(file, &stat, parent, name, None)?;
        self.entry(file, &stat)
    }

    /// The node of a file found at `name`, with one lookup more. The directory is held.
    pub(super) fn refer(
        &self,
        file: FileId,
        stat: &Stat,
        parent: &Arc<Node>,
        name: &[u8],
        fd: Option<OwnedFd>,
    ) -> Result<Arc<Node>, Errno> {
        let place = Place { parent: Arc::clone(parent), name: Bytes::copy_from_slice(name) };
        let node = self.shared.table.refer(file, stat, Some(place), fd)?;
        if node.place().is_none() && node.file != self.root.file {
            node.set_place(parent, name);
        }
        self.shared.table.limit_descriptors();
        Ok(node)
    }

    pub(super) fn make_node(
        &self,
        caller: &Caller,
        parent: &Arc<Node>,
        name: &[u8],
        kind: FileKind,
        mode: u32,
        rdev: u64,
    ) -> Result<Entry, Errno> {
        let file_type = match kind {
            FileKind::Regular => FileType::RegularFile,
            FileKind::Fifo => FileType::Fifo,
            FileKind::Socket => FileType::Socket,
            FileKind::CharacterDevice => FileType::CharacterDevice,
            FileKind::BlockDevice => FileType::BlockDevice,
            FileKind::Directory | FileKind::Symlink => return Err(Errno::INVAL),
        };
        self.make(caller, parent, name, Some(mode), b"", |directory| {
            rustix::fs::mknodat(directory, name, file_type, Mode::from_raw_mode(mode), rdev)
        })
    }

    pub(super) fn make_directory(
        &self,
        caller: &Caller,
        parent: &Arc<Node>,
        name: &[u8],
        mode: u32,
    ) -> Result<Entry, Errno> {
        self.make(caller, parent, name, Some(mode), b"", |directory| {
            rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(mode))
        })
    }

    pub(super) fn make_symlink(
        &self,
        caller: &Caller,
        parent: &Arc<Node>,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry, Errno> {
        self.make(caller, parent, name, None, target, |directory| {
            rustix::fs::symlinkat(target, directory, name)
        })
    }

    fn make(
        &self,
        caller: &Caller,
        parent: &Arc<Node>,
        name: &[u8],
        mode: Option<u32>,
        target: &[u8],
        create: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<Entry, Errno> {
        self.shared.recorder.admit()?;
        let directory = parent.descriptor()?;
        let _held = parent.names.write();
        create(directory.as_fd())?;
        let (fd, stat) = self.give_to_caller(caller, directory.as_fd(), name, mode)?;
        let file = self.record_created(parent, directory.as_fd(), name, fd.as_fd(), &stat, target)?;
        // A sync of the new file covers its creation.
        self.refer(file, &stat, parent, name, Some(fd))?.touch(parent.last_position());
        self.entry(file, &stat)
    }

    pub(super) fn create_file(
        &self,
        caller: &Caller,
        parent: &Arc<Node>,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(Entry, Opened), Errno> {
        self.shared.recorder.admit()?;
        let directory = parent.descriptor()?;
        let held = parent.names.write();
        let create = backing_flags(flags | libc::O_RDWR)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&*directory, name, create, Mode::from_raw_mode(mode));
        if matches!(made, Err(Errno::EXIST)) && flags & libc::O_EXCL == 0 {
            drop(held);
            let entry = self.look_up(parent, name)?;
            let opened = self.open_file(self.node(entry.attributes.node)?, flags)?;
            return Ok((entry, opened));
        }
        let made = made?;
        let (fd, stat) = self.give_to_caller(caller, directory.as_fd(), name, Some(mode))?;
        let file = self.record_created(parent, directory.as_fd(), name, fd.as_fd(), &stat, b"")?;
        let node = self.refer(file, &stat, parent, name, Some(fd))?;
        node.touch(parent.last_position());
        Ok((self.entry(file, &stat)?, self.opened(node, made, flags)))
    }

    /// Makes what this process created the caller's, as the kernel would have created it for them. What
    /// cannot be is removed again: nobody has seen it.
    fn give_to_caller(
        &self,
        caller: &Caller,
        directory: BorrowedFd<'_>,
        name: &[u8],
        mode: Option<u32>,
    ) -> Result<(OwnedFd, Stat), Errno> {
        let fd = backing::open_path(directory, name)?;
        match self.set_owner(caller, directory, fd.as_fd(), mode) {
            Ok(stat) => Ok((fd, stat)),
            Err(errno) => {
                let is_directory = backing::kind(&backing::stat_fd(&fd)?) == Some(FileKind::Directory);
                let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                rustix::fs::unlinkat(directory, name, flags)?;
                Err(errno)
            }
        }
    }

    fn set_owner(
        &self,
        caller: &Caller,
        directory: BorrowedFd<'_>,
        fd: BorrowedFd<'_>,
        mode: Option<u32>,
    ) -> Result<Stat, Errno> {
        let stat = backing::stat_fd(fd)?;
        // In a directory with the set-group-id bit, the backing has given the group and perhaps the bit.
        let inherits = backing::stat_fd(directory)?.st_mode & libc::S_ISGID != 0;
        let uid = (stat.st_uid != caller.uid).then_some(caller.uid);
        let gid = (!inherits && stat.st_gid != caller.gid).then_some(caller.gid);
        if uid.is_some() || gid.is_some() {
            backing::chown_fd(fd, uid, gid)?;
        }
        if let Some(mode) = mode {
            let kept =
                if inherits && backing::kind(&stat) == Some(FileKind::Directory) { libc::S_ISGID } else { 0 };
            let wanted = mode | kept;
            if backing::stat_fd(fd)?.st_mode & 0o7777 != wanted {
                self.shared.descriptors.chmod(fd, wanted)?;
            }
        }
        backing::stat_fd(fd)
    }

    /// Gives a new file its id and records it. Its directory is held.
    fn record_created(
        &self,
        parent: &Node,
        directory: BorrowedFd<'_>,
        name: &[u8],
        fd: BorrowedFd<'_>,
        stat: &Stat,
        target: &[u8],
    ) -> Result<FileId, Errno> {
        let file = self.shared.table.new_file();
        self.shared.table.bind(InodeKey::of(stat), file);
        let recorder = &self.shared.recorder;
        if !recorder.is_recording() {
            return recorder.admit().map(|()| file);
        }
        let mut position = recorder.record_names(NamespaceChange::Create {
            file,
            parent: Some(parent.file),
            name: Bytes::copy_from_slice(name),
            attributes: backing::attributes(stat)?,
            target: Bytes::copy_from_slice(target),
            parent_mtime: mtime_of(directory),
        })?;
        // Labels and inherited access lists come with the creation.
        let xattrs = backing::xattrs(fd).unwrap_or_else(|errno| {
            tracing::warn!("cannot read the extended attributes of a new file: {errno}");
            Vec::new()
        });
        for (name, value) in xattrs {
            position = recorder.record_names(NamespaceChange::SetXattr { file, name, value })?;
        }
        parent.touch(position);
        Ok(file)
    }

    /// Removes a name of a file or of an empty directory.
    pub(super) fn remove(&self, parent: &Arc<Node>, name: &[u8], directory: bool) -> Result<(), Errno> {
        self.shared.recorder.admit()?;
        let within = parent.descriptor()?;
        let _held = parent.names.write();
        // Kept open, so that the count of names left can be asked, and the inode number is not given anew.
        let fd = backing::open_path(within.as_fd(), name)?;
        let victim = Victim::find(self, parent, name, &fd)?;
        let mut state = victim.state();
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        if let Err(errno) = rustix::fs::unlinkat(&*within, name, flags) {
            victim.stays(parent, name);
            return Err(errno);
        }
        victim.lost_a_name(self, &mut state);
        if !victim.known {
            return Ok(());
        }
        let position = self.shared.recorder.record_names(NamespaceChange::Unlink {
            parent: parent.file,
            name: Bytes::copy_from_slice(name),
            parent_mtime: mtime_of(within.as_fd()),
        })?;
        parent.touch(position);
        victim.touch(position);
        Ok(())
    }

    /// `renameat2` with NOREPLACE and EXCHANGE.
    pub(super) fn move_name(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        new_parent: &Arc<Node>,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        self.shared.recorder.admit()?;
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let (from, to) = (parent.descriptor()?, new_parent.descriptor()?);
        let _held = hold_both(parent, new_parent);
        let moved = backing::open_path(from.as_fd(), name)?;
        let replaced = match backing::open_path(to.as_fd(), new_name) {
            Ok(fd) => Some(fd),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        let moved_key = InodeKey::of(&backing::stat_fd(&moved)?);
        if let Some(replaced) = &replaced
            && InodeKey::of(&backing::stat_fd(replaced)?) == moved_key
        {
            // Two names of one file: the backing does nothing, and says so in its own way.
            return rustix::fs::renameat_with(&*from, name, &*to, new_name, flags);
        }
        let victim = match &replaced {
            Some(fd) => Some(Victim::find(self, new_parent, new_name, fd)?),
            None => None,
        };
        let mut state = victim.as_ref().and_then(Victim::state);
        if let Err(errno) = rustix::fs::renameat_with(&*from, name, &*to, new_name, flags) {
            if let Some(victim) = &victim {
                victim.stays(new_parent, new_name);
            }
            return Err(errno);
        }
        if let Some(node) = self.shared.table.node_of(moved_key)
            && (node.is_at(parent, name) || node.place().is_none())
        {
            node.set_place(new_parent, new_name);
        }
        if let Some(victim) = &victim {
            if exchange {
                victim.moved_to(parent, name);
            } else {
                victim.lost_a_name(self, &mut state);
            }
        }
        let position = self.shared.recorder.record_names(NamespaceChange::Rename {
            parent: parent.file,
            name: Bytes::copy_from_slice(name),
            new_parent: new_parent.file,
            new_name: Bytes::copy_from_slice(new_name),
            exchange,
            parent_mtime: mtime_of(from.as_fd()),
            new_parent_mtime: mtime_of(to.as_fd()),
        })?;
        if let Some(victim) = &victim {
            victim.touch(position);
        }
        self.touch_moved(moved_key, &[parent, new_parent], position);
        Ok(())
    }

    fn touch_moved(&self, moved: InodeKey, parents: &[&Arc<Node>], position: Position) {
        for parent in parents {
            parent.touch(position);
        }
        if let Some(node) = self.shared.table.node_of(moved) {
            node.touch(position);
        }
    }

    /// Gives a file another name.
    pub(super) fn add_name(
        &self,
        node: &Arc<Node>,
        new_parent: &Arc<Node>,
        new_name: &[u8],
    ) -> Result<Entry, Errno> {
        self.shared.recorder.admit()?;
        let (fd, directory) = (node.descriptor()?, new_parent.descriptor()?);
        let _held = new_parent.names.write();
        // Against a removal of its other names at the same time.
        let _state = node.state.lock();
        self.shared.descriptors.link(fd.as_fd(), directory.as_fd(), new_name)?;
        let stat = backing::stat_fd(&*fd)?;
        self.shared.table.bind(node.inode, node.file);
        let position = self.shared.recorder.record_names(NamespaceChange::Link {
            file: node.file,
            parent: new_parent.file,
            name: Bytes::copy_from_slice(new_name),
            parent_mtime: mtime_of(directory.as_fd()),
        })?;
        new_parent.touch(position);
        node.touch(position);
        self.refer(node.file, &stat, new_parent, new_name, None)?;
        self.entry(node.file, &stat)
    }
}

/// What loses a name, or its place to another in an exchange.
struct Victim<'a> {
    fd: BorrowedFd<'a>,
    key: InodeKey,
    /// Whether the journal knows it.
    known: bool,
    /// If it is in use.
    node: Option<Arc<Node>>,
    /// Whether the name that goes is the one by which it is found.
    was_place: bool,
}

impl<'a> Victim<'a> {
    fn find(pass: &PassThrough, parent: &Node, name: &[u8], fd: &'a OwnedFd) -> Result<Victim<'a>, Errno> {
        let key = InodeKey::of(&backing::stat_fd(fd)?);
        let node = pass.shared.table.node_of(key);
        let was_place = node.as_ref().is_some_and(|node| node.is_at(parent, name));
        if let Some(node) = &node {
            node.leave_place(parent, name)?;
        }
        Ok(Victim { fd: fd.as_fd(), key, known: pass.shared.table.knows(key), node, was_place })
    }

    /// Held while the name goes, so that no write of it is sequenced after its last name went.
    fn state(&self) -> Option<MutexGuard<'_, FileState>> {
        self.node.as_ref().map(|node| node.state.lock())
    }

    fn stays(&self, parent: &Arc<Node>, name: &[u8]) {
        if self.was_place {
            self.moved_to(parent, name);
        }
    }

    fn moved_to(&self, parent: &Arc<Node>, name: &[u8]) {
        if let Some(node) = &self.node
            && (self.was_place || node.place().is_none())
        {
            node.set_place(parent, name);
        }
    }

    /// A name went. If it was the last, nothing of the file is recorded any more from here on.
    fn lost_a_name(&self, pass: &PassThrough, state: &mut Option<MutexGuard<'_, FileState>>) {
        // Without an answer names may be left; what is recorded without one is ignored by who reads it.
        let Ok(stat) = backing::stat_fd(self.fd) else { return };
        // Some file systems leave a removed directory one link.
        if stat.st_nlink > 0 && backing::kind(&stat) != Some(FileKind::Directory) {
            return;
        }
        match state {
            Some(state) => state.nameless = true,
            // It may have come into use by another name, which went at the same time.
            None => {
                if let Some(node) = pass.shared.table.node_of(self.key) {
                    node.state.lock().nameless = true;
                }
            }
        }
        pass.shared.table.unbind(self.key);
    }

    fn touch(&self, position: Position) {
        if let Some(node) = &self.node {
            node.touch(position);
        }
    }
}

/// The locks of two directories, which may be one, always in the same order.
fn hold_both<'a>(
    one: &'a Node,
    other: &'a Node,
) -> (RwLockWriteGuard<'a, ()>, Option<RwLockWriteGuard<'a, ()>>) {
    if one.file == other.file {
        return (one.names.write(), None);
    }
    let (first, second) = if one.file < other.file { (one, other) } else { (other, one) };
    (first.names.write(), Some(second.names.write()))
}

/// A directory's modification time now. One that cannot be had is no reason to lose a change of names.
pub(super) fn mtime_of(directory: BorrowedFd<'_>) -> Time {
    backing::stat_fd(directory).as_ref().map_or(Time(0), backing::mtime)
}
