//! The manifest: numbered deltas and now and then a base, each written once, the highest number wins.
//!
//! A base says all that the objects before it say. A damaged or missing object is worked around: what it
//! said of segments is in the segments themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::RepositoryError;
use super::entry::Event;
use super::history::{SegmentEntry, SnapshotEntry};
use super::object::{FrameError, Kind, names_in, read_whole, remove_if_there};
use crate::io::Disk;
use crate::journal::SegmentId;
use crate::types::{DecodeError, Decoder, Encoder, Epoch, Position};

const KIND: Kind = Kind { magic: b"PITGMANI", version: 1, len_bytes_max: 1 << 30 };

/// Deltas behind a base before the next one is written.
const BASE_EVERY: u64 = 64;

/// No manifest comes to this number; a file that has a larger one in its name is not of the manifest.
const NUMBER_MAX: u64 = 1 << 48;

/// Everything a manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub epochs: BTreeMap<Epoch, Position>,
    pub segments: BTreeMap<SegmentId, SegmentEntry>,
    pub snapshots: BTreeMap<Position, SnapshotEntry>,
}

impl State {
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::EpochBegan { epoch, first_position } => {
                self.epochs.insert(epoch, first_position);
            }
            Event::Sealed(segment) => {
                self.segments.insert(segment.id, segment);
            }
            Event::SnapshotTaken(snapshot) => {
                self.snapshots.insert(snapshot.position, snapshot);
            }
        }
    }

    fn events(&self) -> impl Iterator<Item = Event> {
        let epochs =
            self.epochs.iter().map(|(&epoch, &first_position)| Event::EpochBegan { epoch, first_position });
        let segments = self.segments.values().cloned().map(Event::Sealed);
        let snapshots = self.snapshots.values().cloned().map(Event::SnapshotTaken);
        epochs.chain(segments).chain(snapshots)
    }
}

/// A manifest as it was read, and where the next object goes.
pub(super) struct Manifest {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// Repository and source.
    identity: [u8; 32],
    pub state: State,
    last_number: u64,
    base_number: u64,
    /// Objects that could not be used, in words.
    pub damages: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ObjectKind {
    Delta,
    Base,
}

impl ObjectKind {
    fn extension(self) -> &'static str {
        match self {
            ObjectKind::Delta => "delta",
            ObjectKind::Base => "base",
        }
    }
}

fn parse_name(name: &str) -> Option<(u64, ObjectKind)> {
    let (number, extension) = name.split_once('.')?;
    let kind =
        [ObjectKind::Delta, ObjectKind::Base].into_iter().find(|kind| kind.extension() == extension)?;
    let number = u64::from_str_radix(number, 16).ok()?;
    (file_name(number, kind) == name && number <= NUMBER_MAX).then_some((number, kind))
}

fn file_name(number: u64, kind: ObjectKind) -> String {
    format!("{number:016x}.{}", kind.extension())
}

impl Manifest {
    /// Reads the newest base that is sound and the deltas behind it.
    pub fn load(
        disk: &Arc<dyn Disk>,
        directory: &Path,
        identity: [u8; 32],
    ) -> Result<Manifest, RepositoryError> {
        // A writer may remove what a newer base made needless between our listing and our reading.
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (manifest, vanished) = Manifest::load_once(disk, directory, identity)?;
            if !vanished || attempts == 8 {
                return Ok(manifest);
            }
        }
    }

    fn load_once(
        disk: &Arc<dyn Disk>,
        directory: &Path,
        identity: [u8; 32],
    ) -> Result<(Manifest, bool), RepositoryError> {
        let mut objects: Vec<_> =
            names_in(&**disk, directory)?.iter().filter_map(|name| parse_name(name)).collect();
        objects.sort_unstable();
        let mut manifest = Manifest {
            disk: disk.clone(),
            directory: directory.to_owned(),
            identity,
            state: State::default(),
            last_number: objects.last().map_or(0, |(number, _)| *number),
            base_number: 0,
            damages: Vec::new(),
        };
        let mut vanished = false;
        for &(number, kind) in objects.iter().rev().filter(|(_, kind)| *kind == ObjectKind::Base) {
            match manifest.read(number, kind)? {
                Some(events) => {
                    events.into_iter().for_each(|event| manifest.state.apply(event));
                    manifest.base_number = number;
                    break;
                }
                None => vanished = true,
            }
        }
        let mut expected = manifest.base_number + 1;
        for &(number, kind) in &objects {
            if kind == ObjectKind::Base || number <= manifest.base_number {
                continue;
            }
            // A base that could not be read has its number, too.
            let bases = objects
                .iter()
                .filter(|(other, kind)| *kind == ObjectKind::Base && (expected..number).contains(other));
            let missing = number.saturating_sub(expected).saturating_sub(bases.count() as u64);
            if missing > 0 {
                let object = disk.display(directory);
                manifest
                    .damages
                    .push(format!("{object}: {missing} manifest objects before {number:016x} are missing"));
            }
            match manifest.read(number, kind)? {
                Some(events) => events.into_iter().for_each(|event| manifest.state.apply(event)),
                None => vanished = true,
            }
            expected = number + 1;
        }
        Ok((manifest, vanished))
    }

    /// The events of an object; `None`, with the reason among the damages, if it is of no use.
    fn read(&mut self, number: u64, kind: ObjectKind) -> Result<Option<Vec<Event>>, RepositoryError> {
        let path = self.directory.join(file_name(number, kind));
        match check(&*self.disk, &path, &self.object_identity(number, kind))? {
            Ok(events) => Ok(Some(events)),
            Err(what) => {
                self.damages.push(format!("{} {what}", self.disk.display(&path)));
                Ok(None)
            }
        }
    }

    /// Makes events durable and visible to everyone who reads the manifest from now on.
    pub fn publish(&mut self, events: Vec<Event>) -> Result<(), RepositoryError> {
        self.write(ObjectKind::Delta, &events)?;
        events.into_iter().for_each(|event| self.state.apply(event));
        if self.last_number - self.base_number >= BASE_EVERY { self.write_base() } else { Ok(()) }
    }

    /// Writes a base and removes what the base before it made needless.
    pub fn write_base(&mut self) -> Result<(), RepositoryError> {
        let events: Vec<_> = self.state.events().collect();
        self.write(ObjectKind::Base, &events)?;
        let keep_from = std::mem::replace(&mut self.base_number, self.last_number);
        for name in names_in(&*self.disk, &self.directory)? {
            if parse_name(&name).is_some_and(|(number, _)| number < keep_from) {
                remove_if_there(&*self.disk, &self.directory.join(name))?;
            }
        }
        Ok(())
    }

    fn write(&mut self, kind: ObjectKind, events: &[Event]) -> Result<(), RepositoryError> {
        let mut body = Encoder::new();
        body.varint(events.len() as u64);
        events.iter().for_each(|event| event.encode(&mut body));
        let number = self.last_number + 1;
        let path = self.directory.join(file_name(number, kind));
        // A number is used once even if its write failed: nobody can tell how far it came.
        self.last_number = number;
        KIND.write(&*self.disk, &path, &self.object_identity(number, kind), &body.finish())
    }

    fn object_identity(&self, number: u64, kind: ObjectKind) -> Vec<u8> {
        object_identity(&self.identity, number, kind)
    }
}

fn object_identity(identity: &[u8; 32], number: u64, kind: ObjectKind) -> Vec<u8> {
    let mut object = identity.to_vec();
    object.extend_from_slice(&number.to_le_bytes());
    object.push(kind as u8);
    object
}

/// Reads one object; the inner error says in words why it is of no use.
fn check(
    disk: &dyn Disk,
    path: &Path,
    identity: &[u8],
) -> Result<Result<Vec<Event>, String>, RepositoryError> {
    let bytes = match read_whole(disk, path, KIND.len_bytes_max) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Err("has vanished".to_owned())),
        Err(RepositoryError::Damaged { what, .. }) => return Ok(Err(format!("is damaged: {what}"))),
        Err(error) => return Err(error),
    };
    let body = match KIND.unframe(identity, &bytes) {
        Ok(body) => body,
        Err(FrameError::Newer(found)) => {
            return Err(RepositoryError::Newer { path: disk.display(path), found, known: KIND.version });
        }
        Err(FrameError::Foreign) => return Ok(Err("is damaged: its first bytes are not its own".to_owned())),
        Err(FrameError::Damaged(what)) => return Ok(Err(format!("is damaged: {what}"))),
    };
    Ok(decode(body).map_err(|error| format!("is damaged: {error}")))
}

fn decode(body: &[u8]) -> Result<Vec<Event>, DecodeError> {
    let mut input = Decoder::new(body);
    let mut events = Vec::new();
    for _ in 0..input.varint()? {
        events.push(Event::decode(&mut input)?);
    }
    input.finish()?;
    Ok(events)
}

/// Checks every object of a manifest on disk: path and what is wrong with it, `None` if it is sound.
pub(super) fn check_all(
    disk: &dyn Disk,
    directory: &Path,
    identity: &[u8; 32],
) -> Result<Vec<(PathBuf, Option<String>)>, RepositoryError> {
    let mut checked = Vec::new();
    for name in names_in(disk, directory)? {
        let path = directory.join(&name);
        let Some((number, kind)) = parse_name(&name) else {
            if !name.ends_with(".new") {
                checked.push((path, Some("is not a manifest object".to_owned())));
            }
            continue;
        };
        let wrong = check(disk, &path, &object_identity(identity, number, kind))?.err();
        checked.push((path, wrong));
    }
    Ok(checked)
}
