//! The comparison of names before anything is served: the journal's tree becomes the backing's.
//!
//! Every name and attribute is compared here, as nothing else changes yet; the bytes are read later, while
//! applications go on. Files are matched by name, so what was edited while capture was off costs its bytes at
//! most, never a wrong tree.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;

use super::backing::{self, InodeKey};
use super::catalogue::Catalogue;
use super::node::{Node, Place, page_of};
use super::pass::Shared;
use super::pending::{Base, Work};
use super::{CaptureError, RootConfig};
use crate::namespace::Namespace;
use crate::types::{
    AttributeChange, ChangeBody, DataChange, FileId, FileKind, NamespaceChange, PAGE_BYTES, Time,
};

/// One comparison of all roots; `namespace` follows every change that is recorded.
pub(super) struct Comparison<'a> {
    shared: &'a Shared,
    namespace: Namespace,
    has_image: bool,
    catalogue: Option<&'a Catalogue>,
    /// The inode that each matched file turned out to be.
    matched: HashMap<FileId, InodeKey>,
    /// Files with several names: how many the backing counts, and how many were found.
    linked: HashMap<InodeKey, (u64, u64, PathBuf)>,
    pub warnings: Vec<String>,
}

/// A directory whose names are being compared.
struct Directory {
    node: Arc<Node>,
    path: PathBuf,
}

/// A name found in the backing.
struct Found<'a> {
    name: &'a [u8],
    fd: BorrowedFd<'a>,
    stat: &'a Stat,
    kind: FileKind,
    target: Bytes,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        namespace: Namespace,
        has_image: bool,
        catalogue: Option<&'a Catalogue>,
    ) -> Comparison<'a> {
        Comparison {
            shared,
            namespace,
            has_image,
            catalogue,
            matched: HashMap::new(),
            linked: HashMap::new(),
            warnings: Vec::new(),
        }
    }

    /// Compares a root's whole tree, and returns its node.
    pub(super) fn root(&mut self, root: &RootConfig, fd: BorrowedFd<'_>) -> Result<Arc<Node>, CaptureError> {
        let path = &root.data_dir;
        let stat = backing::stat_fd(fd).map_err(|errno| unreadable(path, errno))?;
        let label = Bytes::copy_from_slice(root.label.as_bytes());
        let known = self.namespace.roots().iter().find(|known| known.label == label).cloned();
        let file = known.as_ref().map_or_else(|| self.shared.table.new_file(), |known| known.file);
        let (mountpoint, data_dir) = (path_bytes(&root.mountpoint), path_bytes(path));
        let attributes = backing::attributes(&stat).map_err(|errno| unreadable(path, errno))?;
        let same = known.is_some_and(|known| known.mountpoint == mountpoint && known.data_dir == data_dir);
        if !same || self.namespace.file(file).is_none_or(|node| node.attributes != attributes) {
            self.record(NamespaceChange::Root { file, label, mountpoint, data_dir, attributes })?;
        }
        self.shared.table.bind(InodeKey::of(&stat), file);
        self.matched.insert(file, InodeKey::of(&stat));
        let own = fd
            .try_clone_to_owned()
            .map_err(|error| CaptureError::Backing { path: path.clone(), source: Arc::new(error) })?;
        let node = self.shared.table.refer(file, &stat, None, Some(own)).map_err(|e| unreadable(path, e))?;
        self.xattrs(file, fd, path)?;
        let mut waiting = vec![Directory { node: Arc::clone(&node), path: path.clone() }];
        while let Some(directory) = waiting.pop() {
            self.directory(&directory, &mut waiting)?;
        }
        Ok(node)
    }

    /// After the last root: removes roots that are captured no more, and tells of links from outside.
    pub(super) fn finish(&mut self, roots: &[RootConfig]) -> Result<(), CaptureError> {
        let kept: HashSet<&[u8]> = roots.iter().map(|root| root.label.as_bytes()).collect();
        let gone: Vec<Bytes> = self
            .namespace
            .roots()
            .iter()
            .filter(|root| !kept.contains(&root.label[..]))
            .map(|root| root.label.clone())
            .collect();
        for label in gone {
            self.warnings.push(format!(
                "root `{}` is captured no more: it is gone from points after this start",
                String::from_utf8_lossy(&label)
            ));
            self.remove(FileId::SOURCE, &label, Time(0))?;
        }
        for (names, found, path) in self.linked.values() {
            if names > found {
                self.warnings.push(format!(
                    "{} has {} names outside the roots: what is written through them is not recorded",
                    path.display(),
                    names - found
                ));
            }
        }
        Ok(())
    }

    fn directory(&mut self, at: &Directory, waiting: &mut Vec<Directory>) -> Result<(), CaptureError> {
        let failed = |errno| unreadable(&at.path, errno);
        let descriptor = at.node.descriptor().map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let listed = self.shared.descriptors.reopen(descriptor.as_fd(), flags).map_err(failed)?;
        let mut names = backing::list_names(&listed).map_err(failed)?;
        names.sort();
        let mtime = backing::mtime(&backing::stat_fd(&listed).map_err(failed)?);
        let gone: Vec<Bytes> = self
            .namespace
            .children(at.node.file)
            .map(|(name, _)| name.clone())
            .filter(|name| names.binary_search_by(|other| other[..].cmp(name)).is_err())
            .collect();
        for name in gone {
            self.remove(at.node.file, &name, mtime)?;
        }
        for name in names {
            self.name(at, &listed, &name, mtime, waiting)?;
        }
        self.shared.table.limit_descriptors();
        Ok(())
    }

    fn name(
        &mut self,
        at: &Directory,
        listed: impl AsFd,
        name: &[u8],
        mtime: Time,
        waiting: &mut Vec<Directory>,
    ) -> Result<(), CaptureError> {
        let path = at.path.join(os_name(name));
        let fd = match backing::open_path(listed.as_fd(), name) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(unreadable(&path, errno)),
        };
        let failed = |errno| unreadable(&path, errno);
        let stat = backing::stat_fd(&fd).map_err(failed)?;
        let Some(kind) = backing::kind(&stat) else {
            self.warnings.push(format!("{} is of an unknown kind and left out", path.display()));
            return Ok(());
        };
        let target = match kind {
            FileKind::Symlink => backing::read_link(fd.as_fd()).map_err(failed)?,
            _ => Vec::new(),
        };
        let found = Found { name, fd: fd.as_fd(), stat: &stat, kind, target: target.into() };
        self.count_links(&found, &path);
        let first_name = !self.shared.table.knows(InodeKey::of(&stat));
        let (file, base) = self.matching_file(at.node.file, &found, mtime)?;
        if first_name {
            self.shared.table.bind(InodeKey::of(&stat), file);
            self.matched.insert(file, InodeKey::of(&stat));
            self.attributes(file, &found, &path)?;
        }
        let place = Place { parent: Arc::clone(&at.node), name: Bytes::copy_from_slice(name) };
        match kind {
            FileKind::Directory => {
                let node = self.shared.table.refer(file, &stat, Some(place), None).map_err(failed)?;
                self.shared.table.release(file, 1);
                waiting.push(Directory { node, path });
            }
            FileKind::Regular if first_name => self.bytes(file, &found, place, base, &path)?,
            _ => {}
        }
        Ok(())
    }

    /// Which file of the journal the name is, after recording what makes it that.
    fn matching_file(
        &mut self,
        parent: FileId,
        found: &Found<'_>,
        parent_mtime: Time,
    ) -> Result<(FileId, Base), CaptureError> {
        let key = InodeKey::of(found.stat);
        let bound = self.shared.table.file_of(key);
        if let Some(file) = self.namespace.lookup(parent, found.name) {
            let device = matches!(found.kind, FileKind::CharacterDevice | FileKind::BlockDevice);
            let rdev = if device { found.stat.st_rdev } else { 0 };
            let same_kind = self.namespace.file(file).is_some_and(|node| {
                let before = &node.attributes;
                before.kind == found.kind && before.rdev == rdev && node.target == found.target
            });
            let free = self.matched.get(&file).is_none_or(|&matched| matched == key);
            if same_kind && free && bound.is_none_or(|bound| bound == file) {
                return Ok((file, if self.has_image { Base::Image } else { Base::Unknown }));
            }
            self.remove(parent, &Bytes::copy_from_slice(found.name), parent_mtime)?;
        }
        let name = Bytes::copy_from_slice(found.name);
        if let Some(file) = bound {
            self.record(NamespaceChange::Link { file, parent, name, parent_mtime })?;
            return Ok((file, Base::Zeros));
        }
        let file = self.shared.table.new_file();
        self.record(NamespaceChange::Create {
            file,
            parent: Some(parent),
            name,
            attributes: backing::attributes(found.stat).map_err(|errno| unreadable(Path::new("."), errno))?,
            target: found.target.clone(),
            parent_mtime,
        })?;
        Ok((file, Base::Zeros))
    }

    /// Attributes and extended attributes; the size and time of regular files go with their bytes.
    fn attributes(&mut self, file: FileId, found: &Found<'_>, path: &Path) -> Result<(), CaptureError> {
        let now = backing::attributes(found.stat).map_err(|errno| unreadable(path, errno))?;
        let Some(before) = self.namespace.file(file).map(|node| node.attributes) else { return Ok(()) };
        let regular = found.kind == FileKind::Regular;
        let change = AttributeChange {
            mode: (before.mode != now.mode).then_some(now.mode),
            uid: (before.uid != now.uid).then_some(now.uid),
            gid: (before.gid != now.gid).then_some(now.gid),
            mtime: (!regular && before.mtime != now.mtime).then_some(now.mtime),
        };
        if change != AttributeChange::default() {
            self.record(NamespaceChange::Attributes { file, change })?;
        }
        self.xattrs(file, found.fd, path)
    }

    fn xattrs(&mut self, file: FileId, fd: BorrowedFd<'_>, path: &Path) -> Result<(), CaptureError> {
        let now = backing::xattrs(fd).map_err(|errno| unreadable(path, errno))?;
        let before: Vec<(Bytes, Bytes)> = self.namespace.file(file).map_or_else(Vec::new, |node| {
            node.xattrs().map(|(name, value)| (name.clone(), value.clone())).collect()
        });
        for (name, _) in &before {
            if !now.iter().any(|(other, _)| other == name) {
                self.record(NamespaceChange::RemoveXattr { file, name: name.clone() })?;
            }
        }
        for (name, value) in now {
            if !before.contains(&(name.clone(), value.clone())) {
                self.record(NamespaceChange::SetXattr { file, name, value })?;
            }
        }
        Ok(())
    }

    /// Records size and time of a regular file, and puts it among those whose bytes are to be read.
    fn bytes(
        &mut self,
        file: FileId,
        found: &Found<'_>,
        place: Place,
        base: Base,
        path: &Path,
    ) -> Result<(), CaptureError> {
        let stat = found.stat;
        let size = u64::try_from(stat.st_size).map_err(|_| unreadable(path, Errno::OVERFLOW))?;
        if base == Base::Image && self.catalogue.is_some_and(|catalogue| catalogue.vouches_for(file, stat)) {
            return Ok(());
        }
        let node = self.shared.table.refer(file, stat, Some(place), None).map_err(|e| unreadable(path, e))?;
        let before =
            self.namespace.file(file).map_or((0, Time(0)), |node| (node.size, node.attributes.mtime));
        let mtime = backing::mtime(stat);
        if before != (size, mtime) {
            let cut = size < before.0;
            // The new last page may hold bytes beyond its end in the journal; its bytes follow with the image.
            let pages = if cut && !size.is_multiple_of(PAGE_BYTES as u64) {
                let flags = OFlags::RDONLY;
                let file =
                    self.shared.descriptors.reopen(found.fd, flags).map_err(|e| unreadable(path, e))?;
                let page = super::data::read_pages(&file, page_of(size), 1, size);
                vec![page.map_err(|errno| unreadable(path, errno))?]
            } else {
                Vec::new()
            };
            let change = DataChange { file, size_after: size, mtime: Some(mtime), cut, zero: None, pages };
            self.shared.recorder.sink().append(ChangeBody::Data(change))?;
            self.namespace.set_size(file, size, Some(mtime));
        }
        self.shared.pending.add(Work { node, base, bytes: size });
        Ok(())
    }

    /// Removes a name from the journal's tree, and all that lies below it.
    fn remove(&mut self, parent: FileId, name: &Bytes, parent_mtime: Time) -> Result<(), CaptureError> {
        let mut doomed = vec![(parent, name.clone())];
        let mut at = 0;
        // Each directory before what lies in it; removed from the end, so that each is empty by then.
        while let Some((parent, name)) = doomed.get(at).cloned() {
            if let Some(file) = self.namespace.lookup(parent, &name) {
                doomed.extend(self.namespace.children(file).map(|(name, _)| (file, name.clone())));
            }
            at += 1;
        }
        for (parent, name) in doomed.into_iter().rev() {
            self.record(NamespaceChange::Unlink { parent, name, parent_mtime })?;
        }
        Ok(())
    }

    fn count_links(&mut self, found: &Found<'_>, path: &Path) {
        if found.kind != FileKind::Directory && found.stat.st_nlink > 1 {
            let key = InodeKey::of(found.stat);
            let names = found.stat.st_nlink;
            let entry = self.linked.entry(key).or_insert_with(|| (names, 0, path.to_owned()));
            entry.1 += 1;
        }
    }

    fn record(&mut self, change: NamespaceChange) -> Result<(), CaptureError> {
        self.namespace.apply(&change).map_err(|error| CaptureError::Tree { reason: error.to_string() })?;
        self.shared.recorder.sink().append(ChangeBody::Names(change))?;
        Ok(())
    }
}

fn unreadable(path: &Path, errno: Errno) -> CaptureError {
    CaptureError::Backing { path: path.to_owned(), source: Arc::new(errno.into()) }
}

fn path_bytes(path: &Path) -> Bytes {
    use std::os::unix::ffi::OsStrExt;
    Bytes::copy_from_slice(path.as_os_str().as_bytes())
}

fn os_name(name: &[u8]) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name)
}
