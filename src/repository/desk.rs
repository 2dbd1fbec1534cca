//! What the writer's seat works with: takes the lock, recovers what the last writer left, publishes segments
//! and snapshots.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::RepositoryError;
use super::entry::Event;
use super::history::{History, SegmentEntry};
use super::manifest::Manifest;
use super::names::Tail;
use super::object::{names_in, remove_if_there, storage};
use super::seat::{Beginning, Holder, RecoveryReport, Seat, catalogue};
use super::source::{LOCK_FILE, Source};
use crate::index::BlockCache;
use crate::io::Lock;
use crate::journal::{EPOCH_GAP, LogState, Recovered, SealedSegment, SegmentId, recover_open_segment};
use crate::namespace::Namespace;
use crate::types::{Epoch, FileId, Mark, Position, Time};

/// A new snapshot is taken at the latest after this many segments; a mount opens each one behind the last.
const TAIL_SEGMENTS_MAX: usize = 16;
/// What a change of the tail costs a mount, in bytes of a snapshot that it would rather read.
const TAIL_CHANGE_BYTES: u64 = 32;
/// How far ids jump when the last one given is not known any more.
const FILE_ID_GAP: u64 = 1 << 40;

/// Someone who only asks whether the seat is taken holds the lock for a moment.
const LOCK_ATTEMPTS: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The writer's view of its source. `namespace` stands as after `position`, the last one published.
pub(super) struct Desk {
    source: Source,
    cache: Arc<BlockCache>,
    manifest: Manifest,
    namespace: Namespace,
    position: Position,
    tail_changes: u64,
    tail_segments: usize,
    snapshot_bytes: u64,
    failure: Option<String>,
    _lock: Lock,
}

impl Desk {
    /// Enters a segment in the manifest, and a snapshot of the names if the tail has grown long.
    pub fn publish(&mut self, sealed: SealedSegment) -> Result<(), RepositoryError> {
        if let Some(what) = &self.failure {
            return Err(RepositoryError::Damaged { object: "manifest".into(), what: what.clone() });
        }
        let published = self.try_publish(sealed);
        // What follows a segment that could not be published must not be published either.
        if let Err(error) = &published {
            self.failure = Some(error.in_full());
        }
        published
    }

    fn try_publish(&mut self, sealed: SealedSegment) -> Result<(), RepositoryError> {
        let id = sealed.id;
        let failed = |error| self.source.journal_error(id, error);
        let reader = self.source.open_segment(id, &self.cache)?;
        let times = reader.times().map_err(failed)?;
        let entry = self.source.entry_of(&sealed, &times);
        let tail = Tail::read(&reader, Some(sealed.names), self.position, Position::MAX).map_err(failed)?;
        self.manifest.publish(vec![Event::Sealed(entry)])?;
        self.position = sealed.summary.last_position;
        self.tail_changes += tail.len() as u64;
        self.tail_segments += 1;
        tail.apply(&mut self.namespace).map_err(|error| RepositoryError::NamesLost {
            name: self.source.name().to_owned(),
            position: self.position,
            what: format!("segment {id}: {error}"),
        })?;
        let is_long = self.tail_changes * TAIL_CHANGE_BYTES >= self.snapshot_bytes;
        if (is_long && self.tail_changes > 0) || self.tail_segments >= TAIL_SEGMENTS_MAX {
            self.take_snapshot(self.position, false)?;
        }
        Ok(())
    }

    fn take_snapshot(&mut self, position: Position, reset: bool) -> Result<(), RepositoryError> {
        let snapshot = self.source.write_snapshot(position, &self.namespace, reset)?;
        self.snapshot_bytes = snapshot.len_bytes;
        self.tail_changes = 0;
        self.tail_segments = 0;
        self.manifest.publish(vec![Event::SnapshotTaken(snapshot)])
    }
}

impl Source {
    /// Takes the writer's seat: locks the source, recovers what the last writer left, starts a new epoch.
    ///
    /// # Errors
    /// `RepositoryError::WriterPresent` names the holder; `ReadOnly`, `Newer`, `Storage`.
    pub fn become_writer(&self, holder: &Holder, cache: &Arc<BlockCache>) -> Result<Seat, RepositoryError> {
        let lock = self.lock_for_writing(holder)?;
        let (mut manifest, recovered, mut report) = self.recover(cache)?;
        let (epoch, first_position) = next_epoch(&manifest, &recovered);
        let last_epoch = manifest.state.epochs.keys().next_back().copied();
        manifest.publish(vec![Event::EpochBegan { epoch, first_position }])?;
        let last_time = manifest.state.segments.values().map(|segment| segment.summary.last_time).max();
        let history =
            History::new(self.clone(), &manifest.state, manifest.damages.clone(), cache.clone(), None);
        let mut desk = Desk {
            source: self.clone(),
            cache: cache.clone(),
            tail_segments: segments_behind_snapshot(&history),
            snapshot_bytes: history.snapshots().last().map_or(0, |snapshot| snapshot.len_bytes),
            tail_changes: 0,
            manifest,
            namespace: Namespace::new(),
            position: first_position.previous(),
            failure: None,
            _lock: lock,
        };
        let beginning = match history.namespace_at(history.end()) {
            Ok(namespace) => {
                desk.namespace = namespace;
                desk.namespace.drop_nameless();
                // Without damage the catalogue may be trusted; else everything is compared, which mends
                // what storage lost and the files still have.
                match self.beginning(history.segments().last(), last_epoch)? {
                    Beginning::CleanStop { .. } if !report.damages.is_empty() => Beginning::Crash,
                    beginning => beginning,
                }
            }
            Err(RepositoryError::NamesLost { what, .. }) => {
                desk.namespace.raise_next_file(beyond_all_files(&history));
                // Below every position of the new epoch and above all others: no point ever lies here.
                desk.take_snapshot(first_position.previous(), true)?;
                report.damages.push(what.clone());
                Beginning::Damaged { what }
            }
            Err(error) => return Err(error),
        };
        Ok(Seat {
            namespace: desk.namespace.clone(),
            history: Arc::new(history),
            beginning,
            recovery: report,
            log_state: LogState {
                identity: self.journal_identity(),
                directory: self.path(Path::new("segments")),
                epoch,
                first_position,
                last_time: last_time.unwrap_or(Time(0)),
            },
            source: self.clone(),
            desk: Arc::new(Mutex::new(desk)),
        })
    }

    /// Seals what a dead writer left open, so that its points can be mounted.
    ///
    /// # Errors
    /// As [`Source::become_writer`].
    pub fn seal_abandoned(
        &self,
        holder: &Holder,
        cache: &Arc<BlockCache>,
    ) -> Result<RecoveryReport, RepositoryError> {
        let _lock = self.lock_for_writing(holder)?;
        let (_, _, report) = self.recover(cache)?;
        Ok(report)
    }

    fn lock_for_writing(&self, holder: &Holder) -> Result<Lock, RepositoryError> {
        self.repository().require_write()?;
        let path = self.path(Path::new(LOCK_FILE));
        let failed = |error| storage(&**self.disk(), "lock", &path, error);
        let mut attempt = 1;
        let lock = loop {
            if let Some(lock) = self.disk().try_lock(&path, false).map_err(failed)? {
                break lock;
            }
            if attempt == LOCK_ATTEMPTS {
                let holder = self.holder()?;
                return Err(RepositoryError::WriterPresent { name: self.name().to_owned(), holder });
            }
            attempt += 1;
            std::thread::sleep(LOCK_PAUSE);
        };
        let text = format!("process {} on {}\n", holder.pid, holder.host);
        let file = self.disk().open_writable(&path).map_err(failed)?;
        file.set_len(0).and_then(|()| file.write_at(0, text.as_bytes())).map_err(failed)?;
        Ok(lock)
    }

    /// Publishes every segment that is not in the manifest, sealing those that are open.
    fn recover(
        &self,
        cache: &Arc<BlockCache>,
    ) -> Result<(Manifest, Vec<Recovered>, RecoveryReport), RepositoryError> {
        for directory in ["manifest", "snapshots"] {
            let directory = self.path(Path::new(directory));
            for name in names_in(&**self.disk(), &directory)?.iter().filter(|name| name.ends_with(".new")) {
                remove_if_there(&**self.disk(), &directory.join(name))?;
            }
        }
        let mut manifest =
            Manifest::load(self.disk(), &self.path(Path::new("manifest")), self.whole_identity())?;
        let mut report = RecoveryReport { damages: manifest.damages.clone(), ..RecoveryReport::default() };
        if !manifest.damages.is_empty() {
            self.find_snapshots(&mut manifest)?;
            self.find_old_segments(&mut manifest, cache)?;
        }
        let recovered = self.recover_segments(&manifest)?;
        let mut events = Vec::new();
        for one in &recovered {
            report.discarded_bytes += one.discarded_bytes;
            report.discarded_changes += one.discarded_changes;
            report.damages.extend(one.damaged.iter().map(|place| format!("{place} is damaged")));
            if let Some(sealed) = &one.segment {
                let failed = |error| self.journal_error(sealed.id, error);
                let times = self.open_segment(sealed.id, cache)?.times().map_err(failed)?;
                events.push(Event::Sealed(self.entry_of(sealed, &times)));
            }
        }
        if !events.is_empty() {
            manifest.publish(events)?;
        }
        if !manifest.damages.is_empty() {
            // What was damaged is not needed any more once a base says it all.
            manifest.write_base()?;
        }
        let files = self.segment_files()?;
        for id in manifest.state.segments.keys().filter(|id| files.binary_search(id).is_err()) {
            report.damages.push(format!("segment {id} is missing"));
        }
        let last = manifest.state.segments.values().next_back();
        report.durable_position = last.map_or(Position::ZERO, |segment| segment.summary.last_position);
        Ok((manifest, recovered, report))
    }

    /// Adds the segments that a damaged manifest does not name by what their footers say. A writer has at most
    /// two segments that are not published; whatever is older was, and need not be read through again.
    fn find_old_segments(
        &self,
        manifest: &mut Manifest,
        cache: &Arc<BlockCache>,
    ) -> Result<(), RepositoryError> {
        let files = self.segment_files()?;
        for &id in &files[..files.len().saturating_sub(2)] {
            if !manifest.state.segments.contains_key(&id)
                && let Some(entry) = self.entry_from_footer(id, cache)?
            {
                manifest.state.apply(Event::Sealed(entry));
            }
        }
        Ok(())
    }

    /// Recovers the segments that the manifest does not name, the last first: whether a tail is torn or
    /// damaged depends on what comes after it. Returns them ascending.
    fn recover_segments(&self, manifest: &Manifest) -> Result<Vec<Recovered>, RepositoryError> {
        let mut unpublished = self.segment_files()?;
        unpublished.retain(|id| !manifest.state.segments.contains_key(id));
        let mut recovered: Vec<Recovered> = Vec::new();
        let mut next: Option<(SegmentId, Position)> = None;
        for &id in unpublished.iter().rev() {
            let next_first = next.filter(|(next, _)| next.epoch == id.epoch).map(|(_, first)| first);
            let path = self.segment_path(id);
            let identity = self.journal_identity();
            let one = recover_open_segment(&**self.disk(), &path, &identity, id, next_first)
                .map_err(|error| self.journal_error(id, error))?;
            if let Some(sealed) = &one.segment {
                next = Some((id, sealed.summary.first_position));
            }
            recovered.push(one);
        }
        recovered.reverse();
        Ok(recovered)
    }

    fn beginning(
        &self,
        last: Option<&SegmentEntry>,
        last_epoch: Option<Epoch>,
    ) -> Result<Beginning, RepositoryError> {
        let Some(last) = last else { return Ok(Beginning::First) };
        let stop = last.marks.last().filter(|mark| mark.mark == Mark::CleanStop);
        let is_last = stop.is_some_and(|stop| stop.position == last.summary.last_position);
        // A later life that recorded nothing may still have changed files.
        if !is_last || last_epoch.is_some_and(|epoch| epoch != last.id.epoch) {
            return Ok(Beginning::Crash);
        }
        Ok(Beginning::CleanStop { catalogue: catalogue(self, last.summary.last_position)? })
    }
}

/// A number never used, and a position above every one ever given.
fn next_epoch(manifest: &Manifest, recovered: &[Recovered]) -> (Epoch, Position) {
    let state = &manifest.state;
    let sealed = state.segments.keys().next_back().map(|id| id.epoch);
    let last = state.epochs.keys().next_back().copied().max(sealed);
    let positions = state
        .epochs
        .values()
        .copied()
        .chain(state.segments.values().map(|segment| segment.summary.last_position))
        .chain(state.snapshots.keys().copied())
        .chain(recovered.iter().map(|one| one.highest_position));
    let first_position = positions.max().map_or(Position(1), |highest| Position(highest.0 + EPOCH_GAP));
    (Epoch(last.map_or(1, |last| last.0 + 1)), first_position)
}

fn segments_behind_snapshot(history: &History) -> usize {
    let snapshot = history.snapshots().last().map_or(Position::ZERO, |snapshot| snapshot.position);
    history.segments().iter().rev().take_while(|segment| segment.summary.last_position > snapshot).count()
}

/// An id that is surely above all that were given, as far as anything can still be read.
fn beyond_all_files(history: &History) -> FileId {
    let highest_readable = history
        .snapshots()
        .iter()
        .rev()
        .find_map(|snapshot| history.source().read_snapshot(snapshot).ok()?.ok())
        .map_or(FileId::SOURCE, |namespace| namespace.next_file());
    let highest_sized = (0..history.segments().len())
        .filter_map(|index| history.segment(index).ok())
        .flat_map(|reader| {
            let sizes = reader.index().sizes_at(Position::MAX);
            sizes.flatten().map(|(file, _)| file).last()
        })
        .max()
        .unwrap_or(FileId::SOURCE);
    FileId(highest_readable.0.max(highest_sized.0) + FILE_ID_GAP)
}
