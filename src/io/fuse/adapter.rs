//! Answers the kernel's requests, as `fuser` hands them over, from a [`FileSystem`].
//!
//! Every request gets exactly one answer, also if the file system panics.

use std::any::Any;
use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Generation, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
};

use super::convert::{
    attributes_to_fuser, capabilities_from_fuser, capabilities_to_fuser, directory_kind, errno_to_fuser,
    kind_of_mode, opened_to_fuser, rdev_from_kernel, time_from_fuser, time_set_from_fuser,
};
use super::{
    Caller, Capabilities, DirectoryPlusSink, DirectorySink, Entry, Errno, FileSystem, Negotiation, Seek,
    SetAttributes, WriteFlags,
};
use crate::types::FileKind;

/// Largest read and write asked for: what the kernel sends at most without a raised `fs.fuse.max_pages_limit`.
const REQUEST_BYTES: u32 = 1 << 20;

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

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "no message"
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno_to_fuser(errno)),
    }
}

fn reply_entry(reply: ReplyEntry, result: Result<Entry, Errno>) {
    match result {
        Ok(entry) => reply.entry_with_ttls(
            &entry.attribute_ttl,
            &entry.entry_ttl,
            &attributes_to_fuser(&entry.attributes),
            Generation(entry.generation),
        ),
        Err(errno) => reply.error(errno_to_fuser(errno)),
    }
}

fn reply_attributes(reply: ReplyAttr, result: Result<(super::NodeAttributes, Duration), Errno>) {
    match result {
        Ok((attributes, ttl)) => reply.attr(&ttl, &attributes_to_fuser(&attributes)),
        Err(errno) => reply.error(errno_to_fuser(errno)),
    }
}

fn reply_opened(reply: ReplyOpen, result: Result<super::Opened, Errno>) {
    match result {
        Ok(opened) => reply.opened(FileHandle(opened.handle), opened_to_fuser(&opened)),
        Err(errno) => reply.error(errno_to_fuser(errno)),
    }
}

/// `size` 0 asks how large the value is.
fn reply_xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, Errno>) {
    match result {
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&value),
            Ok(_) => reply.error(fuser::Errno::ERANGE),
            Err(_) => reply.error(fuser::Errno::E2BIG),
        },
        Err(errno) => reply.error(errno_to_fuser(errno)),
    }
}

struct Names(ReplyDirectory);

impl DirectorySink for Names {
    fn add(&mut self, node: u64, next_offset: u64, kind: FileKind, name: &[u8]) -> bool {
        !self.0.add(INodeNo(node), next_offset, directory_kind(kind), OsStr::from_bytes(name))
    }
}

struct Entries(ReplyDirectoryPlus);

impl DirectoryPlusSink for Entries {
    fn add(&mut self, next_offset: u64, name: &[u8], entry: &Entry) -> bool {
        let attributes = attributes_to_fuser(&entry.attributes);
        let ttl = entry.attribute_ttl.min(entry.entry_ttl);
        let generation = Generation(entry.generation);
        !self.0.add(attributes.ino, next_offset, OsStr::from_bytes(name), &ttl, &attributes, generation)
    }
}

fn negotiate(file_system: &dyn FileSystem, config: &mut KernelConfig) -> Result<(), Errno> {
    let abi = config.kernel_abi();
    let mut negotiation = Negotiation {
        protocol: (abi.0, abi.1),
        offered: capabilities_from_fuser(config.capabilities()),
        wanted: Capabilities::usual(),
        max_write_bytes: REQUEST_BYTES,
        max_readahead_bytes: REQUEST_BYTES,
        max_background: 64,
    };
    file_system.init(&mut negotiation)?;
    let wanted = capabilities_to_fuser(&negotiation.wanted) & config.capabilities();
    config.add_capabilities(wanted).map_err(|_| Errno::INVAL)?;
    // A value out of range comes back as the nearest one that fits.
    if let Err(nearest) = config.set_max_write(negotiation.max_write_bytes) {
        config.set_max_write(nearest).map_err(|_| Errno::INVAL)?;
    }
    if let Err(nearest) = config.set_max_readahead(negotiation.max_readahead_bytes) {
        // A kernel told not to read ahead at all offers 0, which cannot be set but is kept as it is.
        if nearest > 0 {
            config.set_max_readahead(nearest).map_err(|_| Errno::INVAL)?;
        }
    }
    config.set_max_background(negotiation.max_background.max(1)).map_err(|_| Errno::INVAL)?;
    Ok(())
}

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

    fn bmap(&self, _request: &Request, _node: INodeNo, _block_bytes: u32, _index: u64, reply: ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
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

    fn poll(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
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

    fn copy_file_range(
        &self,
        _request: &Request,
        _node_in: INodeNo,
        _handle_in: FileHandle,
        _offset_in: u64,
        _node_out: INodeNo,
        _handle_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel then copies through reads and writes.
        reply.error(fuser::Errno::ENOSYS);
    }
}
