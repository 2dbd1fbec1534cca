//! The naive reference: every change in a list, applied one by one to maps. It is slow, plain, and right by
//! being short; every layer is judged by it.

use std::collections::BTreeMap;

use bytes::Bytes;
use pitgate::types::{
    AttributeChange, Attributes, ChangeBody, DataChange, FileId, FileKind, Mark, NamespaceChange, PAGE_BYTES,
    Position, Time, ZERO_PAGE, pages_of,
};

/// All changes of a source in order, as the journal acknowledged them.
#[derive(Clone, Default)]
pub struct Reference {
    changes: Vec<(Position, Time, ChangeBody)>,
}

impl Reference {
    /// Adds a change with the position and time that the journal gave it.
    pub fn record(&mut self, position: Position, time: Time, change: ChangeBody) {
        let last =
            self.changes.last().map_or((Position::ZERO, Time::MIN), |(position, time, _)| (*position, *time));
        assert!(position > last.0, "{position} after {}", last.0);
        assert!(time >= last.1, "{time} at {position} after {}", last.1);
        self.changes.push((position, time, change));
    }

    /// Drops every change after `position`: what a crash took.
    pub fn forget_after(&mut self, position: Position) {
        self.changes.retain(|(recorded, _, _)| *recorded <= position);
    }

    /// The tree after every change at or before `position`.
    pub fn tree_at(&self, position: Position) -> Tree {
        let mut tree = Tree::default();
        for (_, _, change) in self.changes.iter().take_while(|(recorded, _, _)| *recorded <= position) {
            tree.apply(change);
        }
        tree
    }

    pub fn changes(&self) -> &[(Position, Time, ChangeBody)] {
        &self.changes
    }

    pub fn last_position(&self) -> Position {
        self.changes.last().map_or(Position::ZERO, |(position, _, _)| *position)
    }

    /// Positions between a `CoverageBegin` and the next `CoverageEnd`, both marks included; `epoch_ends` are
    /// the last positions of the writer's lives, where coverage ends as well.
    pub fn covered_positions(&self, epoch_ends: &[Position]) -> Vec<Position> {
        let mut covered = Vec::new();
        let mut within = false;
        for (position, _, change) in &self.changes {
            match change {
                ChangeBody::Mark(Mark::CoverageBegin) => within = true,
                ChangeBody::Mark(Mark::CoverageEnd { .. }) => within = false,
                _ => {}
            }
            if within {
                covered.push(*position);
            }
            within = within && !epoch_ends.contains(position);
        }
        covered
    }

    pub fn bookmarks(&self) -> Vec<(String, Position)> {
        let bookmark = |(position, _, change): &(Position, Time, ChangeBody)| match change {
            ChangeBody::Mark(Mark::Bookmark { name }) => Some((name.clone(), *position)),
            _ => None,
        };
        self.changes.iter().filter_map(bookmark).collect()
    }
}

/// A root and where it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub file: FileId,
    pub label: Bytes,
    pub mountpoint: Bytes,
    pub data_dir: Bytes,
}

/// One file of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub attributes: Attributes,
    pub size: u64,
    /// What was written since the page last became a hole; each 4 KiB.
    pub pages: BTreeMap<u64, Bytes>,
    pub target: Bytes,
    pub xattrs: BTreeMap<Bytes, Bytes>,
    pub entries: BTreeMap<Bytes, FileId>,
}

impl File {
    fn new(attributes: Attributes, target: Bytes) -> File {
        File {
            attributes,
            size: 0,
            pages: BTreeMap::new(),
            target,
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
        }
    }

    fn assert_zero_behind_the_end(&self) {
        for (page, bytes) in self.pages.range(self.size / PAGE_BYTES as u64..) {
            let within = self.size.saturating_sub(page * PAGE_BYTES as u64) as usize;
            let rest = bytes.get(within..).unwrap_or_default();
            assert!(rest.iter().all(|&byte| byte == 0), "page {page} holds bytes behind the end");
        }
    }

    /// The bytes of one page.
    pub fn page(&self, page: u64) -> &[u8] {
        self.pages.get(&page).map_or(&ZERO_PAGE, Bytes::as_ref)
    }

    /// What a read returns; shorter at the end of the file.
    pub fn read(&self, offset_bytes: u64, len_bytes: usize) -> Vec<u8> {
        let end = self.size.min(offset_bytes.saturating_add(len_bytes as u64));
        let mut out = Vec::new();
        let mut at = offset_bytes;
        while at < end {
            let within = (at % PAGE_BYTES as u64) as usize;
            let len = (end - at).min((PAGE_BYTES - within) as u64) as usize;
            out.extend_from_slice(&self.page(at / PAGE_BYTES as u64)[within..within + len]);
            at += len as u64;
        }
        out
    }
}

/// Every file of a source at one position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub files: BTreeMap<FileId, File>,
    pub roots: Vec<Root>,
}

impl Tree {
    pub fn apply(&mut self, change: &ChangeBody) {
        match change {
            ChangeBody::Data(change) => self.apply_data(change),
            ChangeBody::Names(change) => self.apply_names(change),
            ChangeBody::Mark(_) => {}
        }
    }

    /// The names of a file: each directory that holds it, and as what.
    pub fn names_of(&self, file: FileId) -> Vec<(FileId, Bytes)> {
        let mut names = Vec::new();
        for (directory, holder) in &self.files {
            for (name, &entry) in &holder.entries {
                if entry == file {
                    names.push((*directory, name.clone()));
                }
            }
        }
        names
    }

    pub fn link_count(&self, file: FileId) -> u32 {
        let of_kind_directory = |entry: &&FileId| self.files[entry].attributes.kind == FileKind::Directory;
        if self.files[&file].attributes.kind == FileKind::Directory {
            2 + self.files[&file].entries.values().filter(of_kind_directory).count() as u32
        } else {
            self.names_of(file).len() as u32
        }
    }

    fn apply_data(&mut self, change: &DataChange) {
        assert!(change.is_well_formed(), "a change of {:?} breaks its rules", change.file);
        // A write to a file whose last name has gone concerns nobody.
        let Some(file) = self.files.get_mut(&change.file) else { return };
        if change.cut {
            file.pages.retain(|&page, _| page < pages_of(change.size_after));
        }
        if let Some(zero) = change.zero {
            file.pages.retain(|&page, _| page < zero.first || page >= zero.first + zero.count);
        }
        for write in &change.pages {
            for (index, bytes) in write.bytes.chunks(PAGE_BYTES).enumerate() {
                file.pages.insert(write.first_page + index as u64, Bytes::copy_from_slice(bytes));
            }
        }
        file.size = change.size_after;
        file.assert_zero_behind_the_end();
        file.attributes.mtime = change.mtime.unwrap_or(file.attributes.mtime);
    }

    fn apply_names(&mut self, change: &NamespaceChange) {
        match change.clone() {
            NamespaceChange::Root { file, label, mountpoint, data_dir, attributes } => {
                self.roots.retain(|root| root.file != file);
                self.roots.push(Root { file, label, mountpoint, data_dir });
                self.roots.sort_by(|a, b| a.label.cmp(&b.label));
                self.files.entry(file).or_insert_with(|| File::new(attributes, Bytes::new())).attributes =
                    attributes;
            }
            NamespaceChange::Create { file, parent, name, attributes, target, parent_mtime } => {
                assert!(!self.files.contains_key(&file), "{file:?} created twice");
                self.files.insert(file, File::new(attributes, target));
                if let Some(parent) = parent {
                    self.put_name(parent, name, file, parent_mtime);
                }
            }
            NamespaceChange::Link { file, parent, name, parent_mtime } => {
                self.put_name(parent, name, file, parent_mtime);
            }
            NamespaceChange::Unlink { parent, name, parent_mtime } => {
                let file = self.take_name(parent, &name, parent_mtime);
                self.drop_if_nameless(file);
            }
            NamespaceChange::Rename {
                parent,
                name,
                new_parent,
                new_name,
                exchange,
                parent_mtime,
                new_parent_mtime,
            } => {
                let file = self.take_name(parent, &name, parent_mtime);
                let replaced = self.directory(new_parent).entries.remove(&new_name);
                self.put_name(new_parent, new_name, file, new_parent_mtime);
                match replaced {
                    Some(other) if exchange => self.put_name(parent, name, other, parent_mtime),
                    Some(other) => self.drop_if_nameless(other),
                    None => assert!(!exchange, "nothing to exchange with"),
                }
            }
            NamespaceChange::Attributes { file, change } => {
                set_attributes(&mut self.file(file).attributes, &change);
            }
            NamespaceChange::SetXattr { file, name, value } => {
                self.file(file).xattrs.insert(name, value);
            }
            NamespaceChange::RemoveXattr { file, name } => {
                self.file(file).xattrs.remove(&name).expect("the attribute to remove");
            }
        }
    }

    fn file(&mut self, file: FileId) -> &mut File {
        self.files.get_mut(&file).unwrap_or_else(|| panic!("no {file:?}"))
    }

    fn directory(&mut self, directory: FileId) -> &mut File {
        let file = self.file(directory);
        assert_eq!(file.attributes.kind, FileKind::Directory, "{directory:?}");
        file
    }

    fn put_name(&mut self, parent: FileId, name: Bytes, file: FileId, parent_mtime: Time) {
        assert!(self.files.contains_key(&file), "no {file:?}");
        let directory = self.directory(parent);
        let replaced = directory.entries.insert(name.clone(), file);
        assert_eq!(replaced, None, "{name:?} stood in {parent:?}");
        directory.attributes.mtime = parent_mtime;
    }

    fn take_name(&mut self, parent: FileId, name: &Bytes, parent_mtime: Time) -> FileId {
        let directory = self.directory(parent);
        directory.attributes.mtime = parent_mtime;
        directory.entries.remove(name).unwrap_or_else(|| panic!("no {name:?} in {parent:?}"))
    }

    fn drop_if_nameless(&mut self, file: FileId) {
        if self.names_of(file).is_empty() {
            let dropped = self.files.remove(&file).expect("the file that lost its name");
            assert!(dropped.entries.is_empty(), "{file:?} went with entries");
        }
    }
}

fn set_attributes(attributes: &mut Attributes, change: &AttributeChange) {
    attributes.mode = change.mode.unwrap_or(attributes.mode);
    attributes.uid = change.uid.unwrap_or(attributes.uid);
    attributes.gid = change.gid.unwrap_or(attributes.gid);
    attributes.mtime = change.mtime.unwrap_or(attributes.mtime);
}

mod tests {
    use super::*;

    const FILE: FileId = FileId(2);

    fn file_with(changes: &[DataChange]) -> File {
        let attributes =
            Attributes { kind: FileKind::Regular, mode: 0o600, uid: 0, gid: 0, rdev: 0, mtime: Time(0) };
        let mut tree = Tree::default();
        tree.files.insert(FILE, File::new(attributes, Bytes::new()));
        for change in changes {
            tree.apply(&ChangeBody::Data(change.clone()));
        }
        tree.files.remove(&FILE).unwrap()
    }

    fn write(first_page: u64, byte: u8, pages: usize, size_after: u64) -> DataChange {
        let bytes = Bytes::from(vec![byte; pages * PAGE_BYTES]);
        let pages = vec![pitgate::types::PageWrite { first_page, bytes }];
        DataChange { file: FILE, size_after, mtime: Some(Time(1)), cut: false, zero: None, pages }
    }

    fn cut(size_after: u64) -> DataChange {
        DataChange { file: FILE, size_after, mtime: None, cut: true, zero: None, pages: Vec::new() }
    }

    #[test]
    fn what_was_cut_off_reads_as_zeros_when_the_file_grows_again() {
        let file = file_with(&[write(0, 7, 2, 8192), cut(4096), cut(8192)]);
        let mut expected = vec![7; 4096];
        expected.extend([0; 4096]);
        assert_eq!(file.read(0, 10_000), expected);
        assert_eq!(file.attributes.mtime, Time(1), "a change without a time leaves it");
    }

    #[test]
    fn pages_win_over_zeros_of_the_same_change() {
        let mut change = write(1, 9, 1, 12288);
        change.zero = Some(pitgate::types::PageRange { first: 0, count: 3 });
        let file = file_with(&[write(0, 7, 3, 12288), change]);
        assert_eq!(file.read(4095, 3), [0, 9, 9]);
        assert_eq!(file.read(8191, 3), [9, 0, 0]);
        assert_eq!(file.pages.len(), 1);
    }

    #[test]
    fn a_read_ends_with_the_file() {
        let file = file_with(&[write(0, 7, 1, 4096)]);
        assert_eq!(file.read(4090, 100), [7; 6]);
        let file = file_with(&[write(0, 0, 1, 100)]);
        assert_eq!(file.read(90, 100).len(), 10);
        assert!(file.read(100, 1).is_empty());
    }
}
