//! Which mounts there are: one small file per worker under the state directory.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MountError;
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
    /// From the worker's start to the first answered `stat`.
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
    panic!("follows")
}

/// The records of all mounts of one state directory.
pub struct Registry {
    directory: PathBuf,
}

impl Registry {
    /// # Errors
    /// `MountError::Storage`.
    pub fn open(state_directory: &Path) -> Result<Registry, MountError> {
        Ok(Registry { directory: state_directory.join("mounts") })
    }

    /// All mounts, by start time.
    ///
    /// # Errors
    /// `MountError::Storage`.
    pub fn list(&self) -> Result<Vec<MountRecord>, MountError> {
        panic!("follows: {:?}", self.directory)
    }

    /// The mount with this id or mountpoint.
    ///
    /// # Errors
    /// `MountError::NoSuchMount`, `MountError::Storage`.
    pub fn find(&self, id_or_mountpoint: &str) -> Result<MountRecord, MountError> {
        panic!("follows: {id_or_mountpoint}")
    }
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
