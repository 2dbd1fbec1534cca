//! Pinned segments: what version 1 wrote is read for ever.
//!
//! `PITGATE_WRITE_FIXTURES=1` writes them anew, for a new version of the format.

use super::*;
use crate::io::RealDisk;

const SOUND: &[u8] = include_bytes!("../../../tests/fixtures/segment-1/sound.seg");
const OPEN: &[u8] = include_bytes!("../../../tests/fixtures/segment-1/open.seg");
const DAMAGED: &[u8] = include_bytes!("../../../tests/fixtures/segment-1/damaged.seg");

const ID: SegmentId = SegmentId { epoch: Epoch(1), sequence: 0 };

/// One change of every kind.
fn history() -> Vec<ChangeBody> {
    let (file, parent, mtime) = (FileId(7), FileId(2), Time(1_700_000_000_000_000_123));
    let name = || Bytes::from_static(b"base");
    let attributes = |kind| Attributes { kind, mode: 0o640, uid: 26, gid: 27, rdev: 0, mtime };
    let patterned = |words: usize| {
        let mut bytes = vec![0; 2 * PAGE_BYTES];
        (0..words).for_each(|at| bytes[at * 16] = at as u8);
        Bytes::from(bytes)
    };
    let noise = |seed: u64| {
        let mut bytes = vec![0; PAGE_BYTES];
        SeededRandom::new(seed).fill(&mut bytes);
        Bytes::from(bytes)
    };
    let data = |cut, zero, pages, mtime| {
        ChangeBody::Data(DataChange { file, size_after: 20_000, mtime, cut, zero, pages })
    };
    vec![
        ChangeBody::Names(NamespaceChange::Root {
            file: parent,
            label: Bytes::from_static(b"pgdata"),
            mountpoint: Bytes::from_static(b"/srv/pgdata"),
            data_dir: Bytes::from_static(b"/srv/.pgdata"),
            attributes: attributes(FileKind::Directory),
        }),
        ChangeBody::Names(NamespaceChange::Create {
            file,
            parent: Some(parent),
            name: name(),
            attributes: attributes(FileKind::Regular),
            target: Bytes::new(),
            parent_mtime: mtime,
        }),
        data(false, None, vec![PageWrite { first_page: 0, bytes: patterned(300) }], None),
        ChangeBody::Mark(Mark::CoverageBegin),
        data(false, None, vec![PageWrite { first_page: 3, bytes: noise(1) }], Some(mtime)),
        data(
            true,
            Some(PageRange { first: 1, count: 2 }),
            vec![PageWrite { first_page: 4, bytes: noise(2) }],
            None,
        ),
        ChangeBody::Mark(Mark::Barrier { file }),
        ChangeBody::Mark(Mark::Bookmark { name: "before the upgrade".to_owned() }),
        ChangeBody::Names(NamespaceChange::SetXattr { file, name: name(), value: Bytes::from(vec![9; 300]) }),
        data(false, None, Vec::new(), Some(Time(5))),
        ChangeBody::Names(NamespaceChange::Unlink { parent, name: name(), parent_mtime: mtime }),
        ChangeBody::Mark(Mark::Heartbeat),
        ChangeBody::Mark(Mark::CleanStop),
    ]
}

fn expected() -> Vec<(Position, Effect)> {
    (1..).map(Position).zip(history().iter().map(effect)).collect()
}

/// A disk that holds the segment as `bytes`.
fn disk_with(bytes: &[u8]) -> SimDisk {
    let disk = new_disk(1);
    let file = disk.create_new(&directory().join(ID.file_name())).unwrap();
    file.write_at(0, bytes).unwrap();
    disk
}

#[test]
fn a_sealed_segment_of_version_1_is_read() {
    let disk = disk_with(SOUND);
    let reader = open(&disk, ID).unwrap();
    assert_eq!(reader.verify().unwrap(), vec![]);
    assert!(effects(&reader) == expected());
    assert_eq!(reader.names().unwrap().len(), 4);
    assert_eq!(reader.marks().unwrap().len(), 3);
    assert_eq!(reader.times().unwrap().last_position(), Position(13));
    assert_eq!(reader.activity().unwrap().spans[0].written_bytes, PAGE_BYTES as u64);
    assert_eq!(reader.index().size_at(FileId(7), Position(13)).unwrap().unwrap().mtime, Some(Time(5)));
    let summary = reader.summary();
    assert_eq!((summary.data_changes, summary.names_changes, summary.marks), (4, 4, 5));
    assert_eq!(summary.page_versions, 4);
}

#[test]
fn an_open_segment_of_version_1_is_recovered() {
    let disk = disk_with(OPEN);
    let path = directory().join(ID.file_name());
    let recovered = recover_open_segment(&disk, &path, &IDENTITY, ID, None).unwrap();
    assert_eq!(recovered.durable_position, Position(10));
    assert_eq!(recovered.discarded_changes, 2);
    assert_eq!(recovered.damaged, vec![]);
    assert!(!recovered.clean_stop);
    assert!(effects(&open(&disk, ID).unwrap()) == expected()[..10]);
}

#[test]
fn damage_in_a_segment_of_version_1_is_named() {
    let reader = open(&disk_with(DAMAGED), ID).unwrap();
    let places: Vec<String> = reader.verify().unwrap().iter().map(ToString::to_string).collect();
    let segment = "segment 00000001-00000000";
    assert_eq!(places.len(), 2, "{places:?}");
    assert!(
        places[0].starts_with(&format!("record of {segment}")) && places[0].ends_with("(change @5)"),
        "{places:?}"
    );
    assert!(places[1].starts_with(&format!("names section of {segment}")), "{places:?}");
    assert_eq!(reader.names().unwrap().len(), 4, "rebuilt from the records");
}

#[test]
fn fixtures_are_written_when_asked_for() {
    if std::env::var_os("PITGATE_WRITE_FIXTURES").is_none() {
        // What is pinned must be what this program writes, compressed bytes aside.
        let (sound, ..) = write_all();
        assert_eq!(sound[..4096], SOUND[..4096]);
        return;
    }
    let (sound, open, damaged) = write_all();
    let disk =
        RealDisk::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/segment-1"))).unwrap();
    for (name, bytes) in [("sound.seg", sound), ("open.seg", open), ("damaged.seg", damaged)] {
        let name = Path::new(name);
        if disk.open(name).is_ok() {
            disk.remove(name).unwrap();
        }
        disk.create_new(name).unwrap().write_at(0, &bytes).unwrap();
    }
}

/// The three files.
fn write_all() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (disk, shelf) = (new_disk(1), Shelf::default());
    let mut log = start_log(&disk, &shelf, state(1, 1), 1 << 20);
    let mut open_bytes = Vec::new();
    for (number, change) in history().iter().enumerate() {
        log.append(change).unwrap();
        match number + 1 {
            5 | 10 => drop(log.sync().unwrap()),
            13 => {
                log.write().unwrap();
                open_bytes = read_whole(&disk);
            }
            _ => {}
        }
    }
    log.seal().unwrap();
    let used = open_bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    open_bytes.truncate(used.next_multiple_of(512));
    let reader = open(&disk, ID).unwrap();
    let offset_of = |wanted: u64| {
        let mut records = reader.records().map(Result::unwrap);
        let record = records.find(|record| record.position == Position(wanted)).unwrap();
        (record.offset_bytes + u64::from(record.len_bytes)) as usize
    };
    // The unlink is torn: the last byte of its payload.
    open_bytes[offset_of(11) - 1] ^= 1;
    let sound = read_whole(&disk);
    let mut damaged = sound.clone();
    damaged[offset_of(5) - 100] ^= 0x40;
    let names = reader.section_place(super::super::sections::SectionKind::Names);
    damaged[(names.offset_bytes + names.stored_len_bytes / 2) as usize] ^= 4;
    (sound, open_bytes, damaged)
}

fn read_whole(disk: &SimDisk) -> Vec<u8> {
    let file = disk.open(&directory().join(ID.file_name())).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}
