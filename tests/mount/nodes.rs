//! How long a file lives that the kernel knows by its node.

use std::sync::Arc;

use pitgate::io::SystemClock;
use pitgate::io::fuse::{Caller, Errno, FileSystem};
use pitgate::mount::{Export, FuseExport};
use pitgate::types::FileKind;

use crate::stage::Stage;

#[test]
fn a_late_forget_takes_no_open_file_away() {
    let stage = Stage::new();
    let export = Export::writable(Arc::clone(stage.overlay()), stage.path(""));
    let served = FuseExport::new(Arc::new(export), Arc::new(SystemClock));
    let caller = Caller { uid: 0, gid: 0, pid: 1 };
    let root = 1;
    let node = served.mknod(&caller, root, b"open", FileKind::Regular, 0o644, 0).unwrap().attributes.node;

    // The kernel drops the file, and before it says so it looks it up and opens it again.
    assert_eq!(served.lookup(&caller, root, b"open").unwrap().attributes.node, node);
    served.unlink(&caller, root, b"open").unwrap();
    served.forget(node, 1);
    assert_eq!(served.getattr(&caller, node, None).unwrap().0.links, 0);

    served.forget(node, 1);
    assert_eq!(served.getattr(&caller, node, None).unwrap_err(), Errno::STALE);
}
