//! The writer's seat: what a capture gets when it becomes a source's only writer, and what enters its sealed
//! segments in the manifest.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::RepositoryError;
use super::desk::Desk;
use super::history::History;
use super::object::Kind;
use super::source::Source;
use crate::journal::{LogState, PublishError, Publisher, SealedSegment, SegmentOpened};
use crate::namespace::Namespace;
use crate::types::{Decoder, Encoder, Position};

const CATALOGUE_KIND: Kind = Kind { magic: b"PITGCATA", version: 1, len_bytes_max: 4 << 30 };
const CATALOGUE_FILE: &str = "catalogue";

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
    /// The last position kept.
    pub durable_position: Position,
    /// Bytes after the last durable change that were cut.
    pub discarded_bytes: u64,
    /// Whole changes within them.
    pub discarded_changes: u64,
    /// What is damaged and was worked around or put aside, in words.
    pub damages: Vec<String>,
}

/// The only writer of a source, as long as this or a publisher made from it lives.
pub struct Seat {
    /// Names at the end of the last life.
    pub namespace: Namespace,
    /// Everything up to the end of the last life.
    pub history: Arc<History>,
    pub beginning: Beginning,
    pub recovery: RecoveryReport,
    /// Where the new epoch begins; for `Writer::start` or `Log::start`.
    pub log_state: LogState,
    pub(super) source: Source,
    pub(super) desk: Arc<Mutex<Desk>>,
}

impl Seat {
    /// Enters sealed segments in the manifest; for `Writer::start` or `Log::start`. Holds the seat as well.
    #[must_use]
    pub fn publisher(&self) -> Box<dyn Publisher> {
        Box::new(SeatPublisher { desk: self.desk.clone() })
    }

    /// Keeps capture's catalogue for the next start. It is given back only if `clean_stop`, the position at
    /// which the writer was closed, is then still the last.
    ///
    /// # Errors
    /// `RepositoryError::Storage`.
    pub fn store_catalogue(&self, clean_stop: Position, catalogue: &[u8]) -> Result<(), RepositoryError> {
        let mut body = Encoder::new();
        body.u64(clean_stop.0);
        body.raw(catalogue);
        let path = self.source.path(Path::new(CATALOGUE_FILE));
        CATALOGUE_KIND.write(&**self.source.disk(), &path, &self.source.whole_identity(), &body.finish())
    }
}

/// The catalogue kept for a clean stop at `position`, if it is there and sound.
pub(super) fn catalogue(source: &Source, position: Position) -> Result<Option<Vec<u8>>, RepositoryError> {
    let path = source.path(Path::new(CATALOGUE_FILE));
    let body = match CATALOGUE_KIND.read(&**source.disk(), &path, &source.whole_identity()) {
        // Without it everything is compared, which is slower and just as right.
        Err(RepositoryError::Damaged { .. } | RepositoryError::Newer { .. }) | Ok(None) => return Ok(None),
        body => body?.unwrap_or_default(),
    };
    let mut input = Decoder::new(&body);
    let kept = input.u64().ok() == Some(position.0);
    Ok(kept.then(|| body[8..].to_vec()))
}

struct SeatPublisher {
    desk: Arc<Mutex<Desk>>,
}

impl Publisher for SeatPublisher {
    fn opened(&mut self, segment: &SegmentOpened) {
        tracing::debug!(segment = %segment.id, first_position = %segment.first_position, "segment opened");
    }

    fn sealed(&mut self, segment: SealedSegment) -> Result<(), PublishError> {
        self.desk.lock().publish(segment).map_err(|error| PublishError { cause: error.in_full() })
    }
}
