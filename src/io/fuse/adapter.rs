//! Answers the kernel's requests, as `fuser` hands them over, from a [`FileSystem`].
//!
//! Every request gets exactly one answer, also if the file system panics.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, FileHandle, Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow,
};

use super::answer::{
    Entries, Names, caller, negotiate, panic_text, reply_attributes, reply_empty, reply_entry, reply_opened,
    reply_xattr,
};
use super::convert::{
    attributes_to_fuser, errno_to_fuser, kind_of_mode, opened_to_fuser, rdev_from_kernel, time_from_fuser,
    time_set_from_fuser,
};
use super::{Errno, FileSystem, Seek, SetAttributes, WriteFlags};

/// A read larger than this is answered short; no kernel asks for it after the negotiation above.
const READ_BYTES_MAX: usize = 16 << 20;

thread_local! {
    /// What the last read of this thread used, so that a read costs neither an allocation nor zeroing.
    static READ_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

pub(super) struct Adapter {
    file_system: Arc<dyn FileSystem>,
}

impl Adapter {
    pub(super) fn new(file_system: Arc<dyn FileSystem>) -> Adapter {
        Adapter { file_system }
    }

    /// Calls the file system; a panic becomes `EIO`.
    fn call<T>(
        &self,
        what: &str,
        operation: impl FnOnce(&dyn FileSystem) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match catch_unwind(AssertUnwindSafe(|| operation(&*self.file_system))) {
            Ok(result) => result,
            Err(panic) => {
                tracing::error!("{what} panicked: {}; its caller gets an I/O error", panic_text(&*panic));
                Err(Errno::IO)
            }
        }
    }
}

// What is left out (`poll`, `bmap`, `copy_file_range`, locks) fuser answers with ENOSYS: the kernel then does it by
// itself, and does not ask again.
impl fuser::Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.call("init", |fs| negotiate(fs, config)).map_err(io::Error::from)
    }

    fn destroy(&mut self) {
        // There is nobody to tell of a panic but the log.
        let _logged = self.call("destroy", |fs| {
            fs.destroy();
            Ok(())
        });
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply_entry(reply, self.call("lookup", |fs| fs.lookup(&caller(request), parent.0, name.as_bytes())));
    }

    fn forget(&self, _request: &Request, node: INodeNo, count: u64) {
        let _logged = self.call("forget", |fs| {
            fs.forget(node.0, count);
            Ok(())
        });
    }

    fn getattr(&self, request: &Request, node: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let handle = handle.map(|handle| handle.0);
        reply_attributes(reply, self.call("getattr", |fs| fs.getattr(&caller(request), node.0, handle)));
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttributes {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(time_set_from_fuser),
            mtime: mtime.map(time_set_from_fuser),
            ctime: ctime.map(time_from_fuser),
            handle: handle.map(|handle| handle.0),
        };
        reply_attributes(reply, self.call("setattr", |fs| fs.setattr(&caller(request), node.0, &set)));
    }

    fn readlink(&self, request: &Request, node: INodeNo, reply: ReplyData) {
        match self.call("readlink", |fs| fs.readlink(&caller(request), node.0)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno_to_fuser(errno)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = kind_of_mode(mode) else {
            return reply.error(fuser::Errno::EINVAL);
        };
        let (mode, rdev) = (mode & 0o7777, rdev_from_kernel(rdev));
        let name = name.as_bytes();
        reply_entry(
            reply,
            self.call("mknod", |fs| fs.mknod(&caller(request), parent.0, name, kind, mode, rdev)),
        );
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let name = name.as_bytes();
        reply_entry(
            reply,
            self.call("mkdir", |fs| fs.mkdir(&caller(request), parent.0, name, mode & 0o7777)),
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.call("unlink", |fs| fs.unlink(&caller(request), parent.0, name.as_bytes())));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.call("rmdir", |fs| fs.rmdir(&caller(request), parent.0, name.as_bytes())));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target) = (name.as_bytes(), target.as_os_str().as_bytes());
        reply_entry(reply, self.call("symlink", |fs| fs.symlink(&caller(request), parent.0, name, target)));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
        let result = self.call("rename", |fs| {
            fs.rename(&caller(request), parent.0, name, new_parent.0, new_name, flags.bits())
        });
        reply_empty(reply, result);
    }

    fn link(
        &self,
        request: &Request,
        node: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let new_name = new_name.as_bytes();
        reply_entry(reply, self.call("link", |fs| fs.link(&caller(request), node.0, new_parent.0, new_name)));
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        reply_opened(reply, self.call("open", |fs| fs.open(&caller(request), node.0, flags.0)));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.as_bytes();
        match self.call("create", |fs| fs.create(&caller(request), parent.0, name, mode & 0o7777, flags)) {
            Ok((entry, opened)) => reply.created(
                &entry.attribute_ttl.min(entry.entry_ttl),
                &attributes_to_fuser(&entry.attributes),
                Generation(entry.generation),
                FileHandle(opened.handle),
                opened_to_fuser(&opened),
            ),
            Err(errno) => reply.error(errno_to_fuser(errno)),
        }
    }

    fn read(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = (size as usize).min(READ_BYTES_MAX);
        let mut buffer = READ_BUFFER.take();
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let wanted = &mut buffer[..size];
        match self.call("read", |fs| fs.read(&caller(request), node.0, handle.0, offset, wanted)) {
            Ok(len) => reply.data(&buffer[..len.min(size)]),
            Err(errno) => reply.error(errno_to_fuser(errno)),
        }
        READ_BUFFER.set(buffer);
    }

    fn write(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        write_flags: fuser::WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let flags = WriteFlags {
            from_cache: write_flags.contains(fuser::WriteFlags::FUSE_WRITE_CACHE),
            kill_privileges: write_flags.contains(fuser::WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            open_flags: flags.0,
        };
        match self.call("write", |fs| fs.write(&caller(request), node.0, handle.0, offset, bytes, flags)) {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno_to_fuser(errno)),
        }
    }

    fn flush(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply_empty(reply, self.call("flush", |fs| fs.flush(&caller(request), node.0, handle.0)));
    }

    fn release(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let result = self.call("release", |fs| {
            fs.release(node.0, handle.0);
            Ok(())
        });
        reply_empty(reply, result);
    }

    fn fsync(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty(reply, self.call("fsync", |fs| fs.fsync(&caller(request), node.0, handle.0, data_only)));
    }

    fn opendir(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        reply_opened(reply, self.call("opendir", |fs| fs.opendir(&caller(request), node.0, flags.0)));
    }

    fn readdir(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let mut names = Names(reply);
        match self.call("readdir", |fs| fs.readdir(&caller(request), node.0, handle.0, offset, &mut names)) {
            Ok(()) => names.0.ok(),
            Err(errno) => names.0.error(errno_to_fuser(errno)),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let mut entries = Entries(reply);
        let result = self.call("readdirplus", |fs| {
            fs.readdirplus(&caller(request), node.0, handle.0, offset, &mut entries)
        });
        match result {
            Ok(()) => entries.0.ok(),
            Err(errno) => entries.0.error(errno_to_fuser(errno)),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let result = self.call("releasedir", |fs| {
            fs.releasedir(node.0, handle.0);
            Ok(())
        });
        reply_empty(reply, result);
    }

    fn fsyncdir(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty(
            reply,
            self.call("fsyncdir", |fs| fs.fsyncdir(&caller(request), node.0, handle.0, data_only)),
        );
    }

    fn statfs(&self, request: &Request, node: INodeNo, reply: ReplyStatfs) {
        match self.call("statfs", |fs| fs.statfs(&caller(request), node.0)) {
            Ok(status) => reply.statfs(
                status.blocks,
                status.blocks_free,
                status.blocks_available,
                status.files,
                status.files_free,
                status.block_bytes,
                status.name_bytes_max,
                status.block_bytes,
            ),
            Err(errno) => reply.error(errno_to_fuser(errno)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let name = name.as_bytes();
        reply_empty(
            reply,
            self.call("setxattr", |fs| fs.setxattr(&caller(request), node.0, name, value, flags)),
        );
    }

    fn getxattr(&self, request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes();
        reply_xattr(reply, size, self.call("getxattr", |fs| fs.getxattr(&caller(request), node.0, name)));
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.call("listxattr", |fs| fs.listxattr(&caller(request), node.0));
        let joined =
            names.map(|names| names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect());
        reply_xattr(reply, size, joined);
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes();
        reply_empty(reply, self.call("removexattr", |fs| fs.removexattr(&caller(request), node.0, name)));
    }

    fn access(&self, request: &Request, node: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        reply_empty(reply, self.call("access", |fs| fs.access(&caller(request), node.0, mask.bits())));
    }

    fn ioctl(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_bytes: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let result =
            self.call("fallocate", |fs| fs.fallocate(&caller(request), node.0, handle.0, offset, len, mode));
        reply_empty(reply, result);
    }

    fn lseek(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let seek = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(fuser::Errno::ENXIO);
        };
        let found = self.call("lseek", |fs| fs.lseek(&caller(request), node.0, handle.0, offset, seek));
        match found.map(i64::try_from) {
            Ok(Ok(found)) => reply.offset(found),
            Ok(Err(_)) => reply.error(fuser::Errno::EOVERFLOW),
            Err(errno) => reply.error(errno_to_fuser(errno)),
        }
    }
}
