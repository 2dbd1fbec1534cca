//! The process that serves one mount.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::point::{self, ResolvedPoint};
use super::registry::{Registry, Via, own_directory, storage};
use super::users::users_of;
use super::{Export, FuseExport, MountError, MountRecord, state_directory};
use crate::index::BlockCache;
use crate::io::fuse::{Session, SessionOptions, is_dead};
use crate::io::{Clock, Disk, MountEntry, Randomness, RealDisk, SystemClock, SystemRandomness, mounted_on};
use crate::overlay::{Overlay, OverlayIdentity, OverlayOptions};
use crate::types::Image;
use crate::view::{View, ViewCache};

/// The type of our mounts in the table of mounts.
pub(super) const SUBTYPE: &str = "pitgate";
/// How often a worker looks whether it was asked to end.
const GLANCE: Duration = Duration::from_millis(100);

/// What `mount create` and `mount run` are asked for.
#[derive(Clone, Debug)]
pub struct MountRequest {
    pub repository: PathBuf,
    pub source: String,
    /// A [`crate::types::Point`] as text.
    pub at: String,
    pub mountpoint: PathBuf,
    pub read_only: bool,
    /// Where the overlay is or shall be; `None`: a private one under the data directory, which goes with
    /// `mount remove`. Ignored if `read_only`.
    pub overlay: Option<PathBuf>,
    pub allow_external_links: bool,
    /// Let other users see the mount (root always does so, since database servers run as their own user).
    pub allow_other: bool,
    /// Budget of the caches of decoded pages and index blocks.
    pub cache_bytes: u64,
    /// The mount's id; `None`: a new one is drawn. Hidden argument `--id` of `mount run`.
    pub id: Option<String>,
}

impl MountRequest {
    /// The arguments of `pitgate` that ask for the same in the foreground: `mount run --repo … MOUNTPOINT`.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["mount", "run", "--repo"].map(OsString::from).to_vec();
        arguments.push(self.repository.clone().into());
        arguments.extend([OsString::from("--source"), self.source.clone().into()]);
        // With `=`, since a point such as `-10m` would else be taken for an option.
        arguments.push(format!("--at={}", self.at).into());
        if self.read_only {
            arguments.push("--read-only".into());
        }
        if let Some(overlay) = &self.overlay {
            arguments.extend([OsString::from("--overlay"), overlay.clone().into()]);
        }
        if self.allow_external_links {
            arguments.push("--allow-external-links".into());
        }
        if self.allow_other {
            arguments.push("--allow-other".into());
        }
        arguments.push(format!("--cache-bytes={}", self.cache_bytes).into());
        if let Some(id) = &self.id {
            arguments.push(format!("--id={id}").into());
        }
        arguments.push(self.mountpoint.clone().into());
        arguments
    }
}

/// A new id of a mount: `m-` and eight letters or digits.
pub(super) fn draw_id() -> Result<String, MountError> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = [0; 8];
    SystemRandomness.fill(&mut random).map_err(|error| storage("read", Path::new("/dev/urandom"), error))?;
    let letters = random.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
    Ok(format!("m-{}", String::from_iter(letters)))
}

/// Serves the mount in this process until it is unmounted from outside, or SIGTERM or SIGINT comes.
///
/// `serving` is called once, when the first `stat` has been answered.
///
/// # Errors
/// Every `MountError`; nothing is left half-made then.
pub fn run(request: &MountRequest, serving: &mut dyn FnMut(&MountRecord)) -> Result<(), MountError> {
    let registry = Registry::open(&state_directory()?)?;
    if request.id.is_some() {
        // Started by `mount create`: whatever becomes of its terminal must not end us. Fails only for one who
        // leads a group already, and then there is nothing to leave.
        let _ = rustix::process::setsid();
    }
    let id = request.id.clone().map_or_else(draw_id, Ok)?;
    let result = serve(request, &id, &registry, serving);
    match (&result, &request.id) {
        (Ok(()), _) => {}
        // For the one who started us and waits.
        (Err(error), Some(_)) => {
            if let Err(unsaid) = std::fs::write(registry.path(&id, "failed"), chain(error)) {
                tracing::error!("{}: {unsaid}", chain(error));
            }
        }
        (Err(_), None) => registry.remove(&id)?,
    }
    result
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        // Some say their cause themselves.
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    text
}

fn serve(
    request: &MountRequest,
    id: &str,
    registry: &Registry,
    serving: &mut dyn FnMut(&MountRecord),
) -> Result<(), MountError> {
    let clock = SystemClock;
    let (began, started) = (clock.monotonic(), clock.now());
    let mountpoint = free_mountpoint(&request.mountpoint)?;
    let worker_lock = registry.lock(id)?.ok_or_else(|| MountError::IdInUse { id: id.to_owned() })?;
    // Index blocks are small and shared by all files: a quarter serves a long history.
    let block_cache = Arc::new(BlockCache::new(request.cache_bytes / 4));
    let point = point::resolve(&request.repository, &request.source, &request.at, &block_cache, &clock)?;
    let view_cache = ViewCache::new(request.cache_bytes - request.cache_bytes / 4);
    let view = View::open(Arc::clone(&point.history), point.resolved.position, view_cache)?;
    let overlay_directory = overlay_directory(request, id, &mountpoint)?;
    let view: Arc<dyn Image> = Arc::new(view);
    let opened = match &overlay_directory {
        None => None,
        Some(directory) => Some(open_overlay(directory, view.clone(), &point, request)?),
    };
    let export = match (&opened, &overlay_directory) {
        (Some(opened), Some(directory)) => Export::writable(Arc::clone(&opened.overlay), directory.clone()),
        _ => Export::read_only(view, request.repository.clone()),
    };
    let file_system = Arc::new(FuseExport::new(Arc::new(export), Arc::new(clock)));
    let options = session_options(request, id);
    let signals = Signals::listen()?;
    let session = match Session::mount(file_system, &mountpoint, &options) {
        Ok(session) => session,
        Err(error) => {
            if let (Some(opened), Some(directory)) = (opened, &overlay_directory)
                && opened.is_new
            {
                remove_overlay(directory);
            }
            return Err(no_fuse(error));
        }
    };
    let record = MountRecord {
        id: id.to_owned(),
        repository: request.repository.clone(),
        source: request.source.clone(),
        requested: request.at.clone(),
        position: point.resolved.position,
        time: point.resolved.time,
        mountpoint: mountpoint.clone(),
        via: Via::Fuse,
        read_only: request.read_only,
        overlay_is_private: request.overlay.is_none() && overlay_directory.is_some(),
        overlay: overlay_directory,
        pid: std::process::id(),
        started,
        elapsed_ms: (clock.monotonic() - began).as_secs_f64() * 1000.0,
        serving: true,
    };
    registry.write(&record)?;
    serving(&record);
    wait_for_the_end(&session, &signals, &mountpoint);
    drop(session);
    if let Some(opened) = &opened {
        opened.overlay.close()?;
    }
    forget(registry, &record)?;
    drop(worker_lock);
    Ok(())
}

/// Takes the record of a mount that has ended away, unless its private overlay needs it.
fn forget(registry: &Registry, record: &MountRecord) -> Result<(), MountError> {
    // A private overlay is found again by its record only: that stays until `mount remove`, which may have
    // come while we still served those who had the mount open.
    match &record.overlay {
        Some(overlay) if record.overlay_is_private => {
            if registry.read(&record.id)?.is_none() {
                remove_overlay(overlay);
            }
        }
        _ => registry.remove(&record.id)?,
    }
    Ok(())
}

fn session_options(request: &MountRequest, id: &str) -> SessionOptions {
    SessionOptions {
        name: format!("pitgate:{id}"),
        subtype: SUBTYPE.to_owned(),
        allow_other: request.allow_other || rustix::process::geteuid().is_root(),
        read_only: request.read_only,
        ..SessionOptions::default()
    }
}

/// The mountpoint without links, if it is an empty directory on which nothing is mounted. What a killed worker
/// left mounted there is taken away.
fn free_mountpoint(path: &Path) -> Result<PathBuf, MountError> {
    let absolute = std::path::absolute(path).map_err(|error| storage("find", path, error))?;
    if let Ok(Some(entry)) = mounted_on(&absolute)
        && is_dead_mount(&entry)
    {
        tracing::warn!("taking away what a killed process left mounted on {}", absolute.display());
        crate::io::fuse::unmount(&absolute, entry.device, true)
            .map_err(|error| storage("unmount", &absolute, error))?;
    }
    let mountpoint = match path.canonicalize() {
        Ok(mountpoint) => mountpoint,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(MountError::NoMountpoint { path: path.to_owned() });
        }
        Err(error) => return Err(storage("look at mountpoint", path, error)),
    };
    if !mountpoint.is_dir() {
        return Err(MountError::MountpointNotADirectory { path: mountpoint });
    }
    match mounted_on(&mountpoint) {
        Ok(None) => {}
        Ok(Some(entry)) => {
            let by = format!("{} ({})", entry.name.to_string_lossy(), entry.kind);
            return Err(MountError::MountpointInUse { path: mountpoint, by });
        }
        Err(error) => return Err(storage("look at mounts for", &mountpoint, error)),
    }
    let mut names = std::fs::read_dir(&mountpoint).map_err(|error| storage("list", &mountpoint, error))?;
    if names.next().is_some() {
        return Err(MountError::MountpointNotEmpty { path: mountpoint });
    }
    Ok(mountpoint)
}

/// Whether this is a mount of ours whose worker is dead.
pub(super) fn is_dead_mount(entry: &MountEntry) -> bool {
    entry.kind == format!("fuse.{SUBTYPE}")
        && entry.name.to_string_lossy().starts_with("pitgate:m-")
        && is_dead(&entry.mountpoint)
}

/// Where the overlay of this request lies; `None` if it is read-only.
fn overlay_directory(
    request: &MountRequest,
    id: &str,
    mountpoint: &Path,
) -> Result<Option<PathBuf>, MountError> {
    if request.read_only {
        return Ok(None);
    }
    let directory = match &request.overlay {
        Some(directory) => directory.clone(),
        None => data_directory()?.join("overlays").join(id),
    };
    if directory.starts_with(mountpoint) || directory.starts_with(&request.mountpoint) {
        return Err(MountError::OverlayInsideMountpoint { path: directory });
    }
    Ok(Some(directory))
}

/// Where private overlays lie: `PITGATE_DATA_DIR`, else `/var/lib/pitgate` for root, else
/// `$XDG_STATE_HOME/pitgate` or `~/.local/state/pitgate`; below `PITGATE_STATE_DIR` if only that is set.
fn data_directory() -> Result<PathBuf, MountError> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let directory = if let Some(named) = variable("PITGATE_DATA_DIR") {
        named
    } else if let Some(state) = variable("PITGATE_STATE_DIR") {
        state
    } else if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/lib/pitgate")
    } else {
        let home = || variable("HOME").map(|home| home.join(".local/state"));
        variable("XDG_STATE_HOME").or_else(home).unwrap_or_else(|| "/var/tmp".into()).join("pitgate")
    };
    let directory = std::path::absolute(&directory).map_err(|error| storage("find", &directory, error))?;
    own_directory(&directory)?;
    Ok(directory)
}

struct OpenedOverlay {
    overlay: Arc<Overlay>,
    is_new: bool,
}

fn open_overlay(
    directory: &Path,
    view: Arc<dyn Image>,
    point: &ResolvedPoint,
    request: &MountRequest,
) -> Result<OpenedOverlay, MountError> {
    let disk: Arc<dyn crate::io::Disk> =
        Arc::new(RealDisk::open(Path::new("/")).map_err(|error| storage("open", Path::new("/"), error))?);
    // Paths of a disk are relative to its root.
    let path = directory.strip_prefix("/").unwrap_or(directory);
    let mut overlay = [0; 16];
    SystemRandomness.fill(&mut overlay).map_err(|error| storage("read", Path::new("/dev/urandom"), error))?;
    let identity = OverlayIdentity {
        overlay,
        repository: point.source.repository().identity().0,
        source: point.source.identity().0,
        position: point.resolved.position,
    };
    let options = OverlayOptions { allow_external_links: request.allow_external_links, quota_bytes: None };
    let clock = Arc::new(SystemClock);
    if Overlay::identity_at(disk.as_ref(), path)?.is_none() {
        let overlay = Overlay::create(disk, path, view, identity, options, clock)?;
        return Ok(OpenedOverlay { overlay: Arc::new(overlay), is_new: true });
    }
    let (overlay, recovery) = Overlay::open(disk, path, view, identity, options, clock)?;
    if recovery.discarded_bytes > 0 {
        tracing::warn!(
            "{}: {} bytes of changes that no sync had covered are cut off",
            directory.display(),
            recovery.discarded_bytes
        );
    }
    Ok(OpenedOverlay { overlay: Arc::new(overlay), is_new: false })
}

/// Whether no mount uses the overlay in this directory.
pub(super) fn is_overlay_free(directory: &Path) -> bool {
    let lock = RealDisk::open(directory).and_then(|disk| disk.try_lock(Path::new("lock"), false));
    matches!(lock, Ok(Some(_)))
}

/// Deletes the files of an overlay, and its directory if nothing else is in it.
pub(super) fn remove_overlay(directory: &Path) {
    for name in ["overlay.log", "overlay.log.new", "lock"] {
        if let Err(error) = std::fs::remove_file(directory.join(name))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}", directory.join(name).display());
        }
    }
    if let Err(error) = std::fs::remove_dir(directory) {
        tracing::debug!("{} stays: {error}", directory.display());
    }
}

fn no_fuse(error: std::io::Error) -> MountError {
    MountError::NoFuse(match error.kind() {
        std::io::ErrorKind::NotFound => format!("{error}; load the kernel module with `modprobe fuse`"),
        std::io::ErrorKind::PermissionDenied => {
            format!("{error}; run as root, or install fusermount3 (package fuse3)")
        }
        _ => error.to_string(),
    })
}

/// SIGTERM and SIGINT, as something to look at.
struct Signals(Arc<std::sync::atomic::AtomicBool>);

impl Signals {
    fn listen() -> Result<Signals, MountError> {
        let asked = Arc::new(std::sync::atomic::AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&asked))
                .map_err(|error| storage("listen for signals in", Path::new("this process"), error))?;
        }
        Ok(Signals(asked))
    }

    fn came(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Acquire)
    }
}

fn wait_for_the_end(session: &Session, signals: &Signals, mountpoint: &Path) {
    while !session.wait_timeout(GLANCE) {
        if !signals.came() {
            continue;
        }
        // Whoever still uses it loses nothing that it wrote: what the kernel holds back is written out first.
        if let Err(error) = write_back(mountpoint) {
            tracing::warn!("cannot write back {}: {error}", mountpoint.display());
        }
        match session.unmount() {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                tracing::warn!("{} goes away though it is {}", mountpoint.display(), users_of(mountpoint));
                if let Err(error) = session.detach() {
                    tracing::error!("cannot detach {}: {error}", mountpoint.display());
                }
            }
            Err(error) => tracing::error!("cannot unmount {}: {error}", mountpoint.display()),
        }
        return;
    }
    if let Err(error) = session.wait() {
        tracing::error!("the mount ended: {error}");
    }
}

fn write_back(mountpoint: &Path) -> rustix::io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    let root =
        rustix::fs::open(mountpoint, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::syncfs(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_must_be_an_empty_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        std::fs::create_dir_all(path("full/inside")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        assert!(matches!(free_mountpoint(&path("none")), Err(MountError::NoMountpoint { .. })));
        assert!(matches!(free_mountpoint(&path("file")), Err(MountError::MountpointNotADirectory { .. })));
        assert!(matches!(free_mountpoint(&path("full")), Err(MountError::MountpointNotEmpty { .. })));
        assert!(matches!(free_mountpoint(Path::new("/proc")), Err(MountError::MountpointInUse { .. })));
        assert!(free_mountpoint(&path("full/inside")).is_ok());
    }

    #[test]
    fn an_id_is_short_and_never_twice_the_same() {
        let ids: std::collections::BTreeSet<String> = (0..100).map(|_| draw_id().unwrap()).collect();
        assert_eq!(ids.len(), 100);
        assert!(ids.iter().all(|id| id.len() == 10 && id.starts_with("m-")));
    }
}
