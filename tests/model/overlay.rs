//! Overlays judged by the naive model: any operations, reopening, kills, power loss, failing and full disks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pitgate::io::{Clock, Disk, Fault, SimClock, SimDisk};
use pitgate::overlay::{Overlay, OverlayError, OverlayIdentity, OverlayOptions};
use pitgate::types::{Image, Position, Time};

use crate::chance::Chance;
use crate::compare::compare;
use crate::generator::{Generator, Step};
use crate::overlay_model::{Model, perform, refusal};
use crate::reference::Tree;
use crate::tree_image::TreeImage;

const DIRECTORY: &str = "mounts/overlay";
const IDENTITY: OverlayIdentity =
    OverlayIdentity { overlay: [1; 16], repository: [2; 16], source: [3; 16], position: Position(7) };

/// An overlay over a random tree, and the model beside it.
struct Trial {
    disk: SimDisk,
    clock: Arc<SimClock>,
    base: Arc<dyn Image>,
    overlay: Overlay,
    chance: Chance,
    model: Model,
    /// The model after each record of the log; the first is the base.
    after_records: Vec<Model>,
    /// How many records the last successful sync covered.
    synced: usize,
    /// How many records were acknowledged.
    acknowledged: usize,
}

impl Trial {
    fn new(seed: u64) -> Trial {
        let mut chance = Chance::new(seed);
        let tree = random_tree(seed, &mut chance);
        let disk = SimDisk::new(seed);
        let clock = Arc::new(SimClock::new(Time(1_790_000_000_000_000_000)));
        let base: Arc<dyn Image> = Arc::new(TreeImage(tree.clone()));
        let overlay = Overlay::create(
            Arc::new(disk.clone()),
            Path::new(DIRECTORY),
            Arc::clone(&base),
            IDENTITY,
            OverlayOptions::default(),
            Arc::clone(&clock) as Arc<dyn Clock>,
        )
        .expect("the disk is sound");
        let model = Model::new(tree);
        let after_records = vec![model.clone()];
        Trial { disk, clock, base, overlay, chance, model, after_records, synced: 0, acknowledged: 0 }
    }

    /// One random operation on both; `Err` if storage failed.
    fn step(&mut self) -> Result<(), OverlayError> {
        if self.chance.one_in(12) {
            let wanted = self.acknowledged;
            self.overlay.sync()?;
            self.synced = wanted;
            return Ok(());
        }
        let operation = self.model.draw(&mut self.chance);
        self.clock.advance(Duration::from_nanos(self.chance.between(1, 5_000_000_000)));
        let now = self.clock.now();
        let mut expected = self.model.clone();
        let verdict = expected.apply(&operation, now);
        let result = perform(&self.overlay, &operation);
        match (result, verdict) {
            (Ok(()), Ok(changes)) => {
                self.model = expected;
                if changes {
                    self.after_records.push(self.model.clone());
                    self.acknowledged += 1;
                }
                Ok(())
            }
            (Err(error @ OverlayError::NoSpace { .. }), Ok(true)) => Err(error),
            (Err(error), Ok(changes)) if refusal(&error).is_none() => {
                // It may have been recorded or not.
                if changes {
                    self.after_records.push(expected);
                }
                Err(error)
            }
            (Err(error), Err(reason)) if refusal(&error) == Some(reason) => Ok(()),
            (result, verdict) => panic!("{operation:?}: overlay {result:?}, model {verdict:?}"),
        }
    }

    fn steps(&mut self, count: u64) {
        for _ in 0..count {
            self.step().expect("the disk is sound");
        }
    }

    fn open(&self) -> Result<(Overlay, pitgate::overlay::OverlayRecovery), OverlayError> {
        Overlay::open(
            Arc::new(self.disk.clone()),
            Path::new(DIRECTORY),
            Arc::clone(&self.base),
            IDENTITY,
            OverlayOptions::default(),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
        )
    }

    /// Opens again after the process died; what is found must be the model after at least `least` records.
    fn reopen(&mut self, least: usize) -> pitgate::overlay::OverlayRecovery {
        let (overlay, recovery) = self.open().expect("what was synced is whole");
        let records = recovery.records as usize;
        assert!(records >= least, "{records} records are left of {least} that were acknowledged");
        assert!(records < self.after_records.len(), "{records} records, more than were ever written");
        self.overlay = overlay;
        self.after_records.truncate(records + 1);
        self.model = self.after_records[records].clone();
        self.model.forget_nameless();
        (self.synced, self.acknowledged) = (records, records);
        recovery
    }

    fn compare(&mut self) {
        if let Err(difference) = compare(&self.overlay, &self.model.tree, &mut self.chance) {
            panic!("{difference}");
        }
        for (&file, held) in &self.model.nameless {
            assert_eq!(self.overlay.status(file).expect("an open file has a status").size, held.size);
            for start in held.pages.keys().map(|page| page * 4096).chain([held.size.saturating_sub(9)]) {
                let mut bytes = vec![0xaa; 5000];
                let read = self.overlay.read_at(file, start, &mut bytes).expect("an open file is readable");
                assert!(bytes[..read] == held.read(start, bytes.len())[..], "bytes of the nameless {file:?}");
            }
        }
    }
}

fn random_tree(seed: u64, chance: &mut Chance) -> Tree {
    let mut generator = Generator::new(seed);
    let mut changes = 0;
    let wanted = chance.between(5, 120);
    while changes < wanted {
        if let Step::Change(_) = generator.step() {
            changes += 1;
        }
    }
    let mut tree = generator.live().clone();
    // The image holds only what has a name.
    let named: Vec<_> = tree.files.keys().copied().collect();
    let roots: Vec<_> = tree.roots.iter().map(|root| root.file).collect();
    for file in named {
        if !roots.contains(&file) && tree.names_of(file).is_empty() {
            tree.files.remove(&file);
        }
    }
    tree
}

/// Runs `trial` for many seeds; a failure names the seed, and PITGATE_SEED replays it alone.
fn for_seeds(usual: u64, trial: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    if let Some(seed) = number("PITGATE_SEED") {
        return trial(seed);
    }
    for seed in 0..number("PITGATE_SEEDS").unwrap_or(usual) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| trial(seed)));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}: replay with PITGATE_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn an_overlay_shows_what_programs_did_to_it() {
    for_seeds(200, |seed| {
        let mut trial = Trial::new(seed);
        for _ in 0..4 {
            trial.steps(25);
            trial.compare();
        }
        if seed % 2 == 0 {
            trial.overlay.close().expect("the disk is sound");
            trial.after_records.push(trial.model.clone());
            trial.acknowledged += 1;
        }
        trial.disk.restart();
        let recovery = trial.reopen(trial.acknowledged);
        assert_eq!(recovery.discarded_bytes, 0);
        trial.compare();
        trial.steps(20);
        trial.compare();
    });
}

#[test]
fn what_an_overlay_synced_survives_kills_and_power_loss() {
    let (lives, torn, lost) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    for_seeds(1000, |seed| {
        let mut trial = Trial::new(seed);
        for _ in 0..3 {
            let operations = trial.chance.between(1, 60);
            trial.disk.kill_after(operations);
            while trial.step().is_ok() {}
            assert!(trial.disk.is_killed());
            let least = if trial.chance.one_in(4) {
                trial.disk.restart();
                trial.acknowledged
            } else {
                trial.disk.crash();
                trial.synced
            };
            let written = trial.acknowledged;
            let recovery = trial.reopen(least);
            trial.compare();
            lives.fetch_add(1, Relaxed);
            torn.fetch_add(u64::from(recovery.discarded_bytes > 0), Relaxed);
            lost.fetch_add(u64::from((recovery.records as usize) < written), Relaxed);
        }
    });
    let (lives, torn, lost) = (lives.into_inner(), torn.into_inner(), lost.into_inner());
    let enough = lives < 30 || (torn * 10 > lives && lost * 10 > lives);
    assert!(enough, "the simulated disk spared too much: of {lives} logs {torn} torn, {lost} shortened");
}

#[test]
fn a_failed_write_or_sync_ends_an_overlays_changes_for_good() {
    for_seeds(200, |seed| {
        let mut trial = Trial::new(seed);
        trial.steps(20);
        let operation =
            if seed % 2 == 0 { pitgate::io::Operation::Sync } else { pitgate::io::Operation::Write };
        trial.disk.inject(Fault::once(operation));
        let first = loop {
            if let Err(error) = trial.step() {
                break error;
            }
        };
        assert!(matches!(first, OverlayError::Storage { .. }), "{first}");
        assert!(matches!(trial.overlay.sync(), Err(OverlayError::Poisoned { .. })));
        loop {
            match trial.step() {
                Ok(()) => {}
                Err(OverlayError::Poisoned { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        if trial.chance.one_in(2) {
            // The next process can read what the failed sync did not store; from then on it must stay.
            trial.disk.restart();
            trial.reopen(trial.acknowledged);
            trial.compare();
        }
        trial.disk.crash();
        trial.reopen(trial.synced);
        trial.compare();
    });
}

#[test]
fn a_full_disk_refuses_changes_and_harms_nothing() {
    for_seeds(60, |seed| {
        let mut trial = Trial::new(seed);
        trial.steps(10);
        trial.disk.set_available(Some(trial.chance.below(100_000)));
        let mut refused = 0;
        for _ in 0..2000 {
            match trial.step() {
                Ok(()) => {}
                Err(OverlayError::NoSpace { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            if refused == 20 {
                break;
            }
        }
        assert!(refused > 0, "the disk was never full");
        trial.compare();
        trial.disk.set_available(None);
        trial.steps(20);
        trial.compare();
        trial.overlay.sync().expect("there is room again");
        trial.synced = trial.acknowledged;
        trial.disk.crash();
        trial.reopen(trial.synced);
        trial.compare();
    });
}

#[test]
fn damage_in_an_overlay_is_an_error_and_never_other_bytes() {
    let log = Path::new(DIRECTORY).join("overlay.log");
    for_seeds(200, |seed| {
        let mut trial = Trial::new(seed);
        trial.steps(40);
        trial.overlay.close().expect("the disk is sound");
        trial.disk.restart();
        let len = trial.disk.open(&log).and_then(|file| file.len()).expect("the log is there");
        let offset = trial.chance.below(len);
        let mut byte = [0];
        trial.disk.open(&log).and_then(|file| file.read_at(offset, &mut byte)).expect("the log is there");
        byte[0] ^= 1 << trial.chance.below(8);
        trial.disk.overwrite(&log, offset, &byte).expect("the log is there");
        match trial.open() {
            Err(OverlayError::Damaged { .. } | OverlayError::NewerVersion { .. }) => {}
            Err(error) => panic!("a flipped bit at {offset} of {len}: {error}"),
            // The record that says how far all was durable is the last: what is wrong with it costs nothing.
            Ok((overlay, recovery)) => {
                let close_is_hit = recovery.records as usize == trial.acknowledged;
                assert!(close_is_hit || recovery.records as usize == trial.acknowledged + 1);
                trial.overlay = overlay;
                if let Err(difference) = compare(&trial.overlay, &trial.model.tree, &mut trial.chance) {
                    let text = difference.to_string();
                    assert!(text.contains("the image failed: damaged"), "{text}");
                }
            }
        }
    });
}

#[test]
fn an_overlay_opens_only_over_the_view_it_was_made_for() {
    let trial = Trial::new(1);
    let directory = Path::new(DIRECTORY);
    let open = |identity| {
        let (disk, base) = (Arc::new(trial.disk.clone()), Arc::clone(&trial.base));
        let clock = Arc::clone(&trial.clock) as Arc<dyn Clock>;
        Overlay::open(disk, directory, base, identity, OverlayOptions::default(), clock)
    };
    assert!(matches!(open(IDENTITY).err(), Some(OverlayError::InUse { .. })), "it is open");
    trial.disk.restart();
    for other in [
        OverlayIdentity { position: Position(8), ..IDENTITY },
        OverlayIdentity { source: [9; 16], ..IDENTITY },
        OverlayIdentity { repository: [9; 16], ..IDENTITY },
    ] {
        assert!(matches!(open(other).err(), Some(OverlayError::OtherView { .. })), "{other:?}");
    }
    assert_eq!(Overlay::identity_at(&trial.disk, directory).expect("sound"), Some(IDENTITY));
    assert!(open(OverlayIdentity { overlay: [0; 16], ..IDENTITY }).is_ok());
}
