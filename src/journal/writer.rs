//! The journal with its threads: a short critical section for callers, compression and storage elsewhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::chain::Chain;
use super::encode::{Batch, ChangeEncoder};
use super::log::check_well_formed;
use super::queue::{EncodedParcel, Shared};
use super::sequencer::Sequencer;
use super::write_thread::{SealThread, WriteThread};
use super::{JournalError, LogConfig, LogState, Publisher};
use crate::io::{Clock, Disk};
use crate::types::{ChangeBody, ChangeSink, Mark, Position, SinkError, Time, WriterStatus};

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
    /// A segment with changes is sealed at this age; one with only heartbeats at twelve times this age.
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
pub struct Writer {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    durability: Durability,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the threads of a new epoch. Nothing is created before the first change.
    ///
    /// # Errors
    /// `JournalError::Storage`.
    pub fn start(
        config: WriterConfig,
        state: LogState,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        publisher: Box<dyn Publisher>,
    ) -> Result<Writer, JournalError> {
        let sequencer = Sequencer::new(state.first_position, state.last_time);
        let shared = Arc::new(Shared::new(sequencer, config.queue_bytes));
        let payload_seed = state.identity.payload_seed();
        let level = config.log.zstd_level;
        let writer = Writer {
            shared: shared.clone(),
            clock: clock.clone(),
            durability: config.durability,
            threads: Mutex::new(Vec::new()),
        };
        for _ in 0..config.compress_threads {
            let encoder = ChangeEncoder::new(level, payload_seed)?;
            let shared = shared.clone();
            writer.spawn("pitgate-compress", move || compress(&shared, encoder))?;
        }
        let (events, sealer) = SealThread::new(shared.clone(), publisher);
        writer.spawn("pitgate-seal", move || sealer.run())?;
        let encoder = ChangeEncoder::new(level, payload_seed)?;
        let chain = Chain::new(disk, clock.clone(), state, config.log.clone());
        let write_thread = WriteThread::new(shared, chain, encoder, events, clock, config);
        writer.spawn("pitgate-journal", move || write_thread.run())?;
        Ok(writer)
    }

    /// As [`ChangeSink::append`], and tells the time given too.
    ///
    /// # Errors
    /// As [`ChangeSink::append`].
    pub fn append_timed(&self, change: ChangeBody) -> Result<(Position, Time), SinkError> {
        check_well_formed(&change).map_err(|what| SinkError::Malformed { what })?;
        let stamp = self.shared.append(change, self.clock.as_ref())?;
        Ok((stamp.position, stamp.time))
    }

    /// Records a clean stop, seals and publishes what is open and ends the threads; returns the position of
    /// the stop. Calls after it fail with `SinkError::Closed`. If the stop is recorded already, it waits for
    /// the rest.
    ///
    /// # Errors
    /// The writer's failure.
    pub fn close(&self) -> Result<Position, SinkError> {
        let position = match self.append_timed(ChangeBody::Mark(Mark::CleanStop)) {
            Ok((position, _)) => position,
            Err(SinkError::Closed) => self.written(),
            Err(error) => return Err(error),
        };
        let mut state = self.shared.lock();
        state.seal_wanted = state.sequencer.last_position();
        self.shared.wake_log(&state);
        while !state.closed && state.failure.is_none() {
            self.shared.wait_done(&mut state);
        }
        let outcome = state.check_sound();
        drop(state);
        self.join();
        outcome.map(|()| position)
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), JournalError> {
        let guard = FailOnPanic { shared: self.shared.clone() };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let guard = guard;
            body();
            drop(guard);
        });
        let thread =
            thread.map_err(|source| JournalError::storage("start", "a thread of the writer", source))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the writer panicked");
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.abandoned = true;
        self.shared.log_wake.notify_all();
        self.shared.compress_wake.notify_all();
        self.shared.done.notify_all();
        drop(state);
        self.join();
    }
}

impl ChangeSink for Writer {
    fn append(&self, change: ChangeBody) -> Result<Position, SinkError> {
        self.append_timed(change).map(|(position, _)| position)
    }

    fn commit(&self, position: Position) -> Result<(), SinkError> {
        if self.durability == Durability::Async {
            return self.shared.lock().check_sound();
        }
        if self.shared.durable() >= position {
            return Ok(());
        }
        let mut state = self.shared.lock();
        let position = position.min(state.sequencer.last_position());
        self.shared.want_commit(&mut state, position);
        while state.durable < position {
            state.check_sound()?;
            if state.abandoned {
                return Err(SinkError::Closed);
            }
            self.shared.wait_done(&mut state);
        }
        Ok(())
    }

    fn request_commit(&self, position: Position) {
        if self.durability == Durability::Fsync && self.shared.durable() < position {
            self.shared.want_commit(&mut self.shared.lock(), position);
        }
    }

    fn durable(&self) -> Position {
        self.shared.durable()
    }

    fn written(&self) -> Position {
        self.shared.written()
    }

    fn seal(&self) -> Result<Position, SinkError> {
        let mut state = self.shared.lock();
        let target = state.sequencer.last_position();
        if target > state.seal_wanted {
            state.check_open()?;
            state.seal_wanted = target;
            self.shared.wake_log(&state);
        }
        while state.published < target {
            state.check_sound()?;
            if state.abandoned {
                return Err(SinkError::Closed);
            }
            self.shared.wait_done(&mut state);
        }
        Ok(state.published)
    }

    fn status(&self) -> WriterStatus {
        let monotonic = self.clock.monotonic();
        let state = self.shared.lock();
        WriterStatus {
            written: state.sequencer.last_position(),
            written_time: state.sequencer.last_time(),
            durable: state.durable,
            lag: state.lag(monotonic),
            queue_bytes: state.queue_bytes,
            queue_bytes_max: self.shared.queue_bytes_max,
            captured_bytes: state.captured_bytes,
            stored_bytes: state.stored_bytes,
            cpu: Duration::from_nanos(self.shared.cpu_ns.load(Ordering::Relaxed)),
            syncs: state.syncs,
            clock_held: state.sequencer.is_held(),
            failure: state.failure.clone(),
        }
    }
}

/// A thread that dies of a broken invariant must not leave callers waiting.
struct FailOnPanic {
    shared: Arc<Shared>,
}

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.fail("a thread of the writer panicked".to_owned());
        }
    }
}

/// A compressing thread.
fn compress(shared: &Shared, mut encoder: ChangeEncoder) {
    let mut cpu = CpuMeter::default();
    while let Some(parcel) = shared.next_parcel() {
        let mut batch = Batch::default();
        for (stamp, change) in &parcel.changes {
            encoder.encode(*stamp, change, &mut batch);
        }
        shared.put_encoded(parcel.number, EncodedParcel { batch, queue_bytes: parcel.queue_bytes });
        cpu.report(shared);
    }
}

/// Adds a thread's processor time to the writer's.
#[derive(Default)]
pub(super) struct CpuMeter {
    reported_ns: u64,
}

impl CpuMeter {
    pub fn report(&mut self, shared: &Shared) {
        let used_ns = crate::io::thread_cpu_time().as_nanos() as u64;
        shared.cpu_ns.fetch_add(used_ns.saturating_sub(self.reported_ns), Ordering::Relaxed);
        self.reported_ns = used_ns;
    }
}
