//! Makes a segment that was open when its writer died whole again: cuts what was never durable, reports what
//! is damaged, and seals it.

use std::path::Path;

use super::{DamagedPlace, JournalError, JournalIdentity, SealedSegment, SegmentId};
use crate::io::Disk;
use crate::types::{Position, Time};

/// What recovery made of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The segment, now sealed (or found sealed); `None` if it held no change and was removed.
    pub segment: Option<SealedSegment>,
    /// The last position kept; `Position::ZERO` if there is none.
    pub durable_position: Position,
    /// The highest position seen anywhere in the file, whether kept or not.
    pub highest_position: Position,
    pub last_time: Time,
    /// Bytes of a torn tail that were cut: what was never durable.
    pub discarded_bytes: u64,
    /// Whole changes within that tail.
    pub discarded_changes: u64,
    /// Places that were durable once and fail their checksums now. They stay in the file.
    pub damaged: Vec<DamagedPlace>,
    /// Whether the last change kept is a clean stop.
    pub clean_stop: bool,
}

/// Recovers segment `id` at `path`. `next_first_position` is the first position of the next segment of the
/// same epoch if there is one: everything below it was durable. Safe to repeat after a crash in the middle.
///
/// # Errors
/// `JournalError::Storage`, `JournalError::NewerVersion`, `JournalError::Foreign`; damage is no error.
pub fn recover_open_segment(
    _disk: &dyn Disk,
    _path: &Path,
    _identity: &JournalIdentity,
    _id: SegmentId,
    _next_first_position: Option<Position>,
) -> Result<Recovered, JournalError> {
    panic!("not yet written")
}
