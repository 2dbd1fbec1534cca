//! Restores of a small image in memory: what comes out, and what is left when it cannot.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use bytes::Bytes;

use super::{DirectoryImage, RestoreError, RestoreOptions, Restored, restore};
use crate::types::{Attributes, DirectoryEntry, FileId, FileKind, Image, ImageError, Status, Time};

const MTIME: Time = Time(1_700_000_000_123_456_789);

#[derive(Clone, Default)]
struct Node {
    kind: Option<FileKind>,
    mode: u32,
    content: Vec<u8>,
    entries: BTreeMap<Vec<u8>, FileId>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    is_damaged: bool,
}

/// Files by id; a link's text is its content.
#[derive(Default)]
struct TinyImage {
    nodes: BTreeMap<FileId, Node>,
}

impl TinyImage {
    fn new() -> TinyImage {
        let mut image = TinyImage::default();
        image
            .nodes
            .insert(FileId(1), Node { kind: Some(FileKind::Directory), mode: 0o750, ..Node::default() });
        image
    }

    fn add(&mut self, parent: u64, name: &str, kind: FileKind, mode: u32, content: &[u8]) -> u64 {
        let id = FileId(self.nodes.len() as u64 + 1);
        self.nodes.insert(id, Node { kind: Some(kind), mode, content: content.to_vec(), ..Node::default() });
        self.link(parent, name, id.0);
        id.0
    }

    fn link(&mut self, parent: u64, name: &str, id: u64) {
        self.node_mut(parent).entries.insert(name.into(), FileId(id));
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&FileId(id)).unwrap()
    }

    fn node(&self, file: FileId) -> Result<&Node, ImageError> {
        self.nodes.get(&file).ok_or(ImageError::NoSuchFile(file))
    }
}

impl Image for TinyImage {
    fn root(&self) -> FileId {
        FileId(1)
    }

    fn status(&self, file: FileId) -> Result<Status, ImageError> {
        let node = self.node(file)?;
        let kind = node.kind.unwrap();
        let owner = rustix::process::getuid().as_raw();
        let group = rustix::process::getgid().as_raw();
        let attributes = Attributes { kind, mode: node.mode, uid: owner, gid: group, rdev: 0, mtime: MTIME };
        let size = node.content.len() as u64;
        Ok(Status { file, attributes, size, link_count: 1, allocated_bytes: 0 })
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<Option<FileId>, ImageError> {
        Ok(self.node(directory)?.entries.get(name).copied())
    }

    fn read_directory(
        &self,
        directory: FileId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ImageError> {
        let entries = self.node(directory)?.entries.iter();
        let entries =
            entries.filter(|(name, _)| after.is_none_or(|after| name.as_slice() > after)).take(limit);
        entries
            .map(|(name, file)| {
                let kind = self.node(*file)?.kind.unwrap();
                Ok(DirectoryEntry { name: Bytes::copy_from_slice(name), file: *file, kind })
            })
            .collect()
    }

    fn parent(&self, directory: FileId) -> Result<FileId, ImageError> {
        Ok(directory)
    }

    fn read_link(&self, file: FileId) -> Result<Bytes, ImageError> {
        Ok(Bytes::copy_from_slice(&self.node(file)?.content))
    }

    fn list_xattrs(&self, file: FileId) -> Result<Vec<Bytes>, ImageError> {
        Ok(self.node(file)?.xattrs.keys().map(|name| Bytes::copy_from_slice(name)).collect())
    }

    fn xattr(&self, file: FileId, name: &[u8]) -> Result<Option<Bytes>, ImageError> {
        Ok(self.node(file)?.xattrs.get(name).map(|value| Bytes::copy_from_slice(value)))
    }

    fn read_at(&self, file: FileId, offset_bytes: u64, buf: &mut [u8]) -> Result<usize, ImageError> {
        let node = self.node(file)?;
        if node.is_damaged {
            return Err(ImageError::Damaged { what: "segment 1 at 4096".to_owned() });
        }
        let rest = &node.content[(offset_bytes as usize).min(node.content.len())..];
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn next_data(&self, file: FileId, offset_bytes: u64) -> Result<Option<u64>, ImageError> {
        let content = &self.node(file)?.content;
        let found = (offset_bytes as usize..content.len()).find(|at| content[*at] != 0);
        Ok(found.map(|at| (at as u64 / 4096 * 4096).max(offset_bytes)))
    }

    fn next_hole(&self, file: FileId, _: u64) -> Result<u64, ImageError> {
        Ok(self.node(file)?.content.len() as u64)
    }

    fn external_links(&self) -> Result<Vec<(Bytes, Bytes)>, ImageError> {
        Ok(Vec::new())
    }

    fn retarget(&self, _: FileId, _: &[u8]) -> Result<Option<Bytes>, ImageError> {
        Ok(None)
    }
}

fn run(image: &TinyImage, to: &Path) -> Result<Restored, RestoreError> {
    restore(image, to, &RestoreOptions { threads: 2, verify: true }, &|_| {})
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// 33 MiB: three pieces, with data at both ends and a hole between.
fn sparse_content() -> Vec<u8> {
    let mut content = vec![0; (33 << 20) + 77];
    content[..10_000].fill(7);
    let end = content.len();
    content[end - 5..].fill(9);
    content
}

#[test]
fn a_restore_is_equal_in_content_names_and_attributes() {
    let scratch = tempfile::tempdir().unwrap();
    let mut image = TinyImage::new();
    let inner = image.add(1, "base", FileKind::Directory, 0o500, b"");
    let big = image.add(inner, "big", FileKind::Regular, 0o640, &sparse_content());
    image.link(1, "second name", big);
    image.node_mut(big).xattrs.insert(b"user.note".to_vec(), b"kept".to_vec());
    image.add(1, "link", FileKind::Symlink, 0o777, b"base/big");
    image.add(1, "pipe", FileKind::Fifo, 0o600, b"");
    image.add(1, "empty", FileKind::Regular, 0o4711, b"");

    let to = scratch.path().join("copy");
    let restored = run(&image, &to).unwrap();
    assert_eq!(restored.missing, Vec::<String>::new());
    assert_eq!(names(&to), ["base", "empty", "link", "pipe", "second name"]);
    assert_eq!(names(scratch.path()), ["copy"], "no staging directory is left");

    let copy = fs::metadata(to.join("base/big")).unwrap();
    assert!(fs::read(to.join("base/big")).unwrap() == sparse_content());
    assert!(copy.blocks() * 512 < 1 << 20, "the hole stays a hole");
    assert_eq!((copy.mode() & 0o7777, copy.nlink()), (0o640, 2));
    assert_eq!(copy.ino(), fs::metadata(to.join("second name")).unwrap().ino());
    for path in ["base/big", "base", "empty", "pipe", "link", "."] {
        let metadata = fs::symlink_metadata(to.join(path)).unwrap();
        assert_eq!(metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(), MTIME.0, "{path}");
    }
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(to.join("base/big"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"kept");
    assert_eq!(fs::metadata(to.join("empty")).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("base/big"));
    assert!(fs::metadata(to.join("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn an_empty_directory_that_exists_is_filled() {
    let scratch = tempfile::tempdir().unwrap();
    let mut image = TinyImage::new();
    image.add(1, "a", FileKind::Regular, 0o600, b"text");
    run(&image, scratch.path()).unwrap();
    assert_eq!(names(scratch.path()), ["a"]);
}

#[test]
fn damage_leaves_nothing_at_the_destination() {
    let scratch = tempfile::tempdir().unwrap();
    let mut image = TinyImage::new();
    image.add(1, "a", FileKind::Regular, 0o600, b"text");
    let damaged = image.add(1, "b", FileKind::Regular, 0o600, b"text");
    image.node_mut(damaged).is_damaged = true;
    let error = run(&image, &scratch.path().join("copy")).unwrap_err();
    assert_eq!(error.to_string(), "b: damaged: segment 1 at 4096");
    assert_eq!(names(scratch.path()), Vec::<String>::new());
}

#[test]
fn files_that_exist_are_never_touched() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("mine"), "precious").unwrap();
    let error = run(&TinyImage::new(), scratch.path()).unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty(_)), "{error}");
    let error = run(&TinyImage::new(), &scratch.path().join("mine")).unwrap_err();
    assert!(matches!(error, RestoreError::NotADirectory(_)), "{error}");
    assert_eq!(names(scratch.path()), ["mine"]);
}

#[test]
fn a_plain_directory_is_copied_like_any_image() {
    let scratch = tempfile::tempdir().unwrap();
    let mut image = TinyImage::new();
    let inner = image.add(1, "base", FileKind::Directory, 0o700, b"");
    let big = image.add(inner, "big", FileKind::Regular, 0o640, &sparse_content());
    image.link(1, "second name", big);
    image.node_mut(big).xattrs.insert(b"user.note".to_vec(), b"kept".to_vec());
    image.add(1, "link", FileKind::Symlink, 0o777, b"base/big");
    image.add(1, "pipe", FileKind::Fifo, 0o600, b"");
    let (first, second) = (scratch.path().join("first"), scratch.path().join("second"));
    run(&image, &first).unwrap();

    let directory = DirectoryImage::open(&first).unwrap();
    let options = RestoreOptions { threads: 2, verify: true };
    let restored = restore(&directory, &second, &options, &|_| {}).unwrap();
    assert_eq!(restored.missing, Vec::<String>::new());
    assert!(restored.written_bytes < 1 << 20, "holes are not written");
    for path in ["base/big", "second name", "link", "pipe", "base", "."] {
        let [one, other] = [&first, &second].map(|base| fs::symlink_metadata(base.join(path)).unwrap());
        assert_eq!(
            (one.mode(), one.size(), one.mtime_nsec()),
            (other.mode(), other.size(), other.mtime_nsec()),
            "{path}"
        );
    }
    assert!(fs::read(second.join("second name")).unwrap() == sparse_content());
    assert_eq!(fs::metadata(second.join("base/big")).unwrap().nlink(), 2);
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(second.join("base/big"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"kept");
}
