//! Many threads at once, during the initial image and after: what was recorded equals the backing files.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, RenameFlags};

use crate::mounted::{Mounted, Place};

/// A small deterministic generator; the seed says it all.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn rounds() -> u64 {
    std::env::var("PITGATE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(300)
}

const FILES: u64 = 4;
const FILE_BYTES: u64 = 1 << 20;

/// Overlapping writes of sectors, extensions, truncations and punches of shared files.
fn disturb_data(paths: &[PathBuf], seed: u64) {
    let mut chance = Chance(seed);
    let files: Vec<File> =
        paths.iter().map(|path| OpenOptions::new().read(true).write(true).open(path).unwrap()).collect();
    for round in 0..rounds() {
        let file = &files[chance.below(FILES) as usize];
        let offset = chance.below(FILE_BYTES / 512) * 512;
        let byte = (round % 250) as u8 + 1;
        match chance.below(20) {
            0 => file.set_len(chance.below(FILE_BYTES)).unwrap(),
            1 => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(file, flags, offset, 1 + chance.below(50_000)).unwrap();
            }
            2 => {
                let end = file.metadata().unwrap().len();
                file.write_all_at(&[byte; 8192], end).unwrap();
            }
            3 => file.sync_data().unwrap(),
            4 => file.write_all_at(&vec![byte; 200_000], offset).unwrap(),
            _ => file.write_all_at(&[byte; 512], offset).unwrap(),
        }
    }
}

/// Creations, renames over and across, exchanges, links and removals in shared directories.
fn disturb_names(root: &std::path::Path, seed: u64) {
    let mut chance = Chance(seed);
    let here = File::open(root).unwrap();
    let mut name = |directories: u64| format!("d{}/n{}", chance.below(directories), chance.below(6));
    let mut names = Vec::new();
    for _ in 0..rounds() {
        names.push((name(3), name(3)));
    }
    let mut chance = Chance(seed + 1);
    for (from, to) in names {
        // What another thread did meanwhile may be in the way; the twin is judged by what the backing did.
        let _outcome = match chance.below(8) {
            0 | 1 => fs::write(root.join(&from), &to),
            2 => fs::rename(root.join(&from), root.join(&to)),
            3 => fs::hard_link(root.join(&from), root.join(&to)),
            4 => fs::remove_file(root.join(&from)),
            5 => rustix::fs::renameat_with(&here, &*from, &here, &*to, RenameFlags::EXCHANGE)
                .map_err(Into::into),
            6 => fs::create_dir(root.join(&from)),
            _ => fs::remove_dir(root.join(&from)),
        };
    }
}

fn prepared() -> Place {
    let place = Place::new();
    for number in 0..FILES {
        fs::write(place.data().join(format!("f{number}")), vec![number as u8; FILE_BYTES as usize]).unwrap();
    }
    for number in 0..3 {
        fs::create_dir(place.data().join(format!("d{number}"))).unwrap();
    }
    // Enough to keep the image busy while the threads work.
    for number in 0..40 {
        fs::write(place.data().join(format!("d0/filler{number}")), vec![5; 1 << 20]).unwrap();
    }
    place
}

fn run(mounted: &Mounted, seed: u64) {
    let paths: Vec<PathBuf> = (0..FILES).map(|number| mounted.path(&format!("f{number}"))).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let paths = &paths;
            scope.spawn(move || disturb_data(paths, seed * 1000 + thread));
            let root = mounted.place.mountpoint();
            scope.spawn(move || disturb_names(&root, seed * 1000 + 500 + thread));
        }
    });
}

#[test]
fn eight_threads_during_the_image_leave_a_twin() {
    let mounted = Mounted::over(prepared());
    run(&mounted, 1);
    mounted.assert_twin();
    run(&mounted, 2);
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn eight_threads_during_the_comparison_leave_a_twin() {
    let mounted = Mounted::over(prepared());
    run(&mounted, 3);
    let (place, base, _) = mounted.stop();
    fs::write(place.data().join("f0"), "edited while capture was off").unwrap();
    let mounted = Mounted::again(place, base, None);
    run(&mounted, 4);
    mounted.assert_twin();
    mounted.stop();
}
