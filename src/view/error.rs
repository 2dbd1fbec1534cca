//! Why a view cannot be opened, and how errors of lower stages are told to readers of an image.

use std::sync::Arc;

use crate::index::IndexError;
use crate::journal::JournalError;
use crate::repository::{RepositoryError, ResolveError};
use crate::types::ImageError;

/// Why there is no view of a position.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ViewError {
    /// The position is not mountable; says what is.
    #[error(transparent)]
    NotMountable(#[from] ResolveError),
    /// The names at the position cannot be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

/// The image's word for a segment that could not be opened.
pub(super) fn segment_error(error: &RepositoryError) -> ImageError {
    match error {
        RepositoryError::Storage { object, source, .. } => {
            ImageError::Storage { what: object.clone(), source: Arc::clone(source) }
        }
        RepositoryError::Journal { source: JournalError::Storage { source, .. }, .. } => {
            ImageError::Storage { what: error.to_string(), source: Arc::clone(source) }
        }
        other => ImageError::Damaged { what: other.to_string() },
    }
}

/// The image's word for a record that could not be read; `segment` is a person's name for where it lies.
pub(super) fn record_error(error: &JournalError) -> ImageError {
    match error {
        JournalError::Storage { what, source, .. } => {
            ImageError::Storage { what: what.clone(), source: Arc::clone(source) }
        }
        JournalError::Damaged(place) => ImageError::Damaged { what: place.to_string() },
        other => ImageError::Damaged { what: other.to_string() },
    }
}

/// The image's word for an index that could not be read.
pub(super) fn index_error(error: &IndexError) -> ImageError {
    match error {
        IndexError::Storage { object, block, offset_bytes, source } => ImageError::Storage {
            what: format!("index block {block} of {object} at byte {offset_bytes}"),
            source: Arc::clone(source),
        },
        IndexError::Damaged { .. } => ImageError::Damaged { what: error.to_string() },
    }
}
