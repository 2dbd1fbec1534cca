//! Capture killed, stopped and started again under load, files edited in between: what is offered is always right.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FallocateFlags, RenameFlags};

use crate::deadline::wait_until;
use crate::site::{CaptureProcess, Site};
use crate::tree;

const FILES: u64 = 3;
const FILE_BYTES: u64 = 2 << 20;

/// A small deterministic generator; the seed says it all.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What the threads of one round share.
#[derive(Default)]
struct Round {
    over: AtomicBool,
    /// Entries of the ledger whose `fsync` returned.
    acknowledged: AtomicU64,
}

impl Round {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// Appends numbers, each synced before the next; ends when capture does.
fn keep_ledger(live: &Path, round: &Round) {
    let Ok(mut ledger) = OpenOptions::new().append(true).create(true).open(live.join("ledger")) else {
        return;
    };
    let Ok(before) = ledger.metadata().map(|metadata| metadata.len() / 8) else { return };
    let mut next = before;
    while !round.is_over() {
        if ledger.write_all(&next.to_le_bytes()).and_then(|()| ledger.sync_data()).is_err() {
            return;
        }
        next += 1;
        round.acknowledged.store(next, Ordering::Release);
    }
}

/// Overlapping writes of sectors, extensions, truncations and punches, until the round or the capture ends.
fn disturb_data(live: &Path, round: &Round, seed: u64) -> std::io::Result<()> {
    let mut chance = Chance::new(seed);
    let open = |number: u64| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(live.join(format!("f{number}")))
    };
    let files: Vec<File> = (0..FILES).map(open).collect::<Result<_, _>>()?;
    while !round.is_over() {
        let file = &files[chance.below(FILES) as usize];
        let offset = chance.below(FILE_BYTES / 512) * 512;
        let byte = chance.below(255) as u8 + 1;
        match chance.below(25) {
            0 => file.set_len(chance.below(FILE_BYTES))?,
            1 => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(file, flags, offset, 1 + chance.below(50_000))?;
            }
            2 => file.write_all_at(&[byte; 8192], file.metadata()?.len())?,
            3 => file.write_all_at(&vec![byte; 100_000], offset)?,
            _ => file.write_all_at(&[byte; 512], offset)?,
        }
    }
    Ok(())
}

/// Changes of names that meet each other; what fails because another thread was first is no failure.
fn disturb_names(live: &Path, round: &Round, seed: u64) -> std::io::Result<()> {
    let mut chance = Chance::new(seed);
    let here = File::open(live)?;
    for directory in 0..3 {
        let _exists = fs::create_dir(live.join(format!("d{directory}")));
    }
    while !round.is_over() {
        let mut name = || format!("d{}/n{}", chance.below(3), chance.below(5));
        let (from, to) = (name(), name());
        let outcome = match chance.below(7) {
            0 | 1 => fs::write(live.join(&from), &to),
            2 => fs::rename(live.join(&from), live.join(&to)),
            3 => fs::hard_link(live.join(&from), live.join(&to)),
            4 => fs::remove_file(live.join(&from)),
            5 => rustix::fs::renameat_with(&here, &*from, &here, &*to, RenameFlags::EXCHANGE)
                .map_err(std::io::Error::from),
            _ => fs::create_dir(live.join(&from)),
        };
        if outcome.is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN)) {
            break;
        }
    }
    Ok(())
}

/// Edits of the data directory while nobody captures it.
fn edit_offline(data: &Path, chance: &mut Chance) {
    match chance.below(5) {
        0 => {
            if let Ok(file) = OpenOptions::new().write(true).open(data.join("f0")) {
                file.write_all_at(b"edited offline", chance.below(FILE_BYTES)).unwrap();
            }
        }
        1 => fs::write(data.join("offline"), format!("{}", chance.below(1000))).unwrap(),
        2 => {
            let _gone = fs::remove_file(data.join("f1"));
        }
        3 => {
            let _moved = fs::rename(data.join("d0"), data.join("d0 moved"));
        }
        _ => {}
    }
}

/// Runs load on the mount until `goal` more entries of the ledger are acknowledged, then ends the capture: killed
/// amid the load, or in good order after it. Returns how many entries were acknowledged.
fn live_and_die(site: &Site, capture: CaptureProcess, seed: u64, goal: u64, hard: bool) -> u64 {
    let round = Round::default();
    let mut capture = Some(capture);
    let begin = entries(&site.data().join("ledger"));
    std::thread::scope(|scope| {
        let (round, live) = (&round, site.live());
        scope.spawn(|| keep_ledger(live, round));
        for thread in 0..2 {
            // Their errors are the end of the capture.
            scope.spawn(move || disturb_data(live, round, seed * 10 + thread));
            scope.spawn(move || disturb_names(live, round, seed * 10 + 5 + thread));
        }
        let over = OverWhenDropped(round);
        wait_until("the ledger grows", Duration::from_secs(60), || {
            round.acknowledged.load(Ordering::Acquire) >= begin + goal
        });
        if hard {
            capture.take().expect("it runs").kill();
        }
        drop(over);
    });
    if let Some(capture) = capture {
        capture.stop();
    }
    round.acknowledged.load(Ordering::Acquire)
}

/// Ends the threads of a round also if the test fails.
struct OverWhenDropped<'a>(&'a Round);

impl Drop for OverWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

fn entries(ledger: &Path) -> u64 {
    fs::metadata(ledger).map_or(0, |metadata| metadata.len() / 8)
}

/// Asserts that the point `position` shows `count` entries of the ledger at least, all of them right.
fn assert_ledger(site: &Site, position: u64, count: u64) {
    site.mount("ledger-view", &format!("@{position}"), &["--read-only"]);
    let bytes = fs::read(site.path("ledger-view/ledger")).unwrap();
    site.unmount("ledger-view");
    let numbers: Vec<u64> =
        bytes.chunks_exact(8).map(|entry| u64::from_le_bytes(entry.try_into().unwrap())).collect();
    assert!(numbers.len() as u64 >= count, "{count} were acknowledged, @{position} has {}", numbers.len());
    assert!(numbers.iter().enumerate().all(|(index, &number)| index as u64 == number));
}

/// The last position of each mountable range.
fn range_ends(site: &Site) -> Vec<u64> {
    let listed = site.source_json(&["point", "list"], &[]);
    let ranges = listed["ranges"].as_array().unwrap();
    ranges.iter().map(|range| range["last"]["position"].as_u64().unwrap()).collect()
}

#[test]
fn every_life_leaves_a_twin_and_loses_nothing_acknowledged() {
    let rounds = number("PITGATE_LIVES", 4);
    let seed = number("PITGATE_SEED", 1);
    println!("replay with PITGATE_SEED={seed} PITGATE_LIVES={rounds}");
    let mut chance = Chance::new(seed);
    let site = Site::new(&["data"]);
    fs::write(site.data().join("f0"), vec![1; FILE_BYTES as usize]).unwrap();
    let mut capture = site.start_capture(&[]);
    for round in 0..rounds {
        // A life may end before its first point exists.
        let early = chance.below(4) == 0;
        if !early {
            site.wait_for_points();
        }
        let hard = chance.below(3) != 0;
        let goal = 1 + chance.below(60);
        let acknowledged = live_and_die(&site, capture, seed * 1000 + round, goal, hard);
        assert!(entries(&site.data().join("ledger")) >= acknowledged);
        if chance.below(2) == 0 {
            edit_offline(site.data(), &mut chance);
        }
        capture = site.start_capture(&[]);
        site.wait_for_points();
        let latest = site.now();
        let ends = range_ends(&site);
        assert!(early || ends.len() >= 2, "the life before left points: {ends:?}");
        if !early {
            assert_ledger(&site, ends[ends.len() - 2], acknowledged);
        }
        site.mount("latest", &format!("@{latest}"), &["--read-only"]);
        tree::assert_same(&tree::of(site.data()), &tree::of(&site.path("latest")));
        site.unmount("latest");
    }
    capture.stop();
    let verified = site.json(&["repo", "verify", site.repository.to_str().unwrap()]);
    assert_eq!(verified["damages"], serde_json::json!([]));
}
