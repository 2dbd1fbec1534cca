//! A capture of a temporary directory, gone with the test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pitgate::capture::{Capture, CaptureConfig, CaptureError, Durability, OnFailure, Resume, RootConfig};
use pitgate::io::{Clock, SystemClock};

use crate::recording::{RecordedImage, RecordingSink, Reference};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Directories for one root named `data`.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Default for Place {
    fn default() -> Place {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("data")).unwrap();
        std::fs::create_dir(directory.path().join("mnt")).unwrap();
        Place { directory }
    }
}

impl Place {
    pub fn new() -> Place {
        Place::default()
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// The directory of everything else of the test.
    pub fn above(&self) -> &Path {
        self.directory.path()
    }

    /// Lets other users reach the directories, which lie in one of this user's alone.
    pub fn open_to_all(&self) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(self.above(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(self.data(), std::fs::Permissions::from_mode(0o777)).unwrap();
    }

    pub fn root(&self) -> RootConfig {
        RootConfig { label: "data".into(), data_dir: self.data(), mountpoint: self.mountpoint() }
    }

    pub fn config(&self) -> CaptureConfig {
        CaptureConfig::new("test", vec![self.root()])
    }
}

/// A running capture.
pub struct Mounted {
    pub place: Place,
    pub sink: Arc<RecordingSink>,
    pub capture: Option<Arc<Capture>>,
    pub base: Reference,
}

impl Mounted {
    pub fn new() -> Mounted {
        Mounted::over(Place::new())
    }

    /// Starts on what is there.
    pub fn over(place: Place) -> Mounted {
        let config = place.config();
        Mounted::with(place, config)
    }

    pub fn failing(on_failure: OnFailure) -> Mounted {
        let place = Place::new();
        let config = CaptureConfig { on_failure, ..place.config() };
        Mounted::with(place, config)
    }

    pub fn asynchronous() -> Mounted {
        let place = Place::new();
        let config = CaptureConfig { durability: Durability::Async, ..place.config() };
        Mounted::with(place, config)
    }

    pub fn with(place: Place, config: CaptureConfig) -> Mounted {
        let sink = Arc::new(RecordingSink::default());
        let capture = start(config, &sink, Resume::default()).expect("capture starts");
        Mounted { place, sink, capture: Some(Arc::new(capture)), base: Reference::default() }
    }

    /// Starts again after a stop, on what was recorded so far.
    pub fn again(place: Place, base: Reference, catalogue: Option<pitgate::capture::Catalogue>) -> Mounted {
        let sink = Arc::new(RecordingSink::default());
        let image = Arc::new(RecordedImage(Arc::new(base.clone())));
        let resume =
            Resume { namespace: base.namespace.clone(), image: Some(image), catalogue, ..Resume::default() };
        let capture = start(place.config(), &sink, resume).expect("capture starts again");
        Mounted { place, sink, capture: Some(Arc::new(capture)), base }
    }

    pub fn capture(&self) -> &Arc<Capture> {
        self.capture.as_ref().expect("not stopped yet")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.mountpoint().join(name)
    }

    pub fn backing(&self, name: &str) -> PathBuf {
        self.place.data().join(name)
    }

    /// Everything recorded in this and earlier lives.
    pub fn replay(&self) -> Reference {
        let mut reference = self.base.clone();
        for change in self.sink.changes() {
            reference.apply(&change);
        }
        reference
    }

    pub fn wait_for_image(&self) {
        assert!(self.capture().wait_for_image(PATIENCE), "{:?}", self.capture().status());
    }

    /// Asserts that what was recorded equals the backing files.
    pub fn assert_twin(&self) {
        self.wait_for_image();
        self.capture().seal().expect("the sink is alive");
        let reference = self.replay();
        assert!(reference.covered);
        reference.assert_equals("data", &self.place.data());
    }

    /// Stops in good order and asserts the same once more.
    pub fn stop(mut self) -> (Place, Reference, Option<pitgate::capture::Catalogue>) {
        self.wait_for_image();
        let capture = self.capture.take().expect("not stopped yet");
        let stopped = capture.stop().expect("nothing uses the mount");
        let mut reference = self.base.clone();
        for change in self.sink.changes() {
            reference.apply(&change);
        }
        reference.assert_equals("data", &self.place.data());
        reference.covered = false;
        (std::mem::take(&mut self.place), reference, stopped.catalogue)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // After a failed test something may hold the capture; its mount must not stay.
        drop(self.capture.take());
        let mountpoint = self.place.mountpoint();
        if matches!(pitgate::io::mounted_on(&mountpoint), Ok(Some(_))) {
            let flags = rustix::mount::UnmountFlags::DETACH;
            rustix::mount::unmount(&mountpoint, flags).expect("a left mount can be detached");
        }
    }
}

pub fn start(
    config: CaptureConfig,
    sink: &Arc<RecordingSink>,
    resume: Resume,
) -> Result<Capture, CaptureError> {
    Capture::start(config, Arc::clone(sink) as _, resume, Arc::new(SystemClock))
}

/// Waits until `done`, and fails the test if that takes too long.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let clock = SystemClock;
    let give_up = clock.monotonic() + PATIENCE;
    while !done() {
        assert!(clock.monotonic() < give_up, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}
