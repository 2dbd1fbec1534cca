//! The chain of segments that an epoch fills one after another: placing batches, syncing, going on to the next.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::contents::Contents;
use super::encode::Batch;
use super::error::JournalError;
use super::header::{HEADER_BLOCK_BYTES, SegmentHeader};
use super::log::{LogConfig, LogState};
use super::publish::SegmentOpened;
use super::record::{END_BYTES, FLUSH_BYTES, Stamp, encode_end, encode_flush};
use super::seal::UnsealedSegment;
use super::segment::{Seeds, SegmentId};
use crate::index::Location;
use crate::io::{Clock, Disk, DiskFile};
use crate::types::Position;

/// The least that is reserved for a segment on a disk that is nearly full.
const RESERVED_MIN_BYTES: u64 = 1 << 20;
/// What a segment leaves for others: publishing needs room too.
const LEFT_FREE_BYTES: u64 = 1 << 20;

/// How far ahead of the records zeros are written, and how much at a time. Syncing bytes that replace others
/// changes no metadata and takes the disk one write rather than two or three.
const ZERO_AHEAD_BYTES: u64 = 64 << 10;
static ZEROS: [u8; 512 << 10] = [0; 512 << 10];
/// Only where syncs are frequent does it pay: when less than this lies between two.
const SMALL_SYNC_BYTES: u64 = 128 << 10;

/// What happened to segments; in order.
pub enum ChainEvent {
    Opened(SegmentOpened),
    /// To be sealed and published, here or on another thread.
    Completed(Box<UnsealedSegment>),
}

/// Segments of one epoch.
///
/// `durable <= placed`: `placed` is the last change handed to storage. A segment is begun only when the one
/// before it is durable to its end, so at most its last one can be torn.
pub struct Chain {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    config: LogConfig,
    state: LogState,
    next_sequence: u32,
    open: Option<OpenSegment>,
    placed: Stamp,
    durable: Position,
    /// The last change of the last segment that was completed.
    completed: Position,
    /// The next write tells what became durable since the last one.
    flush_due: bool,
    events: Vec<ChainEvent>,
    stored_bytes: u64,
    syncs: u64,
}

struct OpenSegment {
    id: SegmentId,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    seeds: Seeds,
    end_bytes: u64,
    durable_end_bytes: u64,
    /// Up to here the file has been written to; zeros behind the records.
    touched_end_bytes: u64,
    capacity_bytes: u64,
    hasher: blake3::Hasher,
    contents: Contents,
    opened_at: Duration,
}

impl OpenSegment {
    fn write_zeros_ahead(&mut self) -> std::io::Result<()> {
        self.touched_end_bytes = self.touched_end_bytes.max(self.end_bytes);
        let small = self.end_bytes - self.durable_end_bytes < SMALL_SYNC_BYTES;
        if !small || self.touched_end_bytes - self.end_bytes >= ZERO_AHEAD_BYTES {
            return Ok(());
        }
        let room = self.capacity_bytes.saturating_sub(self.touched_end_bytes);
        let zeros = &ZEROS[..ZEROS.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        if !zeros.is_empty() {
            self.file.write_at(self.touched_end_bytes, zeros)?;
            self.touched_end_bytes += zeros.len() as u64;
        }
        Ok(())
    }
}

impl Chain {
    pub fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, state: LogState, config: LogConfig) -> Chain {
        let before = state.first_position.previous();
        Chain {
            disk,
            clock,
            config,
            placed: Stamp { position: before, time: state.last_time, held: false },
            durable: before,
            completed: before,
            state,
            next_sequence: 0,
            open: None,
            flush_due: false,
            events: Vec::new(),
            stored_bytes: 0,
            syncs: 0,
        }
    }

    pub fn durable(&self) -> Position {
        self.durable
    }

    pub fn placed(&self) -> Position {
        self.placed.position
    }

    /// Everything up to here lies in completed segments.
    pub fn completed(&self) -> Position {
        self.completed
    }

    /// Bytes written in this epoch, and syncs made.
    pub fn statistics(&self) -> (u64, u64) {
        (self.stored_bytes, self.syncs)
    }

    pub fn take_events(&mut self) -> Vec<ChainEvent> {
        std::mem::take(&mut self.events)
    }

    /// Whether the open segment holds a change.
    pub fn has_changes(&self) -> bool {
        self.open.as_ref().is_some_and(|open| !open.contents.is_empty())
    }

    /// How long the open segment has held changes; and whether they are only barriers and heartbeats.
    pub fn open_age(&self) -> Option<(Duration, bool)> {
        let open = self.open.as_ref()?;
        Some((self.clock.monotonic().saturating_sub(open.opened_at), open.contents.is_idle()))
    }

    /// Hands the batch to storage, in as many segments as it needs. It is empty afterwards.
    pub fn place(&mut self, batch: &mut Batch) -> Result<(), JournalError> {
        let mut first = 0;
        while first < batch.records().len() {
            let count = self.room_for(batch, first);
            if count == 0 {
                self.complete_segment()?;
                self.begin_segment(batch, first)?;
                continue;
            }
            self.write(batch, first..first + count)?;
            first += count;
        }
        batch.clear();
        Ok(())
    }

    /// How many records from number `first` on the open segment takes: whole changes.
    fn room_for(&self, batch: &Batch, first: usize) -> usize {
        let Some(open) = &self.open else {
            return 0;
        };
        if open.contents.held_bytes() > self.config.contents_bytes && !open.contents.is_empty() {
            return 0;
        }
        let all = batch.records().len() - first;
        let overhead = (FLUSH_BYTES + END_BYTES) as u64 + open.contents.sealed_bytes_max();
        let room = open.capacity_bytes.saturating_sub(open.end_bytes + overhead);
        let start = batch.start_of(first);
        let fits = |count: usize| {
            let bytes = (batch.start_of(first + count) - start) as u64;
            // What the records will add to index and sections is counted only once they are in.
            bytes + bytes / 4 + count as u64 * 400 <= room
        };
        if fits(all) {
            return all;
        }
        let ends_change =
            |count: &usize| batch.records().get(first + count).is_none_or(|next| next.begins_change);
        let best = (1..all).take_while(|count| fits(*count)).filter(ends_change).last().unwrap_or(0);
        if best == 0 && open.contents.is_empty() {
            // A change larger than a segment has one of its own.
            return (1..=all).find(ends_change).unwrap_or(all);
        }
        best
    }

    fn write(&mut self, batch: &mut Batch, records: Range<usize>) -> Result<(), JournalError> {
        let open = self.open.as_mut().expect("a segment with room is open");
        let flush = std::mem::take(&mut self.flush_due).then(|| {
            encode_flush(self.placed, self.durable, open.durable_end_bytes, open.seeds, open.end_bytes)
        });
        let base_bytes = open.end_bytes + flush.as_ref().map_or(0, |flush| flush.len() as u64);
        let start = batch.start_of(records.start);
        let bytes = batch.bind(records.clone(), flush.as_deref(), open.seeds.segment, base_bytes);
        let written = open.file.write_at(open.end_bytes, bytes);
        written
            .map_err(|source| JournalError::storage("write to", open.path.display().to_string(), source))?;
        open.hasher.update(bytes);
        open.end_bytes += bytes.len() as u64;
        self.stored_bytes += bytes.len() as u64;
        for record in &batch.records()[records] {
            let offset_bytes = base_bytes + (record.at - start) as u64;
            let location = Location { offset_bytes, len_bytes: record.len_bytes };
            open.contents.add(location, record.stamp, &record.content);
            self.placed = record.stamp;
        }
        Ok(())
    }

    /// Makes everything placed durable.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        let Some(open) = self.open.as_mut().filter(|open| open.durable_end_bytes < open.end_bytes) else {
            return Ok(());
        };
        self.syncs += 1;
        let synced = open.write_zeros_ahead().and_then(|()| open.file.sync());
        synced.map_err(|source| JournalError::storage("sync", open.path.display().to_string(), source))?;
        open.durable_end_bytes = open.end_bytes;
        self.durable = self.placed.position;
        self.flush_due = true;
        Ok(())
    }

    /// Ends the open segment's records and makes them durable; what is left of its completion becomes an
    /// event. A segment without changes stays open.
    pub fn complete_segment(&mut self) -> Result<(), JournalError> {
        if !self.has_changes() {
            return Ok(());
        }
        let open = self.open.as_mut().expect("checked above");
        let end = encode_end(self.placed, open.seeds, open.end_bytes);
        let written = open.file.write_at(open.end_bytes, &end);
        written
            .map_err(|source| JournalError::storage("write to", open.path.display().to_string(), source))?;
        open.hasher.update(&end);
        open.end_bytes += end.len() as u64;
        self.stored_bytes += end.len() as u64;
        self.sync()?;
        self.flush_due = false;
        self.completed = self.placed.position;
        let open = self.open.take().expect("checked above");
        self.events.push(ChainEvent::Completed(Box::new(UnsealedSegment {
            identity: self.state.identity,
            id: open.id,
            path: open.path,
            file: open.file,
            records_end_bytes: open.end_bytes,
            hasher: open.hasher,
            contents: open.contents,
        })));
        Ok(())
    }

    /// Creates the segment that begins with record number `first` of the batch.
    fn begin_segment(&mut self, batch: &Batch, first: usize) -> Result<(), JournalError> {
        let stamp = batch.records()[first].stamp;
        let id = SegmentId { epoch: self.state.epoch, sequence: self.next_sequence };
        let path = self.state.directory.join(id.file_name());
        let error = |source| JournalError::storage("create", path.display().to_string(), source);
        let file = self.disk.create_new(&path).map_err(error)?;
        let header = SegmentHeader {
            identity: self.state.identity,
            id,
            first_position: stamp.position,
            first_time: stamp.time,
        };
        let block = header.encode();
        let capacity_bytes = self.reserve(file.as_ref()).map_err(error)?;
        file.write_at(0, &block).map_err(error)?;
        file.sync().map_err(error)?;
        // Sync the directory too: after power loss, a synced segment without a directory entry is lost.
        self.disk.sync_directory(&self.state.directory).map_err(error)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&block);
        self.next_sequence += 1;
        self.events.push(ChainEvent::Opened(SegmentOpened {
            id,
            path: path.clone(),
            first_position: stamp.position,
        }));
        self.open = Some(OpenSegment {
            id,
            path,
            file,
            seeds: self.state.identity.seeds(id),
            end_bytes: HEADER_BLOCK_BYTES as u64,
            durable_end_bytes: HEADER_BLOCK_BYTES as u64,
            touched_end_bytes: HEADER_BLOCK_BYTES as u64,
            capacity_bytes,
            hasher,
            contents: Contents::default(),
            opened_at: self.clock.monotonic(),
        });
        Ok(())
    }

    /// Reserves room for records, index and sections, so that a disk that fills up later cannot keep the
    /// segment from being completed; less than wanted if there is no more.
    fn reserve(&self, file: &dyn DiskFile) -> std::io::Result<u64> {
        let mut bytes = self.config.segment_bytes.max(HEADER_BLOCK_BYTES as u64);
        loop {
            let fits = bytes.saturating_add(LEFT_FREE_BYTES) <= self.disk.available_bytes()?;
            let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
            let reserved = if fits { file.preallocate(0, bytes) } else { Err(full()) };
            match reserved {
                Ok(()) => return Ok(bytes),
                Err(error)
                    if error.kind() == std::io::ErrorKind::StorageFull && bytes > RESERVED_MIN_BYTES =>
                {
                    bytes /= 2;
                }
                // Some file systems cannot reserve; the file then grows as it is written.
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => return Ok(bytes),
                Err(error) => return Err(error),
            }
        }
    }
}
