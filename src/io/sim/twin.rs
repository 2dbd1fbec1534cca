//! The simulated disk answers as the real one does, as long as nothing crashes.

use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::SimDisk;
use crate::io::{Disk, RealDisk};

#[derive(Clone, Debug)]
enum Call {
    Create(u8),
    Directories(u8),
    Write { path: u8, offset: u16, len: u16, fill: u8 },
    SetLen(u8, u16),
    Preallocate(u8, u16, u16),
    Read(u8, u16, u16),
    Rename(u8, u8),
    Remove(u8),
    List(u8),
    Sync(u8),
}

/// Few names, some of them below others, so that calls meet.
const PATHS: [&str; 6] = ["a", "b", "d", "d/a", "d/b", "d/e/f"];

fn path(index: u8) -> &'static Path {
    Path::new(PATHS[usize::from(index) % PATHS.len()])
}

fn call() -> impl Strategy<Value = Call> {
    let p = 0u8..PATHS.len() as u8;
    prop_oneof![
        p.clone().prop_map(Call::Create),
        p.clone().prop_map(Call::Directories),
        (p.clone(), any::<u16>(), 1u16..9000, any::<u8>())
            .prop_map(|(path, offset, len, fill)| Call::Write { path, offset, len, fill }),
        (p.clone(), any::<u16>()).prop_map(|(path, len)| Call::SetLen(path, len)),
        (p.clone(), any::<u16>(), 1u16..9000).prop_map(|(path, at, len)| Call::Preallocate(path, at, len)),
        (p.clone(), any::<u16>(), any::<u16>()).prop_map(|(path, at, len)| Call::Read(path, at, len)),
        (p.clone(), p.clone()).prop_map(|(from, to)| Call::Rename(from, to)),
        p.clone().prop_map(Call::Remove),
        p.clone().prop_map(Call::List),
        p.prop_map(Call::Sync),
    ]
}

#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    Bytes(Vec<u8>),
    Names(Vec<PathBuf>),
}

fn answer(disk: &dyn Disk, call: &Call) -> io::Result<Answer> {
    match *call {
        Call::Create(at) => disk.create_new(path(at)).map(|_| Answer::Done),
        Call::Directories(at) => disk.create_directories(path(at)).map(|()| Answer::Done),
        Call::Write { path: at, offset, len, fill } => {
            let bytes = vec![fill; usize::from(len)];
            disk.open_writable(path(at))?.write_at(u64::from(offset), &bytes).map(|()| Answer::Done)
        }
        Call::SetLen(at, len) => disk.open_writable(path(at))?.set_len(u64::from(len)).map(|()| Answer::Done),
        Call::Preallocate(at, offset, len) => {
            let file = disk.open_writable(path(at))?;
            file.preallocate(u64::from(offset), u64::from(len)).map(|()| Answer::Done)
        }
        Call::Read(at, offset, len) => {
            let file = disk.open(path(at))?;
            let mut bytes = vec![1; usize::from(len)];
            let read = file.read_at(u64::from(offset), &mut bytes)?;
            bytes.truncate(read);
            bytes.extend(file.len()?.to_le_bytes());
            Ok(Answer::Bytes(bytes))
        }
        Call::Rename(from, to) => disk.rename(path(from), path(to)).map(|()| Answer::Done),
        Call::Remove(at) => disk.remove(path(at)).map(|()| Answer::Done),
        Call::List(at) => disk.list(path(at)).map(Answer::Names),
        Call::Sync(at) => {
            disk.open(path(at))?.sync()?;
            disk.sync_directory(path(at).parent().unwrap_or(Path::new(""))).map(|()| Answer::Done)
        }
    }
}

/// Directories are never renamed or removed here; the two disks need not agree on that.
fn concerns_a_directory(disk: &dyn Disk, call: &Call) -> bool {
    let is_directory = |at: u8| disk.list(path(at)).is_ok();
    match *call {
        Call::Rename(from, to) => is_directory(from) || is_directory(to),
        Call::Remove(at) => is_directory(at),
        _ => false,
    }
}

proptest! {
    #[test]
    fn the_simulated_disk_answers_as_the_real_one(calls in proptest::collection::vec(call(), 1..60)) {
        let directory = tempfile::tempdir().unwrap();
        let real = RealDisk::open(directory.path()).unwrap();
        let simulated = SimDisk::new(1);
        for call in calls {
            if concerns_a_directory(&real, &call) {
                continue;
            }
            match (answer(&real, &call), answer(&simulated, &call)) {
                (Ok(left), Ok(right)) => prop_assert_eq!(left, right, "{:?}", call),
                (Err(left), Err(right)) => prop_assert_eq!(left.kind(), right.kind(), "{:?}", call),
                (left, right) => prop_assert!(false, "{:?}: {:?} but {:?}", call, left, right),
            }
        }
        simulated.restart();
        prop_assert_eq!(simulated.list(Path::new("")).unwrap(), real.list(Path::new("")).unwrap());
    }
}
