//! What was appended is what is read, by every way of reading.

use super::*;
use crate::index::Content;
use crate::types::AttributeChange;

/// Appends random changes with seals and syncs between; what went in.
fn fill(seed: u64, disk: &SimDisk, shelf: &Shelf, count: usize) -> Vec<(Position, ChangeBody)> {
    let mut random = SeededRandom::new(seed);
    let mut log = start_log(disk, shelf, state(1, 1), (64 + random.below(400)) << 10);
    let mut appended = Vec::new();
    for _ in 0..count {
        let change = change(&mut random);
        appended.push((log.append(&change).unwrap(), change));
        match random.below(30) {
            0 => drop(log.seal().unwrap()),
            1..5 => drop(log.sync().unwrap()),
            5..8 => log.write().unwrap(),
            _ => {}
        }
    }
    let last = log.written_position();
    assert_eq!(log.seal().unwrap(), last);
    assert_eq!(log.durable_position(), last);
    appended
}

#[test]
fn every_change_comes_back_in_order_with_its_position() {
    for seed in 0..40 {
        let (disk, shelf) = (new_disk(seed), Shelf::default());
        let appended = fill(seed, &disk, &shelf, 120);
        let sealed = shelf.0.lock().clone();
        let mut read = Vec::new();
        for segment in &sealed {
            read.extend(effects(&open(&disk, segment.id).unwrap()));
        }
        let expected: Vec<_> =
            appended.iter().map(|(position, change)| (*position, effect(change))).collect();
        assert!(read == expected, "seed {seed}");
        assert!(expected.iter().zip(1..).all(|((position, _), number)| position.0 == number));
    }
}

#[test]
fn sections_summary_and_digest_agree_with_the_records() {
    for seed in 0..20 {
        let (disk, shelf) = (new_disk(seed), Shelf::default());
        fill(seed, &disk, &shelf, 80);
        for segment in shelf.0.lock().iter() {
            let reader = open(&disk, segment.id).unwrap();
            assert_eq!(reader.verify().unwrap(), vec![], "seed {seed}");
            assert_eq!(reader.digest().unwrap(), segment.digest);
            assert_eq!(reader.summary(), &segment.summary);
            assert_eq!(reader.names().unwrap(), segment.names);
            assert_eq!(reader.marks().unwrap(), segment.marks);
            let records: Vec<Record> = reader.records().map(Result::unwrap).collect();
            let times = reader.times().unwrap();
            let mut names = Vec::new();
            for record in &records {
                let Record { position, time, .. } = *record;
                match &record.body {
                    RecordBody::Flush { .. } | RecordBody::End => continue,
                    RecordBody::Names(change) => {
                        names.push(NamesAt { position, time, change: change.clone() })
                    }
                    _ => {}
                }
                assert_eq!(times.time_of(position), Some(time), "seed {seed}");
                assert!(times.last_position_at(time).unwrap() >= position);
                assert!(times.last_position_at(Time(time.0 - 1)).is_none_or(|before| before < position));
            }
            assert_eq!(names, segment.names);
            assert_eq!(segment.summary.last_position, times.last_position());
            let recovered = recover_open_segment(&disk, &segment.path, &IDENTITY, segment.id, None).unwrap();
            assert_eq!(recovered.segment.as_ref(), Some(segment), "a sealed segment is left as it is");
        }
    }
}

#[test]
fn the_index_finds_every_page_at_every_position() {
    for seed in 0..15 {
        let (disk, shelf) = (new_disk(seed), Shelf::default());
        let appended = fill(seed, &disk, &shelf, 60);
        for segment in shelf.0.lock().iter() {
            let reader = open(&disk, segment.id).unwrap();
            let mut naive: BTreeMap<(FileId, u64), Bytes> = BTreeMap::new();
            for (position, change) in &appended {
                if *position < segment.summary.first_position || *position > segment.summary.last_position {
                    continue;
                }
                if let Effect::Data { file, size, cut, pages, .. } = effect(change) {
                    if cut {
                        for page in crate::types::pages_of(size)..80 {
                            naive.insert((file, page), zero_page());
                        }
                    }
                    naive.extend(pages.into_iter().map(|(page, bytes)| ((file, page), bytes)));
                    assert_pages(&reader, file, *position, &naive);
                    assert_eq!(reader.index().size_at(file, *position).unwrap().unwrap().size, size);
                }
            }
        }
    }
}

fn assert_pages(reader: &SegmentReader, file: FileId, at: Position, naive: &BTreeMap<(FileId, u64), Bytes>) {
    let mut found = Vec::new();
    reader.index().lookup(file, 0, 80, at, &mut found).unwrap();
    for found in found {
        for page in found.first_page..found.first_page + found.count {
            let bytes = match found.content {
                Content::Absent => None,
                Content::Zeros { .. } => Some(zero_page()),
                Content::Pages { location, page_in_record, .. } => {
                    let record = reader.read_record(location).unwrap();
                    let number = page_in_record as usize + (page - found.first_page) as usize;
                    assert_eq!((record.file, record.first_page + number as u64), (file, page));
                    Some(record.bytes.slice(number * PAGE_BYTES..(number + 1) * PAGE_BYTES))
                }
            };
            assert_eq!(bytes.as_ref(), naive.get(&(file, page)), "{file:?} page {page} at {at}");
        }
    }
}

#[test]
fn a_time_set_between_two_equal_sizes_is_not_lost() {
    let (disk, shelf) = (new_disk(1), Shelf::default());
    let mut log = start_log(&disk, &shelf, state(1, 1), 1 << 20);
    let (file, mtime) = (FileId(9), Some(Time(5)));
    let write = ChangeBody::Data(DataChange {
        file,
        size_after: 10,
        mtime,
        cut: false,
        zero: None,
        pages: Vec::new(),
    });
    log.append(&write).unwrap();
    let change = AttributeChange { mtime: Some(Time(1)), ..AttributeChange::default() };
    log.append(&ChangeBody::Names(NamespaceChange::Attributes { file, change })).unwrap();
    let again = log.append(&write).unwrap();
    log.seal().unwrap();
    let id = shelf.0.lock()[0].id;
    let size = open(&disk, id).unwrap().index().size_at(file, again).unwrap().unwrap();
    assert_eq!((size.position, size.mtime), (again, mtime));
}

#[test]
fn a_change_that_breaks_its_rules_is_refused_and_takes_no_position() {
    let (disk, shelf) = (new_disk(1), Shelf::default());
    let mut log = start_log(&disk, &shelf, state(1, 1), 1 << 20);
    let torn = PageWrite { first_page: 0, bytes: Bytes::from_static(b"short") };
    let pages = vec![torn];
    let data = DataChange { file: FileId(2), size_after: 5, mtime: None, cut: false, zero: None, pages };
    assert!(matches!(log.append(&ChangeBody::Data(data)), Err(JournalError::Malformed { .. })));
    let name = Bytes::from_static(b"a/b");
    let names = NamespaceChange::Unlink { parent: FileId(1), name, parent_mtime: Time(0) };
    assert!(matches!(log.append(&ChangeBody::Names(names)), Err(JournalError::Malformed { .. })));
    assert_eq!(log.append(&ChangeBody::Mark(Mark::Heartbeat)).unwrap(), Position(1));
}

#[test]
fn activity_tells_an_encryption_from_ordinary_work() {
    let (disk, shelf) = (new_disk(1), Shelf::default());
    let mut random = SeededRandom::new(1);
    let mut log = start_log(&disk, &shelf, state(1, 1), 4 << 20);
    let mut write = |file: u64, bytes: Vec<u8>| {
        let pages = vec![PageWrite { first_page: 0, bytes: Bytes::from(bytes) }];
        let (file, mtime) = (FileId(file), Some(Time(7)));
        let data = DataChange { file, size_after: 8192, mtime, cut: false, zero: None, pages };
        log.append(&ChangeBody::Data(data)).unwrap();
    };
    write(2, vec![1; 2 * PAGE_BYTES]);
    let mut encrypted = vec![0; PAGE_BYTES];
    random.fill(&mut encrypted);
    write(3, encrypted);
    let (parent, parent_mtime) = (FileId(1), Time(0));
    for name in ["a", "b"] {
        let name = Bytes::from(name);
        log.append(&ChangeBody::Names(NamespaceChange::Unlink { parent, name, parent_mtime })).unwrap();
    }
    log.seal().unwrap();
    let id = shelf.0.lock()[0].id;
    let spans = open(&disk, id).unwrap().activity().unwrap().spans;
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].written_bytes, 3 * PAGE_BYTES as u64);
    assert_eq!(spans[0].incompressible_bytes, PAGE_BYTES as u64);
    assert_eq!(spans[0].unlinks, 2);
    assert_eq!(spans[0].busiest, vec![(FileId(2), 2 * PAGE_BYTES as u64), (FileId(3), PAGE_BYTES as u64)]);
}

#[test]
fn tiny_changes_seal_a_segment_before_they_fill_the_memory() {
    let (disk, shelf) = (new_disk(1), Shelf::default());
    let config = LogConfig { contents_bytes: 128 << 10, ..LogConfig::default() };
    let publisher = Box::new(shelf.clone());
    let mut log = Log::start(Arc::new(disk.clone()), clock(), publisher, state(1, 1), config).unwrap();
    for page in 0..10_000 {
        let zero = Some(PageRange { first: page * 2, count: 1 });
        let (file, size_after) = (FileId(2), 1 << 30);
        let change = DataChange { file, size_after, mtime: None, cut: false, zero, pages: Vec::new() };
        log.append(&ChangeBody::Data(change)).unwrap();
        if page % 100 == 0 {
            log.sync().unwrap();
        }
    }
    log.seal().unwrap();
    let sealed = shelf.0.lock().len();
    assert!((4..40).contains(&sealed), "{sealed} segments");
}
