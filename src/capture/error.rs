//! Why capture could not start, stop or answer.

use std::path::PathBuf;
use std::sync::Arc;

use crate::types::SinkError;

/// Why a capture did not start or stop, in words for the one who asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("no roots to capture: give --root DATA_DIR:MOUNTPOINT")]
    NoRoots,
    #[error("root label `{label}` {problem}")]
    Label { label: String, problem: &'static str },
    #[error("{what} {path} does not exist")]
    Missing { what: &'static str, path: PathBuf },
    #[error("{what} {path} is not a directory")]
    NotADirectory { what: &'static str, path: PathBuf },
    #[error("mountpoint {path} is not empty: its files would be hidden")]
    MountpointNotEmpty { path: PathBuf },
    #[error("mountpoint {path} already has a file system mounted on it")]
    MountpointInUse { path: PathBuf },
    #[error(
        "{inner_what} {inner} lies inside {outer_what} {outer}: capture would record itself; move one of them"
    )]
    Nested { inner_what: String, inner: PathBuf, outer_what: String, outer: PathBuf },
    #[error(
        "another file system is mounted at {path}, inside the data directory {data_dir}: give it a --root of its own"
    )]
    InnerMount { path: PathBuf, data_dir: PathBuf },
    #[error("data directory {path} is already captured by another process")]
    AlreadyCaptured { path: PathBuf },
    #[error("files of {path} are in use by {users}: stop them first, capture would not see what they write")]
    DataDirInUse { path: PathBuf, users: String },
    #[error("{mountpoint} is in use by {users}: stop them first")]
    Busy { mountpoint: PathBuf, users: String },
    #[error("cannot mount {mountpoint} over FUSE: {reason}")]
    Mount { mountpoint: PathBuf, reason: String },
    #[error("cannot unmount {mountpoint}: {source}")]
    Unmount { mountpoint: PathBuf, source: Arc<std::io::Error> },
    #[error("cannot read {path}: {source}")]
    Backing { path: PathBuf, source: Arc<std::io::Error> },
    #[error("the journal's tree of files does not take a change: {reason}; run `pitgate repo verify`")]
    Tree { reason: String },
    #[error("there is a bookmark `{name}` already: choose another name")]
    BookmarkExists { name: String },
    #[error("no point exists yet: the initial image, or the comparison after a stop, is not complete")]
    NoPointsYet,
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("cannot {doing}: {source}")]
    System { doing: &'static str, source: Arc<std::io::Error> },
}

/// Why a request to a running capture was not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ControlError {
    #[error("no capture of this source runs on this host (no answer at {socket})")]
    NotRunning { socket: PathBuf },
    #[error("the capture process refused: {0}")]
    Refused(String),
    #[error("cannot talk to the capture process at {socket}: {source}")]
    Broken { socket: PathBuf, source: Arc<std::io::Error> },
}
