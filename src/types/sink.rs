//! Where capture hands changes to: a journal, or what a test puts in its place.

use std::time::Duration;

use super::{ChangeBody, Position, Time};

/// Takes changes, gives each its position and time, and says which are durable.
///
/// `durable() <= written()`: positions are given in the order of the calls to [`ChangeSink::append`], dense
/// within the life of a sink. All calls may come from many threads at once.
pub trait ChangeSink: Send + Sync {
    /// Gives `change` the next position. Short: nothing is compressed or written here, but the call waits
    /// while too much is still on its way to storage.
    ///
    /// # Errors
    /// `SinkError::Malformed` if the change's invariants do not hold; it then has no position. Else the
    /// sink's failure, for good.
    fn append(&self, change: ChangeBody) -> Result<Position, SinkError>;

    /// Returns once everything up to `position` is durable.
    ///
    /// # Errors
    /// The sink's failure, for good; what was not yet durable is then in doubt.
    fn commit(&self, position: Position) -> Result<(), SinkError>;

    /// Begins what [`ChangeSink::commit`] waits for, without waiting.
    fn request_commit(&self, position: Position);

    /// Everything up to here survives a loss of power.
    fn durable(&self) -> Position;

    /// The last position given.
    fn written(&self) -> Position;

    /// Closes and publishes the open segment, so that readers can see everything up to the position
    /// returned: the last one given when the call began, at least.
    ///
    /// # Errors
    /// The sink's failure.
    fn seal(&self) -> Result<Position, SinkError>;

    fn status(&self) -> WriterStatus;
}

/// Why a sink takes no more changes. Once failed, it fails for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    #[error("the journal failed and takes no more changes: {cause}")]
    Failed { cause: String },
    #[error("the journal is closed")]
    Closed,
    #[error("a change that breaks its own rules was refused: {what}")]
    Malformed { what: &'static str },
}

/// What a writer is doing, for people and for `-o json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterStatus {
    /// The last position given, and its time.
    pub written: Position,
    pub written_time: Time,
    /// Everything up to here is durable.
    pub durable: Position,
    /// How long the oldest change that is not yet durable has waited; zero if there is none.
    pub lag: Duration,
    /// Bytes of pages taken in but not yet handed to storage, and how many are taken before callers wait.
    pub queue_bytes: u64,
    pub queue_bytes_max: u64,
    /// Bytes of pages captured in this life, and what they took in the journal, all headers included.
    pub captured_bytes: u64,
    pub stored_bytes: u64,
    /// Processor time used by the writer's own threads.
    pub cpu: Duration,
    /// Syncs of the journal in this life; one serves all who wait.
    pub syncs: u64,
    /// Whether times are held because the wall clock went back.
    pub clock_held: bool,
    /// Why the sink failed, if it did.
    pub failure: Option<String>,
}
