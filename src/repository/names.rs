//! Names at a position: the nearest snapshot before it, and the changes of the segments between.

use std::collections::HashMap;
use std::path::Path;

use super::history::{History, SegmentEntry, SnapshotEntry};
use super::object::read_whole;
use super::source::Source;
use super::{RepositoryError, object};
use crate::index::SizeVersion;
use crate::journal::{JournalError, NamesAt, Record, RecordBody, SegmentReader};
use crate::namespace::{Namespace, NamespaceError, SnapshotError};
use crate::types::{FileId, Position};

/// No snapshot file is believed to be larger.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;

/// Why names cannot be advanced over a segment.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdvanceError {
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("the change at {position} cannot follow those before it: {source}")]
    Contradiction { position: Position, source: NamespaceError },
}

/// What changed names, sizes and times in a segment, ascending by position.
pub(super) struct Tail {
    pub names: Vec<NamesAt>,
    /// The newest size of each file.
    pub sizes: Vec<(FileId, SizeVersion)>,
}

impl Tail {
    /// What `reader` holds from `after` (exclusive) to `at`. `names` spares reading them if they are known.
    pub fn read(
        reader: &SegmentReader,
        names: Option<Vec<NamesAt>>,
        after: Position,
        at: Position,
    ) -> Result<Tail, JournalError> {
        let mut names = match names {
            Some(names) => names,
            None => reader.names()?,
        };
        names.retain(|names| after < names.position && names.position <= at);
        let mut sizes = match reader.index().sizes_at(at).collect::<Result<Vec<_>, _>>() {
            Ok(sizes) => sizes,
            // Records say the same, at the price of reading them all.
            Err(error) => {
                tracing::warn!(segment = %reader.id(), %error, "sizes are taken from the records instead");
                sizes_from_records(reader, at)?
            }
        };
        sizes.retain(|(_, version)| version.position > after);
        sizes.sort_by_key(|(_, version)| version.position);
        Ok(Tail { names, sizes })
    }

    /// How much there is to apply.
    pub fn len(&self) -> usize {
        self.names.len() + self.sizes.len()
    }

    /// Brings `namespace` to where the tail ends. In the order of positions, since a size brings a
    /// modification time that a later attribute change replaces, and the other way round.
    pub fn apply(self, namespace: &mut Namespace) -> Result<(), AdvanceError> {
        let mut sizes = self.sizes.into_iter().peekable();
        for names in self.names {
            while let Some((file, version)) = sizes.next_if(|(_, version)| version.position < names.position)
            {
                namespace.set_size(file, version.size, version.mtime);
            }
            namespace
                .apply(&names.change)
                .map_err(|source| AdvanceError::Contradiction { position: names.position, source })?;
        }
        for (file, version) in sizes {
            namespace.set_size(file, version.size, version.mtime);
        }
        Ok(())
    }
}

fn sizes_from_records(
    reader: &SegmentReader,
    at: Position,
) -> Result<Vec<(FileId, SizeVersion)>, JournalError> {
    let mut sizes: HashMap<FileId, SizeVersion> = HashMap::new();
    for record in reader.records() {
        let Record { position, body, .. } = record?;
        let (RecordBody::Data { file, size_after, mtime, .. }
        | RecordBody::Zero { file, size_after, mtime, .. }) = body
        else {
            continue;
        };
        if position > at {
            break;
        }
        // As the index builder does.
        let before = sizes.get(&file).copied();
        if mtime.is_none() && before.is_some_and(|before| before.size == size_after) {
            continue;
        }
        let mtime = mtime.or(before.and_then(|before| before.mtime));
        sizes.insert(file, SizeVersion { position, size: size_after, mtime });
    }
    Ok(sizes.into_iter().collect())
}

impl History {
    /// Names, attributes, sizes as they stood at `position`, covered or not.
    ///
    /// # Errors
    /// `RepositoryError::NamesLost` names the segment and what is wrong with it; `Journal` if storage does not
    /// answer.
    pub fn namespace_at(&self, position: Position) -> Result<Namespace, RepositoryError> {
        let (start, mut namespace) = self.snapshot_before(position)?;
        let from = self.segments().partition_point(|segment| segment.summary.last_position <= start);
        let mut epoch = from.checked_sub(1).map(|before| self.segments()[before].id.epoch);
        for index in from..self.segments_before(position) {
            let entry = &self.segments()[index];
            if epoch.replace(entry.id.epoch).is_some_and(|before| before != entry.id.epoch) {
                namespace.drop_nameless();
            }
            let lost = |what: String| self.names_lost(position, entry, &what);
            let reader = self.segment(index).map_err(|error| match error {
                // Storage that does not answer now may do so later: nothing is lost by that.
                RepositoryError::Journal { source: JournalError::Storage { ref source, .. }, .. }
                    if source.kind() != std::io::ErrorKind::NotFound =>
                {
                    error
                }
                _ => lost(error.to_string()),
            })?;
            let tail = Tail::read(&reader, None, start, position).map_err(|error| match error {
                JournalError::Storage { .. } => self.source().journal_error(entry.id, error),
                _ => lost(error.to_string()),
            })?;
            tail.apply(&mut namespace).map_err(|error| lost(error.to_string()))?;
        }
        Ok(namespace)
    }

    fn names_lost(&self, position: Position, entry: &SegmentEntry, what: &str) -> RepositoryError {
        RepositoryError::NamesLost {
            name: self.source().name().to_owned(),
            position,
            what: format!("segment {}: {what}", entry.id),
        }
    }

    /// The newest sound snapshot at or before `position`; without one, the empty tree at position 0.
    fn snapshot_before(&self, position: Position) -> Result<(Position, Namespace), RepositoryError> {
        let usable = self.snapshots().partition_point(|snapshot| snapshot.position <= position);
        for snapshot in self.snapshots()[..usable].iter().rev() {
            match self.source().read_snapshot(snapshot)? {
                Ok(namespace) => return Ok((snapshot.position, namespace)),
                // Changes before a reset do not lead to what is behind it.
                Err(error) if snapshot.reset => {
                    return Err(RepositoryError::NamesLost {
                        name: self.source().name().to_owned(),
                        position,
                        what: format!("snapshot {}: {error}", snapshot.file_name()),
                    });
                }
                Err(error) => {
                    tracing::warn!(snapshot = snapshot.file_name(), %error, "an older snapshot is used instead");
                }
            }
        }
        Ok((Position::ZERO, Namespace::new()))
    }
}

impl SnapshotEntry {
    /// The name of its file: the position in hexadecimal.
    #[must_use]
    pub fn file_name(&self) -> String {
        let extension = if self.reset { "reset" } else { "names" };
        format!("{:016x}.{extension}", self.position.0)
    }

    /// The inverse of [`SnapshotEntry::file_name`].
    pub(super) fn parse_file_name(name: &str, len_bytes: u64) -> Option<SnapshotEntry> {
        let (position, extension) = name.split_once('.')?;
        let position = Position(u64::from_str_radix(position, 16).ok()?);
        let entry = SnapshotEntry { position, len_bytes, reset: extension == "reset" };
        (entry.file_name() == name).then_some(entry)
    }
}

impl Source {
    fn snapshot_identity(&self, snapshot: &SnapshotEntry) -> Vec<u8> {
        let mut identity = self.whole_identity().to_vec();
        identity.extend_from_slice(&snapshot.position.0.to_le_bytes());
        identity.push(u8::from(snapshot.reset));
        identity
    }

    /// Reads a snapshot; the inner error says why it is of no use.
    pub(super) fn read_snapshot(
        &self,
        snapshot: &SnapshotEntry,
    ) -> Result<Result<Namespace, SnapshotProblem>, RepositoryError> {
        let path = self.snapshot_path(snapshot);
        let bytes = match read_whole(&**self.disk(), &path, SNAPSHOT_BYTES_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Err(SnapshotProblem::Missing)),
            Err(RepositoryError::Damaged { what, .. }) => return Ok(Err(SnapshotProblem::Damaged(what))),
            Err(error) => return Err(error),
        };
        match Namespace::decode(&bytes, &self.snapshot_identity(snapshot)) {
            Err(SnapshotError::Newer(found)) => {
                Err(RepositoryError::Newer { path: self.disk().display(&path), found, known: 1 })
            }
            decoded => Ok(decoded.map_err(|error| SnapshotProblem::Damaged(error.to_string()))),
        }
    }

    /// Writes the names as after `position`; the entry is for the manifest.
    pub(super) fn write_snapshot(
        &self,
        position: Position,
        namespace: &Namespace,
        reset: bool,
    ) -> Result<SnapshotEntry, RepositoryError> {
        let mut entry = SnapshotEntry { position, len_bytes: 0, reset };
        let bytes = namespace.encode(&self.snapshot_identity(&entry));
        entry.len_bytes = bytes.len() as u64;
        object::write_whole(&**self.disk(), &self.snapshot_path(&entry), &bytes)?;
        Ok(entry)
    }

    pub(super) fn snapshot_path(&self, snapshot: &SnapshotEntry) -> std::path::PathBuf {
        self.path(Path::new("snapshots")).join(snapshot.file_name())
    }
}

/// Why a snapshot is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SnapshotProblem {
    #[error("it is missing")]
    Missing,
    #[error("{0}")]
    Damaged(String),
}
