//! Kills, power cuts and failing storage, over several lives of a writer.

use super::*;
use crate::io::{Fault, Operation};

/// Seeds played; `PITGATE_SEEDS` for more, `PITGATE_SEED` for one again.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("PITGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PITGATE_SEEDS").unwrap_or(400),
    }
}

struct World {
    disk: SimDisk,
    source: Source,
    clock: Arc<SimClock>,
    chances: Chances,
    replay: Replay,
    /// Said to be durable: not to be lost.
    durable: Position,
    /// The highest ever given.
    given: Position,
}

impl World {
    fn new(seed: u64) -> World {
        let disk = SimDisk::new(seed);
        World {
            source: new_source(&disk),
            disk,
            clock: Arc::new(SimClock::new(START)),
            chances: Chances::new(seed),
            replay: Replay::default(),
            durable: Position::ZERO,
            given: Position::ZERO,
        }
    }

    /// A life that goes on until its disk fails it or it had enough.
    fn live(&mut self) {
        let Ok(mut life) = Life::try_begin(&self.source, &self.clock) else { return };
        self.chances.go_on_from(&life.seat.namespace);
        for _ in 0..self.chances.random.below(80) {
            self.clock.advance(Duration::from_millis(700));
            let done = match self.chances.random.below(10) {
                0 => life.log.sync(),
                1 => life.log.seal(),
                _ => {
                    let change = self.chances.draw();
                    let appended = life.log.append(&change);
                    if let Ok(position) = appended {
                        assert!(position > self.given, "{position} was given before");
                        self.given = position;
                        self.replay.changes.push((position, change));
                    }
                    appended.map(|_| self.durable)
                }
            };
            match done {
                // A log that gave no position yet names the one before its first.
                Ok(durable) if durable < life.seat.log_state.first_position => {}
                Ok(durable) => self.durable = self.durable.max(durable),
                Err(_) => return,
            }
        }
    }

    fn break_something(&mut self) {
        let random = &mut self.chances.random;
        match random.below(4) {
            0 => {
                let operation = *random.pick(&[
                    Operation::Write,
                    Operation::Sync,
                    Operation::SyncDirectory,
                    Operation::Name,
                ]);
                self.disk.inject(Fault { operation, after: random.below(60), times: 1 + random.below(3) });
            }
            1 => self.disk.set_available(Some(random.below(3 << 20))),
            _ => self.disk.kill_after(1 + random.below(250)),
        }
    }

    fn mend(&mut self) {
        self.disk.clear_faults();
        self.disk.set_available(None);
        if self.chances.random.chance(2, 3) { self.disk.crash() } else { self.disk.restart() }
    }

    /// That a history is what was recorded, up to its end.
    fn check(&self, history: &History) {
        assert_eq!(history.damages(), [] as [&str; 0], "a crash alone damages nothing");
        let end = history.end();
        assert_eq!(history.namespace_at(end).expect("sound"), self.replay.at(end), "{end}");
        for (position, _) in
            self.replay.changes.iter().take_while(|(position, _)| *position <= end).step_by(9)
        {
            assert_eq!(
                history.namespace_at(*position).expect("sound"),
                self.replay.at(*position),
                "{position}"
            );
        }
        let bookmarks = self.replay.changes.iter().filter_map(|(position, change)| match change {
            ChangeBody::Mark(Mark::Bookmark { name }) if *position <= end => Some((name.as_str(), *position)),
            _ => None,
        });
        let kept = history.bookmarks().iter().map(|bookmark| (bookmark.name.as_str(), bookmark.at.position));
        assert!(bookmarks.eq(kept));
    }
}

#[test]
fn nothing_published_or_synced_is_lost_and_no_position_is_given_twice() {
    for seed in seeds() {
        println!("PITGATE_SEED={seed}");
        let mut world = World::new(seed);
        let mut last_epoch = 0;
        for _ in 0..4 {
            if world.chances.random.chance(4, 5) {
                world.break_something();
            }
            world.live();
            world.mend();

            // Before recovery a reader sees a part, and that is right.
            world.check(&world.source.history(&cache()).expect("a readable manifest"));
            if world.chances.random.chance(1, 4) {
                world.disk.kill_after(1 + world.chances.random.below(40));
                let _ = world.source.seal_abandoned(&holder(), &cache());
                world.mend();
            }
            if world.chances.random.chance(1, 2) {
                let report = world.source.seal_abandoned(&holder(), &cache()).expect("a sound disk");
                assert_eq!(report.damages, [] as [&str; 0]);
            }
            let seat = world.source.become_writer(&holder(), &cache()).expect("a sound disk");
            let end = seat.history.end();
            assert!(end >= world.durable, "{end} kept of {}", world.durable);
            assert!(end <= world.given);
            assert!(seat.log_state.first_position > world.given);
            assert!(seat.log_state.epoch.0 > last_epoch);
            assert_eq!(seat.recovery.durable_position, end);
            assert_eq!(seat.recovery.damages, [] as [&str; 0]);
            last_epoch = seat.log_state.epoch.0;
            world.check(&seat.history);
            assert_eq!(seat.namespace, world.replay.at(end));
            assert_eq!(seat.beginning == Beginning::First, seat.history.segments().is_empty());
            world.replay.changes.retain(|(position, _)| *position <= end);
            world.durable = end;
        }
        let report = world.source.repository().verify(None, 1, &|_| {}).expect("a sound disk");
        assert_eq!(report.damages, []);
    }
}

#[test]
fn a_manifest_of_many_segments_stays_short_and_right() {
    let disk = SimDisk::new(3);
    let source = new_source(&disk);
    let mut life = Life::begin(&source, &Arc::new(SimClock::new(START)));
    let mut chances = Chances::new(3);
    let mut replay = Replay::default();
    for _ in 0..300 {
        let change = chances.draw();
        replay.changes.push((life.record(&change), change));
        life.seal();
    }
    let history = source.history(&cache()).unwrap();
    assert_eq!(history.segments().len(), 300);
    let objects = disk.files().iter().filter(|(path, _)| path.to_string_lossy().contains("manifest")).count();
    assert!(objects <= 140, "{objects} manifest objects");
    for (position, _) in replay.changes.iter().step_by(13) {
        assert_eq!(history.namespace_at(*position).unwrap(), replay.at(*position));
    }
    let last = history.snapshots().last().unwrap().position;
    let behind = history.segments().iter().filter(|segment| segment.last().position > last).count();
    assert!(behind <= 16, "a mount opens {behind} segments");
}
