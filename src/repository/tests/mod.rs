//! The repository on a simulated disk.

mod crash;
mod damage;
mod points;
mod store;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::index::BlockCache;
use crate::io::{SeededRandom, SimClock, SimDisk};
use crate::journal::{Log, LogConfig};
use crate::namespace::Namespace;
use crate::types::{
    AttributeChange, Attributes, ChangeBody, DataChange, FileId, FileKind, Mark, NamespaceChange, PAGE_BYTES,
    PageWrite, Position, Time,
};

/// A point in time to start clocks at, 2026-05-01T00:00:00Z.
const START: Time = Time(1_777_593_600_000_000_000);
const ROOT: FileId = FileId(2);
const HOLDER: &str = "process 7 on here";

fn holder() -> Holder {
    Holder { pid: 7, host: "here".to_owned() }
}

fn cache() -> Arc<BlockCache> {
    Arc::new(BlockCache::new(1 << 20))
}

fn options() -> SourceOptions {
    SourceOptions { identity: Identity([9; 16]), created: START, zone: "Asia/Shanghai".to_owned() }
}

fn new_repository(disk: &SimDisk) -> Repository {
    Repository::init(Arc::new(disk.clone()), Identity([7; 16])).expect("an empty disk")
}

fn new_source(disk: &SimDisk) -> Source {
    new_repository(disk).create_source("his", options()).expect("a new name")
}

fn attributes(kind: FileKind) -> Attributes {
    Attributes { kind, mode: 0o600, uid: 1, gid: 1, rdev: 0, mtime: START }
}

fn declare_root() -> ChangeBody {
    ChangeBody::Names(NamespaceChange::Root {
        file: ROOT,
        label: "data".into(),
        mountpoint: "/var/lib/db".into(),
        data_dir: "/srv/db".into(),
        attributes: attributes(FileKind::Directory),
    })
}

fn create(file: u64, name: &str) -> ChangeBody {
    ChangeBody::Names(NamespaceChange::Create {
        file: FileId(file),
        parent: Some(ROOT),
        name: Bytes::copy_from_slice(name.as_bytes()),
        attributes: attributes(FileKind::Regular),
        target: Bytes::new(),
        parent_mtime: START,
    })
}

fn unlink(name: &str) -> ChangeBody {
    let name = Bytes::copy_from_slice(name.as_bytes());
    ChangeBody::Names(NamespaceChange::Unlink { parent: ROOT, name, parent_mtime: START })
}

/// A page of `fill`, after which the file has `size_after` bytes.
fn write(file: u64, page: u64, fill: u8, size_after: u64, mtime: Option<i64>) -> ChangeBody {
    ChangeBody::Data(DataChange {
        file: FileId(file),
        size_after,
        mtime: mtime.map(Time),
        cut: false,
        zero: None,
        pages: vec![PageWrite { first_page: page, bytes: vec![fill; PAGE_BYTES].into() }],
    })
}

fn touch(file: u64, mtime: i64) -> ChangeBody {
    let change = AttributeChange { mtime: Some(Time(mtime)), ..AttributeChange::default() };
    ChangeBody::Names(NamespaceChange::Attributes { file: FileId(file), change })
}

fn bookmark(name: &str) -> ChangeBody {
    ChangeBody::Mark(Mark::Bookmark { name: name.to_owned() })
}

fn begin() -> ChangeBody {
    ChangeBody::Mark(Mark::CoverageBegin)
}

fn end(reason: &str) -> ChangeBody {
    ChangeBody::Mark(Mark::CoverageEnd { reason: reason.to_owned() })
}

fn stop() -> ChangeBody {
    ChangeBody::Mark(Mark::CleanStop)
}

/// One life of a writer, and what it recorded.
struct Life {
    seat: Seat,
    log: Log,
    clock: Arc<SimClock>,
}

impl Life {
    fn begin(source: &Source, clock: &Arc<SimClock>) -> Life {
        Life::try_begin(source, clock).expect("the seat of a sound source")
    }

    fn try_begin(source: &Source, clock: &Arc<SimClock>) -> Result<Life, RepositoryError> {
        let seat = source.become_writer(&holder(), &cache())?;
        let config = LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() };
        let log = Log::start(
            source.disk().clone(),
            clock.clone(),
            seat.publisher(),
            seat.log_state.clone(),
            config,
        );
        let log = log.expect("a log creates nothing before its first change");
        Ok(Life { seat, log, clock: clock.clone() })
    }

    /// Records a change a second after the last; its position.
    fn record(&mut self, change: &ChangeBody) -> Position {
        self.clock.advance(Duration::from_secs(1));
        self.log.append(change).expect("a sound disk")
    }

    fn seal(&mut self) {
        self.log.seal().expect("a sound disk");
    }
}

/// The namespace that changes, one after the other, lead to.
#[derive(Clone, Default)]
struct Replay {
    changes: Vec<(Position, ChangeBody)>,
}

impl Replay {
    fn at(&self, position: Position) -> Namespace {
        let mut namespace = Namespace::new();
        for (_, change) in self.changes.iter().take_while(|(recorded, _)| *recorded <= position) {
            match change {
                ChangeBody::Names(change) => namespace.apply(change).expect("a possible change"),
                ChangeBody::Data(data) => {
                    namespace.set_size(data.file, data.size_after, data.mtime);
                }
                ChangeBody::Mark(_) => {}
            }
        }
        namespace
    }
}

/// Files that come, grow, are touched and go; always a possible change.
struct Chances {
    random: SeededRandom,
    /// Living files and their sizes.
    files: Vec<(u64, u64)>,
    has_root: bool,
    next_file: u64,
    now: i64,
}

impl Chances {
    fn new(seed: u64) -> Chances {
        Chances {
            random: SeededRandom::new(seed),
            files: Vec::new(),
            has_root: false,
            next_file: 3,
            now: START.0,
        }
    }

    /// Goes on from what a new life found.
    fn go_on_from(&mut self, namespace: &Namespace) {
        self.has_root = !namespace.roots().is_empty();
        let regular = namespace.files().filter(|(_, node)| !node.is_directory());
        self.files = regular.map(|(file, node)| (file.0, node.size)).collect();
        self.files.sort_unstable();
        self.next_file = self.next_file.max(namespace.next_file().0);
    }

    fn draw(&mut self) -> ChangeBody {
        self.now += 1_000;
        if !std::mem::replace(&mut self.has_root, true) {
            return declare_root();
        }
        let kind = if self.files.is_empty() { 0 } else { self.random.below(10) };
        let at = self.random.below(self.files.len().max(1) as u64) as usize;
        match kind {
            0 => {
                let file = self.next_file;
                self.next_file += 1;
                self.files.push((file, 0));
                create(file, &format!("f{file}"))
            }
            1 if self.files.len() > 1 => {
                let (file, _) = self.files.swap_remove(at);
                unlink(&format!("f{file}"))
            }
            2 => touch(self.files[at].0, self.now),
            3 => bookmark(&format!("b{}", self.now)),
            // As the image does: the time stays, and so does the size.
            4 if self.files[at].1 > 0 => write(self.files[at].0, 0, 5, self.files[at].1, None),
            _ => {
                let size = self.random.below(40_000) + 1;
                let page = (size - 1) / PAGE_BYTES as u64;
                self.files[at].1 = size;
                write(self.files[at].0, page, 0, size, Some(self.now))
            }
        }
    }
}
