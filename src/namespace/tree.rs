//! The tree and the questions it answers.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Bound;

use bytes::Bytes;

use crate::types::{Attributes, FileId, FileKind, Time};

/// The files of a source at one position.
///
/// Invariants: [`FileId::SOURCE`] is always there and its children are the roots; every directory but that
/// one has exactly one name, and following names upwards ends at `FileId::SOURCE`; a name in a directory and
/// the name kept by the file agree; a file without a name is one created without (`O_TMPFILE`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub(super) nodes: HashMap<FileId, Node, SpreadIds>,
    pub(super) roots: Vec<Root>,
    pub(super) next_file: FileId,
}

/// Ids are given one by one by ourselves: spreading them over the table is all that hashing must do.
pub(super) type SpreadIds = BuildHasherDefault<IdHasher>;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, id: u64) {
        // Fibonacci hashing; the high bits, which the table looks at first, get the most of it.
        self.0 = (self.0.rotate_left(8) ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

/// A root: a captured directory tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub file: FileId,
    pub label: Bytes,
    /// Where applications see it.
    pub mountpoint: Bytes,
    /// Where the backing files are.
    pub data_dir: Bytes,
}

/// One name of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub parent: FileId,
    pub name: Bytes,
}

/// A file, directory, link or special file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub attributes: Attributes,
    /// Bytes of a regular file; 0 for all else.
    pub size: u64,
    /// The text of a symbolic link as it was recorded; empty for all else.
    pub target: Bytes,
    pub(super) names: Vec<Name>,
    pub(super) xattrs: BTreeMap<Bytes, Bytes>,
    pub(super) directory: Option<Box<Directory>>,
}

/// What a directory holds; `directories` counts the directories among the children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Directory {
    pub children: BTreeMap<Bytes, FileId>,
    pub directories: u32,
}

impl Node {
    pub(super) fn new(attributes: Attributes, target: Bytes) -> Node {
        let directory = (attributes.kind == FileKind::Directory).then(Box::default);
        Node { attributes, size: 0, target, names: Vec::new(), xattrs: BTreeMap::new(), directory }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// Every name, in no particular order; none for [`FileId::SOURCE`] and for files that have none yet.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// What `stat` gives as the number of links: names, or for a directory 2 and one for each directory in it.
    #[must_use]
    pub fn link_count(&self) -> u32 {
        match &self.directory {
            Some(directory) => directory.directories.saturating_add(2),
            None => u32::try_from(self.names.len()).unwrap_or(u32::MAX),
        }
    }

    /// What `stat` gives as the size.
    #[must_use]
    pub fn status_size(&self) -> u64 {
        if self.attributes.kind == FileKind::Symlink { self.target.len() as u64 } else { self.size }
    }

    /// Extended attributes, ascending by name.
    pub fn xattrs(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.xattrs.iter()
    }

    /// The value of an extended attribute.
    #[must_use]
    pub fn xattr(&self, name: &[u8]) -> Option<&Bytes> {
        self.xattrs.get(name)
    }
}

impl Default for Namespace {
    fn default() -> Namespace {
        Namespace::new()
    }
}

impl Namespace {
    /// The namespace before every change: [`FileId::SOURCE`] alone.
    #[must_use]
    pub fn new() -> Namespace {
        let attributes =
            Attributes { kind: FileKind::Directory, mode: 0o755, uid: 0, gid: 0, rdev: 0, mtime: Time(0) };
        let source = Node::new(attributes, Bytes::new());
        Namespace {
            nodes: HashMap::from_iter([(FileId::SOURCE, source)]),
            roots: Vec::new(),
            next_file: FileId(FileId::SOURCE.0 + 1),
        }
    }

    /// The file with this id, `None` if it does not exist here.
    #[must_use]
    pub fn file(&self, file: FileId) -> Option<&Node> {
        self.nodes.get(&file)
    }

    /// Every file with its id, in no particular order; also [`FileId::SOURCE`] and files without a name.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &Node)> {
        self.nodes.iter().map(|(&file, node)| (file, node))
    }

    /// How many files there are, [`FileId::SOURCE`] among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing but [`FileId::SOURCE`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// The file with this name in a directory; `None` as well if `directory` is not one.
    #[must_use]
    pub fn lookup(&self, directory: FileId, name: &[u8]) -> Option<FileId> {
        self.directory(directory)?.children.get(name).copied()
    }

    /// Names greater than `after` (all, if `None`) and their files, in ascending order of bytes; empty if
    /// `directory` is not one.
    pub fn children_after(
        &self,
        directory: FileId,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = (&Bytes, FileId)> {
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.directory(directory)
            .into_iter()
            .flat_map(move |directory| directory.children.range::<[u8], _>((lower, Bound::Unbounded)))
            .map(|(name, &file)| (name, file))
    }

    /// All names of a directory and their files, in ascending order of bytes.
    pub fn children(&self, directory: FileId) -> impl Iterator<Item = (&Bytes, FileId)> {
        self.children_after(directory, None)
    }

    /// The directory that holds this directory; [`FileId::SOURCE`] has itself. `None` if it is not a directory.
    #[must_use]
    pub fn parent(&self, directory: FileId) -> Option<FileId> {
        let node = self.nodes.get(&directory).filter(|node| node.is_directory())?;
        Some(node.names.first().map_or(FileId::SOURCE, |name| name.parent))
    }

    /// The roots, ascending by label.
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The root that `file` is or lies in by its first name; `None` for a file without a name.
    #[must_use]
    pub fn root_of(&self, file: FileId) -> Option<&Root> {
        let mut at = file;
        loop {
            if let Some(root) = self.roots.iter().find(|root| root.file == at) {
                return Some(root);
            }
            at = self.nodes.get(&at)?.names.first()?.parent;
        }
    }

    /// Every path of a file from [`FileId::SOURCE`] on, such as `label/base/1`; none if it has no name.
    #[must_use]
    pub fn paths(&self, file: FileId) -> Vec<Bytes> {
        let names = self.nodes.get(&file).map_or(&[][..], Node::names);
        names.iter().map(|name| self.path_of(name)).collect()
    }

    /// The first of [`Namespace::paths`].
    #[must_use]
    pub fn path(&self, file: FileId) -> Option<Bytes> {
        let name = self.nodes.get(&file)?.names.first()?;
        Some(self.path_of(name))
    }

    /// The file at a path from [`FileId::SOURCE`] on; links are not followed.
    #[must_use]
    pub fn resolve(&self, path: &[u8]) -> Option<FileId> {
        path.split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty())
            .try_fold(FileId::SOURCE, |at, name| self.lookup(at, name))
    }

    /// The first id above all ever given.
    #[must_use]
    pub fn next_file(&self) -> FileId {
        self.next_file
    }

    /// Never gives ids below `next_file` again; what is already above stays.
    pub fn raise_next_file(&mut self, next_file: FileId) {
        self.next_file = self.next_file.max(next_file);
    }

    /// Sets a regular file's size, and its modification time if there is one. `false` if there is no such
    /// regular file: its last name went, and what was still written to it belongs to no view.
    pub fn set_size(&mut self, file: FileId, size: u64, mtime: Option<Time>) -> bool {
        match self.nodes.get_mut(&file) {
            Some(node) if node.attributes.kind == FileKind::Regular => {
                node.size = size;
                if let Some(mtime) = mtime {
                    node.attributes.mtime = mtime;
                }
                true
            }
            _ => false,
        }
    }

    /// Drops the files that never got a name: no handle of an ended capture can name them any more.
    pub fn drop_nameless(&mut self) {
        self.nodes.retain(|&file, node| file == FileId::SOURCE || !node.names.is_empty());
    }

    pub(super) fn directory(&self, file: FileId) -> Option<&Directory> {
        self.nodes.get(&file)?.directory.as_deref()
    }

    fn path_of(&self, name: &Name) -> Bytes {
        let mut parts: Vec<&[u8]> = vec![&name.name];
        let mut at = name.parent;
        while let Some(name) = self.nodes.get(&at).and_then(|node| node.names.first()) {
            parts.push(&name.name);
            at = name.parent;
        }
        parts.reverse();
        parts.join(&b'/').into()
    }
}
