//! The life of one FUSE mount: mounting, serving threads, unmounting, and its end from outside.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{INodeNo, SessionACL};
use parking_lot::{Condvar, Mutex};

use super::FileSystem;
use super::adapter::Adapter;
use super::answer::panic_text;
use super::mounting::{self, Connection};
use crate::io::mountinfo::{MountEntry, mounts};
use crate::io::{Clock, SystemClock};

/// How long [`Session::unmount`] tries again while the mount is busy: closing a file ends in the kernel a
/// little after `close` returned.
const BUSY_PATIENCE: Duration = Duration::from_millis(500);
/// How long [`Session::unmount`] waits for the serving threads to end.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// How a file system is mounted.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The name in the table of mounts.
    pub name: String,
    /// The type in the table of mounts is `fuse.` and this.
    pub subtype: String,
    /// Threads that serve requests, each with its own queue to the kernel.
    pub threads: usize,
    /// Whether other users than the one who mounts may use it.
    pub allow_other: bool,
    /// Whether the kernel checks permissions by mode and owner.
    pub default_permissions: bool,
    pub read_only: bool,
    /// Read-ahead of sequential reads. More than the kernel's usual 128 KiB is possible for root only; others
    /// silently get that.
    pub readahead_bytes: u64,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions {
            name: "pitgate".to_owned(),
            subtype: "pitgate".to_owned(),
            threads: 8,
            allow_other: false,
            default_permissions: true,
            read_only: false,
            readahead_bytes: 1 << 20,
        }
    }
}

/// A mounted file system. Dropping it detaches the mount lazily.
///
/// If the process dies, the mount stays and answers `ENOTCONN` until someone unmounts it.
pub struct Session {
    mountpoint: PathBuf,
    device: (u32, u32),
    notifier: fuser::Notifier,
    end: Arc<End>,
}

#[derive(Default)]
struct End {
    result: Mutex<Option<Result<(), Arc<io::Error>>>>,
    changed: Condvar,
}

impl End {
    fn set(&self, result: io::Result<()>) {
        *self.result.lock() = Some(result.map_err(Arc::new));
        self.changed.notify_all();
    }
}

impl Session {
    /// Mounts and serves; when it returns, a `stat` of the mountpoint has been answered.
    ///
    /// `mountpoint` is an existing directory, perhaps as `/proc/self/fd/N`, perhaps the very one the file system
    /// reads from through descriptors it opened before.
    ///
    /// # Errors
    /// The operating system's: `NotFound` without `/dev/fuse` or mountpoint, `PermissionDenied`, `NotADirectory`;
    /// what [`FileSystem::init`] or the root's `getattr` said. Nothing stays mounted.
    pub fn mount(
        file_system: Arc<dyn FileSystem>,
        mountpoint: &Path,
        options: &SessionOptions,
    ) -> io::Result<Session> {
        let mountpoint = mountpoint.canonicalize()?;
        if !mountpoint.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let connection = mounting::mount(&mountpoint, options)?;
        let device = connection.device;
        match Session::serve(file_system, connection, &mountpoint, options) {
            Ok(session) => Ok(session),
            Err(error) => {
                // Without a server the mount is dead; nobody must wait for it.
                if let Err(left) = mounting::unmount(&mountpoint, device, true) {
                    tracing::warn!("cannot detach {}: {left}", mountpoint.display());
                }
                Err(error)
            }
        }
    }

    fn serve(
        file_system: Arc<dyn FileSystem>,
        connection: Connection,
        mountpoint: &Path,
        options: &SessionOptions,
    ) -> io::Result<Session> {
        let Connection { fd, device } = connection;
        let (acl, config) = config(options);
        let adapter = Adapter::new(file_system);
        let greeted = catch_unwind(AssertUnwindSafe(|| fuser::Session::from_fd(adapter, fd, acl, config)));
        let transport =
            greeted.unwrap_or_else(|panic| Err(io::Error::other(panic_text(&*panic).to_owned())))?;
        let notifier = transport.notifier();
        let end = Arc::new(End::default());
        let ended = Arc::clone(&end);
        std::thread::Builder::new().name("fuse-session".to_owned()).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| transport.run()));
            ended.set(result.unwrap_or_else(|panic| Err(io::Error::other(panic_text(&*panic).to_owned()))));
        })?;
        // Should this fail, the drop of `session` detaches the mount and so ends the threads.
        let session = Session { mountpoint: mountpoint.to_owned(), device, notifier, end };
        session.raise_readahead(options.readahead_bytes);
        rustix::fs::stat(mountpoint)?;
        Ok(session)
    }

    /// Where it was mounted: absolute, without links.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Unmounts and waits until no request can come any more. Already unmounted from outside is success.
    ///
    /// Never call this from within a request: unmounting sends requests.
    ///
    /// # Errors
    /// `ResourceBusy` if a process still uses the mount, which then goes on; the operating system's otherwise.
    pub fn unmount(&self) -> io::Result<()> {
        let clock = SystemClock;
        let give_up = clock.monotonic() + BUSY_PATIENCE;
        while let Some(entry) = self.entry()? {
            match mounting::unmount(&entry.mountpoint, self.device, false) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && clock.monotonic() < give_up => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                // Someone else was faster.
                Err(_) if self.entry()?.is_none() => break,
                Err(error) => return Err(error),
            }
        }
        // The mount may live on in another namespace or under a lazy unmount; its name here is gone, which is
        // what was asked.
        if !self.wait_timeout(END_PATIENCE) {
            tracing::warn!("{} is unmounted but still in use elsewhere", self.mountpoint.display());
        }
        Ok(())
    }

    /// Takes the mount out of the tree at once; who has it in use goes on until the last of them is done.
    ///
    /// # Errors
    /// The operating system's.
    pub fn detach(&self) -> io::Result<()> {
        match self.entry()? {
            Some(entry) => mounting::unmount(&entry.mountpoint, self.device, true),
            None => Ok(()),
        }
    }

    /// Waits until the session ended, by whoever's hand (`umount`, `fusermount3 -u`, [`Session::unmount`]).
    ///
    /// # Errors
    /// What ended it if that was not an unmount.
    pub fn wait(&self) -> io::Result<()> {
        let mut result = self.end.result.lock();
        while result.is_none() {
            self.end.changed.wait(&mut result);
        }
        match &*result {
            Some(Err(error)) => Err(io::Error::new(error.kind(), Arc::clone(error))),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Waits at most `patience`; returns whether the session ended.
    #[must_use]
    pub fn wait_timeout(&self, patience: Duration) -> bool {
        let mut result = self.end.result.lock();
        self.end.changed.wait_while_for(&mut result, |result| result.is_none(), patience);
        result.is_some()
    }

    /// Whether the session ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.end.result.lock().is_some()
    }

    /// For telling the kernel what it may no longer keep.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        Notifier(self.notifier.clone())
    }

    /// Our mount in this namespace: at its mountpoint, or where it was moved to.
    fn entry(&self) -> io::Result<Option<MountEntry>> {
        if self.is_ended() {
            return Ok(None);
        }
        let mut ours: Vec<_> = mounts()?.into_iter().filter(|entry| entry.device == self.device).collect();
        let at = ours.iter().rposition(|entry| entry.mountpoint == self.mountpoint);
        Ok(match at {
            Some(index) => Some(ours.swap_remove(index)),
            None => ours.pop(),
        })
    }

    /// The kernel caps what a FUSE server asks for; root may raise it afterwards.
    fn raise_readahead(&self, bytes: u64) {
        let (major, minor) = self.device;
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        if let Err(error) = std::fs::write(&path, (bytes / 1024).to_string()) {
            tracing::debug!("read-ahead stays as it is: {path}: {error}");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!("cannot detach {}: {error}", self.mountpoint.display());
        }
    }
}

fn config(options: &SessionOptions) -> (SessionACL, fuser::Config) {
    let mut config = fuser::Config::default();
    config.n_threads = Some(options.threads.max(1));
    config.clone_fd = mounting::can_clone();
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    (config.acl, config)
}

/// Tells the kernel what it may no longer keep.
///
/// Never call this from within a request for the same node or directory: both would wait for each other.
#[derive(Clone)]
pub struct Notifier(fuser::Notifier);

impl Notifier {
    /// Drops attributes and cached pages of a node from `offset` on; `len` 0 means to the end.
    ///
    /// # Errors
    /// The kernel's; a node it does not know is fine.
    pub fn invalidate_node(&self, node: u64, offset: u64, len: u64) -> io::Result<()> {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.0.inval_inode(INodeNo(node), signed(offset), signed(len))
    }

    /// Drops a name.
    ///
    /// # Errors
    /// The kernel's; a name it does not know is fine.
    pub fn invalidate_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        self.0.inval_entry(INodeNo(parent), OsStr::from_bytes(name))
    }
}
