//! A writable mount over a small base, in this process, gone when it is dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pitgate::io::fuse::{Session, SessionOptions};
use pitgate::io::{Clock, RealDisk, SystemClock};
use pitgate::mount::{Export, FuseExport};
use pitgate::overlay::{NewFile, Overlay, OverlayIdentity, OverlayOptions};
use pitgate::types::{FileKind, Image, Position};
use tempfile::TempDir;

use crate::base::{EmptyImage, FilledImage, ROOT};

/// Scratch space, an overlay, and its mount.
pub struct Stage {
    pub scratch: TempDir,
    /// `None` only while it is opened again.
    overlay: Option<Arc<Overlay>>,
    base: Arc<dyn Image>,
    session: Option<Session>,
}

/// What the base holds besides the root: `base.dat`, of this many bytes, in pages that differ.
pub const BASE_BYTES: usize = 300_000;

pub fn base_byte(offset: usize) -> u8 {
    (offset / 4096) as u8 ^ (offset % 251) as u8
}

impl Stage {
    /// A writable mount.
    pub fn new() -> Stage {
        let scratch = tempfile::tempdir().expect("scratch space");
        std::fs::create_dir(scratch.path().join("mnt")).expect("scratch space");
        let below = make_overlay(scratch.path(), "below", Arc::new(EmptyImage));
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let new = |kind, mode| NewFile { kind, mode, uid: owner.0, gid: owner.1, rdev: 0, target: b"" };
        let file = below.make(ROOT, b"base.dat", &new(FileKind::Regular, 0o644)).expect("an empty base");
        let bytes: Vec<u8> = (0..BASE_BYTES).map(base_byte).collect();
        below.write(file.file, 0, &bytes).expect("scratch space");
        let directory =
            below.make(ROOT, b"basedir", &new(FileKind::Directory, 0o755)).expect("an empty base");
        for number in 0..2000 {
            let name = format!("file{number:05}");
            below
                .make(directory.file, name.as_bytes(), &new(FileKind::Regular, 0o644))
                .expect("scratch space");
        }
        let base: Arc<dyn Image> = Arc::new(FilledImage(below));
        let overlay = make_overlay(scratch.path(), "overlay", Arc::clone(&base));
        let mut stage = Stage { scratch, overlay: Some(overlay), base, session: None };
        stage.mount();
        stage
    }

    /// The base alone, read-only.
    pub fn read_only() -> Stage {
        let mut stage = Stage::new();
        stage.unmount();
        stage.serve(Export::read_only(Arc::clone(&stage.base), stage.scratch.path().to_owned()));
        stage
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join("mnt").join(name)
    }

    fn mount(&mut self) {
        self.serve(Export::writable(Arc::clone(self.overlay()), self.scratch.path().to_owned()));
    }

    fn serve(&mut self, export: Export) {
        let options = SessionOptions {
            name: "pitgate-test".to_owned(),
            allow_other: rustix::process::geteuid().is_root(),
            read_only: export.is_read_only(),
            ..SessionOptions::default()
        };
        let served = Arc::new(FuseExport::new(Arc::new(export), Arc::new(SystemClock)));
        let session = Session::mount(served, &self.path(""), &options);
        self.session = Some(session.expect("this test needs /dev/fuse and leave to mount"));
    }

    pub fn unmount(&mut self) {
        if let Some(session) = self.session.take() {
            session.unmount().expect("nobody uses the mount");
        }
    }

    /// Unmounts, opens the overlay again from its log, and mounts it.
    pub fn remount(&mut self) {
        self.unmount();
        self.overlay = None;
        self.overlay = Some(reopen_overlay(self.scratch.path(), "overlay", Arc::clone(&self.base)));
        self.mount();
    }

    pub fn overlay(&self) -> &Arc<Overlay> {
        self.overlay.as_ref().expect("the overlay is open")
    }
}

fn identity() -> OverlayIdentity {
    OverlayIdentity { overlay: [5; 16], repository: [6; 16], source: [7; 16], position: Position(8) }
}

fn make_overlay(scratch: &Path, name: &str, base: Arc<dyn Image>) -> Arc<Overlay> {
    let disk = Arc::new(RealDisk::open(scratch).expect("scratch space"));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let made = Overlay::create(disk, Path::new(name), base, identity(), OverlayOptions::default(), clock);
    Arc::new(made.expect("scratch space"))
}

fn reopen_overlay(scratch: &Path, name: &str, base: Arc<dyn Image>) -> Arc<Overlay> {
    let disk = Arc::new(RealDisk::open(scratch).expect("scratch space"));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let opened = Overlay::open(disk, Path::new(name), base, identity(), OverlayOptions::default(), clock);
    let (overlay, recovery) = opened.expect("the overlay was left in good order");
    assert_eq!(recovery.discarded_bytes, 0);
    Arc::new(overlay)
}
