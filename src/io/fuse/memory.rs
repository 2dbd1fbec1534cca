//! A small file system in memory, flat below its root, that tests mount.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{
    Caller, DirectoryPlusSink, DirectorySink, Entry, Errno, FileSystem, Negotiation, NodeAttributes, Opened,
    ROOT_NODE, Seek, SetAttributes, StorageStatus, TimeSet, WriteFlags,
};
use crate::types::{FileKind, Time};

/// Kept by the kernel for long, so that only an invalidation shows a change made behind its back.
const TTL: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub(super) struct File {
    pub kind: FileKind,
    pub mode: u32,
    pub rdev: u64,
    pub mtime: Time,
    pub bytes: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub name: Option<Vec<u8>>,
}

#[derive(Default)]
pub(super) struct Log {
    pub reads: Vec<usize>,
    pub writes: Vec<(usize, WriteFlags, Caller)>,
    pub negotiation: Option<Negotiation>,
    pub destroyed: bool,
    pub released: u64,
}

/// Names with a meaning: reading `panic` panics, reading `wait` waits until [`Memory::let_go`].
#[derive(Default)]
pub(super) struct Memory {
    pub files: Mutex<BTreeMap<u64, File>>,
    pub log: Mutex<Log>,
    pub direct_io: bool,
    pub init_error: Option<Errno>,
    pub root_error: Option<Errno>,
    pub waiting: Mutex<(u32, bool)>,
    pub changed: Condvar,
}

impl Memory {
    pub fn with_file(name: &str, bytes: &[u8]) -> Memory {
        let memory = Memory::default();
        memory.add(name.as_bytes(), FileKind::Regular, 0o644, bytes);
        memory
    }

    pub fn add(&self, name: &[u8], kind: FileKind, mode: u32, bytes: &[u8]) -> u64 {
        let mut files = self.files.lock();
        let node = files.keys().next_back().map_or(ROOT_NODE + 1, |last| last + 1);
        let (bytes, name) = (bytes.to_vec(), Some(name.to_vec()));
        let (xattrs, mtime) = (BTreeMap::new(), Time::join(1_000, 5));
        files.insert(node, File { kind, mode, rdev: 0, mtime, bytes, xattrs, name });
        node
    }

    pub fn named(&self, name: &str) -> File {
        let files = self.files.lock();
        files.values().find(|file| file.name.as_deref() == Some(name.as_bytes())).unwrap().clone()
    }

    /// Waits until a request waits.
    pub fn await_waiting(&self, patience: Duration) -> bool {
        let mut waiting = self.waiting.lock();
        self.changed.wait_while_for(&mut waiting, |waiting| waiting.0 == 0, patience);
        waiting.0 > 0
    }

    pub fn let_go(&self) {
        self.waiting.lock().1 = true;
        self.changed.notify_all();
    }

    fn with<T>(&self, node: u64, act: impl FnOnce(&mut File) -> T) -> Result<T, Errno> {
        self.files.lock().get_mut(&node).map(act).ok_or(Errno::STALE)
    }

    fn entry(&self, node: u64) -> Result<Entry, Errno> {
        let attributes = self.attributes(node)?;
        Ok(Entry { generation: 0, attributes, attribute_ttl: TTL, entry_ttl: TTL })
    }

    fn attributes(&self, node: u64) -> Result<NodeAttributes, Errno> {
        let root = NodeAttributes {
            node,
            kind: FileKind::Directory,
            mode: 0o755,
            links: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            block_bytes: 4096,
            atime: Time(0),
            mtime: Time(0),
            ctime: Time(0),
        };
        if node == ROOT_NODE {
            return Ok(root);
        }
        self.with(node, |file| NodeAttributes {
            kind: file.kind,
            mode: file.mode,
            links: 1,
            rdev: file.rdev,
            size: file.bytes.len() as u64,
            mtime: file.mtime,
            ..root
        })
    }

    fn list(&self, offset: u64) -> Vec<(u64, FileKind, Vec<u8>)> {
        let files = self.files.lock();
        let named = files.range(offset.max(ROOT_NODE) + 1..);
        named.filter_map(|(node, file)| Some((*node, file.kind, file.name.clone()?))).collect()
    }
}

impl FileSystem for Memory {
    fn init(&self, negotiation: &mut Negotiation) -> Result<(), Errno> {
        negotiation.wanted.explicit_inval_data = true;
        self.log.lock().negotiation = Some(negotiation.clone());
        self.init_error.map_or(Ok(()), Err)
    }

    fn destroy(&self) {
        self.log.lock().destroyed = true;
    }

    fn lookup(&self, _caller: &Caller, _parent: u64, name: &[u8]) -> Result<Entry, Errno> {
        let files = self.files.lock();
        let found = files.iter().find(|(_, file)| file.name.as_deref() == Some(name));
        let node = *found.ok_or(Errno::NOENT)?.0;
        drop(files);
        self.entry(node)
    }

    fn getattr(&self, _: &Caller, node: u64, _: Option<u64>) -> Result<(NodeAttributes, Duration), Errno> {
        match self.root_error {
            Some(error) if node == ROOT_NODE => Err(error),
            _ => Ok((self.attributes(node)?, TTL)),
        }
    }

    fn setattr(
        &self,
        _: &Caller,
        node: u64,
        set: &SetAttributes,
    ) -> Result<(NodeAttributes, Duration), Errno> {
        self.with(node, |file| {
            if let Some(size) = set.size {
                file.bytes.resize(size as usize, 0);
            }
            if let Some(TimeSet::At(mtime)) = set.mtime {
                file.mtime = mtime;
            }
            file.mode = set.mode.unwrap_or(file.mode);
        })?;
        Ok((self.attributes(node)?, TTL))
    }

    fn mknod(
        &self,
        _: &Caller,
        _: u64,
        name: &[u8],
        kind: FileKind,
        mode: u32,
        rdev: u64,
    ) -> Result<Entry, Errno> {
        let node = self.add(name, kind, mode, b"");
        self.with(node, |file| file.rdev = rdev)?;
        self.entry(node)
    }

    fn unlink(&self, _: &Caller, _: u64, name: &[u8]) -> Result<(), Errno> {
        let mut files = self.files.lock();
        let found = files.values_mut().find(|file| file.name.as_deref() == Some(name));
        found.ok_or(Errno::NOENT)?.name = None;
        Ok(())
    }

    fn open(&self, _: &Caller, _: u64, _: i32) -> Result<Opened, Errno> {
        Ok(Opened { handle: 7, keep_cache: true, direct_io: self.direct_io, ..Opened::default() })
    }

    fn create(&self, _: &Caller, _: u64, name: &[u8], mode: u32, _: i32) -> Result<(Entry, Opened), Errno> {
        let node = self.add(name, FileKind::Regular, mode, b"");
        Ok((self.entry(node)?, Opened { handle: 7, direct_io: self.direct_io, ..Opened::default() }))
    }

    fn read(&self, _: &Caller, node: u64, handle: u64, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        assert_eq!(handle, 7);
        let file = self.with(node, |file| file.clone())?;
        match file.name.as_deref() {
            Some(b"panic") => panic!("a test asked for it"),
            Some(b"wait") => {
                let mut waiting = self.waiting.lock();
                waiting.0 += 1;
                self.changed.notify_all();
                self.changed.wait_while(&mut waiting, |waiting| !waiting.1);
            }
            _ => {}
        }
        self.log.lock().reads.push(buf.len());
        let rest = file.bytes.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write(
        &self,
        caller: &Caller,
        node: u64,
        _: u64,
        offset: u64,
        bytes: &[u8],
        flags: WriteFlags,
    ) -> Result<u32, Errno> {
        self.log.lock().writes.push((bytes.len(), flags, *caller));
        self.with(node, |file| {
            let end = offset as usize + bytes.len();
            file.bytes.resize(file.bytes.len().max(end), 0);
            file.bytes[offset as usize..end].copy_from_slice(bytes);
        })?;
        Ok(bytes.len() as u32)
    }

    fn release(&self, _: u64, _: u64) {
        self.log.lock().released += 1;
    }

    fn readdir(
        &self,
        _: &Caller,
        _: u64,
        _: u64,
        offset: u64,
        sink: &mut dyn DirectorySink,
    ) -> Result<(), Errno> {
        for (node, kind, name) in self.list(offset) {
            if !sink.add(node, node, kind, &name) {
                break;
            }
        }
        Ok(())
    }

    fn readdirplus(
        &self,
        _: &Caller,
        _: u64,
        _: u64,
        offset: u64,
        sink: &mut dyn DirectoryPlusSink,
    ) -> Result<(), Errno> {
        for (node, _, name) in self.list(offset) {
            if !sink.add(node, &name, &self.entry(node)?) {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&self, _: &Caller, _: u64) -> Result<StorageStatus, Errno> {
        Ok(StorageStatus {
            blocks: 1000,
            blocks_free: 600,
            blocks_available: 500,
            files: 10,
            files_free: 5,
            block_bytes: 4096,
            name_bytes_max: 255,
        })
    }

    fn setxattr(&self, _: &Caller, node: u64, name: &[u8], value: &[u8], _: i32) -> Result<(), Errno> {
        self.with(node, |file| file.xattrs.insert(name.to_vec(), value.to_vec()))?;
        Ok(())
    }

    fn getxattr(&self, _: &Caller, node: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.with(node, |file| file.xattrs.get(name).cloned())?.ok_or(Errno::NODATA)
    }

    fn listxattr(&self, _: &Caller, node: u64) -> Result<Vec<Vec<u8>>, Errno> {
        self.with(node, |file| file.xattrs.keys().cloned().collect())
    }

    fn lseek(&self, _: &Caller, _: u64, _: u64, offset: u64, seek: Seek) -> Result<u64, Errno> {
        Ok(if seek == Seek::Data { offset } else { offset + 1 })
    }
}
