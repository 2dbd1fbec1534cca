//! The journal's single-threaded core: gives positions and times, fills segments, syncs and seals them.

use std::path::PathBuf;
use std::sync::Arc;

use super::chain::{Chain, ChainEvent};
use super::encode::{Batch, ChangeEncoder};
use super::record::PAYLOAD_MAX_BYTES;
use super::sequencer::Sequencer;
use super::{JournalError, JournalIdentity, Publisher};
use crate::io::{Clock, Disk};
use crate::types::{ChangeBody, Decoder, Encoder, Epoch, Mark, NamespaceChange, Position, Time};

/// How far above every position ever seen a new epoch begins. The log never gives a position this far above
/// the durable one, so no position is ever given twice.
pub const EPOCH_GAP: u64 = 1 << 20;

/// A position this far above the durable one is not given before a sync.
pub(super) const UNDURABLE_MAX: u64 = EPOCH_GAP / 2;

/// Bytes of pages in one change at the most.
const CHANGE_MAX_BYTES: usize = 64 << 20;

/// How a log fills its segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment is sealed before it grows beyond this.
    pub segment_bytes: u64,
    /// Memory for what becomes a segment's index and sections; about this much is used before the segment is
    /// sealed early. Millions of tiny changes, such as zeros, fit into a segment.
    pub contents_bytes: usize,
    pub zstd_level: i32,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { segment_bytes: 256 << 20, contents_bytes: 64 << 20, zstd_level: 1 }
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
pub struct Log {
    chain: Chain,
    sequencer: Sequencer,
    encoder: ChangeEncoder,
    clock: Arc<dyn Clock>,
    publisher: Box<dyn Publisher>,
    batch: Batch,
    published: Position,
    poison: Option<String>,
}

/// Bytes of records that are buffered before they are handed to the disk unasked.
const BUFFER_BYTES: u64 = 1 << 20;

impl Log {
    /// Begins an epoch. Nothing is created before the first change.
    ///
    /// # Errors
    /// `JournalError::Storage`.
    pub fn start(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        publisher: Box<dyn Publisher>,
        state: LogState,
        config: LogConfig,
    ) -> Result<Log, JournalError> {
        let encoder = ChangeEncoder::new(config.zstd_level, state.identity.payload_seed())?;
        let sequencer = Sequencer::new(state.first_position, state.last_time);
        let published = state.first_position.previous();
        let chain = Chain::new(disk, clock.clone(), state, config);
        let batch = Batch::default();
        Ok(Log { chain, sequencer, encoder, clock, publisher, batch, published, poison: None })
    }

    /// Gives the change its position and time and puts its records into the buffer.
    ///
    /// # Errors
    /// `JournalError::Malformed` leaves the log as it was; others poison it.
    pub fn append(&mut self, change: &ChangeBody) -> Result<Position, JournalError> {
        self.check_sound()?;
        check_well_formed(change).map_err(|what| JournalError::Malformed { what })?;
        let (step, stamp) = self.sequencer.next(self.clock.now(), self.clock.monotonic());
        if let Some((stamp, mark)) = step {
            self.encoder.encode(stamp, &ChangeBody::Mark(mark), &mut self.batch);
        }
        self.encoder.encode(stamp, change, &mut self.batch);
        if stamp.position.0 - self.chain.durable().0 >= UNDURABLE_MAX {
            self.sync()?;
        } else if self.batch.len_bytes() >= BUFFER_BYTES {
            self.write()?;
        }
        Ok(stamp.position)
    }

    /// Hands what is buffered to the disk, without syncing.
    ///
    /// # Errors
    /// `JournalError::Storage`, `JournalError::Publish`.
    pub fn write(&mut self) -> Result<(), JournalError> {
        self.guarded(|log| {
            log.chain.place(&mut log.batch)?;
            log.publish()
        })
    }

    /// Makes everything appended durable; returns the durable position.
    ///
    /// # Errors
    /// As [`Log::write`].
    pub fn sync(&mut self) -> Result<Position, JournalError> {
        self.write()?;
        self.guarded(|log| log.chain.sync())?;
        Ok(self.chain.durable())
    }

    /// Seals and publishes the open segment, if it holds a change; returns the last published position.
    ///
    /// # Errors
    /// As [`Log::write`].
    pub fn seal(&mut self) -> Result<Position, JournalError> {
        self.write()?;
        self.guarded(|log| {
            log.chain.complete_segment()?;
            log.publish()
        })?;
        Ok(self.published)
    }

    #[must_use]
    pub fn durable_position(&self) -> Position {
        self.chain.durable()
    }

    /// The last position given.
    #[must_use]
    pub fn written_position(&self) -> Position {
        self.sequencer.last_position()
    }

    fn publish(&mut self) -> Result<(), JournalError> {
        for event in self.chain.take_events() {
            if let Some(position) = publish_event(event, self.publisher.as_mut())? {
                self.published = position;
            }
        }
        Ok(())
    }

    fn check_sound(&self) -> Result<(), JournalError> {
        match &self.poison {
            Some(cause) => Err(JournalError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Runs `act`; an error of it is the log's last.
    fn guarded(
        &mut self,
        act: impl FnOnce(&mut Log) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        self.check_sound()?;
        act(self).inspect_err(|error| self.poison = Some(error.in_full()))
    }
}

/// Tells the publisher of one event, sealing the segment if it is completed; the last position that this
/// made visible.
pub(super) fn publish_event(
    event: ChainEvent,
    publisher: &mut dyn Publisher,
) -> Result<Option<Position>, JournalError> {
    match event {
        ChainEvent::Opened(segment) => {
            publisher.opened(&segment);
            Ok(None)
        }
        ChainEvent::Completed(unsealed) => {
            let sealed = unsealed.seal()?;
            let (segment, last) = (sealed.id, sealed.summary.last_position);
            let published = publisher.sealed(sealed);
            published.map_err(|error| JournalError::Publish { segment, cause: error.to_string() })?;
            Ok(Some(last))
        }
    }
}

/// Why a change cannot be recorded, if so.
pub(super) fn check_well_formed(change: &ChangeBody) -> Result<(), &'static str> {
    match change {
        ChangeBody::Data(data) if !data.is_well_formed() => Err("pages of a data change"),
        ChangeBody::Data(data)
            if data.pages.iter().map(|write| write.bytes.len()).sum::<usize>() > CHANGE_MAX_BYTES =>
        {
            Err("more than 64 MiB in one change")
        }
        ChangeBody::Names(names) => {
            let mut encoded = Encoder::new();
            names.encode(&mut encoded);
            let encoded = encoded.finish();
            let mut input = Decoder::new(&encoded);
            if encoded.len() > PAYLOAD_MAX_BYTES as usize {
                return Err("a name or value of more than 1 MiB");
            }
            NamespaceChange::decode(&mut input).map(drop).map_err(|error| error.what)
        }
        ChangeBody::Mark(Mark::Bookmark { name }) if name.is_empty() || name.len() > 4096 => {
            Err("the name of a bookmark has 1 to 4096 bytes")
        }
        ChangeBody::Data(_) | ChangeBody::Mark(_) => Ok(()),
    }
}
