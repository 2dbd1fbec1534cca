//! What each change does to the tree. A change either takes effect wholly or is refused and changes nothing.

use bytes::Bytes;

use super::tree::{Directory, Name, Namespace, Node, Root};
use crate::types::{AttributeChange, Attributes, FileId, FileKind, NamespaceChange, Time};

/// Why a change cannot follow the ones before it. Capture records only what took effect, so this tells of
/// a lost change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    #[error("no file {0:?}")]
    NoSuchFile(FileId),
    #[error("{0:?} is not a directory")]
    NotADirectory(FileId),
    #[error("{0:?} is a directory")]
    IsADirectory(FileId),
    #[error("no name `{}` in {directory:?}", name.escape_ascii())]
    NoSuchName { directory: FileId, name: Bytes },
    #[error("the name `{}` is taken in {directory:?}", name.escape_ascii())]
    NameTaken { directory: FileId, name: Bytes },
    #[error("directory {0:?} is not empty")]
    NotEmpty(FileId),
    #[error("{0:?} exists already")]
    FileExists(FileId),
    #[error("{0:?} cannot be the id of a captured file")]
    ReservedFile(FileId),
    #[error("{0:?} would come to lie in itself")]
    Loop(FileId),
    #[error("only roots are named in the source's own directory")]
    OutsideRoots,
}

impl Namespace {
    /// Applies one change.
    ///
    /// # Errors
    /// `NamespaceError` if the change cannot follow what was applied before; nothing has changed then.
    pub fn apply(&mut self, change: &NamespaceChange) -> Result<(), NamespaceError> {
        match change {
            NamespaceChange::Root { file, label, mountpoint, data_dir, attributes } => {
                let root = Root {
                    file: *file,
                    label: label.clone(),
                    mountpoint: mountpoint.clone(),
                    data_dir: data_dir.clone(),
                };
                self.declare_root(root, *attributes)
            }
            NamespaceChange::Create { file, parent, name, attributes, target, parent_mtime } => {
                let node = Node::new(normal(*attributes), target.clone());
                self.create(*file, node, parent.map(|parent| (parent, name, *parent_mtime)))
            }
            NamespaceChange::Link { file, parent, name, parent_mtime } => {
                self.link(*file, *parent, name, *parent_mtime)
            }
            NamespaceChange::Unlink { parent, name, parent_mtime } => {
                self.unlink(*parent, name, *parent_mtime)
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
                let from = Name { parent: *parent, name: name.clone() };
                let to = Name { parent: *new_parent, name: new_name.clone() };
                if *exchange { self.exchange(&from, &to) } else { self.rename(&from, &to) }?;
                self.set_mtime(*parent, *parent_mtime);
                self.set_mtime(*new_parent, *new_parent_mtime);
                Ok(())
            }
            NamespaceChange::Attributes { file, change } => self.change_attributes(*file, change),
            NamespaceChange::SetXattr { file, name, value } => {
                self.existing_mut(*file)?.xattrs.insert(name.clone(), value.clone());
                Ok(())
            }
            NamespaceChange::RemoveXattr { file, name } => {
                self.existing_mut(*file)?.xattrs.remove(name);
                Ok(())
            }
        }
    }

    fn declare_root(&mut self, root: Root, attributes: Attributes) -> Result<(), NamespaceError> {
        if attributes.kind != FileKind::Directory {
            return Err(NamespaceError::NotADirectory(root.file));
        }
        match self.lookup(FileId::SOURCE, &root.label) {
            Some(holder) if holder != root.file => {
                return Err(NamespaceError::NameTaken { directory: FileId::SOURCE, name: root.label });
            }
            _ => {}
        }
        let known = self.roots.iter().position(|known| known.file == root.file);
        match known {
            Some(known) => {
                let label = self.roots.remove(known).label;
                self.remove_name(FileId::SOURCE, &label, root.file);
                self.existing_mut(root.file)?.attributes = normal(attributes);
            }
            None => self.insert(root.file, Node::new(normal(attributes), Bytes::new()))?,
        }
        self.add_name(FileId::SOURCE, &root.label, root.file);
        let at = self.roots.partition_point(|other| other.label < root.label);
        self.roots.insert(at, root);
        Ok(())
    }

    fn create(
        &mut self,
        file: FileId,
        node: Node,
        place: Option<(FileId, &Bytes, Time)>,
    ) -> Result<(), NamespaceError> {
        if let Some((parent, name, _)) = place {
            self.require_free(parent, name)?;
        } else if node.is_directory() {
            return Err(NamespaceError::IsADirectory(file));
        }
        self.insert(file, node)?;
        if let Some((parent, name, parent_mtime)) = place {
            self.add_name(parent, name, file);
            self.set_mtime(parent, parent_mtime);
        }
        Ok(())
    }

    fn link(
        &mut self,
        file: FileId,
        parent: FileId,
        name: &Bytes,
        mtime: Time,
    ) -> Result<(), NamespaceError> {
        if self.existing(file)?.is_directory() {
            return Err(NamespaceError::IsADirectory(file));
        }
        self.require_free(parent, name)?;
        self.add_name(parent, name, file);
        self.set_mtime(parent, mtime);
        Ok(())
    }

    fn unlink(&mut self, parent: FileId, name: &Bytes, mtime: Time) -> Result<(), NamespaceError> {
        let file = self.existing_name(parent, name)?;
        self.require_removable(file)?;
        self.remove_name(parent, name, file);
        self.roots.retain(|root| root.file != file);
        self.drop_if_nameless(file);
        self.set_mtime(parent, mtime);
        Ok(())
    }

    fn rename(&mut self, from: &Name, to: &Name) -> Result<(), NamespaceError> {
        let file = self.existing_name(from.parent, &from.name)?;
        self.require_inside_roots(from.parent)?;
        self.require_inside_roots(to.parent)?;
        self.existing_directory(to.parent)?;
        let replaced = self.lookup(to.parent, &to.name);
        if replaced == Some(file) {
            // Two names of one file: rename(2) then does nothing.
            return Ok(());
        }
        self.require_no_loop(file, to.parent)?;
        if let Some(replaced) = replaced {
            match (self.existing(file)?.is_directory(), self.existing(replaced)?.is_directory()) {
                (true, false) => return Err(NamespaceError::NotADirectory(replaced)),
                (false, true) => return Err(NamespaceError::IsADirectory(replaced)),
                _ => self.require_removable(replaced)?,
            }
            self.remove_name(to.parent, &to.name, replaced);
            self.drop_if_nameless(replaced);
        }
        self.remove_name(from.parent, &from.name, file);
        self.add_name(to.parent, &to.name, file);
        Ok(())
    }

    fn exchange(&mut self, from: &Name, to: &Name) -> Result<(), NamespaceError> {
        let file = self.existing_name(from.parent, &from.name)?;
        let other = self.existing_name(to.parent, &to.name)?;
        self.require_inside_roots(from.parent)?;
        self.require_inside_roots(to.parent)?;
        if file == other {
            return Ok(());
        }
        self.require_no_loop(file, to.parent)?;
        self.require_no_loop(other, from.parent)?;
        self.remove_name(from.parent, &from.name, file);
        self.remove_name(to.parent, &to.name, other);
        self.add_name(to.parent, &to.name, file);
        self.add_name(from.parent, &from.name, other);
        Ok(())
    }

    fn change_attributes(&mut self, file: FileId, change: &AttributeChange) -> Result<(), NamespaceError> {
        let attributes = &mut self.existing_mut(file)?.attributes;
        if let Some(mode) = change.mode {
            attributes.mode = mode & 0o7777;
        }
        attributes.uid = change.uid.unwrap_or(attributes.uid);
        attributes.gid = change.gid.unwrap_or(attributes.gid);
        attributes.mtime = change.mtime.unwrap_or(attributes.mtime);
        Ok(())
    }

    fn insert(&mut self, file: FileId, node: Node) -> Result<(), NamespaceError> {
        if file <= FileId::SOURCE || file.is_overlay() {
            return Err(NamespaceError::ReservedFile(file));
        }
        if self.nodes.contains_key(&file) {
            return Err(NamespaceError::FileExists(file));
        }
        self.nodes.insert(file, node);
        self.raise_next_file(FileId(file.0 + 1));
        Ok(())
    }

    fn existing(&self, file: FileId) -> Result<&Node, NamespaceError> {
        self.nodes.get(&file).ok_or(NamespaceError::NoSuchFile(file))
    }

    fn existing_mut(&mut self, file: FileId) -> Result<&mut Node, NamespaceError> {
        self.nodes.get_mut(&file).ok_or(NamespaceError::NoSuchFile(file))
    }

    fn existing_directory(&self, file: FileId) -> Result<&Directory, NamespaceError> {
        self.existing(file)?.directory.as_deref().ok_or(NamespaceError::NotADirectory(file))
    }

    fn existing_name(&self, parent: FileId, name: &Bytes) -> Result<FileId, NamespaceError> {
        let children = &self.existing_directory(parent)?.children;
        children
            .get(name)
            .copied()
            .ok_or_else(|| NamespaceError::NoSuchName { directory: parent, name: name.clone() })
    }

    fn require_inside_roots(&self, parent: FileId) -> Result<(), NamespaceError> {
        if parent == FileId::SOURCE { Err(NamespaceError::OutsideRoots) } else { Ok(()) }
    }

    fn require_free(&self, parent: FileId, name: &Bytes) -> Result<(), NamespaceError> {
        self.require_inside_roots(parent)?;
        if self.existing_directory(parent)?.children.contains_key(name) {
            return Err(NamespaceError::NameTaken { directory: parent, name: name.clone() });
        }
        Ok(())
    }

    fn require_removable(&self, file: FileId) -> Result<(), NamespaceError> {
        match self.directory(file) {
            Some(directory) if !directory.children.is_empty() => Err(NamespaceError::NotEmpty(file)),
            _ => Ok(()),
        }
    }

    /// `directory` must not lie in `file`, which is about to be moved there.
    fn require_no_loop(&self, file: FileId, directory: FileId) -> Result<(), NamespaceError> {
        let mut at = directory;
        loop {
            if at == file {
                return Err(NamespaceError::Loop(file));
            }
            match self.nodes.get(&at).and_then(|node| node.names.first()) {
                Some(name) => at = name.parent,
                None => return Ok(()),
            }
        }
    }

    fn add_name(&mut self, parent: FileId, name: &Bytes, file: FileId) {
        let Some(node) = self.nodes.get_mut(&file) else { return };
        node.names.push(Name { parent, name: name.clone() });
        let is_directory = node.is_directory();
        if let Some(directory) = self.nodes.get_mut(&parent).and_then(|node| node.directory.as_mut()) {
            directory.children.insert(name.clone(), file);
            directory.directories += u32::from(is_directory);
        }
    }

    fn remove_name(&mut self, parent: FileId, name: &Bytes, file: FileId) {
        let Some(node) = self.nodes.get_mut(&file) else { return };
        node.names.retain(|known| !(known.parent == parent && known.name == *name));
        let is_directory = node.is_directory();
        if let Some(directory) = self.nodes.get_mut(&parent).and_then(|node| node.directory.as_mut()) {
            directory.children.remove(name);
            directory.directories -= u32::from(is_directory);
        }
    }

    fn drop_if_nameless(&mut self, file: FileId) {
        if self.nodes.get(&file).is_some_and(|node| node.names.is_empty()) {
            self.nodes.remove(&file);
        }
    }

    fn set_mtime(&mut self, directory: FileId, mtime: Time) {
        if let Some(node) = self.nodes.get_mut(&directory) {
            node.attributes.mtime = mtime;
        }
    }
}

/// Attributes as they are kept: only the mode bits that a mode has.
fn normal(attributes: Attributes) -> Attributes {
    Attributes { mode: attributes.mode & 0o7777, ..attributes }
}
