//! What the simulated disk promises to those who test on it.

use std::io;
use std::path::{Path, PathBuf};

use super::{Fault, Operation, SimDisk};
use crate::io::Disk;

const FILE: &str = "d/f";

fn path(text: &str) -> &Path {
    Path::new(text)
}

/// A disk with a durable file of one block of ones.
fn prepared(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_directories(path("d")).unwrap();
    disk.sync_directory(path("")).unwrap();
    let file = disk.create_new(path(FILE)).unwrap();
    file.write_at(0, &[1; 4096]).unwrap();
    file.sync().unwrap();
    disk.sync_directory(path("d")).unwrap();
    disk
}

fn content(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(path(name)).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn the_same_seed_and_calls_give_the_same_disk() {
    let run = |seed| {
        let disk = prepared(seed);
        let file = disk.open_writable(path(FILE)).unwrap();
        for index in 0..50u64 {
            file.write_at(index * 700, &[index as u8; 900]).unwrap();
        }
        disk.crash();
        content(&disk, FILE)
    };
    assert_eq!(run(3), run(3));
    assert!((0..20).any(|seed| run(seed) != run(3)));
}

#[test]
fn what_a_killed_process_wrote_outlives_it_but_its_files_and_locks_do_not() {
    let disk = prepared(1);
    let file = disk.open_writable(path(FILE)).unwrap();
    let lock = disk.try_lock(path("lock"), false).unwrap().unwrap();
    file.write_at(0, &[2; 10]).unwrap();
    assert!(disk.try_lock(path("lock"), true).unwrap().is_none());
    disk.restart();
    assert!(file.write_at(0, &[3; 10]).is_err());
    assert!(file.len().is_err());
    assert_eq!(content(&disk, FILE)[..10], [2; 10]);
    let next = disk.try_lock(path("lock"), false).unwrap();
    assert!(next.is_some());
    drop(lock);
    assert!(disk.try_lock(path("lock"), true).unwrap().is_none(), "a dead holder's guard releases nothing");
}

#[test]
fn a_file_whose_removal_was_not_synced_comes_back_whole_or_not_at_all() {
    let mut back = 0;
    for seed in 0..50 {
        let disk = prepared(seed);
        disk.remove(path(FILE)).unwrap();
        disk.restart();
        disk.crash();
        if disk.open(path(FILE)).is_ok() {
            assert_eq!(content(&disk, FILE), [1; 4096]);
            back += 1;
        }
    }
    assert!(back > 5 && back < 45, "{back}");
}

#[test]
fn shared_locks_are_counted() {
    let disk = SimDisk::new(1);
    let first = disk.try_lock(path("lock"), true).unwrap().unwrap();
    let second = disk.try_lock(path("lock"), true).unwrap().unwrap();
    drop(first);
    assert!(disk.try_lock(path("lock"), false).unwrap().is_none());
    drop(second);
    assert!(disk.try_lock(path("lock"), false).unwrap().is_some());
}

#[test]
fn a_kill_happens_during_the_operation_it_was_planned_for() {
    let (mut torn, mut whole) = (0, 0);
    for seed in 0..200 {
        let disk = prepared(seed);
        let file = disk.open_writable(path(FILE)).unwrap();
        disk.kill_after(2);
        file.write_at(0, &[2; 4096]).unwrap();
        assert!(!disk.is_killed());
        assert!(file.write_at(0, &[3; 4096]).is_err());
        assert!(disk.is_killed());
        assert!(disk.open(path(FILE)).is_err() && file.sync().is_err() && disk.list(path("")).is_err());
        disk.restart();
        match content(&disk, FILE).iter().filter(|byte| **byte == 3).count() {
            0 | 4096 => whole += 1,
            _ => torn += 1,
        }
    }
    assert!(torn > 100, "{torn} torn, {whole} whole");
}

#[test]
fn injected_failures_come_when_and_as_often_as_planned() {
    let disk = prepared(1);
    let file = disk.open_writable(path(FILE)).unwrap();
    disk.inject(Fault { operation: Operation::Read, after: 1, times: 2 });
    let mut buf = [0; 1];
    let results: Vec<bool> = (0..4).map(|_| file.read_at(0, &mut buf).is_ok()).collect();
    assert_eq!(results, [true, false, false, true]);
    disk.inject(Fault { operation: Operation::Sync, after: 0, times: u64::MAX });
    assert!(file.sync().is_err() && file.sync().is_err());
    disk.clear_faults();
    file.sync().unwrap();
    disk.inject(Fault::once(Operation::Name));
    assert!(disk.create_new(path("new")).is_err());
    disk.create_new(path("new")).unwrap();
}

#[test]
fn a_failed_sync_is_not_mended_by_a_later_one() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = prepared(seed);
        let file = disk.open_writable(path(FILE)).unwrap();
        file.write_at(0, &[2; 512]).unwrap();
        disk.inject(Fault::once(Operation::Sync));
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(content(&disk, FILE)[..512], [2; 512]);
        disk.crash();
        lost += u32::from(content(&disk, FILE)[0] == 1);
    }
    assert!(lost > 10, "{lost}");
}

#[test]
fn a_full_disk_takes_what_fits_and_what_was_reserved() {
    let disk = prepared(1);
    let file = disk.create_new(path("g")).unwrap();
    file.preallocate(0, 8192).unwrap();
    disk.set_available(Some(4096));
    assert_eq!(disk.available_bytes().unwrap(), 4096);
    file.write_at(0, &[1; 8192]).unwrap();
    file.write_at(8192, &[1; 4096]).unwrap();
    assert_eq!(file.write_at(12288, &[1]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.preallocate(0, 1 << 20).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 12288);
    disk.remove(path(FILE)).unwrap();
    file.write_at(12288, &[1]).unwrap();
    assert_eq!(disk.used_bytes(), 16384);
}

#[test]
fn files_are_listed_counted_damaged_and_copied() {
    let disk = prepared(1);
    assert_eq!(disk.files(), [(PathBuf::from(FILE), 4096)]);
    disk.overwrite(path(FILE), 4090, &[9; 100]).unwrap();
    let copy = disk.copy(7);
    disk.remove(path(FILE)).unwrap();
    copy.crash();
    let bytes = content(&copy, FILE);
    assert_eq!(bytes.len(), 4096);
    assert_eq!(bytes[4089..4096], [1, 9, 9, 9, 9, 9, 9]);
    let statistics = disk.statistics();
    assert_eq!((statistics.writes, statistics.bytes_written, statistics.syncs), (1, 4096, 1));
    assert_eq!(statistics.directory_syncs, 2);
}

#[test]
fn misuse_gets_the_errors_of_a_real_disk() {
    let disk = prepared(1);
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(disk.open(path("none")).map(drop)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.create_new(path(FILE)).map(drop)), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.create_new(path("none/f")).map(drop)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.open(path("d")).map(drop)), io::ErrorKind::IsADirectory);
    assert_eq!(kind(disk.create_directories(path("d/f/g"))), io::ErrorKind::NotADirectory);
    assert!(disk.open(path(FILE)).unwrap().write_at(0, &[1]).is_err(), "opened for reading only");
    assert_eq!(kind(disk.open(path("../f")).map(drop)), io::ErrorKind::InvalidInput);
}
