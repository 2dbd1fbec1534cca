//! System calls on backing files, by descriptor and name, never by path: what is renamed meanwhile stays found.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::io::fuse::TimeSet;
use crate::types::{Attributes, FileKind, Time};

/// Which inode a file is on this host; unique while the inode lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct InodeKey {
    pub device: u64,
    pub inode: u64,
}

impl InodeKey {
    pub(super) fn of(stat: &Stat) -> InodeKey {
        InodeKey { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// A way to open and name what a descriptor stands for: `/proc/self/fd`, kept open so that it is ours even if
/// something else is mounted there later.
#[derive(Debug)]
pub(super) struct Descriptors(OwnedFd);

impl Descriptors {
    pub(super) fn new() -> Result<Descriptors, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Descriptors(rustix::fs::open("/proc/self/fd", flags, Mode::empty())?))
    }

    /// Opens anew what `fd` (perhaps O_PATH) stands for.
    pub(super) fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::LARGEFILE;
        rustix::fs::openat(&self.0, number(fd).as_str(), flags, Mode::empty())
    }

    pub(super) fn chmod(&self, fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
        rustix::fs::chmodat(
            &self.0,
            number(fd).as_str(),
            Mode::from_raw_mode(mode & 0o7777),
            AtFlags::empty(),
        )
    }

    pub(super) fn set_times(
        &self,
        fd: BorrowedFd<'_>,
        atime: Option<TimeSet>,
        mtime: Option<TimeSet>,
    ) -> Result<(), Errno> {
        let times = Timestamps { last_access: time_spec(atime), last_modification: time_spec(mtime) };
        rustix::fs::utimensat(&self.0, number(fd).as_str(), &times, AtFlags::empty())
    }

    /// Gives the file of `fd` another name.
    pub(super) fn link(
        &self,
        fd: BorrowedFd<'_>,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), Errno> {
        rustix::fs::linkat(&self.0, number(fd).as_str(), directory, name, AtFlags::SYMLINK_FOLLOW)
    }
}

fn number(fd: BorrowedFd<'_>) -> String {
    fd.as_raw_fd().to_string()
}

/// The path by which calls that know no descriptors (extended attributes) reach an O_PATH descriptor's file.
fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn time_spec(time: Option<TimeSet>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(TimeSet::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(TimeSet::At(time)) => {
            let (seconds, nanoseconds) = time.split();
            Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() }
        }
    }
}

/// An O_PATH descriptor of a name in a directory; links are not followed.
pub(super) fn open_path(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// `stat` of a descriptor, O_PATH or not.
pub(super) fn stat_fd(fd: impl AsFd) -> Result<Stat, Errno> {
    rustix::fs::fstat(fd)
}

/// `lstat` of a name in a directory.
pub(super) fn stat_name(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

pub(super) fn chown_fd(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH)
}

pub(super) fn read_link(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    Ok(rustix::fs::readlinkat(fd, "", Vec::new())?.into_bytes())
}

pub(super) fn mtime(stat: &Stat) -> Time {
    Time::join(stat.st_mtime, stat.st_mtime_nsec as u32)
}

pub(super) fn ctime(stat: &Stat) -> Time {
    Time::join(stat.st_ctime, stat.st_ctime_nsec as u32)
}

pub(super) fn atime(stat: &Stat) -> Time {
    Time::join(stat.st_atime, stat.st_atime_nsec as u32)
}

pub(super) fn kind(stat: &Stat) -> Option<FileKind> {
    use rustix::fs::FileType;
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharacterDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => return None,
    })
}

/// What the journal keeps of a `stat`. Files of a kind unknown to Linux cannot be.
pub(super) fn attributes(stat: &Stat) -> Result<Attributes, Errno> {
    let kind = kind(stat).ok_or(Errno::OPNOTSUPP)?;
    let device = matches!(kind, FileKind::CharacterDevice | FileKind::BlockDevice);
    Ok(Attributes {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: if device { stat.st_rdev } else { 0 },
        mtime: mtime(stat),
    })
}

/// The value of an extended attribute.
pub(super) fn xattr(fd: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let (path, name) = (proc_path(fd), c_name(name)?);
    let mut value = Vec::with_capacity(256);
    loop {
        match rustix::fs::getxattr(path.as_str(), name.as_c_str(), rustix::buffer::spare_capacity(&mut value))
        {
            Ok(_) => return Ok(value),
            Err(Errno::RANGE) => {
                let len = rustix::fs::getxattr_query(path.as_str(), name.as_c_str())?;
                value.reserve(len.max(value.capacity() + 1));
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// Names of extended attributes.
pub(super) fn xattr_names(fd: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let path = proc_path(fd);
    let mut names = Vec::with_capacity(1024);
    loop {
        match rustix::fs::listxattr(path.as_str(), rustix::buffer::spare_capacity(&mut names)) {
            Ok(_) => break,
            Err(Errno::RANGE) => {
                let len = rustix::fs::listxattr_query(path.as_str())?;
                names.reserve(len.max(names.capacity() + 1));
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// All extended attributes, ascending by name; none where the file system has none. One that vanishes or
/// cannot be read (another security domain's) is left out.
pub(super) fn xattrs(fd: BorrowedFd<'_>) -> Result<Vec<(Bytes, Bytes)>, Errno> {
    let names = match xattr_names(fd) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        match xattr(fd, &name) {
            Ok(value) => found.push((name.into(), value.into())),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn set_xattr(fd: BorrowedFd<'_>, name: &[u8], value: &[u8], flags: i32) -> Result<(), Errno> {
    let flags = XattrFlags::from_bits_retain(flags as u32);
    rustix::fs::setxattr(proc_path(fd).as_str(), c_name(name)?.as_c_str(), value, flags)
}

pub(super) fn remove_xattr(fd: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::removexattr(proc_path(fd).as_str(), c_name(name)?.as_c_str())
}

fn c_name(name: &[u8]) -> Result<CString, Errno> {
    CString::new(name).map_err(|_| Errno::INVAL)
}

/// Reads until `buf` is full or the file ends; returns how many bytes.
pub(super) fn read_full(fd: impl AsFd, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    let fd = fd.as_fd();
    let mut done = 0;
    while done < buf.len() {
        match rustix::io::pread(fd, &mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// Writes until everything is written or an error comes; returns how many bytes were, and the error if any.
pub(super) fn write_full(fd: impl AsFd, offset: u64, bytes: &[u8]) -> (usize, Result<(), Errno>) {
    let fd = fd.as_fd();
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(fd, &bytes[done..], offset + done as u64) {
            Ok(0) => return (done, Err(Errno::IO)),
            Ok(len) => done += len,
            Err(Errno::INTR) => {}
            Err(errno) => return (done, Err(errno)),
        }
    }
    (done, Ok(()))
}

/// Space for one call of `getdents`.
pub(super) fn directory_buffer() -> Vec<MaybeUninit<u8>> {
    let mut buffer = Vec::with_capacity(32 << 10);
    buffer.resize_with(32 << 10, MaybeUninit::uninit);
    buffer
}

/// The names in a directory, without `.` and `..`.
pub(super) fn list_names(directory: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut buffer = directory_buffer();
    let mut names = Vec::new();
    let mut raw = rustix::fs::RawDir::new(directory.as_fd(), &mut buffer);
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
