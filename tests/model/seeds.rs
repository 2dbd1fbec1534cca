//! Plays many seeds on all processors and reports the first that fails, as short as it can be made.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// A number from the environment.
pub fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Plays the seeds below `count` (`PITGATE_SEEDS` if set), each with `steps` steps, and panics with the seed
/// of a failure. `PITGATE_SEED` replays one, its first `PITGATE_STEPS`. Returns how many were played.
pub fn play_seeds(count: u64, steps: u64, play: impl Fn(u64, u64) + Sync) -> u64 {
    if let Some(seed) = number_from("PITGATE_SEED") {
        play(seed, number_from("PITGATE_STEPS").unwrap_or(steps));
        return 1;
    }
    let count = number_from("PITGATE_SEEDS").unwrap_or(count);
    let next = AtomicU64::new(number_from("PITGATE_FIRST_SEED").unwrap_or(0));
    let end = next.load(Ordering::Relaxed) + count;
    let faulty = AtomicU64::new(u64::MAX);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || faulty.load(Ordering::Relaxed) != u64::MAX {
                        break;
                    }
                    if fault_of(&play, seed, steps).is_some() {
                        faulty.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let seed = faulty.into_inner();
    if seed != u64::MAX {
        // The shortest history with a fault says most.
        let shortest = (1..=steps).find(|&steps| fault_of(&play, seed, steps).is_some()).unwrap_or(steps);
        let fault = fault_of(&play, seed, shortest).unwrap_or_default();
        panic!("PITGATE_SEED={seed} PITGATE_STEPS={shortest}: {fault}");
    }
    count
}

fn fault_of(play: &(impl Fn(u64, u64) + Sync), seed: u64, steps: u64) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| play(seed, steps))).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
}
