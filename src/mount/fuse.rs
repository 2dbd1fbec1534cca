//! An [`Export`] served over FUSE. Thin: nodes, handles and flags on one side, inode operations on the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::Export;
use super::export::{RangeOperation, Setting, Stat};
use crate::io::Clock;
use crate::io::fuse::{
    Caller, DirectoryPlusSink, DirectorySink, Entry, Errno, FileSystem, Negotiation, NodeAttributes, Opened,
    ROOT_NODE, Seek, SetAttributes, StorageStatus, TimeSet, WriteFlags,
};
use crate::overlay::{NewFile, RenameMode, XattrMode};
use crate::types::{AttributeChange, DirectoryEntry, FileId, FileKind};

/// The kernel may keep names and attributes this long: nobody changes them but through it.
const VALID: Duration = Duration::from_secs(24 * 3600);
const BLOCK_BYTES: u32 = 4096;
/// Names asked from the export at a time.
const NAMES_BATCH: usize = 4096;
const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;

/// Serves an export over FUSE. Nodes are file ids, but for the root.
pub struct FuseExport {
    export: Arc<Export>,
    clock: Arc<dyn Clock>,
    next_handle: AtomicU64,
    /// The names of each open directory, as they stood when its listing began.
    listings: Mutex<HashMap<u64, Arc<Vec<DirectoryEntry>>>>,
    /// How often the kernel was given each node that it knows; of an export that cannot change, nothing.
    lookups: Mutex<HashMap<u64, u64>>,
}

impl FuseExport {
    #[must_use]
    pub fn new(export: Arc<Export>, clock: Arc<dyn Clock>) -> FuseExport {
        let (listings, lookups) = (Mutex::new(HashMap::new()), Mutex::new(HashMap::new()));
        FuseExport { export, clock, next_handle: AtomicU64::new(1), listings, lookups }
    }

    fn file(&self, node: u64) -> FileId {
        if node == ROOT_NODE { self.export.root() } else { FileId(node) }
    }

    fn node(&self, file: FileId) -> u64 {
        if file == self.export.root() { ROOT_NODE } else { file.0 }
    }

    fn attributes(&self, stat: &Stat) -> NodeAttributes {
        let status = &stat.status;
        NodeAttributes {
            node: self.node(status.file),
            kind: status.attributes.kind,
            mode: status.attributes.mode,
            links: status.link_count,
            uid: status.attributes.uid,
            gid: status.attributes.gid,
            rdev: status.attributes.rdev,
            size: status.size,
            blocks: status.allocated_bytes.div_ceil(512),
            block_bytes: BLOCK_BYTES,
            // Access times are not kept.
            atime: status.attributes.mtime,
            mtime: status.attributes.mtime,
            ctime: stat.change_time,
        }
    }

    fn entry(&self, stat: &Stat) -> Entry {
        Entry { generation: 0, attributes: self.attributes(stat), attribute_ttl: VALID, entry_ttl: VALID }
    }

    /// An entry that makes the kernel know the node once more.
    fn known_entry(&self, stat: &Stat) -> Entry {
        let entry = self.entry(stat);
        self.note_lookup(entry.attributes.node);
        entry
    }

    fn note_lookup(&self, node: u64) {
        if !self.export.is_read_only() {
            *self.lookups.lock().entry(node).or_insert(0) += 1;
        }
    }

    fn opened(&self) -> Opened {
        Opened {
            handle: 0,
            keep_cache: true,
            parallel_direct_writes: true,
            no_flush: self.export.is_read_only(),
            ..Opened::default()
        }
    }

    /// The listing behind `handle`, taken anew when reading starts over.
    fn listing(&self, node: u64, handle: u64, offset: u64) -> Result<Arc<Vec<DirectoryEntry>>, Errno> {
        if offset > 0
            && let Some(listing) = self.listings.lock().get(&handle)
        {
            return Ok(Arc::clone(listing));
        }
        let directory = self.file(node);
        let mut entries: Vec<DirectoryEntry> = Vec::new();
        loop {
            let after = entries.last().map(|entry| entry.name.clone());
            let batch = self.export.read_directory(directory, after.as_deref(), NAMES_BATCH)?;
            if batch.is_empty() {
                break;
            }
            entries.extend(batch);
        }
        let listing = Arc::new(entries);
        self.listings.lock().insert(handle, Arc::clone(&listing));
        Ok(listing)
    }

    /// `.` and `..`, which come first, at offsets 1 and 2.
    fn dots(&self, node: u64) -> Result<[(&'static [u8], FileId); 2], Errno> {
        let directory = self.file(node);
        Ok([(b".", directory), (b"..", self.export.parent(directory)?)])
    }
}

/// Where in the listing a read at `offset` goes on.
fn start_in_listing(offset: u64) -> usize {
    usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX)
}

impl FileSystem for FuseExport {
    fn init(&self, negotiation: &mut Negotiation) -> Result<(), Errno> {
        let wanted = &mut negotiation.wanted;
        // Data changes only through this mount, so cached pages are never dropped for a changed time.
        wanted.explicit_inval_data = true;
        wanted.writeback_cache = !self.export.is_read_only();
        wanted.handle_killpriv_v2 = !self.export.is_read_only();
        // A renamed link may be shown with another text.
        wanted.cache_symlinks = self.export.is_read_only();
        negotiation.max_background = 128;
        Ok(())
    }

    fn destroy(&self) {
        if let Err(error) = self.export.sync() {
            tracing::error!("the last sync failed: {error}");
        }
    }

    fn lookup(&self, _caller: &Caller, parent: u64, name: &[u8]) -> Result<Entry, Errno> {
        self.export.lookup(self.file(parent), name).map(|stat| self.known_entry(&stat))
    }

    // Lookups are counted, since what the kernel forgets may come late: meanwhile it may have looked the file
    // up again, opened it and removed its last name.
    fn forget(&self, node: u64, count: u64) {
        let mut lookups = self.lookups.lock();
        let Some(left) = lookups.get_mut(&node) else { return };
        *left = left.saturating_sub(count);
        if *left == 0 {
            lookups.remove(&node);
            // Under the lock, so that no lookup of a name that is still there comes between.
            self.export.forget(self.file(node));
        }
    }

    fn getattr(
        &self,
        _caller: &Caller,
        node: u64,
        _handle: Option<u64>,
    ) -> Result<(NodeAttributes, Duration), Errno> {
        let stat = self.export.stat(self.file(node))?;
        Ok((self.attributes(&stat), VALID))
    }

    fn setattr(
        &self,
        caller: &Caller,
        node: u64,
        set: &SetAttributes,
    ) -> Result<(NodeAttributes, Duration), Errno> {
        let mtime = set.mtime.map(|time| match time {
            TimeSet::Now => self.clock.now(),
            TimeSet::At(time) => time,
        });
        let setting = Setting {
            size: set.size,
            change: AttributeChange { mode: set.mode, uid: set.uid, gid: set.gid, mtime },
            drops_privileges: caller.uid != 0,
        };
        let stat = self.export.set(self.file(node), &setting)?;
        Ok((self.attributes(&stat), VALID))
    }

    fn readlink(&self, _caller: &Caller, node: u64) -> Result<Vec<u8>, Errno> {
        self.export.read_link(self.file(node)).map(|target| target.to_vec())
    }

    fn mknod(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        kind: FileKind,
        mode: u32,
        rdev: u64,
    ) -> Result<Entry, Errno> {
        let new = NewFile { kind, mode, uid: caller.uid, gid: caller.gid, rdev, target: b"" };
        self.export.make(self.file(parent), name, new).map(|stat| self.known_entry(&stat))
    }

    fn mkdir(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Result<Entry, Errno> {
        self.mknod(caller, parent, name, FileKind::Directory, mode, 0)
    }

    fn symlink(&self, caller: &Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Entry, Errno> {
        let (kind, mode) = (FileKind::Symlink, 0o777);
        let new = NewFile { kind, mode, uid: caller.uid, gid: caller.gid, rdev: 0, target };
        self.export.make(self.file(parent), name, new).map(|stat| self.known_entry(&stat))
    }

    fn unlink(&self, _caller: &Caller, parent: u64, name: &[u8]) -> Result<(), Errno> {
        self.export.unlink(self.file(parent), name)
    }

    fn rmdir(&self, _caller: &Caller, parent: u64, name: &[u8]) -> Result<(), Errno> {
        self.export.remove_directory(self.file(parent), name)
    }

    fn rename(
        &self,
        _caller: &Caller,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let mode = match flags {
            0 => RenameMode::Replace,
            RENAME_NOREPLACE => RenameMode::NoReplace,
            RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return Err(Errno::INVAL),
        };
        self.export.rename(self.file(parent), name, self.file(new_parent), new_name, mode)
    }

    fn link(&self, _caller: &Caller, node: u64, new_parent: u64, new_name: &[u8]) -> Result<Entry, Errno> {
        let stat = self.export.link(self.file(node), self.file(new_parent), new_name)?;
        Ok(self.known_entry(&stat))
    }

    fn open(&self, _caller: &Caller, _node: u64, flags: i32) -> Result<Opened, Errno> {
        if flags & libc::O_ACCMODE != libc::O_RDONLY && self.export.is_read_only() {
            return Err(Errno::ROFS);
        }
        Ok(self.opened())
    }

    fn create(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(Entry, Opened), Errno> {
        let directory = self.file(parent);
        let kind = FileKind::Regular;
        let new = NewFile { kind, mode, uid: caller.uid, gid: caller.gid, rdev: 0, target: b"" };
        let stat = match self.export.make(directory, name, new) {
            Err(Errno::EXIST) if flags & libc::O_EXCL == 0 => self.export.lookup(directory, name)?,
            made => made?,
        };
        Ok((self.known_entry(&stat), self.opened()))
    }

    fn read(
        &self,
        _caller: &Caller,
        node: u64,
        _handle: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, Errno> {
        self.export.read(self.file(node), offset, buf)
    }

    fn write(
        &self,
        _caller: &Caller,
        node: u64,
        _handle: u64,
        offset: u64,
        bytes: &[u8],
        flags: WriteFlags,
    ) -> Result<u32, Errno> {
        self.export.write(self.file(node), offset, bytes, flags.kill_privileges)?;
        u32::try_from(bytes.len()).map_err(|_| Errno::INVAL)
    }

    fn flush(&self, _caller: &Caller, _node: u64, _handle: u64) -> Result<(), Errno> {
        Ok(())
    }

    fn fsync(&self, _caller: &Caller, _node: u64, _handle: u64, _data_only: bool) -> Result<(), Errno> {
        self.export.sync()
    }

    fn opendir(&self, _caller: &Caller, _node: u64, _flags: i32) -> Result<Opened, Errno> {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let unchanging = self.export.is_read_only();
        Ok(Opened { handle, keep_cache: unchanging, cache_directory: unchanging, ..Opened::default() })
    }

    fn readdir(
        &self,
        _caller: &Caller,
        node: u64,
        handle: u64,
        offset: u64,
        sink: &mut dyn DirectorySink,
    ) -> Result<(), Errno> {
        for ((name, file), next) in self.dots(node)?.into_iter().zip(1u64..) {
            if offset < next && !sink.add(self.node(file), next, FileKind::Directory, name) {
                return Ok(());
            }
        }
        let listing = self.listing(node, handle, offset)?;
        for (entry, next) in listing.iter().zip(3u64..).skip(start_in_listing(offset)) {
            if !sink.add(self.node(entry.file), next, entry.kind, &entry.name) {
                break;
            }
        }
        Ok(())
    }

    fn readdirplus(
        &self,
        _caller: &Caller,
        node: u64,
        handle: u64,
        offset: u64,
        sink: &mut dyn DirectoryPlusSink,
    ) -> Result<(), Errno> {
        for ((name, file), next) in self.dots(node)?.into_iter().zip(1u64..) {
            if offset < next && !sink.add(next, name, &self.entry(&self.export.stat(file)?)) {
                return Ok(());
            }
        }
        let listing = self.listing(node, handle, offset)?;
        for (entry, next) in listing.iter().zip(3u64..).skip(start_in_listing(offset)) {
            // A name may have gone since the listing was taken; another may have come in its place.
            let stat = match self.export.lookup(self.file(node), &entry.name) {
                Ok(stat) => stat,
                Err(Errno::NOENT | Errno::STALE) => continue,
                Err(error) => return Err(error),
            };
            if !sink.add(next, &entry.name, &self.entry(&stat)) {
                break;
            }
            self.note_lookup(self.node(stat.status.file));
        }
        Ok(())
    }

    fn releasedir(&self, _node: u64, handle: u64) {
        self.listings.lock().remove(&handle);
    }

    fn fsyncdir(&self, _caller: &Caller, _node: u64, _handle: u64, _data_only: bool) -> Result<(), Errno> {
        self.export.sync()
    }

    fn statfs(&self, _caller: &Caller, _node: u64) -> Result<StorageStatus, Errno> {
        let room = self.export.room()?;
        let blocks = |bytes: u64| bytes / u64::from(BLOCK_BYTES);
        Ok(StorageStatus {
            blocks: blocks(room.total_bytes),
            blocks_free: blocks(room.free_bytes),
            blocks_available: blocks(room.available_bytes),
            // Files cost room only.
            files: blocks(room.total_bytes),
            files_free: blocks(room.available_bytes),
            block_bytes: BLOCK_BYTES,
            name_bytes_max: 255,
        })
    }

    fn setxattr(
        &self,
        _caller: &Caller,
        node: u64,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Errno::INVAL),
        };
        self.export.set_xattr(self.file(node), name, value, mode)
    }

    fn getxattr(&self, _caller: &Caller, node: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.export.xattr(self.file(node), name).map(|value| value.to_vec())
    }

    fn listxattr(&self, _caller: &Caller, node: u64) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(self.export.list_xattrs(self.file(node))?.iter().map(|name| name.to_vec()).collect())
    }

    fn removexattr(&self, _caller: &Caller, node: u64, name: &[u8]) -> Result<(), Errno> {
        self.export.remove_xattr(self.file(node), name)
    }

    fn fallocate(
        &self,
        _caller: &Caller,
        node: u64,
        _handle: u64,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<(), Errno> {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let operation = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => RangeOperation::Allocate { keep_size },
            libc::FALLOC_FL_ZERO_RANGE => RangeOperation::Zero { keep_size },
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => RangeOperation::Zero { keep_size },
            _ => return Err(Errno::OPNOTSUPP),
        };
        self.export.change_range(self.file(node), offset, len, operation)
    }

    fn lseek(
        &self,
        _caller: &Caller,
        node: u64,
        _handle: u64,
        offset: u64,
        seek: Seek,
    ) -> Result<u64, Errno> {
        if !self.export.is_read_only() {
            // The kernel holds back written pages and the size that they give, and asks without writing them
            // out: to answer would be to call them holes. Without an answer it takes the whole file for data.
            return Err(Errno::NOSYS);
        }
        self.export.seek(self.file(node), offset, seek == Seek::Data)
    }
}
