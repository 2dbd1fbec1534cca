//! What the writer tells the repository of its segments.

use std::path::PathBuf;

use super::{DamagedPlace, SegmentId};
use crate::types::{Mark, NamespaceChange, Position, Time};

/// A namespace change with its place in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesAt {
    pub position: Position,
    pub time: Time,
    pub change: NamespaceChange,
}

/// A mark with its place in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkAt {
    pub position: Position,
    pub time: Time,
    pub mark: Mark,
}

/// A segment that now takes changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentOpened {
    pub id: SegmentId,
    pub path: PathBuf,
    pub first_position: Position,
}

/// What a sealed segment holds, as its footer says.
///
/// `first_position <= last_position`, `first_time <= last_time`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentSummary {
    pub first_position: Position,
    pub last_position: Position,
    pub first_time: Time,
    pub last_time: Time,
    /// Changes of data, names and marks.
    pub data_changes: u64,
    pub names_changes: u64,
    pub marks: u64,
    /// Page versions in the index.
    pub page_versions: u64,
    /// Bytes of pages before compression, and of all records after it.
    pub captured_bytes: u64,
    pub record_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
}

/// A segment that is complete and durable, its name in the directory included; it never changes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    pub id: SegmentId,
    /// Relative to the disk's root.
    pub path: PathBuf,
    pub len_bytes: u64,
    /// BLAKE3 of the whole file.
    pub digest: [u8; 32],
    pub summary: SegmentSummary,
    /// All namespace changes in order.
    pub names: Vec<NamesAt>,
    /// All marks but barriers and heartbeats, in order.
    pub marks: Vec<MarkAt>,
    /// Where recovery found damage; positions from the first of them on are not to be offered until the
    /// next `CoverageBegin`.
    pub damaged: Vec<DamagedPlace>,
}

/// Why a segment could not be published. The writer then fails: a segment nobody can find is a loss.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct PublishError {
    pub cause: String,
}

/// Told of every segment, in order, from one thread at a time.
pub trait Publisher: Send {
    /// A new segment takes changes; the one before it is about to be sealed.
    fn opened(&mut self, segment: &SegmentOpened);

    /// A segment is complete: enter it in the manifest. Only after this returned are its changes visible.
    ///
    /// # Errors
    /// Whatever kept it from being published for good.
    fn sealed(&mut self, segment: SealedSegment) -> Result<(), PublishError>;
}
