//! What applications do, one kind at a time: it works through the mount, and the journal holds exactly it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use pitgate::types::{ChangeBody, FileId, NamespaceChange};
use rustix::fs::{FallocateFlags, Gid, RenameFlags, Uid, XattrFlags};
use rustix::io::ReadWriteFlags;

use crate::mounted::{Mounted, Place};

#[test]
fn writes_of_any_alignment_are_recorded_as_they_are() {
    let mounted = Mounted::new();
    let file = File::create_new(mounted.path("file")).unwrap();
    for (offset, len, byte) in [
        (0u64, 10_000usize, 1u8),
        (511, 1, 2),
        (4096, 4096, 3),
        (4000, 200, 4),
        (20_000, 3, 5),
        (8192, 1 << 20, 6),
    ] {
        file.write_all_at(&vec![byte; len], offset).unwrap();
    }
    drop(file);
    let mut file = OpenOptions::new().append(true).open(mounted.path("file")).unwrap();
    file.write_all(b"at the end").unwrap();
    drop(file);
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn shrink_then_extend_reads_zeros() {
    let mounted = Mounted::new();
    let file = File::create_new(mounted.path("file")).unwrap();
    file.write_all_at(&[7; 50_000], 0).unwrap();
    for size in [30_001, 45_000, 8192, 20_000, 0, 100] {
        file.set_len(size).unwrap();
        mounted.assert_twin();
    }
    drop(file);
    fs::write(mounted.path("file"), [9; 5000]).unwrap();
    mounted.assert_twin();
    let status = Command::new("truncate").args(["-s", "4097"]).arg(mounted.path("file")).status().unwrap();
    assert!(status.success());
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn punched_and_zeroed_ranges_read_zeros() {
    let mounted = Mounted::new();
    let file = File::create_new(mounted.path("file")).unwrap();
    file.write_all_at(&[7; 200_000], 0).unwrap();
    let keep = FallocateFlags::KEEP_SIZE;
    for (flags, offset, len) in [
        (FallocateFlags::PUNCH_HOLE | keep, 5_000, 40_000),
        (FallocateFlags::PUNCH_HOLE | keep, 65_536, 4_096),
        (FallocateFlags::PUNCH_HOLE | keep, 70_000, 10),
        (FallocateFlags::ZERO_RANGE, 100_001, 20_002),
        (FallocateFlags::ZERO_RANGE | keep, 190_000, 50_000),
        (FallocateFlags::ZERO_RANGE, 195_000, 50_000),
        (keep, 240_000, 100_000),
        (FallocateFlags::empty(), 250_000, 100_000),
        (FallocateFlags::PUNCH_HOLE | keep, 1 << 30, 4096),
    ] {
        rustix::fs::fallocate(&file, flags, offset, len).unwrap();
        mounted.assert_twin();
    }
    assert_eq!(file.metadata().unwrap().len(), 350_000);
    let refused = rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(refused, Err(rustix::io::Errno::OPNOTSUPP));
    drop(file);
    mounted.stop();
}

#[test]
fn names_follow_every_kind_of_change() {
    let mounted = Mounted::new();
    let path = |name: &str| mounted.path(name);
    fs::create_dir_all(path("a/b/c")).unwrap();
    fs::write(path("a/one"), "one").unwrap();
    fs::write(path("a/two"), "two").unwrap();
    fs::rename(path("a/one"), path("a/b/one")).unwrap();
    fs::rename(path("a/two"), path("a/b/one")).unwrap();
    fs::write(path("x"), "x").unwrap();
    fs::rename(path("a/b"), path("moved")).unwrap();
    let here = File::open(mounted.place.mountpoint()).unwrap();
    let exchange = RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(&here, "x", &here, "moved", exchange).unwrap();
    let refused = rustix::fs::renameat_with(&here, "x", &here, "moved", RenameFlags::NOREPLACE);
    assert_eq!(refused, Err(rustix::io::Errno::EXIST));
    drop(here);
    mounted.assert_twin();
    symlink("x/one", path("link")).unwrap();
    symlink("/absolute/nowhere", path("dangling")).unwrap();
    fs::hard_link(path("x/one"), path("second")).unwrap();
    fs::hard_link(path("link"), path("link of link")).unwrap();
    fs::remove_file(path("x/one")).unwrap();
    fs::write(path("second"), "changed by its other name").unwrap();
    fs::remove_dir(path("x/c")).unwrap();
    let refused = fs::remove_dir(path("a")).map(|()| fs::remove_dir(mounted.path("x")));
    assert!(refused.is_ok());
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    drop(std::os::unix::net::UnixListener::bind(path("socket")).unwrap());
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn a_directory_that_is_not_empty_is_not_removed() {
    let mounted = Mounted::new();
    fs::create_dir(mounted.path("full")).unwrap();
    fs::write(mounted.path("full/file"), "x").unwrap();
    let error = fs::remove_dir(mounted.path("full")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTEMPTY));
    fs::remove_file(mounted.path("full/file")).unwrap();
    fs::remove_dir(mounted.path("full")).unwrap();
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn names_of_any_bytes_are_kept() {
    let mounted = Mounted::new();
    for name in ["医院信息系统".as_bytes(), b"two\nlines", b"\xff\xfe not UTF-8", b" ", &[b'n'; 255]] {
        fs::write(mounted.place.mountpoint().join(OsStr::from_bytes(name)), name).unwrap();
    }
    let too_long = fs::write(mounted.place.mountpoint().join("n".repeat(256)), "x").unwrap_err();
    assert_eq!(too_long.raw_os_error(), Some(libc::ENAMETOOLONG));
    assert_eq!(fs::read_dir(mounted.place.mountpoint()).unwrap().count(), 5);
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn a_directory_of_many_names_is_listed_whole() {
    let mounted = Mounted::new();
    fs::create_dir(mounted.path("many")).unwrap();
    for number in 0..3000 {
        File::create_new(mounted.path(&format!("many/{number:0>40}"))).unwrap();
    }
    let mut names: Vec<_> =
        fs::read_dir(mounted.path("many")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3000);
    for number in (0..3000).step_by(2) {
        fs::remove_file(mounted.path(&format!("many/{number:0>40}"))).unwrap();
    }
    assert_eq!(fs::read_dir(mounted.path("many")).unwrap().count(), 1500);
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn attributes_and_extended_attributes_are_recorded() {
    let mounted = Mounted::new();
    let path = mounted.path("file");
    fs::write(&path, "x").unwrap();
    fs::create_dir(mounted.path("directory")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(mounted.path("directory"), fs::Permissions::from_mode(0o3770)).unwrap();
    rustix::fs::chown(&path, Some(Uid::from_raw(1234)), Some(Gid::from_raw(2345))).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o711, "a change of owner drops set-id bits");
    let file = File::open(&path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789)).unwrap();
    rustix::fs::setxattr(&path, "user.one", b"1", XattrFlags::CREATE).unwrap();
    rustix::fs::setxattr(&path, "user.two", &[2; 3000], XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(mounted.path("directory"), "trusted.three", b"", XattrFlags::empty()).unwrap();
    mounted.assert_twin();
    let again = rustix::fs::setxattr(&path, "user.one", b"1", XattrFlags::CREATE);
    assert_eq!(again, Err(rustix::io::Errno::EXIST));
    rustix::fs::removexattr(&path, "user.one").unwrap();
    assert_eq!(rustix::fs::removexattr(&path, "user.one"), Err(rustix::io::Errno::NODATA));
    let mut value = [0; 4000];
    assert_eq!(rustix::fs::getxattr(&path, "user.two", &mut value[..]), Ok(3000));
    assert_eq!(rustix::fs::getxattr(&path, "user.two", &mut value[..10]), Err(rustix::io::Errno::RANGE));
    drop(file);
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn other_users_create_their_own_files_and_lose_set_id_bits_by_writing() {
    let place = Place::new();
    place.open_to_all();
    let mounted = Mounted::over(place);
    fs::create_dir(mounted.path("shared")).unwrap();
    rustix::fs::chown(mounted.path("shared"), None, Some(Gid::from_raw(777))).unwrap();
    fs::set_permissions(mounted.path("shared"), fs::Permissions::from_mode(0o2777)).unwrap();
    fs::write(mounted.path("set-id"), "x").unwrap();
    fs::set_permissions(mounted.path("set-id"), fs::Permissions::from_mode(0o6777)).unwrap();
    fs::write(mounted.path("set-id too"), "long").unwrap();
    fs::set_permissions(mounted.path("set-id too"), fs::Permissions::from_mode(0o6777)).unwrap();
    as_nobody(
        &mounted,
        "umask 027; echo y > mine; mkdir dir; ln -s mine link; mkfifo fifo; echo z > shared/file; mkdir shared/dir
         echo more >> set-id; truncate -s 1 'set-id too'; touch closed && chmod 0 closed",
    );
    let stat = |name: &str| fs::symlink_metadata(mounted.path(name)).unwrap();
    for name in ["mine", "dir", "link", "fifo"] {
        assert_eq!((stat(name).uid(), stat(name).gid()), (65534, 65534), "{name}");
    }
    assert_eq!(stat("mine").mode() & 0o7777, 0o640);
    assert_eq!((stat("shared/file").gid(), stat("shared/dir").gid()), (777, 777));
    assert_eq!(stat("shared/dir").mode() & 0o7777, 0o2750);
    assert_eq!(stat("set-id").mode() & 0o7777, 0o777);
    assert_eq!(stat("set-id too").mode() & 0o7777, 0o777);
    assert!(!nobody_can(&mounted, "cat closed"), "permissions are checked");
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn writes_of_other_users_are_no_changes_of_names() {
    let place = Place::new();
    place.open_to_all();
    let mounted = Mounted::over(place);
    let count = || {
        let changes = mounted.sink.changes();
        changes.iter().filter(|change| matches!(change, ChangeBody::Names(_))).count()
    };
    let script = "for i in 1 2 3 4 5 6 7 8; do echo $i >> log; done";
    as_nobody(&mounted, script);
    let before = count();
    as_nobody(&mounted, script);
    assert_eq!(count(), before, "each write is one change");
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn a_capability_is_dropped_by_writing() {
    let mounted = Mounted::new();
    let path = mounted.path("tool");
    fs::write(&path, "x").unwrap();
    // CAP_NET_RAW, permitted and effective, revision 2.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(&path, "security.capability", &capability, XattrFlags::empty()).unwrap();
    mounted.assert_twin();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    let mut value = [0; 64];
    let gone = rustix::fs::getxattr(mounted.backing("tool"), "security.capability", &mut value[..]);
    assert_eq!(gone, Err(rustix::io::Errno::NODATA));
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn an_unlinked_open_file_works_and_is_not_recorded() {
    let mounted = Mounted::new();
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).open(mounted.path("temporary")).unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(mounted.path("temporary")).unwrap();
    let recorded = mounted.sink.changes().len();
    file.write_all(&[1; 100_000]).unwrap();
    file.set_len(50).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut contents = String::new();
    file.read_to_string(&mut contents).unwrap();
    assert!(contents.starts_with("before"));
    assert_eq!(file.metadata().unwrap().len(), 50);
    let data = |change: &ChangeBody| matches!(change, ChangeBody::Data(_) | ChangeBody::Names(_));
    assert!(!mounted.sink.changes()[recorded..].iter().any(data));
    drop(file);
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn a_file_replaced_by_rename_while_open_stays_readable() {
    let mounted = Mounted::new();
    fs::write(mounted.path("config"), "old").unwrap();
    let mut old = File::open(mounted.path("config")).unwrap();
    fs::write(mounted.path("config.new"), "new").unwrap();
    fs::rename(mounted.path("config.new"), mounted.path("config")).unwrap();
    let mut contents = String::new();
    old.read_to_string(&mut contents).unwrap();
    assert_eq!(contents, "old");
    assert_eq!(fs::read_to_string(mounted.path("config")).unwrap(), "new");
    drop(old);
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn what_a_shared_map_writes_is_recorded() {
    let mounted = Mounted::new();
    fs::write(mounted.path("mapped"), vec![1; 100_000]).unwrap();
    let status = Command::new("fio")
        .args(["--name=mapped", "--ioengine=mmap", "--rw=randwrite", "--bs=4k", "--size=98304"])
        .arg(format!("--filename={}", mounted.path("mapped").display()))
        .args(["--invalidate=0", "--overwrite=1", "--end_fsync=0", "--buffer_pattern=0x02", "--minimal"])
        .current_dir(mounted.place.above())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("this test needs fio");
    assert!(status.success());
    rustix::fs::fsync(File::open(mounted.path("mapped")).unwrap()).unwrap();
    let bytes = fs::read(mounted.backing("mapped")).unwrap();
    assert_eq!(bytes.len(), 100_000);
    assert!(bytes[..98_304].iter().all(|&byte| byte == 2) && bytes[98_304..].iter().all(|&byte| byte == 1));
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn a_sync_returns_when_the_journal_is_durable() {
    let mounted = Mounted::new();
    let file = File::create_new(mounted.path("wal")).unwrap();
    file.write_all_at(&[1; 8192], 0).unwrap();
    file.sync_data().unwrap();
    assert!(mounted.sink.durable_now() >= last_data(&mounted));
    for flags in [libc::O_DSYNC, libc::O_SYNC, libc::O_DSYNC | libc::O_DIRECT] {
        let file = OpenOptions::new().write(true).custom_flags(flags).open(mounted.path("wal")).unwrap();
        let page = aligned_page();
        file.write_all_at(page.bytes(), 4096).unwrap();
        assert!(mounted.sink.durable_now() >= last_data(&mounted), "flags {flags:o}");
    }
    for flags in [ReadWriteFlags::DSYNC, ReadWriteFlags::SYNC] {
        rustix::io::pwritev2(&file, &[IoSlice::new(b"this write alone")], 9000, flags).unwrap();
        assert!(mounted.sink.durable_now() >= last_data(&mounted), "flags {flags:?}");
    }
    drop(file);
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn a_sync_of_a_new_empty_file_covers_its_creation() {
    let mounted = Mounted::new();
    let file = File::create_new(mounted.path("empty")).unwrap();
    let is_creation =
        |change: &ChangeBody| matches!(change, ChangeBody::Names(NamespaceChange::Create { .. }));
    let created = mounted.sink.changes().iter().rposition(is_creation).unwrap() as u64 + 1;
    file.sync_all().unwrap();
    assert!(mounted.sink.durable_now() >= created);
    drop(file);
    mounted.stop();
}

#[test]
fn an_asynchronous_sync_does_not_wait_for_the_journal() {
    let mounted = Mounted::asynchronous();
    mounted.wait_for_image();
    let file = File::create_new(mounted.path("wal")).unwrap();
    let before = mounted.sink.commits();
    file.write_all_at(&[1; 8192], 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(mounted.sink.commits(), before);
    drop(file);
    mounted.stop();
}

#[test]
fn direct_io_works() {
    let mounted = Mounted::new();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT)
        .open(mounted.path("direct"))
        .unwrap();
    let page = aligned_page();
    for at in [0, 3, 1] {
        file.write_all_at(page.bytes(), at * 4096).unwrap();
    }
    assert_eq!(fs::metadata(mounted.path("direct")).unwrap().len(), 4 * 4096);
    drop(file);
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn holes_are_found_in_a_sparse_file_of_four_terabytes() {
    let mounted = Mounted::new();
    let file = File::create_new(mounted.path("huge")).unwrap();
    file.set_len(4 << 40).unwrap();
    file.write_all_at(&[1; 4096], 3 << 40).unwrap();
    let found = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert_eq!(found, 3 << 40);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(3 << 40)).unwrap(), (3 << 40) + 4096);
    let reference = mounted.replay();
    let root = reference.namespace.lookup(FileId::SOURCE, b"data").unwrap();
    let huge = reference.namespace.lookup(root, b"huge").unwrap();
    assert_eq!(reference.namespace.file(huge).unwrap().size, 4 << 40);
    drop(file);
    fs::remove_file(mounted.path("huge")).unwrap();
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn the_size_of_the_file_system_is_the_backing_ones() {
    let mounted = Mounted::new();
    let (seen, backing) = (
        rustix::fs::statvfs(mounted.place.mountpoint()).unwrap(),
        rustix::fs::statvfs(mounted.place.data()).unwrap(),
    );
    assert_eq!((seen.f_blocks, seen.f_frsize), (backing.f_blocks, backing.f_frsize));
    mounted.stop();
}

#[test]
fn locks_exclude_each_other() {
    let mounted = Mounted::new();
    let one = File::create_new(mounted.path("lock")).unwrap();
    let other = File::open(mounted.path("lock")).unwrap();
    one.lock().unwrap();
    assert!(other.try_lock().is_err());
    one.unlock().unwrap();
    other.try_lock().unwrap();
    drop((one, other));
    mounted.stop();
}

#[test]
fn a_file_already_there_is_imaged_with_everything() {
    let place = Place::new();
    fs::create_dir(place.data().join("deep")).unwrap();
    fs::write(place.data().join("deep/file"), vec![7; 1_000_000]).unwrap();
    fs::hard_link(place.data().join("deep/file"), place.data().join("second")).unwrap();
    symlink("deep/file", place.data().join("link")).unwrap();
    File::create(place.data().join("sparse")).unwrap().set_len(10 << 20).unwrap();
    File::create(place.data().join("sparse")).unwrap().write_all_at(b"end", 5 << 20).unwrap();
    fs::write(place.data().join("empty"), "").unwrap();
    rustix::fs::setxattr(place.data().join("empty"), "user.note", b"kept", XattrFlags::empty()).unwrap();
    let mounted = Mounted::over(place);
    mounted.assert_twin();
    assert_eq!(fs::read(mounted.path("second")).unwrap().len(), 1_000_000);
    mounted.stop();
}

trait Durable {
    fn durable_now(&self) -> u64;
}

impl Durable for crate::recording::RecordingSink {
    fn durable_now(&self) -> u64 {
        pitgate::types::ChangeSink::durable(self).0
    }
}

/// The position of the last data recorded.
fn last_data(mounted: &Mounted) -> u64 {
    let changes = mounted.sink.changes();
    let last = changes.iter().rposition(|change| matches!(change, ChangeBody::Data(_)));
    last.expect("something was written") as u64 + 1
}

struct AlignedPage {
    space: Vec<u8>,
    start: usize,
}

impl AlignedPage {
    fn bytes(&self) -> &[u8] {
        &self.space[self.start..self.start + 4096]
    }
}

/// A page of ones at an address that direct I/O takes.
fn aligned_page() -> AlignedPage {
    let space = vec![1; 8192];
    let start = space.as_ptr().align_offset(4096);
    AlignedPage { space, start }
}

fn as_nobody(mounted: &Mounted, script: &str) {
    assert!(nobody_can(mounted, script), "{script}");
}

fn nobody_can(mounted: &Mounted, script: &str) -> bool {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-ec", script]);
    command.current_dir(mounted.place.mountpoint()).stdin(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}
