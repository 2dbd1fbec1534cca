//! The view itself: the image of a source at one position.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use jiff::tz::TimeZone;

use super::cache::ViewCache;
use super::error::ViewError;
use super::links::{Shown, judge};
use super::pages::{Pages, Piece};
use crate::namespace::{Namespace, Node};
use crate::repository::History;
use crate::types::{
    DirectoryEntry, FileId, FileKind, Image, ImageError, PAGE_BYTES, Point, Position, Status, Time, pages_of,
};

const PAGE: u64 = PAGE_BYTES as u64;

/// How a view was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewCounters {
    pub reads: u64,
    pub read_bytes: u64,
}

/// A source at one position. Never changes; reads from any number of threads.
///
/// Holds the names in memory; finds pages through the indexes of segments, block by block. The history's
/// lease keeps what it reads from being removed.
pub struct View {
    namespace: Namespace,
    root: FileId,
    position: Position,
    pages: Pages,
    reads: AtomicU64,
    read_bytes: AtomicU64,
}

impl View {
    /// The view of a mountable position.
    ///
    /// # Errors
    /// `ViewError::NotMountable` says what is mountable instead; `ViewError::Repository` if the names at the
    /// position cannot be read.
    pub fn open(history: Arc<History>, position: Position, cache: Arc<ViewCache>) -> Result<View, ViewError> {
        history.resolve(&Point::Position(position), Time::MAX, &TimeZone::UTC)?;
        View::of(history, position, cache)
    }

    /// The view of the last recorded position, mountable or not: what capture compares the backing files with
    /// before points exist again.
    ///
    /// # Errors
    /// `ViewError::Repository` if the names cannot be read.
    pub fn open_at_end(history: Arc<History>, cache: Arc<ViewCache>) -> Result<View, ViewError> {
        let position = history.end();
        View::of(history, position, cache)
    }

    fn of(history: Arc<History>, position: Position, cache: Arc<ViewCache>) -> Result<View, ViewError> {
        let namespace = history.namespace_at(position)?;
        let root = match namespace.roots() {
            [only] => only.file,
            _ => FileId::SOURCE,
        };
        let pages = Pages::new(history, position, cache);
        let (reads, read_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(View { namespace, root, position, pages, reads, read_bytes })
    }

    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The names, as recorded: links have their own text, roots their paths.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    #[must_use]
    pub fn counters(&self) -> ViewCounters {
        ViewCounters {
            reads: self.reads.load(Ordering::Relaxed),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
        }
    }

    fn node(&self, file: FileId) -> Result<&Node, ImageError> {
        self.namespace.file(file).ok_or(ImageError::NoSuchFile(file))
    }

    fn require_directory(&self, file: FileId) -> Result<(), ImageError> {
        if self.node(file)?.is_directory() {
            Ok(())
        } else {
            Err(ImageError::WrongKind { file, expected: "directory" })
        }
    }

    /// The size of a regular file; nothing else has bytes to read.
    fn regular_size(&self, file: FileId) -> Result<u64, ImageError> {
        let node = self.node(file)?;
        match node.attributes.kind {
            FileKind::Regular => Ok(node.size),
            _ => Err(ImageError::WrongKind { file, expected: "regular file" }),
        }
    }

    fn read_piece(
        &self,
        file: FileId,
        offset_bytes: u64,
        buf: &mut [u8],
        piece: &Piece,
    ) -> Result<(), ImageError> {
        // The part of `buf` that this piece fills, and how far into the piece it begins.
        let piece_begin = piece.first_page * PAGE;
        let piece_end = piece_begin.saturating_add(piece.count * PAGE);
        let begin = piece_begin.max(offset_bytes);
        let end = piece_end.min(offset_bytes + buf.len() as u64);
        let part = &mut buf[(begin - offset_bytes) as usize..(end - offset_bytes) as usize];
        match &piece.stored {
            None => part.fill(0),
            Some(stored) => {
                let (chunk, at) = self.pages.chunk(file, piece, stored)?;
                let from = at + (begin - piece_begin) as usize;
                part.copy_from_slice(&chunk.bytes[from..from + part.len()]);
            }
        }
        Ok(())
    }

    /// The text of a link, as seen from the highest directory that holds a name of it: from there a relative
    /// path climbs least, so that from no other name it can climb out of the view.
    fn shown_text(&self, node: &Node) -> Option<Shown> {
        let depth = |directory: FileId| {
            let mut at = directory;
            let mut depth = 0;
            while let Some(parent) = self.namespace.parent(at).filter(|parent| *parent != at) {
                at = parent;
                depth += 1;
            }
            depth
        };
        let highest = node.names().iter().map(|name| name.parent).min_by_key(|parent| depth(*parent))?;
        Some(judge(&self.namespace, highest, &node.target))
    }

    /// The path of a file from the view's root on.
    fn shown_path(&self, path: Bytes) -> Bytes {
        if self.root == FileId::SOURCE {
            return path;
        }
        let label_end = path.iter().position(|&byte| byte == b'/').map_or(path.len(), |slash| slash + 1);
        path.slice(label_end..)
    }
}

impl Image for View {
    fn root(&self) -> FileId {
        self.root
    }

    fn status(&self, file: FileId) -> Result<Status, ImageError> {
        let node = self.node(file)?;
        let mut size = node.status_size();
        if node.attributes.kind == FileKind::Symlink
            && let Some(Shown::Retargeted(text)) = self.shown_text(node)
        {
            size = text.len() as u64;
        }
        let link_count = node.link_count();
        Ok(Status { file, attributes: node.attributes, size, link_count, allocated_bytes: node.size })
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<Option<FileId>, ImageError> {
        self.require_directory(directory)?;
        Ok(self.namespace.lookup(directory, name))
    }

    fn read_directory(
        &self,
        directory: FileId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ImageError> {
        self.require_directory(directory)?;
        let children = self.namespace.children_after(directory, after).take(limit);
        children
            .map(|(name, file)| {
                Ok(DirectoryEntry { name: name.clone(), file, kind: self.node(file)?.attributes.kind })
            })
            .collect()
    }

    fn parent(&self, directory: FileId) -> Result<FileId, ImageError> {
        self.require_directory(directory)?;
        if directory == self.root {
            return Ok(directory);
        }
        self.namespace.parent(directory).ok_or(ImageError::NoSuchFile(directory))
    }

    fn read_link(&self, file: FileId) -> Result<Bytes, ImageError> {
        let node = self.node(file)?;
        if node.attributes.kind != FileKind::Symlink {
            return Err(ImageError::WrongKind { file, expected: "symbolic link" });
        }
        match self.shown_text(node) {
            Some(Shown::Retargeted(text)) => Ok(text),
            Some(Shown::AsRecorded | Shown::External) | None => Ok(node.target.clone()),
        }
    }

    fn list_xattrs(&self, file: FileId) -> Result<Vec<Bytes>, ImageError> {
        Ok(self.node(file)?.xattrs().map(|(name, _)| name.clone()).collect())
    }

    fn xattr(&self, file: FileId, name: &[u8]) -> Result<Option<Bytes>, ImageError> {
        Ok(self.node(file)?.xattr(name).cloned())
    }

    fn read_at(&self, file: FileId, offset_bytes: u64, buf: &mut [u8]) -> Result<usize, ImageError> {
        let size = self.regular_size(file)?;
        let len = (buf.len() as u64).min(size.saturating_sub(offset_bytes)) as usize;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(len as u64, Ordering::Relaxed);
        if len == 0 {
            return Ok(0);
        }
        let buf = &mut buf[..len];
        let first_page = offset_bytes / PAGE;
        let end_page = pages_of(offset_bytes + len as u64);
        for piece in &self.pages.locate(file, first_page, end_page - first_page)? {
            self.read_piece(file, offset_bytes, buf, piece)?;
        }
        Ok(len)
    }

    fn next_data(&self, file: FileId, offset_bytes: u64) -> Result<Option<u64>, ImageError> {
        let size = self.regular_size(file)?;
        if offset_bytes >= size {
            return Ok(None);
        }
        let page = self.pages.next_stored(file, offset_bytes / PAGE, pages_of(size))?;
        Ok(page.map(|page| offset_bytes.max(page * PAGE)))
    }

    fn next_hole(&self, file: FileId, offset_bytes: u64) -> Result<u64, ImageError> {
        let size = self.regular_size(file)?;
        let page = self.pages.next_unstored(file, offset_bytes / PAGE, pages_of(size))?;
        Ok(page.map_or(size, |page| offset_bytes.max(page * PAGE)).min(size))
    }

    fn external_links(&self) -> Result<Vec<(Bytes, Bytes)>, ImageError> {
        let mut links = Vec::new();
        for (file, node) in self.namespace.files() {
            if node.attributes.kind != FileKind::Symlink {
                continue;
            }
            for (name, path) in node.names().iter().zip(self.namespace.paths(file)) {
                if judge(&self.namespace, name.parent, &node.target) == Shown::External {
                    links.push((self.shown_path(path), node.target.clone()));
                }
            }
        }
        links.sort();
        Ok(links)
    }

    fn retarget(&self, directory: FileId, target: &[u8]) -> Result<Option<Bytes>, ImageError> {
        self.require_directory(directory)?;
        Ok(match judge(&self.namespace, directory, target) {
            Shown::Retargeted(text) => Some(text),
            Shown::AsRecorded | Shown::External => None,
        })
    }
}
