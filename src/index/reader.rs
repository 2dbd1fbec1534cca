//! Answers questions from an encoded index, block by block.

use std::sync::Arc;

use super::{BlockCache, BlockSource, Entry, Found, IndexError, IndexRoot, SizeVersion};
use crate::types::{FileId, Position};

/// An encoded index. Opening it reads nothing; every call may read blocks, from any thread.
pub struct Index {
    root: IndexRoot,
}

impl Index {
    /// The index with this root and the seed it was encoded with.
    #[must_use]
    pub fn new(_source: Arc<dyn BlockSource>, root: IndexRoot, _seed: u64, _cache: Arc<BlockCache>) -> Index {
        Index { root }
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
        _file: FileId,
        _first_page: u64,
        _count: u64,
        _at: Position,
        _found: &mut Vec<Found>,
    ) -> Result<(), IndexError> {
        panic!("not written yet");
    }

    /// The newest size of `file` at or before `at`; `None` if this segment has none.
    ///
    /// # Errors
    /// As [`Index::lookup`].
    pub fn size_at(&self, _file: FileId, _at: Position) -> Result<Option<SizeVersion>, IndexError> {
        panic!("not written yet");
    }

    /// The newest size at or before `at` of each file that has one in this segment, files ascending. Skips
    /// over the versions between; the cost grows with the number of files.
    #[must_use]
    pub fn sizes_at(&self, at: Position) -> Sizes<'_> {
        Sizes { _index: self, _at: at }
    }

    /// All versions of pages: files and pages ascending, positions descending.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        Entries { _index: self }
    }

    /// Checks every block, and that together they are a tree. Empty if all is well.
    #[must_use]
    pub fn verify(&self) -> Vec<IndexError> {
        panic!("not written yet");
    }
}

/// See [`Index::sizes_at`]. Ends after the first error.
pub struct Sizes<'a> {
    _index: &'a Index,
    _at: Position,
}

impl Iterator for Sizes<'_> {
    type Item = Result<(FileId, SizeVersion), IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        panic!("not written yet");
    }
}

/// See [`Index::entries`]. Ends after the first error.
pub struct Entries<'a> {
    _index: &'a Index,
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        panic!("not written yet");
    }
}
