//! Reading everything back and naming what is damaged.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::history::{History, SegmentEntry, SnapshotEntry};
use super::{Repository, RepositoryError, Source, manifest};
use crate::index::BlockCache;
use crate::types::Position;

const READ_BYTES: usize = 1 << 20;
const CACHE_BYTES: u64 = 8 << 20;

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub source: Option<String>,
    /// Path of the object in the repository.
    pub object: String,
    /// Where in it, and what is wrong.
    pub what: String,
    /// Points from the first to the last position given may fail to read; `None` if no point is affected.
    pub affected: Option<(Position, Position)>,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub objects: u64,
    pub bytes: u64,
    /// Ascending by object.
    pub damages: Vec<Damage>,
    /// What recovery after a crash found damaged and took out of the mountable ranges.
    pub put_aside: Vec<Damage>,
}

impl Repository {
    /// Reads every object of every source (of one, if named) with `threads` threads and checks every byte.
    /// `progress` is called now and then from any of them. The segment that a writer has open is left out.
    ///
    /// # Errors
    /// `RepositoryError::NoSuchSource`, or `Storage` if storage cannot even list; damage is in the report.
    pub fn verify(
        &self,
        source: Option<&str>,
        threads: usize,
        progress: &(dyn Fn(VerifyProgress) + Sync),
    ) -> Result<VerifyReport, RepositoryError> {
        let names = match source {
            Some(name) => vec![name.to_owned()],
            None => self.source_names()?,
        };
        // The repository's own file was read when it was opened.
        let mut report = VerifyReport { objects: 1, ..VerifyReport::default() };
        let cache = Arc::new(BlockCache::new(CACHE_BYTES));
        let mut checks = Vec::new();
        for name in names {
            match self.source(&name) {
                Ok(source) => {
                    report.objects += 1;
                    checks.push(SourceCheck::new(source, &cache)?);
                }
                Err(RepositoryError::Damaged { object, what }) => report.damages.push(Damage {
                    source: Some(name),
                    object,
                    what,
                    affected: Some((Position::ZERO, Position::MAX)),
                }),
                Err(error) => return Err(error),
            }
        }
        for check in &mut checks {
            check.small_objects(&mut report)?;
        }
        check_segments(&checks, threads, progress, &mut report);
        report.damages.sort_by(|a, b| (&a.object, &a.what).cmp(&(&b.object, &b.what)));
        Ok(report)
    }
}

struct SourceCheck {
    source: Source,
    history: History,
}

/// Reads all segments of all sources, several at a time.
fn check_segments(
    checks: &[SourceCheck],
    threads: usize,
    progress: &(dyn Fn(VerifyProgress) + Sync),
    report: &mut VerifyReport,
) {
    let tasks: Vec<_> = checks
        .iter()
        .flat_map(|check| (0..check.history.segments().len()).map(move |index| (check, index)))
        .collect();
    let size = |(check, index): &(&SourceCheck, usize)| check.history.segments()[*index].len_bytes;
    let total_bytes = tasks.iter().map(size).sum();
    let done_bytes = AtomicU64::new(0);
    let next = AtomicUsize::new(0);
    let damages = Mutex::new(Vec::new());
    let step = |bytes: u64| {
        let done_bytes = done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        progress(VerifyProgress { done_bytes, total_bytes });
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, tasks.len().max(1)) {
            scope.spawn(|| {
                while let Some((check, index)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    damages.lock().extend(check.segment(*index, &step));
                }
            });
        }
    });
    report.objects += tasks.len() as u64;
    report.bytes += done_bytes.into_inner();
    report.damages.extend(damages.into_inner());
}

impl SourceCheck {
    fn new(source: Source, cache: &Arc<BlockCache>) -> Result<SourceCheck, RepositoryError> {
        let history = source.history(cache)?;
        Ok(SourceCheck { source, history })
    }

    fn damage(&self, path: &Path, what: String, affected: Option<(Position, Position)>) -> Damage {
        let object = self.source.disk().display(path);
        Damage { source: Some(self.source.name().to_owned()), object, what, affected }
    }

    /// Manifest, snapshots, and what is known of segments from before.
    fn small_objects(&self, report: &mut VerifyReport) -> Result<(), RepositoryError> {
        let directory = self.source.path(Path::new("manifest"));
        let identity = self.source.whole_identity();
        for (path, wrong) in manifest::check_all(&**self.source.disk(), &directory, &identity)? {
            report.objects += 1;
            if let Some(what) = wrong {
                let what = format!("{what}; the segments themselves say what it said");
                report.damages.push(self.damage(&path, what, None));
            }
        }
        for snapshot in self.history.snapshots() {
            report.objects += 1;
            report.bytes += snapshot.len_bytes;
            if let Err(error) = self.source.read_snapshot(snapshot)? {
                let path = self.source.snapshot_path(snapshot);
                report.damages.push(self.damage(
                    &path,
                    error.to_string(),
                    self.affected_by_snapshot(snapshot),
                ));
            }
        }
        for segment in self.history.segments() {
            let path = self.source.segment_path(segment.id);
            for place in &segment.damaged {
                if place.contained {
                    let what = format!("{place}, found by recovery");
                    let affected = place.positions.and_then(|(first, _)| self.affected_from(first));
                    report.damages.push(self.damage(&path, what, affected));
                } else {
                    let what = format!("{place}, found by recovery; these changes are in no mountable range");
                    report.put_aside.push(self.damage(&path, what, place.positions));
                }
            }
        }
        Ok(())
    }

    /// A snapshot only saves time, unless the tree starts anew with it.
    fn affected_by_snapshot(&self, snapshot: &SnapshotEntry) -> Option<(Position, Position)> {
        let next = self.history.snapshots().iter().find(|other| other.position > snapshot.position);
        let last = next.map_or(Position::MAX, |next| next.position.previous());
        snapshot.reset.then_some((snapshot.position, last))
    }

    fn segment(&self, index: usize, step: &dyn Fn(u64)) -> Vec<Damage> {
        let entry = &self.history.segments()[index];
        let path = self.source.segment_path(entry.id);
        match self.digest(&path, step) {
            Ok((len_bytes, digest)) if entry.digest == Some(digest) && len_bytes == entry.len_bytes => {
                Vec::new()
            }
            Ok(_) => self.search(index, entry, &path),
            Err(error) => {
                vec![self.damage(&path, error.to_string(), self.affected_from(entry.first().position))]
            }
        }
    }

    /// Looks for the places that make a segment differ from what was published.
    fn search(&self, index: usize, entry: &SegmentEntry, path: &Path) -> Vec<Damage> {
        let whole = self.affected_from(entry.first().position);
        let places = match self.history.segment(index) {
            Ok(reader) => reader.verify(),
            Err(error) => return vec![self.damage(path, error.to_string(), whole)],
        };
        let places = match places {
            Ok(places) => places,
            Err(error) => return vec![self.damage(path, error.to_string(), whole)],
        };
        let new: Vec<_> = places.into_iter().filter(|place| !entry.damaged.contains(place)).collect();
        if new.is_empty() && entry.digest.is_some() {
            let what = "bytes that no reader uses differ from what was published".to_owned();
            return vec![self.damage(path, what, None)];
        }
        new.into_iter()
            .map(|place| {
                let affected = place.positions.and_then(|(first, _)| self.affected_from(first));
                self.damage(path, place.to_string(), affected)
            })
            .collect()
    }

    /// A page stays lost until it is written again, so any later point may need it.
    fn affected_from(&self, first: Position) -> Option<(Position, Position)> {
        Some((first, self.history.end().max(first)))
    }

    fn digest(&self, path: &Path, step: &dyn Fn(u64)) -> std::io::Result<(u64, [u8; 32])> {
        let file = self.source.disk().open(path)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; READ_BYTES];
        let mut at = 0;
        loop {
            let read = file.read_at(at, &mut buffer)?;
            hasher.update(&buffer[..read]);
            at += read as u64;
            step(read as u64);
            if read < buffer.len() {
                return Ok((at, *hasher.finalize().as_bytes()));
            }
        }
    }
}
