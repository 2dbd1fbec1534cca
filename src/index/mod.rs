//! The index of a segment (level 0): which record holds a page, and how large a file was, at any position.
//!
//! An index is a sequence of 4 KiB blocks, each checked and each naming itself, read one by one through a
//! shared cache and never loaded whole. `docs/disk-format.md` draws the blocks. Where the blocks lie in a
//! segment, and what a record is, belongs to `journal`.

mod block;
mod builder;
mod cache;
mod error;
mod fragments;
mod reader;
mod root;
mod source;
#[cfg(test)]
mod tests;
mod tree;

use crate::types::{FileId, Position, Time};

pub use builder::{EncodedIndex, IndexBuilder};
pub use cache::{BlockCache, BlockCacheStatistics};
pub use error::IndexError;
pub use reader::{Entries, Index, Sizes};
pub use root::{IndexRoot, TreeRoot};
pub use source::{BlockSource, FileRegion};

/// Bytes of every block of an index.
pub const BLOCK_BYTES: usize = 4096;

/// A page number above every page: as the end of a range, "to the end of the file, however long".
pub const END_OF_FILE: u64 = u64::MAX;

/// Where a record lies in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    pub offset_bytes: u64,
    /// At least 1.
    pub len_bytes: u32,
}

/// What a range of pages holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The bytes are in the record at `location`, from its page `page_in_record` on.
    Pages { position: Position, location: Location, page_in_record: u32 },
    /// The pages read as zeros, since `position` at the latest.
    Zeros { position: Position },
    /// This segment says nothing of these pages; older segments may.
    Absent,
}

/// The content of pages `first_page .. first_page + count` at one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub first_page: u64,
    /// At least 1.
    pub count: u64,
    pub content: Content,
}

/// A version of a range of pages, as the index stores it.
///
/// Ranges of one file's entries are equal or disjoint. A zero that follows a zero in this segment is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub file: FileId,
    pub first_page: u64,
    /// Exclusive; [`END_OF_FILE`] for a range without end.
    pub end_page: u64,
    pub position: Position,
    /// Location and first page of the record; `None` for zeros.
    pub record: Option<(Location, u32)>,
}

/// A file's size from `position` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeVersion {
    pub position: Position,
    pub size: u64,
    /// The newest modification time that came with a size in this segment; `None` if none did.
    pub mtime: Option<Time>,
}
