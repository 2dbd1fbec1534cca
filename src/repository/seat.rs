//! The writer's seat: what a capture gets when it becomes a source's only writer.

use super::{History, RepositoryError};
use crate::journal::{LogState, Publisher};
use crate::namespace::Namespace;
use crate::types::Position;

/// Who sits, as the next who wants to sit is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub host: String,
}

/// How the new life begins: what capture must compare before points exist again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing was ever recorded.
    First,
    /// The last life stopped in good order; the catalogue, if there is one, tells what changed since.
    CleanStop { catalogue: Option<Vec<u8>> },
    /// The last life ended by a kill or power cut.
    Crash,
    /// Names are lost: the tree starts empty again, and the image must be taken anew.
    Damaged { what: String },
}

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    pub durable_position: Position,
    /// Bytes after the last durable change that were cut.
    pub discarded_bytes: u64,
    /// What is damaged and was put aside, in words.
    pub damages: Vec<String>,
}

/// The only writer of a source, as long as this or a publisher made from it lives.
pub struct Seat {
    /// Names at the end of the last life.
    pub namespace: Namespace,
    /// Everything up to the end of the last life.
    pub history: std::sync::Arc<History>,
    pub beginning: Beginning,
    pub recovery: RecoveryReport,
    /// Where the new epoch begins; for `Writer::start` or `Log::start`.
    pub log_state: LogState,
}

impl Seat {
    /// Enters sealed segments in the manifest; for `Writer::start` or `Log::start`. Holds the seat as well.
    #[must_use]
    pub fn publisher(&self) -> Box<dyn Publisher> {
        panic!("not built yet")
    }

    /// Keeps capture's catalogue for the next start; valid only if `clean_stop`, the position at which the
    /// writer was closed, is then still the source's last.
    ///
    /// # Errors
    /// `RepositoryError::Storage`.
    pub fn store_catalogue(&self, clean_stop: Position, catalogue: &[u8]) -> Result<(), RepositoryError> {
        let _ = (clean_stop, catalogue);
        panic!("not built yet")
    }
}
