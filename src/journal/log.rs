//! The journal's single-threaded core: gives positions and times, fills segments, syncs and seals them.

use std::path::PathBuf;
use std::sync::Arc;

use super::{JournalError, JournalIdentity, Publisher};
use crate::io::{Clock, Disk};
use crate::types::{ChangeBody, Epoch, Position, Time};

/// How far above every position ever seen a new epoch begins. The log never gives a position this far above
/// the durable one, so no position is ever given twice.
pub const EPOCH_GAP: u64 = 1 << 20;

/// How a log fills its segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment is sealed before it grows beyond this.
    pub segment_bytes: u64,
    pub zstd_level: i32,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { segment_bytes: 256 << 20, zstd_level: 1 }
    }
}

/// Where a new life of a source's journal begins, as recovery found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogState {
    pub identity: JournalIdentity,
    /// The directory of segments, relative to the disk's root.
    pub directory: PathBuf,
    /// Never used before.
    pub epoch: Epoch,
    /// Above every position ever given.
    pub first_position: Position,
    /// No time before this one is given.
    pub last_time: Time,
}

/// A journal without threads; what it does depends on its inputs alone.
///
/// `durable_position() <= written_position()`. After an error it is poisoned: every later call fails.
pub struct Log {}

impl Log {
    /// Begins an epoch. Nothing is created before the first change.
    ///
    /// # Errors
    /// `JournalError::Storage`.
    pub fn start(
        _disk: Arc<dyn Disk>,
        _clock: Arc<dyn Clock>,
        _publisher: Box<dyn Publisher>,
        _state: LogState,
        _config: LogConfig,
    ) -> Result<Log, JournalError> {
        panic!("not yet written")
    }

    /// Gives the change its position and time and puts its records into the buffer.
    ///
    /// # Errors
    /// `JournalError::Malformed` leaves the log as it was; others poison it.
    pub fn append(&mut self, _change: &ChangeBody) -> Result<Position, JournalError> {
        panic!("not yet written")
    }

    /// Hands what is buffered to the disk, without syncing.
    ///
    /// # Errors
    /// `JournalError::Storage`.
    pub fn write(&mut self) -> Result<(), JournalError> {
        panic!("not yet written")
    }

    /// Makes everything appended durable; returns the durable position.
    ///
    /// # Errors
    /// `JournalError::Storage`.
    pub fn sync(&mut self) -> Result<Position, JournalError> {
        panic!("not yet written")
    }

    /// Seals and publishes the open segment, if it holds a change; returns the last published position.
    ///
    /// # Errors
    /// `JournalError::Storage`, `JournalError::Publish`.
    pub fn seal(&mut self) -> Result<Position, JournalError> {
        panic!("not yet written")
    }

    #[must_use]
    pub fn durable_position(&self) -> Position {
        panic!("not yet written")
    }

    /// The last position given.
    #[must_use]
    pub fn written_position(&self) -> Position {
        panic!("not yet written")
    }
}
