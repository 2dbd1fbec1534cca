//! The pass-through file system of one root: what the kernel asks, sent to where it is done.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::Stat;

use super::backing::{self, Descriptors};
use super::node::Node;
use super::pending::Pending;
use super::recorder::Recorder;
use super::stamps::Stamps;
use super::table::{Handles, Table};
use crate::io::fuse::{
    Caller, Capabilities, DirectoryPlusSink, DirectorySink, Entry, Errno, FileSystem, Negotiation,
    NodeAttributes, Opened, ROOT_NODE, Seek, SetAttributes, StorageStatus, WriteFlags,
};
use crate::types::FileId;

/// Names and attributes change only through the kernel that caches them.
pub(super) const CACHE_TTL: Duration = Duration::from_secs(3600);

/// What all roots of a source share.
pub(super) struct Shared {
    pub table: Table,
    pub recorder: Recorder,
    pub descriptors: Descriptors,
    pub pending: Pending,
    pub stamps: Stamps,
    pub counters: Counters,
}

/// Operations served, for the status.
#[derive(Default)]
pub(super) struct Counters {
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    pub syncs: AtomicU64,
}

/// An open file.
pub(super) struct Handle {
    pub node: Arc<Node>,
    pub file: OwnedFd,
    /// What a write must wait for before it is answered.
    pub synchronous: Option<Synchronous>,
}

/// O_SYNC and O_DSYNC, taken off the backing descriptor so that journal and backing are synced together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Synchronous {
    Data,
    Everything,
}

/// An open directory.
pub(super) struct DirectoryHandle {
    pub node: Arc<Node>,
    pub fd: parking_lot::Mutex<OwnedFd>,
}

/// The file system of one root.
pub(super) struct PassThrough {
    pub shared: Arc<Shared>,
    pub root: Arc<Node>,
    pub handles: Handles<Handle>,
    pub directories: Handles<DirectoryHandle>,
}

impl PassThrough {
    pub(super) fn new(shared: Arc<Shared>, root: Arc<Node>) -> PassThrough {
        PassThrough { shared, root, handles: Handles::default(), directories: Handles::default() }
    }

    /// The node the kernel names. It holds references to all that it can name, so one not found is its fault.
    pub(super) fn node(&self, node: u64) -> Result<Arc<Node>, Errno> {
        if node == ROOT_NODE {
            return Ok(Arc::clone(&self.root));
        }
        self.shared.table.node(FileId(node)).ok_or(Errno::STALE)
    }

    /// The kernel's name for a file.
    pub(super) fn node_id(&self, file: FileId) -> u64 {
        if file == self.root.file { ROOT_NODE } else { file.0 }
    }

    pub(super) fn node_attributes(&self, file: FileId, stat: &Stat) -> Result<NodeAttributes, Errno> {
        Ok(NodeAttributes {
            node: self.node_id(file),
            kind: backing::kind(stat).ok_or(Errno::OPNOTSUPP)?,
            mode: stat.st_mode & 0o7777,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            block_bytes: u32::try_from(stat.st_blksize).unwrap_or(4096),
            atime: backing::atime(stat),
            mtime: backing::mtime(stat),
            ctime: backing::ctime(stat),
        })
    }

    pub(super) fn entry(&self, file: FileId, stat: &Stat) -> Result<Entry, Errno> {
        Ok(Entry {
            // Ids are never given twice.
            generation: 0,
            attributes: self.node_attributes(file, stat)?,
            attribute_ttl: CACHE_TTL,
            entry_ttl: CACHE_TTL,
        })
    }
}

impl FileSystem for PassThrough {
    fn init(&self, negotiation: &mut Negotiation) -> Result<(), Errno> {
        // Write-back would delay and merge what must be recorded in the order of the application.
        negotiation.wanted = Capabilities {
            handle_killpriv_v2: true,
            explicit_inval_data: true,
            cache_symlinks: true,
            ..Capabilities::usual()
        };
        Ok(())
    }

    fn lookup(&self, _caller: &Caller, parent: u64, name: &[u8]) -> Result<Entry, Errno> {
        self.look_up(&self.node(parent)?, name)
    }

    fn forget(&self, node: u64, count: u64) {
        if node != ROOT_NODE {
            self.shared.table.release(FileId(node), count);
        }
    }

    fn getattr(
        &self,
        _caller: &Caller,
        node: u64,
        handle: Option<u64>,
    ) -> Result<(NodeAttributes, Duration), Errno> {
        let open = handle.and_then(|handle| self.handles.get(handle).ok());
        let (file, stat) = match open {
            Some(open) => (open.node.file, backing::stat_fd(&open.file)?),
            None => {
                let node = self.node(node)?;
                (node.file, backing::stat_fd(&*node.descriptor()?)?)
            }
        };
        Ok((self.node_attributes(file, &stat)?, CACHE_TTL))
    }

    fn setattr(
        &self,
        caller: &Caller,
        node: u64,
        set: &SetAttributes,
    ) -> Result<(NodeAttributes, Duration), Errno> {
        self.set_attributes(caller, &self.node(node)?, set)
    }

    fn readlink(&self, _caller: &Caller, node: u64) -> Result<Vec<u8>, Errno> {
        backing::read_link(self.node(node)?.descriptor()?.as_fd())
    }

    fn mknod(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        kind: crate::types::FileKind,
        mode: u32,
        rdev: u64,
    ) -> Result<Entry, Errno> {
        self.make_node(caller, &self.node(parent)?, name, kind, mode, rdev)
    }

    fn mkdir(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Result<Entry, Errno> {
        self.make_directory(caller, &self.node(parent)?, name, mode)
    }

    fn symlink(&self, caller: &Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Entry, Errno> {
        self.make_symlink(caller, &self.node(parent)?, name, target)
    }

    fn unlink(&self, _caller: &Caller, parent: u64, name: &[u8]) -> Result<(), Errno> {
        self.remove(&self.node(parent)?, name, false)
    }

    fn rmdir(&self, _caller: &Caller, parent: u64, name: &[u8]) -> Result<(), Errno> {
        self.remove(&self.node(parent)?, name, true)
    }

    fn rename(
        &self,
        _caller: &Caller,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        self.move_name(&self.node(parent)?, name, &self.node(new_parent)?, new_name, flags)
    }

    fn link(&self, _caller: &Caller, node: u64, new_parent: u64, new_name: &[u8]) -> Result<Entry, Errno> {
        self.add_name(&self.node(node)?, &self.node(new_parent)?, new_name)
    }

    fn open(&self, _caller: &Caller, node: u64, flags: i32) -> Result<Opened, Errno> {
        self.open_file(self.node(node)?, flags)
    }

    fn create(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(Entry, Opened), Errno> {
        self.create_file(caller, &self.node(parent)?, name, mode, flags)
    }

    fn read(
        &self,
        _caller: &Caller,
        _node: u64,
        handle: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, Errno> {
        self.shared.counters.reads.fetch_add(1, Ordering::Relaxed);
        backing::read_full(&self.handles.get(handle)?.file, offset, buf)
    }

    fn write(
        &self,
        _caller: &Caller,
        _node: u64,
        handle: u64,
        offset: u64,
        bytes: &[u8],
        flags: WriteFlags,
    ) -> Result<u32, Errno> {
        self.shared.counters.writes.fetch_add(1, Ordering::Relaxed);
        self.write_file(&*self.handles.get(handle)?, offset, bytes, flags)
    }

    // `flush` stays ENOSYS: writes are done when they are answered, and the kernel then stops asking.

    fn release(&self, _node: u64, handle: u64) {
        self.handles.remove(handle);
    }

    fn fsync(&self, _caller: &Caller, _node: u64, handle: u64, data_only: bool) -> Result<(), Errno> {
        let open = self.handles.get(handle)?;
        self.sync_file(&open.node, &open.file, data_only)
    }

    fn opendir(&self, _caller: &Caller, node: u64, _flags: i32) -> Result<Opened, Errno> {
        self.open_directory(self.node(node)?)
    }

    fn readdir(
        &self,
        _caller: &Caller,
        _node: u64,
        handle: u64,
        offset: u64,
        sink: &mut dyn DirectorySink,
    ) -> Result<(), Errno> {
        self.list(&*self.directories.get(handle)?, offset, sink)
    }

    fn readdirplus(
        &self,
        _caller: &Caller,
        _node: u64,
        handle: u64,
        offset: u64,
        sink: &mut dyn DirectoryPlusSink,
    ) -> Result<(), Errno> {
        self.list_with_entries(&*self.directories.get(handle)?, offset, sink)
    }

    fn releasedir(&self, _node: u64, handle: u64) {
        self.directories.remove(handle);
    }

    fn fsyncdir(&self, _caller: &Caller, _node: u64, handle: u64, data_only: bool) -> Result<(), Errno> {
        let open = self.directories.get(handle)?;
        let fd = open.fd.lock();
        self.sync_file(&open.node, &*fd, data_only)
    }

    fn statfs(&self, _caller: &Caller, _node: u64) -> Result<StorageStatus, Errno> {
        let status = rustix::fs::fstatvfs(&*self.root.descriptor()?)?;
        Ok(StorageStatus {
            blocks: status.f_blocks,
            blocks_free: status.f_bfree,
            blocks_available: status.f_bavail,
            files: status.f_files,
            files_free: status.f_ffree,
            block_bytes: u32::try_from(status.f_frsize).unwrap_or(4096),
            name_bytes_max: u32::try_from(status.f_namemax).unwrap_or(255),
        })
    }

    fn setxattr(
        &self,
        _caller: &Caller,
        node: u64,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        self.set_xattr(&*self.node(node)?, name, value, flags)
    }

    fn getxattr(&self, _caller: &Caller, node: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        backing::xattr(self.node(node)?.descriptor()?.as_fd(), name)
    }

    fn listxattr(&self, _caller: &Caller, node: u64) -> Result<Vec<Vec<u8>>, Errno> {
        backing::xattr_names(self.node(node)?.descriptor()?.as_fd())
    }

    fn removexattr(&self, _caller: &Caller, node: u64, name: &[u8]) -> Result<(), Errno> {
        self.remove_xattr(&*self.node(node)?, name)
    }

    fn fallocate(
        &self,
        _caller: &Caller,
        _node: u64,
        handle: u64,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<(), Errno> {
        self.allocate(&*self.handles.get(handle)?, offset, len, mode)
    }

    fn lseek(
        &self,
        _caller: &Caller,
        _node: u64,
        handle: u64,
        offset: u64,
        seek: Seek,
    ) -> Result<u64, Errno> {
        let open = self.handles.get(handle)?;
        let target = match seek {
            Seek::Data => rustix::fs::SeekFrom::Data(offset),
            Seek::Hole => rustix::fs::SeekFrom::Hole(offset),
        };
        // Reads and writes give their offsets, so the descriptor's own offset is free to be moved.
        rustix::fs::seek(&open.file, target)
    }
}
