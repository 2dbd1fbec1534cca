//! The history of a source as a command needs it, and questions to the capture that writes it.

use std::sync::Arc;

use anyhow::Result;

use super::arguments::{SourceArguments, block_cache};
use crate::capture::{ControlClient, ControlError, ControlReply, ControlRequest, control_socket};
use crate::io::SystemClock;
use crate::mount::{self, ResolvedPoint, state_directory};
use crate::repository::{History, Holder, Source};

/// Asks the capture that writes `source` on this host.
pub fn ask_capture(source: &Source, request: &ControlRequest) -> Result<ControlReply, ControlError> {
    let state = state_directory().map_err(|error| ControlError::Refused(error.to_string()))?;
    let socket = control_socket(&state, &source.repository().identity().0, source.name());
    match ControlClient::ask(&socket, request)? {
        ControlReply::Refused { reason } => Err(ControlError::Refused(reason)),
        reply => Ok(reply),
    }
}

/// The source's history up to now.
pub fn up_to_now(arguments: &SourceArguments) -> Result<(Source, Arc<History>)> {
    let repository = std::path::absolute(&arguments.repository.repo)?;
    Ok(mount::history_up_to_now(&repository, &arguments.source, &block_cache())?)
}

/// What `point` stands for, and the history that holds it.
pub fn resolve(arguments: &SourceArguments, point: &str) -> Result<ResolvedPoint> {
    let repository = std::path::absolute(&arguments.repository.repo)?;
    Ok(mount::resolve(&repository, &arguments.source, point, &block_cache(), &SystemClock)?)
}

/// This process, as the next who wants to write is told.
pub fn holder() -> Holder {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    Holder { pid: std::process::id(), host }
}
