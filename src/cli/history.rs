//! The history of a source as a command needs it: with the open segment sealed if the point asked for may lie there.

use std::sync::Arc;

use anyhow::Result;
use jiff::tz::TimeZone;

use super::arguments::SourceArguments;
use crate::capture::{ControlClient, ControlError, ControlReply, ControlRequest, control_socket};
use crate::index::BlockCache;
use crate::io::{Clock, SystemClock};
use crate::mount::state_directory;
use crate::repository::{Access, History, Holder, RepositoryError, Resolved, Source};
use crate::types::Point;

/// Asks the capture that writes `source` on this host.
pub fn ask_capture(source: &Source, request: &ControlRequest) -> Result<ControlReply, ControlError> {
    let state = state_directory().map_err(|error| ControlError::Refused(error.to_string()))?;
    let socket = control_socket(&state, &source.repository().identity().0, source.name());
    match ControlClient::ask(&socket, request)? {
        ControlReply::Refused { reason } => Err(ControlError::Refused(reason)),
        reply => Ok(reply),
    }
}

/// Everything recorded up to now, made readable: capture seals if it runs, else what it left is sealed.
pub fn seal(arguments: &SourceArguments, source: &Source, cache: &Arc<BlockCache>) -> Result<()> {
    match ask_capture(source, &ControlRequest::Seal) {
        Ok(_) => return Ok(()),
        Err(ControlError::NotRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    if !source.has_open_segment()? {
        return Ok(());
    }
    let writable = arguments.open(Access::Write)?;
    match writable.seal_abandoned(&holder(), cache) {
        Ok(report) => {
            for damage in report.damages {
                eprintln!("warning: {damage}");
            }
            Ok(())
        }
        // A writer that this host cannot reach has not sealed it yet; what is sealed can still be mounted.
        Err(RepositoryError::WriterPresent { holder, .. }) => {
            eprintln!("warning: the newest changes are not readable yet: capture runs elsewhere ({holder})");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// The source's history up to now.
pub fn up_to_now(arguments: &SourceArguments) -> Result<(Source, History)> {
    let source = arguments.open(Access::Read)?;
    let cache = super::arguments::block_cache();
    if source.has_open_segment()? {
        seal(arguments, &source, &cache)?;
    }
    let history = source.history(&cache)?;
    Ok((source, history))
}

/// What `point` stands for, and the history that holds it.
pub fn resolve(arguments: &SourceArguments, point: &Point) -> Result<(Source, Arc<History>, Resolved)> {
    let source = arguments.open(Access::Read)?;
    let zone = source.zone();
    let cache = super::arguments::block_cache();
    let mut history = source.history(&cache)?;
    if may_need_seal(&history, point, &zone) {
        seal(arguments, &source, &cache)?;
        history = source.history(&cache)?;
    }
    let resolved = history.resolve(point, SystemClock.now(), &zone)?;
    Ok((source, Arc::new(history), resolved))
}

fn may_need_seal(history: &History, point: &Point, zone: &TimeZone) -> bool {
    history.may_need_seal(point, SystemClock.now(), zone)
}

/// This process, as the next who wants to write is told.
pub fn holder() -> Holder {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    Holder { pid: std::process::id(), host }
}
