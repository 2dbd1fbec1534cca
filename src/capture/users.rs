//! Who has files open: processes, found in `/proc` by the inodes they hold.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::backing::InodeKey;

/// At most this many processes are named.
const NAMED_MAX: usize = 8;

/// How a process holds a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// An open descriptor or a map.
    Open,
    /// Its working or root directory.
    Directory,
}

/// Names the processes, other than this one, that hold a file which `concerns` accepts; `None` if there are
/// none. Those of other users are seen by root only.
pub(super) fn users(concerns: impl Fn(InodeKey, Hold) -> bool) -> Option<String> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let Ok(processes) = std::fs::read_dir("/proc") else { return None };
    let mut found = Vec::new();
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if pid != own
            && let Some(what) = held_file(&process.path(), &concerns)
        {
            found.push(describe(&process.path(), pid, &what));
        }
    }
    if found.is_empty() {
        return None;
    }
    let more = found.len().saturating_sub(NAMED_MAX);
    found.truncate(NAMED_MAX);
    if more > 0 {
        found.push(format!("{more} more"));
    }
    Some(found.join(", "))
}

/// The first file of the process that `concerns` accepts. A process that ended meanwhile holds none.
fn held_file(process: &Path, concerns: &impl Fn(InodeKey, Hold) -> bool) -> Option<PathBuf> {
    let check = |link: PathBuf, hold: Hold| {
        let metadata = std::fs::metadata(&link).ok()?;
        let key = InodeKey { device: metadata.dev(), inode: metadata.ino() };
        concerns(key, hold).then(|| std::fs::read_link(&link).unwrap_or(link))
    };
    let descriptors = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    // Maps of files whose descriptor is closed; the directory is readable where `fd` is.
    let maps = std::fs::read_dir(process.join("map_files")).into_iter().flatten().flatten();
    descriptors
        .chain(maps)
        .find_map(|entry| check(entry.path(), Hold::Open))
        .or_else(|| check(process.join("exe"), Hold::Open))
        .or_else(|| check(process.join("cwd"), Hold::Directory))
        .or_else(|| check(process.join("root"), Hold::Directory))
}

fn describe(process: &Path, pid: i32, what: &Path) -> String {
    let command = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    format!("{} (pid {pid}, {})", command.trim(), what.display())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_process_that_holds_a_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("held");
        let file = std::fs::File::create(&path).unwrap();
        let metadata = file.metadata().unwrap();
        let key = InodeKey { device: metadata.dev(), inode: metadata.ino() };
        assert_eq!(users(|other, _| other == key), None, "this process itself does not count");
        let held = file.as_fd().try_clone_to_owned().unwrap();
        let mut child = Child(std::process::Command::new("sleep").arg("60").stdin(held).spawn().unwrap());
        let found = users(|other, _| other == key).expect("the child holds it");
        assert!(found.contains(&format!("pid {}", child.0.id())), "{found}");
        assert!(found.contains("held"), "{found}");
        child.end();
        assert_eq!(users(|other, _| other == key), None);
    }

    struct Child(std::process::Child);

    impl Child {
        fn end(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    impl Drop for Child {
        fn drop(&mut self) {
            let _ended = self.0.kill();
            let _ended = self.0.wait();
        }
    }
}
