//! Plays a history into a repository on a simulated disk, and keeps the reference beside it.

use std::sync::Arc;
use std::time::Duration;

use pitgate::index::BlockCache;
use pitgate::io::{Disk, SimClock, SimDisk};
use pitgate::journal::{Log, LogConfig, Writer, WriterConfig};
use pitgate::repository::{History, Holder, Identity, Repository, Seat, Source, SourceOptions};
use pitgate::types::{ChangeBody, ChangeSink, Mark, Position, Time};

use crate::generator::{Generator, Step};
use crate::reference::Reference;

/// What takes the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The journal's core: everything follows from the seed and the calls.
    Log,
    /// The writer with its threads, as capture uses it: what is batched and sealed when is chance.
    Writer,
}

enum Journal {
    Log(Box<Log>),
    Writer(Writer),
}

/// A source in a repository, its writer, and what is expected of it.
pub struct Player {
    /// The simulated disk, unless the player was given another.
    pub disk: SimDisk,
    storage: Arc<dyn Disk>,
    pub source: Source,
    pub index_cache: Arc<BlockCache>,
    pub reference: Reference,
    /// The last position of each life that ended.
    pub epoch_ends: Vec<Position>,
    /// From here on the journal's times are its own affair.
    pub clock_went_back_at: Option<Position>,
    generator: Generator,
    clock: Arc<SimClock>,
    log_config: LogConfig,
    via: Via,
    writer: Option<(Journal, Seat)>,
    last_time: Time,
    next_position: Position,
}

impl Player {
    /// A new repository with one source, its first writer at work. `segment_bytes` makes small segments.
    pub fn new(seed: u64, segment_bytes: u64) -> Player {
        Player::recording_via(Via::Log, seed, segment_bytes)
    }

    pub fn recording_via(via: Via, seed: u64, segment_bytes: u64) -> Player {
        let disk = SimDisk::new(seed);
        Player::recording_on(Arc::new(disk.clone()), disk, via, seed, segment_bytes)
    }

    /// A player whose repository lies on `storage`, an empty disk.
    pub fn on(storage: Arc<dyn Disk>, seed: u64, segment_bytes: u64) -> Player {
        Player::recording_on(storage, SimDisk::new(seed), Via::Writer, seed, segment_bytes)
    }

    fn recording_on(
        storage: Arc<dyn Disk>,
        disk: SimDisk,
        via: Via,
        seed: u64,
        segment_bytes: u64,
    ) -> Player {
        let generator = Generator::new(seed);
        let clock = Arc::new(SimClock::new(generator.now()));
        let repository = Repository::init(Arc::clone(&storage), Identity([7; 16])).expect("a new repository");
        let options =
            SourceOptions { identity: Identity([9; 16]), created: generator.now(), zone: "UTC".to_owned() };
        let source = repository.create_source("his", options).expect("a new source");
        let mut player = Player {
            disk,
            storage,
            source,
            index_cache: Arc::new(BlockCache::new(1 << 20)),
            reference: Reference::default(),
            epoch_ends: Vec::new(),
            clock_went_back_at: None,
            generator,
            clock,
            log_config: LogConfig { segment_bytes, ..LogConfig::default() },
            via,
            writer: None,
            last_time: Time::MIN,
            next_position: Position::ZERO,
        };
        player.begin_life();
        player
    }

    /// Takes the next step of the history.
    pub fn step(&mut self) {
        match self.generator.step() {
            Step::Change(change) => self.append(change),
            Step::Commit => self.sync(),
            Step::Seal => self.seal(),
            Step::Advance { ns } => match u64::try_from(ns) {
                Ok(forward) => self.clock.advance(Duration::from_nanos(forward)),
                Err(_) => {
                    self.clock.step_to(self.generator.now());
                    self.clock_went_back_at.get_or_insert(self.reference.last_position().next());
                }
            },
            Step::Reopen => {
                self.end_life();
                self.begin_life();
            }
        }
    }

    /// Makes everything appended so far durable.
    pub fn sync(&mut self) {
        let last = self.reference.last_position();
        match self.journal() {
            Journal::Log(log) => {
                log.sync().expect("a sync on a sound disk");
            }
            Journal::Writer(writer) => {
                writer.commit(last).expect("a commit on a sound disk");
                assert!(writer.durable() >= last, "committed to {last}, durable to {}", writer.durable());
            }
        }
    }

    /// Publishes everything appended so far.
    pub fn seal(&mut self) {
        let last = self.reference.last_position();
        let sealed = match self.journal() {
            Journal::Log(log) => log.seal().expect("a seal on a sound disk"),
            Journal::Writer(writer) => writer.seal().expect("a seal on a sound disk"),
        };
        assert!(sealed >= last, "sealed to {sealed}, recorded to {last}");
    }

    /// What can be mounted now.
    pub fn history(&self) -> Arc<History> {
        Arc::new(self.source.history(&self.index_cache).expect("the history of a sound source"))
    }

    /// See [`Reference::covered_positions`].
    pub fn covered_positions(&self) -> Vec<Position> {
        self.reference.covered_positions(&self.epoch_ends)
    }

    fn journal(&mut self) -> &mut Journal {
        &mut self.writer.as_mut().expect("a life under way").0
    }

    fn append(&mut self, change: ChangeBody) {
        let position = match self.journal() {
            Journal::Log(log) => log.append(&change).expect("an append on a sound disk"),
            Journal::Writer(writer) => writer.append(change.clone()).expect("an append on a sound disk"),
        };
        self.record(position, change);
    }

    fn record(&mut self, position: Position, change: ChangeBody) {
        // Times are whole milliseconds and never go back.
        let now = self.generator.now().0;
        self.last_time = self.last_time.max(Time(now - now.rem_euclid(1_000_000)));
        // Positions that it took for itself, to say that the clock stepped: nothing changes there.
        while self.next_position < position {
            let own = ChangeBody::Mark(Mark::Heartbeat);
            self.reference.record(self.next_position, self.last_time, own);
            self.next_position = self.next_position.next();
        }
        self.reference.record(position, self.last_time, change);
        self.next_position = position.next();
    }

    fn begin_life(&mut self) {
        let holder = Holder { pid: 1, host: "simulated".to_owned() };
        let seat = self.source.become_writer(&holder, &self.index_cache).expect("the seat of a sound source");
        let (disk, clock) = (Arc::clone(&self.storage), Arc::clone(&self.clock) as Arc<_>);
        let (state, config) = (seat.log_state.clone(), self.log_config.clone());
        self.next_position = state.first_position;
        let journal = match self.via {
            Via::Log => Log::start(disk, clock, seat.publisher(), state, config)
                .map(|log| Journal::Log(Box::new(log))),
            Via::Writer => {
                let config = WriterConfig { log: config, queue_bytes: 300_000, ..WriterConfig::default() };
                Writer::start(config, state, disk, clock, seat.publisher()).map(Journal::Writer)
            }
        };
        self.writer = Some((journal.expect("a journal on a sound disk"), seat));
    }

    fn end_life(&mut self) {
        if let Journal::Writer(writer) = self.journal() {
            let stop = writer.close().expect("a clean stop on a sound disk");
            self.record(stop, ChangeBody::Mark(Mark::CleanStop));
        } else {
            self.append(ChangeBody::Mark(Mark::CleanStop));
            self.seal();
        }
        self.epoch_ends.push(self.reference.last_position());
        self.writer = None;
    }
}
