//! Views of random histories at random positions, compared with the reference in every byte and attribute.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pitgate::io::RealDisk;
use pitgate::types::Position;
use pitgate::view::{View, ViewCache};

use crate::chance::Chance;
use crate::compare::compare;
use crate::links::compare_links;
use crate::player::{Player, Via};
use crate::points::{check_points, check_refusals};

const STEPS_MAX: u64 = 160;
const VIEWS_PER_LOOK: usize = 3;

/// Plays `steps` steps, looking at random positions now and then. Panics at the first fault.
fn play(seed: u64, steps: u64) {
    let mut chance = Chance::new(seed ^ 0x7669_6577);
    let segment_bytes = *chance.choose(&[64 << 10, 256 << 10, 1 << 20, 64 << 20]).expect("not empty");
    let via = if seed.is_multiple_of(4) { Via::Writer } else { Via::Log };
    let mut player = Player::recording_via(via, seed, segment_bytes);
    let cache = ViewCache::new(*chance.choose(&[0, 300_000, 64 << 20]).expect("not empty"));
    watch(&mut player, steps, &cache, &mut chance);
}

fn watch(player: &mut Player, steps: u64, cache: &Arc<ViewCache>, chance: &mut Chance) {
    let mut kept: Option<(View, Position)> = None;
    for step in 0..steps {
        player.step();
        if step + 1 == steps || chance.one_in(60) {
            look(player, cache, chance, &mut kept);
        }
    }
    // Whatever was recorded since, a view has not changed.
    if let Some((view, position)) = kept {
        check(&view, player, position, chance);
    }
}

fn look(
    player: &mut Player,
    cache: &Arc<ViewCache>,
    chance: &mut Chance,
    kept: &mut Option<(View, Position)>,
) {
    player.seal();
    let history = player.history();
    let covered = player.covered_positions();
    for _ in 0..VIEWS_PER_LOOK {
        let Some(&position) = chance.choose(&covered) else { break };
        let view = View::open(Arc::clone(&history), position, Arc::clone(cache))
            .unwrap_or_else(|error| panic!("no view at {position}: {error}"));
        check(&view, player, position, chance);
        if kept.is_none() || chance.one_in(4) {
            *kept = Some((view, position));
        }
    }
    let end = player.reference.last_position();
    assert_eq!(history.end(), end, "the end of the history");
    let view = View::open_at_end(Arc::clone(&history), Arc::clone(cache)).expect("the view at the end");
    check(&view, player, end, chance);

    check_points(player, &history, chance);
    check_refusals(player, &history, cache, chance);
}

fn check(view: &View, player: &Player, position: Position, chance: &mut Chance) {
    let tree = player.reference.tree_at(position);
    let compared = compare(view, &tree, chance).and_then(|()| compare_links(view, &tree));
    compared.unwrap_or_else(|difference| panic!("view at {position}: {difference}"));
}

/// The simulated disk is no better than the real one.
#[test]
fn histories_on_a_real_disk_equal_the_reference() {
    for seed in 0..6 {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(directory.path()).expect("a real disk");
        let mut player = Player::on(Arc::new(disk), seed, 256 << 10);
        watch(&mut player, 100, &ViewCache::new(1 << 20), &mut Chance::new(seed));
    }
}

/// The same bytes whoever reads beside: one view, one small cache, many threads.
#[test]
fn threads_that_read_one_view_do_not_disturb_each_other() {
    for seed in 0..8 {
        let mut player = Player::new(seed, 256 << 10);
        for _ in 0..STEPS_MAX {
            player.step();
        }
        player.seal();
        let view = View::open_at_end(player.history(), ViewCache::new(200_000)).expect("the view at the end");
        let tree = player.reference.tree_at(view.position());
        std::thread::scope(|scope| {
            for reader in 0..6 {
                let (view, tree) = (&view, &tree);
                scope.spawn(move || {
                    let compared = compare(view, tree, &mut Chance::new(seed * 100 + reader));
                    compared.unwrap_or_else(|difference| panic!("seed {seed}: {difference}"));
                });
            }
        });
    }
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

fn fault_of(seed: u64, steps: u64) -> Option<String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| play(seed, steps)));
    let panic = outcome.err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
}

/// `PITGATE_HISTORIES` sets how many; `PITGATE_SEED` replays one, its first `PITGATE_STEPS`.
#[test]
fn views_at_random_positions_equal_the_reference() {
    if let Some(seed) = number_from("PITGATE_SEED") {
        play(seed, number_from("PITGATE_STEPS").unwrap_or(STEPS_MAX));
        return;
    }
    let histories = number_from("PITGATE_HISTORIES").unwrap_or(2_000);
    let next = AtomicU64::new(0);
    let faulty = AtomicU64::new(u64::MAX);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= histories || faulty.load(Ordering::Relaxed) != u64::MAX {
                        break;
                    }
                    if fault_of(seed, STEPS_MAX).is_some() {
                        faulty.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let seed = faulty.into_inner();
    if seed != u64::MAX {
        // The shortest history with a fault says most.
        let steps = (1..=STEPS_MAX).find(|&steps| fault_of(seed, steps).is_some()).unwrap_or(STEPS_MAX);
        let fault = fault_of(seed, steps).unwrap_or_default();
        panic!("PITGATE_SEED={seed} PITGATE_STEPS={steps}: {fault}");
    }
}
