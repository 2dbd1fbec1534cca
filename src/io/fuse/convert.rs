//! Between our words and those of `fuser`.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, FopenFlags, INodeNo, InitFlags, TimeOrNow};

use super::{Capabilities, Errno, NodeAttributes, Opened, TimeSet};
use crate::types::{FileKind, Time};

pub(super) fn errno_to_fuser(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

fn kind_to_fuser(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharacterDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn directory_kind(kind: FileKind) -> FileType {
    kind_to_fuser(kind)
}

/// The kind in the type bits of a mode, as `mknod` gives them; no bits mean a regular file.
pub(super) fn kind_of_mode(mode: u32) -> Option<FileKind> {
    Some(match mode & libc::S_IFMT {
        0 | libc::S_IFREG => FileKind::Regular,
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharacterDevice,
        libc::S_IFBLK => FileKind::BlockDevice,
        _ => return None,
    })
}

/// The kernel's 32-bit form of a device number (`new_encode_dev`): 12 bits of major, 20 of minor.
pub(super) fn rdev_to_kernel(rdev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}

pub(super) fn rdev_from_kernel(rdev: u32) -> u64 {
    let (major, minor) = ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xfff00));
    rustix::fs::makedev(major, minor)
}

fn time_to_system(time: Time) -> SystemTime {
    let magnitude = Duration::from_nanos(time.0.unsigned_abs());
    if time.0 >= 0 { SystemTime::UNIX_EPOCH + magnitude } else { SystemTime::UNIX_EPOCH - magnitude }
}

/// Undoes what `fuser` makes of seconds and nanoseconds. Before 1970 it takes the nanoseconds away from the
/// epoch where the kernel counts them towards it, so a negative distance holds both parts as the kernel sent them.
pub(super) fn time_from_fuser(time: SystemTime) -> Time {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => Time::join(i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            Time::join(0i64.saturating_sub_unsigned(before.as_secs()), before.subsec_nanos())
        }
    }
}

pub(super) fn time_set_from_fuser(time: TimeOrNow) -> TimeSet {
    match time {
        TimeOrNow::Now => TimeSet::Now,
        TimeOrNow::SpecificTime(time) => TimeSet::At(time_from_fuser(time)),
    }
}

pub(super) fn attributes_to_fuser(attributes: &NodeAttributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.node),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: time_to_system(attributes.atime),
        mtime: time_to_system(attributes.mtime),
        ctime: time_to_system(attributes.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind_to_fuser(attributes.kind),
        perm: (attributes.mode & 0o7777) as u16,
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: rdev_to_kernel(attributes.rdev),
        blksize: attributes.block_bytes,
        flags: 0,
    }
}

pub(super) fn opened_to_fuser(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
    flags.set(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES, opened.parallel_direct_writes);
    flags.set(FopenFlags::FOPEN_CACHE_DIR, opened.cache_directory);
    flags.set(FopenFlags::FOPEN_NOFLUSH, opened.no_flush);
    flags
}

pub(super) fn capabilities_from_fuser(flags: InitFlags) -> Capabilities {
    Capabilities {
        writeback_cache: flags.contains(InitFlags::FUSE_WRITEBACK_CACHE),
        handle_killpriv_v2: flags.contains(InitFlags::FUSE_HANDLE_KILLPRIV_V2),
        explicit_inval_data: flags.contains(InitFlags::FUSE_EXPLICIT_INVAL_DATA),
        auto_inval_data: flags.contains(InitFlags::FUSE_AUTO_INVAL_DATA),
        parallel_dirops: flags.contains(InitFlags::FUSE_PARALLEL_DIROPS),
        async_dio: flags.contains(InitFlags::FUSE_ASYNC_DIO),
        readdirplus: flags.contains(InitFlags::FUSE_DO_READDIRPLUS),
        readdirplus_auto: flags.contains(InitFlags::FUSE_READDIRPLUS_AUTO),
        direct_io_allow_mmap: flags.contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP),
        atomic_o_trunc: flags.contains(InitFlags::FUSE_ATOMIC_O_TRUNC),
        cache_symlinks: flags.contains(InitFlags::FUSE_CACHE_SYMLINKS),
    }
}

pub(super) fn capabilities_to_fuser(capabilities: &Capabilities) -> InitFlags {
    let mut flags = InitFlags::empty();
    flags.set(InitFlags::FUSE_WRITEBACK_CACHE, capabilities.writeback_cache);
    flags.set(InitFlags::FUSE_HANDLE_KILLPRIV_V2, capabilities.handle_killpriv_v2);
    flags.set(InitFlags::FUSE_EXPLICIT_INVAL_DATA, capabilities.explicit_inval_data);
    flags.set(InitFlags::FUSE_AUTO_INVAL_DATA, capabilities.auto_inval_data);
    flags.set(InitFlags::FUSE_PARALLEL_DIROPS, capabilities.parallel_dirops);
    flags.set(InitFlags::FUSE_ASYNC_DIO, capabilities.async_dio);
    flags.set(InitFlags::FUSE_DO_READDIRPLUS, capabilities.readdirplus);
    flags.set(InitFlags::FUSE_READDIRPLUS_AUTO, capabilities.readdirplus_auto);
    flags.set(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP, capabilities.direct_io_allow_mmap);
    flags.set(InitFlags::FUSE_ATOMIC_O_TRUNC, capabilities.atomic_o_trunc);
    flags.set(InitFlags::FUSE_CACHE_SYMLINKS, capabilities.cache_symlinks);
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_keep_their_nanoseconds() {
        // As fuser builds them from (-3 s, 250 ns), which the kernel means as 250 ns after -3 s.
        let from_kernel = SystemTime::UNIX_EPOCH - Duration::new(3, 250);
        assert_eq!(time_from_fuser(from_kernel), Time::join(-3, 250));
        let after = SystemTime::UNIX_EPOCH + Duration::new(3, 250);
        assert_eq!(time_from_fuser(after), Time::join(3, 250));
        assert_eq!(time_from_fuser(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 62)), Time::MAX);
    }

    #[test]
    fn times_sent_are_the_instants_meant() {
        for time in [Time(0), Time(-1), Time(1), Time::MIN, Time::MAX, Time::join(-3, 250)] {
            let system = time_to_system(time);
            let back = match system.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(after) => after.as_nanos() as i128,
                Err(before) => -(before.duration().as_nanos() as i128),
            };
            assert_eq!(back, i128::from(time.0));
        }
    }

    #[test]
    fn device_numbers_survive_the_round_trip() {
        for (major, minor) in [(0, 0), (8, 1), (259, 7), (4095, 0xf_ffff)] {
            let rdev = rustix::fs::makedev(major, minor);
            assert_eq!(rdev_from_kernel(rdev_to_kernel(rdev)), rdev);
        }
    }

    #[test]
    fn every_capability_has_its_flag() {
        let all = Capabilities {
            writeback_cache: true,
            handle_killpriv_v2: true,
            explicit_inval_data: true,
            auto_inval_data: true,
            parallel_dirops: true,
            async_dio: true,
            readdirplus: true,
            readdirplus_auto: true,
            direct_io_allow_mmap: true,
            atomic_o_trunc: true,
            cache_symlinks: true,
        };
        assert_eq!(capabilities_to_fuser(&all).iter().count(), 11);
        assert_eq!(capabilities_from_fuser(capabilities_to_fuser(&all)), all);
        assert_eq!(capabilities_from_fuser(InitFlags::empty()), Capabilities::default());
    }
}
