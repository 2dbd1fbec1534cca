//! Puts a FUSE connection into the tree of files and takes it out again: as root by system call, else through
//! the set-uid program `fusermount3`.
//!
//! `fuser` could do both, but its end of a session unmounts whatever is then uppermost at the path, also a
//! volume that was there before. Here nothing is unmounted whose device is not ours.

use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::SessionOptions;
use crate::io::mountinfo::mounted_on;

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";

/// A connection that is mounted; requests already come.
pub(super) struct Connection {
    pub fd: OwnedFd,
    /// Device number of its files: major, minor.
    pub device: (u32, u32),
}

/// Mounts at `mountpoint`, an absolute path without links.
pub(super) fn mount(mountpoint: &Path, options: &SessionOptions) -> io::Result<Connection> {
    let fd = match mount_directly(mountpoint, options) {
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied) => {
            mount_by_helper(mountpoint, options)?
        }
        other => other?,
    };
    match mounted_on(mountpoint)? {
        Some(entry) if entry.kind.starts_with("fuse") => Ok(Connection { fd, device: entry.device }),
        _ => Err(io::Error::other(format!(
            "{} was unmounted while it was being mounted",
            mountpoint.display()
        ))),
    }
}

fn mount_directly(mountpoint: &Path, options: &SessionOptions) -> io::Result<OwnedFd> {
    let fd = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        io::Error::new(io::Error::from(error).kind(), format!("cannot open {DEVICE}: {error}"))
    })?;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut data = format!("fd={},rootmode=40000,user_id={uid},group_id={gid}", fd.as_raw_fd());
    data.push_str(&format!(",subtype={}", plain(&options.subtype)));
    for flag in flags_of(options) {
        data.push(',');
        data.push_str(flag);
    }
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID;
    flags.set(MountFlags::RDONLY, options.read_only);
    rustix::mount::mount(options.name.as_str(), mountpoint, "fuse", flags, &*CString::new(data)?)?;
    Ok(fd)
}

fn flags_of(options: &SessionOptions) -> Vec<&'static str> {
    let mut flags = Vec::new();
    if options.default_permissions {
        flags.push("default_permissions");
    }
    if options.allow_other {
        flags.push("allow_other");
    }
    flags
}

/// Options are separated by commas.
fn plain(name: &str) -> String {
    name.replace(|c: char| c == ',' || c == '\\' || c.is_control(), "_")
}

/// The helper mounts for us and sends the connection over a socket, which it gets as its standard input: the
/// one descriptor that a child inherits without unsafe code.
fn mount_by_helper(mountpoint: &Path, options: &SessionOptions) -> io::Result<OwnedFd> {
    let (ours, its) = UnixStream::pair()?;
    let mut text =
        format!("nodev,nosuid,fsname={},subtype={}", plain(&options.name), plain(&options.subtype));
    for flag in flags_of(options).into_iter().chain([if options.read_only { "ro" } else { "rw" }]) {
        text.push(',');
        text.push_str(flag);
    }
    let mut command = Command::new(HELPER);
    command.arg("-o").arg(text).arg("--").arg(mountpoint).env("_FUSE_COMMFD", "0").env("LC_ALL", "C");
    command.stdin(Stdio::from(OwnedFd::from(its))).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot run {HELPER}, which mounts for users other than root: {error}"),
        )
    })?;
    // Otherwise our copy of its end would keep the socket open after it died.
    drop(command);
    let received = receive(&ours);
    let output = child.wait_with_output()?;
    match received {
        Ok(fd) if output.status.success() => Ok(fd),
        _ => {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        }
    }
}

fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        let mut parts = [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return descriptors.next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Unmounts what is uppermost at `mountpoint`, if it is `device`; lazily: at once, even if it is in use.
///
/// # Errors
/// `ResourceBusy` if it is in use, or covered by another; the operating system's.
pub fn unmount(mountpoint: &Path, device: (u32, u32), lazily: bool) -> io::Result<()> {
    if mounted_on(mountpoint)?.is_none_or(|entry| entry.device != device) {
        let text = format!("another file system is mounted over {}", mountpoint.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    let flags = if lazily { UnmountFlags::NOFOLLOW | UnmountFlags::DETACH } else { UnmountFlags::NOFOLLOW };
    match rustix::mount::unmount(mountpoint, flags) {
        Err(Errno::PERM) => unmount_by_helper(mountpoint, lazily),
        other => Ok(other?),
    }
}

/// Whether a FUSE mount is there whose process died.
#[must_use]
pub fn is_dead(mountpoint: &Path) -> bool {
    // Attributes that the kernel keeps are given out without asking anybody.
    let flags = AtFlags::STATX_FORCE_SYNC;
    let answer = rustix::fs::statx(rustix::fs::CWD, mountpoint, flags, StatxFlags::BASIC_STATS);
    matches!(answer, Err(Errno::NOTCONN))
}

/// Takes a FUSE mount whose process died out of the tree; returns whether there was one.
///
/// # Errors
/// The operating system's, if it cannot be removed.
pub fn detach_dead(mountpoint: &Path) -> io::Result<bool> {
    let mut found = false;
    // A dead mount answers nothing but this, so its path cannot be resolved.
    while is_dead(mountpoint) {
        found = true;
        match rustix::mount::unmount(mountpoint, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(Errno::PERM) => unmount_by_helper(mountpoint, true)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn unmount_by_helper(mountpoint: &Path, lazily: bool) -> io::Result<()> {
    let mut command = Command::new(HELPER);
    command.arg("-u").args(lazily.then_some("-z")).arg("--").arg(mountpoint).env("LC_ALL", "C");
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind = if text.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, text))
}

/// Whether more connections to the same mount can be opened, one for each thread.
pub(super) fn can_clone() -> bool {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).is_ok()
}
