//! From the words of a request to a view: repository, source, point, with the open segment sealed if the point
//! may lie in it.

use std::path::Path;
use std::sync::Arc;

use super::{MountError, state_directory};
use crate::capture::{ControlClient, ControlError, ControlReply, ControlRequest, control_socket};
use crate::index::BlockCache;
use crate::io::{Clock, RealDisk};
use crate::repository::{Access, History, Holder, Repository, RepositoryError, Resolved, Source};
use crate::types::Point;

/// What a request resolves to.
pub struct ResolvedPoint {
    pub source: Source,
    pub history: Arc<History>,
    pub resolved: Resolved,
}

/// What `at` stands for, and the history that holds it: up to now, if the point may lie there.
///
/// # Errors
/// `MountError::Point`, `MountError::Repository`, `MountError::Capture`; `MountError` says what is mountable instead.
pub fn resolve(
    repository: &Path,
    source_name: &str,
    at: &str,
    cache: &Arc<BlockCache>,
    clock: &dyn Clock,
) -> Result<ResolvedPoint, MountError> {
    let point: Point = at.parse()?;
    let source = open(repository, Access::Read)?.source(source_name)?;
    let zone = source.zone();
    let mut history = source.history(cache)?;
    if history.may_need_seal(&point, clock.now(), &zone) {
        seal(repository, &source, cache)?;
        history = source.history(cache)?;
    }
    let resolved = history.resolve(&point, clock.now(), &zone)?;
    Ok(ResolvedPoint { source, history: Arc::new(history), resolved })
}

/// A source with everything recorded up to now made readable.
///
/// # Errors
/// As [`resolve`].
pub fn history_up_to_now(
    repository: &Path,
    source_name: &str,
    cache: &Arc<BlockCache>,
) -> Result<(Source, Arc<History>), MountError> {
    let source = open(repository, Access::Read)?.source(source_name)?;
    if source.has_open_segment()? {
        seal(repository, &source, cache)?;
    }
    let history = source.history(cache)?;
    Ok((source, Arc::new(history)))
}

fn open(repository: &Path, access: Access) -> Result<Repository, MountError> {
    let disk = RealDisk::open(repository).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            MountError::Repository(RepositoryError::Missing { path: repository.display().to_string() })
        }
        _ => super::registry::storage("open the repository", repository, error),
    })?;
    Ok(Repository::open(Arc::new(disk), access)?)
}

/// Makes what was recorded up to now readable: capture seals if it runs, else what it left is sealed.
fn seal(repository: &Path, source: &Source, cache: &Arc<BlockCache>) -> Result<(), MountError> {
    let socket = control_socket(&state_directory()?, &source.repository().identity().0, source.name());
    match ControlClient::ask(&socket, &ControlRequest::Seal) {
        // What is sealed already can still be mounted; the point may not be in it.
        Ok(ControlReply::Refused { reason }) | Err(ControlError::Refused(reason)) => {
            tracing::warn!("the newest changes are not readable: {reason}");
            return Ok(());
        }
        Ok(_) => return Ok(()),
        Err(ControlError::NotRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    if !source.has_open_segment()? {
        return Ok(());
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let holder = Holder { pid: std::process::id(), host };
    // Where nobody can seal it, what is sealed already can still be mounted; the point may not be in it.
    match open(repository, Access::Write)?.source(source.name())?.seal_abandoned(&holder, cache) {
        Ok(report) => {
            for damage in report.damages {
                tracing::warn!("{damage}");
            }
            Ok(())
        }
        Err(RepositoryError::WriterPresent { holder, .. }) => {
            tracing::warn!("the newest changes are not readable yet: capture runs elsewhere ({holder})");
            Ok(())
        }
        Err(RepositoryError::Storage { object, source, .. }) => {
            tracing::warn!("the newest changes are not readable: cannot seal {object}: {source}");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
