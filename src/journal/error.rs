//! What can go wrong with a segment, in words for the person who has to act.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::SegmentId;
use crate::types::Position;

/// A stretch of a segment whose bytes cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPlace {
    pub segment: SegmentId,
    /// Which part of the segment, such as `record` or `footer`.
    pub what: String,
    pub offset_bytes: u64,
    pub len_bytes: u64,
    /// Changes whose content is lost with it, first and last; `None` if no change is.
    pub positions: Option<(Position, Position)>,
    /// Reading the pages lost fails, and everything else is right. If not, nobody knows which files the
    /// changes lost were of, and views at or after them would show wrong bytes.
    pub contained: bool,
}

impl fmt::Display for DamagedPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of segment {} at byte {}", self.what, self.segment, self.offset_bytes)?;
        match self.positions {
            Some((first, last)) if first == last => write!(f, " (change {first})"),
            Some((first, last)) => write!(f, " (changes {first} to {last})"),
            None => Ok(()),
        }
    }
}

/// Why the journal could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// Bytes fail their checksum or contradict each other; nothing else is returned in their stead.
    #[error("{0} is damaged")]
    Damaged(DamagedPlace),
    #[error("{path} has format version {version}, this program reads up to {supported}; use a newer pitgate")]
    NewerVersion { path: String, version: u32, supported: u32 },
    /// A sound segment that belongs elsewhere.
    #[error("{path} is not segment {expected} of this source; it was moved or copied here")]
    Foreign { path: String, expected: SegmentId },
    #[error("segment {segment} is still open; it can be read once it is sealed")]
    NotSealed { segment: SegmentId },
    #[error("cannot {action} {what}")]
    Storage {
        action: &'static str,
        what: String,
        #[source]
        source: Arc<io::Error>,
    },
    /// The log failed before and is not usable any more.
    #[error("the journal failed and takes no more changes: {cause}")]
    Poisoned { cause: String },
    #[error("a change that breaks its own rules was refused: {what}")]
    Malformed { what: &'static str },
    #[error("cannot publish segment {segment}: {cause}")]
    Publish { segment: SegmentId, cause: String },
}

impl JournalError {
    pub(super) fn storage(action: &'static str, what: impl Into<String>, source: io::Error) -> JournalError {
        JournalError::Storage { action, what: what.into(), source: Arc::new(source) }
    }

    /// The error and its source in one line, for where only text can be kept.
    pub(super) fn in_full(&self) -> String {
        match self {
            JournalError::Storage { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}
