//! Kills, losses of power and failing storage at every moment: nothing acknowledged is lost, nothing wrong
//! appears, and recovery says what it did.

use super::*;
use crate::io::{Fault, Operation};

/// What one life appended and what of it was acknowledged as durable.
struct Life {
    appended: Vec<(Position, ChangeBody)>,
    durable: Position,
    written_to_disk: Position,
}

fn live(disk: &SimDisk, random: &mut SeededRandom, epoch: u32, first_position: u64) -> Life {
    let segment_bytes = (64 + random.below(300)) << 10;
    let mut log = start_log(disk, &Shelf::default(), state(epoch, first_position), segment_bytes);
    let before = Position(first_position).previous();
    let mut life = Life { appended: Vec::new(), durable: before, written_to_disk: before };
    for _ in 0..random.below(150) {
        let change = change(random);
        let position = log.written_position().next();
        let appended = log.append(&change);
        life.appended.push((position, change));
        let Ok(appended) = appended else { break };
        assert_eq!(appended, position);
        let done = match random.below(24) {
            0 => log.seal().map(drop),
            1..7 => log.sync().map(drop),
            7..10 => log.write(),
            _ => Ok(()),
        };
        life.durable = log.durable_position();
        if done.is_err() {
            assert!(log.append(&ChangeBody::Mark(Mark::Heartbeat)).is_err(), "a failed log takes no more");
            assert!(log.sync().is_err());
            break;
        }
        if log.write().is_err() {
            break;
        }
        life.written_to_disk = appended;
    }
    life
}

fn play(seed: u64) {
    let mut random = SeededRandom::new(seed);
    let disk = new_disk(random.next());
    let mut expected: Vec<(Position, Effect)> = Vec::new();
    let mut first_position = 1;
    for epoch in 1..=1 + random.below(3) as u32 {
        match random.below(4) {
            0 => {
                let operations =
                    [Operation::Write, Operation::Sync, Operation::SyncDirectory, Operation::Name];
                let (operation, after) = (*random.pick(&operations), random.below(30));
                disk.inject(Fault { operation, after, times: u64::MAX });
            }
            _ => disk.kill_after(1 + random.below(250)),
        }
        let life = live(&disk, &mut random, epoch, first_position);
        let power_lost = random.chance(2, 3);
        let end = |disk: &SimDisk| if power_lost { disk.crash() } else { disk.restart() };
        end(&disk);
        disk.clear_faults();
        // Recovery is killed too, now and then, and begins again.
        while random.chance(1, 3) {
            disk.kill_after(1 + random.below(40));
            let _ = recover_all(&disk);
            end(&disk);
        }
        let recovered = recover_all(&disk).unwrap();
        let mut read = Vec::new();
        for (id, one) in &recovered {
            assert_eq!(one.damaged, vec![], "seed {seed}: nothing was damaged");
            let Some(sealed) = &one.segment else { continue };
            let reader = open(&disk, *id).unwrap();
            assert_eq!(reader.verify().unwrap(), vec![], "seed {seed}");
            assert_eq!(reader.digest().unwrap(), sealed.digest, "seed {seed}");
            read.extend(effects(&reader));
        }
        let kept = read.len().saturating_sub(expected.len());
        expected
            .extend(life.appended.iter().take(kept).map(|(position, change)| (*position, effect(change))));
        assert_same(&read, &expected, seed);
        let last = read.last().map_or(Position::ZERO, |(position, _)| *position);
        let promised = if power_lost { life.durable } else { life.durable.max(life.written_to_disk) };
        let first = Position(first_position);
        assert!(
            promised < first || last >= promised,
            "seed {seed}: {promised} was promised, {last} was kept"
        );
        let highest = recovered.iter().map(|(_, one)| one.highest_position).max().unwrap_or_default();
        assert!(highest >= last);
        first_position = highest.0 + EPOCH_GAP;
    }
}

/// What is kept is a beginning of what was appended.
fn assert_same(read: &[(Position, Effect)], expected: &[(Position, Effect)], seed: u64) {
    let differs = read.iter().zip(expected).position(|(read, expected)| read != expected);
    let places = differs.map(|at| (read[at].0, expected[at].0));
    assert_eq!((places, read.len()), (None, expected.len()), "seed {seed}: kept, appended");
}

#[test]
fn nothing_acknowledged_is_lost_whenever_power_goes() {
    if let Ok(seed) = std::env::var("PITGATE_SEED") {
        return play(seed.parse().expect("PITGATE_SEED is a number"));
    }
    for seed in 0..from_environment("PITGATE_SEEDS", 400) {
        play(seed);
    }
}

#[test]
fn torn_last_record_is_discarded_and_reported() {
    let (disk, shelf) = (new_disk(1), Shelf::default());
    let mut log = start_log(&disk, &shelf, state(1, 1), 1 << 20);
    for _ in 0..3 {
        log.append(&ChangeBody::Mark(Mark::Heartbeat)).unwrap();
    }
    log.sync().unwrap();
    let name = "torn".to_owned();
    log.append(&ChangeBody::Mark(Mark::Bookmark { name })).unwrap();
    log.append(&ChangeBody::Mark(Mark::Heartbeat)).unwrap();
    log.write().unwrap();
    disk.restart();
    let path = directory().join("00000001-00000000.seg");
    // Three heartbeats of 40 bytes, a flush record of 48; then the bookmark's payload.
    disk.overwrite(&path, 4096 + 3 * 40 + 48 + 33, b"?").unwrap();
    let id = SegmentId { epoch: Epoch(1), sequence: 0 };
    let recovered = recover_open_segment(&disk, &path, &IDENTITY, id, None).unwrap();
    assert_eq!(recovered.durable_position, Position(3));
    assert_eq!(recovered.highest_position, Position(5));
    assert_eq!((recovered.discarded_bytes, recovered.discarded_changes), (40 + 40, 1));
    assert_eq!(recovered.damaged, vec![]);
    assert_eq!(open(&disk, id).unwrap().verify().unwrap(), vec![]);
}

#[test]
fn a_segment_that_never_held_a_change_is_removed() {
    let (disk, shelf) = (new_disk(1), Shelf::default());
    disk.inject(Fault { operation: Operation::Write, after: 1, times: 1 });
    let mut log = start_log(&disk, &shelf, state(1, 1), 1 << 20);
    log.append(&ChangeBody::Mark(Mark::Heartbeat)).unwrap();
    assert!(matches!(log.sync(), Err(JournalError::Storage { .. })));
    assert!(matches!(log.sync(), Err(JournalError::Poisoned { .. })), "for good");
    disk.restart();
    disk.clear_faults();
    let recovered = recover_all(&disk).unwrap();
    assert_eq!(recovered.len(), 1);
    assert_eq!((&recovered[0].1.segment, recovered[0].1.highest_position), (&None, Position(1)));
    assert_eq!(disk.list(&directory()).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_disk_that_is_full_can_still_seal_what_was_appended() {
    let (disk, shelf) = (new_disk(1), Shelf::default());
    let mut log = start_log(&disk, &shelf, state(1, 1), 1 << 20);
    let mut random = SeededRandom::new(1);
    log.append(&change(&mut random)).unwrap();
    log.sync().unwrap();
    disk.set_available(Some(0));
    let mut failed = None;
    for _ in 0..400 {
        let done = log.append(&change(&mut random)).and_then(|_| log.sync());
        if let Err(error) = done {
            failed = Some(error);
            break;
        }
    }
    let failed = failed.expect("the reserved room ends");
    assert!(matches!(failed, JournalError::Storage { action: "create", .. }), "{failed}");
    let durable = log.durable_position();
    let recovered = recover_all(&disk).unwrap();
    let last = recovered.iter().filter_map(|(_, one)| one.segment.as_ref()).next_back().unwrap();
    assert_eq!(last.summary.last_position, durable);
    assert!(durable > Position(20), "most of the reserved room was used: {durable}");
}
