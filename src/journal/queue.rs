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
use crate::io::Clock;
use crate::types::{ChangeBody, Mark, NamespaceChange, Position, SinkError};

/// Bytes of pages that one thread compresses at a time, and how many changes.
const PARCEL_BYTES: u64 = 256 << 10;
const PARCEL_CHANGES: usize = 1024;
/// Bytes that a change counts for in the queue beside its pages, names and values.
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
    pub fn append(&self, change: ChangeBody, clock: &dyn Clock) -> Result<Stamp, SinkError> {
        let bytes = page_bytes(&change);
        let cost = cost_bytes(&change);
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
        // Only now: a clock read before the wait would seem to have gone back behind what others read meanwhile.
        let (now, monotonic) = (clock.now(), clock.monotonic());
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
            queue_bytes += cost_bytes(change);
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

/// What a change counts for in the queue: about the memory that it takes.
fn cost_bytes(change: &ChangeBody) -> u64 {
    let texts: &[&bytes::Bytes] = match change {
        ChangeBody::Data(_) | ChangeBody::Mark(_) => &[],
        ChangeBody::Names(names) => match names {
            NamespaceChange::Root { label, mountpoint, data_dir, .. } => &[label, mountpoint, data_dir],
            NamespaceChange::Create { name, target, .. } => &[name, target],
            NamespaceChange::Link { name, .. }
            | NamespaceChange::Unlink { name, .. }
            | NamespaceChange::RemoveXattr { name, .. } => &[name],
            NamespaceChange::Rename { name, new_name, .. } => &[name, new_name],
            NamespaceChange::SetXattr { name, value, .. } => &[name, value],
            NamespaceChange::Attributes { .. } => &[],
        },
    };
    let text_bytes: u64 = texts.iter().map(|text| text.len() as u64).sum();
    CHANGE_OVERHEAD_BYTES + page_bytes(change) + text_bytes
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::io::{SimClock, SystemClock};
    use crate::types::{FileId, Time};

    fn set_xattr(value: usize) -> ChangeBody {
        let (name, value) = (Bytes::from("user.big"), Bytes::from(vec![7; value]));
        ChangeBody::Names(NamespaceChange::SetXattr { file: FileId(2), name, value })
    }

    #[test]
    fn values_of_attributes_fill_the_queue_as_pages_do() {
        let shared = Shared::new(Sequencer::new(Position(1), Time(0)), 1 << 20);
        shared.append(set_xattr(64 << 10), &SimClock::new(Time(0))).unwrap();
        let mut state = shared.lock();
        assert!(state.queue_bytes >= 64 << 10, "{} bytes counted", state.queue_bytes);
        let parcel = state.take_parcel().unwrap();
        assert_eq!((parcel.queue_bytes, state.waiting_bytes), (state.queue_bytes, 0));
    }

    #[test]
    fn a_wait_for_room_is_not_taken_for_a_step_of_the_clock() {
        let clock = SimClock::new(Time(1_000_000_000_000));
        let shared = Shared::new(Sequencer::new(Position(1), Time(0)), 1);
        let mark = || ChangeBody::Mark(Mark::Heartbeat);
        shared.append(mark(), &clock).unwrap();
        let make_room = || shared.lock().queue_bytes = 0;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| shared.append(mark(), &clock).unwrap());
            let deadline = SystemClock.monotonic() + Duration::from_secs(30);
            while shared.lock().callers_without_room == 0 {
                assert!(SystemClock.monotonic() < deadline, "the second change waits for room");
                std::thread::yield_now();
            }
            clock.advance(Duration::from_secs(10));
            make_room();
            // Nobody has told the one who waits, so this change comes before.
            shared.append(mark(), &clock).unwrap();
            make_room();
            shared.done.notify_all();
            let stamp = waiting.join().unwrap();
            assert_eq!((stamp.position, stamp.held), (Position(3), false));
        });
        let state = shared.lock();
        assert!(state.changes.iter().all(|(_, change)| *change == mark()), "{:?}", state.changes);
    }
}
