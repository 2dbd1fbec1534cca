//! Why a mount could not be made, found or removed.

use std::path::PathBuf;
use std::sync::Arc;

use crate::capture::ControlError;
use crate::overlay::OverlayError;
use crate::repository::{RepositoryError, ResolveError};
use crate::types::ParsePointError;
use crate::view::ViewError;

/// Why a mount command failed, in words for the one who gave it.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("no mount `{name}`: see `pitgate mount list`")]
    NoSuchMount { name: String },
    #[error("mountpoint {path} does not exist: create the directory first")]
    NoMountpoint { path: PathBuf },
    #[error("mountpoint {path} is not a directory")]
    MountpointNotADirectory { path: PathBuf },
    #[error("mountpoint {path} is not empty: mount on an empty directory")]
    MountpointNotEmpty { path: PathBuf },
    #[error("mountpoint {path} is in use by {by}")]
    MountpointInUse { path: PathBuf, by: String },
    #[error("{mountpoint} is busy: {users}; stop them, or remove with --lazy")]
    Busy { mountpoint: PathBuf, users: String },
    #[error("cannot mount over FUSE: {0}")]
    NoFuse(String),
    #[error("the overlay {path} would lie inside the mountpoint: choose a place outside")]
    OverlayInsideMountpoint { path: PathBuf },
    #[error("mount {id} is served already")]
    IdInUse { id: String },
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    #[error(transparent)]
    Point(#[from] ParsePointError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Capture(#[from] ControlError),
    /// What the worker process said when it ended before it served.
    #[error("{message}")]
    Worker { message: String },
    #[error("the state directory {path} belongs to another user: set PITGATE_STATE_DIR to one of your own")]
    ForeignStateDirectory { path: PathBuf },
    #[error("cannot {doing} {path}: {source}")]
    Storage { doing: &'static str, path: PathBuf, source: Arc<std::io::Error> },
}
