//! What a source holds, sealed: segments, snapshots, coverage, bookmarks; and its readers.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use lru::LruCache;
use parking_lot::Mutex;

use super::coverage::Coverage;
use super::manifest::State;
use super::source::Source;
use super::{RepositoryError, coverage};
use crate::index::BlockCache;
use crate::io::Lock;
use crate::journal::{DamagedPlace, MarkAt, SegmentId, SegmentReader, SegmentSummary};
use crate::types::{Mark, Position, Time};

/// The newest segments stay open once they are, each with one file descriptor: every read passes them.
const NEWEST_SEGMENTS: usize = 512;
/// Of the older ones, so many are kept open.
const OLDER_SEGMENTS_OPEN: usize = 64;

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

/// Where mountable positions end within a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// The first position that is not mountable.
    pub position: Position,
    /// The last change before it; `None` if it is not in this segment.
    pub last: Option<Moment>,
    pub reason: String,
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
    /// Ascending by position.
    pub breaks: Vec<Break>,
    /// Where recovery found damage when it sealed the segment.
    pub damaged: Vec<DamagedPlace>,
}

impl SegmentEntry {
    /// The first change.
    #[must_use]
    pub fn first(&self) -> Moment {
        Moment { position: self.summary.first_position, time: self.summary.first_time }
    }

    /// The last change.
    #[must_use]
    pub fn last(&self) -> Moment {
        Moment { position: self.summary.last_position, time: self.summary.last_time }
    }
}

/// A published snapshot of the names: they stand as after `position`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    pub position: Position,
    pub len_bytes: u64,
    /// The tree starts anew here because names before were lost; nothing before leads to it.
    pub reset: bool,
}

/// A source as it was sealed at one moment. Never changes; take a new one to see more.
///
/// Segments ascend by position and do not overlap; nothing that this names is removed while it lives.
pub struct History {
    source: Source,
    segments: Vec<SegmentEntry>,
    snapshots: Vec<SnapshotEntry>,
    coverage: Coverage,
    bookmarks: Vec<Bookmark>,
    damages: Vec<String>,
    cache: Arc<BlockCache>,
    /// One for each of the newest segments.
    newest: Vec<OnceLock<Arc<SegmentReader>>>,
    older: Mutex<LruCache<usize, Arc<SegmentReader>>>,
    _lease: Option<Lock>,
}

impl History {
    pub(super) fn new(
        source: Source,
        state: &State,
        damages: Vec<String>,
        cache: Arc<BlockCache>,
        lease: Option<Lock>,
    ) -> History {
        let segments: Vec<_> = state.segments.values().cloned().collect();
        let bookmarks = segments
            .iter()
            .flat_map(|segment| &segment.marks)
            .filter_map(|mark| match &mark.mark {
                Mark::Bookmark { name } => Some(Bookmark {
                    name: name.clone(),
                    at: Moment { position: mark.position, time: mark.time },
                }),
                _ => None,
            })
            .collect();
        let older_max = std::num::NonZeroUsize::new(OLDER_SEGMENTS_OPEN).expect("a positive constant");
        History {
            source,
            coverage: coverage::of(&segments),
            snapshots: state.snapshots.values().cloned().collect(),
            newest: (0..segments.len().min(NEWEST_SEGMENTS)).map(|_| OnceLock::new()).collect(),
            older: Mutex::new(LruCache::new(older_max)),
            segments,
            bookmarks,
            damages,
            cache,
            _lease: lease,
        }
    }

    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The cache of index blocks that this history's segments share.
    #[must_use]
    pub fn cache(&self) -> &Arc<BlockCache> {
        &self.cache
    }

    /// Published segments, ascending by position.
    #[must_use]
    pub fn segments(&self) -> &[SegmentEntry] {
        &self.segments
    }

    /// Published snapshots of the names, ascending by position.
    #[must_use]
    pub fn snapshots(&self) -> &[SnapshotEntry] {
        &self.snapshots
    }

    /// How many of `segments()` begin at or before `position`: those that a view at it reads, the last first.
    #[must_use]
    pub fn segments_before(&self, position: Position) -> usize {
        self.segments.partition_point(|segment| segment.summary.first_position <= position)
    }

    /// The first of `segments()` that a view at `position` may need: the tree may have started anew since the
    /// beginning, and no file behind such a reset has pages before it.
    #[must_use]
    pub fn segments_from(&self, position: Position) -> usize {
        let reset = self.snapshots.iter().rfind(|snapshot| snapshot.reset && snapshot.position <= position);
        reset.map_or(0, |reset| self.segments_before(reset.position))
    }

    /// The reader of `segments()[index]`, opened when first asked for and kept open for a while.
    ///
    /// # Errors
    /// `RepositoryError::Journal` names what is missing or damaged.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn segment(&self, index: usize) -> Result<Arc<SegmentReader>, RepositoryError> {
        let id = self.segments[index].id;
        let older = self.segments.len() - self.newest.len();
        // Opened outside the lock, so that a slow file does not hold up the readers of others.
        if let Some(kept) = index.checked_sub(older) {
            if let Some(reader) = self.newest[kept].get() {
                return Ok(reader.clone());
            }
            let reader = Arc::new(self.source.open_segment(id, &self.cache)?);
            return Ok(self.newest[kept].get_or_init(|| reader).clone());
        }
        if let Some(reader) = self.older.lock().get(&index) {
            return Ok(reader.clone());
        }
        let reader = Arc::new(self.source.open_segment(id, &self.cache)?);
        self.older.lock().put(index, reader.clone());
        Ok(reader)
    }

    /// Mountable ranges, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.coverage.ranges
    }

    /// What lies between and behind the ranges, ascending.
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        &self.coverage.gaps
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
        let segment = self.segments.last().map_or(Position::ZERO, |segment| segment.summary.last_position);
        let snapshot = self.snapshots.last().map_or(Position::ZERO, |snapshot| snapshot.position);
        segment.max(snapshot)
    }

    /// The time of a recorded position.
    ///
    /// # Errors
    /// `RepositoryError::Journal` if the segment that holds it is damaged; `Ok(None)` if none holds it.
    pub fn time_of(&self, position: Position) -> Result<Option<Time>, RepositoryError> {
        let Some(index) = self.segments_before(position).checked_sub(1) else { return Ok(None) };
        let entry = &self.segments[index];
        if position > entry.summary.last_position {
            return Ok(None);
        }
        if position == entry.summary.last_position {
            return Ok(Some(entry.summary.last_time));
        }
        let times =
            self.segment(index)?.times().map_err(|error| self.source.journal_error(entry.id, error))?;
        Ok(times.time_of(position))
    }

    /// How a person finds a segment on disk.
    #[must_use]
    pub fn segment_path(&self, id: SegmentId) -> PathBuf {
        self.source.segment_path(id)
    }
}
