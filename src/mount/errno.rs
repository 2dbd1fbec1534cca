//! The one place where errors become errno.

use crate::io::fuse::Errno;
use crate::overlay::OverlayError;
use crate::types::ImageError;

/// The errno of a failed read of an image. Damage and failed storage are logged: the caller only sees `EIO`.
pub(super) fn of_image(error: &ImageError) -> Errno {
    match error {
        // Only a kernel that holds on to a node of a file that is gone asks for it.
        ImageError::NoSuchFile(_) => Errno::STALE,
        ImageError::WrongKind { expected: "directory", .. } => Errno::NOTDIR,
        ImageError::WrongKind { .. } => Errno::INVAL,
        ImageError::Damaged { .. } | ImageError::Storage { .. } => {
            tracing::error!("read failed: {error}");
            Errno::IO
        }
    }
}

/// The errno of a refused or failed change.
pub(super) fn of_overlay(error: &OverlayError) -> Errno {
    match error {
        OverlayError::Image(error) => of_image(error),
        OverlayError::NotFound => Errno::NOENT,
        OverlayError::Exists => Errno::EXIST,
        OverlayError::NotADirectory => Errno::NOTDIR,
        OverlayError::IsADirectory => Errno::ISDIR,
        OverlayError::NotEmpty => Errno::NOTEMPTY,
        OverlayError::Invalid(_) => Errno::INVAL,
        OverlayError::TooLong => Errno::NAMETOOLONG,
        OverlayError::ValueTooBig => Errno::TOOBIG,
        OverlayError::TooLarge { .. } => Errno::FBIG,
        OverlayError::TooManyLinks(_) => Errno::MLINK,
        OverlayError::NoAttribute => Errno::NODATA,
        OverlayError::ExternalLink { .. } => {
            tracing::warn!("refused a link: {error}");
            Errno::PERM
        }
        OverlayError::QuotaReached { .. } | OverlayError::NoSpace { .. } => {
            tracing::error!("change refused: {error}");
            Errno::NOSPC
        }
        OverlayError::ExternalLinks { .. }
        | OverlayError::OverlayExists { .. }
        | OverlayError::NoOverlay { .. }
        | OverlayError::InUse { .. }
        | OverlayError::OtherView { .. }
        | OverlayError::NewerVersion { .. }
        | OverlayError::Damaged { .. }
        | OverlayError::Storage { .. }
        | OverlayError::Poisoned { .. } => {
            tracing::error!("change failed: {error}");
            Errno::IO
        }
    }
}
