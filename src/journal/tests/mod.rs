//! Tests of the journal as a whole: on a simulated disk, against the list of changes that went in.

mod crash;
mod damage;
mod decoders;
mod fixture;
mod roundtrip;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::index::BlockCache;
use crate::io::{Disk, SeededRandom, SimClock, SimDisk};
use crate::types::{
    Attributes, ChangeBody, DataChange, Epoch, FileId, FileKind, Mark, NamespaceChange, PAGE_BYTES,
    PageRange, PageWrite, Position, Time,
};

const IDENTITY: JournalIdentity = JournalIdentity { repository: [3; 16], source: [5; 16] };

/// What the publisher was told.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Vec<SealedSegment>>>);

impl Publisher for Shelf {
    fn opened(&mut self, _: &SegmentOpened) {}

    fn sealed(&mut self, segment: SealedSegment) -> Result<(), PublishError> {
        self.0.lock().push(segment);
        Ok(())
    }
}

fn directory() -> PathBuf {
    PathBuf::from("segments")
}

fn new_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_directories(&directory()).unwrap();
    disk.sync_directory(Path::new("")).unwrap();
    disk
}

fn state(epoch: u32, first_position: u64) -> LogState {
    LogState {
        identity: IDENTITY,
        directory: directory(),
        epoch: Epoch(epoch),
        first_position: Position(first_position),
        last_time: Time(0),
    }
}

fn clock() -> Arc<SimClock> {
    Arc::new(SimClock::ticking(Time(1_700_000_000_000_000_000), std::time::Duration::from_micros(300)))
}

fn start_log(disk: &SimDisk, shelf: &Shelf, state: LogState, segment_bytes: u64) -> Log {
    let config = LogConfig { segment_bytes, ..LogConfig::default() };
    Log::start(Arc::new(disk.clone()), clock(), Box::new(shelf.clone()), state, config).unwrap()
}

fn open(disk: &dyn Disk, id: SegmentId) -> Result<SegmentReader, JournalError> {
    let file = disk.open(&directory().join(id.file_name())).unwrap();
    SegmentReader::open(file, &IDENTITY, id, Arc::new(BlockCache::new(1 << 20)))
}

fn pages(random: &mut SeededRandom, count: usize) -> Bytes {
    let mut bytes = vec![0; count * PAGE_BYTES];
    match random.below(4) {
        0 => {}
        1 => random.fill(&mut bytes),
        _ => {
            let word = random.next().to_le_bytes();
            let every = 1 + random.below(40) as usize;
            for chunk in bytes.chunks_mut(8).step_by(every) {
                chunk.copy_from_slice(&word);
            }
        }
    }
    Bytes::from(bytes)
}

fn data_change(random: &mut SeededRandom) -> DataChange {
    let mut next = random.below(20);
    let mut writes = Vec::new();
    for _ in 0..random.below(3) {
        let count = 1 + if random.chance(1, 6) { random.below(40) } else { random.below(3) };
        writes.push(PageWrite { first_page: next, bytes: pages(random, count as usize) });
        next += count + random.below(3);
    }
    let zero = random.chance(1, 5).then(|| PageRange { first: random.below(30), count: 1 + random.below(9) });
    DataChange {
        file: FileId(2 + random.below(5)),
        size_after: random.below(60) * 1000,
        mtime: random.chance(2, 3).then(|| Time(random.next() as i64 / 2)),
        cut: random.chance(1, 5),
        zero,
        pages: writes,
    }
}

fn change(random: &mut SeededRandom) -> ChangeBody {
    let name = Bytes::from(format!("name {}", random.below(100)));
    let (file, parent) = (FileId(2 + random.below(50)), FileId(1 + random.below(3)));
    let mtime = Time(random.next() as i64);
    match random.below(12) {
        0 => ChangeBody::Mark(Mark::Heartbeat),
        1 => ChangeBody::Mark(Mark::Barrier { file }),
        2 => ChangeBody::Mark(Mark::Bookmark { name: format!("bookmark {}", random.next()) }),
        3 => ChangeBody::Names(NamespaceChange::Unlink { parent, name, parent_mtime: mtime }),
        4 => {
            let value = Bytes::from(vec![7; random.below(3000) as usize]);
            ChangeBody::Names(NamespaceChange::SetXattr { file, name, value })
        }
        5 => {
            let kind = FileKind::Regular;
            let attributes = Attributes { kind, mode: 0o644, uid: 1, gid: 2, rdev: 0, mtime };
            let (parent, target) = (Some(parent), Bytes::new());
            ChangeBody::Names(NamespaceChange::Create {
                file,
                parent,
                name,
                attributes,
                target,
                parent_mtime: mtime,
            })
        }
        _ => ChangeBody::Data(data_change(random)),
    }
}

/// A change as its effect: what of it must come back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Effect {
    Data { file: FileId, size: u64, mtime: Option<Time>, cut: bool, pages: BTreeMap<u64, Bytes> },
    Other(ChangeBody),
}

fn effect(change: &ChangeBody) -> Effect {
    let ChangeBody::Data(data) = change else {
        return Effect::Other(change.clone());
    };
    let mut pages = BTreeMap::new();
    if let Some(PageRange { first, count }) = data.zero {
        pages.extend((first..first + count).map(|page| (page, zero_page())));
    }
    for write in &data.pages {
        add_pages(&mut pages, write.first_page, &write.bytes);
    }
    Effect::Data { file: data.file, size: data.size_after, mtime: data.mtime, cut: data.cut, pages }
}

fn zero_page() -> Bytes {
    Bytes::from_static(&crate::types::ZERO_PAGE)
}

fn add_pages(into: &mut BTreeMap<u64, Bytes>, first_page: u64, bytes: &Bytes) {
    for (page, start) in (first_page..).zip((0..bytes.len()).step_by(PAGE_BYTES)) {
        into.insert(page, bytes.slice(start..start + PAGE_BYTES));
    }
}

/// The changes in a sound segment.
fn effects(reader: &SegmentReader) -> Vec<(Position, Effect)> {
    let mut all: Vec<(Position, Effect)> = Vec::new();
    for record in reader.records() {
        let record = record.unwrap();
        let part = match record.body {
            RecordBody::Flush { .. } | RecordBody::End => continue,
            RecordBody::Names(names) => Effect::Other(ChangeBody::Names(names)),
            RecordBody::Mark(mark) => Effect::Other(ChangeBody::Mark(mark)),
            RecordBody::Zero { file, size_after: size, mtime, cut: true, .. } => {
                Effect::Data { file, size, mtime, cut: true, pages: BTreeMap::new() }
            }
            RecordBody::Zero { file, size_after: size, mtime, pages, cut: false } => {
                let zeros =
                    (pages.first..pages.first + pages.count).map(|page| (page, zero_page())).collect();
                Effect::Data { file, size, mtime, cut: false, pages: zeros }
            }
            RecordBody::Data { file, size_after: size, mtime, first_page, bytes } => {
                let mut pages = BTreeMap::new();
                add_pages(&mut pages, first_page, &bytes);
                Effect::Data { file, size, mtime, cut: false, pages }
            }
        };
        match (all.last_mut(), part) {
            (Some((position, Effect::Data { pages, .. })), Effect::Data { pages: more, .. })
                if *position == record.position =>
            {
                pages.extend(more);
            }
            (_, part) => all.push((record.position, part)),
        }
    }
    all
}

/// Recovers every segment on the disk, the last first, as the repository does; ascending.
fn recover_all(disk: &SimDisk) -> Result<Vec<(SegmentId, Recovered)>, JournalError> {
    let mut ids: Vec<SegmentId> = disk
        .list(&directory())
        .map_err(|source| JournalError::storage("list", "segments", source))?
        .iter()
        .filter_map(|name| SegmentId::parse_file_name(name.file_name()?.to_str()?))
        .collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    let mut next: Option<(SegmentId, Position)> = None;
    let mut all = Vec::new();
    for id in ids {
        let first = next.filter(|(next, _)| next.epoch == id.epoch).map(|(_, first)| first);
        let recovered = recover_open_segment(disk, &directory().join(id.file_name()), &IDENTITY, id, first)?;
        if let Some(sealed) = &recovered.segment {
            next = Some((id, sealed.summary.first_position));
        }
        all.push((id, recovered));
    }
    all.reverse();
    Ok(all)
}

/// A number from the environment, for longer runs.
fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}
