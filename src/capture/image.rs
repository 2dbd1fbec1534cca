//! The initial image and the comparison after a stop: every file's bytes, read while applications go on.
//!
//! A stretch is read and recorded under its range lock, so it is either before or after each write. Only what
//! differs from what the journal held is recorded.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::backing::{self, InodeKey};
use super::data::load;
use super::node::{Node, Place, page_of};
use super::pass::Shared;
use super::pending::{Base, Next, Work};
use crate::types::{
    ChangeBody, DataChange, FileId, FileKind, Image, NamespaceChange, PAGE_BYTES, PageRange, PageWrite,
    ZERO_PAGE, pages_of,
};

/// Pages read under one lock: applications wait no longer than for these.
const STRETCH_PAGES: u64 = 64;
/// How soon a file that could not be read is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Reads all files that wait, and begins the coverage when none is left; ends with [`super::pending::Pending::end`].
pub(super) fn read_pending(shared: &Shared, image: Option<&Arc<dyn Image>>) {
    loop {
        match shared.pending.next() {
            Next::Read(work) => read_one(shared, image, work),
            Next::Wait => {
                shared.pending.begin_coverage(&shared.recorder);
                shared.pending.wait(RETRY);
            }
            Next::End => return,
        }
    }
}

fn read_one(shared: &Shared, image: Option<&Arc<dyn Image>>, work: Work) {
    let outcome = match work.base {
        Base::Directory => adopt_children(shared, &work.node),
        Base::Zeros => read_file(shared, &work.node, None),
        Base::Image => read_file(shared, &work.node, image),
        Base::Unknown => reset(shared, &work.node).and_then(|()| read_file(shared, &work.node, None)),
    };
    match outcome {
        Ok(()) => done(shared, &work),
        // Nobody waits for the bytes of a file that was removed, perhaps just because it cannot be read.
        Err(_) if work.node.state.lock().nameless => done(shared, &work),
        Err(errno) => {
            let reason = format!("cannot read {}: {}", work.node.path(), std::io::Error::from(errno));
            shared.pending.failed(work, reason);
        }
    }
}

fn done(shared: &Shared, work: &Work) {
    shared.pending.done(work);
    shared.table.release(work.node.file, 1);
}

fn open(shared: &Shared, node: &Node) -> Result<OwnedFd, Errno> {
    let descriptor = node.descriptor()?;
    // Reading a file for the image is no access of the application's.
    match shared.descriptors.reopen(descriptor.as_fd(), OFlags::RDONLY | OFlags::NOATIME) {
        Err(Errno::PERM) => shared.descriptors.reopen(descriptor.as_fd(), OFlags::RDONLY),
        other => other,
    }
}

/// Makes every page of the file read as zeros in the journal, so that it can be read anew.
fn reset(shared: &Shared, node: &Node) -> Result<(), Errno> {
    let file = open(shared, node)?;
    let _held = node.ranges.lock_from(0);
    let mut state = node.state.lock();
    load(&mut state, &file)?;
    let stat = backing::stat_fd(&file)?;
    let size = u64::try_from(stat.st_size).map_err(|_| Errno::OVERFLOW)?;
    state.size = Some(size);
    if state.nameless {
        return Ok(());
    }
    let zero = (size > 0).then(|| PageRange { first: 0, count: pages_of(size) });
    node.touch(shared.recorder.record(ChangeBody::Data(DataChange {
        file: node.file,
        size_after: size,
        mtime: Some(backing::mtime(&stat)),
        cut: true,
        zero,
        pages: Vec::new(),
    }))?);
    Ok(())
}

/// Records what differs between the backing file and `base` (zeros, if none).
fn read_file(shared: &Shared, node: &Node, base: Option<&Arc<dyn Image>>) -> Result<(), Errno> {
    let file = open(shared, node)?;
    let mut first = 0;
    while !shared.pending.is_ended() && shared.recorder.is_recording() {
        let Some(next) = next_page_with_data(&file, node.file, base, first)? else { return Ok(()) };
        let _held = node.ranges.lock(next, next + STRETCH_PAGES);
        let size = load(&mut node.state.lock(), &file)?;
        let count = pages_of(size).saturating_sub(next).min(STRETCH_PAGES);
        if count == 0 {
            return Ok(());
        }
        let read = super::data::read_pages(&file, next, count, size)?;
        let pages = differing(&read, node.file, base);
        record_stretch(shared, node, pages)?;
        first = next + count;
    }
    Ok(())
}

fn record_stretch(shared: &Shared, node: &Node, pages: Vec<PageWrite>) -> Result<(), Errno> {
    if pages.is_empty() {
        return Ok(());
    }
    let bytes: usize = pages.iter().map(|write| write.bytes.len()).sum();
    let state = node.state.lock();
    let Some(size_after) = state.size.filter(|_| !state.nameless) else { return Ok(()) };
    // The time stays as it is: nothing changed the file.
    let change = DataChange { file: node.file, size_after, mtime: None, cut: false, zero: None, pages };
    node.touch(shared.recorder.record(ChangeBody::Data(change))?);
    drop(state);
    shared.pending.count_recorded(bytes as u64);
    Ok(())
}

/// The first page from `first` on where either side may hold something else than zeros.
fn next_page_with_data(
    file: &OwnedFd,
    id: FileId,
    base: Option<&Arc<dyn Image>>,
    first: u64,
) -> Result<Option<u64>, Errno> {
    let offset = first * PAGE_BYTES as u64;
    let here = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Some(page_of(data).max(first)),
        Err(Errno::NXIO) => None,
        Err(Errno::INVAL) => Some(first),
        Err(errno) => return Err(errno),
    };
    let there = match base.map(|base| base.next_data(id, offset)) {
        None => None,
        Some(Ok(data)) => data.map(|data| page_of(data).max(first)),
        // What cannot be read there is recorded anew.
        Some(Err(_)) => Some(first),
    };
    Ok([here, there].into_iter().flatten().min())
}

/// The runs of pages in `read` that `base` holds otherwise.
fn differing(read: &PageWrite, file: FileId, base: Option<&Arc<dyn Image>>) -> Vec<PageWrite> {
    let mut before = vec![0; if base.is_some() { read.bytes.len() } else { 0 }];
    let known = base.is_none_or(|base| {
        let offset = read.first_page * PAGE_BYTES as u64;
        match base.read_at(file, offset, &mut before) {
            Ok(len) => {
                before[len..].fill(0);
                true
            }
            Err(_) => false,
        }
    });
    let same = |page: usize| {
        let range = page * PAGE_BYTES..(page + 1) * PAGE_BYTES;
        let before = if base.is_some() { &before[range.clone()] } else { &ZERO_PAGE[..] };
        known && read.bytes[range] == *before
    };
    runs(read.bytes.len() / PAGE_BYTES, |page| !same(page))
        .map(|(start, end)| PageWrite {
            first_page: read.first_page + start as u64,
            bytes: read.bytes.slice(start * PAGE_BYTES..end * PAGE_BYTES),
        })
        .collect()
}

/// The longest runs `start..end` of numbers below `count` that `wanted` accepts.
fn runs(count: usize, wanted: impl Fn(usize) -> bool) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < count && !wanted(at) {
            at += 1;
        }
        let start = at;
        while at < count && wanted(at) {
            at += 1;
        }
        (start < at).then_some((start, at))
    })
}

/// Makes known what lies in a directory that appeared behind our back.
fn adopt_children(shared: &Shared, directory: &Arc<Node>) -> Result<(), Errno> {
    let descriptor = directory.descriptor()?;
    let file = shared.descriptors.reopen(descriptor.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
    for name in backing::list_names(&file)? {
        match shared.adopt(directory, &name) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

impl Shared {
    /// Makes known a file that appeared in the backing directory without us, if it is not known yet.
    pub(super) fn adopt(&self, parent: &Arc<Node>, name: &[u8]) -> Result<(), Errno> {
        let directory = parent.descriptor()?;
        let _held = parent.names.write();
        let fd = backing::open_path(directory.as_fd(), name)?;
        let stat = backing::stat_fd(&fd)?;
        let key = InodeKey::of(&stat);
        if self.table.knows(key) {
            return Ok(());
        }
        let attributes = backing::attributes(&stat)?;
        let target = match attributes.kind {
            FileKind::Symlink => backing::read_link(fd.as_fd())?,
            _ => Vec::new(),
        };
        let xattrs = backing::xattrs(fd.as_fd())?;
        let file = self.table.new_file();
        let place = Place { parent: Arc::clone(parent), name: Bytes::copy_from_slice(name) };
        let node = self.table.refer(file, &stat, Some(place), Some(fd))?;
        let path = node.path();
        let reason = format!("{path} appeared in the data directory without passing through capture");
        self.pending.end_coverage(&self.recorder, &reason);
        let mut changes = vec![NamespaceChange::Create {
            file,
            parent: Some(parent.file),
            name: Bytes::copy_from_slice(name),
            attributes,
            target: target.into(),
            parent_mtime: super::names::mtime_of(directory.as_fd()),
        }];
        changes.extend(xattrs.into_iter().map(|(name, value)| NamespaceChange::SetXattr {
            file,
            name,
            value,
        }));
        let recorded =
            changes.into_iter().try_for_each(|change| self.recorder.record_names(change).map(|_| ()));
        self.table.bind(key, file);
        let base = match attributes.kind {
            FileKind::Directory => Some(Base::Directory),
            FileKind::Regular => Some(Base::Unknown),
            _ => None,
        };
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if base.is_none() {
            self.table.release(file, 1);
        }
        self.pending.add_announced(base.map(|base| Work { node, base, bytes }));
        recorded
    }

    /// The backing holds something of this file that could not be recorded: it is read anew.
    pub(super) fn diverged(&self, node: &Arc<Node>, why: &str) {
        node.references.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.pending.end_coverage(&self.recorder, &format!("{} {why}", node.path()));
        let work = Work { node: Arc::clone(node), base: Base::Unknown, bytes: 0 };
        self.pending.add_announced(Some(work));
    }
}
