//! Which mounts there are: one small file per worker under the state directory.
//!
//! A worker holds the lock beside its record as long as it lives, so that a record left by a kill is told
//! from one of a worker that serves.

use std::fs::{self, DirBuilder};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::MountError;
use crate::io::{Disk, Lock, RealDisk};
use crate::types::{Position, Time};

/// The protocol of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    Fuse,
}

/// One mount, as its worker wrote it when it began to serve. The field names are those of `-o json`, where
/// `time` and `started` are RFC 3339.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MountRecord {
    pub id: String,
    pub repository: PathBuf,
    pub source: String,
    pub requested: String,
    pub position: Position,
    #[serde(with = "super::registry::rfc3339")]
    pub time: Time,
    pub mountpoint: PathBuf,
    pub via: Via,
    pub read_only: bool,
    /// The overlay's directory; `None` if read-only.
    pub overlay: Option<PathBuf>,
    /// Whether the overlay goes when the mount is removed: it was not named by the user.
    pub overlay_is_private: bool,
    pub pid: u32,
    #[serde(with = "super::registry::rfc3339")]
    pub started: Time,
    /// From the start of the command to the first answered `stat`.
    pub elapsed_ms: f64,
    /// Whether the worker still serves; filled in when the record is read.
    #[serde(default)]
    pub serving: bool,
}

/// The state directory: `PITGATE_STATE_DIR`, else `/run/pitgate` for root, else `$XDG_RUNTIME_DIR/pitgate`,
/// else `/tmp/pitgate-UID`. Created with mode 0700 if missing.
///
/// # Errors
/// `MountError::ForeignStateDirectory` if another user owns it; `MountError::Storage`.
pub fn state_directory() -> Result<PathBuf, MountError> {
    let uid = rustix::process::geteuid().as_raw();
    let path = match (std::env::var_os("PITGATE_STATE_DIR"), std::env::var_os("XDG_RUNTIME_DIR")) {
        (Some(named), _) => std::path::absolute(PathBuf::from(named))
            .map_err(|error| storage("find", Path::new(""), error))?,
        (None, _) if uid == 0 => PathBuf::from("/run/pitgate"),
        (None, Some(runtime)) => Path::new(&runtime).join("pitgate"),
        (None, None) => PathBuf::from(format!("/tmp/pitgate-{uid}")),
    };
    own_directory(&path)?;
    Ok(path)
}

/// Makes sure that `path` is a directory of ours, not a link to one that another user laid out.
pub(super) fn own_directory(path: &Path) -> Result<(), MountError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| storage("create", path, error))?;
    let found = fs::symlink_metadata(path).map_err(|error| storage("look at", path, error))?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(MountError::ForeignStateDirectory { path: path.to_owned() });
    }
    Ok(())
}

/// The records of all mounts of one state directory.
pub struct Registry {
    directory: PathBuf,
    disk: RealDisk,
}

impl Registry {
    /// # Errors
    /// `MountError::ForeignStateDirectory`, `MountError::Storage`.
    pub fn open(state_directory: &Path) -> Result<Registry, MountError> {
        let directory = state_directory.join("mounts");
        own_directory(&directory)?;
        let disk = RealDisk::open(&directory).map_err(|error| storage("open", &directory, error))?;
        Ok(Registry { directory, disk })
    }

    /// All mounts, by start time. A record that cannot be read is left out and logged.
    ///
    /// # Errors
    /// `MountError::Storage`.
    pub fn list(&self) -> Result<Vec<MountRecord>, MountError> {
        let mut records = Vec::new();
        let names = self.disk.list(Path::new("")).map_err(|error| storage("list", &self.directory, error))?;
        for name in names {
            if name.extension().is_some_and(|extension| extension == "json")
                && let Some(id) = name.file_stem().and_then(|id| id.to_str())
            {
                match self.read(id) {
                    Ok(record) => records.extend(record),
                    Err(error) => tracing::warn!("{error}"),
                }
            }
        }
        records.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
        Ok(records)
    }

    /// The mount with this id or mountpoint; of several at one mountpoint the one that serves, else the last.
    ///
    /// # Errors
    /// `MountError::NoSuchMount`, `MountError::Storage`.
    pub fn find(&self, id_or_mountpoint: &str) -> Result<MountRecord, MountError> {
        let mountpoint = std::path::absolute(id_or_mountpoint).unwrap_or_default();
        let mut found = self.list()?;
        found.retain(|record| record.id == id_or_mountpoint || record.mountpoint == mountpoint);
        let serving = found.iter().rposition(|record| record.serving);
        let index = serving.or(found.len().checked_sub(1));
        let Some(index) = index else {
            return Err(MountError::NoSuchMount { name: id_or_mountpoint.to_owned() });
        };
        Ok(found.swap_remove(index))
    }

    /// The record of this id, `None` if there is none.
    pub(super) fn read(&self, id: &str) -> Result<Option<MountRecord>, MountError> {
        let path = self.path(id, "json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(storage("read", &path, error)),
        };
        let record = serde_json::from_slice::<MountRecord>(&bytes);
        let mut record = record.map_err(|error| storage("understand", &path, error.into()))?;
        record.serving = !self.is_free(id);
        Ok(Some(record))
    }

    /// Writes a record so that it is there whole or not at all, also after a power cut.
    pub(super) fn write(&self, record: &MountRecord) -> Result<(), MountError> {
        let path = self.path(&record.id, "json");
        let draft = self.path(&record.id, "json.new");
        let written = serde_json::to_vec_pretty(record).map_err(std::io::Error::from).and_then(|bytes| {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            self.disk.sync_directory(Path::new(""))
        });
        written.map_err(|error| storage("write", &path, error))
    }

    /// Forgets a mount.
    pub(super) fn remove(&self, id: &str) -> Result<(), MountError> {
        for extension in ["json", "json.new", "log", "failed", "lock"] {
            let path = self.path(id, extension);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(storage("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The lock that says that this mount's worker lives; `None` if it does already.
    pub(super) fn lock(&self, id: &str) -> Result<Option<Lock>, MountError> {
        let path = PathBuf::from(format!("{id}.lock"));
        // One who lists the mounts holds it for a moment.
        for attempt in 0..50u64 {
            match self.disk.try_lock(&path, false) {
                Ok(None) => std::thread::sleep(std::time::Duration::from_millis(attempt.min(4))),
                Ok(lock) => return Ok(lock),
                Err(error) => return Err(storage("lock", &self.directory.join(path), error)),
            }
        }
        Ok(None)
    }

    /// Whether no worker holds the lock of this id.
    pub(super) fn is_free(&self, id: &str) -> bool {
        let path = PathBuf::from(format!("{id}.lock"));
        // A lock that is not there would be made by asking for it.
        !self.directory.join(&path).exists() || matches!(self.disk.try_lock(&path, true), Ok(Some(_)))
    }

    pub(super) fn path(&self, id: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{id}.{extension}"))
    }
}

pub(super) fn storage(doing: &'static str, path: &Path, source: std::io::Error) -> MountError {
    MountError::Storage { doing, path: path.to_owned(), source: Arc::new(source) }
}

/// A [`Time`] as RFC 3339 text.
pub(super) mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::types::{Point, Time};

    pub fn serialize<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        match String::deserialize(deserializer)?.parse() {
            Ok(Point::Time(time)) => Ok(time),
            _ => Err(serde::de::Error::custom("not an RFC 3339 time")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, started: i64) -> MountRecord {
        MountRecord {
            id: id.to_owned(),
            repository: "/repo".into(),
            source: "his".to_owned(),
            requested: "latest".to_owned(),
            position: Position(7),
            time: Time(1_790_000_000_123_456_789),
            mountpoint: format!("/mnt/{id}").into(),
            via: Via::Fuse,
            read_only: false,
            overlay: Some("/overlays/x".into()),
            overlay_is_private: true,
            pid: 1,
            started: Time(started),
            elapsed_ms: 12.5,
            serving: false,
        }
    }

    #[test]
    fn a_record_serves_while_its_worker_holds_the_lock() {
        let scratch = tempfile::tempdir().unwrap();
        let registry = Registry::open(scratch.path()).unwrap();
        let (late, early) = (record("late", 2), record("early", 1));
        registry.write(&late).unwrap();
        registry.write(&early).unwrap();
        assert_eq!(registry.list().unwrap(), [early.clone(), late.clone()]);
        assert_eq!(registry.find("/mnt/late").unwrap(), late);
        let lock = registry.lock("early").unwrap();
        assert!(lock.is_some());
        assert!(registry.lock("early").unwrap().is_none(), "one worker a mount");
        assert!(registry.find("early").unwrap().serving);
        drop(lock);
        assert!(!registry.find("early").unwrap().serving);
        registry.remove("early").unwrap();
        assert!(matches!(registry.find("early"), Err(MountError::NoSuchMount { .. })));
    }

    #[test]
    fn field_names_of_a_record_are_a_contract() {
        let json = serde_json::to_value(record("a", 5)).unwrap();
        for name in [
            "id",
            "source",
            "requested",
            "position",
            "time",
            "mountpoint",
            "via",
            "read_only",
            "overlay",
            "elapsed_ms",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert_eq!(json["via"], "fuse");
        assert_eq!(json["time"], "2026-09-21T14:13:20.123456789Z");
    }

    #[test]
    fn a_state_directory_behind_a_link_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink(scratch.path(), &link).unwrap();
        assert!(matches!(own_directory(&link), Err(MountError::ForeignStateDirectory { .. })));
    }
}
