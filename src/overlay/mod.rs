//! The private copy-on-write layer of one mount: an [`Overlay`] lies over an image, takes every kind of
//! change, and is itself an image.
//!
//! It persists as one append log that carries data and map (`docs/disk-format.md`), so that one sync serves
//! an application's `fsync`. It knows neither repositories nor protocols; errno is mapped in `mount`.
//!
//! **Architecture invariant:** nothing here ever writes to the image below, or can.

mod changes;
mod content;
mod error;
mod extents;
mod log;
mod record;
mod replay;
mod state;
mod writes;

pub use changes::{NewFile, RenameMode, XattrMode};
pub use error::OverlayError;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use self::log::Log;
use self::record::{
    Draft, Entry, HeaderError, LOG_HEADER_BYTES, LOG_VERSION, Seed, decode_log_header, encode_log_header,
};
use self::replay::{renew, replay};
use self::state::State;
use crate::io::{Clock, Disk, Lock};
use crate::types::{Image, Position};

const LOG_FILE: &str = "overlay.log";
const LOG_DRAFT_FILE: &str = "overlay.log.new";
const LOCK_FILE: &str = "lock";

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
    base: Arc<dyn Image>,
    log: Log,
    options: OverlayOptions,
    clock: Arc<dyn Clock>,
    /// Held from the check of a change to its application, so that the log has the order of the effects.
    changing: Mutex<()>,
    /// Written only under `changing`, and only for the moment of applying.
    state: RwLock<State>,
    /// Kept so that no second process opens the same overlay.
    _lock: Lock,
}

impl Overlay {
    /// Makes a new overlay in `directory`, which must not hold one.
    ///
    /// # Errors
    /// `OverlayError::OverlayExists` if there is one; `OverlayError::ExternalLinks` if the image has links that
    /// lead out of every captured root and `options` do not allow them; `OverlayError::Storage`.
    pub fn create(
        disk: Arc<dyn Disk>,
        directory: &Path,
        base: Arc<dyn Image>,
        identity: OverlayIdentity,
        options: OverlayOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Overlay, OverlayError> {
        check_external_links(base.as_ref(), options)?;
        let storage = |error| storage_error(disk.as_ref(), directory, error);
        disk.create_directories(directory).map_err(storage)?;
        let lock = take_lock(disk.as_ref(), directory)?;
        let path = directory.join(LOG_FILE);
        if disk.open(&path).is_ok() {
            return Err(OverlayError::OverlayExists { path: disk.display(directory) });
        }
        // Under another name first: a crash in here leaves no half-made overlay.
        let draft = directory.join(LOG_DRAFT_FILE);
        match disk.remove(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(storage(error)),
            _ => {}
        }
        let file = disk.create_new(&draft).map_err(storage)?;
        file.write_at(0, &encode_log_header(&identity, clock.now())).map_err(storage)?;
        file.sync().map_err(storage)?;
        disk.rename(&draft, &path).map_err(storage)?;
        for directory in directory.ancestors() {
            disk.sync_directory(directory).map_err(storage)?;
        }
        let file = disk.open_writable(&path).map_err(storage)?;
        let seed = Seed::new(&identity);
        let log = Log::new(file, disk.display(&path), seed, options.quota_bytes, LOG_HEADER_BYTES, 0);
        Ok(Overlay::assemble(base, log, State::new(), options, clock, lock))
    }

    /// Opens the overlay in `directory` again, over the image it was made for.
    ///
    /// `identity.overlay` does not matter: the overlay knows its own.
    ///
    /// # Errors
    /// `OverlayError::OtherView` if it was made for another; `OverlayError::Damaged`,
    /// `OverlayError::NewerVersion`, `OverlayError::InUse`, `OverlayError::NoOverlay`, `OverlayError::Storage`.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        base: Arc<dyn Image>,
        identity: OverlayIdentity,
        options: OverlayOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Overlay, OverlayRecovery), OverlayError> {
        let found = Overlay::identity_at(disk.as_ref(), directory)?
            .ok_or_else(|| OverlayError::NoOverlay { path: disk.display(directory) })?;
        if (OverlayIdentity { overlay: found.overlay, ..identity }) != found {
            return Err(OverlayError::OtherView {
                path: disk.display(directory),
                found: found.position,
                wanted: identity.position,
            });
        }
        check_external_links(base.as_ref(), options)?;
        let lock = take_lock(disk.as_ref(), directory)?;
        let path = directory.join(LOG_FILE);
        let storage = |error| storage_error(disk.as_ref(), &path, error);
        let file = disk.open_writable(&path).map_err(storage)?;
        let seed = Seed::new(&found);
        let display = disk.display(&path);
        let mut state = State::new();
        let replayed = replay(&file, &display, seed, &mut |entry, time, place| {
            let applied = match &entry {
                Entry::Names(change) => state.apply_names(base.as_ref(), change, time),
                Entry::Data { change, spans } => state.apply_data(base.as_ref(), change, spans, place, time),
                Entry::Close => Ok(()),
            };
            applied.map_err(|error| error.to_string())
        })?;
        state.forget_nameless();
        // What was cut must not follow a new record of the same length, and what a kill left unsynced
        // counts as durable from here on.
        if file.len().map_err(storage)? != replayed.end_bytes {
            file.set_len(replayed.end_bytes).map_err(storage)?;
        }
        renew(file.as_ref(), &replayed).map_err(storage)?;
        file.sync().map_err(storage)?;
        let log =
            Log::new(file, display, seed, options.quota_bytes, replayed.end_bytes, replayed.next_sequence);
        let recovery =
            OverlayRecovery { records: replayed.records, discarded_bytes: replayed.discarded_bytes };
        Ok((Overlay::assemble(base, log, state, options, clock, lock), recovery))
    }

    fn assemble(
        base: Arc<dyn Image>,
        log: Log,
        state: State,
        options: OverlayOptions,
        clock: Arc<dyn Clock>,
        lock: Lock,
    ) -> Overlay {
        Overlay {
            base,
            log,
            options,
            clock,
            changing: Mutex::new(()),
            state: RwLock::new(state),
            _lock: lock,
        }
    }

    /// What the overlay in `directory` lies over; `None` if there is no overlay.
    ///
    /// # Errors
    /// `OverlayError::Damaged`, `OverlayError::NewerVersion`, `OverlayError::Storage`.
    pub fn identity_at(disk: &dyn Disk, directory: &Path) -> Result<Option<OverlayIdentity>, OverlayError> {
        let path = directory.join(LOG_FILE);
        let file = match disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(storage_error(disk, &path, error)),
        };
        let mut header = vec![0; LOG_HEADER_BYTES as usize];
        let read = file.read_at(0, &mut header).map_err(|error| storage_error(disk, &path, error))?;
        let damaged = |what: &str| OverlayError::Damaged {
            path: disk.display(&path),
            offset_bytes: 0,
            what: what.to_owned(),
        };
        decode_log_header(&header[..read]).map(Some).map_err(|error| match error {
            HeaderError::NotALog => damaged("not the log of an overlay"),
            HeaderError::Damaged(what) => damaged(what),
            HeaderError::NewerVersion(found) => {
                OverlayError::NewerVersion { path: disk.display(&path), found, known: LOG_VERSION }
            }
        })
    }

    /// Makes every change up to now durable.
    ///
    /// # Errors
    /// `OverlayError::Storage`; the overlay then refuses every later change.
    pub fn sync(&self) -> Result<(), OverlayError> {
        self.log.sync()
    }

    /// Makes every change durable and notes that the overlay was left in good order.
    ///
    /// # Errors
    /// As [`Overlay::sync`].
    pub fn close(&self) -> Result<(), OverlayError> {
        let _changing = self.changing.lock();
        self.log.sync()?;
        // Not synced itself: it only says how far the log is durable, for those who look for damage.
        self.log.append(&mut Draft::close(self.clock.now()), true)?;
        self.log.trim()
    }

    /// Bytes of its log: what was written to it, and a little for each change.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.log.end_bytes()
    }

    /// What it may grow to, if that was limited.
    #[must_use]
    pub fn quota_bytes(&self) -> Option<u64> {
        self.options.quota_bytes
    }
}

fn check_external_links(base: &dyn Image, options: OverlayOptions) -> Result<(), OverlayError> {
    if options.allow_external_links {
        return Ok(());
    }
    let links = base.external_links()?;
    let Some((path, target)) = links.first() else { return Ok(()) };
    let example = format!("{} -> {}", String::from_utf8_lossy(path), String::from_utf8_lossy(target));
    Err(OverlayError::ExternalLinks { count: links.len(), example })
}

fn take_lock(disk: &dyn Disk, directory: &Path) -> Result<Lock, OverlayError> {
    let lock = disk.try_lock(&directory.join(LOCK_FILE), false);
    let lock = lock.map_err(|error| storage_error(disk, directory, error))?;
    lock.ok_or_else(|| OverlayError::InUse { path: disk.display(directory) })
}

fn storage_error(disk: &dyn Disk, path: &Path, error: std::io::Error) -> OverlayError {
    OverlayError::Storage { path: disk.display(path), source: Arc::new(error) }
}
