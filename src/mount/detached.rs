//! Starting a worker as a process of its own, and ending one from outside.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::registry::{Registry, storage};
use super::users::users_of;
use super::worker::{SUBTYPE, draw_id, is_dead_mount, is_overlay_free, remove_overlay};
use super::{MountError, MountRecord, MountRequest, state_directory};
use crate::io::{Clock, SystemClock, fuse, mounted_on};

/// How long a worker may take to end after its mount is gone.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// The same, if it may go on for those who have the mount open.
const LAZY_PATIENCE: Duration = Duration::from_secs(1);

/// Starts `pitgate mount run` as a process of its own and waits until it serves.
///
/// # Errors
/// `MountError::Worker` with what the worker said; as [`super::run`].
pub fn create(request: &MountRequest) -> Result<MountRecord, MountError> {
    let clock = SystemClock;
    let began = clock.monotonic();
    let registry = Registry::open(&state_directory()?)?;
    let id = request.id.clone().map_or_else(draw_id, Ok)?;
    let request = MountRequest { id: Some(id.clone()), ..request.clone() };
    let mut worker = start(&request, &registry, &id)?;
    let waited = wait_until_it_serves(&mut worker, &registry, &id);
    let outcome = waited.map(|record| MountRecord {
        elapsed_ms: (clock.monotonic() - began).as_secs_f64() * 1000.0,
        ..record
    });
    if outcome.is_err() {
        registry.remove(&id)?;
    }
    outcome
}

fn start(request: &MountRequest, registry: &Registry, id: &str) -> Result<Child, MountError> {
    let program =
        std::env::current_exe().map_err(|error| storage("find", Path::new("this program"), error))?;
    let log_path = registry.path(id, "log");
    let log = std::fs::File::create(&log_path).map_err(|error| storage("create", &log_path, error))?;
    let log_again = log.try_clone().map_err(|error| storage("open", &log_path, error))?;
    let mut command = Command::new(&program);
    command.args(request.arguments()).stdin(Stdio::null()).stdout(log).stderr(log_again).current_dir("/");
    command.spawn().map_err(|error| storage("start", &program, error))
}

fn wait_until_it_serves(
    worker: &mut Child,
    registry: &Registry,
    id: &str,
) -> Result<MountRecord, MountError> {
    let mut glances = 0u32;
    loop {
        let ended = worker.try_wait().map_err(|error| storage("wait for", Path::new("the worker"), error))?;
        if let Some(record) = registry.read(id)?
            && (record.serving || ended.is_some())
        {
            return Ok(record);
        }
        if let Some(status) = ended {
            let said = std::fs::read_to_string(registry.path(id, "failed"));
            let message = said.unwrap_or_else(|_| {
                let log = std::fs::read_to_string(registry.path(id, "log")).unwrap_or_default();
                let last =
                    log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
                format!("the mount process ended with {status}: {last}")
            });
            return Err(MountError::Worker { message });
        }
        // Mounts take milliseconds; one that has much to recover first need not be asked so often.
        std::thread::sleep(Duration::from_millis(if glances < 200 { 1 } else { 20 }));
        glances += 1;
    }
}

/// Unmounts the mount with this id or mountpoint, waits for its worker, forgets it, and deletes its overlay
/// if that is private. With `lazy` a mount in use is detached at once and goes when its users do.
///
/// # Errors
/// `MountError::Busy` names the processes that use it; `MountError::NoSuchMount`, `MountError::Storage`.
pub fn remove(id_or_mountpoint: &str, lazy: bool) -> Result<MountRecord, MountError> {
    let registry = Registry::open(&state_directory()?)?;
    let record = registry.find(id_or_mountpoint)?;
    unmount(&record, lazy)?;
    let patience = if lazy { LAZY_PATIENCE } else { END_PATIENCE };
    let has_ended = !record.serving || wait_until_it_ended(&record, &registry, patience);
    if !has_ended && !lazy {
        let users = "still served to processes that have it open in another namespace".to_owned();
        return Err(MountError::Busy { mountpoint: record.mountpoint, users });
    }
    registry.remove(&record.id)?;
    // A worker that still serves those who have the mount open does this when it ends.
    if has_ended
        && record.overlay_is_private
        && let Some(overlay) = &record.overlay
    {
        // It may have been attached again by its path.
        if is_overlay_free(overlay) {
            remove_overlay(overlay);
        } else {
            tracing::warn!("{} stays: it is gone already, or another mount uses it", overlay.display());
        }
    }
    Ok(MountRecord { serving: false, ..record })
}

fn unmount(record: &MountRecord, lazy: bool) -> Result<(), MountError> {
    let path = &record.mountpoint;
    let entry = mounted_on(path).map_err(|error| storage("look at mounts for", path, error))?;
    let Some(entry) = entry else { return Ok(()) };
    let is_ours = entry.kind == format!("fuse.{SUBTYPE}") && *entry.name == *format!("pitgate:{}", record.id);
    if !is_ours {
        // Unmounted from outside, and the place taken by another since.
        return Ok(());
    }
    let lazy = lazy || (!record.serving && is_dead_mount(&entry));
    fuse::unmount(path, entry.device, lazy).map_err(|error| match error.kind() {
        std::io::ErrorKind::ResourceBusy => {
            MountError::Busy { mountpoint: path.clone(), users: users_of(path) }
        }
        _ => storage("unmount", path, error),
    })
}

/// The worker ends when its mount has: it writes out what is left and closes the overlay.
fn wait_until_it_ended(record: &MountRecord, registry: &Registry, patience: Duration) -> bool {
    let clock = SystemClock;
    let give_up = clock.monotonic() + patience;
    while !registry.is_free(&record.id) {
        if clock.monotonic() > give_up {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}
