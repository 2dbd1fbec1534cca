//! Changes of a file's bytes and size: applied, read back at the edges, and sequenced under one lock.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, OFlags, Stat};

use super::backing;
use super::node::{FileState, Node, page_of};
use super::pass::{Handle, PassThrough, Synchronous};
use super::range_lock::RangeGuard;
use crate::io::fuse::{Caller, Errno, Opened, WriteFlags};
use crate::types::{
    AttributeChange, ChangeBody, DataChange, FileKind, NamespaceChange, PAGE_BYTES, PageRange, PageWrite,
    pages_of,
};

const CAPABILITY: &[u8] = b"security.capability";

/// Flags that must not reach the backing descriptor: what they ask for happened already in the kernel or is
/// done here.
const STRIPPED: OFlags = OFlags::APPEND
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC)
    .union(OFlags::DIRECT)
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::TRUNC);

/// The flags of the backing descriptor for an application's flags. Edge pages are read back, so what can be
/// written can be read.
pub(super) fn backing_flags(flags: i32) -> OFlags {
    let flags = OFlags::from_bits_retain(flags as u32);
    let access = if flags & OFlags::ACCMODE == OFlags::RDONLY { OFlags::RDONLY } else { OFlags::RDWR };
    (flags - STRIPPED - OFlags::ACCMODE) & OFlags::NONBLOCK | access
}

pub(super) fn synchronous(flags: i32) -> Option<Synchronous> {
    // O_SYNC is two bits, one of them O_DSYNC's.
    if flags & libc::O_SYNC == libc::O_SYNC {
        Some(Synchronous::Everything)
    } else {
        (flags & libc::O_DSYNC != 0).then_some(Synchronous::Data)
    }
}

impl PassThrough {
    pub(super) fn open_file(&self, node: Arc<Node>, flags: i32) -> Result<Opened, Errno> {
        let file = self.shared.descriptors.reopen(node.descriptor()?.as_fd(), backing_flags(flags))?;
        Ok(self.opened(node, file, flags))
    }

    pub(super) fn opened(&self, node: Arc<Node>, file: OwnedFd, flags: i32) -> Opened {
        let handle = self.handles.add(Handle { node, file, synchronous: synchronous(flags) });
        Opened { handle, keep_cache: true, no_flush: true, ..Opened::default() }
    }

    /// Writes as much as the backing takes; what it took is recorded whatever happens to the rest.
    pub(super) fn write_file(
        &self,
        open: &Handle,
        offset: u64,
        bytes: &[u8],
        flags: WriteFlags,
    ) -> Result<u32, Errno> {
        self.shared.recorder.admit()?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let end = offset
            .checked_add(bytes.len() as u64)
            .filter(|&end| i64::try_from(end).is_ok())
            .ok_or(Errno::FBIG)?;
        let held = self.lock_pages(open, offset, end)?;
        let (done, outcome) = backing::write_full(&open.file, offset, bytes);
        if done == 0 {
            outcome?;
        }
        let recorded = self.record_write(open, offset, &bytes[..done], flags.kill_privileges);
        let recorded = self.or_diverged(&open.node, recorded);
        drop(held);
        recorded?;
        // The kernel adds what was asked for this write alone (RWF_DSYNC, RWF_SYNC).
        if let Some(synchronous) = synchronous(flags.open_flags).max(open.synchronous) {
            self.sync_file(&open.node, &open.file, synchronous == Synchronous::Data)?;
        }
        Ok(done as u32)
    }

    /// Holds the pages of a change of bytes `offset..end`, and all that follow if it moves the end of the file.
    fn lock_pages<'a>(&self, open: &'a Handle, offset: u64, end: u64) -> Result<RangeGuard<'a>, Errno> {
        let node = &open.node;
        let first = page_of(offset);
        loop {
            let size = self.size_of(node, &open.file)?;
            if end > size {
                return Ok(node.ranges.lock_from(first));
            }
            let held = node.ranges.lock(first, pages_of(end));
            // A truncation may have passed while this waited; then the write moves the end after all.
            if self.size_of(node, &open.file)? >= end {
                return Ok(held);
            }
        }
    }

    /// What was applied but could not be read back for the journal is no failure of the application's: the
    /// file is read anew as a whole.
    fn or_diverged(&self, node: &Arc<Node>, recorded: Result<(), Errno>) -> Result<(), Errno> {
        match recorded {
            Err(errno) if self.shared.recorder.is_recording() => {
                self.shared.diverged(node, &format!("cannot be read back: {}", std::io::Error::from(errno)));
                Ok(())
            }
            other => other,
        }
    }

    /// The size as last sequenced.
    pub(super) fn size_of(&self, node: &Node, file: impl AsFd) -> Result<u64, Errno> {
        load(&mut node.state.lock(), file)
    }

    fn record_write(&self, open: &Handle, offset: u64, bytes: &[u8], kill: bool) -> Result<(), Errno> {
        let node = &open.node;
        let end = offset + bytes.len() as u64;
        let recorder = &self.shared.recorder;
        if !recorder.is_recording() {
            let mut state = node.state.lock();
            state.size = state.size.map(|size| size.max(end));
            return recorder.admit();
        }
        let aligned = offset.is_multiple_of(PAGE_BYTES as u64) && bytes.len().is_multiple_of(PAGE_BYTES);
        let pages = if aligned { Bytes::copy_from_slice(bytes) } else { widen(&open.file, offset, bytes)? };
        let mut state = node.state.lock();
        let size = load(&mut state, &open.file)?.max(end);
        state.size = Some(size);
        if state.nameless {
            return Ok(());
        }
        let mtime = self.shared.stamps.stamp(node, &mut state);
        let position = recorder.record(ChangeBody::Data(DataChange {
            file: node.file,
            size_after: size,
            mtime: Some(mtime),
            cut: false,
            zero: None,
            pages: vec![PageWrite { first_page: page_of(offset), bytes: pages }],
        }))?;
        node.touch(position);
        // The kernel asks with every write of every user but root; a change of names for each would be ruinous.
        let kill = kill && state.set_id;
        if kill || state.capability {
            self.drop_privileges(node, &mut state, &open.file, kill)?;
        }
        Ok(())
    }

    /// Takes set-id bits off if asked to, and records that the backing took the capability off.
    pub(super) fn drop_privileges(
        &self,
        node: &Node,
        state: &mut FileState,
        file: impl AsFd,
        kill: bool,
    ) -> Result<(), Errno> {
        let fd = file.as_fd();
        if kill {
            let mode = backing::stat_fd(fd)?.st_mode & 0o7777;
            let group = if mode & libc::S_IXGRP == 0 { 0 } else { libc::S_ISGID };
            let left = mode & !(libc::S_ISUID | group);
            if left != mode {
                self.shared.descriptors.chmod(fd, left)?;
            }
            // The backing may have taken them off itself, so the mode is recorded either way.
            let change = AttributeChange { mode: Some(left), ..AttributeChange::default() };
            let change = NamespaceChange::Attributes { file: node.file, change };
            node.touch(self.shared.recorder.record_names(change)?);
            state.set_id = false;
        }
        if state.capability && backing::xattr(fd, CAPABILITY) == Err(Errno::NODATA) {
            state.capability = false;
            let change =
                NamespaceChange::RemoveXattr { file: node.file, name: Bytes::from_static(CAPABILITY) };
            node.touch(self.shared.recorder.record_names(change)?);
        }
        Ok(())
    }

    /// Cuts or extends a file. `file` can be read and written.
    pub(super) fn set_size(
        &self,
        caller: &Caller,
        node: &Arc<Node>,
        file: impl AsFd,
        size: u64,
    ) -> Result<(), Errno> {
        let fd = file.as_fd();
        let _held = node.ranges.lock_from(0);
        let before = self.size_of(node, fd)?;
        rustix::fs::ftruncate(fd, size)?;
        let cut = size < before;
        let edge = cut && !size.is_multiple_of(PAGE_BYTES as u64);
        let edges =
            if edge { read_pages(fd, page_of(size), 1, size).map(|page| vec![page]) } else { Ok(vec![]) };
        let recorded = edges.and_then(|pages| {
            self.record_data(node, fd, caller.uid != 0, |change| DataChange {
                size_after: size,
                cut,
                pages,
                ..change
            })
        });
        self.or_diverged(node, recorded)
    }

    /// `fallocate` with KEEP_SIZE, PUNCH_HOLE and ZERO_RANGE.
    pub(super) fn allocate(&self, open: &Handle, offset: u64, len: u64, mode: i32) -> Result<(), Errno> {
        self.shared.recorder.admit()?;
        let flags = FallocateFlags::from_bits(mode as u32).ok_or(Errno::OPNOTSUPP)?;
        let known = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !known.contains(flags) {
            return Err(Errno::OPNOTSUPP);
        }
        let end = offset.checked_add(len).ok_or(Errno::FBIG)?;
        let node = &open.node;
        let _held = node.ranges.lock_from(0);
        let before = self.size_of(node, &open.file)?;
        if let Err(errno) = rustix::fs::fallocate(&open.file, flags, offset, len) {
            // Part of it may have been done; of a mere allocation only the size shows.
            if !flags.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
                self.record_size_left(open, before)?;
            } else if errno == Errno::IO || errno == Errno::NOSPC || errno == Errno::INTR {
                self.shared.diverged(node, "was changed in part by a failed fallocate");
            }
            return Err(errno);
        }
        let size = if flags.contains(FallocateFlags::KEEP_SIZE) { before } else { before.max(end) };
        let zeroes = flags.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE);
        let zeroed = if zeroes { zeroed(&open.file, offset, end.min(before)) } else { Ok((None, vec![])) };
        let recorded = zeroed.and_then(|(zero, pages)| {
            self.record_data(node, &open.file, false, |change| DataChange {
                size_after: size,
                zero,
                pages,
                ..change
            })
        });
        self.or_diverged(node, recorded)
    }

    /// Records the size that a failed allocation left. The file's every page is held.
    fn record_size_left(&self, open: &Handle, before: u64) -> Result<(), Errno> {
        let stat = backing::stat_fd(&open.file)?;
        let size = u64::try_from(stat.st_size).map_err(|_| Errno::OVERFLOW)?;
        if size == before {
            return Ok(());
        }
        let recorded = self
            .record_data(&open.node, &open.file, false, |change| DataChange { size_after: size, ..change });
        self.or_diverged(&open.node, recorded)
    }

    /// Records a change of a file whose every page is held; `describe` adds what it is.
    fn record_data(
        &self,
        node: &Node,
        file: impl AsFd,
        kill: bool,
        describe: impl FnOnce(DataChange) -> DataChange,
    ) -> Result<(), Errno> {
        let fd = file.as_fd();
        let mut state = node.state.lock();
        let stat = backing::stat_fd(fd)?;
        let change = describe(DataChange {
            file: node.file,
            size_after: 0,
            mtime: Some(backing::mtime(&stat)),
            cut: false,
            zero: None,
            pages: Vec::new(),
        });
        state.size = Some(change.size_after);
        if state.nameless {
            return Ok(());
        }
        node.touch(self.shared.recorder.record(ChangeBody::Data(change))?);
        let kill = kill && state.set_id;
        if kill || state.capability {
            self.drop_privileges(node, &mut state, fd, kill)?;
        }
        Ok(())
    }

    /// Returns when backing and journal both hold the file, as the durability asks. Both work at the same time.
    pub(super) fn sync_file(&self, node: &Node, file: impl AsFd, data_only: bool) -> Result<(), Errno> {
        self.shared.counters.syncs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let position = node.last_position();
        self.shared.recorder.request_commit(position);
        let synced = if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) };
        let committed = self.shared.recorder.commit(position);
        synced.and(committed)
    }
}

pub(super) fn has_set_id(stat: &Stat) -> bool {
    let mode = stat.st_mode;
    mode & libc::S_ISUID != 0 || mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP
}

/// The size as last sequenced; the backing's if nothing was since the node came into use. Ask before applying.
pub(super) fn load(state: &mut FileState, file: impl AsFd) -> Result<u64, Errno> {
    if let Some(size) = state.size {
        return Ok(size);
    }
    let stat = backing::stat_fd(file.as_fd())?;
    if backing::kind(&stat) != Some(FileKind::Regular) {
        return Err(Errno::INVAL);
    }
    let size = u64::try_from(stat.st_size).map_err(|_| Errno::OVERFLOW)?;
    state.capability = backing::xattr(file.as_fd(), CAPABILITY).is_ok();
    state.set_id = has_set_id(&stat);
    state.size = Some(size);
    Ok(size)
}

/// `bytes`, written at `offset`, as whole pages; the rest of the first and last page is read from the file.
fn widen(file: impl AsFd, offset: u64, bytes: &[u8]) -> Result<Bytes, Errno> {
    let end = offset + bytes.len() as u64;
    let (first, last) = (page_of(offset), page_of(end - 1));
    let mut pages = vec![0; (last - first + 1) as usize * PAGE_BYTES];
    let start = (offset % PAGE_BYTES as u64) as usize;
    if start != 0 {
        backing::read_full(file.as_fd(), first * PAGE_BYTES as u64, &mut pages[..PAGE_BYTES])?;
    }
    let reads_last = !end.is_multiple_of(PAGE_BYTES as u64) && (last != first || start == 0);
    if reads_last {
        let at = pages.len() - PAGE_BYTES;
        backing::read_full(file.as_fd(), last * PAGE_BYTES as u64, &mut pages[at..])?;
    }
    pages[start..start + bytes.len()].copy_from_slice(bytes);
    Ok(pages.into())
}

/// Pages of a file; bytes from `size` on are zero, whatever the file holds there.
pub(super) fn read_pages(file: impl AsFd, first: u64, count: u64, size: u64) -> Result<PageWrite, Errno> {
    let start = first * PAGE_BYTES as u64;
    let mut pages = vec![0; count as usize * PAGE_BYTES];
    let within = usize::try_from(size.saturating_sub(start)).unwrap_or(usize::MAX).min(pages.len());
    backing::read_full(file, start, &mut pages[..within])?;
    Ok(PageWrite { first_page: first, bytes: pages.into() })
}

/// What zeroing bytes `offset..end` (`end` at most the size) means: whole pages of zeros, and edges in part.
fn zeroed(file: impl AsFd, offset: u64, end: u64) -> Result<(Option<PageRange>, Vec<PageWrite>), Errno> {
    if end <= offset {
        return Ok((None, Vec::new()));
    }
    let fd = file.as_fd();
    let size = u64::try_from(backing::stat_fd(fd)?.st_size).map_err(|_| Errno::OVERFLOW)?;
    let (first_whole, end_whole) = (pages_of(offset), page_of(end));
    let zero =
        (first_whole < end_whole).then(|| PageRange { first: first_whole, count: end_whole - first_whole });
    let mut edges = Vec::new();
    if !offset.is_multiple_of(PAGE_BYTES as u64) {
        edges.push(read_pages(fd, page_of(offset), 1, size)?);
    }
    let last = page_of(end);
    let already = edges.first().is_some_and(|edge| edge.first_page == last);
    if !end.is_multiple_of(PAGE_BYTES as u64) && !already {
        edges.push(read_pages(fd, last, 1, size)?);
    }
    Ok((zero, edges))
}
