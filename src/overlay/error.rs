//! Why an overlay could not be made, opened or changed.

use std::sync::Arc;

use crate::types::{FileId, ImageError, Position};

/// Why an overlay refused. `mount` maps each to an errno.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OverlayError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("no such name")]
    NotFound,
    #[error("the name exists")]
    Exists,
    #[error("not a directory")]
    NotADirectory,
    #[error("is a directory")]
    IsADirectory,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("{0}")]
    Invalid(&'static str),
    #[error("the name is too long")]
    TooLong,
    #[error("the value is too big")]
    ValueTooBig,
    #[error("the file would grow beyond {limit_bytes} bytes")]
    TooLarge { limit_bytes: u64 },
    #[error("too many links to {0:?}")]
    TooManyLinks(FileId),
    #[error("no such attribute")]
    NoAttribute,
    /// A link with a target outside every captured root, without leave.
    #[error(
        "`{target}` leads out of every captured root: allow it with --allow-external-links, or point it into the mount"
    )]
    ExternalLink { target: String },
    #[error(
        "the image has {count} links that lead out of every captured root, such as {example}: a copy could write into \
         production through them; mount with --read-only, or accept them with --allow-external-links"
    )]
    ExternalLinks { count: usize, example: String },
    #[error("{path} already holds an overlay: open it, or name another directory")]
    OverlayExists { path: String },
    #[error("{path} holds no overlay")]
    NoOverlay { path: String },
    #[error("{path} is in use by another mount")]
    InUse { path: String },
    #[error(
        "the overlay {path} lies over position {found} of another view (asked for {wanted}): give it the point \
         it was made for, or make a new one"
    )]
    OtherView { path: String, found: Position, wanted: Position },
    #[error("{path} has format version {found}, this program knows {known}: use a newer pitgate")]
    NewerVersion { path: String, found: u32, known: u32 },
    #[error("{path} is damaged at byte {offset_bytes}: {what}")]
    Damaged { path: String, offset_bytes: u64, what: String },
    #[error("the overlay's quota of {quota_bytes} bytes is used up")]
    QuotaReached { quota_bytes: u64 },
    #[error("no space left for the overlay {path}: {source}")]
    NoSpace { path: String, source: Arc<std::io::Error> },
    #[error("cannot write the overlay {path}: {source}")]
    Storage { path: String, source: Arc<std::io::Error> },
    /// An earlier failure left the log in doubt.
    #[error("the overlay takes no more changes since an earlier failure: {cause}")]
    Poisoned { cause: String },
}
