//! Which files are known: nodes by id, ids by inode, and open handles.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::RwLock;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::backing::InodeKey;
use super::node::{Node, Place};
use crate::types::{FileId, FileKind, Position};

/// Handles are spread over this many maps, so that threads seldom meet.
const HANDLE_SHARDS: usize = 16;

/// Every file below every root.
///
/// `inodes` holds each of them; `nodes` only directories and what the kernel or the image has in use. A node
/// leaves `nodes` when nothing refers to it, so there are never two nodes, and two sets of locks, of one file.
pub(super) struct Table {
    nodes: RwLock<HashMap<FileId, Arc<Node>>>,
    inodes: RwLock<HashMap<InodeKey, FileId>>,
    next_file: AtomicU64,
    /// `last_position <= forgotten` of every node that left `nodes`: a file that comes back may still have
    /// changes up to here that are not durable.
    forgotten: AtomicU64,
    open_descriptors: Arc<AtomicUsize>,
    descriptors_max: usize,
}

impl Table {
    /// `descriptors_max`: how many files are kept open to be reached quickly.
    pub(super) fn new(next_file: FileId, descriptors_max: usize) -> Table {
        Table {
            nodes: RwLock::default(),
            inodes: RwLock::default(),
            next_file: AtomicU64::new(next_file.0),
            forgotten: AtomicU64::new(0),
            open_descriptors: Arc::default(),
            descriptors_max,
        }
    }

    /// An id never given before.
    pub(super) fn new_file(&self) -> FileId {
        FileId(self.next_file.fetch_add(1, Ordering::Relaxed))
    }

    /// The id of an inode, if it is known.
    pub(super) fn file_of(&self, inode: InodeKey) -> Option<FileId> {
        self.inodes.read().get(&inode).copied()
    }

    /// From now on `inode` is `file`.
    pub(super) fn bind(&self, inode: InodeKey, file: FileId) {
        self.inodes.write().insert(inode, file);
    }

    /// The last name of `inode` is gone; its number may come back as another file.
    pub(super) fn unbind(&self, inode: InodeKey) {
        self.inodes.write().remove(&inode);
    }

    /// How many files there are.
    pub(super) fn len(&self) -> usize {
        self.inodes.read().len()
    }

    /// Whether an inode belongs to a file below a root.
    pub(super) fn knows(&self, inode: InodeKey) -> bool {
        self.inodes.read().contains_key(&inode)
    }

    /// A copy of the binding of every file.
    pub(super) fn bindings(&self) -> Vec<(InodeKey, FileId)> {
        self.inodes.read().iter().map(|(&inode, &file)| (inode, file)).collect()
    }

    pub(super) fn node(&self, file: FileId) -> Option<Arc<Node>> {
        self.nodes.read().get(&file).cloned()
    }

    /// The node of an inode, if it is in use.
    pub(super) fn node_of(&self, inode: InodeKey) -> Option<Arc<Node>> {
        self.node(self.file_of(inode)?)
    }

    /// The node of `file` with one reference more, made if it is not in use.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a kind of file unknown to Linux.
    pub(super) fn refer(
        &self,
        file: FileId,
        stat: &Stat,
        place: Option<Place>,
        fd: Option<OwnedFd>,
    ) -> Result<Arc<Node>, Errno> {
        if let Some(node) = self.nodes.read().get(&file) {
            node.references.fetch_add(1, Ordering::Relaxed);
            return Ok(Arc::clone(node));
        }
        let made = Node::new(file, stat, place, fd, &self.open_descriptors)?;
        let mut nodes = self.nodes.write();
        let node = nodes.entry(file).or_insert_with(|| {
            made.touch(Position(self.forgotten.load(Ordering::Acquire)));
            Arc::new(made)
        });
        node.references.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::clone(node))
    }

    /// Takes `count` references back. Directories with a name stay: what lies in them is found through them.
    pub(super) fn release(&self, file: FileId, count: u64) {
        let Some(node) = self.node(file) else { return };
        let before = node.references.fetch_sub(count, Ordering::AcqRel);
        assert!(before >= count, "{file:?} had {before} references, {count} were taken back");
        let keep = || node.kind == FileKind::Directory && !node.state.lock().nameless;
        if before == count && !keep() {
            let mut nodes = self.nodes.write();
            if node.references.load(Ordering::Acquire) == 0 {
                nodes.remove(&file);
                self.forgotten.fetch_max(node.last_position().0, Ordering::AcqRel);
            }
        }
    }

    /// Closes descriptors of files that can be reached by name again, if there are too many.
    pub(super) fn limit_descriptors(&self) {
        if self.open_descriptors.load(Ordering::Relaxed) <= self.descriptors_max {
            return;
        }
        let goal = self.descriptors_max / 4 * 3;
        let nodes = self.nodes.read();
        for node in nodes.values() {
            if self.open_descriptors.load(Ordering::Relaxed) <= goal {
                return;
            }
            node.close_descriptor();
        }
    }
}

/// What the kernel has open, by ids of ours that are never used twice.
pub(super) struct Handles<T> {
    shards: Vec<RwLock<HashMap<u64, Arc<T>>>>,
    next: AtomicU64,
}

impl<T> Default for Handles<T> {
    fn default() -> Handles<T> {
        Handles { shards: (0..HANDLE_SHARDS).map(|_| RwLock::default()).collect(), next: AtomicU64::new(1) }
    }
}

impl<T> Handles<T> {
    pub(super) fn add(&self, open: T) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(handle).write().insert(handle, Arc::new(open));
        handle
    }

    /// # Errors
    /// `EBADF` for a handle never given or released.
    pub(super) fn get(&self, handle: u64) -> Result<Arc<T>, Errno> {
        self.shard(handle).read().get(&handle).cloned().ok_or(Errno::BADF)
    }

    pub(super) fn remove(&self, handle: u64) -> Option<Arc<T>> {
        self.shard(handle).write().remove(&handle)
    }

    fn shard(&self, handle: u64) -> &RwLock<HashMap<u64, Arc<T>>> {
        &self.shards[handle as usize % HANDLE_SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_forgotten_and_found_again_still_waits_for_its_changes() {
        let table = Table::new(FileId(2), 64);
        let stat = rustix::fs::fstat(tempfile::tempfile().unwrap()).unwrap();
        let file = table.new_file();
        table.refer(file, &stat, None, None).unwrap().touch(Position(77));
        table.release(file, 1);
        assert!(table.node(file).is_none(), "nothing refers to it");
        let again = table.refer(file, &stat, None, None).unwrap();
        assert!(again.last_position() >= Position(77), "a sync would return before its changes are durable");
    }
}
