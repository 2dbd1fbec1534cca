//! The log of an overlay as version 1 writes it, pinned: it is written the same and read the same for ever.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pitgate::io::{Clock, RealDisk, SimClock};
use pitgate::overlay::{
    NewFile, Overlay, OverlayError, OverlayIdentity, OverlayOptions, RenameMode, XattrMode,
};
use pitgate::types::{AttributeChange, FileKind, Image, Position, Time};

use crate::base::{EmptyImage, ROOT};

const IDENTITY: OverlayIdentity = OverlayIdentity {
    overlay: [0xa1; 16],
    repository: [0xb2; 16],
    source: [0xc3; 16],
    position: Position(42),
};

fn pinned(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/overlay-1").join(name)
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SimClock::ticking(Time(1_790_000_000_000_000_000), Duration::from_millis(1)))
}

/// One change of each kind.
fn write_log(scratch: &Path) -> Vec<u8> {
    let disk = Arc::new(RealDisk::open(scratch).unwrap());
    let options = OverlayOptions::default();
    let made = Overlay::create(disk, Path::new("o"), Arc::new(EmptyImage), IDENTITY, options, clock());
    let overlay = made.unwrap();
    let new = |kind, target| NewFile { kind, mode: 0o640, uid: 1, gid: 2, rdev: 0, target };
    let directory = overlay.make(ROOT, b"directory", &new(FileKind::Directory, b"")).unwrap().file;
    let file = overlay.make(directory, b"file", &new(FileKind::Regular, b"")).unwrap().file;
    overlay.write(file, 5000, b"some bytes").unwrap();
    overlay.write(file, 0, &[b'x'; 4096]).unwrap();
    overlay.sync().unwrap();
    overlay.zero(file, 100, 50, true).unwrap();
    overlay.truncate(file, 5003).unwrap();
    overlay.allocate(file, 0, 20_000, false).unwrap();
    overlay.make(ROOT, b"link", &new(FileKind::Symlink, b"directory/file")).unwrap();
    overlay.link(file, ROOT, b"second").unwrap();
    let change = AttributeChange { mode: Some(0o600), mtime: Some(Time(5)), ..AttributeChange::default() };
    overlay.set_attributes(file, change).unwrap();
    overlay.set_xattr(file, b"user.a", b"value", XattrMode::Any).unwrap();
    overlay.set_xattr(file, b"user.b", b"value", XattrMode::Any).unwrap();
    overlay.remove_xattr(file, b"user.b").unwrap();
    overlay.rename(ROOT, b"second", directory, b"third", RenameMode::Replace).unwrap();
    overlay.unlink(ROOT, b"link").unwrap();
    overlay.close().unwrap();
    std::fs::read(scratch.join("o/overlay.log")).unwrap()
}

/// Opens these bytes as an overlay's log.
fn open(bytes: &[u8]) -> Result<(Overlay, u64), OverlayError> {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir(scratch.path().join("o")).unwrap();
    std::fs::write(scratch.path().join("o/overlay.log"), bytes).unwrap();
    let disk = Arc::new(RealDisk::open(scratch.path()).unwrap());
    let options = OverlayOptions::default();
    let opened = Overlay::open(disk, Path::new("o"), Arc::new(EmptyImage), IDENTITY, options, clock());
    opened.map(|(overlay, recovery)| (overlay, recovery.discarded_bytes))
}

#[test]
fn the_log_of_an_overlay_is_written_as_version_1() {
    let scratch = tempfile::tempdir().unwrap();
    let written = write_log(scratch.path());
    if std::env::var_os("PITGATE_PIN").is_some() {
        std::fs::create_dir_all(pinned("")).unwrap();
        std::fs::write(pinned("sound.log"), &written).unwrap();
        std::fs::write(pinned("torn.log"), &written[..written.len() - 60]).unwrap();
        let mut damaged = written.clone();
        // Within the first record, which the close says was durable.
        damaged[4096 + 60] ^= 1;
        std::fs::write(pinned("damaged.log"), damaged).unwrap();
    }
    let expected = std::fs::read(pinned("sound.log")).unwrap();
    let part = written.iter().zip(&expected).position(|(written, expected)| written != expected);
    assert_eq!((written.len(), part), (expected.len(), None), "first difference");
}

#[test]
fn pinned_logs_of_overlays_open_as_ever() {
    let (overlay, discarded_bytes) = open(&std::fs::read(pinned("sound.log")).unwrap()).unwrap();
    assert_eq!(discarded_bytes, 0);
    let directory = overlay.lookup(ROOT, b"directory").unwrap().unwrap();
    let file = overlay.lookup(directory, b"third").unwrap().unwrap();
    assert_eq!(overlay.lookup(directory, b"file").unwrap(), Some(file));
    assert_eq!(overlay.lookup(ROOT, b"link").unwrap(), None);
    let status = overlay.status(file).unwrap();
    assert_eq!((status.size, status.link_count, status.attributes.mode), (20_000, 2, 0o600));
    assert_eq!(status.attributes.mtime, Time(5));
    assert_eq!(overlay.list_xattrs(file).unwrap(), ["user.a"]);
    let mut bytes = vec![1; 20_000];
    assert_eq!(overlay.read_at(file, 0, &mut bytes).unwrap(), 20_000);
    let mut expected = vec![0; 20_000];
    expected[..4096].fill(b'x');
    expected[100..150].fill(0);
    expected[5000..5003].copy_from_slice(b"som");
    assert!(bytes == expected);

    let (overlay, discarded_bytes) = open(&std::fs::read(pinned("torn.log")).unwrap()).unwrap();
    assert!(discarded_bytes > 0);
    assert_eq!(overlay.lookup(ROOT, b"directory").unwrap(), Some(directory));

    let error = open(&std::fs::read(pinned("damaged.log")).unwrap()).err().unwrap();
    assert!(matches!(&error, OverlayError::Damaged { offset_bytes: 4096, .. }), "{error}");
}

#[test]
fn a_log_of_a_newer_version_is_refused_by_name() {
    let mut bytes = std::fs::read(pinned("sound.log")).unwrap();
    bytes[8] = 2;
    assert!(matches!(open(&bytes).err(), Some(OverlayError::NewerVersion { found: 2, known: 1, .. })));
    assert!(matches!(open(b"something else").err(), Some(OverlayError::Damaged { .. })));
}
