//! Listing directories, straight from the backing's own stream.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, RawDir, SeekFrom};

use super::backing::{self, InodeKey};
use super::node::Node;
use super::pass::{DirectoryHandle, PassThrough};
use crate::io::fuse::{DirectoryPlusSink, DirectorySink, Entry, Errno, Opened};
use crate::types::FileKind;

/// The inode number of a name whose file was not looked up; the kernel knows it as "unknown".
const UNKNOWN_INODE: u64 = 0xffff_ffff;

/// One name as the backing lists it.
struct Listed {
    name: Vec<u8>,
    inode: u64,
    kind: Option<FileKind>,
    next_offset: u64,
}

impl PassThrough {
    pub(super) fn open_directory(&self, node: Arc<Node>) -> Result<Opened, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.shared.descriptors.reopen(node.descriptor()?.as_fd(), flags)?;
        let handle = self.directories.add(DirectoryHandle { node, fd: parking_lot::Mutex::new(fd) });
        Ok(Opened { handle, ..Opened::default() })
    }

    pub(super) fn list(
        &self,
        open: &DirectoryHandle,
        offset: u64,
        sink: &mut dyn DirectorySink,
    ) -> Result<(), Errno> {
        let device = open.node.inode.device;
        for_each(&open.fd.lock(), offset, |listed| {
            let known = self.shared.table.file_of(InodeKey { device, inode: listed.inode });
            let node = match known {
                Some(file) => self.node_id(file),
                None => UNKNOWN_INODE,
            };
            Ok(sink.add(node, listed.next_offset, listed.kind.unwrap_or(FileKind::Regular), &listed.name))
        })
    }

    pub(super) fn list_with_entries(
        &self,
        open: &DirectoryHandle,
        offset: u64,
        sink: &mut dyn DirectoryPlusSink,
    ) -> Result<(), Errno> {
        let mut any = false;
        for_each(&open.fd.lock(), offset, |listed| {
            let dots = listed.name == b"." || listed.name == b"..";
            let found =
                if dots { self.own_entry(open) } else { self.look_up_listed(&open.node, &listed.name) };
            let entry = match found {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(true),
                // What was taken counts; the next request meets the error first.
                Err(_) if any => return Ok(false),
                Err(errno) => return Err(errno),
            };
            let taken = sink.add(listed.next_offset, &listed.name, &entry);
            any |= taken;
            if !taken && !dots {
                self.forget_one(&entry);
            }
            Ok(taken)
        })
    }

    /// What is shown for `.` and `..`; the kernel uses its name and kind only.
    fn own_entry(&self, open: &DirectoryHandle) -> Result<Option<Entry>, Errno> {
        let stat = backing::stat_fd(&*open.node.descriptor()?)?;
        self.entry(open.node.file, &stat).map(Some)
    }

    /// `None` if it was removed since it was listed.
    fn look_up_listed(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Option<Entry>, Errno> {
        match self.look_up(parent, name) {
            Ok(entry) => Ok(Some(entry)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn forget_one(&self, entry: &Entry) {
        use crate::io::fuse::FileSystem;
        self.forget(entry.attributes.node, 1);
    }
}

/// Calls `take` for each name after `offset`, until it wants no more.
fn for_each(
    fd: &OwnedFd,
    offset: u64,
    mut take: impl FnMut(&Listed) -> Result<bool, Errno>,
) -> Result<(), Errno> {
    rustix::fs::seek(fd, SeekFrom::Start(offset))?;
    let mut buffer = backing::directory_buffer();
    let mut raw = RawDir::new(fd.as_fd(), &mut buffer);
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let listed = Listed {
            name: entry.file_name().to_bytes().to_vec(),
            inode: entry.ino(),
            kind: kind_listed(entry.file_type()),
            next_offset: entry.next_entry_cookie(),
        };
        if !take(&listed)? {
            break;
        }
    }
    Ok(())
}

fn kind_listed(file_type: rustix::fs::FileType) -> Option<FileKind> {
    use rustix::fs::FileType;
    Some(match file_type {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharacterDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => return None,
    })
}
