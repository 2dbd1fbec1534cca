//! What a source holds, sealed: segments, snapshots, coverage, bookmarks; and its names at any position.

use std::sync::Arc;

use super::RepositoryError;
use crate::index::BlockCache;
use crate::journal::{DamagedPlace, MarkAt, SegmentId, SegmentReader, SegmentSummary};
use crate::namespace::Namespace;
use crate::types::{Position, Time};

/// A position and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Moment {
    pub position: Position,
    pub time: Time,
}

/// Positions that can be mounted, all of one epoch: `first <= p <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub first: Moment,
    pub last: Moment,
}

/// What lies between two ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last mountable moment before.
    pub after: Moment,
    /// The first mountable moment behind it; `None` if there is none yet.
    pub before: Option<Moment>,
    pub reason: String,
}

/// A point with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmark {
    pub name: String,
    pub at: Moment,
}

/// A published segment; all its positions are of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    pub id: SegmentId,
    pub len_bytes: u64,
    /// BLAKE3 of the whole file; `None` if the manifest that knew it was lost.
    pub digest: Option<[u8; 32]>,
    pub summary: SegmentSummary,
    /// Bookmarks, coverage, clock steps, clean stop; neither barriers nor heartbeats.
    pub marks: Vec<MarkAt>,
    /// Where recovery found damage when it sealed the segment.
    pub damaged: Vec<DamagedPlace>,
}

/// A published snapshot of the names: they stand as after `position`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    pub position: Position,
    pub len_bytes: u64,
}

/// A source as it was sealed at one moment. Never changes; take a new one to see more.
pub struct History {
    segments: Vec<SegmentEntry>,
    ranges: Vec<Range>,
    gaps: Vec<Gap>,
    bookmarks: Vec<Bookmark>,
    damages: Vec<String>,
    cache: Arc<BlockCache>,
}

impl History {
    /// The cache of index blocks that this history's segments share.
    #[must_use]
    pub fn cache(&self) -> &Arc<BlockCache> {
        &self.cache
    }

    /// The reader of `segments()[index]`, opened when first asked for.
    ///
    /// # Errors
    /// `RepositoryError::Journal` names what is missing or damaged.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn segment(&self, index: usize) -> Result<Arc<SegmentReader>, RepositoryError> {
        let _ = index;
        panic!("not built yet")
    }

    /// How many of `segments()` begin at or before `position`: those that a view at it reads, the last first.
    #[must_use]
    pub fn segments_before(&self, position: Position) -> usize {
        self.segments.partition_point(|segment| segment.summary.first_position <= position)
    }

    /// Published segments, ascending by position.
    #[must_use]
    pub fn segments(&self) -> &[SegmentEntry] {
        &self.segments
    }

    /// Mountable ranges, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Ascending by position.
    #[must_use]
    pub fn bookmarks(&self) -> &[Bookmark] {
        &self.bookmarks
    }

    /// What was found damaged and worked around while reading this history, in words.
    #[must_use]
    pub fn damages(&self) -> &[String] {
        &self.damages
    }

    /// The last recorded position, mountable or not; `Position::ZERO` if nothing is sealed.
    #[must_use]
    pub fn end(&self) -> Position {
        self.segments.last().map_or(Position::ZERO, |segment| segment.summary.last_position)
    }

    /// Names, attributes, sizes as they stood at `position`, covered or not.
    ///
    /// # Errors
    /// `RepositoryError::NamesLost` names the segment and what is wrong with it.
    pub fn namespace_at(&self, position: Position) -> Result<Namespace, RepositoryError> {
        let _ = position;
        panic!("not built yet")
    }
}
