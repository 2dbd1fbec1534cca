//! One source: its directory, identity, time zone, what is sealed in it and who writes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::coverage;
use super::entry::Event;
use super::history::{History, SegmentEntry, SnapshotEntry};
use super::manifest::Manifest;
use super::object::{self, Kind, names_in, read_whole, storage};
use super::{Access, Identity, Repository, RepositoryError};
use crate::index::BlockCache;
use crate::io::{Disk, Lock};
use crate::journal::{JournalError, JournalIdentity, SealedSegment, SegmentId, SegmentReader, TimeTable};
use crate::types::{Decoder, Encoder, Time};

pub(super) const SOURCE_FILE: &str = "source";
/// Locked by the writer; its text says who that is.
pub(super) const LOCK_FILE: &str = "lock";
const DIRECTORIES: [&str; 4] = ["manifest", "segments", "snapshots", "leases"];

const SOURCE_KIND: Kind = Kind { magic: b"PITGSRCE", version: 1, len_bytes_max: 1 << 16 };

/// What a new source is given.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Random.
    pub identity: Identity,
    pub created: Time,
    /// IANA name of the zone in which times without an offset are read, such as `Asia/Shanghai`.
    pub zone: String,
}

/// One protected thing in a repository.
#[derive(Clone)]
pub struct Source {
    repository: Repository,
    name: String,
    options: SourceOptions,
}

impl Source {
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn identity(&self) -> Identity {
        self.options.identity
    }

    #[must_use]
    pub fn created(&self) -> Time {
        self.options.created
    }

    /// The zone in which times without an offset are read; UTC if this machine does not know its name.
    #[must_use]
    pub fn zone(&self) -> jiff::tz::TimeZone {
        jiff::tz::TimeZone::get(&self.options.zone).unwrap_or(jiff::tz::TimeZone::UTC)
    }

    /// What is sealed now, held by a lease until dropped.
    ///
    /// # Errors
    /// `RepositoryError::Storage`; damage of the manifest is worked around and listed in the history.
    pub fn history(&self, cache: &Arc<BlockCache>) -> Result<History, RepositoryError> {
        // The lease first: what the manifest names after that is not removed while it is held.
        let lease = self.lease()?;
        let manifest = self.manifest(cache)?;
        Ok(History::new(self.clone(), &manifest.state, manifest.damages, cache.clone(), lease))
    }

    /// Who holds the writer's seat now; `None` if nobody.
    ///
    /// # Errors
    /// `RepositoryError::Storage`.
    pub fn writer(&self) -> Result<Option<String>, RepositoryError> {
        let path = self.path(Path::new(LOCK_FILE));
        match self.disk().try_lock(&path, true) {
            Ok(Some(_)) => Ok(None),
            Ok(None) => Ok(Some(self.holder()?)),
            // Where nothing can be written there is no writer.
            Err(error) if self.repository.access() == Access::Read && is_refusal(&error) => Ok(None),
            Err(error) => Err(storage(&**self.disk(), "lock", &path, error)),
        }
    }

    /// Whether a segment exists that is not sealed and published yet.
    ///
    /// # Errors
    /// `RepositoryError::Storage`.
    pub fn has_open_segment(&self) -> Result<bool, RepositoryError> {
        let manifest = Manifest::load(self.disk(), &self.path(Path::new("manifest")), self.whole_identity())?;
        Ok(self.segment_files()?.iter().any(|id| !manifest.state.segments.contains_key(id)))
    }

    /// The identity that segments carry.
    #[must_use]
    pub fn journal_identity(&self) -> JournalIdentity {
        JournalIdentity { repository: self.repository.identity().0, source: self.options.identity.0 }
    }

    pub(super) fn read(repository: &Repository, name: &str) -> Result<Option<Source>, RepositoryError> {
        let path = repository.source_path(name).join(SOURCE_FILE);
        let disk = &**repository.disk();
        let Some(body) = SOURCE_KIND.read(disk, &path, &repository.identity().0)? else { return Ok(None) };
        let mut input = Decoder::new(&body);
        let mut decode = || {
            let identity = object::identity(&mut input)?;
            let created = Time(input.i64()?);
            Ok(SourceOptions { identity, created, zone: input.text()? })
        };
        let options = decode().map_err(|error: crate::types::DecodeError| RepositoryError::Damaged {
            object: disk.display(&path),
            what: error.to_string(),
        })?;
        Ok(Some(Source { repository: repository.clone(), name: name.to_owned(), options }))
    }

    /// Takes back a source that this process has just made and that offers no point: its name is free again.
    ///
    /// # Errors
    /// `RepositoryError::ReadOnly`, `Storage`; `SourceExists` if it offers points.
    pub fn discard(self) -> Result<(), RepositoryError> {
        self.repository.require_write()?;
        let disk = &**self.disk();
        let offers_points = !self.history(&Arc::new(BlockCache::new(0)))?.ranges().is_empty();
        if offers_points {
            return Err(RepositoryError::SourceExists { name: self.name });
        }
        // What names the source goes last: a power cut in between leaves a source that is empty, and whole.
        for directory in DIRECTORIES {
            let directory = self.path(Path::new(directory));
            for name in names_in(disk, &directory)? {
                let path = directory.join(name);
                disk.remove(&path).map_err(|error| storage(disk, "remove", &path, error))?;
            }
            disk.sync_directory(&directory).map_err(|error| storage(disk, "sync", &directory, error))?;
        }
        let path = self.path(Path::new(SOURCE_FILE));
        disk.remove(&path).map_err(|error| storage(disk, "remove", &path, error))
    }

    pub(super) fn create(
        repository: &Repository,
        name: &str,
        options: SourceOptions,
    ) -> Result<Source, RepositoryError> {
        let source = Source { repository: repository.clone(), name: name.to_owned(), options };
        for directory in DIRECTORIES {
            let path = source.path(Path::new(directory));
            source
                .disk()
                .create_directories(&path)
                .map_err(|error| storage(&**source.disk(), "create", &path, error))?;
        }
        // Two that create it at once would each give it another identity, and each write under its own.
        let lock = source.path(Path::new(LOCK_FILE));
        let held = source
            .disk()
            .try_lock(&lock, false)
            .map_err(|error| storage(&**source.disk(), "lock", &lock, error))?;
        if held.is_none() {
            let holder = source.holder()?;
            return Err(RepositoryError::WriterPresent { name: name.to_owned(), holder });
        }
        if Source::read(repository, name)?.is_some() {
            return Err(RepositoryError::SourceExists { name: name.to_owned() });
        }
        let parents = [source.path(Path::new("")), PathBuf::from(super::store::SOURCES)];
        let mut body = Encoder::new();
        body.raw(&source.options.identity.0);
        body.i64(source.options.created.0);
        body.bytes(source.options.zone.as_bytes());
        for path in &parents {
            source
                .disk()
                .sync_directory(path)
                .map_err(|error| storage(&**source.disk(), "sync", path, error))?;
        }
        // Last, since with this file the source exists.
        let path = source.path(Path::new(SOURCE_FILE));
        SOURCE_KIND.write(&**source.disk(), &path, &repository.identity().0, &body.finish())?;
        Ok(source)
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        self.repository.disk()
    }

    pub(super) fn path(&self, below: &Path) -> PathBuf {
        self.repository.source_path(&self.name).join(below)
    }

    pub(super) fn segment_path(&self, id: SegmentId) -> PathBuf {
        self.path(Path::new("segments")).join(id.file_name())
    }

    /// Repository and source, to which every checksum below this source is bound.
    pub(super) fn whole_identity(&self) -> [u8; 32] {
        let mut whole = [0; 32];
        whole[..16].copy_from_slice(&self.repository.identity().0);
        whole[16..].copy_from_slice(&self.options.identity.0);
        whole
    }

    pub(super) fn open_segment(
        &self,
        id: SegmentId,
        cache: &Arc<BlockCache>,
    ) -> Result<SegmentReader, RepositoryError> {
        let path = self.segment_path(id);
        let opened = self.disk().open(&path).map_err(|error| JournalError::Storage {
            action: "open",
            what: self.disk().display(&path),
            source: Arc::new(error),
        });
        opened
            .and_then(|file| SegmentReader::open(file, &self.journal_identity(), id, cache.clone()))
            .map_err(|error| self.journal_error(id, error))
    }

    pub(super) fn journal_error(&self, segment: SegmentId, source: JournalError) -> RepositoryError {
        RepositoryError::Journal { name: self.name.clone(), segment, source }
    }

    /// Ids of all segment files there are, ascending.
    pub(super) fn segment_files(&self) -> Result<Vec<SegmentId>, RepositoryError> {
        let names = names_in(&**self.disk(), &self.path(Path::new("segments")))?;
        let mut ids: Vec<_> = names.iter().filter_map(|name| SegmentId::parse_file_name(name)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The manifest, completed by what it does not name but storage holds: a crash between sealing and
    /// publishing, and a damaged manifest, look the same from here.
    pub(super) fn manifest(&self, cache: &Arc<BlockCache>) -> Result<Manifest, RepositoryError> {
        let mut manifest =
            Manifest::load(self.disk(), &self.path(Path::new("manifest")), self.whole_identity())?;
        for id in self.segment_files()? {
            if manifest.state.segments.contains_key(&id) {
                continue;
            }
            // Behind a sound manifest lies only what a writer or a recovery had at hand when it died, synced or
            // not; behind a damaged one perhaps all segments, too many to read.
            let is_checked = manifest.damages.is_empty();
            if let Some(entry) = self.entry_from_footer(id, cache)?
                && (!is_checked || self.is_whole(&entry, cache)?)
            {
                manifest.state.apply(Event::Sealed(entry));
            }
        }
        if !manifest.damages.is_empty() {
            self.find_snapshots(&mut manifest)?;
        }
        Ok(manifest)
    }

    /// Adds the snapshots that storage holds and a damaged manifest does not name.
    pub(super) fn find_snapshots(&self, manifest: &mut Manifest) -> Result<(), RepositoryError> {
        for name in names_in(&**self.disk(), &self.path(Path::new("snapshots")))? {
            if let Some(snapshot) = SnapshotEntry::parse_file_name(&name, 0)
                && !manifest.state.snapshots.contains_key(&snapshot.position)
            {
                manifest.state.apply(Event::SnapshotTaken(snapshot));
            }
        }
        Ok(())
    }

    /// What a segment says of itself; `None` if it is open, was just removed because it held nothing, or
    /// cannot say.
    pub(super) fn entry_from_footer(
        &self,
        id: SegmentId,
        cache: &Arc<BlockCache>,
    ) -> Result<Option<SegmentEntry>, RepositoryError> {
        let entry = self.open_segment(id, cache).and_then(|reader| self.entry_of_reader(id, &reader));
        match entry {
            Ok(entry) => Ok(Some(entry)),
            Err(RepositoryError::Journal {
                source: JournalError::NotSealed { .. } | JournalError::Damaged(_),
                ..
            }) => Ok(None),
            Err(RepositoryError::Journal { source: JournalError::Storage { source, .. }, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether every byte of a sealed segment is sound, but for what its recovery knew of.
    fn is_whole(&self, entry: &SegmentEntry, cache: &Arc<BlockCache>) -> Result<bool, RepositoryError> {
        let places = self
            .open_segment(entry.id, cache)
            .and_then(|reader| reader.verify().map_err(|error| self.journal_error(entry.id, error)))?;
        Ok(places.iter().all(|place| entry.damaged.contains(place)))
    }

    fn entry_of_reader(
        &self,
        id: SegmentId,
        reader: &SegmentReader,
    ) -> Result<SegmentEntry, RepositoryError> {
        let failed = |error| self.journal_error(id, error);
        let times = reader.times().map_err(failed)?;
        let marks = reader.marks().map_err(failed)?;
        let damaged = reader.damaged().to_vec();
        let breaks = coverage::breaks(&marks, &damaged, &times);
        Ok(SegmentEntry {
            id,
            len_bytes: reader.len_bytes(),
            digest: None,
            summary: reader.summary().clone(),
            marks,
            breaks,
            damaged,
        })
    }

    /// The manifest's entry of a segment that was just sealed.
    pub(super) fn entry_of(&self, sealed: &SealedSegment, times: &TimeTable) -> SegmentEntry {
        SegmentEntry {
            id: sealed.id,
            len_bytes: sealed.len_bytes,
            digest: Some(sealed.digest),
            summary: sealed.summary.clone(),
            marks: sealed.marks.clone(),
            breaks: coverage::breaks(&sealed.marks, &sealed.damaged, times),
            damaged: sealed.damaged.clone(),
        }
    }

    /// The text of the lock file.
    pub(super) fn holder(&self) -> Result<String, RepositoryError> {
        let path = self.path(Path::new(LOCK_FILE));
        let text = read_whole(&**self.disk(), &path, 4096)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        Ok(if text.is_empty() { "an unnamed process".to_owned() } else { text })
    }

    fn lease(&self) -> Result<Option<Lock>, RepositoryError> {
        let path = self.path(Path::new("leases")).join("readers");
        match self.disk().try_lock(&path, true) {
            Ok(lease) => Ok(lease),
            // Nothing is removed from where nothing can be written.
            Err(error) if self.repository.access() == Access::Read && is_refusal(&error) => Ok(None),
            Err(error) => Err(storage(&**self.disk(), "lock", &path, error)),
        }
    }
}

/// Whether storage refused because it, or this process, may not write.
fn is_refusal(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied)
}
