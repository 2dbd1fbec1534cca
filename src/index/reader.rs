//! Answers questions from an encoded index, block by block.

use std::sync::Arc;

use super::block::{self, Block, Key, Kind};
use super::builder::time_from_ordered;
use super::tree::{Blocks, Cursor};
use super::{
    BlockCache, BlockSource, Content, END_OF_FILE, Entry, Found, IndexError, IndexRoot, Location, SizeVersion,
};
use crate::types::{FileId, Position};

/// An encoded index. Opening it reads nothing; every call may read blocks, from any thread.
pub struct Index {
    root: IndexRoot,
    blocks: Blocks,
}

impl Index {
    /// The index with this root and the seed it was encoded with.
    #[must_use]
    pub fn new(source: Arc<dyn BlockSource>, root: IndexRoot, seed: u64, cache: Arc<BlockCache>) -> Index {
        Index { root, blocks: Blocks::new(source, seed, root.block_count, cache) }
    }

    #[must_use]
    pub fn root(&self) -> &IndexRoot {
        &self.root
    }

    /// Appends to `found` what pages `first_page .. first_page + count` hold at `at`: the newest version at or
    /// before it in this segment, in page order, without gaps or overlaps, [`super::Content::Absent`] included.
    ///
    /// # Errors
    /// `IndexError` if a block is damaged or cannot be read; `found` may have grown.
    pub fn lookup(
        &self,
        file: FileId,
        first_page: u64,
        count: u64,
        at: Position,
        found: &mut Vec<Found>,
    ) -> Result<(), IndexError> {
        let end_page = first_page.saturating_add(count);
        let mut cursor = self.root.pages.map(|root| Cursor::new(&self.blocks, root, Kind::Pages));
        let mut page = first_page;
        while page < end_page {
            let (piece_end, content) = match &mut cursor {
                Some(cursor) => content_at(cursor, file, page, at)?,
                None => (END_OF_FILE, Content::Absent),
            };
            let piece_end = piece_end.min(end_page);
            found.push(Found { first_page: page, count: piece_end - page, content });
            page = piece_end;
        }
        Ok(())
    }

    /// What `page` holds at `at`, and how many pages from it on, at least, this segment says the same of: one
    /// step of [`Index::lookup`], for who searches ranges too long to list.
    ///
    /// # Errors
    /// As [`Index::lookup`].
    pub fn piece_at(&self, file: FileId, page: u64, at: Position) -> Result<Found, IndexError> {
        let (end_page, content) = match self.root.pages {
            Some(root) => content_at(&mut Cursor::new(&self.blocks, root, Kind::Pages), file, page, at)?,
            None => (END_OF_FILE, Content::Absent),
        };
        Ok(Found { first_page: page, count: end_page.saturating_sub(page).max(1), content })
    }

    /// The newest size of `file` at or before `at`; `None` if this segment has none.
    ///
    /// # Errors
    /// As [`Index::lookup`].
    pub fn size_at(&self, file: FileId, at: Position) -> Result<Option<SizeVersion>, IndexError> {
        let Some(root) = self.root.sizes else { return Ok(None) };
        let mut cursor = Cursor::new(&self.blocks, root, Kind::Sizes);
        cursor.seek(Key { file: file.0, page: 0, position: at.0 })?;
        if !cursor.settle()? {
            return Ok(None);
        }
        Ok(cursor
            .leaf()
            .filter(|(leaf, row)| leaf.key(*row).file == file.0)
            .map(|(leaf, row)| size_of_row(leaf, row)))
    }

    /// The newest size at or before `at` of each file that has one in this segment, files ascending. Skips
    /// over the versions between; the cost grows with the number of files.
    #[must_use]
    pub fn sizes_at(&self, at: Position) -> Sizes<'_> {
        let cursor = self.root.sizes.map(|root| Cursor::new(&self.blocks, root, Kind::Sizes));
        Sizes { cursor, at, next_file: Some(0) }
    }

    /// All versions of pages: files and pages ascending, positions descending.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        let cursor = self.root.pages.map(|root| Cursor::new(&self.blocks, root, Kind::Pages));
        Entries { cursor, started: false }
    }

    /// Checks every block, and that together they are the trees they should be. Empty if all is well.
    #[must_use]
    pub fn verify(&self) -> Vec<IndexError> {
        let blocks = 0..self.root.block_count;
        let mut errors: Vec<_> = blocks.filter_map(|number| self.blocks.read(number).err()).collect();
        if errors.is_empty() {
            for (root, kind) in [(self.root.pages, Kind::Pages), (self.root.sizes, Kind::Sizes)] {
                let Some(root) = root else { continue };
                let mut cursor = Cursor::new(&self.blocks, root, kind);
                let walked = walk(&mut cursor).and_then(|rows| {
                    let expected = rows == root.rows;
                    if expected {
                        Ok(())
                    } else {
                        Err(cursor.damaged("its tree has not the rows it should have"))
                    }
                });
                errors.extend(walked.err());
            }
        }
        errors
    }
}

/// Visits every row in order and counts them.
fn walk(cursor: &mut Cursor<'_>) -> Result<u64, IndexError> {
    let mut rows = 0;
    let mut previous: Option<Key> = None;
    cursor.seek_first()?;
    while cursor.settle()? {
        let key = cursor.leaf().map(|(leaf, row)| leaf.key(row));
        if previous.is_some() && previous >= key {
            return Err(cursor.damaged("its rows are not after those of the block before"));
        }
        (previous, rows) = (key, rows + 1);
        cursor.next_row()?;
    }
    Ok(rows)
}

/// What `page` holds at `at`, and the end of the range from `page` on of which the same can be said.
fn content_at(
    cursor: &mut Cursor<'_>,
    file: FileId,
    page: u64,
    at: Position,
) -> Result<(u64, Content), IndexError> {
    let target = Key { file: file.0, page, position: at.0 };
    cursor.seek(target)?;
    let begins_here = |key: Key| key.file == file.0 && key.page == page;
    if cursor.leaf().is_some_and(|(leaf, row)| row == leaf.row_count())
        && cursor.next_leaf_key().is_some_and(begins_here)
    {
        cursor.settle()?;
    }
    let Some((leaf, row)) = cursor.leaf() else { return Ok((END_OF_FILE, Content::Absent)) };
    if row < leaf.row_count() && begins_here(leaf.key(row)) {
        return Ok((leaf.end_page(row), content_of_row(leaf, row, page)));
    }
    // The row before is the oldest of its range, if it has the page at all: no row between could be.
    if let Some(oldest) =
        row.checked_sub(1).filter(|&row| leaf.key(row).file == file.0 && page < leaf.end_page(row))
    {
        let range = leaf.key(oldest);
        let end_page = leaf.end_page(oldest);
        if range.page == page || range.position > at.0 {
            return Ok((end_page, Content::Absent));
        }
        let newest = Key { position: at.0, ..range };
        let in_leaf = leaf.first_at_or_after(newest);
        if in_leaf > 0 || leaf.key(0) == newest {
            return Ok((end_page, content_of_row(leaf, in_leaf, page)));
        }
        // The range began in a leaf before this one; its answer may be there too, but is not beyond this row.
        return content_of_long_range(cursor, newest, page);
    }
    let next = if row < leaf.row_count() { Some(leaf.key(row)) } else { cursor.next_leaf_key() };
    let absent_end = next.filter(|next| next.file == file.0).map_or(END_OF_FILE, |next| next.page);
    if absent_end <= page {
        return Err(cursor.damaged("its ranges overlap those of the block after it"));
    }
    Ok((absent_end, Content::Absent))
}

/// As [`content_at`], for a range known to have a version at or before `newest` and to hold `page`, whose
/// versions fill more than one leaf.
fn content_of_long_range(
    cursor: &mut Cursor<'_>,
    newest: Key,
    page: u64,
) -> Result<(u64, Content), IndexError> {
    cursor.seek(newest)?;
    cursor.settle()?;
    match cursor.leaf() {
        Some((leaf, row))
            if row < leaf.row_count()
                && (leaf.key(row).file, leaf.key(row).page) == (newest.file, newest.page)
                && page < leaf.end_page(row) =>
        {
            Ok((leaf.end_page(row), content_of_row(leaf, row, page)))
        }
        _ => Err(cursor.damaged("its ranges overlap those of the block after it")),
    }
}

/// The content of `page`, which is in the range of this row, and of the range's pages after it.
fn content_of_row(leaf: &Block, row: usize, page: u64) -> Content {
    let position = Position(leaf.value(block::POSITION, row));
    match record_of_row(leaf, row) {
        None => Content::Zeros { position },
        Some((location, first)) => {
            let skipped = page - leaf.value(block::PAGE, row);
            // A number beyond 32 bits can only come of damage; no record has such a page, so it reads as an error.
            let page_in_record = u32::try_from(skipped.saturating_add(u64::from(first))).unwrap_or(u32::MAX);
            Content::Pages { position, location, page_in_record }
        }
    }
}

fn record_of_row(leaf: &Block, row: usize) -> Option<(Location, u32)> {
    // Both were checked to fit 32 bits when the block was read.
    let len_bytes = leaf.value(block::LEN, row) as u32;
    let page_in_record = leaf.value(block::PAGE_IN_RECORD, row) as u32;
    let location = Location { offset_bytes: leaf.value(block::OFFSET, row), len_bytes };
    (len_bytes > 0).then_some((location, page_in_record))
}

fn size_of_row(leaf: &Block, row: usize) -> SizeVersion {
    let has_mtime = leaf.value(block::HAS_MTIME, row) != 0;
    SizeVersion {
        position: Position(leaf.value(block::POSITION, row)),
        size: leaf.value(block::SIZE, row),
        mtime: has_mtime.then(|| time_from_ordered(leaf.value(block::MTIME, row))),
    }
}

/// See [`Index::sizes_at`]. Ends after the first error.
pub struct Sizes<'a> {
    cursor: Option<Cursor<'a>>,
    at: Position,
    /// The least file that may come next; `None` at the end.
    next_file: Option<u64>,
}

impl Sizes<'_> {
    fn advance(&mut self) -> Result<Option<(FileId, SizeVersion)>, IndexError> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        while let Some(file) = self.next_file {
            cursor.seek(Key { file, page: 0, position: self.at.0 })?;
            if !cursor.settle()? {
                break;
            }
            let Some((leaf, row)) = cursor.leaf() else { break };
            let key = leaf.key(row);
            if key.file > file && key.position > self.at.0 {
                // A file's newest version is too new; an older one may do.
                self.next_file = Some(key.file);
                continue;
            }
            self.next_file = key.file.checked_add(1);
            return Ok(Some((FileId(key.file), size_of_row(leaf, row))));
        }
        Ok(None)
    }
}

impl Iterator for Sizes<'_> {
    type Item = Result<(FileId, SizeVersion), IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.advance().transpose();
        if !matches!(item, Some(Ok(_))) {
            self.cursor = None;
        }
        item
    }
}

/// See [`Index::entries`]. Ends after the first error.
pub struct Entries<'a> {
    cursor: Option<Cursor<'a>>,
    started: bool,
}

impl Entries<'_> {
    fn advance(&mut self) -> Result<Option<Entry>, IndexError> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        if self.started {
            cursor.next_row()?;
        } else {
            cursor.seek_first()?;
            self.started = true;
        }
        Ok(cursor.leaf().filter(|(leaf, row)| *row < leaf.row_count()).map(|(leaf, row)| Entry {
            file: FileId(leaf.value(block::FILE, row)),
            first_page: leaf.value(block::PAGE, row),
            end_page: leaf.end_page(row),
            position: Position(leaf.value(block::POSITION, row)),
            record: record_of_row(leaf, row),
        }))
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.advance().transpose();
        if !matches!(item, Some(Ok(_))) {
            self.cursor = None;
        }
        item
    }
}
