//! A directory tree as one value, so that two can be compared: names, kinds, modes, owners, links, times, content.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One file of a tree; a directory has no link count, since that is the file system's own business.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub links: u64,
    pub mtime: Mtime,
    pub content: String,
}

/// A modification time in nanoseconds; two are the same if they are no more than 10 ms apart, as promised.
#[derive(Clone, Copy, Debug)]
pub struct Mtime(pub i64);

impl PartialEq for Mtime {
    fn eq(&self, other: &Mtime) -> bool {
        self.0.abs_diff(other.0) <= 10_000_000
    }
}

/// Every file below `root`, by relative path. Only the digest of content is kept.
pub fn of(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut tree = BTreeMap::new();
    add(root, Path::new(""), &mut tree);
    tree
}

fn add(root: &Path, relative: &Path, tree: &mut BTreeMap<PathBuf, Entry>) {
    let path = root.join(relative);
    let metadata = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let content = if metadata.is_symlink() {
        fs::read_link(&path).unwrap().display().to_string()
    } else if metadata.is_file() {
        let mut hasher = blake3::Hasher::new();
        let file = fs::File::open(&path).unwrap();
        hasher.update_reader(file).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        hasher.finalize().to_hex().to_string()
    } else {
        String::new()
    };
    let entry = Entry {
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: if metadata.is_dir() { 0 } else { metadata.size() },
        links: if metadata.is_dir() { 0 } else { metadata.nlink() },
        mtime: Mtime(metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()),
        content,
    };
    tree.insert(relative.to_owned(), entry);
    if metadata.is_dir() {
        for name in fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()) {
            add(root, &relative.join(name), tree);
        }
    }
}

/// # Panics
/// If they differ, with the paths and entries that do.
#[track_caller]
pub fn assert_same(expected: &BTreeMap<PathBuf, Entry>, found: &BTreeMap<PathBuf, Entry>) {
    let mut differences = Vec::new();
    for path in expected.keys().chain(found.keys().filter(|path| !expected.contains_key(*path))) {
        if expected.get(path) != found.get(path) {
            differences.push(format!(
                "{}: {:?}, found {:?}",
                path.display(),
                expected.get(path),
                found.get(path)
            ));
        }
    }
    assert!(differences.is_empty(), "trees differ:\n{}", differences.join("\n"));
}
