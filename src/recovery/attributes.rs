//! Making files that have no content, and giving every file its owner, mode, extended attributes and time.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::RestoreError;
use super::plan::PlannedFile;
use crate::types::{FileKind, Image};

/// Makes a link, fifo, socket or device.
pub(super) fn make_special(planned: &PlannedFile, path: &Path) -> io::Result<()> {
    let attributes = &planned.status.attributes;
    let file_type = match attributes.kind {
        FileKind::Symlink => {
            let target = planned.target.as_deref().unwrap_or_default();
            return Ok(rustix::fs::symlinkat(OsStr::from_bytes(target), CWD, path)?);
        }
        FileKind::Fifo => FileType::Fifo,
        FileKind::Socket => FileType::Socket,
        FileKind::CharacterDevice => FileType::CharacterDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Regular | FileKind::Directory => return Err(Errno::INVAL.into()),
    };
    Ok(rustix::fs::mknodat(CWD, path, file_type, Mode::from_raw_mode(0o600), attributes.rdev)?)
}

/// Sets owner, mode, extended attributes and modification time, in an order in which none undoes another.
/// What this process is not allowed to set is added to `missing`, not an error.
pub(super) fn apply(
    image: &dyn Image,
    planned: &PlannedFile,
    path: &Path,
    missing: &mut Vec<String>,
) -> Result<(), RestoreError> {
    let attributes = &planned.status.attributes;
    let is_link = attributes.kind == FileKind::Symlink;
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    let owned = rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
    allow("owner", owned, planned, missing).map_err(RestoreError::write("set the owner of", path))?;
    for name in image.list_xattrs(planned.status.file).map_err(RestoreError::read(&planned.path))? {
        let value = image.xattr(planned.status.file, &name).map_err(RestoreError::read(&planned.path))?;
        let Some(value) = value else { continue };
        let set = rustix::fs::lsetxattr(path, OsStr::from_bytes(&name), &value, XattrFlags::empty());
        let what = format!("extended attribute {}", String::from_utf8_lossy(&name));
        allow(&what, set, planned, missing).map_err(RestoreError::write("set an attribute of", path))?;
    }
    if !is_link {
        // A mode with set-id bits must not be given to a file that stayed with another owner.
        let bits = if owned.is_ok() { attributes.mode } else { attributes.mode & 0o1777 };
        let mode = Mode::from_raw_mode(bits);
        let set = rustix::fs::chmodat(CWD, path, mode, AtFlags::empty());
        set.map_err(io::Error::from).map_err(RestoreError::write("set the mode of", path))?;
    }
    let (seconds, nanoseconds) = attributes.mtime.split();
    let mtime = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let times = Timestamps { last_access: mtime, last_modification: mtime };
    let set = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
    set.map_err(io::Error::from).map_err(RestoreError::write("set the time of", path))
}

/// Turns a refusal for lack of rights or support into an entry of `missing`.
fn allow(
    what: &str,
    set: Result<(), Errno>,
    planned: &PlannedFile,
    missing: &mut Vec<String>,
) -> io::Result<()> {
    match set {
        Err(Errno::PERM | Errno::OPNOTSUPP) => {
            missing.push(format!("{}: {what}", planned.path.display()));
            Ok(())
        }
        set => Ok(set?),
    }
}
