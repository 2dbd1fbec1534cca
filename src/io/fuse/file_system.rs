//! The trait a file system implements to be served over FUSE.

use super::{
    Caller, DirectoryPlusSink, DirectorySink, Entry, Errno, Negotiation, NodeAttributes, Opened, Seek,
    SetAttributes, StorageStatus, WriteFlags,
};
use crate::types::FileKind;

/// Inode operations, called from several threads at once; each may block, and blocks one thread of the session.
///
/// Nodes are numbers the file system chooses, [`super::ROOT_NODE`] being the root; names are bytes without
/// `/` and NUL. The kernel checks permissions if the session asks for it. An operation left out answers
/// `ENOSYS`, and the kernel then falls back or stops asking. A panic becomes `EIO` for its caller and is
/// logged. Nothing here may touch its own mount: it would wait for itself.
#[expect(unused_variables, reason = "defaults ignore what they are asked")]
pub trait FileSystem: Send + Sync + 'static {
    /// Chooses among what the kernel offers. Called once, before any request.
    ///
    /// # Errors
    /// Fails the mount.
    fn init(&self, negotiation: &mut Negotiation) -> Result<(), Errno> {
        Ok(())
    }

    /// The session has ended; no request will follow. Open handles may not have been released.
    fn destroy(&self) {}

    /// # Errors
    /// `ENOENT` if there is no such name.
    fn lookup(&self, caller: &Caller, parent: u64, name: &[u8]) -> Result<Entry, Errno>;

    /// The kernel drops `count` lookups of the node; at none left it will not name the node again, unless
    /// looked up anew.
    fn forget(&self, node: u64, count: u64) {}

    /// Attributes, and how long the kernel may use them.
    ///
    /// # Errors
    /// `ENOENT`, `ESTALE` or the storage's.
    fn getattr(
        &self,
        caller: &Caller,
        node: u64,
        handle: Option<u64>,
    ) -> Result<(NodeAttributes, std::time::Duration), Errno>;

    /// # Errors
    /// The storage's.
    fn setattr(
        &self,
        caller: &Caller,
        node: u64,
        set: &SetAttributes,
    ) -> Result<(NodeAttributes, std::time::Duration), Errno> {
        Err(Errno::NOSYS)
    }

    /// # Errors
    /// `EINVAL` if the node is not a link.
    fn readlink(&self, caller: &Caller, node: u64) -> Result<Vec<u8>, Errno> {
        Err(Errno::NOSYS)
    }

    /// Creates a file of any kind but a directory or link; the caller's umask is already applied to `mode`.
    ///
    /// # Errors
    /// `EEXIST` and the storage's.
    fn mknod(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        kind: FileKind,
        mode: u32,
        rdev: u64,
    ) -> Result<Entry, Errno> {
        Err(Errno::NOSYS)
    }

    /// # Errors
    /// `EEXIST` and the storage's.
    fn mkdir(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Result<Entry, Errno> {
        Err(Errno::NOSYS)
    }

    /// # Errors
    /// `EEXIST` and the storage's.
    fn symlink(&self, caller: &Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Entry, Errno> {
        Err(Errno::PERM)
    }

    /// # Errors
    /// The storage's.
    fn unlink(&self, caller: &Caller, parent: u64, name: &[u8]) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    /// # Errors
    /// `ENOTEMPTY` and the storage's.
    fn rmdir(&self, caller: &Caller, parent: u64, name: &[u8]) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    /// `flags` as of `renameat2`: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT.
    ///
    /// # Errors
    /// `EINVAL` for flags not known; the storage's.
    fn rename(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    /// # Errors
    /// The storage's.
    fn link(&self, caller: &Caller, node: u64, new_parent: u64, new_name: &[u8]) -> Result<Entry, Errno> {
        Err(Errno::PERM)
    }

    /// `flags` as of `open`, without O_CREAT and O_EXCL, and without O_TRUNC unless `atomic_o_trunc`.
    ///
    /// # Errors
    /// The storage's.
    fn open(&self, caller: &Caller, node: u64, flags: i32) -> Result<Opened, Errno> {
        Ok(Opened::default())
    }

    /// Creates and opens a regular file; `flags` as of `open`.
    ///
    /// # Errors
    /// `EEXIST` if O_EXCL is set and it exists; the storage's.
    fn create(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(Entry, Opened), Errno> {
        Err(Errno::NOSYS)
    }

    /// Fills `buf` from `offset` on and returns how many bytes; fewer than `buf.len()` mean the end of the
    /// file. What `buf` holds before is of no meaning.
    ///
    /// # Errors
    /// The storage's.
    fn read(
        &self,
        caller: &Caller,
        node: u64,
        handle: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, Errno>;

    /// Returns how many bytes were written.
    ///
    /// # Errors
    /// The storage's.
    fn write(
        &self,
        caller: &Caller,
        node: u64,
        handle: u64,
        offset: u64,
        bytes: &[u8],
        flags: WriteFlags,
    ) -> Result<u32, Errno> {
        Err(Errno::NOSYS)
    }

    /// A descriptor of this open file is closed; its error is that of `close`.
    ///
    /// # Errors
    /// The storage's.
    fn flush(&self, caller: &Caller, node: u64, handle: u64) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    /// The last descriptor and map of this open file are gone. Comes once for every handle, after `close` may
    /// have returned; not at all if the session ends first, which a lazy unmount can bring about.
    fn release(&self, node: u64, handle: u64) {}

    /// Returns when data (and, unless `data_only`, all metadata) of the file are durable.
    ///
    /// # Errors
    /// The storage's.
    fn fsync(&self, caller: &Caller, node: u64, handle: u64, data_only: bool) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    /// # Errors
    /// The storage's.
    fn opendir(&self, caller: &Caller, node: u64, flags: i32) -> Result<Opened, Errno> {
        Ok(Opened::default())
    }

    /// Gives the names after `offset` (0: from the start), with `.` and `..` if wanted, until the sink is full.
    ///
    /// # Errors
    /// The storage's; what the sink already took is then not seen.
    fn readdir(
        &self,
        caller: &Caller,
        node: u64,
        handle: u64,
        offset: u64,
        sink: &mut dyn DirectorySink,
    ) -> Result<(), Errno>;

    /// As [`FileSystem::readdir`], each name with its entry.
    ///
    /// # Errors
    /// The storage's; what the sink already took is then not seen, and lookups counted for it must be undone.
    fn readdirplus(
        &self,
        caller: &Caller,
        node: u64,
        handle: u64,
        offset: u64,
        sink: &mut dyn DirectoryPlusSink,
    ) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    fn releasedir(&self, node: u64, handle: u64) {}

    /// # Errors
    /// The storage's.
    fn fsyncdir(&self, caller: &Caller, node: u64, handle: u64, data_only: bool) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    /// # Errors
    /// The storage's.
    fn statfs(&self, caller: &Caller, node: u64) -> Result<StorageStatus, Errno>;

    /// `flags`: XATTR_CREATE, XATTR_REPLACE.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA` as the flags ask; the storage's.
    fn setxattr(
        &self,
        caller: &Caller,
        node: u64,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    /// # Errors
    /// `ENODATA` if there is no such attribute.
    fn getxattr(&self, caller: &Caller, node: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(Errno::NOSYS)
    }

    /// Names of the extended attributes.
    ///
    /// # Errors
    /// The storage's.
    fn listxattr(&self, caller: &Caller, node: u64) -> Result<Vec<Vec<u8>>, Errno> {
        Err(Errno::NOSYS)
    }

    /// # Errors
    /// `ENODATA` if there is no such attribute.
    fn removexattr(&self, caller: &Caller, node: u64, name: &[u8]) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    /// `access`; not asked if the kernel checks permissions. `ENOSYS` allows everything and is asked once.
    ///
    /// # Errors
    /// `EACCES`.
    fn access(&self, caller: &Caller, node: u64, mask: i32) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    /// `mode` as of `fallocate`: FALLOC_FL_KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for modes not known; the storage's.
    fn fallocate(
        &self,
        caller: &Caller,
        node: u64,
        handle: u64,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// The next data or hole at or after `offset`.
    ///
    /// # Errors
    /// `ENXIO` if `offset` lies at or beyond the end, or only a hole follows where data is sought.
    fn lseek(&self, caller: &Caller, node: u64, handle: u64, offset: u64, seek: Seek) -> Result<u64, Errno> {
        Err(Errno::NOSYS)
    }
}
