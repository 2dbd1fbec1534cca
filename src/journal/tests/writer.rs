//! The writer with its threads: order, durability, back-pressure, sealing, failure and end.

use std::time::Duration;

use super::*;
use crate::io::{Fault, Operation};
use crate::types::{ChangeSink, SinkError};

fn start(disk: &SimDisk, shelf: &Shelf, config: WriterConfig) -> Writer {
    Writer::start(config, state(1, 1), Arc::new(disk.clone()), clock(), Box::new(shelf.clone())).unwrap()
}

fn small() -> WriterConfig {
    let log = LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() };
    WriterConfig { log, queue_bytes: 1 << 20, ..WriterConfig::default() }
}

fn write(file: u64, page: u64, fill: u8, count: usize) -> ChangeBody {
    let pages = vec![PageWrite { first_page: page, bytes: Bytes::from(vec![fill; count * PAGE_BYTES]) }];
    let (file, mtime) = (FileId(file), Some(Time(1)));
    ChangeBody::Data(DataChange { file, size_after: 1 << 20, mtime, cut: false, zero: None, pages })
}

fn read_all(disk: &SimDisk, shelf: &Shelf) -> Vec<(Position, Effect)> {
    let segments: Vec<SegmentId> = shelf.0.lock().iter().map(|segment| segment.id).collect();
    segments.iter().flat_map(|id| effects(&open(disk, *id).unwrap())).collect()
}

#[test]
fn changes_of_many_threads_keep_the_order_of_their_positions() {
    let (disk, shelf) = (new_disk(1), Shelf::default());
    let writer = start(&disk, &shelf, small());
    let appended = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (writer, appended) = (&writer, &appended);
            scope.spawn(move || {
                let mut random = SeededRandom::new(thread);
                for _ in 0..150 {
                    let change = change(&mut random);
                    let position = writer.append(change.clone()).unwrap();
                    assert!(appended.lock().insert(position, effect(&change)).is_none());
                    if random.chance(1, 5) {
                        writer.commit(position).unwrap();
                        assert!(writer.durable() >= position);
                    }
                }
            });
        }
    });
    let stop = writer.close().unwrap();
    assert_eq!(stop, Position(601));
    appended.lock().insert(stop, Effect::Other(ChangeBody::Mark(Mark::CleanStop)));
    assert!(read_all(&disk, &shelf) == appended.into_inner().into_iter().collect::<Vec<_>>());
    assert_eq!(writer.append(write(2, 0, 1, 1)), Err(SinkError::Closed));
    assert!(shelf.0.lock().len() > 1, "segments were completed on the way");
}

#[test]
fn what_was_committed_survives_a_loss_of_power() {
    for seed in 0..20 {
        let disk = new_disk(seed);
        let writer = start(&disk, &Shelf::default(), small());
        let mut random = SeededRandom::new(seed);
        let mut committed = Position::ZERO;
        disk.kill_after(50 + random.below(150));
        for number in 0..500 {
            let Ok(position) = writer.append(write(2, number % 40, number as u8, 1)) else { break };
            if random.chance(1, 3) {
                match writer.commit(position) {
                    Ok(()) => committed = position,
                    Err(_) => break,
                }
            }
        }
        drop(writer);
        disk.crash();
        let recovered = recover_all(&disk).unwrap();
        let last = recovered.iter().map(|(_, one)| one.durable_position).max().unwrap_or_default();
        assert!(last >= committed, "seed {seed}: {committed} was committed, {last} is there");
        assert!(recovered.iter().all(|(_, one)| one.damaged.is_empty()));
    }
}

#[test]
fn a_failed_sync_ends_the_writer_for_good_and_names_the_cause() {
    let disk = new_disk(1);
    let writer = start(&disk, &Shelf::default(), small());
    let first = writer.append(write(2, 0, 1, 1)).unwrap();
    writer.commit(first).unwrap();
    disk.inject(Fault::once(Operation::Sync));
    let second = writer.append(write(2, 1, 2, 1)).unwrap();
    let Err(SinkError::Failed { cause }) = writer.commit(second) else { panic!("the commit did not fail") };
    assert!(cause.contains("cannot sync segments/00000001-00000000.seg"), "{cause}");
    let failed = SinkError::Failed { cause: cause.clone() };
    assert_eq!(writer.append(write(2, 2, 3, 1)), Err(failed.clone()));
    assert_eq!(writer.commit(second), Err(failed.clone()));
    assert_eq!(writer.seal(), Err(failed.clone()));
    assert_eq!(writer.close(), Err(failed));
    assert_eq!(writer.status().failure, Some(cause));
    assert!(writer.commit(first).is_ok(), "what was durable stays so");
}

#[test]
fn a_seal_publishes_everything_before_it_and_appending_goes_on() {
    let (disk, shelf) = (new_disk(1), Shelf::default());
    let writer = start(&disk, &shelf, small());
    assert_eq!(writer.seal(), Ok(Position::ZERO), "nothing to seal yet");
    for number in 0..10 {
        let position = writer.append(write(2, number, 1, 1)).unwrap();
        let sealed = writer.seal().unwrap();
        assert!(sealed >= position);
        assert_eq!(shelf.0.lock().last().unwrap().summary.last_position, sealed);
        assert_eq!(writer.seal(), Ok(sealed), "nothing new");
    }
    assert_eq!(shelf.0.lock().len(), 10);
    writer.close().unwrap();
}

#[test]
fn a_full_queue_makes_callers_wait_and_loses_nothing() {
    let (disk, shelf) = (new_disk(1), Shelf::default());
    let writer = start(&disk, &shelf, WriterConfig { queue_bytes: 64 << 10, ..small() });
    for number in 0..200u64 {
        // Larger than the whole budget, now and then.
        let count = if number % 50 == 0 { 40 } else { 4 };
        writer.append(write(2, number * 40, number as u8 | 1, count)).unwrap();
        let status = writer.status();
        assert!(status.queue_bytes <= (64 << 10) + 41 * PAGE_BYTES as u64);
    }
    writer.close().unwrap();
    assert_eq!(read_all(&disk, &shelf).len(), 201);
}

#[test]
fn what_nobody_commits_becomes_durable_by_itself() {
    let disk = new_disk(1);
    let config = WriterConfig { sync_interval: Duration::from_millis(20), ..small() };
    let config = WriterConfig { durability: Durability::Async, ..config };
    let clock: Arc<dyn crate::io::Clock> = Arc::new(crate::io::SystemClock);
    let writer =
        Writer::start(config, state(1, 1), Arc::new(disk), clock.clone(), Box::new(Shelf::default()))
            .unwrap();
    let position = writer.append(write(2, 0, 1, 1)).unwrap();
    writer.commit(position).unwrap();
    let deadline = clock.monotonic() + Duration::from_secs(20);
    while writer.durable() < position {
        assert!(clock.monotonic() < deadline, "not durable in time: {:?}", writer.status());
        std::thread::yield_now();
    }
    assert_eq!(writer.status().lag, Duration::ZERO);
    assert_eq!(writer.status().captured_bytes, PAGE_BYTES as u64);
}
