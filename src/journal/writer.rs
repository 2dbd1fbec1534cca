//! The journal with its threads: a short critical section for callers, compression and storage elsewhere.

use std::sync::Arc;
use std::time::Duration;

use super::{JournalError, LogConfig, LogState, Publisher};
use crate::io::{Clock, Disk};
use crate::types::{ChangeBody, ChangeSink, Position, SinkError, WriterStatus};

/// What a commit waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Until the journal is synced: what an application synced survives a loss of power.
    #[default]
    Fsync,
    /// For nothing. A kill or loss of power loses up to `sync_interval` and what is in the queue.
    Async,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterConfig {
    pub log: LogConfig,
    pub durability: Durability,
    /// A segment with changes is sealed at this age.
    pub seal_age: Duration,
    /// What nobody commits is synced after this long.
    pub sync_interval: Duration,
    /// Bytes of pages on their way to storage before `append` waits.
    pub queue_bytes: u64,
    /// Threads that compress, beside the one that writes.
    pub compress_threads: usize,
}

impl Default for WriterConfig {
    fn default() -> WriterConfig {
        WriterConfig {
            log: LogConfig::default(),
            durability: Durability::Fsync,
            seal_age: Duration::from_secs(300),
            sync_interval: Duration::from_secs(1),
            queue_bytes: 64 << 20,
            compress_threads: 2,
        }
    }
}

/// The writing end of a source's journal. Dropping it without [`Writer::close`] is like a kill: what was not
/// durable may be lost, and no clean stop is recorded.
pub struct Writer {}

impl Writer {
    /// Starts the threads of a new epoch. Nothing is created before the first change.
    ///
    /// # Errors
    /// `JournalError::Storage`.
    pub fn start(
        _config: WriterConfig,
        _state: LogState,
        _disk: Arc<dyn Disk>,
        _clock: Arc<dyn Clock>,
        _publisher: Box<dyn Publisher>,
    ) -> Result<Writer, JournalError> {
        panic!("not yet written")
    }

    /// Records a clean stop, seals and publishes what is open and ends the threads; returns the position of
    /// the stop. Calls after it fail with `SinkError::Closed`.
    ///
    /// # Errors
    /// The writer's failure.
    pub fn close(&self) -> Result<Position, SinkError> {
        panic!("not yet written")
    }
}

impl ChangeSink for Writer {
    fn append(&self, _change: ChangeBody) -> Result<Position, SinkError> {
        panic!("not yet written")
    }

    fn commit(&self, _position: Position) -> Result<(), SinkError> {
        panic!("not yet written")
    }

    fn request_commit(&self, _position: Position) {
        panic!("not yet written")
    }

    fn durable(&self) -> Position {
        panic!("not yet written")
    }

    fn written(&self) -> Position {
        panic!("not yet written")
    }

    fn seal(&self) -> Result<Position, SinkError> {
        panic!("not yet written")
    }

    fn status(&self) -> WriterStatus {
        panic!("not yet written")
    }
}
