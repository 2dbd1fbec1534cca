//! The seam against the kernel of this machine. These tests need `/dev/fuse` and the right to mount.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Timespec, Timestamps};

use super::memory::Memory;
use super::{Errno, Session, SessionOptions};
use crate::io::mounted_on;
use crate::types::{FileKind, Time};

const PATIENCE: Duration = Duration::from_secs(20);

struct Mounted {
    session: Session,
    memory: Arc<Memory>,
    directory: tempfile::TempDir,
}

impl Mounted {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }
}

fn mount(memory: Memory) -> Mounted {
    let directory = tempfile::tempdir().unwrap();
    let memory = Arc::new(memory);
    let session = Session::mount(memory.clone(), directory.path(), &SessionOptions::default()).unwrap();
    Mounted { session, memory, directory }
}

fn is_mounted(path: &Path) -> bool {
    mounted_on(&path.canonicalize().unwrap()).unwrap().is_some()
}

#[test]
fn files_are_listed_read_written_and_removed() {
    let mounted = mount(Memory::with_file("one", b"hello"));
    assert_eq!(std::fs::read(mounted.path("one")).unwrap(), b"hello");
    std::fs::write(mounted.path("two"), b"world").unwrap();
    let mut names: Vec<_> = std::fs::read_dir(mounted.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["one", "two"]);
    std::fs::remove_file(mounted.path("one")).unwrap();
    assert_eq!(File::open(mounted.path("one")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(mounted.memory.named("two").bytes, b"world");
    let entry = mounted_on(mounted.session.mountpoint()).unwrap().unwrap();
    assert_eq!((entry.kind.as_str(), entry.name.to_str()), ("fuse.pitgate", Some("pitgate")));
}

#[test]
fn requests_reach_one_mebibyte() {
    let mounted = mount(Memory { direct_io: true, ..Memory::with_file("one", b"") });
    let mut file = OpenOptions::new().read(true).write(true).open(mounted.path("one")).unwrap();
    let bytes: Vec<u8> = (0..2 << 20).map(|index: u32| index.to_le_bytes()[1]).collect();
    file.write_all(&bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut back = vec![0; bytes.len()];
    file.read_exact(&mut back).unwrap();
    assert!(back == bytes);
    let log = mounted.memory.log.lock();
    assert_eq!(log.writes.iter().map(|write| write.0).max(), Some(1 << 20));
    assert_eq!(log.reads.iter().copied().max(), Some(1 << 20));
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    assert_eq!(log.writes[0].2.pid, thread as u32);
}

#[test]
fn sequential_reads_are_read_ahead_in_large_requests() {
    let mounted = mount(Memory::with_file("one", &vec![3; 8 << 20]));
    let mut file = File::open(mounted.path("one")).unwrap();
    let mut buf = vec![0; 64 << 10];
    let mut len = 0;
    while file.read(&mut buf).unwrap() > 0 {
        len += buf.len();
    }
    assert_eq!(len, 8 << 20);
    let largest = mounted.memory.log.lock().reads.iter().copied().max().unwrap();
    assert!(largest > 128 << 10, "largest read {largest}");
}

#[test]
fn a_panic_is_an_input_output_error_for_its_caller_alone() {
    let mounted = mount(Memory::with_file("panic", b"x"));
    mounted.memory.add(b"calm", FileKind::Regular, 0o644, b"y");
    // More often than there are threads: none of them may have died.
    for _ in 0..20 {
        let error = std::fs::read(mounted.path("panic")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    }
    assert_eq!(std::fs::read(mounted.path("calm")).unwrap(), b"y");
}

#[test]
fn one_waiting_request_does_not_hold_up_others() {
    let mounted = mount(Memory::with_file("wait", b"late"));
    mounted.memory.add(b"quick", FileKind::Regular, 0o644, b"now");
    let path = mounted.path("wait");
    let reader = std::thread::spawn(move || std::fs::read(path).unwrap());
    assert!(mounted.memory.await_waiting(PATIENCE));
    assert_eq!(std::fs::read(mounted.path("quick")).unwrap(), b"now");
    mounted.memory.let_go();
    assert_eq!(reader.join().unwrap(), b"late");
}

#[test]
fn unmounting_a_mount_in_use_is_refused_and_leaves_it_serving() {
    let mounted = mount(Memory::with_file("one", b"hello"));
    let file = File::open(mounted.path("one")).unwrap();
    assert_eq!(mounted.session.unmount().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    assert!(!mounted.session.is_ended());
    assert_eq!(std::fs::read(mounted.path("one")).unwrap(), b"hello");
    drop(file);
    mounted.session.unmount().unwrap();
    assert!(mounted.session.is_ended());
    mounted.session.wait().unwrap();
    assert!(mounted.memory.log.lock().destroyed);
    assert!(!is_mounted(mounted.directory.path()));
    mounted.session.unmount().unwrap();
}

#[test]
fn an_unmount_from_outside_ends_the_session() {
    let mounted = mount(Memory::with_file("one", b"hello"));
    assert!(!mounted.session.wait_timeout(Duration::ZERO));
    let status = std::process::Command::new("umount").arg(mounted.session.mountpoint()).status().unwrap();
    assert!(status.success());
    assert!(mounted.session.wait_timeout(PATIENCE));
    mounted.session.wait().unwrap();
}

#[test]
fn a_detached_mount_serves_those_who_have_it_open_until_they_are_done() {
    let mounted = mount(Memory { direct_io: true, ..Memory::with_file("one", b"hello") });
    let file = File::open(mounted.path("one")).unwrap();
    mounted.session.detach().unwrap();
    assert!(!is_mounted(mounted.directory.path()));
    let mut buf = [0; 5];
    file.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"hello");
    assert!(!mounted.session.is_ended());
    drop(file);
    assert!(mounted.session.wait_timeout(PATIENCE));
    mounted.session.wait().unwrap();
}

#[test]
fn the_last_close_of_a_file_releases_its_handle_once() {
    let mounted = mount(Memory::with_file("one", b"hello"));
    let file = File::open(mounted.path("one")).unwrap();
    let second = file.try_clone().unwrap();
    drop(file);
    drop(second);
    mounted.session.unmount().unwrap();
    assert_eq!(mounted.memory.log.lock().released, 1);
}

#[test]
fn dropping_a_session_detaches_it() {
    let mounted = mount(Memory::with_file("one", b"hello"));
    let Mounted { session, memory, directory } = mounted;
    assert!(is_mounted(directory.path()));
    drop(session);
    assert!(!is_mounted(directory.path()));
    drop(memory);
}

#[test]
fn another_file_system_mounted_over_ours_is_left_alone() {
    let lower = mount(Memory::with_file("one", b"lower"));
    let memory = Arc::new(Memory::with_file("one", b"upper"));
    let upper = Session::mount(memory, lower.directory.path(), &SessionOptions::default()).unwrap();
    assert_eq!(lower.session.unmount().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    assert_eq!(std::fs::read(lower.path("one")).unwrap(), b"upper");
    upper.unmount().unwrap();
    assert_eq!(std::fs::read(lower.path("one")).unwrap(), b"lower");
    lower.session.unmount().unwrap();
}

#[test]
fn a_directory_can_be_mounted_over_through_its_descriptor() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("below"), b"backing").unwrap();
    let below = File::open(directory.path()).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&below));
    let memory = Arc::new(Memory::with_file("above", b"served"));
    let session = Session::mount(memory, Path::new(&path), &SessionOptions::default()).unwrap();
    assert_eq!(session.mountpoint(), directory.path().canonicalize().unwrap());
    assert_eq!(std::fs::read(directory.path().join("above")).unwrap(), b"served");
    let fd =
        rustix::fs::openat(&below, "below", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).unwrap();
    assert_eq!(text, "backing");
    session.unmount().unwrap();
    assert!(directory.path().join("below").exists());
}

#[test]
fn a_file_system_that_refuses_to_start_leaves_no_mount() {
    for memory in [
        Memory { init_error: Some(Errno::NOMEM), ..Memory::default() },
        Memory { root_error: Some(Errno::NOMEM), ..Memory::default() },
    ] {
        let directory = tempfile::tempdir().unwrap();
        let result = Session::mount(Arc::new(memory), directory.path(), &SessionOptions::default());
        assert!(result.is_err());
        assert!(!is_mounted(directory.path()));
    }
}

#[test]
fn a_mountpoint_that_is_no_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let mount = |path: &Path| {
        let result = Session::mount(Arc::new(Memory::default()), path, &SessionOptions::default());
        result.err().unwrap().kind()
    };
    assert_eq!(mount(&file), io::ErrorKind::NotADirectory);
    assert_eq!(mount(&directory.path().join("none")), io::ErrorKind::NotFound);
}

#[test]
fn invalidation_shows_what_changed_behind_the_kernel() {
    let mounted = mount(Memory::with_file("one", b"old"));
    assert_eq!(std::fs::read(mounted.path("one")).unwrap(), b"old");
    let node = *mounted.memory.files.lock().keys().next().unwrap();
    mounted.memory.files.lock().get_mut(&node).unwrap().bytes = b"new".to_vec();
    assert_eq!(std::fs::read(mounted.path("one")).unwrap(), b"old", "kept by the kernel");
    mounted.session.notifier().invalidate_node(node, 0, 0).unwrap();
    assert_eq!(std::fs::read(mounted.path("one")).unwrap(), b"new");
    mounted.memory.files.lock().get_mut(&node).unwrap().name = None;
    assert!(mounted.path("one").exists());
    mounted.session.notifier().invalidate_entry(super::ROOT_NODE, b"one").unwrap();
    assert!(!mounted.path("one").exists());
}

#[test]
fn times_before_1970_arrive_and_are_shown_exactly() {
    let mounted = mount(Memory::with_file("one", b""));
    let file = OpenOptions::new().write(true).open(mounted.path("one")).unwrap();
    for (seconds, nanoseconds) in [(-3, 250), (-1, 999_999_999), (0, 1), (1_700_000_000, 123_456_789)] {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time }).unwrap();
        assert_eq!(mounted.memory.named("one").mtime, Time::join(seconds, nanoseconds as u32));
        let shown = file.metadata().unwrap();
        assert_eq!((shown.mtime(), shown.mtime_nsec()), (seconds, nanoseconds));
    }
}

#[test]
fn kinds_modes_and_devices_arrive_and_are_shown() {
    let mounted = mount(Memory::default());
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    let make = |name: &str, kind, rdev| {
        rustix::fs::mknodat(rustix::fs::CWD, mounted.path(name), kind, mode, rdev).unwrap();
        std::fs::symlink_metadata(mounted.path(name)).unwrap()
    };
    assert!(make("pipe", rustix::fs::FileType::Fifo, 0).file_type().is_fifo());
    assert!(make("socket", rustix::fs::FileType::Socket, 0).file_type().is_socket());
    let device = make("device", rustix::fs::FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    assert!(device.file_type().is_block_device());
    assert_eq!(device.rdev(), rustix::fs::makedev(259, 70_000));
    assert_eq!(mounted.memory.named("device").mode, 0o640);
}

#[test]
fn extended_attributes_are_sized_listed_and_read() {
    let mounted = mount(Memory::with_file("one", b""));
    let path = mounted.path("one");
    let value = vec![5; 3000];
    rustix::fs::setxattr(&path, "user.large", &value, rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&path, "user.empty", b"", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(rustix::fs::getxattr_query(&path, "user.large").unwrap(), 3000);
    let mut small = [0u8; 10];
    assert_eq!(rustix::fs::getxattr(&path, "user.large", &mut small).unwrap_err(), Errno::RANGE);
    let mut buf = [0u8; 4000];
    assert_eq!(rustix::fs::getxattr(&path, "user.large", &mut buf).unwrap(), 3000);
    assert_eq!(buf[..3000], value);
    assert_eq!(rustix::fs::getxattr(&path, "user.none", &mut buf).unwrap_err(), Errno::NODATA);
    let len = rustix::fs::listxattr(&path, &mut buf).unwrap();
    assert_eq!(&buf[..len], b"user.empty\0user.large\0");
}

#[test]
fn open_flags_reach_every_write_and_what_the_kernel_offers_is_told() {
    let mounted = mount(Memory::with_file("one", b""));
    let mut options = OpenOptions::new();
    let mut file = options.write(true).custom_flags(libc::O_DSYNC).open(mounted.path("one")).unwrap();
    file.write_all(b"x").unwrap();
    let log = mounted.memory.log.lock();
    assert_ne!(log.writes[0].1.open_flags & libc::O_DSYNC, 0);
    let negotiation = log.negotiation.clone().unwrap();
    assert_eq!(negotiation.protocol.0, 7);
    assert!(negotiation.offered.parallel_dirops && negotiation.offered.writeback_cache);
    drop(log);
    let status = rustix::fs::statvfs(mounted.directory.path()).unwrap();
    assert_eq!((status.f_blocks, status.f_bavail, status.f_frsize), (1000, 500, 4096));
}
