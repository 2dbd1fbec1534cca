//! The control socket of a running capture: one JSON request a line, one JSON reply a line.
//!
//! Only the user that runs capture and root are answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{Capture, CaptureStatus, ControlError};
use crate::types::Position;

/// A request or reply longer than this is refused.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// How long either side waits for the other's next byte; sealing a large segment takes a while.
const PATIENCE: Duration = Duration::from_secs(60);

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
    socket: PathBuf,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Listens at `socket`, replacing what a dead process left there. The directory is made if missing.
    ///
    /// # Errors
    /// `ControlError::Broken` if it cannot be made, `Refused` if a live process answers there.
    pub fn start(socket: &Path, capture: Arc<Capture>) -> Result<ControlServer, ControlError> {
        let broken = |source| ControlError::Broken { socket: socket.to_owned(), source: Arc::new(source) };
        if let Some(directory) = socket.parent() {
            std::fs::create_dir_all(directory).map_err(broken)?;
        }
        if connect(socket).is_ok() {
            return Err(ControlError::Refused("another capture of this source answers already".to_owned()));
        }
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(broken(error)),
            _ => {}
        }
        let listener = by_short_path(socket, |path| UnixListener::bind(path)).map_err(broken)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(broken)?;
        let ended = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&ended);
        let thread = std::thread::Builder::new()
            .name("capture-control".to_owned())
            .spawn(move || accept(&listener, &capture, &asked))
            .map_err(broken)?;
        Ok(ControlServer { socket: socket.to_owned(), ended, thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the thread that waits for a connection.
        let woken = connect(&self.socket).is_ok();
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!("cannot remove {}: {error}", self.socket.display());
        }
        if let Some(thread) = self.thread.take().filter(|_| woken)
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
    }
}

fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    by_short_path(socket, |path| UnixStream::connect(path))
}

/// Reaches a socket through a descriptor of its directory: a socket's address holds 108 bytes, a state directory's
/// path may be longer.
fn by_short_path<T>(socket: &Path, reach: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else { return reach(socket) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let held = rustix::fs::open(directory, flags, Mode::empty())?;
    reach(&Path::new("/proc/self/fd").join(held.as_raw_fd().to_string()).join(name))
}

fn accept(listener: &UnixListener, capture: &Arc<Capture>, ended: &AtomicBool) {
    for stream in listener.incoming() {
        if ended.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let capture = Arc::clone(capture);
        let serve = move || {
            if let Err(error) = serve(&stream, &capture) {
                tracing::debug!("a control connection ended: {error}");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("capture-request".to_owned()).spawn(serve) {
            tracing::warn!("cannot answer a control request: {error}");
        }
    }
}

fn serve(stream: &UnixStream, capture: &Capture) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
        let reason = format!("user {} may not control this capture", peer.uid.as_raw());
        return send(stream, &ControlReply::Refused { reason });
    }
    let mut lines = BufReader::new(stream.take(LINE_BYTES_MAX));
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        let reply = match serde_json::from_str(&line) {
            Ok(request) => answer(&request, capture),
            Err(error) => ControlReply::Refused { reason: format!("not a request: {error}") },
        };
        send(stream, &reply)?;
        line.clear();
    }
    Ok(())
}

fn answer(request: &ControlRequest, capture: &Capture) -> ControlReply {
    let outcome = match request {
        ControlRequest::Bookmark { name } if name.is_empty() => {
            return ControlReply::Refused { reason: "a bookmark needs a name".to_owned() };
        }
        ControlRequest::Bookmark { name } => {
            let bookmarked = capture.bookmark(name).map(|position| ControlReply::Bookmarked { position });
            return bookmarked.unwrap_or_else(|error| ControlReply::Refused { reason: error.to_string() });
        }
        ControlRequest::Seal => capture.seal().map(|position| ControlReply::Sealed { position }),
        ControlRequest::Status => return ControlReply::Status(Box::new(capture.status())),
        ControlRequest::Stop => {
            capture.request_stop();
            return ControlReply::Stopping;
        }
    };
    outcome.unwrap_or_else(|error| ControlReply::Refused { reason: error.to_string() })
}

fn send(mut stream: &UnixStream, message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// The asking side.
pub struct ControlClient;

impl ControlClient {
    /// Asks the capture at `socket` and waits for its answer.
    ///
    /// # Errors
    /// `ControlError::NotRunning` if nobody listens, `Refused` with the reason it gave.
    pub fn ask(socket: &Path, request: &ControlRequest) -> Result<ControlReply, ControlError> {
        use std::io::ErrorKind;
        let broken = |source| ControlError::Broken { socket: socket.to_owned(), source: Arc::new(source) };
        let stream = connect(socket).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                ControlError::NotRunning { socket: socket.to_owned() }
            }
            _ => broken(error),
        })?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
        send(&stream, request).map_err(broken)?;
        let mut line = String::new();
        BufReader::new((&stream).take(LINE_BYTES_MAX)).read_line(&mut line).map_err(broken)?;
        match serde_json::from_str(&line).map_err(|error| broken(error.into()))? {
            ControlReply::Refused { reason } => Err(ControlError::Refused(reason)),
            reply => Ok(reply),
        }
    }
}
