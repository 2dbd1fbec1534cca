//! What must not be, in words for the one who asked, and with nothing left half-made.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use pitgate::capture::{
    Capture, CaptureConfig, CaptureError, ControlClient, ControlError, ControlReply, ControlRequest,
    ControlServer, OnFailure, Resume, RootConfig,
};
use pitgate::types::{ChangeBody, Mark};

use crate::mounted::{Mounted, Place, eventually, start};
use crate::recording::RecordingSink;

fn refused(config: CaptureConfig) -> CaptureError {
    match start(config, &Arc::new(RecordingSink::default()), Resume::default()) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

#[test]
fn missing_directories_are_named() {
    let place = Place::new();
    fs::remove_dir(place.mountpoint()).unwrap();
    let error = refused(place.config());
    assert!(matches!(&error, CaptureError::Missing { what: "mountpoint", .. }), "{error}");
    fs::write(place.mountpoint(), "a file").unwrap();
    assert!(matches!(refused(place.config()), CaptureError::NotADirectory { what: "mountpoint", .. }));
    fs::remove_dir(place.data()).unwrap();
    assert!(matches!(refused(place.config()), CaptureError::Missing { what: "data directory", .. }));
    assert!(matches!(refused(CaptureConfig::new("test", vec![])), CaptureError::NoRoots));
}

#[test]
fn a_mountpoint_with_files_is_refused() {
    let place = Place::new();
    fs::write(place.mountpoint().join("hidden"), "").unwrap();
    assert!(matches!(refused(place.config()), CaptureError::MountpointNotEmpty { .. }));
}

#[test]
fn a_repository_inside_a_root_is_refused() {
    let place = Place::new();
    fs::create_dir(place.data().join("repository")).unwrap();
    let outside = vec![("the repository".to_owned(), place.data().join("repository"))];
    let error = refused(CaptureConfig { outside, ..place.config() });
    assert!(error.to_string().contains("the repository"), "{error}");
    let outside = vec![("the control socket".to_owned(), place.mountpoint().join("not/yet/there"))];
    assert!(matches!(refused(CaptureConfig { outside, ..place.config() }), CaptureError::Nested { .. }));
}

#[test]
fn a_second_capture_of_the_same_directory_is_refused() {
    let mounted = Mounted::new();
    let other = Place::new();
    let root = RootConfig { mountpoint: other.mountpoint(), ..mounted.place.root() };
    let error = refused(CaptureConfig::new("other", vec![root]));
    assert!(matches!(error, CaptureError::AlreadyCaptured { .. }), "{error}");
    let root = RootConfig { data_dir: other.data(), ..mounted.place.root() };
    let error = refused(CaptureConfig::new("other", vec![root]));
    assert!(matches!(error, CaptureError::AlreadyCaptured { .. }), "{error}");
    fs::write(mounted.path("still"), "fine").unwrap();
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn files_already_in_use_are_refused_with_the_process_named() {
    let place = Place::new();
    let held = File::create(place.data().join("held")).unwrap();
    let mut child = Child::holding(&held);
    drop(held);
    let error = refused(place.config());
    let CaptureError::DataDirInUse { users, .. } = &error else { panic!("{error}") };
    assert!(users.contains(&format!("pid {}", child.id())), "{users}");
    child.end();
    let mounted = Mounted::over(place);
    mounted.stop();
}

#[test]
fn a_busy_mount_is_not_stopped_and_goes_on() {
    let mounted = Mounted::new();
    let held = File::create(mounted.path("held")).unwrap();
    let mut child = Child::holding(&held);
    drop(held);
    let error = mounted.capture().stop().unwrap_err();
    let CaptureError::Busy { users, .. } = &error else { panic!("{error}") };
    assert!(users.contains(&format!("pid {}", child.id())), "{users}");
    fs::write(mounted.path("goes"), "on").unwrap();
    mounted.assert_twin();
    child.end();
    mounted.stop();
}

#[test]
fn applications_go_on_without_the_journal() {
    let mounted = Mounted::failing(OnFailure::Continue);
    mounted.wait_for_image();
    let mut file = File::create(mounted.path("file")).unwrap();
    file.write_all(b"recorded").unwrap();
    mounted.sink.fail();
    file.write_all(b", and not recorded").unwrap();
    file.sync_all().unwrap();
    file.set_len(12).unwrap();
    fs::create_dir(mounted.path("directory")).unwrap();
    fs::rename(mounted.path("file"), mounted.path("directory/file")).unwrap();
    fs::remove_file(mounted.path("directory/file")).unwrap();
    drop(file);
    let status = mounted.capture().status();
    assert!(!status.recording);
    assert!(status.failure.unwrap().contains("told to"));
    let stopped = mounted.capture().stop().unwrap();
    assert_eq!(stopped.position, None);
    assert!(stopped.catalogue.is_none());
}

#[test]
fn a_full_disk_refuses_an_allocation_and_points_go_on() {
    let place = Place::new();
    let disk = SmallDisk::at(place.data());
    let mounted = Mounted::over(place);
    mounted.wait_for_image();
    let file = File::create(mounted.path("file")).unwrap();
    file.write_all_at(&[7; 10_000], 0).unwrap();
    let flags = rustix::fs::FallocateFlags::empty();
    assert_eq!(rustix::fs::fallocate(&file, flags, 0, 64 << 20), Err(rustix::io::Errno::NOSPC));
    drop(file);
    let ended = |change: &ChangeBody| matches!(change, ChangeBody::Mark(Mark::CoverageEnd { .. }));
    assert!(!mounted.sink.changes().iter().any(ended), "the file's bytes are as they were");
    mounted.assert_twin();
    let stopped = mounted.stop();
    drop(disk);
    drop(stopped);
}

/// A file system of 2 MiB.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn at(path: std::path::PathBuf) -> SmallDisk {
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=2m", "pitgate-test"]).arg(&path);
        assert!(command.status().unwrap().success(), "root can mount a tmpfs");
        SmallDisk(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_stop_ends_although_the_last_changes_cannot_be_made_durable() {
    let mounted = Mounted::new();
    mounted.wait_for_image();
    fs::write(mounted.path("file"), "perhaps lost").unwrap();
    mounted.sink.fail_commits();
    let stopped = mounted.capture().stop().expect("nothing is served any more, so nothing can go on");
    assert_eq!(stopped.position, None);
    assert!(stopped.catalogue.is_none());
    assert!(!mounted.capture().status().recording);
}

#[test]
fn applications_stop_with_the_journal_if_so_ordered() {
    let mounted = Mounted::failing(OnFailure::Stop);
    mounted.wait_for_image();
    let file = File::create(mounted.path("file")).unwrap();
    file.write_all_at(b"recorded", 0).unwrap();
    mounted.sink.fail();
    eventually("the failure", || {
        !mounted.capture().status().recording || {
            let _outcome = file.write_all_at(b"x", 0);
            false
        }
    });
    let eio = |outcome: std::io::Result<()>| {
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EIO));
    };
    eio(file.write_all_at(b"not written", 0));
    eio(fs::create_dir(mounted.path("directory")));
    eio(fs::remove_file(mounted.path("file")));
    assert_eq!(fs::read(mounted.path("file")).unwrap().len(), 8);
    drop(file);
    mounted.capture().stop().unwrap();
}

#[test]
fn mounted_over_itself_the_directory_is_captured_and_given_back() {
    let place = Place::new();
    fs::write(place.data().join("before"), "as it was").unwrap();
    let root = RootConfig { mountpoint: place.data(), ..place.root() };
    let sink = Arc::new(RecordingSink::default());
    let capture = start(CaptureConfig::new("over", vec![root]), &sink, Resume::default()).unwrap();
    assert!(pitgate::capture::is_captured(&place.data()));
    assert_eq!(fs::read_to_string(place.data().join("before")).unwrap(), "as it was");
    fs::write(place.data().join("after"), "through the mount").unwrap();
    assert!(capture.wait_for_image(crate::mounted::PATIENCE));
    capture.stop().unwrap();
    assert!(!pitgate::capture::is_captured(&place.data()));
    sink.replay().assert_equals("data", &place.data());
}

#[test]
fn two_roots_share_one_journal_and_their_links() {
    let (one, two) = (Place::new(), Place::new());
    fs::write(one.data().join("file"), "shared").unwrap();
    fs::hard_link(one.data().join("file"), two.data().join("other name")).unwrap();
    let roots = vec![
        RootConfig { label: "one".into(), ..one.root() },
        RootConfig { label: "two".into(), ..two.root() },
    ];
    let sink = Arc::new(RecordingSink::default());
    let capture = start(CaptureConfig::new("both", roots), &sink, Resume::default()).unwrap();
    fs::write(two.mountpoint().join("second"), "in the second root").unwrap();
    fs::write(one.mountpoint().join("first"), "in the first root").unwrap();
    let across = fs::rename(one.mountpoint().join("first"), two.mountpoint().join("first"));
    assert_eq!(across.unwrap_err().raw_os_error(), Some(libc::EXDEV));
    assert!(capture.wait_for_image(crate::mounted::PATIENCE));
    capture.stop().unwrap();
    sink.replay().assert_equals("one", &one.data());
    sink.replay().assert_equals("two", &two.data());
}

#[test]
fn links_from_outside_the_roots_are_reported() {
    let place = Place::new();
    fs::write(place.data().join("file"), "x").unwrap();
    fs::hard_link(place.data().join("file"), place.data().parent().unwrap().join("outside")).unwrap();
    let mounted = Mounted::over(place);
    let warnings = mounted.capture().status().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("outside the roots")), "{warnings:?}");
    mounted.capture().stop().unwrap();
}

#[test]
fn the_control_socket_answers() {
    let mounted = Mounted::new();
    mounted.wait_for_image();
    let directory = tempfile::tempdir().unwrap();
    // Longer than a socket's address may be.
    let state = directory.path().join("s".repeat(120));
    let socket = pitgate::capture::control_socket(&state, &[7; 16], "test");
    let ask = |request: ControlRequest| ControlClient::ask(&socket, &request);
    assert!(matches!(ask(ControlRequest::Status), Err(ControlError::NotRunning { .. })));
    let server = ControlServer::start(&socket, Arc::clone(mounted.capture())).unwrap();
    let again = ControlServer::start(&socket, Arc::clone(mounted.capture()));
    assert!(matches!(again, Err(ControlError::Refused(_))));
    let reply = ask(ControlRequest::Bookmark { name: "before 升级".into() }).unwrap();
    let ControlReply::Bookmarked { position } = reply else { panic!("{reply:?}") };
    let recorded = mounted.sink.changes()[position.0 as usize - 1].clone();
    assert_eq!(recorded, ChangeBody::Mark(Mark::Bookmark { name: "before 升级".into() }));
    assert!(matches!(ask(ControlRequest::Bookmark { name: String::new() }), Err(ControlError::Refused(_))));
    assert!(matches!(ask(ControlRequest::Seal), Ok(ControlReply::Sealed { .. })));
    let Ok(ControlReply::Status(status)) = ask(ControlRequest::Status) else { panic!("no status") };
    assert!(status.image.complete && status.recording);
    assert!(matches!(ask(ControlRequest::Stop), Ok(ControlReply::Stopping)));
    mounted.capture().wait();
    drop(server);
    assert!(matches!(ask(ControlRequest::Status), Err(ControlError::NotRunning { .. })));
    mounted.stop();
}

#[test]
fn heartbeats_tell_that_capture_is_alive() {
    let mounted = Mounted::new();
    let beats = || {
        let beat = |change: &&ChangeBody| matches!(change, ChangeBody::Mark(Mark::Heartbeat));
        mounted.sink.changes().iter().filter(beat).count()
    };
    eventually("a second heartbeat", || beats() >= 2);
    mounted.stop();
}

#[test]
fn an_unmount_from_outside_ends_the_wait() {
    let mounted = Mounted::new();
    mounted.wait_for_image();
    let status = std::process::Command::new("umount").arg(mounted.place.mountpoint()).status().unwrap();
    assert!(status.success());
    mounted.capture().wait();
    let capture: &Capture = mounted.capture();
    assert!(!capture.status().roots[0].serving);
    capture.stop().unwrap();
}

/// A process that holds a file open.
struct Child(std::process::Child);

impl Child {
    fn holding(file: &File) -> Child {
        let held = file.try_clone().unwrap();
        Child(std::process::Command::new("sleep").arg("60").stdin(held).spawn().unwrap())
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}
