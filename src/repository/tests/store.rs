//! Creating, opening, refusing.

use std::path::Path;

use super::super::entry::Event;
use super::*;
use crate::io::{Disk, Fault, Operation};
use crate::journal::{DamagedPlace, MarkAt, SegmentId, SegmentSummary};
use crate::types::{Decoder, Encoder, Epoch};

#[test]
fn a_repository_is_made_once_and_found_again() {
    let disk = SimDisk::new(1);
    assert!(matches!(
        Repository::open(Arc::new(disk.clone()), Access::Read),
        Err(RepositoryError::Missing { .. })
    ));
    let made = new_repository(&disk);
    assert!(matches!(
        Repository::init(Arc::new(disk.clone()), Identity([8; 16])),
        Err(RepositoryError::Exists { .. })
    ));
    disk.crash();
    let found = Repository::open(Arc::new(disk.clone()), Access::Read).unwrap();
    assert_eq!(found.identity(), made.identity());
    assert!(found.source_names().unwrap().is_empty());
    assert!(matches!(found.create_source("x", options()), Err(RepositoryError::ReadOnly)));
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let disk = SimDisk::new(1);
    disk.create_new(Path::new("holiday.jpg")).unwrap();
    assert!(matches!(
        Repository::init(Arc::new(disk.clone()), Identity([7; 16])),
        Err(RepositoryError::NotEmpty { .. })
    ));
    assert!(matches!(
        Repository::open(Arc::new(disk.clone()), Access::Write),
        Err(RepositoryError::Foreign { .. })
    ));
    assert_eq!(disk.files().len(), 1);
}

#[test]
fn a_newer_format_is_refused_and_a_damaged_one_told_apart_from_it() {
    let disk = SimDisk::new(1);
    new_repository(&disk);
    let path = Path::new(super::super::store::REPOSITORY_FILE);
    disk.overwrite(path, 8, &[2]).unwrap();
    let opened = Repository::open(Arc::new(disk.clone()), Access::Read);
    assert!(matches!(opened, Err(RepositoryError::Damaged { .. })), "a flipped version is damage");
    disk.remove(path).unwrap();
    let newer = super::super::object::Kind { version: 2, ..super::super::store::REPOSITORY_KIND };
    newer.write(&disk, path, b"", b"whatever comes").unwrap();
    let opened = Repository::open(Arc::new(disk.clone()), Access::Read).map(|_| ());
    assert!(matches!(opened, Err(RepositoryError::Newer { found: 2, known: 1, .. })), "{opened:?}");
}

#[test]
fn sources_are_named_and_listed() {
    let repository = new_repository(&SimDisk::new(1));
    let source = repository.create_source("lab-2", options()).unwrap();
    assert_eq!(source.zone().iana_name(), Some("Asia/Shanghai"));
    repository.create_source("his", options()).unwrap();
    assert_eq!(repository.source_names().unwrap(), ["his", "lab-2"]);
    assert_eq!(repository.source("his").unwrap().identity(), options().identity);
    let Err(error) = repository.source("hsi") else { panic!("there is no such source") };
    assert_eq!(error.to_string(), "there is no source `hsi`; there are `his`, `lab-2`");
    assert!(matches!(repository.create_source("his", options()), Err(RepositoryError::SourceExists { .. })));
    for wrong in ["", ".", "..", "a/b", "-a", ".a", "ä", &"x".repeat(65)] {
        let refused = repository.create_source(wrong, options());
        assert!(matches!(refused, Err(RepositoryError::BadSourceName { .. })), "{wrong}");
        assert!(matches!(repository.source(wrong), Err(RepositoryError::NoSuchSource { .. })));
    }
}

#[test]
fn a_power_cut_while_creating_leaves_nothing_that_refuses_the_next_attempt() {
    for operations in 1..40 {
        let disk = SimDisk::new(operations);
        disk.kill_after(operations);
        let made = Repository::init(Arc::new(disk.clone()), Identity([7; 16]))
            .and_then(|repository| repository.create_source("his", options()));
        let was_killed = disk.is_killed();
        assert_eq!(made.is_err(), was_killed);
        disk.crash();
        let repository = match Repository::open(Arc::new(disk.clone()), Access::Write) {
            Ok(repository) => repository,
            Err(_) => new_repository(&disk),
        };
        if repository.source("his").is_err() {
            assert!(was_killed, "a source that was made is there");
            repository.create_source("his", options()).unwrap();
        }
        assert_eq!(repository.source_names().unwrap(), ["his"]);
        if !was_killed {
            return;
        }
    }
    panic!("creating takes more steps than were tried");
}

#[test]
fn a_second_writer_is_refused_and_told_who_sits_there() {
    let disk = SimDisk::new(1);
    let source = new_source(&disk);
    assert_eq!(source.writer().unwrap(), None);
    let seat = source.become_writer(&holder(), &cache()).unwrap();
    let refused = source.become_writer(&Holder { pid: 8, host: "there".to_owned() }, &cache());
    let Err(error) = refused else { panic!("the seat is taken") };
    assert_eq!(error.to_string(), format!("source `his` has a writer already: {HOLDER}"));
    assert!(source.seal_abandoned(&holder(), &cache()).is_err());
    assert_eq!(source.writer().unwrap().as_deref(), Some(HOLDER));
    let publisher = seat.publisher();
    drop(seat);
    assert!(source.writer().unwrap().is_some(), "whoever may still publish sits as well");
    drop(publisher);
    assert_eq!(source.writer().unwrap(), None);
    source.become_writer(&holder(), &cache()).unwrap();
}

#[test]
fn a_reader_needs_no_right_to_write() {
    let disk = SimDisk::new(1);
    let mut life = Life::begin(&new_source(&disk), &Arc::new(SimClock::new(START)));
    life.record(&declare_root());
    life.seal();
    drop(life);
    let repository = Repository::open(Arc::new(disk.clone()), Access::Read).unwrap();
    let source = repository.source("his").unwrap();
    assert!(matches!(source.become_writer(&holder(), &cache()), Err(RepositoryError::ReadOnly)));
    assert_eq!(source.history(&cache()).unwrap().end(), Position(1));
}

#[test]
fn a_catalogue_counts_only_for_the_stop_it_was_kept_at() {
    let disk = SimDisk::new(1);
    let source = new_source(&disk);
    let clock = Arc::new(SimClock::new(START));
    let mut life = Life::begin(&source, &clock);
    assert_eq!(life.seat.beginning, Beginning::First);
    life.record(&declare_root());
    let stopped = life.record(&stop());
    life.seal();
    life.seat.store_catalogue(stopped, b"inodes").unwrap();
    drop(life);

    let life = Life::begin(&source, &clock);
    assert_eq!(life.seat.beginning, Beginning::CleanStop { catalogue: Some(b"inodes".to_vec()) });
    assert!(life.log.written_position() >= stopped);
    drop(life);
    // That life recorded nothing, yet it may have changed files.
    assert_eq!(Life::begin(&source, &clock).seat.beginning, Beginning::Crash);
}

/// Drawn in `docs/disk-format.md`. A change of these bytes is a new version of the file.
#[test]
fn the_bytes_of_small_files_are_pinned() {
    let disk = SimDisk::new(1);
    let source = new_source(&disk);
    source.become_writer(&holder(), &cache()).unwrap().store_catalogue(Position(5), b"inodes").unwrap();
    let digests: Vec<_> = disk
        .files()
        .iter()
        .filter(|(path, _)| !path.ends_with("lock"))
        .map(|(path, len)| {
            let mut bytes = vec![0; usize::try_from(*len).unwrap()];
            disk.open(path).unwrap().read_at(0, &mut bytes).unwrap();
            format!("{} {:.16}", path.display(), blake3::hash(&bytes).to_hex())
        })
        .collect();
    assert_eq!(
        digests,
        [
            "pitgate-repository 90102957c77efc22",
            "sources/his/catalogue b2a391a69267e75b",
            "sources/his/manifest/0000000000000001.delta 10ea7b7d10b2b318",
            "sources/his/source 53c5d7f138c976bb",
        ]
    );
}

/// Drawn in `docs/disk-format.md`, as above.
#[test]
fn the_bytes_of_a_segment_in_the_manifest_are_pinned() {
    let id = SegmentId { epoch: Epoch(3), sequence: 4 };
    let at = Moment { position: Position(7), time: START };
    let entry = SegmentEntry {
        id,
        len_bytes: 300,
        digest: Some([5; 32]),
        summary: SegmentSummary {
            first_position: Position(6),
            last_position: Position(9),
            first_time: START,
            last_time: Time(START.0 + 1),
            data_changes: 1,
            names_changes: 2,
            marks: 3,
            page_versions: 4,
            captured_bytes: 5,
            record_bytes: 600,
            index_bytes: 7,
        },
        marks: vec![MarkAt {
            position: at.position,
            time: at.time,
            mark: Mark::Bookmark { name: "b".to_owned() },
        }],
        breaks: vec![Break { position: Position(8), last: Some(at), reason: "full".to_owned() }],
        damaged: vec![DamagedPlace {
            segment: id,
            what: "record".to_owned(),
            offset_bytes: 4096,
            len_bytes: 64,
            positions: Some((Position(8), Position(8))),
            contained: true,
        }],
    };
    let snapshot = SnapshotEntry { position: Position(9), len_bytes: 200, reset: true };
    let events = [Event::Sealed(entry), Event::SnapshotTaken(snapshot)];
    let mut out = Encoder::new();
    events.iter().for_each(|event| event.encode(&mut out));
    let bytes = out.finish();
    assert_eq!(format!("{} {:.16}", bytes.len(), blake3::hash(&bytes).to_hex()), "184 b767eb542c3cfc87");
    let mut input = Decoder::new(&bytes);
    for event in events {
        assert_eq!(Event::decode(&mut input), Ok(event));
    }
    assert_eq!(input.finish(), Ok(()));
    for len in 0..bytes.len() {
        let mut input = Decoder::new(&bytes[..len]);
        assert!(Event::decode(&mut input).and_then(|_| Event::decode(&mut input)).is_err());
    }
}

#[test]
fn growth_is_what_the_last_day_added() {
    let disk = SimDisk::new(1);
    let clock = Arc::new(SimClock::new(START));
    let source = new_source(&disk);
    let mut life = Life::begin(&source, &clock);
    life.record(&declare_root());
    life.record(&create(3, "f"));
    life.seal();
    assert_eq!(
        source.history(&cache()).unwrap().sizes().growth_bytes_per_day,
        None,
        "a second tells nothing"
    );
    clock.advance(Duration::from_secs(48 * 3600));
    life.record(&write(3, 0, 1, 4096, None));
    clock.advance(Duration::from_secs(6 * 3600 - 1));
    life.record(&write(3, 0, 2, 4096, None));
    life.seal();
    let history = source.history(&cache()).unwrap();
    let sizes = history.sizes();
    let last = history.segments()[1].len_bytes;
    assert_eq!(sizes.growth_bytes_per_day, Some(4 * last), "six hours are a quarter of a day");
    assert_eq!(sizes.segment_bytes, last + history.segments()[0].len_bytes);
    assert_eq!((sizes.segments, sizes.changes, sizes.page_versions), (2, 4, 2));
}

#[test]
fn a_source_that_another_creates_is_not_given_a_second_identity() {
    let disk = SimDisk::new(1);
    let repository = new_repository(&disk);
    disk.create_directories(Path::new("sources/his")).unwrap();
    let other = disk.try_lock(Path::new("sources/his/lock"), false).unwrap();
    assert!(other.is_some());
    let refused = repository.create_source("his", options());
    assert!(matches!(refused, Err(RepositoryError::WriterPresent { .. })));
    assert_eq!(repository.source_names().unwrap(), [""; 0]);
    drop(other);
    repository.create_source("his", options()).unwrap();
    let again = repository.create_source("his", options());
    assert!(matches!(again, Err(RepositoryError::SourceExists { .. })));
}

#[test]
fn a_file_with_the_name_of_a_far_manifest_object_holds_nobody_up() {
    for number in ["00000fffffffffff", "00ffffffffffffff", "ffffffffffffffff"] {
        let disk = SimDisk::new(1);
        let source = new_source(&disk);
        let clock = Arc::new(SimClock::new(START));
        Life::begin(&source, &clock).seal();
        disk.create_new(&Path::new("sources/his/manifest").join(format!("{number}.delta"))).unwrap();
        source.history(&cache()).unwrap();
        let mut life = Life::begin(&source, &clock);
        life.record(&begin());
        life.seal();
        drop(life);
        assert_eq!(source.history(&cache()).unwrap().ranges().len(), 1, "{number}");
    }
}

#[test]
fn a_segment_that_cannot_be_published_is_reported_with_the_cause() {
    let disk = SimDisk::new(1);
    let mut life = Life::begin(&new_source(&disk), &Arc::new(SimClock::new(START)));
    life.record(&begin());
    life.log.sync().unwrap();
    disk.inject(Fault::once(Operation::Name));
    let error = life.log.seal().unwrap_err().to_string();
    assert!(error.contains("cannot publish") && error.contains("os error 5"), "{error}");
}
