//! Reading an overlay: bytes from log and image, holes, and the merged names of a directory.

use std::ops::Bound;

use bytes::Bytes;

use super::Overlay;
use super::extents::Content;
use super::state::Node;
use crate::types::{DirectoryEntry, FileId, FileKind, Image, ImageError, PAGE_BYTES, Status, pages_of};

/// Names asked from the image at a time.
const NAMES_BATCH: usize = 1024;

/// A span of bytes that comes from one place. Offsets are those of the file.
struct Piece {
    start: u64,
    end: u64,
    content: Content,
}

impl Overlay {
    /// Where the bytes from `start` to `end` come from; `None` if the whole file is the image's.
    fn pieces(
        &self,
        file: FileId,
        start: u64,
        len: usize,
        beyond_size: bool,
    ) -> Option<Result<Vec<Piece>, ImageError>> {
        let state = self.state.read();
        let node = state.nodes.get(&file)?;
        if node.attributes.kind != FileKind::Regular {
            return Some(Err(ImageError::WrongKind { file, expected: "regular file" }));
        }
        let limit = if beyond_size { u64::MAX } else { node.size };
        let end = start.saturating_add(len as u64).min(limit);
        Some(Ok(split_by_content(node, start, end)))
    }

    /// As [`Image::read_at`]; with `beyond_size` bytes after the end read as the zeros that they are.
    pub(super) fn read_bytes(
        &self,
        file: FileId,
        offset_bytes: u64,
        buf: &mut [u8],
        beyond_size: bool,
    ) -> Result<usize, ImageError> {
        let Some(pieces) = self.pieces(file, offset_bytes, buf.len(), beyond_size) else {
            let read = self.base.read_at(file, offset_bytes, buf)?;
            if beyond_size {
                buf[read..].fill(0);
                return Ok(buf.len());
            }
            return Ok(read);
        };
        let mut done = 0;
        for piece in pieces? {
            let part = &mut buf[done..done + (piece.end - piece.start) as usize];
            done += part.len();
            match piece.content {
                Content::Zero => part.fill(0),
                Content::Base => {
                    let read = self.base.read_at(file, piece.start, part)?;
                    part[read..].fill(0);
                }
                Content::Log(_) => self.read_log_piece(file, &piece, part)?,
            }
        }
        Ok(done)
    }

    fn read_log_piece(&self, file: FileId, piece: &Piece, part: &mut [u8]) -> Result<(), ImageError> {
        let Content::Log(place) = piece.content else { return Ok(()) };
        let page_bytes = PAGE_BYTES as u64;
        let first_page = piece.start / page_bytes;
        if piece.start.is_multiple_of(page_bytes) && part.len().is_multiple_of(PAGE_BYTES) {
            return self.log.read_pages(file, first_page, place, part);
        }
        let mut pages = vec![0; (pages_of(piece.end) - first_page) as usize * PAGE_BYTES];
        self.log.read_pages(file, first_page, place, &mut pages)?;
        let skip = (piece.start % page_bytes) as usize;
        part.copy_from_slice(&pages[skip..skip + part.len()]);
        Ok(())
    }
}

/// `content` of each piece stands for the page that holds its start.
fn split_by_content(node: &Node, start: u64, end: u64) -> Vec<Piece> {
    let page_bytes = PAGE_BYTES as u64;
    let mut pieces = Vec::new();
    let mut at = start;
    while at < end {
        let page = at / page_bytes;
        let (count, content) = node.extents.run_at(page, pages_of(end) - page);
        let piece_end = (page + count).saturating_mul(page_bytes).min(end);
        pieces.push(Piece { start: at, end: piece_end, content });
        at = piece_end;
    }
    pieces
}

impl Image for Overlay {
    fn root(&self) -> FileId {
        self.base.root()
    }

    fn status(&self, file: FileId) -> Result<Status, ImageError> {
        let mut status = match self.state.read().nodes.get(&file) {
            Some(node) => node.status(file),
            None => return self.base.status(file),
        };
        if status.attributes.kind == FileKind::Symlink {
            // As it is shown, not as it was given: programs read links into a buffer of this size.
            status.size = self.read_link(file)?.len() as u64;
        }
        Ok(status)
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<Option<FileId>, ImageError> {
        let state = self.state.read();
        if let Some(change) = state.names.get(&directory).and_then(|names| names.get(name)) {
            return Ok(change.map(|(file, _)| file));
        }
        match state.nodes.get(&directory) {
            Some(node) if node.attributes.kind != FileKind::Directory => {
                Err(ImageError::WrongKind { file: directory, expected: "directory" })
            }
            Some(node) if !node.in_base => Ok(None),
            _ => {
                drop(state);
                self.base.lookup(directory, name)
            }
        }
    }

    fn read_directory(
        &self,
        directory: FileId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ImageError> {
        let state = self.state.read();
        let node = state.nodes.get(&directory);
        if node.is_some_and(|node| node.attributes.kind != FileKind::Directory) {
            return Err(ImageError::WrongKind { file: directory, expected: "directory" });
        }
        let Some(changes) = state.names.get(&directory) else {
            if node.is_some_and(|node| !node.in_base) {
                return Ok(Vec::new());
            }
            drop(state);
            return self.base.read_directory(directory, after, limit);
        };
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut changed = changes.range::<[u8], _>((start, Bound::Unbounded)).peekable();
        let mut entries = Vec::new();
        let mut base_after = after.map(Bytes::copy_from_slice);
        let mut base_is_done = !state.in_base(directory);
        while entries.len() < limit {
            let batch = if base_is_done {
                Vec::new()
            } else {
                self.base.read_directory(directory, base_after.as_deref(), limit.min(NAMES_BATCH))?
            };
            base_is_done = batch.is_empty();
            for entry in batch {
                while let Some((name, change)) = changed.next_if(|(name, _)| **name < entry.name) {
                    push_entry(&mut entries, name, *change);
                }
                match changed.next_if(|(name, _)| **name == entry.name) {
                    Some((name, change)) => push_entry(&mut entries, name, *change),
                    None => entries.push(entry.clone()),
                }
                base_after = Some(entry.name);
            }
            if base_is_done {
                for (name, change) in changed.by_ref().take(limit) {
                    push_entry(&mut entries, name, *change);
                }
                if changed.peek().is_none() {
                    break;
                }
            }
        }
        entries.truncate(limit);
        Ok(entries)
    }

    fn parent(&self, directory: FileId) -> Result<FileId, ImageError> {
        self.state.read().parent(self.base.as_ref(), directory)
    }

    fn read_link(&self, file: FileId) -> Result<Bytes, ImageError> {
        let state = self.state.read();
        match state.nodes.get(&file) {
            Some(node) if node.attributes.kind != FileKind::Symlink => {
                Err(ImageError::WrongKind { file, expected: "symbolic link" })
            }
            Some(node) if !node.in_base => {
                let (target, directory) = (node.target.clone(), state.parents.get(&file).copied());
                drop(state);
                let retargeted = self.retarget(directory.unwrap_or_else(|| self.root()), &target)?;
                Ok(retargeted.unwrap_or(target))
            }
            _ => {
                drop(state);
                self.base.read_link(file)
            }
        }
    }

    fn list_xattrs(&self, file: FileId) -> Result<Vec<Bytes>, ImageError> {
        let state = self.state.read();
        let Some(node) = state.nodes.get(&file) else {
            drop(state);
            return self.base.list_xattrs(file);
        };
        let mut names = if node.in_base { self.base.list_xattrs(file)? } else { Vec::new() };
        names.retain(|name| !node.xattrs.contains_key(name));
        names.extend(node.xattrs.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name.clone()));
        names.sort();
        Ok(names)
    }

    fn xattr(&self, file: FileId, name: &[u8]) -> Result<Option<Bytes>, ImageError> {
        let state = self.state.read();
        match state.nodes.get(&file) {
            Some(node) => match node.xattrs.get(name) {
                Some(value) => Ok(value.clone()),
                None if node.in_base => self.base.xattr(file, name),
                None => Ok(None),
            },
            None => {
                drop(state);
                self.base.xattr(file, name)
            }
        }
    }

    fn read_at(&self, file: FileId, offset_bytes: u64, buf: &mut [u8]) -> Result<usize, ImageError> {
        self.read_bytes(file, offset_bytes, buf, false)
    }

    fn next_data(&self, file: FileId, offset_bytes: u64) -> Result<Option<u64>, ImageError> {
        let mut at = offset_bytes;
        let Some((size, pieces)) = self.pieces_to_end(file, at) else {
            return self.base.next_data(file, at);
        };
        for piece in pieces? {
            at = at.max(piece.start);
            match piece.content {
                Content::Log(_) => return Ok(Some(at)),
                Content::Zero => {}
                Content::Base => {
                    if let Some(data) = self.base.next_data(file, at)?
                        && data < piece.end.min(size)
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
        Ok(None)
    }

    fn next_hole(&self, file: FileId, offset_bytes: u64) -> Result<u64, ImageError> {
        let mut at = offset_bytes;
        let Some((size, pieces)) = self.pieces_to_end(file, at) else {
            return self.base.next_hole(file, at);
        };
        for piece in pieces? {
            at = at.max(piece.start);
            match piece.content {
                Content::Zero => return Ok(at),
                Content::Log(_) => {}
                Content::Base => {
                    let hole = self.base.next_hole(file, at)?;
                    if hole < piece.end {
                        return Ok(hole);
                    }
                }
            }
        }
        Ok(size)
    }

    fn external_links(&self) -> Result<Vec<(Bytes, Bytes)>, ImageError> {
        self.base.external_links()
    }

    fn retarget(&self, directory: FileId, target: &[u8]) -> Result<Option<Bytes>, ImageError> {
        // The image does not know where directories were made or moved here: let it answer as seen from the
        // root, and climb to the root first.
        let Some(from_root) = self.base.retarget(self.root(), target)? else { return Ok(None) };
        let mut climbed = Vec::new();
        for _ in 0..self.depth(directory)? {
            climbed.extend_from_slice(b"../");
        }
        climbed.extend_from_slice(&from_root);
        Ok(Some(Bytes::from(climbed)))
    }
}

impl Overlay {
    /// Number of directories between this one and the root.
    pub(super) fn depth(&self, directory: FileId) -> Result<usize, ImageError> {
        let state = self.state.read();
        let (mut depth, mut at) = (0, directory);
        while at != self.base.root() {
            at = state.parent(self.base.as_ref(), at)?;
            depth += 1;
        }
        Ok(depth)
    }

    fn pieces_to_end(&self, file: FileId, start: u64) -> Option<(u64, Result<Vec<Piece>, ImageError>)> {
        let size = self.state.read().nodes.get(&file)?.size;
        let len = usize::try_from(size.saturating_sub(start)).unwrap_or(usize::MAX);
        Some((size, self.pieces(file, start, len, false)?))
    }
}

fn push_entry(entries: &mut Vec<DirectoryEntry>, name: &Bytes, change: super::state::NameChange) {
    if let Some((file, kind)) = change {
        entries.push(DirectoryEntry { name: name.clone(), file, kind });
    }
}
