//! What an overlay should do, naively: every operation on a tree in memory, and random operations to try.

use std::collections::BTreeMap;

use bytes::Bytes;
use pitgate::overlay::{NewFile, Overlay, OverlayError, RenameMode, XattrMode};
use pitgate::types::{
    AttributeChange, Attributes, ChangeBody, FileId, FileKind, NamespaceChange, PAGE_BYTES, Time, pages_of,
};

use crate::chance::Chance;
use crate::reference::{File, Tree};

const PAGE: u64 = PAGE_BYTES as u64;

/// One operation of a program on a mount.
#[derive(Clone, Debug)]
pub enum Operation {
    Make { parent: FileId, name: &'static str, kind: FileKind },
    MakeNameless { parent: FileId },
    Link { file: FileId, parent: FileId, name: &'static str },
    Unlink { parent: FileId, name: Bytes },
    RemoveDirectory { parent: FileId, name: Bytes },
    Rename { parent: FileId, name: Bytes, new_parent: FileId, new_name: Bytes, mode: RenameMode },
    SetAttributes { file: FileId, change: AttributeChange },
    SetXattr { file: FileId, name: &'static str, value: Bytes, mode: XattrMode },
    RemoveXattr { file: FileId, name: &'static str },
    Write { file: FileId, offset: u64, bytes: Bytes },
    Truncate { file: FileId, size: u64 },
    Zero { file: FileId, offset: u64, len: u64, keep_size: bool },
    Allocate { file: FileId, offset: u64, len: u64, keep_size: bool },
    Forget { file: FileId },
}

/// The tree a mount should show, and files that lost their last name but are still open.
#[derive(Clone)]
pub struct Model {
    pub tree: Tree,
    pub nameless: BTreeMap<FileId, File>,
    pub next_file: u64,
}

const NAMES: [&str; 8] = ["a", "b", "base", "pg_wal", "0001", "tmp", "x", "längerer Name"];
const OWN_TARGET: &[u8] = b"a/b";

impl Model {
    pub fn new(tree: Tree) -> Model {
        Model { tree, nameless: BTreeMap::new(), next_file: FileId::OVERLAY_FIRST.0 }
    }

    /// Every open file is closed, as when the process is killed.
    pub fn forget_nameless(&mut self) {
        self.nameless.clear();
    }

    /// Files of a kind that can be reached by a name.
    fn reachable(&self, wanted: impl Fn(FileKind) -> bool) -> Vec<FileId> {
        let mut found: Vec<FileId> = self.tree.roots.iter().map(|root| root.file).collect();
        let mut at = 0;
        while at < found.len() {
            found.extend(self.tree.files[&found[at]].entries.values());
            at += 1;
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|file| wanted(self.tree.files[file].attributes.kind));
        found
    }

    pub fn draw(&self, chance: &mut Chance) -> Operation {
        let directories = self.reachable(|kind| kind == FileKind::Directory);
        let mut regular = self.reachable(|kind| kind == FileKind::Regular);
        regular.extend(self.nameless.keys());
        let any = self.reachable(|_| true);
        let directory = |chance: &mut Chance| *chance.choose(&directories).expect("there is a root");
        let parent = directory(chance);
        let name = *chance.choose(&NAMES).expect("names");
        let Some(&file) = chance.choose(&regular) else {
            return Operation::Make { parent, name, kind: FileKind::Regular };
        };
        let existing = |chance: &mut Chance, parent: FileId| {
            let names: Vec<&Bytes> = self.tree.files[&parent].entries.keys().collect();
            match chance.choose(&names) {
                Some(name) if !chance.one_in(8) => (*name).clone(),
                _ => Bytes::from_static(name.as_bytes()),
            }
        };
        match chance.weighted(&[8, 1, 2, 5, 2, 6, 3, 3, 1, 18, 6, 4, 2, 2]) {
            0 => {
                let kinds = [FileKind::Regular, FileKind::Directory, FileKind::Symlink, FileKind::Fifo];
                Operation::Make { parent, name, kind: kinds[chance.weighted(&[4, 3, 1, 1])] }
            }
            1 => Operation::MakeNameless { parent },
            2 => Operation::Link { file: *chance.choose(&any).unwrap_or(&file), parent, name },
            3 => Operation::Unlink { parent, name: existing(chance, parent) },
            4 => Operation::RemoveDirectory { parent, name: existing(chance, parent) },
            5 => {
                let new_parent = directory(chance);
                let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                let name = existing(chance, parent);
                let new_name = existing(chance, new_parent);
                Operation::Rename {
                    parent,
                    name,
                    new_parent,
                    new_name,
                    mode: modes[chance.weighted(&[4, 1, 2])],
                }
            }
            6 => Operation::SetAttributes {
                file: *chance.choose(&any).unwrap_or(&file),
                change: attributes(chance),
            },
            7 => {
                let modes = [XattrMode::Any, XattrMode::Create, XattrMode::Replace];
                let mut value = vec![0; chance.below(40) as usize];
                chance.fill(&mut value);
                let (name, mode) = (xattr_name(chance), modes[chance.below(3) as usize]);
                Operation::SetXattr { file, name, value: value.into(), mode }
            }
            8 => Operation::RemoveXattr { file, name: xattr_name(chance) },
            9 => self.draw_write(chance, file),
            10 => Operation::Truncate { file, size: self.offset(chance, file) },
            11 => {
                let (offset, len) = (self.offset(chance, file), chance.between(1, 4 * PAGE));
                Operation::Zero { file, offset, len, keep_size: chance.one_in(2) }
            }
            12 => {
                let (offset, len) = (self.offset(chance, file), chance.between(1, 4 * PAGE));
                Operation::Allocate { file, offset, len, keep_size: chance.one_in(2) }
            }
            _ => Operation::Forget { file: *self.nameless.keys().next().unwrap_or(&file) },
        }
    }

    fn draw_write(&self, chance: &mut Chance, file: FileId) -> Operation {
        let offset = self.offset(chance, file);
        let mut len = chance.between(1, 3 * PAGE);
        if chance.one_in(3) {
            len = len.next_multiple_of(PAGE);
        }
        let mut bytes = vec![0; len as usize];
        chance.fill(&mut bytes);
        Operation::Write { file, offset, bytes: bytes.into() }
    }

    /// An offset in or a little behind the file, often at the edge of a page or of a sector.
    fn offset(&self, chance: &mut Chance, file: FileId) -> u64 {
        let size = self.file(file).size.min(64 * PAGE);
        let offset = chance.below(size + 3 * PAGE);
        match chance.below(4) {
            0 => offset / PAGE * PAGE,
            1 => offset / 512 * 512,
            2 => size,
            _ => offset,
        }
    }

    pub fn file(&self, file: FileId) -> &File {
        self.tree.files.get(&file).or_else(|| self.nameless.get(&file)).expect("the file is there")
    }

    /// Applies an operation as it should be; whether it changes anything, or why it is refused.
    pub fn apply(&mut self, operation: &Operation, now: Time) -> Result<bool, &'static str> {
        match operation.clone() {
            Operation::Make { parent, name, kind } => {
                self.require_absent(parent, name.as_bytes())?;
                self.create(Some(parent), name, kind, now);
            }
            Operation::MakeNameless { .. } => {
                let file = self.create(None, "", FileKind::Regular, now);
                let made = self.tree.files.remove(&file).expect("just made");
                self.nameless.insert(file, made);
            }
            Operation::Link { file, parent, name } => {
                if self.tree.files[&file].attributes.kind == FileKind::Directory {
                    return Err("is a directory");
                }
                self.require_absent(parent, name.as_bytes())?;
                let name = Bytes::from_static(name.as_bytes());
                self.names(NamespaceChange::Link { file, parent, name, parent_mtime: now });
            }
            Operation::Unlink { parent, name } => {
                if self.kind(self.entry(parent, &name)?) == FileKind::Directory {
                    return Err("is a directory");
                }
                self.keep_if_last(parent, &name);
                self.names(NamespaceChange::Unlink { parent, name, parent_mtime: now });
            }
            Operation::RemoveDirectory { parent, name } => {
                let file = self.entry(parent, &name)?;
                if self.kind(file) != FileKind::Directory {
                    return Err("not a directory");
                }
                self.require_empty(file)?;
                self.names(NamespaceChange::Unlink { parent, name, parent_mtime: now });
            }
            Operation::Rename { .. } => return self.rename(operation, now),
            Operation::SetAttributes { file, change } => {
                self.names(NamespaceChange::Attributes { file, change });
            }
            Operation::SetXattr { file, name, value, mode } => {
                let xattrs = &mut self.file_mut(file).xattrs;
                match (mode, xattrs.contains_key(name.as_bytes())) {
                    (XattrMode::Create, true) => return Err("exists"),
                    (XattrMode::Replace, false) => return Err("no attribute"),
                    _ => {}
                }
                xattrs.insert(Bytes::from_static(name.as_bytes()), value);
            }
            Operation::RemoveXattr { file, name } => {
                self.file_mut(file).xattrs.remove(name.as_bytes()).ok_or("no attribute")?;
            }
            Operation::Write { file, offset, bytes } => write(self.file_mut(file), offset, &bytes, now),
            Operation::Truncate { file, size } => truncate(self.file_mut(file), size, now),
            Operation::Zero { file, offset, len, keep_size } => {
                zero(self.file_mut(file), offset, offset + len, keep_size, now);
            }
            Operation::Allocate { file, offset, len, keep_size } => {
                let file = self.file_mut(file);
                if keep_size || offset + len <= file.size {
                    return Ok(false);
                }
                file.size = offset + len;
                file.attributes.mtime = now;
            }
            Operation::Forget { file } => {
                self.nameless.remove(&file);
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn rename(&mut self, operation: &Operation, now: Time) -> Result<bool, &'static str> {
        let Operation::Rename { parent, name, new_parent, new_name, mode } = operation.clone() else {
            return Ok(false);
        };
        let file = self.entry(parent, &name)?;
        let other = self.entry(new_parent, &new_name).ok();
        self.require_outside(new_parent, file)?;
        match (mode, other) {
            (RenameMode::Exchange, None) => return Err("not found"),
            (RenameMode::NoReplace, Some(_)) => return Err("exists"),
            (_, Some(other)) if other == file => return Ok(false),
            (RenameMode::Exchange, Some(other)) => self.require_outside(parent, other)?,
            (_, Some(other)) => match (self.kind(file), self.kind(other)) {
                (FileKind::Directory, FileKind::Directory) => self.require_empty(other)?,
                (FileKind::Directory, _) => return Err("not a directory"),
                (_, FileKind::Directory) => return Err("is a directory"),
                _ => self.keep_if_last(new_parent, &new_name),
            },
            (_, None) => {}
        }
        self.names(NamespaceChange::Rename {
            parent,
            name,
            new_parent,
            new_name,
            exchange: mode == RenameMode::Exchange,
            parent_mtime: now,
            new_parent_mtime: now,
        });
        Ok(true)
    }

    fn names(&mut self, change: NamespaceChange) {
        self.tree.apply(&ChangeBody::Names(change));
    }

    fn create(&mut self, parent: Option<FileId>, name: &'static str, kind: FileKind, now: Time) -> FileId {
        let file = FileId(self.next_file);
        self.next_file += 1;
        let attributes = Attributes { kind, mode: 0o640, uid: 7, gid: 8, rdev: 0, mtime: now };
        let target = if kind == FileKind::Symlink { OWN_TARGET } else { b"" };
        let (name, target) = (Bytes::from_static(name.as_bytes()), Bytes::from_static(target));
        self.names(NamespaceChange::Create { file, parent, name, attributes, target, parent_mtime: now });
        file
    }

    fn kind(&self, file: FileId) -> FileKind {
        self.tree.files[&file].attributes.kind
    }

    fn file_mut(&mut self, file: FileId) -> &mut File {
        let found = self.tree.files.get_mut(&file).or_else(|| self.nameless.get_mut(&file));
        found.expect("the file is there")
    }

    fn entry(&self, parent: FileId, name: &Bytes) -> Result<FileId, &'static str> {
        self.tree.files[&parent].entries.get(name).copied().ok_or("not found")
    }

    fn require_absent(&self, parent: FileId, name: &[u8]) -> Result<(), &'static str> {
        if self.tree.files[&parent].entries.contains_key(name) { Err("exists") } else { Ok(()) }
    }

    fn require_empty(&self, directory: FileId) -> Result<(), &'static str> {
        if self.tree.files[&directory].entries.is_empty() { Ok(()) } else { Err("not empty") }
    }

    fn require_outside(&self, new_parent: FileId, moved: FileId) -> Result<(), &'static str> {
        let mut at = Some(new_parent);
        while let Some(directory) = at {
            if directory == moved {
                return Err("invalid");
            }
            at = self.tree.names_of(directory).first().map(|(parent, _)| *parent);
        }
        Ok(())
    }

    /// The file is open: it outlives its last name.
    fn keep_if_last(&mut self, parent: FileId, name: &Bytes) {
        let file = self.tree.files[&parent].entries[name];
        if self.tree.link_count(file) == 1 && self.kind(file) == FileKind::Regular {
            self.nameless.insert(file, self.tree.files[&file].clone());
        }
    }
}

fn attributes(chance: &mut Chance) -> AttributeChange {
    AttributeChange {
        mode: chance.one_in(2).then(|| chance.below(0o10000) as u32),
        uid: chance.one_in(2).then(|| chance.below(5) as u32),
        gid: chance.one_in(2).then(|| chance.below(5) as u32),
        mtime: chance.one_in(2).then(|| Time(chance.below(1 << 60) as i64)),
    }
}

fn xattr_name(chance: &mut Chance) -> &'static str {
    ["user.a", "user.b", "security.capability"][chance.below(3) as usize]
}

fn write(file: &mut File, offset: u64, bytes: &[u8], now: Time) {
    let end = offset + bytes.len() as u64;
    for page in offset / PAGE..pages_of(end) {
        let mut own = file.page(page).to_vec();
        let (from, to) = (offset.max(page * PAGE), end.min((page + 1) * PAGE));
        let part = &bytes[(from - offset) as usize..(to - offset) as usize];
        own[(from - page * PAGE) as usize..(to - page * PAGE) as usize].copy_from_slice(part);
        file.pages.insert(page, own.into());
    }
    file.size = file.size.max(end);
    file.attributes.mtime = now;
}

fn truncate(file: &mut File, size: u64, now: Time) {
    if size < file.size {
        file.pages.retain(|&page, _| page < pages_of(size));
        zero_in_pages(file, size, u64::MAX);
    }
    file.size = size;
    file.attributes.mtime = now;
}

fn zero(file: &mut File, start: u64, end: u64, keep_size: bool, now: Time) {
    let within = end.min(file.size);
    file.pages.retain(|&page, _| page < pages_of(start) || page >= within / PAGE);
    if start < within {
        zero_in_pages(file, start, within);
    }
    if !keep_size {
        file.size = file.size.max(end);
    }
    file.attributes.mtime = now;
}

fn zero_in_pages(file: &mut File, start: u64, end: u64) {
    for (&page, bytes) in file.pages.range_mut(start / PAGE..pages_of(end)) {
        let mut own = bytes.to_vec();
        let (from, to) = (start.max(page * PAGE), end.min((page + 1) * PAGE));
        own[(from - page * PAGE) as usize..(to - page * PAGE) as usize].fill(0);
        *bytes = own.into();
    }
}

/// Carries the operation out on an overlay.
pub fn perform(overlay: &Overlay, operation: &Operation) -> Result<(), OverlayError> {
    let new = |kind| NewFile {
        kind,
        mode: 0o640,
        uid: 7,
        gid: 8,
        rdev: 0,
        target: if kind == FileKind::Symlink { OWN_TARGET } else { b"" },
    };
    match operation {
        Operation::Make { parent, name, kind } => {
            overlay.make(*parent, name.as_bytes(), &new(*kind)).map(drop)
        }
        Operation::MakeNameless { parent } => {
            overlay.make_nameless(*parent, &new(FileKind::Regular)).map(drop)
        }
        Operation::Link { file, parent, name } => overlay.link(*file, *parent, name.as_bytes()).map(drop),
        Operation::Unlink { parent, name } => overlay.unlink(*parent, name),
        Operation::RemoveDirectory { parent, name } => overlay.remove_directory(*parent, name),
        Operation::Rename { parent, name, new_parent, new_name, mode } => {
            overlay.rename(*parent, name, *new_parent, new_name, *mode)
        }
        Operation::SetAttributes { file, change } => overlay.set_attributes(*file, *change).map(drop),
        Operation::SetXattr { file, name, value, mode } => {
            overlay.set_xattr(*file, name.as_bytes(), value, *mode)
        }
        Operation::RemoveXattr { file, name } => overlay.remove_xattr(*file, name.as_bytes()),
        Operation::Write { file, offset, bytes } => overlay.write(*file, *offset, bytes),
        Operation::Truncate { file, size } => overlay.truncate(*file, *size).map(drop),
        Operation::Zero { file, offset, len, keep_size } => overlay.zero(*file, *offset, *len, *keep_size),
        Operation::Allocate { file, offset, len, keep_size } => {
            overlay.allocate(*file, *offset, *len, *keep_size)
        }
        Operation::Forget { file } => {
            overlay.forget(*file);
            Ok(())
        }
    }
}

/// The model's word for an overlay's refusal; `None` for what the model does not know: storage.
pub fn refusal(error: &OverlayError) -> Option<&'static str> {
    match error {
        OverlayError::Exists => Some("exists"),
        OverlayError::NotFound => Some("not found"),
        OverlayError::NotADirectory => Some("not a directory"),
        OverlayError::IsADirectory => Some("is a directory"),
        OverlayError::NotEmpty => Some("not empty"),
        OverlayError::Invalid(_) => Some("invalid"),
        OverlayError::NoAttribute => Some("no attribute"),
        _ => None,
    }
}
