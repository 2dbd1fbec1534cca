//! The same random system calls on a mount and on a plain directory must do the same.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use pitgate::io::SeededRandom;
use rustix::fs::{FallocateFlags, RenameFlags};

use crate::stage::Stage;

/// One call; paths are relative to the directory under test.
#[derive(Clone, Debug)]
enum Call {
    Create(String),
    Write { path: String, offset: u64, bytes: Vec<u8>, sync: bool },
    Truncate { path: String, size: u64 },
    Punch { path: String, offset: u64, len: u64 },
    ZeroRange { path: String, offset: u64, len: u64 },
    Read { path: String, offset: u64, len: usize },
    MakeDirectory(String),
    RemoveDirectory(String),
    Remove(String),
    Rename { from: String, to: String, flags: RenameFlags },
    Link { from: String, to: String },
    Symlink { target: String, path: String },
    Mode { path: String, mode: u32 },
    Status(String),
    List(String),
}

fn draw_path(random: &mut SeededRandom) -> String {
    let names = ["a", "b", "c", "d"];
    let depth = 1 + random.below(3);
    (0..depth).map(|_| *random.pick(&names)).collect::<Vec<_>>().join("/")
}

fn draw(random: &mut SeededRandom) -> Call {
    let path = draw_path(random);
    let offset = match random.below(3) {
        0 => random.below(40) * 4096,
        1 => random.below(300) * 512,
        _ => random.below(150_000),
    };
    let len = 1 + random.below(20_000);
    match random.below(22) {
        0 | 1 => Call::Create(path),
        2..=6 => {
            let mut bytes = vec![0; len as usize];
            random.fill(&mut bytes);
            Call::Write { path, offset, bytes, sync: random.chance(1, 5) }
        }
        7 | 8 => Call::Truncate { path, size: offset },
        9 => Call::Punch { path, offset, len },
        10 => Call::ZeroRange { path, offset, len },
        11 | 12 => Call::Read { path, offset, len: len as usize },
        13 | 14 => Call::MakeDirectory(path),
        15 => Call::RemoveDirectory(path),
        16 => Call::Remove(path),
        17 | 18 => {
            let flags = *random.pick(&[RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE]);
            Call::Rename { from: path, to: draw_path(random), flags }
        }
        19 => Call::Link { from: path, to: draw_path(random) },
        20 => match random.below(3) {
            0 => Call::Symlink { target: "a".to_owned(), path },
            1 => Call::Mode { path, mode: 0o600 + random.below(0o200) as u32 },
            _ => Call::List(path),
        },
        _ => Call::Status(path),
    }
}

/// What a call tells its caller, as text.
fn perform(root: &Path, call: &Call) -> io::Result<String> {
    let at = |path: &String| root.join(path);
    let write = |path: &String| OpenOptions::new().write(true).open(at(path));
    let done = |()| String::new();
    match call {
        Call::Create(path) => {
            OpenOptions::new().write(true).create_new(true).open(at(path)).map(drop).map(done)
        }
        Call::Write { path, offset, bytes, sync } => {
            let file = write(path)?;
            file.write_all_at(bytes, *offset)?;
            if *sync { file.sync_all().map(done) } else { Ok(String::new()) }
        }
        Call::Truncate { path, size } => write(path)?.set_len(*size).map(done),
        Call::Punch { path, offset, len } => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(done(rustix::fs::fallocate(write(path)?, flags, *offset, *len)?))
        }
        Call::ZeroRange { path, offset, len } => {
            Ok(done(rustix::fs::fallocate(write(path)?, FallocateFlags::ZERO_RANGE, *offset, *len)?))
        }
        Call::Read { path, offset, len } => {
            let mut bytes = vec![0; *len];
            let read = File::open(at(path))?.read_at(&mut bytes, *offset)?;
            Ok(format!("{read} {:x}", crc32c::crc32c(&bytes[..read])))
        }
        Call::MakeDirectory(path) => fs::create_dir(at(path)).map(done),
        Call::RemoveDirectory(path) => fs::remove_dir(at(path)).map(done),
        Call::Remove(path) => fs::remove_file(at(path)).map(done),
        Call::Rename { from, to, flags } => {
            let here = rustix::fs::CWD;
            Ok(done(rustix::fs::renameat_with(here, at(from), here, at(to), *flags)?))
        }
        Call::Link { from, to } => fs::hard_link(at(from), at(to)).map(done),
        Call::Symlink { target, path } => symlink(target, at(path)).map(done),
        Call::Mode { path, mode } => {
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode)).map(done)
        }
        Call::Status(path) => status(&at(path)),
        Call::List(path) => list(&at(path)),
    }
}

fn status(path: &Path) -> io::Result<String> {
    let status = fs::symlink_metadata(path)?;
    // Every file system has its own idea of a directory's size and links.
    let (size, links) = if status.is_dir() { (0, 0) } else { (status.len(), status.nlink()) };
    Ok(format!("{:o} {size} {} {links}", status.mode(), status.uid()))
}

fn list(path: &Path) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        names.push(format!("{:?}:{:?}", entry.file_name(), entry.file_type()?));
    }
    names.sort();
    Ok(names.join(" "))
}

/// Everything below `path`, with contents.
fn describe(path: &Path, out: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        let kind = fs::symlink_metadata(&entry).unwrap();
        let name = entry.file_name().unwrap().to_owned();
        let content = if kind.is_file() {
            format!("{:x}", crc32c::crc32c(&fs::read(&entry).unwrap()))
        } else if kind.is_symlink() {
            format!("{:?}", fs::read_link(&entry).unwrap())
        } else {
            String::new()
        };
        out.push(format!("{name:?} {} {content}", status(&entry).unwrap()));
        if kind.is_dir() {
            describe(&entry, out);
            out.push("up".to_owned());
        }
    }
}

fn described(path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    describe(path, &mut out);
    out
}

#[test]
fn a_mount_does_what_a_plain_directory_does() {
    let rounds = std::env::var("PITGATE_HISTORIES").ok().map_or(6, |text| text.parse().expect("a number"));
    for seed in 0..rounds {
        let mut random = SeededRandom::new(seed);
        let mut stage = Stage::new();
        let plain = stage.scratch.path().join("plain");
        fs::create_dir(&plain).unwrap();
        fs::create_dir(stage.path("twin")).unwrap();
        for round in 0..3 {
            for number in 0..400 {
                let call = draw(&mut random);
                let expected = perform(&plain, &call).map_err(|error| error.raw_os_error());
                let found = perform(&stage.path("twin"), &call).map_err(|error| error.raw_os_error());
                assert_eq!(found, expected, "seed {seed}, round {round}, call {number}: {}", brief(&call));
            }
            assert_eq!(described(&stage.path("twin")), described(&plain), "seed {seed}, round {round}");
            stage.remount();
            assert_eq!(
                described(&stage.path("twin")),
                described(&plain),
                "seed {seed}, round {round}, remounted"
            );
        }
    }
}

fn brief(call: &Call) -> String {
    let mut text = format!("{call:?}");
    text.truncate(200);
    text
}
