//! What programs rely on, one thing a test.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};

use rustix::fs::{FallocateFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use crate::stage::{BASE_BYTES, Stage, base_byte};

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Option<i32> {
    result.expect_err("must be refused").raw_os_error()
}

#[test]
fn a_changed_file_of_the_image_keeps_all_other_bytes() {
    let mut stage = Stage::new();
    let file = OpenOptions::new().read(true).write(true).open(stage.path("base.dat")).unwrap();
    file.write_all_at(b"changed", 100_000).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let mut expected: Vec<u8> = (0..BASE_BYTES).map(base_byte).collect();
    expected[100_000..100_007].copy_from_slice(b"changed");
    assert!(fs::read(stage.path("base.dat")).unwrap() == expected);
    stage.remount();
    assert!(fs::read(stage.path("base.dat")).unwrap() == expected);
    // Two pages at most were copied, not the file.
    assert!(stage.overlay().log_bytes() < 4096 + 20_000, "{}", stage.overlay().log_bytes());
}

#[test]
fn a_read_only_mount_refuses_every_change() {
    let stage = Stage::read_only();
    let file = stage.path("base.dat");
    let read_only = Some(Errno::ROFS.raw_os_error());
    assert_eq!(fs::read(&file).unwrap().len(), BASE_BYTES);
    assert_eq!(errno(OpenOptions::new().write(true).open(&file)), read_only);
    assert_eq!(errno(File::create(stage.path("new"))), read_only);
    assert_eq!(errno(fs::remove_file(&file)), read_only);
    assert_eq!(errno(fs::rename(&file, stage.path("other"))), read_only);
    assert_eq!(errno(fs::create_dir(stage.path("dir"))), read_only);
    assert_eq!(errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o600))), read_only);
    let room = rustix::fs::statvfs(stage.path("")).unwrap();
    assert!(room.f_blocks > 0 && room.f_bsize > 0);
}

#[test]
fn a_file_that_shrinks_and_grows_reads_as_zeros_there() {
    let mut stage = Stage::new();
    let file = OpenOptions::new().read(true).write(true).open(stage.path("base.dat")).unwrap();
    file.set_len(5000).unwrap();
    file.set_len(BASE_BYTES as u64).unwrap();
    let mut expected = vec![0; BASE_BYTES];
    for (offset, byte) in expected.iter_mut().enumerate().take(5000) {
        *byte = base_byte(offset);
    }
    drop(file);
    assert!(fs::read(stage.path("base.dat")).unwrap() == expected);
    stage.remount();
    assert!(fs::read(stage.path("base.dat")).unwrap() == expected);
}

#[test]
fn an_unlinked_file_stays_usable_while_it_is_open() {
    let stage = Stage::new();
    let mut file = OpenOptions::new().read(true).write(true).open(stage.path("base.dat")).unwrap();
    fs::remove_file(stage.path("base.dat")).unwrap();
    file.write_all_at(b"still here", 200_000).unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(199_999)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(&bytes[..11], [&[base_byte(199_999)], &b"still here"[..]].concat());
    // A new file of the same name is another file.
    fs::write(stage.path("base.dat"), "new").unwrap();
    assert_eq!(fs::read(stage.path("base.dat")).unwrap(), b"new");
    assert_eq!(file.metadata().unwrap().len(), BASE_BYTES as u64);
}

#[test]
fn rename_replaces_exchanges_and_refuses_as_asked() {
    let mut stage = Stage::new();
    fs::write(stage.path("a"), "a").unwrap();
    fs::write(stage.path("b"), "b").unwrap();
    fs::create_dir(stage.path("d")).unwrap();
    let open = |stage: &Stage| File::open(stage.path("")).unwrap();
    let root = open(&stage);
    let renamed = rustix::fs::renameat_with(&root, "a", &root, "b", RenameFlags::NOREPLACE);
    assert_eq!(renamed, Err(Errno::EXIST));
    rustix::fs::renameat_with(&root, "a", &root, "b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(stage.path("a")).unwrap(), b"b");
    fs::rename(stage.path("a"), stage.path("b")).unwrap();
    assert_eq!(fs::read(stage.path("b")).unwrap(), b"b");
    fs::rename(stage.path("basedir"), stage.path("d/moved")).unwrap();
    assert_eq!(fs::read_dir(stage.path("d/moved")).unwrap().count(), 2000);
    assert_eq!(
        errno(fs::rename(stage.path("d"), stage.path("d/moved/d"))),
        Some(Errno::INVAL.raw_os_error())
    );
    drop(root);
    stage.remount();
    assert_eq!(fs::read_dir(stage.path("d/moved")).unwrap().count(), 2000);
    assert_eq!(fs::read(stage.path("b")).unwrap(), b"b");
    assert!(!stage.path("basedir").exists() && !stage.path("a").exists());
}

#[test]
fn what_is_not_written_out_yet_is_no_hole() {
    let stage = Stage::new();
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).open(stage.path("new")).unwrap();
    use rustix::fs::SeekFrom as From;
    // Copying programs take a hole's word for it, and leave out what lies there.
    file.write_all_at(&[7; 8192], 0).unwrap();
    assert_eq!(rustix::fs::seek(&file, From::Data(0)), Ok(0));
    assert_eq!(rustix::fs::seek(&file, From::Hole(0)), Ok(8192));
    file.set_len(1 << 20).unwrap();
    file.write_all_at(&[7; 8192], 512 << 10).unwrap();
    assert_eq!(rustix::fs::seek(&file, From::Data(512 << 10)), Ok(512 << 10));
    assert!(rustix::fs::seek(&file, From::Data(100 << 10)).unwrap() <= 512 << 10);
    assert!(rustix::fs::seek(&file, From::Hole(512 << 10)).unwrap() >= (512 << 10) + 8192);
}

#[test]
fn holes_are_punched() {
    let stage = Stage::new();
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(stage.path("sparse"));
    let file = file.unwrap();
    file.write_all_at(&[7; 8192], 1 << 20).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, (1 << 20) + 100, 5000).unwrap();
    let mut bytes = vec![1; 8192];
    file.read_exact_at(&mut bytes, 1 << 20).unwrap();
    assert!(bytes[..100].iter().chain(&bytes[5100..]).all(|&byte| byte == 7));
    assert!(bytes[100..5100].iter().all(|&byte| byte == 0));
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 2 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 2 << 20);
    assert_eq!(rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096), Err(Errno::OPNOTSUPP));
}

#[test]
fn links_attributes_and_owners_are_kept() {
    let mut stage = Stage::new();
    fs::hard_link(stage.path("base.dat"), stage.path("second")).unwrap();
    symlink("base.dat", stage.path("soft")).unwrap();
    symlink("/captured/pg/16384", stage.path("retargeted")).unwrap();
    assert_eq!(errno(symlink("/etc/passwd", stage.path("out"))), Some(Errno::PERM.raw_os_error()));
    assert_eq!(errno(symlink("../../etc/passwd", stage.path("out"))), Some(Errno::PERM.raw_os_error()));
    fs::create_dir(stage.path("deep")).unwrap();
    symlink("/captured/pg/16384", stage.path("deep/retargeted")).unwrap();
    fs::set_permissions(stage.path("second"), fs::Permissions::from_mode(0o640)).unwrap();
    rustix::fs::setxattr(stage.path("second"), "user.note", b"value", XattrFlags::empty()).unwrap();
    let created = rustix::fs::setxattr(stage.path("second"), "user.note", b"v", XattrFlags::CREATE);
    assert_eq!(created, Err(Errno::EXIST));
    let time = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    let here = rustix::fs::CWD;
    rustix::fs::utimensat(here, stage.path("second"), &times, rustix::fs::AtFlags::empty()).unwrap();
    for _ in 0..2 {
        let status = fs::metadata(stage.path("base.dat")).unwrap();
        assert_eq!((status.nlink(), status.mode() & 0o7777), (2, 0o640));
        assert_eq!((status.mtime(), status.mtime_nsec()), (1_000_000_000, 123_456_789));
        let mut value = [0; 16];
        let len = rustix::fs::getxattr(stage.path("base.dat"), "user.note", &mut value[..]).unwrap();
        assert_eq!(&value[..len], b"value");
        assert_eq!(fs::read_link(stage.path("soft")).unwrap().as_os_str(), "base.dat");
        assert_eq!(fs::read_link(stage.path("retargeted")).unwrap().as_os_str(), "pg/16384");
        let deep = stage.path("deep/retargeted");
        assert_eq!(fs::read_link(&deep).unwrap().as_os_str(), "../pg/16384");
        assert_eq!(fs::symlink_metadata(&deep).unwrap().len(), "../pg/16384".len() as u64);
        stage.remount();
    }
    rustix::fs::removexattr(stage.path("second"), "user.note").unwrap();
    let gone = rustix::fs::getxattr(stage.path("base.dat"), "user.note", &mut [0; 16][..]);
    assert_eq!(gone, Err(Errno::NODATA));
}

#[test]
fn a_new_owner_costs_a_program_its_set_id_bits() {
    let stage = Stage::new();
    assert!(rustix::process::geteuid().is_root(), "this test needs root to give files away");
    let path = stage.path("base.dat");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
    let status = fs::metadata(&path).unwrap();
    assert_eq!((status.uid(), status.gid(), status.mode() & 0o7777), (1234, 4321, 0o755));
    fs::create_dir(stage.path("shared")).unwrap();
    std::os::unix::fs::chown(stage.path("shared"), None, Some(4321)).unwrap();
    fs::set_permissions(stage.path("shared"), fs::Permissions::from_mode(0o2775)).unwrap();
    fs::create_dir(stage.path("shared/inner")).unwrap();
    let status = fs::metadata(stage.path("shared/inner")).unwrap();
    assert_eq!((status.gid(), status.mode() & 0o2000), (4321, 0o2000));
}

#[test]
fn direct_and_synchronous_writes_reach_the_log() {
    let mut stage = Stage::new();
    let direct =
        OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(stage.path("base.dat")).unwrap();
    // Direct input and output needs memory aligned as the storage is.
    let buffer = vec![0x5a; 3 * 4096];
    let start = buffer.as_ptr().align_offset(4096);
    direct.write_all_at(&buffer[start..start + 4096], 8192).unwrap();
    drop(direct);
    let flags = libc::O_DSYNC | libc::O_APPEND;
    let mut synchronous =
        OpenOptions::new().append(true).custom_flags(flags).open(stage.path("base.dat")).unwrap();
    synchronous.write_all(b"appended").unwrap();
    let written = stage.overlay().log_bytes();
    assert!(written > 4096 + 2 * 4096, "{written}");
    drop(synchronous);
    stage.remount();
    let bytes = fs::read(stage.path("base.dat")).unwrap();
    assert_eq!(bytes.len(), BASE_BYTES + 8);
    assert!(bytes[8192..12288].iter().all(|&byte| byte == 0x5a));
    assert_eq!(&bytes[BASE_BYTES..], b"appended");
}

#[test]
fn a_large_directory_is_listed_whole_while_it_changes() {
    let stage = Stage::new();
    let mut seen = std::collections::BTreeSet::new();
    for (number, entry) in fs::read_dir(stage.path("basedir")).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if number % 10 == 0 {
            fs::remove_file(stage.path(&format!("basedir/{name}"))).unwrap();
        }
        assert!(seen.insert(name), "seen twice");
    }
    assert!(seen.len() >= 1800, "{}", seen.len());
    assert_eq!(fs::read_dir(stage.path("basedir")).unwrap().count(), 1800);
    let not_empty = fs::remove_dir(stage.path("basedir"));
    assert_eq!(errno(not_empty), Some(Errno::NOTEMPTY.raw_os_error()));
}
