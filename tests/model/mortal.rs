//! A writer that may die at any time, and what its repository owes to those it acknowledged changes to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pitgate::index::BlockCache;
use pitgate::io::{SimClock, SimDisk};
use pitgate::journal::{JournalError, Log, LogConfig};
use pitgate::repository::{
    Access, Beginning, History, Holder, Identity, RecoveryReport, Repository, RepositoryError, Seat, Source,
    SourceOptions, VerifyReport,
};
use pitgate::types::{ChangeBody, Mark, Position, Time};

use crate::generator::{Generator, Step};
use crate::reference::Reference;

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    Alive,
    /// The writer refused, for whatever reason; its life is over.
    Failed,
    /// The writer stopped in good order.
    Stopped,
}

/// One source through several lives of its writer.
///
/// `acknowledged <= ` the last position that each recovery keeps.
pub struct Mortal {
    pub disk: SimDisk,
    /// Everything appended; after a recovery, what it kept.
    pub reference: Reference,
    acknowledged: Position,
    /// The last position of each life that ended.
    epoch_ends: Vec<Position>,
    generator: Generator,
    clock: Arc<SimClock>,
    log_config: LogConfig,
    writer: Option<(Log, Seat)>,
    failed: bool,
    last_time: Time,
}

impl Mortal {
    pub fn new(seed: u64, segment_bytes: u64) -> Mortal {
        let disk = SimDisk::new(seed);
        let generator = Generator::new(seed);
        let repository =
            Repository::init(Arc::new(disk.clone()), Identity([7; 16])).expect("a new repository");
        let options =
            SourceOptions { identity: Identity([9; 16]), created: generator.now(), zone: "UTC".to_owned() };
        repository.create_source("his", options).expect("a new source");
        let mut mortal = Mortal {
            disk,
            reference: Reference::default(),
            acknowledged: Position::ZERO,
            epoch_ends: Vec::new(),
            clock: Arc::new(SimClock::new(generator.now())),
            generator,
            log_config: LogConfig { segment_bytes, ..LogConfig::default() },
            writer: None,
            failed: false,
            last_time: Time::MIN,
        };
        mortal.begin_life().expect("a first life on a sound disk");
        mortal
    }

    /// Takes the next step of the history.
    pub fn step(&mut self) -> Stepped {
        let step = self.generator.step();
        let stops = matches!(step, Step::Reopen);
        let outcome = match step {
            Step::Change(change) => self.append(change),
            Step::Commit => self.commit(),
            Step::Seal => self.seal(),
            Step::Advance { ns } => {
                match u64::try_from(ns) {
                    Ok(forward) => self.clock.advance(Duration::from_nanos(forward)),
                    Err(_) => self.clock.step_to(self.generator.now()),
                }
                Ok(())
            }
            Step::Reopen => self.append(ChangeBody::Mark(Mark::CleanStop)).and_then(|()| self.seal()),
        };
        self.failed = outcome.is_err();
        match (self.failed, stops) {
            (true, _) => Stepped::Failed,
            (false, true) => Stepped::Stopped,
            (false, false) => Stepped::Alive,
        }
    }

    /// The writer's process dies; `power_lost`: the machine with it.
    pub fn die(&mut self, power_lost: bool) {
        if power_lost {
            self.disk.crash()
        } else {
            self.disk.restart()
        }
        self.writer = None;
    }

    /// Another process recovers what is left and becomes the writer.
    pub fn begin_life(&mut self) -> Result<(), RepositoryError> {
        let source = self.source()?;
        let holder = Holder { pid: 1, host: "simulated".to_owned() };
        let seat = source.become_writer(&holder, &Arc::new(BlockCache::new(1 << 20)))?;
        let log = Log::start(
            Arc::new(self.disk.clone()),
            Arc::clone(&self.clock) as Arc<_>,
            seat.publisher(),
            seat.log_state.clone(),
            self.log_config.clone(),
        );
        self.writer = Some((log.expect("a log creates nothing at its start"), seat));
        Ok(())
    }

    /// Holds the recovery that made this life possible against what was acknowledged, and lets the reference
    /// forget what was lost.
    pub fn judge_recovery(&mut self) -> RecoveryReport {
        let (_, seat) = self.writer.as_ref().expect("a life under way");
        let recovery = seat.recovery.clone();
        let kept = recovery.durable_position;
        assert!(kept >= self.acknowledged, "{} was acknowledged, {kept} is left", self.acknowledged);
        assert_eq!(seat.history.end(), kept, "the end of the history");
        let lost = self.reference.changes().iter().filter(|(position, _, _)| *position > kept).count() as u64;
        assert!(recovery.discarded_changes <= lost, "{lost} changes are lost, and {recovery:?}");
        assert!(
            seat.log_state.first_position > self.reference.last_position(),
            "a position is given again: {} after {}",
            seat.log_state.first_position,
            self.reference.last_position()
        );
        self.reference.forget_after(kept);
        // Who sees a point after a recovery sees it after the next one too.
        self.acknowledged = kept;
        self.epoch_ends.push(self.reference.last_position());
        self.generator.resume(self.reference.tree_at(Position::MAX));
        self.failed = false;
        recovery
    }

    /// Positions of changes that nobody was promised anything of.
    pub fn unacknowledged(&self) -> BTreeSet<Position> {
        let positions = self.reference.changes().iter().map(|change| change.0);
        positions.filter(|position| *position > self.acknowledged).collect()
    }

    /// Whether nothing was appended since the last acknowledgement, nor failed.
    pub fn is_synced(&self) -> bool {
        !self.failed && self.acknowledged >= self.reference.last_position()
    }

    /// Whether an error says that the disk is full.
    pub fn is_full(&self, error: &RepositoryError) -> bool {
        let kind = match error {
            RepositoryError::Storage { source, .. } => source.kind(),
            RepositoryError::Journal { source: JournalError::Storage { source, .. }, .. } => source.kind(),
            _ => return false,
        };
        kind == std::io::ErrorKind::StorageFull
    }

    /// After a failure every call fails and nothing becomes durable any more.
    pub fn assert_poison_holds(&mut self) {
        if !self.failed {
            return;
        }
        let (log, _) = self.writer.as_mut().expect("a life under way");
        let durable = log.durable_position();
        for _ in 0..2 {
            assert!(log.append(&ChangeBody::Mark(Mark::Heartbeat)).is_err(), "a failed writer took a change");
            assert!(log.sync().is_err() && log.seal().is_err(), "a failed writer acknowledged");
        }
        assert_eq!(log.durable_position(), durable, "a failed writer made something durable");
    }

    /// How the life under way began.
    pub fn beginning(&self) -> &Beginning {
        &self.writer.as_ref().expect("a life under way").1.beginning
    }

    /// What a reader who comes now can mount.
    pub fn history(&self) -> Arc<History> {
        let source = self.source().expect("a source that was created");
        Arc::new(source.history(&Arc::new(BlockCache::new(1 << 20))).expect("the history of a sound source"))
    }

    pub fn verify(&self) -> VerifyReport {
        let repository = Repository::open(Arc::new(self.disk.clone()), Access::Read).expect("a repository");
        repository.verify(None, 1, &|_| {}).expect("a verification on a sound disk")
    }

    /// Positions at or before `end` that can be mounted.
    pub fn covered_positions(&self, end: Position) -> Vec<Position> {
        let mut covered = self.reference.covered_positions(&self.epoch_ends);
        covered.retain(|position| *position <= end);
        covered
    }

    pub fn now(&self) -> Time {
        self.generator.now()
    }

    fn source(&self) -> Result<Source, RepositoryError> {
        Repository::open(Arc::new(self.disk.clone()), Access::Write)?.source("his")
    }

    fn log(&mut self) -> &mut Log {
        &mut self.writer.as_mut().expect("a life under way").0
    }

    fn append(&mut self, change: ChangeBody) -> Result<(), JournalError> {
        // Times are whole milliseconds and never go back.
        let now = self.generator.now().0;
        let time = self.last_time.max(Time(now - now.rem_euclid(1_000_000)));
        let before = self.log().written_position();
        let appended = self.log().append(&change);
        let written = self.log().written_position();
        // A change that failed may be on the disk all the same.
        if appended.is_ok() || written > before {
            self.last_time = time;
            self.reference.record(written, time, change);
        }
        appended.map(drop)
    }

    fn commit(&mut self) -> Result<(), JournalError> {
        let durable = self.log().sync()?;
        assert_eq!(durable, self.log().written_position(), "a sync leaves something out");
        self.acknowledge(durable);
        Ok(())
    }

    fn seal(&mut self) -> Result<(), JournalError> {
        let sealed = self.log().seal()?;
        self.acknowledge(sealed);
        Ok(())
    }

    fn acknowledge(&mut self, position: Position) {
        assert!(position >= self.acknowledged || self.reference.changes().is_empty(), "{position} goes back");
        self.acknowledged = self.acknowledged.max(position.min(self.reference.last_position()));
    }
}
