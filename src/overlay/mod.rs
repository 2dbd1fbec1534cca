//! The private copy-on-write layer of one mount: an [`Overlay`] lies over an image, takes every kind of
//! change, and is itself an image.
//!
//! It persists as one append log that carries data and map (`docs/disk-format.md`), so that one sync serves
//! an application's `fsync`. It knows neither repositories nor protocols; errno is mapped in `mount`.
//!
//! **Architecture invariant:** nothing here ever writes to the image below, or can.

mod error;

pub use error::OverlayError;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::io::{Clock, Disk};
use crate::types::{Image, Position};

/// What an overlay lies over; it can be opened over nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayIdentity {
    /// Drawn at random when the overlay is made; checksums are bound to it.
    pub overlay: [u8; 16],
    pub repository: [u8; 16],
    pub source: [u8; 16],
    pub position: Position,
}

/// What an overlay permits.
#[derive(Clone, Copy, Debug, Default)]
pub struct OverlayOptions {
    /// Accept links with absolute targets outside every captured root.
    pub allow_external_links: bool,
    /// The log may not grow beyond this; `None`: as far as the disk goes.
    pub quota_bytes: Option<u64>,
}

/// What replaying an overlay's log found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverlayRecovery {
    pub records: u64,
    /// Bytes after the last whole record that were cut off: changes that no sync had covered.
    pub discarded_bytes: u64,
}

/// A writable image over a read-only one.
///
/// All methods may run at the same time from many threads. A change is visible at once, survives a kill of
/// the process once its method returned, and survives power loss once [`Overlay::sync`] returned.
pub struct Overlay {
    _base: Arc<dyn Image>,
}

impl Overlay {
    /// Makes a new overlay in `directory`, which must not hold one.
    ///
    /// # Errors
    /// `OverlayError::Exists` if there is one; `OverlayError::ExternalLinks` if the image has links that lead
    /// out of every captured root and `options` do not allow them; `OverlayError::Storage`.
    pub fn create(
        disk: Arc<dyn Disk>,
        directory: &Path,
        base: Arc<dyn Image>,
        identity: OverlayIdentity,
        options: OverlayOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Overlay, OverlayError> {
        let _ = (disk, directory, identity, options, clock);
        Ok(Overlay { _base: base })
    }

    /// Opens the overlay in `directory` again, over the image it was made for.
    ///
    /// # Errors
    /// `OverlayError::OtherView` if it was made for another; `OverlayError::Damaged`,
    /// `OverlayError::NewerVersion`, `OverlayError::InUse`, `OverlayError::Storage`.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        base: Arc<dyn Image>,
        identity: OverlayIdentity,
        options: OverlayOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Overlay, OverlayRecovery), OverlayError> {
        let _ = (disk, directory, identity, options, clock);
        Ok((Overlay { _base: base }, OverlayRecovery::default()))
    }

    /// What the overlay in `directory` lies over; `None` if there is no overlay.
    ///
    /// # Errors
    /// `OverlayError::Damaged`, `OverlayError::NewerVersion`, `OverlayError::Storage`.
    pub fn identity_at(disk: &dyn Disk, directory: &Path) -> Result<Option<OverlayIdentity>, OverlayError> {
        let _ = (disk, directory);
        Ok(None)
    }

    /// Makes every change up to now durable.
    ///
    /// # Errors
    /// `OverlayError::Storage`; the overlay then refuses every later change.
    pub fn sync(&self) -> Result<(), OverlayError> {
        Ok(())
    }

    /// Bytes of its log: what was written to it, and a little for each change.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        0
    }
}
