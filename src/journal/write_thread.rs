//! The threads behind a writer: one hands changes to storage and syncs, one seals and publishes.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::MutexGuard;

use super::JournalError;
use super::chain::{Chain, ChainEvent};
use super::encode::{Batch, ChangeEncoder};
use super::log::publish_event;
use super::publish::Publisher;
use super::queue::{EncodedParcel, Shared, State};
use super::writer::{CpuMeter, WriterConfig};
use crate::io::Clock;
use crate::types::Position;

/// How long the writing thread sleeps at the most: what nobody waits for is handed to storage this late.
const TICK: Duration = Duration::from_millis(100);
/// Completed segments that wait to be sealed before no more is written.
const UNSEALED_MAX: usize = 2;
/// A segment with nothing but heartbeats may grow this much older.
const IDLE_AGE_FACTOR: u32 = 12;

/// Hands changes to storage, in order, and makes them durable when asked.
pub struct WriteThread {
    shared: Arc<Shared>,
    chain: Chain,
    encoder: ChangeEncoder,
    events: Sender<ChainEvent>,
    clock: Arc<dyn Clock>,
    config: WriterConfig,
    last_sync: Duration,
    last_write: Duration,
    cpu: CpuMeter,
    spare: Batch,
}

/// What is to be done next.
enum Task {
    Write(EncodedParcel),
    Encode(super::queue::Parcel),
    Sync,
    /// Complete the open segment.
    Complete,
    /// All is done that was asked for before closing.
    End,
    Abandon,
}

impl WriteThread {
    pub fn new(
        shared: Arc<Shared>,
        chain: Chain,
        encoder: ChangeEncoder,
        events: Sender<ChainEvent>,
        clock: Arc<dyn Clock>,
        config: WriterConfig,
    ) -> WriteThread {
        let now = clock.monotonic();
        let (last_sync, last_write) = (now, now);
        let (cpu, spare) = (CpuMeter::default(), Batch::default());
        WriteThread { shared, chain, encoder, events, clock, config, last_sync, last_write, cpu, spare }
    }

    /// Until the writer is closed, abandoned or failed.
    pub fn run(mut self) {
        loop {
            let task = self.next_task();
            let done = match task {
                Task::Abandon => return,
                Task::End => break,
                task => self.perform(task),
            };
            if let Err(error) = done {
                self.shared.fail(error.in_full());
                return;
            }
            self.cpu.report(&self.shared);
        }
        // The sealing thread ends when it has worked off what is in its queue, and says so.
    }

    fn next_task(&mut self) -> Task {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            if let Some(task) = self.choose(&mut state) {
                return task;
            }
            state.log_is_idle = true;
            shared.log_wake.wait_for(&mut state, TICK);
            state.log_is_idle = false;
        }
    }

    /// The most urgent task; `None` if there is nothing to do yet.
    fn choose(&mut self, state: &mut MutexGuard<'_, State>) -> Option<Task> {
        if state.abandoned || state.failure.is_some() {
            return Some(Task::Abandon);
        }
        let next = state.next_to_write;
        if let Some(parcel) = state.encoded.remove(&next) {
            state.next_to_write += 1;
            return Some(Task::Write(parcel));
        }
        let now = self.clock.monotonic();
        let wanted = state.commit_wanted.max(state.seal_wanted).max(state.write_wanted);
        let placed = self.chain.placed();
        let tick_over = now.saturating_sub(self.last_write) >= TICK;
        // There is no use in waiting idly for what compressing threads hold.
        if (wanted > placed || tick_over || state.closing) && state.has_changes() {
            return state.take_parcel().map(Task::Encode);
        }
        if state.commit_wanted > state.durable && placed >= state.commit_wanted {
            return Some(Task::Sync);
        }
        // What compressing threads hold is no reason to put these off: under load they always hold something.
        if placed > state.durable && now.saturating_sub(self.last_sync) >= self.config.sync_interval {
            return Some(Task::Sync);
        }
        if state.seal_wanted > self.chain.completed() && placed >= state.seal_wanted {
            return Some(Task::Complete);
        }
        if self.is_old() {
            return Some(Task::Complete);
        }
        (state.closing && state.is_drained() && !self.chain.has_changes()).then_some(Task::End)
    }

    fn is_old(&self) -> bool {
        self.chain.open_age().is_some_and(|(age, idle)| {
            let limit = if idle { self.config.seal_age * IDLE_AGE_FACTOR } else { self.config.seal_age };
            age >= limit
        })
    }

    fn perform(&mut self, task: Task) -> Result<(), JournalError> {
        match task {
            Task::Encode(parcel) => {
                let mut batch = std::mem::take(&mut self.spare);
                for (stamp, change) in &parcel.changes {
                    self.encoder.encode(*stamp, change, &mut batch);
                }
                self.shared
                    .put_encoded(parcel.number, EncodedParcel { batch, queue_bytes: parcel.queue_bytes });
            }
            Task::Write(mut parcel) => {
                self.last_write = self.clock.monotonic();
                self.chain.place(&mut parcel.batch)?;
                self.spare = parcel.batch;
                self.hand_on()?;
                let mut state = self.shared.lock();
                state.queue_bytes -= parcel.queue_bytes;
                self.report(&mut state);
                if state.callers_without_room > 0 {
                    self.shared.done.notify_all();
                }
            }
            Task::Sync => {
                self.chain.sync()?;
                self.last_sync = self.clock.monotonic();
                let mut state = self.shared.lock();
                self.report(&mut state);
            }
            Task::Complete => {
                self.chain.complete_segment()?;
                self.hand_on()?;
                let mut state = self.shared.lock();
                self.report(&mut state);
            }
            Task::End | Task::Abandon => {}
        }
        Ok(())
    }

    /// Tells callers what has changed.
    fn report(&self, state: &mut State) {
        (state.stored_bytes, state.syncs) = self.chain.statistics();
        let durable = self.chain.durable();
        if durable > state.durable {
            self.shared.set_durable(state, durable);
        }
    }

    /// Gives what happened to segments to the sealing thread; waits if it is behind.
    fn hand_on(&mut self) -> Result<(), JournalError> {
        for event in self.chain.take_events() {
            self.events.send(event).map_err(|_| JournalError::Poisoned {
                cause: "segments cannot be sealed any more".to_owned(),
            })?;
        }
        Ok(())
    }
}

/// Seals and publishes what the writing thread has completed.
pub struct SealThread {
    shared: Arc<Shared>,
    publisher: Box<dyn Publisher>,
    events: Receiver<ChainEvent>,
    cpu: CpuMeter,
}

impl SealThread {
    /// The thread, and where it takes its work from.
    pub fn new(shared: Arc<Shared>, publisher: Box<dyn Publisher>) -> (Sender<ChainEvent>, SealThread) {
        let (sender, events) = bounded(UNSEALED_MAX);
        (sender, SealThread { shared, publisher, events, cpu: CpuMeter::default() })
    }

    /// Until the writing thread has ended and nothing is left. If that failed, what it had completed is
    /// still published.
    pub fn run(mut self) {
        while let Ok(event) = self.events.recv() {
            if self.shared.lock().abandoned {
                return;
            }
            match publish_event(event, self.publisher.as_mut()) {
                Ok(Some(position)) => self.set_published(position),
                Ok(None) => {}
                Err(error) => {
                    self.shared.fail(error.in_full());
                    return;
                }
            }
            self.cpu.report(&self.shared);
        }
        let mut state = self.shared.lock();
        state.closed = state.closing && state.failure.is_none() && !state.abandoned;
        self.shared.compress_wake.notify_all();
        self.shared.done.notify_all();
    }

    fn set_published(&self, position: Position) {
        let mut state = self.shared.lock();
        state.published = state.published.max(position);
        self.shared.done.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{JournalIdentity, LogConfig, LogState, PublishError, SealedSegment, SegmentOpened};
    use super::*;
    use crate::io::{Disk, SimClock, SimDisk};
    use crate::journal::sequencer::Sequencer;
    use crate::types::{ChangeBody, Epoch, Mark, Time};

    struct Nobody;

    impl Publisher for Nobody {
        fn opened(&mut self, _: &SegmentOpened) {}

        fn sealed(&mut self, _: SealedSegment) -> Result<(), PublishError> {
            Ok(())
        }
    }

    #[test]
    fn what_is_being_compressed_does_not_put_off_a_seal_or_the_regular_sync() {
        let (disk, clock) = (Arc::new(SimDisk::new(1)), Arc::new(SimClock::new(Time(0))));
        disk.create_directories("segments".as_ref()).unwrap();
        let state = LogState {
            identity: JournalIdentity { repository: [1; 16], source: [2; 16] },
            directory: "segments".into(),
            epoch: Epoch(1),
            first_position: Position(1),
            last_time: Time(0),
        };
        let config = WriterConfig {
            log: LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() },
            ..WriterConfig::default()
        };
        let shared = Arc::new(Shared::new(Sequencer::new(Position(1), Time(0)), 1 << 20));
        let encoder = ChangeEncoder::new(1, state.identity.payload_seed()).unwrap();
        let chain = Chain::new(disk, clock.clone(), state, config.log.clone());
        let (events, _sealer) = SealThread::new(shared.clone(), Box::new(Nobody));
        let mut thread = WriteThread::new(shared.clone(), chain, encoder, events, clock.clone(), config);
        let mark = || ChangeBody::Mark(Mark::Heartbeat);

        let first = shared.append(mark(), clock.as_ref()).unwrap().position;
        let parcel = shared.lock().take_parcel().unwrap();
        thread.perform(Task::Encode(parcel)).unwrap();
        let write = thread.choose(&mut shared.lock()).unwrap();
        thread.perform(write).unwrap();
        shared.append(mark(), clock.as_ref()).unwrap();
        let held = shared.lock().take_parcel().unwrap();
        assert_eq!(held.number, 1);

        clock.advance(Duration::from_secs(2));
        assert!(matches!(thread.choose(&mut shared.lock()), Some(Task::Sync)), "the regular sync is due");
        thread.perform(Task::Sync).unwrap();
        assert_eq!(shared.durable(), first);
        assert!(thread.choose(&mut shared.lock()).is_none());
        shared.lock().seal_wanted = first;
        assert!(matches!(thread.choose(&mut shared.lock()), Some(Task::Complete)), "the seal is wanted");
    }
}
