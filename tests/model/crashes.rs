//! Crashes of writer and repository on a disk that loses, reorders and tears what was not synced, and that
//! fails: nothing acknowledged is lost, no byte is wrong, and recovery says exactly what it did.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::tz::TimeZone;
use pitgate::io::{Fault, Operation};
use pitgate::repository::Beginning;
use pitgate::types::{ChangeBody, Mark, Point, Position};
use pitgate::view::{View, ViewCache};

use crate::chance::Chance;
use crate::compare::compare;
use crate::links::compare_links;
use crate::mortal::{Mortal, Stepped};
use crate::seeds::play_seeds;

const STEPS_MAX: u64 = 150;
const VIEWS_PER_LIFE: usize = 3;

/// What happened, over all seeds: a test in which nothing happens proves nothing.
#[derive(Debug, Default)]
struct Tally {
    recoveries: AtomicU64,
    recoveries_cut_short: AtomicU64,
    recoveries_failed: AtomicU64,
    changes_lost: AtomicU64,
    changes_kept_unacknowledged: AtomicU64,
    tails_cut: AtomicU64,
    writers_refused: AtomicU64,
    clean_stops: AtomicU64,
}

impl Tally {
    fn assert_rich(&self, seeds: u64) {
        let counts = [
            &self.recoveries,
            &self.recoveries_cut_short,
            &self.recoveries_failed,
            &self.changes_lost,
            &self.changes_kept_unacknowledged,
            &self.tails_cut,
            &self.writers_refused,
            &self.clean_stops,
        ];
        // Each happens in every second history or more often; a tenth of that is no accident.
        let enough = counts.iter().all(|count| count.load(Ordering::Relaxed) >= seeds / 20);
        assert!(enough, "too little happened in {seeds} histories: {self:?}");
    }
}

fn count(counter: &AtomicU64, times: u64) {
    counter.fetch_add(times, Ordering::Relaxed);
}

/// How a life is made to end.
#[derive(Clone, Copy, Debug)]
enum Threat {
    /// Between two steps.
    Nothing,
    /// During an operation of the disk, by a kill.
    Kill,
    /// By a disk that fails, once or for good.
    Failure,
    /// By a disk without room.
    Full,
}

/// Plays `steps` steps of a history of several lives. Panics at the first fault.
fn play(seed: u64, steps: u64, tally: &Tally) {
    let mut chance = Chance::new(seed ^ 0x6372_6173_6865_7321);
    let mut mortal = Mortal::new(seed, *chance.choose(&[64 << 10, 256 << 10, 64 << 20]).expect("not empty"));
    threaten(&mortal, &mut chance);
    for _ in 0..steps {
        let stepped = mortal.step();
        let dies_unprovoked = chance.one_in(60);
        if stepped != Stepped::Alive || dies_unprovoked {
            count(&tally.writers_refused, u64::from(stepped == Stepped::Failed));
            end_life(&mut mortal, &mut chance, stepped == Stepped::Stopped, tally);
            threaten(&mortal, &mut chance);
        }
    }
    end_life(&mut mortal, &mut chance, false, tally);
}

fn threaten(mortal: &Mortal, chance: &mut Chance) {
    let threat = *chance
        .choose(&[Threat::Nothing, Threat::Kill, Threat::Kill, Threat::Failure, Threat::Full])
        .expect("");
    match threat {
        Threat::Nothing => {}
        Threat::Kill => mortal.disk.kill_after(chance.between(1, 120)),
        Threat::Failure => mortal.disk.inject(draw_fault(chance, 20)),
        Threat::Full => mortal.disk.set_available(Some(chance.below(300 << 10))),
    }
}

/// Ends the life under way, recovers (perhaps dying again while at it), and judges what is left.
fn end_life(mortal: &mut Mortal, chance: &mut Chance, stopped: bool, tally: &Tally) {
    // A poisoned writer stays so: nothing it says afterwards could be believed.
    mortal.assert_poison_holds();
    let was_synced = mortal.is_synced();
    let attempts = recover(mortal, chance, tally);
    let unacknowledged = mortal.unacknowledged();
    let recovery = mortal.judge_recovery();
    let kept = mortal.reference.changes().iter().filter(|change| unacknowledged.contains(&change.0)).count();
    count(&tally.recoveries, 1);
    count(&tally.changes_kept_unacknowledged, kept as u64);
    count(&tally.changes_lost, (unacknowledged.len() - kept) as u64);
    count(&tally.tails_cut, u64::from(recovery.discarded_bytes > 0));
    // A life that died before its first change may have changed files all the same.
    let is_clean = matches!(mortal.beginning(), Beginning::CleanStop { .. });
    count(&tally.clean_stops, u64::from(is_clean));
    assert!(is_clean || !stopped || attempts > 1, "stopped in good order, and {:?}", mortal.beginning());
    let stop = ChangeBody::Mark(Mark::CleanStop);
    let last = mortal.reference.changes().last().map(|(_, _, change)| change);
    assert!(!is_clean || last == Some(&stop), "{last:?} is the last change, and {:?}", mortal.beginning());
    if was_synced {
        assert_eq!(recovery.discarded_changes, 0, "everything was durable, and {recovery:?}");
    }
    assert_eq!(recovery.damages, [""; 0], "a crash is no damage");
    // Only a kill that is planned may disturb the judge's reads; his are not the writer's.
    mortal.disk.clear_faults();
    mortal.disk.set_available(None);
    look(mortal, chance, true);
    let report = mortal.verify();
    assert_eq!(report.damages, [], "a crash leaves no damage behind");
    assert_eq!(report.put_aside, [], "a crash puts nothing aside");
}

/// Lets one process after the other try to become the writer, some of them dying or failing too. Returns how
/// many it took.
fn recover(mortal: &mut Mortal, chance: &mut Chance, tally: &Tally) -> u32 {
    for attempt in 1.. {
        mortal.die(chance.one_in(2));
        if chance.one_in(3) {
            // Readers do not wait for a writer: what is published can be mounted as it lies.
            look(mortal, chance, false);
        }
        let trouble = chance.below(6);
        match trouble {
            0 | 1 => mortal.disk.kill_after(chance.between(1, 80)),
            2 => mortal.disk.inject(draw_fault(chance, 40)),
            _ => {}
        }
        match mortal.begin_life() {
            Ok(()) => return attempt,
            Err(_) if mortal.disk.is_killed() => count(&tally.recoveries_cut_short, 1),
            // Storage that fails is no damage, and nothing is cut because of it.
            Err(_) if trouble == 2 => count(&tally.recoveries_failed, 1),
            // A full disk: what recovery needs of room, it may ask for.
            Err(error) if mortal.is_full(&error) => mortal.disk.set_available(None),
            Err(error) => panic!("recovery failed: {error}"),
        }
    }
    unreachable!("the loop ends only by returning")
}

fn draw_fault(chance: &mut Chance, after_max: u64) -> Fault {
    let operations = [
        Operation::Write,
        Operation::Sync,
        Operation::Sync,
        Operation::SyncDirectory,
        Operation::Name,
        Operation::Read,
        Operation::Read,
    ];
    let operation = *chance.choose(&operations).expect("not empty");
    let times = if chance.one_in(3) { u64::MAX } else { 1 };
    Fault { operation, after: chance.below(after_max), times }
}

/// Compares views at some of the positions that are offered with the reference. `recovered`: everything that
/// is left must be offered; otherwise segments may still lie open among sealed ones.
fn look(mortal: &mut Mortal, chance: &mut Chance, recovered: bool) {
    let history = mortal.history();
    let end = history.end();
    let offered = |position| {
        history
            .ranges()
            .iter()
            .any(|range| range.first.position <= position && position <= range.last.position)
    };
    let mut covered = mortal.covered_positions(end);
    if recovered {
        assert!(end >= mortal.reference.last_position(), "changes are missing behind {end}");
    } else {
        covered.retain(|position| offered(*position));
    }
    let cache = ViewCache::new(1 << 20);
    for _ in 0..VIEWS_PER_LIFE {
        let Some(&position) = chance.choose(&covered) else { break };
        let view = View::open(Arc::clone(&history), position, Arc::clone(&cache))
            .unwrap_or_else(|error| panic!("no view at {position}: {error}"));
        check(&view, mortal, position, chance);
    }
    if recovered && end > Position::ZERO {
        let view = View::open_at_end(Arc::clone(&history), Arc::clone(&cache)).expect("the view at the end");
        check(&view, mortal, end, chance);
    }
    let latest = history.resolve(&Point::Latest, mortal.now(), &TimeZone::UTC);
    let latest = latest.ok().map(|resolved| resolved.position);
    // A clock step that is left without the change that came with it is a position of its own.
    let is_step = latest.is_some_and(|latest| {
        offered(latest) && !mortal.reference.changes().iter().any(|change| change.0 == latest)
    });
    let before = covered.last().copied();
    assert!(latest == before || is_step && before.is_some(), "latest is {latest:?}, {before:?} expected");
}

fn check(view: &View, mortal: &Mortal, position: Position, chance: &mut Chance) {
    let tree = mortal.reference.tree_at(position);
    if tree.roots.is_empty() {
        return;
    }
    let compared = compare(view, &tree, chance).and_then(|()| compare_links(view, &tree));
    compared.unwrap_or_else(|difference| panic!("view at {position}: {difference}"));
}

/// `PITGATE_SEEDS` sets how many; `PITGATE_SEED` replays one, its first `PITGATE_STEPS`.
#[test]
fn nothing_acknowledged_is_lost() {
    let tally = Tally::default();
    let played = play_seeds(1_200, STEPS_MAX, |seed, steps| play(seed, steps, &tally));
    if played > 1 {
        tally.assert_rich(played);
    }
}
