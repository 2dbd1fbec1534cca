//! A sink that keeps changes in memory, and the reference that applies them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use pitgate::namespace::Namespace;
use pitgate::types::{
    Attributes, ChangeBody, ChangeSink, DirectoryEntry, FileId, FileKind, Image, ImageError, Mark,
    PAGE_BYTES, Position, SinkError, Status, WriterStatus, pages_of,
};

/// Keeps every change; can be told to fail.
#[derive(Default)]
pub struct RecordingSink {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    changes: Vec<ChangeBody>,
    durable: Position,
    failed: bool,
    commit_fails: bool,
    commits: u64,
}

impl RecordingSink {
    pub fn changes(&self) -> Vec<ChangeBody> {
        self.state.lock().changes.clone()
    }

    pub fn commits(&self) -> u64 {
        self.state.lock().commits
    }

    /// Every later call fails.
    pub fn fail(&self) {
        self.state.lock().failed = true;
    }

    /// Every later commit fails.
    pub fn fail_commits(&self) {
        self.state.lock().commit_fails = true;
    }

    /// The state after every change so far.
    pub fn replay(&self) -> Reference {
        let mut reference = Reference::default();
        for change in self.changes() {
            reference.apply(&change);
        }
        reference
    }
}

impl State {
    fn alive(&self) -> Result<(), SinkError> {
        if self.failed { Err(SinkError::Failed { cause: "told to".to_owned() }) } else { Ok(()) }
    }
}

impl ChangeSink for RecordingSink {
    fn append(&self, change: ChangeBody) -> Result<Position, SinkError> {
        let mut state = self.state.lock();
        state.alive()?;
        if let ChangeBody::Data(data) = &change {
            assert!(data.is_well_formed(), "{data:?}");
        }
        state.changes.push(change);
        Ok(Position(state.changes.len() as u64))
    }

    fn commit(&self, position: Position) -> Result<(), SinkError> {
        let mut state = self.state.lock();
        state.alive()?;
        if state.commit_fails {
            return Err(SinkError::Failed { cause: "told to".to_owned() });
        }
        state.commits += 1;
        state.durable = state.durable.max(position);
        Ok(())
    }

    fn request_commit(&self, _position: Position) {}

    fn durable(&self) -> Position {
        self.state.lock().durable
    }

    fn written(&self) -> Position {
        Position(self.state.lock().changes.len() as u64)
    }

    fn seal(&self) -> Result<Position, SinkError> {
        let state = self.state.lock();
        state.alive().map(|()| Position(state.changes.len() as u64))
    }

    fn status(&self) -> WriterStatus {
        WriterStatus { written: self.written(), durable: self.durable(), ..WriterStatus::default() }
    }
}

/// What a list of changes means, in the most obvious way.
#[derive(Clone, Default)]
pub struct Reference {
    pub namespace: Namespace,
    pages: HashMap<FileId, BTreeMap<u64, Bytes>>,
    pub covered: bool,
}

impl Reference {
    pub fn apply(&mut self, change: &ChangeBody) {
        match change {
            ChangeBody::Names(change) => self.namespace.apply(change).expect("changes follow each other"),
            ChangeBody::Mark(Mark::CoverageBegin) => self.covered = true,
            ChangeBody::Mark(Mark::CoverageEnd { .. }) => self.covered = false,
            ChangeBody::Mark(_) => {}
            ChangeBody::Data(data) => {
                let pages = self.pages.entry(data.file).or_default();
                if data.cut {
                    pages.split_off(&pages_of(data.size_after));
                }
                if let Some(zero) = data.zero {
                    let doomed: Vec<u64> =
                        pages.range(zero.first..zero.first + zero.count).map(|(&page, _)| page).collect();
                    for page in doomed {
                        pages.remove(&page);
                    }
                }
                for write in &data.pages {
                    for (index, bytes) in write.bytes.chunks(PAGE_BYTES).enumerate() {
                        pages.insert(write.first_page + index as u64, write.bytes.slice_ref(bytes));
                    }
                }
                assert!(
                    self.namespace.set_size(data.file, data.size_after, data.mtime),
                    "data of {:?}, which has no name",
                    data.file
                );
            }
        }
    }

    pub fn contents(&self, file: FileId) -> Vec<u8> {
        let size = self.namespace.file(file).expect("the file exists").size;
        let mut contents = vec![0; size as usize];
        for (&page, bytes) in self.pages.get(&file).into_iter().flatten() {
            let start = page as usize * PAGE_BYTES;
            let end = (start + PAGE_BYTES).min(contents.len());
            if start < end {
                contents[start..end].copy_from_slice(&bytes[..end - start]);
            }
            let beyond = bytes.len().min(contents.len().saturating_sub(start));
            assert!(bytes[beyond..].iter().all(|&byte| byte == 0), "bytes beyond the end are not zero");
        }
        contents
    }

    /// Asserts that the tree of the root `label` is that of `directory`: names, bytes, attributes, links.
    pub fn assert_equals(&self, label: &str, directory: &Path) {
        let root = self.namespace.lookup(FileId::SOURCE, label.as_bytes()).expect("the root is declared");
        let mut inodes = HashMap::new();
        self.assert_same(root, directory, &mut inodes);
    }

    fn assert_same(&self, file: FileId, path: &Path, inodes: &mut HashMap<(u64, u64), FileId>) {
        use std::os::unix::ffi::OsStrExt;
        let node = self.namespace.file(file).unwrap_or_else(|| panic!("{} is missing", path.display()));
        let stat = rustix::fs::lstat(path).unwrap();
        assert_eq!(*inodes.entry((stat.st_dev, stat.st_ino)).or_insert(file), file, "{}", path.display());
        let shown = Attributes {
            kind: kind(&stat),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: if stat.st_mode & 0o170_000 & 0o020_000 != 0
                && stat.st_mode & 0o100_000 == 0
                && stat.st_mode & 0o040_000 == 0
            {
                stat.st_rdev
            } else {
                node.attributes.rdev
            },
            mtime: pitgate::types::Time::join(stat.st_mtime, stat.st_mtime_nsec as u32),
        };
        assert_eq!(node.attributes, shown, "attributes of {}", path.display());
        assert_eq!(xattrs(path), self.xattrs(file), "extended attributes of {}", path.display());
        match node.attributes.kind {
            FileKind::Directory => {
                let mut names: Vec<Vec<u8>> = std::fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
                    .collect();
                names.sort();
                let known: Vec<Vec<u8>> =
                    self.namespace.children(file).map(|(name, _)| name.to_vec()).collect();
                assert_eq!(lossy(&known), lossy(&names), "names in {}", path.display());
                for name in names {
                    let child = self.namespace.lookup(file, &name).unwrap();
                    self.assert_same(child, &path.join(std::ffi::OsStr::from_bytes(&name)), inodes);
                }
            }
            FileKind::Regular => {
                let bytes = std::fs::read(path).unwrap();
                assert_eq!(node.size, bytes.len() as u64, "size of {}", path.display());
                assert_eq!(u64::from(node.link_count()), stat.st_nlink, "links of {}", path.display());
                let recorded = self.contents(file);
                let differs = (0..bytes.len()).find(|&at| bytes[at] != recorded[at]);
                assert_eq!(differs, None, "first differing byte of {}", path.display());
            }
            FileKind::Symlink => {
                let target = std::fs::read_link(path).unwrap();
                assert_eq!(node.target, target.as_os_str().as_bytes(), "target of {}", path.display());
            }
            _ => {}
        }
    }

    fn xattrs(&self, file: FileId) -> Vec<(Vec<u8>, Vec<u8>)> {
        let node = self.namespace.file(file).unwrap();
        node.xattrs().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
    }
}

fn lossy(names: &[Vec<u8>]) -> Vec<String> {
    names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

fn kind(stat: &rustix::fs::Stat) -> FileKind {
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => FileKind::Regular,
        libc::S_IFDIR => FileKind::Directory,
        libc::S_IFLNK => FileKind::Symlink,
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharacterDevice,
        libc::S_IFBLK => FileKind::BlockDevice,
        other => panic!("unknown kind {other:o}"),
    }
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0u8; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found: Vec<_> = names[..len]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0u8; 65536];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect();
    found.sort();
    found
}

/// What was recorded up to some moment, as an image for the comparison after a stop.
pub struct RecordedImage(pub Arc<Reference>);

impl Image for RecordedImage {
    fn root(&self) -> FileId {
        FileId::SOURCE
    }

    fn status(&self, file: FileId) -> Result<Status, ImageError> {
        let node = self.0.namespace.file(file).ok_or(ImageError::NoSuchFile(file))?;
        Ok(Status {
            file,
            attributes: node.attributes,
            size: node.status_size(),
            link_count: node.link_count(),
            allocated_bytes: node.size,
        })
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<Option<FileId>, ImageError> {
        Ok(self.0.namespace.lookup(directory, name))
    }

    fn read_directory(
        &self,
        _directory: FileId,
        _after: Option<&[u8]>,
        _limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ImageError> {
        unreachable!("the comparison asks the namespace")
    }

    fn parent(&self, directory: FileId) -> Result<FileId, ImageError> {
        Ok(self.0.namespace.parent(directory).unwrap_or(FileId::SOURCE))
    }

    fn read_link(&self, file: FileId) -> Result<Bytes, ImageError> {
        Ok(self.0.namespace.file(file).ok_or(ImageError::NoSuchFile(file))?.target.clone())
    }

    fn list_xattrs(&self, _file: FileId) -> Result<Vec<Bytes>, ImageError> {
        unreachable!("the comparison asks the namespace")
    }

    fn xattr(&self, _file: FileId, _name: &[u8]) -> Result<Option<Bytes>, ImageError> {
        unreachable!("the comparison asks the namespace")
    }

    fn read_at(&self, file: FileId, offset_bytes: u64, buf: &mut [u8]) -> Result<usize, ImageError> {
        if self.0.namespace.file(file).is_none() {
            return Err(ImageError::NoSuchFile(file));
        }
        let contents = self.0.contents(file);
        let start = (offset_bytes as usize).min(contents.len());
        let len = buf.len().min(contents.len() - start);
        buf[..len].copy_from_slice(&contents[start..start + len]);
        Ok(len)
    }

    fn next_data(&self, file: FileId, offset_bytes: u64) -> Result<Option<u64>, ImageError> {
        let size = self.0.namespace.file(file).ok_or(ImageError::NoSuchFile(file))?.size;
        Ok((offset_bytes < size).then_some(offset_bytes))
    }

    fn next_hole(&self, file: FileId, _offset_bytes: u64) -> Result<u64, ImageError> {
        Ok(self.0.namespace.file(file).ok_or(ImageError::NoSuchFile(file))?.size)
    }

    fn external_links(&self) -> Result<Vec<(Bytes, Bytes)>, ImageError> {
        Ok(Vec::new())
    }

    fn retarget(&self, _directory: FileId, _target: &[u8]) -> Result<Option<Bytes>, ImageError> {
        Ok(None)
    }
}
