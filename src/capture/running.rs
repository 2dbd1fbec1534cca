//! A capture from its start to its stop.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;
use rustix::time::ClockId;

use super::backing::{self, Descriptors, InodeKey};
use super::catalogue::Known;
use super::compare::Comparison;
use super::node::Node;
use super::pass::{Counters, PassThrough, Shared};
use super::pending::Pending;
use super::recorder::Recorder;
use super::stamps::Stamps;
use super::start::{self, OpenRoot, SUBTYPE};
use super::status::{CaptureStatus, RootStatus};
use super::table::Table;
use super::users::{self, Hold};
use super::{CaptureConfig, CaptureError, Catalogue, Resume, RootConfig, image};
use crate::io::Clock;
use crate::io::fuse::{Session, SessionOptions};
use crate::types::{ChangeSink, FileId, Image, Mark, Position, SinkError};

/// How often the journal hears that capture is alive.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Threads of each root: an application's sync holds one for as long as storage takes, and reads must go on.
const THREADS: usize = 16;
/// How often [`Capture::wait`] looks whether the roots are still mounted.
const LOOK: Duration = Duration::from_millis(200);

/// A running capture; dropping it without [`Capture::stop`] detaches the mounts and leaves no clean stop.
pub struct Capture {
    source: String,
    shared: Arc<Shared>,
    roots: Vec<Running>,
    warnings: Vec<String>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    signals: Arc<Signals>,
    /// Names that this source has given, in this life and before.
    bookmarks: Mutex<BTreeSet<String>>,
}

/// One root, served.
struct Running {
    config: RootConfig,
    session: Session,
    /// The device number of files seen through the mount.
    device: u64,
    /// Holds the lock on the backing directory.
    fd: OwnedFd,
}

/// What is asked of a capture from other threads.
#[derive(Default)]
struct Signals {
    asked: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Default)]
struct Asked {
    stop: bool,
    end_heartbeats: bool,
}

/// What a clean stop leaves.
#[derive(Debug)]
pub struct Stopped {
    /// The last position before the clean stop's; `None` if recording had failed.
    pub position: Option<Position>,
    /// For the next start; `None` if it could not vouch for every file.
    pub catalogue: Option<Catalogue>,
}

impl Capture {
    /// Compares the names of the backing files with the journal's, records what differs, and serves every
    /// mountpoint when it returns. The bytes are compared in the background; points exist from then on.
    ///
    /// # Errors
    /// `CaptureError`; nothing is mounted then.
    pub fn start(
        config: CaptureConfig,
        sink: Arc<dyn ChangeSink>,
        resume: Resume,
        clock: Arc<dyn Clock>,
    ) -> Result<Capture, CaptureError> {
        let roots = start::open_roots(&config)?;
        let shared = Arc::new(Shared {
            table: Table::new(resume.namespace.next_file(), start::descriptors_to_keep()),
            recorder: Recorder::new(sink, config.durability, config.on_failure),
            descriptors: Descriptors::new().map_err(|e| system("open /proc/self/fd", e))?,
            pending: Pending::default(),
            stamps: Stamps::new(Arc::clone(&clock)),
            counters: Counters::default(),
        });
        let began = clock.monotonic();
        let Resume { namespace, image, catalogue, bookmarks } = resume;
        let mut comparison = Comparison::new(&shared, namespace, image.is_some(), catalogue.as_ref());
        let mut nodes = Vec::with_capacity(roots.len());
        for root in &roots {
            nodes.push(comparison.root(&root.config, root.fd.as_fd())?);
        }
        let configs: Vec<RootConfig> = roots.iter().map(|root| root.config.clone()).collect();
        comparison.finish(&configs)?;
        let warnings = std::mem::take(&mut comparison.warnings);
        drop(comparison);
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        tracing::info!(
            "compared {} files in {:?}",
            shared.table.len(),
            clock.monotonic().saturating_sub(began)
        );
        refuse_users(&shared, &roots)?;
        let roots = serve(&config, &shared, roots, nodes)?;
        let signals = Arc::new(Signals::default());
        let threads = start_threads(&shared, image, &signals)?;
        let bookmarks = Mutex::new(bookmarks);
        Ok(Capture { source: config.source, shared, roots, warnings, threads, signals, bookmarks })
    }

    #[must_use]
    pub fn status(&self) -> CaptureStatus {
        let recorder = &self.shared.recorder;
        let writer = recorder.sink().status();
        let counters = &self.shared.counters;
        let cpu = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
        CaptureStatus {
            source: self.source.clone(),
            pid: rustix::process::getpid().as_raw_nonzero().get().unsigned_abs(),
            roots: self.roots.iter().map(Running::status).collect(),
            recording: recorder.is_recording() && writer.failure.is_none(),
            failure: recorder.failure().or(writer.failure),
            image: self.shared.pending.progress(),
            written: writer.written,
            written_time: writer.written_time,
            durable: writer.durable,
            lag_ms: millis(writer.lag),
            queue_bytes: writer.queue_bytes,
            queue_bytes_max: writer.queue_bytes_max,
            captured_bytes: writer.captured_bytes,
            stored_bytes: writer.stored_bytes,
            journal_syncs: writer.syncs,
            cpu_ms: millis(Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec as u32)),
            files: self.shared.table.len() as u64,
            reads: counters.reads.load(Ordering::Relaxed),
            writes: counters.writes.load(Ordering::Relaxed),
            syncs: counters.syncs.load(Ordering::Relaxed),
            warnings: self.warnings.clone(),
        }
    }

    /// Records a bookmark and returns once it is durable.
    ///
    /// # Errors
    /// `CaptureError::NoPointsYet` before the image is complete, `BookmarkExists`; the sink's failure.
    pub fn bookmark(&self, name: &str) -> Result<Position, CaptureError> {
        if !self.shared.pending.progress().complete {
            return Err(CaptureError::NoPointsYet);
        }
        // Held to the end, so that of two who ask for one name only one gets it.
        let mut bookmarks = self.bookmarks.lock();
        if bookmarks.contains(name) {
            return Err(CaptureError::BookmarkExists { name: name.to_owned() });
        }
        let sink = self.shared.recorder.sink();
        let position =
            sink.append(crate::types::ChangeBody::Mark(Mark::Bookmark { name: name.to_owned() }))?;
        sink.commit(position)?;
        bookmarks.insert(name.to_owned());
        Ok(position)
    }

    /// Makes everything recorded so far readable.
    ///
    /// # Errors
    /// The sink's failure.
    pub fn seal(&self) -> Result<Position, SinkError> {
        self.shared.settle_stamps();
        self.shared.recorder.sink().seal()
    }

    /// Waits until a stop is asked for ([`Capture::request_stop`]) or every root was unmounted from outside.
    pub fn wait(&self) {
        let mut asked = self.signals.asked.lock();
        while !asked.stop && !self.roots.iter().all(|root| root.session.is_ended()) {
            self.signals.changed.wait_for(&mut asked, LOOK);
        }
    }

    /// Ends [`Capture::wait`]; for any thread.
    pub fn request_stop(&self) {
        self.signals.asked.lock().stop = true;
        self.signals.changed.notify_all();
    }

    /// Whether the image is complete, waiting up to `patience` for it.
    #[must_use]
    pub fn wait_for_image(&self, patience: Duration) -> bool {
        self.shared.pending.wait_complete(patience)
    }

    /// Ends in good order: no root is unmounted if any is in use. The sink is left open: the caller closes
    /// it, which marks the clean stop.
    ///
    /// # Errors
    /// `CaptureError::Busy` names who uses a mountpoint; everything then goes on, and [`Capture::wait`] waits
    /// for another request.
    pub fn stop(&self) -> Result<Stopped, CaptureError> {
        if let Err(error) = self.unmount_all() {
            self.signals.asked.lock().stop = false;
            return Err(error);
        }
        self.end_threads();
        self.shared.settle_stamps();
        let recorder = &self.shared.recorder;
        // Bytes that only the kernel has could be lost with the power while their times were kept.
        let synced = self.sync_roots();
        let position = recorder.sink().written();
        // Nothing is served any more: whatever fails from here on, there is no going on.
        if !recorder.make_durable(position) {
            return Ok(Stopped { position: None, catalogue: None });
        }
        let complete = synced && self.shared.pending.progress().complete;
        let catalogue = if complete { self.catalogue(position) } else { None };
        Ok(Stopped { position: Some(position), catalogue })
    }

    /// Unmounts every root, unless any is in use.
    fn unmount_all(&self) -> Result<(), CaptureError> {
        self.roots.iter().try_for_each(Running::refuse_busy)?;
        self.roots.iter().try_for_each(Running::unmount)
    }

    /// Whether every backing file system holds all that was written.
    fn sync_roots(&self) -> bool {
        self.roots.iter().all(|root| match rustix::fs::syncfs(&root.fd) {
            Ok(()) => true,
            Err(errno) => {
                let path = root.config.data_dir.display();
                tracing::error!("the next start reads all files: cannot sync {path}: {errno}");
                false
            }
        })
    }

    /// What every backing file is now; `None` if that cannot be had.
    fn catalogue(&self, position: Position) -> Option<Catalogue> {
        let bindings: HashMap<InodeKey, FileId> = self.shared.table.bindings().into_iter().collect();
        let mut catalogue = Catalogue { position, files: HashMap::new() };
        for root in &self.roots {
            if let Err(errno) = note_files(&root.fd, &bindings, &mut catalogue) {
                let path = root.config.data_dir.display();
                tracing::warn!("the next start reads all files: cannot list {path}: {errno}");
                return None;
            }
        }
        Some(catalogue)
    }

    fn end_threads(&self) {
        self.shared.pending.end();
        self.signals.asked.lock().end_heartbeats = true;
        self.signals.changed.notify_all();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of capture panicked");
            }
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end_threads();
    }
}

impl Running {
    fn status(&self) -> RootStatus {
        RootStatus {
            label: self.config.label.clone(),
            data_dir: self.config.data_dir.clone(),
            mountpoint: self.config.mountpoint.clone(),
            serving: !self.session.is_ended(),
        }
    }

    fn users(&self) -> Option<String> {
        users::users(|key, _| key.device == self.device)
    }

    fn refuse_busy(&self) -> Result<(), CaptureError> {
        match if self.session.is_ended() { None } else { self.users() } {
            Some(users) => Err(CaptureError::Busy { mountpoint: self.config.mountpoint.clone(), users }),
            None => Ok(()),
        }
    }

    fn unmount(&self) -> Result<(), CaptureError> {
        let mountpoint = self.config.mountpoint.clone();
        self.session.unmount().map_err(|error| match error.kind() {
            std::io::ErrorKind::ResourceBusy => CaptureError::Busy {
                users: self.users().unwrap_or_else(|| "a process that cannot be seen from here".to_owned()),
                mountpoint,
            },
            _ => CaptureError::Unmount { mountpoint, source: Arc::new(error) },
        })
    }
}

/// Refuses to start while somebody would write past us.
fn refuse_users(shared: &Shared, roots: &[OpenRoot]) -> Result<(), CaptureError> {
    let over_itself = roots.iter().any(|root| root.config.data_dir == root.config.mountpoint);
    let holds = |key: InodeKey, hold: Hold| (hold == Hold::Open || over_itself) && shared.table.knows(key);
    match users::users(holds) {
        Some(users) => {
            let path = roots.first().map(|root| root.config.data_dir.clone()).unwrap_or_default();
            Err(CaptureError::DataDirInUse { path, users })
        }
        None => Ok(()),
    }
}

fn serve(
    config: &CaptureConfig,
    shared: &Arc<Shared>,
    roots: Vec<OpenRoot>,
    nodes: Vec<Arc<Node>>,
) -> Result<Vec<Running>, CaptureError> {
    let mut running = Vec::with_capacity(roots.len());
    for (root, node) in roots.into_iter().zip(nodes) {
        let options = SessionOptions {
            name: format!("pitgate:{}", config.source),
            subtype: SUBTYPE.to_owned(),
            threads: if config.threads == 0 { THREADS } else { config.threads },
            // Only root may let others in without the system's configuration allowing it.
            allow_other: rustix::process::geteuid().is_root(),
            default_permissions: true,
            ..SessionOptions::default()
        };
        let mountpoint = root.config.mountpoint.clone();
        let failed = |error: std::io::Error| CaptureError::Mount {
            mountpoint: mountpoint.clone(),
            reason: mount_problem(&error),
        };
        let file_system = Arc::new(PassThrough::new(Arc::clone(shared), node));
        let session = Session::mount(file_system, &mountpoint, &options).map_err(failed)?;
        let device = rustix::fs::stat(&mountpoint).map_err(|errno| failed(errno.into()))?.st_dev;
        running.push(Running { config: root.config, session, device, fd: root.fd });
    }
    Ok(running)
}

fn mount_problem(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("{error}: is /dev/fuse there (modprobe fuse)?"),
        std::io::ErrorKind::PermissionDenied => {
            format!("{error}: run as root, or install fuse3 and own the mountpoint")
        }
        _ => error.to_string(),
    }
}

fn start_threads(
    shared: &Arc<Shared>,
    image: Option<Arc<dyn Image>>,
    signals: &Arc<Signals>,
) -> Result<Mutex<Vec<JoinHandle<()>>>, CaptureError> {
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(|error| CaptureError::System { doing: "start a thread", source: Arc::new(error) })
    };
    let reader = Arc::clone(shared);
    let (beating, asked) = (Arc::clone(shared), Arc::clone(signals));
    Ok(Mutex::new(vec![
        spawn("capture-image", Box::new(move || image::read_pending(&reader, image.as_ref())))?,
        spawn("capture-pulse", Box::new(move || beat(&beating, &asked)))?,
    ]))
}

/// Records heartbeats, so that "nothing changed" and "capture was dead" can be told apart, and bounds what an
/// asynchronous journal may lose.
fn beat(shared: &Shared, signals: &Signals) {
    loop {
        {
            let mut asked = signals.asked.lock();
            let end = |asked: &mut Asked| !asked.end_heartbeats;
            signals.changed.wait_while_for(&mut asked, end, HEARTBEAT);
            if asked.end_heartbeats {
                return;
            }
        }
        shared.settle_stamps();
        if let Ok(position) = shared.recorder.record_mark(Mark::Heartbeat) {
            shared.recorder.request_commit(position);
        }
    }
}

/// Notes the state of every regular file below a directory.
fn note_files(
    directory: impl AsFd,
    bindings: &HashMap<InodeKey, FileId>,
    catalogue: &mut Catalogue,
) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let listed = rustix::fs::openat(directory.as_fd(), ".", flags, rustix::fs::Mode::empty())?;
    for name in backing::list_names(&listed)? {
        let stat = rustix::fs::statat(&listed, &name[..], AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = rustix::fs::openat(&listed, &name[..], flags, rustix::fs::Mode::empty())?;
                note_files(&inner, bindings, catalogue)?;
            }
            FileType::RegularFile => {
                if let Some(&file) = bindings.get(&InodeKey::of(&stat)) {
                    catalogue.files.insert(file, Known::of(&stat));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn system(doing: &'static str, errno: Errno) -> CaptureError {
    CaptureError::System { doing, source: Arc::new(errno.into()) }
}

/// Whether a capture serves this mountpoint, by the table of mounts.
#[must_use]
pub fn is_captured(mountpoint: &Path) -> bool {
    crate::io::mounted_on(mountpoint)
        .is_ok_and(|entry| entry.is_some_and(|entry| entry.kind == format!("fuse.{SUBTYPE}")))
}
