//! What the log's records add up to: files that differ from the image, and names that do.
//!
//! Changes are applied in log order, live and in replay by the same code, so that both give the same state.
//! Whether a change is allowed is decided before it is written (`changes`), never here.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::extents::{ExtentMap, Place};
use crate::types::{
    Attributes, DataChange, FileId, FileKind, Image, ImageError, NamespaceChange, PageRange, Status, Time,
    pages_of,
};

/// A file that differs from the image, or is not in it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub attributes: Attributes,
    pub size: u64,
    pub link_count: u32,
    pub change_time: Time,
    /// Text of a link made here, as it was given.
    pub target: Bytes,
    pub in_base: bool,
    pub base_allocated_bytes: u64,
    /// `None`: removed. Names not in the map are as in the image.
    pub xattrs: BTreeMap<Bytes, Option<Bytes>>,
    pub extents: ExtentMap,
}

/// A name that differs from the image; `None`: removed.
pub(super) type NameChange = Option<(FileId, FileKind)>;

#[derive(Default)]
pub(super) struct State {
    pub nodes: HashMap<FileId, Node>,
    pub names: HashMap<FileId, BTreeMap<Bytes, NameChange>>,
    /// Directories and links that were made or moved here: where they are now.
    pub parents: HashMap<FileId, FileId>,
    pub next_file: u64,
}

impl State {
    pub fn new() -> State {
        State { next_file: FileId::OVERLAY_FIRST.0, ..State::default() }
    }

    /// Makes sure that `file` is among the nodes, as the image has it.
    pub fn copy_up(&mut self, base: &dyn Image, file: FileId) -> Result<&mut Node, ImageError> {
        match self.nodes.entry(file) {
            Entry::Occupied(node) => Ok(node.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(Node::over_base(&base.status(file)?))),
        }
    }

    /// The file with this name and what it is; `None` if there is none.
    pub fn lookup(
        &self,
        base: &dyn Image,
        directory: FileId,
        name: &[u8],
    ) -> Result<Option<(FileId, FileKind)>, ImageError> {
        if let Some(change) = self.names.get(&directory).and_then(|names| names.get(name)) {
            return Ok(*change);
        }
        if !self.in_base(directory) {
            return Ok(None);
        }
        let Some(file) = base.lookup(directory, name)? else { return Ok(None) };
        let kind = match self.nodes.get(&file) {
            Some(node) => node.attributes.kind,
            None => base.status(file)?.attributes.kind,
        };
        Ok(Some((file, kind)))
    }

    pub fn in_base(&self, file: FileId) -> bool {
        !file.is_overlay()
    }

    /// The directory that holds this directory or link.
    pub fn parent(&self, base: &dyn Image, file: FileId) -> Result<FileId, ImageError> {
        match self.parents.get(&file) {
            Some(parent) => Ok(*parent),
            None => base.parent(file),
        }
    }

    /// Applies a change of names or attributes that was found permissible.
    ///
    /// # Errors
    /// `ImageError` if it names what is not there: the log is then not this overlay's.
    pub fn apply_names(
        &mut self,
        base: &dyn Image,
        change: &NamespaceChange,
        time: Time,
    ) -> Result<(), ImageError> {
        match change {
            NamespaceChange::Root { file, .. } => return Err(ImageError::NoSuchFile(*file)),
            NamespaceChange::Create { file, parent, name, attributes, target, parent_mtime } => {
                self.next_file = self.next_file.max(file.0.saturating_add(1));
                let is_directory = attributes.kind == FileKind::Directory;
                let link_count = if is_directory { 2 } else { u32::from(parent.is_some()) };
                self.nodes.insert(*file, Node::new(*attributes, link_count, target.clone(), time));
                if let Some(parent) = parent {
                    self.put_name(*parent, name, Some((*file, attributes.kind)));
                    self.touch_directory(base, *parent, i64::from(is_directory), *parent_mtime, time)?;
                    self.note_parent(*file, attributes.kind, *parent);
                }
            }
            NamespaceChange::Link { file, parent, name, parent_mtime } => {
                let node = self.copy_up(base, *file)?;
                node.link_count += 1;
                node.change_time = time;
                let kind = node.attributes.kind;
                self.put_name(*parent, name, Some((*file, kind)));
                self.touch_directory(base, *parent, 0, *parent_mtime, time)?;
            }
            NamespaceChange::Unlink { parent, name, parent_mtime } => {
                let subdirectories = self.drop_name(base, *parent, name, time)?;
                self.put_name(*parent, name, None);
                self.touch_directory(base, *parent, -subdirectories, *parent_mtime, time)?;
            }
            NamespaceChange::Rename { .. } => self.apply_rename(base, change, time)?,
            NamespaceChange::Attributes { file, change } => {
                let node = self.copy_up(base, *file)?;
                let attributes = &mut node.attributes;
                attributes.mode = change.mode.unwrap_or(attributes.mode);
                attributes.uid = change.uid.unwrap_or(attributes.uid);
                attributes.gid = change.gid.unwrap_or(attributes.gid);
                attributes.mtime = change.mtime.unwrap_or(attributes.mtime);
                node.change_time = time;
            }
            NamespaceChange::SetXattr { file, name, value } => {
                let node = self.copy_up(base, *file)?;
                node.xattrs.insert(name.clone(), Some(value.clone()));
                node.change_time = time;
            }
            NamespaceChange::RemoveXattr { file, name } => {
                let node = self.copy_up(base, *file)?;
                if node.in_base {
                    node.xattrs.insert(name.clone(), None);
                } else {
                    node.xattrs.remove(name);
                }
                node.change_time = time;
            }
        }
        Ok(())
    }

    fn apply_rename(
        &mut self,
        base: &dyn Image,
        change: &NamespaceChange,
        time: Time,
    ) -> Result<(), ImageError> {
        let NamespaceChange::Rename {
            parent,
            name,
            new_parent,
            new_name,
            exchange,
            parent_mtime,
            new_parent_mtime,
        } = change
        else {
            return Ok(());
        };
        let moved = self.lookup(base, *parent, name)?.ok_or(ImageError::NoSuchFile(*parent))?;
        let moved_is_directory = i64::from(moved.1 == FileKind::Directory);
        let (mut old_delta, mut new_delta) = (-moved_is_directory, moved_is_directory);
        if *exchange {
            let other =
                self.lookup(base, *new_parent, new_name)?.ok_or(ImageError::NoSuchFile(*new_parent))?;
            let other_is_directory = i64::from(other.1 == FileKind::Directory);
            old_delta += other_is_directory;
            new_delta -= other_is_directory;
            self.put_name(*parent, name, Some(other));
            self.note_parent(other.0, other.1, *parent);
            self.copy_up(base, other.0)?.change_time = time;
        } else {
            if self.lookup(base, *new_parent, new_name)?.is_some() {
                new_delta -= self.drop_name(base, *new_parent, new_name, time)?;
            }
            self.put_name(*parent, name, None);
        }
        self.put_name(*new_parent, new_name, Some(moved));
        self.note_parent(moved.0, moved.1, *new_parent);
        self.copy_up(base, moved.0)?.change_time = time;
        self.touch_directory(base, *parent, old_delta, *parent_mtime, time)?;
        self.touch_directory(base, *new_parent, new_delta, *new_parent_mtime, time)
    }

    /// Applies a change of data; its pages lie in the log from `place` on, span after span.
    pub fn apply_data(
        &mut self,
        base: &dyn Image,
        change: &DataChange,
        spans: &[PageRange],
        mut place: Place,
        time: Time,
    ) -> Result<(), ImageError> {
        let node = self.copy_up(base, change.file)?;
        if change.cut {
            node.extents.cut(pages_of(change.size_after));
        }
        if let Some(zero) = change.zero {
            node.extents.set_zero(zero.first, zero.count);
        }
        for span in spans {
            node.extents.set_log(span.first, span.count, place);
            place = place.advance(span.count);
        }
        node.size = change.size_after;
        node.attributes.mtime = change.mtime.unwrap_or(node.attributes.mtime);
        node.change_time = time;
        Ok(())
    }

    /// Forgets files without a name; only at opening, when nobody can have them open.
    pub fn forget_nameless(&mut self) {
        let nameless: Vec<FileId> =
            self.nodes.iter().filter(|(_, node)| node.link_count == 0).map(|(&file, _)| file).collect();
        for file in nameless {
            self.forget(file);
        }
    }

    /// Forgets a file if it has no name, with what it held.
    pub fn forget(&mut self, file: FileId) {
        if self.nodes.get(&file).is_some_and(|node| node.link_count == 0) {
            self.nodes.remove(&file);
            self.names.remove(&file);
            self.parents.remove(&file);
        }
    }

    fn put_name(&mut self, directory: FileId, name: &Bytes, change: NameChange) {
        let in_base = self.in_base(directory);
        let names = self.names.entry(directory).or_default();
        if change.is_none() && !in_base {
            names.remove(name);
        } else {
            names.insert(name.clone(), change);
        }
    }

    /// Takes one name from the file that has it; gives 1 if that was a directory.
    fn drop_name(
        &mut self,
        base: &dyn Image,
        parent: FileId,
        name: &[u8],
        time: Time,
    ) -> Result<i64, ImageError> {
        let (file, kind) = self.lookup(base, parent, name)?.ok_or(ImageError::NoSuchFile(parent))?;
        let node = self.copy_up(base, file)?;
        node.change_time = time;
        if kind == FileKind::Directory {
            node.link_count = 0;
            return Ok(1);
        }
        node.link_count = node.link_count.saturating_sub(1);
        Ok(0)
    }

    fn touch_directory(
        &mut self,
        base: &dyn Image,
        directory: FileId,
        subdirectories: i64,
        mtime: Time,
        time: Time,
    ) -> Result<(), ImageError> {
        let node = self.copy_up(base, directory)?;
        node.link_count = u32::try_from(i64::from(node.link_count) + subdirectories).unwrap_or(0);
        node.attributes.mtime = mtime;
        node.change_time = time;
        Ok(())
    }

    fn note_parent(&mut self, file: FileId, kind: FileKind, parent: FileId) {
        if matches!(kind, FileKind::Directory | FileKind::Symlink) {
            self.parents.insert(file, parent);
        }
    }
}

impl Node {
    fn new(attributes: Attributes, link_count: u32, target: Bytes, time: Time) -> Node {
        Node {
            attributes,
            size: target.len() as u64,
            link_count,
            change_time: time,
            target,
            in_base: false,
            base_allocated_bytes: 0,
            xattrs: BTreeMap::new(),
            extents: ExtentMap::default(),
        }
    }

    fn over_base(status: &Status) -> Node {
        let base_pages = if status.attributes.kind == FileKind::Regular { pages_of(status.size) } else { 0 };
        Node {
            attributes: status.attributes,
            size: status.size,
            link_count: status.link_count,
            change_time: status.attributes.mtime,
            target: Bytes::new(),
            in_base: true,
            base_allocated_bytes: status.allocated_bytes,
            xattrs: BTreeMap::new(),
            extents: ExtentMap::over_base(base_pages),
        }
    }

    pub fn status(&self, file: FileId) -> Status {
        let own_bytes = self.extents.log_pages() * crate::types::PAGE_BYTES as u64;
        let whole = pages_of(self.size).saturating_mul(crate::types::PAGE_BYTES as u64);
        Status {
            file,
            attributes: self.attributes,
            size: self.size,
            link_count: self.link_count,
            allocated_bytes: whole.min(self.base_allocated_bytes.saturating_add(own_bytes)),
        }
    }
}
