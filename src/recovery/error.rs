//! Why a restore stopped.

use std::io;
use std::path::{Path, PathBuf};

use crate::types::ImageError;

/// Nothing is left at the destination when one of these is returned.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{} already holds files; name an empty or a new directory", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: ImageError },
    #[error("cannot {action} {}: {source}", path.display())]
    Write { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} was written but reads back differently at offset {offset_bytes}; the destination's storage cannot be trusted",
        path.display()
    )]
    Mismatch { path: PathBuf, offset_bytes: u64 },
    #[error(
        "{} needs {needed_bytes} bytes and only {available_bytes} are free; choose another place or free some",
        path.display()
    )]
    NoSpace { path: PathBuf, needed_bytes: u64, available_bytes: u64 },
}

impl RestoreError {
    pub(super) fn write(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
        let path = path.to_owned();
        move |source| RestoreError::Write { action, path, source }
    }

    pub(super) fn read(path: &Path) -> impl FnOnce(ImageError) -> RestoreError {
        let path = path.to_owned();
        move |source| RestoreError::Read { path, source }
    }
}
