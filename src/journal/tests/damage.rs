//! Bytes that storage changed: right answers or an error that names the place, never anything else.

use super::*;
use crate::index::Content;

fn sealed_segment(seed: u64) -> (SimDisk, SealedSegment, Vec<(Position, Effect)>) {
    let (disk, shelf) = (new_disk(seed), Shelf::default());
    let mut random = SeededRandom::new(seed);
    let mut log = start_log(&disk, &shelf, state(1, 1), 16 << 20);
    for _ in 0..30 {
        log.append(&change(&mut random)).unwrap();
        if random.chance(1, 4) {
            log.sync().unwrap();
        }
    }
    log.seal().unwrap();
    let sealed = shelf.0.lock()[0].clone();
    let read = effects(&open(&disk, sealed.id).unwrap());
    (disk, sealed, read)
}

/// Inverts some bits of the byte at `offset_bytes`.
fn flip(disk: &SimDisk, path: &Path, offset_bytes: u64, bits: u8) {
    let mut byte = [0];
    disk.open(path).unwrap().read_at(offset_bytes, &mut byte).unwrap();
    disk.overwrite(path, offset_bytes, &[byte[0] ^ bits]).unwrap();
}

/// Everything an undamaged reader answers is right; damage is named.
fn check_answers(
    disk: &SimDisk,
    sealed: &SealedSegment,
    expected: &[(Position, Effect)],
) -> Vec<DamagedPlace> {
    let reader = match open(disk, sealed.id) {
        Ok(reader) => reader,
        Err(JournalError::Damaged(place)) => return vec![place],
        Err(error) => panic!("{error}"),
    };
    let right_or_damaged = |names: Result<bool, JournalError>| match names {
        Ok(right) => assert!(right),
        Err(error) => assert!(matches!(error, JournalError::Damaged(_)), "{error}"),
    };
    right_or_damaged(reader.names().map(|names| names == sealed.names));
    right_or_damaged(reader.marks().map(|marks| marks == sealed.marks));
    right_or_damaged(reader.times().map(|times| times.last_position() == sealed.summary.last_position));
    for (position, effect) in expected {
        let Effect::Data { file, pages, .. } = effect else { continue };
        let mut found = Vec::new();
        if reader.index().lookup(*file, 0, 80, *position, &mut found).is_err() {
            continue;
        }
        for found in found {
            let Content::Pages { position: at, location, page_in_record } = found.content else { continue };
            if at != *position {
                continue;
            }
            match reader.read_record(location) {
                Ok(record) => {
                    let start = page_in_record as usize * PAGE_BYTES;
                    let page = record.bytes.slice(start..start + PAGE_BYTES);
                    assert_eq!(pages.get(&found.first_page), Some(&page));
                }
                Err(error) => assert!(matches!(error, JournalError::Damaged(_)), "{error}"),
            }
        }
    }
    reader.verify().unwrap()
}

#[test]
fn a_flipped_byte_anywhere_is_named_and_never_read() {
    let (disk, sealed, expected) = sealed_segment(3);
    assert_eq!(check_answers(&disk, &sealed, &expected), vec![]);
    let mut random = SeededRandom::new(4);
    let step = (sealed.len_bytes / from_environment("PITGATE_FLIPS", 400)).max(1);
    let mut offset_bytes = random.below(step);
    while offset_bytes < sealed.len_bytes {
        let bits = 1 << random.below(8);
        flip(&disk, &sealed.path, offset_bytes, bits);
        let places = check_answers(&disk, &sealed, &expected);
        let padding = is_between_parts(&disk, &sealed, offset_bytes, bits);
        assert!(!places.is_empty() || padding, "byte {offset_bytes} of {}", sealed.len_bytes);
        let digest = open(&disk, sealed.id).map(|reader| reader.digest().unwrap());
        assert!(digest.is_err() || digest.unwrap() != sealed.digest);
        flip(&disk, &sealed.path, offset_bytes, bits);
        offset_bytes += 1 + random.below(2 * step);
    }
    assert_eq!(check_answers(&disk, &sealed, &expected), vec![]);
}

/// Zeros that fill up a block hold nothing; only the digest covers them.
fn is_between_parts(disk: &SimDisk, sealed: &SealedSegment, offset_bytes: u64, bits: u8) -> bool {
    let mut byte = [0];
    disk.open(&sealed.path).unwrap().read_at(offset_bytes, &mut byte).unwrap();
    byte[0] ^ bits == 0
}

#[test]
fn a_damaged_names_section_is_rebuilt_from_the_records() {
    let (disk, sealed, _) = sealed_segment(5);
    assert!(!sealed.names.is_empty());
    let reader = open(&disk, sealed.id).unwrap();
    let section = reader.section_place(super::super::sections::SectionKind::Names);
    flip(&disk, &sealed.path, section.offset_bytes + section.stored_len_bytes / 2, 0x10);
    assert!(reader.verify().unwrap().iter().any(|place| place.what == "names section"));
    assert_eq!(reader.names().unwrap(), sealed.names);
}

#[test]
fn one_damaged_footer_is_survived() {
    for copy in 1..=2 {
        let (disk, sealed, expected) = sealed_segment(6);
        flip(&disk, &sealed.path, sealed.len_bytes - copy * 4096 + 40, 1);
        let places = check_answers(&disk, &sealed, &expected);
        assert_eq!(places.iter().map(|place| place.what.as_str()).collect::<Vec<_>>(), ["footer"]);
        assert_eq!(open(&disk, sealed.id).unwrap().names().unwrap(), sealed.names);
    }
}

#[test]
fn a_segment_put_in_anothers_place_is_refused() {
    let (disk, sealed, _) = sealed_segment(7);
    let other = SegmentId { epoch: Epoch(1), sequence: 9 };
    disk.rename(&sealed.path, &directory().join(other.file_name())).unwrap();
    assert!(matches!(open(&disk, other), Err(JournalError::Foreign { .. })));
    let recovered = recover_open_segment(&disk, &directory().join(other.file_name()), &IDENTITY, other, None);
    assert!(matches!(recovered, Err(JournalError::Foreign { .. })));
}

#[test]
fn a_newer_version_is_refused_clearly() {
    let (disk, sealed, _) = sealed_segment(8);
    let mut block = vec![0; 4096];
    disk.open(&sealed.path).unwrap().read_at(0, &mut block).unwrap();
    block[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..]);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.overwrite(&sealed.path, 0, &block).unwrap();
    disk.open_writable(&sealed.path).unwrap().set_len(sealed.len_bytes - 8192).unwrap();
    let error = recover_open_segment(&disk, &sealed.path, &IDENTITY, sealed.id, None).unwrap_err();
    assert!(error.to_string().contains("format version 2"), "{error}");
    assert!(matches!(open(&disk, sealed.id), Err(JournalError::NewerVersion { version: 2, .. })));
}

/// An open segment with a sync after every change.
fn open_segment(changes: usize) -> (SimDisk, PathBuf, SegmentId, Vec<(Position, ChangeBody)>) {
    let (disk, shelf) = (new_disk(2), Shelf::default());
    let mut random = SeededRandom::new(9);
    let mut log = start_log(&disk, &shelf, state(1, 1), 16 << 20);
    let mut appended = Vec::new();
    for _ in 0..changes {
        let change = change(&mut random);
        appended.push((log.append(&change).unwrap(), change));
        log.sync().unwrap();
    }
    drop(log);
    let id = SegmentId { epoch: Epoch(1), sequence: 0 };
    (disk, directory().join(id.file_name()), id, appended)
}

#[test]
fn damage_below_what_was_durable_is_reported_and_nothing_is_cut() {
    let (original, path, id, appended) = open_segment(25);
    let used = {
        let copy = original.copy(1);
        recover_open_segment(&copy, &path, &IDENTITY, id, None).unwrap();
        open(&copy, id).unwrap().records().last().unwrap().unwrap().offset_bytes
    };
    let last_flushed = Position(24);
    let mut random = SeededRandom::new(10);
    for _ in 0..300 {
        let disk = original.copy(random.next());
        let offset_bytes = 4096 + random.below(used - 4096);
        flip(&disk, &path, offset_bytes, 1 << random.below(8));
        let recovered = recover_open_segment(&disk, &path, &IDENTITY, id, None).unwrap();
        let reader = open(&disk, id).unwrap();
        assert_eq!(reader.damaged(), recovered.damaged);
        let lost: Vec<Position> = recovered
            .damaged
            .iter()
            .filter_map(|place| place.positions)
            .flat_map(|(first, last)| (first.0..=last.0).map(Position))
            .collect();
        for place in &recovered.damaged {
            let end = place.offset_bytes + place.len_bytes;
            assert!(
                place.offset_bytes <= offset_bytes && offset_bytes < end,
                "{place} for byte {offset_bytes}"
            );
        }
        assert!(lost.len() <= 1, "one byte harms one change: {lost:?}");
        let kept = recovered.durable_position;
        assert!(kept >= last_flushed || lost.contains(&last_flushed), "byte {offset_bytes}: {kept}");
        // Sound changes are all there and right; the records of the damaged one are errors.
        let index_of = |position: Position| (position.0 - 1) as usize;
        let mut seen = 0;
        for item in reader.records() {
            let Ok(record) = item else { continue };
            if let RecordBody::Names(names) = record.body {
                assert_eq!(ChangeBody::Names(names), appended[index_of(record.position)].1);
                seen += 1;
            }
        }
        let sound = |(position, change): &&(Position, ChangeBody)| {
            matches!(change, ChangeBody::Names(_)) && *position <= kept && !lost.contains(position)
        };
        assert_eq!(seen, appended.iter().filter(sound).count());
    }
}

#[test]
fn arbitrary_bytes_in_place_of_a_segment_never_panic() {
    let mut random = SeededRandom::new(11);
    let id = SegmentId { epoch: Epoch(1), sequence: 0 };
    let path = directory().join(id.file_name());
    for _ in 0..200 {
        let disk = new_disk(random.next());
        let mut bytes = vec![0; random.below(20_000) as usize];
        random.fill(&mut bytes);
        disk.create_new(&path).unwrap().write_at(0, &bytes).unwrap();
        assert!(open(&disk, id).is_err());
        let recovered = recover_open_segment(&disk, &path, &IDENTITY, id, None).unwrap();
        assert_eq!(recovered.segment, None);
    }
}
