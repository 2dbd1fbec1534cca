//! A directory of the machine's file system as a [`Disk`].

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{Disk, DiskFile, Lock};

/// Files hold copies of the database; nobody but its keeper may read them.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIRECTORY_MODE: Mode = Mode::RWXU;

/// A directory tree of the machine, held by descriptor: what is later mounted over its path, or how the path is
/// renamed, does not matter.
///
/// Locks are `flock`: they end with the process and are seen by every process of the machine (and, on NFS, of
/// others, as far as its server keeps them).
#[derive(Debug)]
pub struct RealDisk {
    root: OwnedFd,
    path: PathBuf,
}

impl RealDisk {
    /// Opens an existing directory.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, or the operating system's.
    pub fn open(root: &Path) -> io::Result<RealDisk> {
        let fd = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())?;
        let path = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        Ok(RealDisk { root: fd, path })
    }

    fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        // Not to wait for the other end of a pipe that someone put here.
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(rustix::fs::openat(&self.root, relative(path)?, flags, FILE_MODE)?)
    }

    fn open_file(&self, path: &Path, flags: OFlags) -> io::Result<Arc<dyn DiskFile>> {
        let fd = self.open_at(path, flags)?;
        match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
            FileType::RegularFile => Ok(Arc::new(RealFile { fd })),
            FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    fn open_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The lock file, created if it may be; on a read-only file system it must exist.
    fn open_lock(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open_at(path, OFlags::RDWR | OFlags::CREATE) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
                ) =>
            {
                self.open_at(path, OFlags::RDONLY)
            }
            other => other,
        }
    }
}

/// Refuses what could lead out of the tree; the tree itself is `.`.
fn relative(path: &Path) -> io::Result<&Path> {
    if path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        Ok(if path.as_os_str().is_empty() { Path::new(".") } else { path })
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} leads out of its disk", path.display())))
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open_file(path, OFlags::RDONLY)
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open_file(path, OFlags::RDWR)
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open_file(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn create_directories(&self, path: &Path) -> io::Result<()> {
        let mut made = PathBuf::new();
        for part in relative(path)?.components() {
            made.push(part);
            match rustix::fs::mkdirat(&self.root, &made, DIRECTORY_MODE) {
                Ok(()) => {}
                // A link to a directory is as good; anything else is not.
                Err(Errno::EXIST) => drop(self.open_directory(&made)?),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(self.open_directory(path)?)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(PathBuf::from(name));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, relative(path)?, AtFlags::empty())?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.root, relative(from)?, &self.root, relative(to)?)?)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.open_directory(path)?)?)
    }

    fn try_lock(&self, path: &Path, shared: bool) -> io::Result<Option<Lock>> {
        let operation = if shared {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        loop {
            let fd = self.open_lock(path)?;
            match rustix::fs::flock(&fd, operation) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            // Whoever removed the file between open and lock left us a lock that nobody else can see.
            let held = rustix::fs::fstat(&fd)?;
            match rustix::fs::statat(&self.root, relative(path)?, AtFlags::empty()) {
                Ok(named) if (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino) => {
                    return Ok(Some(Lock(Box::new(fd))));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let status = rustix::fs::fstatvfs(&self.root)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    fn display(&self, path: &Path) -> String {
        self.path.join(path).display().to_string()
    }
}

struct RealFile {
    fd: OwnedFd,
}

impl RealFile {
    /// Where the file system cannot reserve, zeros written behind the end take the space.
    fn extend_with_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        let zeros = [0; 64 << 10];
        let mut at = from;
        while at < to {
            let len = usize::try_from(to - at).unwrap_or(usize::MAX).min(zeros.len());
            self.write_at(at, &zeros[..len])?;
            at += len as u64;
        }
        Ok(())
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.fd, &mut buf[done..], offset_bytes.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pwrite(&self.fd, &bytes[done..], offset_bytes.saturating_add(done as u64)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => done += len,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        // Not repeated after any error: the kernel may have dropped what it could not write.
        Ok(rustix::fs::fdatasync(&self.fd)?)
    }

    fn len(&self) -> io::Result<u64> {
        let size = rustix::fs::fstat(&self.fd)?.st_size;
        u64::try_from(size).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "negative size"))
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.fd, len_bytes)?)
    }

    fn preallocate(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let len_before = self.len()?;
        let end = offset_bytes.checked_add(len_bytes).ok_or(io::ErrorKind::FileTooLarge)?;
        let reserved = match rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), offset_bytes, len_bytes)
        {
            Err(Errno::OPNOTSUPP) => self.extend_with_zeros(len_before, end),
            other => other.map_err(io::Error::from),
        };
        if reserved.is_err() && len_before < end {
            self.set_len(len_before)?;
        }
        reserved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, RealDisk) {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(directory.path()).unwrap();
        (directory, disk)
    }

    #[test]
    fn what_is_written_is_read_and_listed() {
        let (_directory, disk) = disk();
        disk.create_directories(Path::new("a/b")).unwrap();
        disk.create_directories(Path::new("a/b")).unwrap();
        let file = disk.create_new(Path::new("a/b/one")).unwrap();
        file.write_at(5, b"hello").unwrap();
        file.sync().unwrap();
        disk.sync_directory(Path::new("a/b")).unwrap();
        let mut buf = [1; 12];
        assert_eq!(disk.open(Path::new("a/b/one")).unwrap().read_at(0, &mut buf).unwrap(), 10);
        assert_eq!(&buf[..10], b"\0\0\0\0\0hello");
        disk.create_new(Path::new("a/b/0")).unwrap();
        assert_eq!(disk.list(Path::new("a/b")).unwrap(), [Path::new("0"), Path::new("one")]);
        disk.rename(Path::new("a/b/one"), Path::new("a/b/0")).unwrap();
        assert_eq!(disk.open(Path::new("a/b/0")).unwrap().len().unwrap(), 10);
        disk.remove(Path::new("a/b/0")).unwrap();
        assert!(disk.list(Path::new("a/b")).unwrap().is_empty());
        assert!(disk.available_bytes().unwrap() > 0);
    }

    #[test]
    fn errors_tell_what_is_the_matter() {
        let (directory, disk) = disk();
        let kind = |result: io::Result<Arc<dyn DiskFile>>| result.err().unwrap().kind();
        assert_eq!(kind(disk.open(Path::new("none"))), io::ErrorKind::NotFound);
        disk.create_new(Path::new("one")).unwrap();
        assert_eq!(kind(disk.create_new(Path::new("one"))), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.open(Path::new("../one"))), io::ErrorKind::InvalidInput);
        assert_eq!(kind(disk.open(Path::new("/etc/passwd"))), io::ErrorKind::InvalidInput);
        assert_eq!(kind(disk.open(Path::new("."))), io::ErrorKind::IsADirectory);
        assert_eq!(
            disk.create_directories(Path::new("one/two")).unwrap_err().kind(),
            io::ErrorKind::NotADirectory
        );
        assert_eq!(
            RealDisk::open(&directory.path().join("none")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(
            RealDisk::open(&directory.path().join("one")).unwrap_err().kind(),
            io::ErrorKind::NotADirectory
        );
    }

    #[test]
    fn a_pipe_in_place_of_a_file_is_refused_without_waiting() {
        let (directory, disk) = disk();
        rustix::fs::mknodat(rustix::fs::CWD, directory.path().join("pipe"), FileType::Fifo, FILE_MODE, 0)
            .unwrap();
        assert_eq!(disk.open(Path::new("pipe")).err().unwrap().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_lock_excludes_until_it_is_dropped() {
        let (_directory, disk) = disk();
        let path = Path::new("lock");
        let shared = disk.try_lock(path, true).unwrap().unwrap();
        let second = disk.try_lock(path, true).unwrap().unwrap();
        assert!(disk.try_lock(path, false).unwrap().is_none());
        drop((shared, second));
        let exclusive = disk.try_lock(path, false).unwrap().unwrap();
        assert!(disk.try_lock(path, true).unwrap().is_none());
        drop(exclusive);
        assert!(disk.try_lock(path, true).unwrap().is_some());
    }

    #[test]
    fn reserved_space_reads_as_zeros_and_extends_the_file() {
        let (_directory, disk) = disk();
        let file = disk.create_new(Path::new("one")).unwrap();
        file.write_at(0, b"abc").unwrap();
        file.preallocate(0, 1 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        let mut buf = [1; 6];
        file.read_at(0, &mut buf).unwrap();
        assert_eq!(&buf, b"abc\0\0\0");
        file.set_len(2).unwrap();
        assert_eq!(file.read_at(0, &mut buf).unwrap(), 2);
        let too_much = file.preallocate(0, 1 << 60).unwrap_err();
        assert!(
            matches!(too_much.kind(), io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge),
            "{too_much}"
        );
        assert_eq!(file.len().unwrap(), 2);
    }

    #[test]
    fn nobody_else_may_read_what_is_stored() {
        use std::os::unix::fs::PermissionsExt;
        let (directory, disk) = disk();
        disk.create_directories(Path::new("a")).unwrap();
        disk.create_new(Path::new("a/one")).unwrap();
        for name in ["a", "a/one"] {
            let mode = directory.path().join(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name}");
        }
    }
}
