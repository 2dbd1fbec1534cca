//! Changes of names and attributes, each one that a file system could have applied to the live tree.

use bytes::Bytes;
use pitgate::types::{AttributeChange, FileId, FileKind, NamespaceChange};

use super::Generator;

impl Generator {
    pub(super) fn draw_names(&mut self) -> Option<NamespaceChange> {
        match self.chance.weighted(&[30, 8, 8, 16, 18, 10, 8, 4, 4]) {
            0 => self.create(),
            1 => self.link(),
            2 => self.unlink_directory(),
            3 => self.unlink(),
            4 => self.rename(),
            5 => self.set_attributes(),
            6 => self.set_xattr(),
            7 => self.remove_xattr(),
            _ => Some(self.create_nameless()),
        }
    }

    fn create(&mut self) -> Option<NamespaceChange> {
        let (parent, name) = self.free_name()?;
        let kind = match self.chance.weighted(&[14, 7, 5, 1, 1, 1, 1]) {
            0 => FileKind::Regular,
            1 => FileKind::Directory,
            2 => FileKind::Symlink,
            3 => FileKind::Fifo,
            4 => FileKind::Socket,
            5 => FileKind::CharacterDevice,
            _ => FileKind::BlockDevice,
        };
        let target = if kind == FileKind::Symlink { self.target() } else { Bytes::new() };
        let (file, attributes) = (self.new_file(), self.attributes(kind));
        Some(NamespaceChange::Create {
            file,
            parent: Some(parent),
            name,
            attributes,
            target,
            parent_mtime: self.now,
        })
    }

    /// O_TMPFILE; a later link may name it.
    fn create_nameless(&mut self) -> NamespaceChange {
        NamespaceChange::Create {
            file: self.new_file(),
            parent: None,
            name: Bytes::new(),
            attributes: self.attributes(FileKind::Regular),
            target: Bytes::new(),
            parent_mtime: self.now,
        }
    }

    fn link(&mut self) -> Option<NamespaceChange> {
        let (parent, name) = self.free_name()?;
        let root = self.root_of(parent)?;
        // A link does not leave its file system: what has names has them all below one root.
        let linkable = |id: &FileId| {
            let names = self.tree.names_of(*id);
            names.first().is_none_or(|(directory, _)| self.root_of(*directory) == Some(root))
        };
        let candidates: Vec<FileId> = self
            .reachable()
            .filter(|(_, file)| file.attributes.kind != FileKind::Directory)
            .map(|(id, _)| *id)
            .filter(linkable)
            .collect();
        // Nameless files first: they wait for it.
        let nameless: Vec<FileId> =
            candidates.iter().copied().filter(|&id| self.tree.names_of(id).is_empty()).collect();
        let from = if nameless.is_empty() || self.chance.one_in(3) { candidates } else { nameless };
        let file = *self.chance.choose(&from)?;
        Some(NamespaceChange::Link { file, parent, name, parent_mtime: self.now })
    }

    fn unlink(&mut self) -> Option<NamespaceChange> {
        let (parent, name, _) = self.some_entry(|kind, _| kind != FileKind::Directory)?;
        Some(NamespaceChange::Unlink { parent, name, parent_mtime: self.now })
    }

    fn unlink_directory(&mut self) -> Option<NamespaceChange> {
        let (parent, name, _) = self.some_entry(|kind, is_empty| kind == FileKind::Directory && is_empty)?;
        Some(NamespaceChange::Unlink { parent, name, parent_mtime: self.now })
    }

    fn rename(&mut self) -> Option<NamespaceChange> {
        let (parent, name, file) = self.some_entry(|_, _| true)?;
        let (new_parent, new_name, exchange) = if self.chance.one_in(2) {
            let (new_parent, new_name) = self.free_name()?;
            (new_parent, new_name, false)
        } else {
            let (new_parent, new_name, replaced) = self.some_entry(|_, _| true)?;
            let exchange = self.chance.one_in(3);
            if replaced == file || !(exchange || self.may_replace(file, replaced)) {
                return None;
            }
            // Neither may come to lie below itself.
            if exchange && self.lies_below(parent, replaced) {
                return None;
            }
            (new_parent, new_name, exchange)
        };
        if self.root_of(parent) != self.root_of(new_parent) || self.lies_below(new_parent, file) {
            return None;
        }
        let (parent_mtime, new_parent_mtime) = (self.now, self.now);
        Some(NamespaceChange::Rename {
            parent,
            name,
            new_parent,
            new_name,
            exchange,
            parent_mtime,
            new_parent_mtime,
        })
    }

    fn may_replace(&self, file: FileId, replaced: FileId) -> bool {
        let is_directory = |id: FileId| self.tree.files[&id].attributes.kind == FileKind::Directory;
        match (is_directory(file), is_directory(replaced)) {
            (true, true) => self.tree.files[&replaced].entries.is_empty(),
            (false, false) => true,
            _ => false,
        }
    }

    fn set_attributes(&mut self) -> Option<NamespaceChange> {
        let file = self.some_file()?;
        let mut change = AttributeChange::default();
        if self.chance.one_in(2) {
            change.mode = Some(self.mode());
        }
        if self.chance.one_in(3) {
            change.uid = Some(self.owner());
        }
        if self.chance.one_in(3) {
            change.gid = Some(self.owner());
        }
        if self.chance.one_in(2) {
            change.mtime = Some(self.mtime());
        }
        Some(NamespaceChange::Attributes { file, change })
    }

    fn set_xattr(&mut self) -> Option<NamespaceChange> {
        let file = self.some_file()?;
        let name = *self.chance.choose(&["user.a", "user.b", "security.capability", "trusted.x"])?;
        let len = *self.chance.choose(&[0, 1, 20, 3_000])?;
        let mut value = vec![0; len];
        self.chance.fill(&mut value);
        Some(NamespaceChange::SetXattr { file, name: Bytes::from(name), value: value.into() })
    }

    fn remove_xattr(&mut self) -> Option<NamespaceChange> {
        let set: Vec<(FileId, Bytes)> = self
            .reachable()
            .flat_map(|(id, file)| file.xattrs.keys().map(|name| (*id, name.clone())))
            .collect();
        let (file, name) = self.chance.choose(&set)?.clone();
        Some(NamespaceChange::RemoveXattr { file, name })
    }

    fn some_file(&mut self) -> Option<FileId> {
        let files: Vec<FileId> = self.reachable().map(|(id, _)| *id).collect();
        self.chance.choose(&files).copied()
    }

    /// An entry of any directory whose kind, and emptiness if it is a directory, suit.
    fn some_entry(&mut self, suits: impl Fn(FileKind, bool) -> bool) -> Option<(FileId, Bytes, FileId)> {
        let mut entries = Vec::new();
        for (directory, holder) in &self.tree.files {
            for (name, entry) in &holder.entries {
                let file = &self.tree.files[entry];
                if suits(file.attributes.kind, file.entries.is_empty()) {
                    entries.push((*directory, name.clone(), *entry));
                }
            }
        }
        self.chance.choose(&entries).cloned()
    }

    /// A directory and a name that it does not hold.
    fn free_name(&mut self) -> Option<(FileId, Bytes)> {
        let directories = self.of_kind(FileKind::Directory);
        let directory = *self.chance.choose(&directories)?;
        let name = match self.chance.weighted(&[20, 2, 1, 1]) {
            0 => Bytes::from(format!("f{}", self.chance.below(12))),
            1 => Bytes::from_static(b"PG_VERSION"),
            2 => Bytes::from(vec![b'n'; 255]),
            _ => Bytes::from_static(&[0xff, 0xfe, b' ', b'\n', 0x01]),
        };
        let holds = self.tree.files[&directory].entries.contains_key(&name);
        (!holds).then_some((directory, name))
    }

    /// Links of every sort: within, into a root by either of its paths, beyond, dangling.
    fn target(&mut self) -> Bytes {
        let roots = self.tree.roots.clone();
        let root = self.chance.choose(&roots).cloned();
        let mountpoint =
            root.as_ref().map_or("/none".into(), |root| String::from_utf8_lossy(&root.mountpoint));
        let data_dir = root.as_ref().map_or("/none".into(), |root| String::from_utf8_lossy(&root.data_dir));
        let name = format!("f{}", self.chance.below(12));
        let label = root.as_ref().map_or("none".into(), |root| String::from_utf8_lossy(&root.label));
        Bytes::from(match self.chance.weighted(&[3, 3, 2, 2, 2, 2, 1, 1, 1, 2, 2]) {
            0 => name,
            1 => format!("{mountpoint}/{name}"),
            2 => format!("{data_dir}/{name}/f1"),
            3 => format!("../{name}"),
            4 => "/etc/passwd".to_owned(),
            5 => format!("{mountpoint}er/{name}"),
            6 => mountpoint.into_owned(),
            7 => format!("{mountpoint}/../{name}"),
            8 => format!("../{label}/{name}"),
            9 => format!("../../{label}/{name}"),
            _ => format!("//{}/./f2//f3", mountpoint.trim_start_matches('/')),
        })
    }

    /// The root that holds a directory.
    fn root_of(&self, directory: FileId) -> Option<FileId> {
        let mut at = directory;
        loop {
            if self.tree.roots.iter().any(|root| root.file == at) {
                return Some(at);
            }
            at = self.tree.names_of(at).first()?.0;
        }
    }

    /// Whether `directory` is `file` or lies below it.
    fn lies_below(&self, directory: FileId, file: FileId) -> bool {
        let mut at = directory;
        loop {
            if at == file {
                return true;
            }
            match self.tree.names_of(at).first() {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
    }
}
