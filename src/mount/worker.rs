//! The process that serves one mount, how it is started detached, and how it is ended.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{MountError, MountRecord};

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
    /// Budget of the cache of decoded pages and index blocks.
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

/// Serves the mount in this process until it is unmounted from outside, or SIGTERM or SIGINT comes.
///
/// `serving` is called once, when the first `stat` has been answered.
///
/// # Errors
/// Every `MountError`; nothing is left half-made then.
pub fn run(request: &MountRequest, serving: &mut dyn FnMut(&MountRecord)) -> Result<(), MountError> {
    let _ = serving;
    panic!("follows: {request:?}")
}

/// Starts `pitgate mount run` as a process of its own and waits until it serves.
///
/// # Errors
/// `MountError::Worker` with what the worker said; as [`run`].
pub fn create(request: &MountRequest) -> Result<MountRecord, MountError> {
    panic!("follows: {request:?}")
}

/// Unmounts the mount with this id or mountpoint, waits for its worker, forgets it, and deletes its overlay
/// if that is private. With `lazy` a mount in use is detached at once and goes when its users do.
///
/// # Errors
/// `MountError::Busy` names the processes that use it; `MountError::NoSuchMount`, `MountError::Storage`.
pub fn remove(id_or_mountpoint: &str, lazy: bool) -> Result<MountRecord, MountError> {
    panic!("follows: {id_or_mountpoint} {lazy}")
}
