//! What callers, compressing threads and the writing thread share: the queue of changes, and what was asked.
//!
//! One lock guards it all; nothing is compressed, written or waited for elsewhere while it is held.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::encode::Batch;
use super::log::UNDURABLE_MAX;
use super::record::Stamp;
use super::sequencer::Sequencer;
use crate::types::{ChangeBody, Mark, Position, SinkError, Time};

/// Bytes of pages that one thread compresses at a time, and how many changes.
const PARCEL_BYTES: u64 = 256 << 10;
const PARCEL_CHANGES: usize = 1024;
/// Bytes that a change counts for in the queue beside its pages.
const CHANGE_OVERHEAD_BYTES: u64 = 256;
/// What waits before idle compressing threads are woken; less is done by the writing thread on the way.
const WAKE_BYTES: u64 = 128 << 10;
/// How finely the age of what is not durable is known.
const AGE_STEP: Duration = Duration::from_millis(10);

/// Changes in order, to be encoded together.
pub struct Parcel {
    pub number: u64,
    pub changes: Vec<(Stamp, ChangeBody)>,
    pub queue_bytes: u64,
}

/// A parcel encoded.
pub struct EncodedParcel {
    pub batch: Batch,
    pub queue_bytes: u64,
}

pub struct Shared {
    state: Mutex<State>,
    /// The writing thread waits here.
    pub log_wake: Condvar,
    /// Compressing threads wait here.
    pub compress_wake: Condvar,
    /// Callers wait here: for durability, for a seal, for room.
    pub done: Condvar,
    /// Copies of what the state says, for callers in a hurry.
    durable: AtomicU64,
    written: AtomicU64,
    pub queue_bytes_max: u64,
    /// Processor time of the writer's threads, in nanoseconds.
    pub cpu_ns: AtomicU64,
}

pub struct State {
    pub sequencer: Sequencer,
    changes: VecDeque<(Stamp, ChangeBody)>,
    /// Bytes of `changes` alone, and of everything not yet handed to storage.
    waiting_bytes: u64,
    pub queue_bytes: u64,
    next_parcel: u64,
    pub encoded: BTreeMap<u64, EncodedParcel>,
    pub next_to_write: u64,
    pub log_is_idle: bool,
    idle_compressors: usize,
    pub callers_without_room: usize,
    /// Everything up to here is to be durable, handed to storage, or sealed, soon.
    pub commit_wanted: Position,
    pub write_wanted: Position,
    pub seal_wanted: Position,
    pub durable: Position,
    pub published: Position,
    /// When changes from these positions on were appended; sparse.
    ages: VecDeque<(Position, Duration)>,
    pub captured_bytes: u64,
    pub stored_bytes: u64,
    pub syncs: u64,
    pub failure: Option<String>,
    /// No more changes are taken; what is there is still written.
    pub closing: bool,
    /// Threads end at once.
    pub abandoned: bool,
    /// The writing thread has ended in good order.
    pub closed: bool,
}

impl Shared {
    pub fn new(sequencer: Sequencer, queue_bytes_max: u64) -> Shared {
        let before = sequencer.last_position();
        let state = State {
            sequencer,
            changes: VecDeque::new(),
            waiting_bytes: 0,
            queue_bytes: 0,
            next_parcel: 0,
            encoded: BTreeMap::new(),
            next_to_write: 0,
            log_is_idle: false,
            idle_compressors: 0,
            callers_without_room: 0,
            commit_wanted: before,
            write_wanted: before,
            seal_wanted: before,
            durable: before,
            published: before,
            ages: VecDeque::new(),
            captured_bytes: 0,
            stored_bytes: 0,
            syncs: 0,
            failure: None,
            closing: false,
            abandoned: false,
            closed: false,
        };
        Shared {
            state: Mutex::new(state),
            log_wake: Condvar::new(),
            compress_wake: Condvar::new(),
            done: Condvar::new(),
            durable: AtomicU64::new(before.0),
            written: AtomicU64::new(before.0),
            queue_bytes_max,
            cpu_ns: AtomicU64::new(0),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    pub fn written(&self) -> Position {
        Position(self.written.load(Ordering::Acquire))
    }

    /// Gives the change its place at the end of the queue. Waits for room. A clean stop is the last change.
    pub fn append(&self, change: ChangeBody, now: Time, monotonic: Duration) -> Result<Stamp, SinkError> {
        let bytes = page_bytes(&change);
        let cost = bytes + CHANGE_OVERHEAD_BYTES;
        let mut state = self.lock();
        loop {
            state.check_open()?;
            let full = state.queue_bytes > 0 && state.queue_bytes + cost > self.queue_bytes_max;
            let far = state.sequencer.last_position().0 - state.durable.0 >= UNDURABLE_MAX;
            if !full && !far {
                break;
            }
            state.write_wanted = state.sequencer.last_position();
            if far {
                state.commit_wanted = state.write_wanted;
            }
            self.wake_log(&state);
            state.callers_without_room += 1;
            self.done.wait(&mut state);
            state.callers_without_room -= 1;
        }
        let (step, stamp) = state.sequencer.next(now, monotonic);
        if let Some((stamp, mark)) = step {
            state.push(stamp, ChangeBody::Mark(mark), CHANGE_OVERHEAD_BYTES, monotonic);
        }
        state.captured_bytes += bytes;
        state.closing = matches!(change, ChangeBody::Mark(Mark::CleanStop));
        state.push(stamp, change, cost, monotonic);
        self.written.store(stamp.position.0, Ordering::Release);
        if state.waiting_bytes >= WAKE_BYTES && state.idle_compressors > 0 {
            self.compress_wake.notify_one();
        }
        Ok(stamp)
    }

    /// Asks for durability up to `position` at the latest position given.
    pub fn want_commit(&self, state: &mut State, position: Position) {
        let position = position.min(state.sequencer.last_position());
        if position > state.commit_wanted {
            state.commit_wanted = position;
            self.wake_log(state);
        }
    }

    /// Wakes the writing thread if it waits.
    pub fn wake_log(&self, state: &State) {
        if state.log_is_idle {
            self.log_wake.notify_one();
        }
    }

    /// Waits until something is done.
    pub fn wait_done(&self, state: &mut MutexGuard<'_, State>) {
        self.done.wait(state);
    }

    /// Waits for changes to compress; `None` when the writer ends.
    pub fn next_parcel(&self) -> Option<Parcel> {
        let mut state = self.lock();
        loop {
            if state.abandoned || state.closed || state.failure.is_some() {
                return None;
            }
            if state.waiting_bytes >= WAKE_BYTES {
                return state.take_parcel();
            }
            state.idle_compressors += 1;
            self.compress_wake.wait(&mut state);
            state.idle_compressors -= 1;
        }
    }

    /// Hands an encoded parcel on.
    pub fn put_encoded(&self, number: u64, parcel: EncodedParcel) {
        let mut state = self.lock();
        state.encoded.insert(number, parcel);
        if state.next_to_write == number {
            self.wake_log(&state);
        }
    }

    pub fn set_durable(&self, state: &mut State, durable: Position) {
        state.durable = durable;
        self.durable.store(durable.0, Ordering::Release);
        while state.ages.get(1).is_some_and(|(position, _)| *position <= durable.next()) {
            state.ages.pop_front();
        }
        if durable == state.sequencer.last_position() {
            state.ages.clear();
        }
        self.done.notify_all();
    }

    /// Ends the writer for good; only the first cause is kept.
    pub fn fail(&self, cause: String) {
        let mut state = self.lock();
        if state.failure.is_none() {
            tracing::error!(%cause, "the journal failed and takes no more changes");
            state.failure = Some(cause);
        }
        self.log_wake.notify_all();
        self.compress_wake.notify_all();
        self.done.notify_all();
    }
}

impl State {
    fn push(&mut self, stamp: Stamp, change: ChangeBody, cost: u64, monotonic: Duration) {
        self.changes.push_back((stamp, change));
        self.waiting_bytes += cost;
        self.queue_bytes += cost;
        if self.ages.back().is_none_or(|(_, since)| monotonic >= *since + AGE_STEP) {
            self.ages.push_back((stamp.position, monotonic));
        }
    }

    /// The next changes for one thread to encode; `None` if there are none.
    pub fn take_parcel(&mut self) -> Option<Parcel> {
        let mut queue_bytes = 0;
        let mut count = 0;
        for (_, change) in self.changes.iter().take(PARCEL_CHANGES) {
            queue_bytes += page_bytes(change) + CHANGE_OVERHEAD_BYTES;
            count += 1;
            if queue_bytes >= PARCEL_BYTES {
                break;
            }
        }
        if count == 0 {
            return None;
        }
        let changes = self.changes.drain(..count).collect();
        self.waiting_bytes -= queue_bytes;
        let number = self.next_parcel;
        self.next_parcel += 1;
        Some(Parcel { number, changes, queue_bytes })
    }

    /// Whether parcels are with compressing threads.
    pub fn is_encoding(&self) -> bool {
        self.next_to_write + (self.encoded.len() as u64) < self.next_parcel
    }

    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Whether everything appended was handed to storage.
    pub fn is_drained(&self) -> bool {
        self.changes.is_empty() && self.next_to_write == self.next_parcel
    }

    /// How long the oldest change that is not durable has waited.
    pub fn lag(&self, monotonic: Duration) -> Duration {
        self.ages.front().map_or(Duration::ZERO, |(_, since)| monotonic.saturating_sub(*since))
    }

    /// # Errors
    /// Why no change is taken any more.
    pub fn check_open(&self) -> Result<(), SinkError> {
        self.check_sound()?;
        if self.closing || self.abandoned { Err(SinkError::Closed) } else { Ok(()) }
    }

    /// # Errors
    /// The failure, if there was one.
    pub fn check_sound(&self) -> Result<(), SinkError> {
        match &self.failure {
            Some(cause) => Err(SinkError::Failed { cause: cause.clone() }),
            None => Ok(()),
        }
    }
}

fn page_bytes(change: &ChangeBody) -> u64 {
    match change {
        ChangeBody::Data(data) => data.pages.iter().map(|write| write.bytes.len() as u64).sum(),
        ChangeBody::Names(_) | ChangeBody::Mark(_) => 0,
    }
}
