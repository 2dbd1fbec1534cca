//! What must hold before a capture starts: paths that exist, lie apart, and are nobody else's.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use super::{CaptureConfig, CaptureError, RootConfig};
use crate::io::fuse::detach_dead;
use crate::io::{mounted_on, mounts};

/// The type of our mounts in the table of mounts is `fuse.` and this.
pub(super) const SUBTYPE: &str = "pitgate-capture";

/// A root whose backing directory is open and locked for this process's life.
pub(super) struct OpenRoot {
    /// With absolute paths, without links.
    pub config: RootConfig,
    /// The backing directory, open from before anything is mounted over it. Holds the lock.
    pub fd: OwnedFd,
}

/// Checks everything that can be known before a file is read, and opens and locks the backing directories.
pub(super) fn open_roots(config: &CaptureConfig) -> Result<Vec<OpenRoot>, CaptureError> {
    if config.roots.is_empty() {
        return Err(CaptureError::NoRoots);
    }
    check_labels(&config.roots)?;
    let mut roots = Vec::with_capacity(config.roots.len());
    for root in &config.roots {
        // What a killed capture left there answers nothing and hides what is below.
        detach_dead(&root.mountpoint).map_err(|error| CaptureError::Mount {
            mountpoint: root.mountpoint.clone(),
            reason: format!("a dead mount is there and cannot be removed: {error}"),
        })?;
        roots.push(RootConfig {
            label: root.label.clone(),
            data_dir: existing_directory("data directory", &root.data_dir)?,
            mountpoint: existing_directory("mountpoint", &root.mountpoint)?,
        });
    }
    check_apart(&roots, &config.outside)?;
    for root in &roots {
        check_mounts(root)?;
    }
    roots.into_iter().map(open_locked).collect()
}

fn check_labels(roots: &[RootConfig]) -> Result<(), CaptureError> {
    for (index, root) in roots.iter().enumerate() {
        let problem = match root.label.as_str() {
            "" => Some("is empty: write LABEL=DATA_DIR:MOUNTPOINT"),
            "." | ".." => Some("is no name"),
            label if label.contains(['/', '\0']) => Some("contains a `/` or a NUL"),
            label if roots[..index].iter().any(|other| other.label == label) => {
                Some("is used twice: write LABEL=DATA_DIR:MOUNTPOINT")
            }
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(CaptureError::Label { label: root.label.clone(), problem });
        }
    }
    Ok(())
}

fn existing_directory(what: &'static str, path: &Path) -> Result<PathBuf, CaptureError> {
    let path_owned = path.to_owned();
    let canonical = path.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => CaptureError::Missing { what, path: path_owned },
        _ => CaptureError::Backing { path: path_owned, source: Arc::new(error) },
    })?;
    if canonical.is_dir() {
        Ok(canonical)
    } else {
        Err(CaptureError::NotADirectory { what, path: canonical })
    }
}

/// No directory of a root lies in another's, and nothing of ours lies in a root or a root in it.
fn check_apart(roots: &[RootConfig], outside: &[(String, PathBuf)]) -> Result<(), CaptureError> {
    let mut places: Vec<(String, &Path, Option<usize>)> = Vec::new();
    for (index, root) in roots.iter().enumerate() {
        places.push(("data directory".to_owned(), &root.data_dir, Some(index)));
        if root.mountpoint != root.data_dir {
            places.push(("mountpoint".to_owned(), &root.mountpoint, Some(index)));
        }
    }
    let resolved: Vec<(String, PathBuf)> =
        outside.iter().map(|(what, path)| (what.clone(), resolve(path))).collect();
    places.extend(resolved.iter().map(|(what, path)| (what.clone(), path.as_path(), None)));
    for (first, (what, path, root)) in places.iter().enumerate() {
        for (second, (other_what, other, other_root)) in places.iter().enumerate() {
            let ours = root.is_none() && other_root.is_none();
            if first != second && !ours && path.starts_with(other) {
                return Err(CaptureError::Nested {
                    inner_what: what.clone(),
                    inner: path.to_path_buf(),
                    outer_what: other_what.clone(),
                    outer: other.to_path_buf(),
                });
            }
        }
    }
    Ok(())
}

/// A path without links, also if its last parts do not exist yet.
fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in absolute.ancestors() {
        if let Ok(canonical) = ancestor.canonicalize() {
            return absolute.strip_prefix(ancestor).map_or_else(
                |_| canonical.clone(),
                |rest| if rest.as_os_str().is_empty() { canonical.clone() } else { canonical.join(rest) },
            );
        }
    }
    absolute
}

fn check_mounts(root: &RootConfig) -> Result<(), CaptureError> {
    let table = |source| CaptureError::System { doing: "read the table of mounts", source: Arc::new(source) };
    for entry in mounts().map_err(table)? {
        let inner = entry.mountpoint != root.data_dir && entry.mountpoint.starts_with(&root.data_dir);
        if inner && entry.mountpoint != root.mountpoint {
            return Err(CaptureError::InnerMount { path: entry.mountpoint, data_dir: root.data_dir.clone() });
        }
    }
    let uppermost = mounted_on(&root.mountpoint).map_err(table)?;
    if uppermost.as_ref().is_some_and(|entry| entry.kind == format!("fuse.{SUBTYPE}")) {
        return Err(CaptureError::AlreadyCaptured { path: root.mountpoint.clone() });
    }
    if root.mountpoint == root.data_dir {
        return Ok(());
    }
    if uppermost.is_some() {
        return Err(CaptureError::MountpointInUse { path: root.mountpoint.clone() });
    }
    let mut names = std::fs::read_dir(&root.mountpoint)
        .map_err(|error| CaptureError::Backing { path: root.mountpoint.clone(), source: Arc::new(error) })?;
    match names.next() {
        None => Ok(()),
        Some(_) => Err(CaptureError::MountpointNotEmpty { path: root.mountpoint.clone() }),
    }
}

fn open_locked(config: RootConfig) -> Result<OpenRoot, CaptureError> {
    let failed = |errno: Errno| CaptureError::Backing {
        path: config.data_dir.clone(),
        source: Arc::new(errno.into()),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd =
        rustix::fs::open(config.data_dir.as_os_str().as_bytes(), flags, Mode::empty()).map_err(failed)?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(OpenRoot { config, fd }),
        Err(Errno::WOULDBLOCK) => Err(CaptureError::AlreadyCaptured { path: config.data_dir }),
        Err(errno) => Err(failed(errno)),
    }
}

/// Raises the limit of open files as far as allowed, and returns how many may be kept open only to be quick.
pub(super) fn descriptors_to_keep() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    // The rest is for what applications open.
    usize::try_from(current.unwrap_or(1 << 20) / 2).unwrap_or(1 << 19).clamp(64, 1 << 19)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(label: &str, data_dir: &str, mountpoint: &str) -> RootConfig {
        RootConfig { label: label.into(), data_dir: data_dir.into(), mountpoint: mountpoint.into() }
    }

    fn nested(roots: &[RootConfig], outside: &[(String, PathBuf)]) -> bool {
        matches!(check_apart(roots, outside), Err(CaptureError::Nested { .. }))
    }

    #[test]
    fn nothing_may_lie_inside_a_root() {
        let repository = |path: &str| [("the repository".to_owned(), PathBuf::from(path))];
        let plain = [root("a", "/d/a", "/m/a"), root("b", "/d/b", "/m/b")];
        assert!(!nested(&plain, &repository("/r")));
        assert!(!nested(&[root("a", "/d/a", "/d/a")], &repository("/d/ab")));
        assert!(nested(&plain, &repository("/d/a/r")));
        assert!(nested(&plain, &repository("/m/b/r")));
        assert!(nested(&plain, &repository("/d")));
        assert!(nested(&[root("a", "/d", "/d/m")], &[]));
        assert!(nested(&[root("a", "/m/d", "/m")], &[]));
        assert!(nested(&[root("a", "/d", "/m"), root("b", "/d/b", "/n")], &[]));
        assert!(nested(&[root("a", "/d", "/m"), root("b", "/d", "/n")], &[]));
    }

    #[test]
    fn labels_are_names_and_differ() {
        for (label, fine) in [("pg", true), ("", false), ("..", false), ("a/b", false), ("用户", true)] {
            assert_eq!(check_labels(&[root(label, "/d", "/m")]).is_ok(), fine, "{label}");
        }
        assert!(check_labels(&[root("a", "/d", "/m"), root("a", "/e", "/n")]).is_err());
    }
}
