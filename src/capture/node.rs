//! What capture holds in memory of one backing file: who it is, where it is found, and its locks.
//!
//! Order of locks: directories' `names` (by ascending file id) before a file's `ranges` before its `state`
//! before the table's and the sink's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rustix::fs::Stat;
use rustix::io::Errno;

use super::backing::{self, InodeKey};
use super::range_lock::RangeLock;
use crate::types::{FileId, FileKind, PAGE_BYTES, Position, Time};

/// Tries to find a file again by its name while renames move it.
const FIND_TRIES: u32 = 10_000;

/// One backing file, directory, link or special file.
#[derive(Debug)]
pub(super) struct Node {
    pub file: FileId,
    pub inode: InodeKey,
    pub kind: FileKind,
    /// For a directory: held shared while a name is looked up, alone while one changes.
    pub names: RwLock<()>,
    /// For a regular file: pages between apply and sequencing.
    pub ranges: RangeLock,
    pub state: Mutex<FileState>,
    /// One of its names; `None` for a root, and once a name it had is gone and no other is known.
    place: Mutex<Option<Place>>,
    /// How it is reached; may be closed and opened again by `place` while there is one.
    descriptor: Mutex<Option<Arc<Descriptor>>>,
    /// The last change of it or of a name in it.
    last_position: AtomicU64,
    /// Lookups the kernel holds, and pins of our own; the table drops it at none.
    pub(super) references: AtomicU64,
    open_descriptors: Arc<AtomicUsize>,
}

/// A regular file as the journal has it. Held while a change is sequenced.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FileState {
    /// The size after the last sequenced change; `None` until first needed.
    pub size: Option<u64>,
    /// The last name is gone: nothing of it is journalled any more.
    pub nameless: bool,
    /// It has `security.capability`, which any write drops.
    pub capability: bool,
    /// It has set-id bits that a write by other users than root drops.
    pub set_id: bool,
    /// The modification time given to the journal by the clock, if none was read from the backing since.
    pub stamped: Option<Time>,
}

/// A name of a file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub parent: Arc<Node>,
    pub name: Bytes,
}

/// An open O_PATH descriptor that counts towards the table's budget.
#[derive(Debug)]
pub(super) struct Descriptor {
    fd: OwnedFd,
    open_descriptors: Arc<AtomicUsize>,
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.open_descriptors.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Node {
    /// A node for the inode of `stat`, found at `place`; `fd` may save opening it.
    pub(super) fn new(
        file: FileId,
        stat: &Stat,
        place: Option<Place>,
        fd: Option<OwnedFd>,
        open_descriptors: &Arc<AtomicUsize>,
    ) -> Result<Node, Errno> {
        let node = Node {
            file,
            inode: InodeKey::of(stat),
            kind: backing::kind(stat).ok_or(Errno::OPNOTSUPP)?,
            names: RwLock::default(),
            ranges: RangeLock::default(),
            state: Mutex::default(),
            place: Mutex::new(place),
            descriptor: Mutex::default(),
            last_position: AtomicU64::new(0),
            references: AtomicU64::new(0),
            open_descriptors: Arc::clone(open_descriptors),
        };
        if let Some(fd) = fd {
            *node.descriptor.lock() = Some(node.count(fd));
        }
        Ok(node)
    }

    fn count(&self, fd: OwnedFd) -> Arc<Descriptor> {
        self.open_descriptors.fetch_add(1, Ordering::Relaxed);
        Arc::new(Descriptor { fd, open_descriptors: Arc::clone(&self.open_descriptors) })
    }

    /// An O_PATH descriptor of the file.
    ///
    /// # Errors
    /// `ESTALE` if it is not where it was; the backing's.
    pub(super) fn descriptor(&self) -> Result<Arc<Descriptor>, Errno> {
        let mut held = self.descriptor.lock();
        if let Some(descriptor) = &*held {
            return Ok(Arc::clone(descriptor));
        }
        let descriptor = self.count(self.find()?);
        *held = Some(Arc::clone(&descriptor));
        Ok(descriptor)
    }

    /// Opens it by its place. A rename in progress shows the old place for a moment, so this looks again.
    fn find(&self) -> Result<OwnedFd, Errno> {
        let mut outcome = Errno::STALE;
        for _ in 0..FIND_TRIES {
            let Some(place) = self.place.lock().clone() else { return Err(Errno::STALE) };
            let parent = place.parent.descriptor()?;
            match backing::open_path(parent.as_fd(), &place.name) {
                Ok(fd) if InodeKey::of(&backing::stat_fd(&fd)?) == self.inode => return Ok(fd),
                Ok(_) => outcome = Errno::STALE,
                Err(Errno::NOENT) => outcome = Errno::STALE,
                Err(errno) => return Err(errno),
            }
            std::thread::yield_now();
        }
        Err(outcome)
    }

    /// Closes the descriptor if it can be opened again and nobody uses it; returns whether it did.
    pub(super) fn close_descriptor(&self) -> bool {
        let Some(mut held) = self.descriptor.try_lock() else { return false };
        // Asked while the descriptor is held: `leave_place` relies on it.
        let idle = held.as_ref().is_some_and(|descriptor| Arc::strong_count(descriptor) == 1);
        if !idle || self.place.lock().is_none() {
            return false;
        }
        *held = None;
        true
    }

    /// Where it is found now.
    pub(super) fn place(&self) -> Option<Place> {
        self.place.lock().clone()
    }

    /// It is (also) found at this name from now on.
    pub(super) fn set_place(&self, parent: &Arc<Node>, name: &[u8]) {
        *self.place.lock() = Some(Place { parent: Arc::clone(parent), name: Bytes::copy_from_slice(name) });
    }

    /// This name of it goes; call before it does. If it is the one by which it is found, the file stays
    /// reachable by a descriptor.
    ///
    /// # Errors
    /// As [`Node::descriptor`].
    pub(super) fn leave_place(&self, parent: &Node, name: &[u8]) -> Result<(), Errno> {
        if !self.is_at(parent, name) {
            return Ok(());
        }
        let mut held = self.descriptor.lock();
        if held.is_none() {
            *held = Some(self.count(self.find()?));
        }
        *self.place.lock() = None;
        Ok(())
    }

    /// Whether this is the name by which it is found.
    pub(super) fn is_at(&self, parent: &Node, name: &[u8]) -> bool {
        self.place.lock().as_ref().is_some_and(|at| at.parent.file == parent.file && at.name == name)
    }

    /// Path from its root's directory on, for people.
    pub(super) fn path(&self) -> String {
        let mut parts = Vec::new();
        let mut at = self.place();
        while let Some(place) = at {
            parts.push(String::from_utf8_lossy(&place.name).into_owned());
            at = place.parent.place();
        }
        parts.reverse();
        parts.join("/")
    }

    /// The last change of it or of a name in it.
    pub(super) fn last_position(&self) -> Position {
        Position(self.last_position.load(Ordering::Acquire))
    }

    /// Notes a change of it or of a name in it.
    pub(super) fn touch(&self, position: Position) {
        self.last_position.fetch_max(position.0, Ordering::AcqRel);
    }
}

/// The page that holds the byte at `offset_bytes`.
pub(super) fn page_of(offset_bytes: u64) -> u64 {
    offset_bytes / PAGE_BYTES as u64
}
