//! The simulated disk and its controls.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::content::Content;
use super::fault::{DiskStatistics, Fault, Operation};
use super::file::SimFile;
use super::names::{Names, Node, Number};
use crate::io::{Disk, DiskFile, Lock, SeededRandom};

/// A disk in memory, for one simulated machine. Clones are the same disk.
///
/// What happens follows from the seed and the order of calls. A crash ends a *life*: files and locks of a past
/// life answer with an error, as those of a dead process cannot be used by the next.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

pub(super) struct State {
    random: SeededRandom,
    pub names: Names,
    pub files: BTreeMap<Number, Content>,
    locks: BTreeMap<PathBuf, Held>,
    pub life: u64,
    /// Operations until everything fails; `None`: not planned.
    left: Option<u64>,
    faults: Vec<Fault>,
    capacity_bytes: Option<u64>,
    pub statistics: DiskStatistics,
}

#[derive(Clone, Copy)]
enum Held {
    Shared(u64),
    Exclusive,
}

/// How an operation is to end.
pub(super) enum Verdict {
    Proceed,
    /// It cannot take place: its process is dead.
    Dead(io::Error),
    /// It fails, and may have taken place in part.
    Fail(io::Error),
    /// The process is killed during this operation, which may take place in part.
    KilledDuring,
}

impl State {
    /// Counts an operation of a process of `life`.
    pub fn begin(&mut self, life: u64, operation: Operation) -> Verdict {
        if life != self.life {
            return Verdict::Dead(io::Error::other("this file was opened before the simulated crash"));
        }
        match &mut self.left {
            Some(0) => return Verdict::Dead(killed()),
            Some(left) => {
                *left -= 1;
                if *left == 0 {
                    return Verdict::KilledDuring;
                }
            }
            None => {}
        }
        // All are asked, so that each counts.
        let struck =
            self.faults.iter_mut().filter_map(|fault| fault.strikes(operation).then_some(())).count();
        if struck > 0 {
            return Verdict::Fail(Errno::IO.into());
        }
        Verdict::Proceed
    }

    /// As [`State::begin`] for what cannot take place in part.
    pub fn begin_whole(&mut self, life: u64, operation: Operation) -> io::Result<()> {
        match self.begin(life, operation) {
            Verdict::Proceed => Ok(()),
            Verdict::Dead(error) | Verdict::Fail(error) => Err(error),
            Verdict::KilledDuring => Err(killed()),
        }
    }

    pub fn random(&mut self) -> &mut SeededRandom {
        &mut self.random
    }

    pub fn content(&mut self, file: Number) -> io::Result<&mut Content> {
        self.files.get_mut(&file).ok_or_else(|| Errno::STALE.into())
    }

    /// The content together with the randomness, which both belong to the state.
    pub fn content_and_random(&mut self, file: Number) -> io::Result<(&mut Content, &mut SeededRandom)> {
        let content = self.files.get_mut(&file).ok_or(Errno::STALE)?;
        Ok((content, &mut self.random))
    }

    /// Whether a write or reservation of this range finds room.
    pub fn require_space(&mut self, file: Number, offset: u64, len: u64) -> io::Result<()> {
        if self.capacity_bytes.is_none() {
            return Ok(());
        }
        let missing = self.content(file)?.live.missing_bytes(offset, len);
        if self.available_bytes() >= missing { Ok(()) } else { Err(Errno::NOSPC.into()) }
    }

    fn available_bytes(&self) -> u64 {
        // A plenty that sums do not overflow.
        let Some(capacity) = self.capacity_bytes else { return 1 << 50 };
        capacity.saturating_sub(self.used_bytes())
    }

    /// What files with a name occupy; a file without one lives on only until the next life.
    fn used_bytes(&self) -> u64 {
        let sizes = self.names.reached().into_iter().map(|node| match node {
            Node::File(number) => self.files.get(&number).map_or(0, |content| content.live.allocated_bytes()),
            Node::Directory(_) => 0,
        });
        sizes.sum()
    }

    /// A new life: nothing is planned to fail, no lock is held. A removed file may come back with a crash as
    /// long as its removal was not synced.
    fn begin_life(&mut self) {
        self.life += 1;
        self.left = None;
        self.faults.clear();
        self.locks.clear();
    }
}

pub(super) fn killed() -> io::Error {
    io::Error::other("the simulated process was killed")
}

impl SimDisk {
    /// An empty disk without a limit.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        let state = State {
            random: SeededRandom::new(seed),
            names: Names::new(),
            files: BTreeMap::new(),
            locks: BTreeMap::new(),
            life: 0,
            left: None,
            faults: Vec::new(),
            capacity_bytes: None,
            statistics: DiskStatistics::default(),
        };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Power is lost and comes back: of what was not synced, an arbitrary part is left. Limits on space stay,
    /// faults and [`SimDisk::kill_after`] do not.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        let State { names, files, random, .. } = &mut *state;
        names.crash(random);
        for content in files.values_mut() {
            content.crash(random);
        }
        let reached = state.names.reached();
        state.files.retain(|number, _| reached.contains(&Node::File(*number)));
        state.begin_life();
    }

    /// The process is killed and another may begin; the machine, and what it holds in memory, lives on.
    pub fn restart(&self) {
        self.state.lock().begin_life();
    }

    /// During the `operations`th operation from now (reads and syncs count) the process is killed: it may take
    /// place in part, and everything fails from then on, until [`SimDisk::crash`] or [`SimDisk::restart`].
    pub fn kill_after(&self, operations: u64) {
        self.state.lock().left = Some(operations.max(1));
    }

    /// Whether a kill that was planned has happened.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.state.lock().left == Some(0)
    }

    /// Plans a failure; several may be planned.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Failures, and a kill, that are planned no longer are.
    pub fn clear_faults(&self) {
        let mut state = self.state.lock();
        state.faults.clear();
        state.left = state.left.filter(|left| *left == 0);
    }

    /// From now on only this many more bytes can be stored, rounded to blocks of 4 KiB; `None`: no limit.
    pub fn set_available(&self, bytes: Option<u64>) {
        let mut state = self.state.lock();
        let used = state.used_bytes();
        state.capacity_bytes = bytes.map(|bytes| used.saturating_add(bytes));
    }

    #[must_use]
    pub fn statistics(&self) -> DiskStatistics {
        self.state.lock().statistics
    }

    /// Bytes that the files occupy.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// Paths of all files, ascending, with their sizes.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state.lock();
        let mut found = Vec::new();
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            for name in state.names.names(&directory).unwrap_or_default() {
                let path = directory.join(name);
                match state.names.find(&path) {
                    Ok(Node::Directory(_)) => directories.push(path),
                    Ok(Node::File(number)) => found.push((path, state.files[&number].live.len)),
                    Err(_) => {}
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// Changes stored bytes in place, durable and live, as a failing medium does; never beyond the end.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn overwrite(&self, path: &Path, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        let number = state.names.file(path)?;
        state.content(number)?.overwrite(offset_bytes, bytes);
        Ok(())
    }

    /// Another disk with the same state, whose future follows from `seed`. Its files are to be opened anew.
    #[must_use]
    pub fn copy(&self, seed: u64) -> SimDisk {
        let state = self.state.lock();
        let copy = State {
            random: SeededRandom::new(seed),
            names: state.names.clone(),
            files: state.files.clone(),
            locks: BTreeMap::new(),
            life: state.life,
            left: state.left,
            faults: state.faults.clone(),
            capacity_bytes: state.capacity_bytes,
            statistics: state.statistics,
        };
        SimDisk { state: Arc::new(Mutex::new(copy)) }
    }

    fn file(&self, state: &State, number: Number, writable: bool) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { state: Arc::clone(&self.state), number, life: state.life, writable })
    }

    /// A change of names that a process of the present life makes.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        let life = state.life;
        let verdict = state.begin(life, Operation::Name);
        match verdict {
            Verdict::Dead(error) | Verdict::Fail(error) => return Err(error),
            Verdict::KilledDuring if state.random.chance(1, 2) => return Err(killed()),
            Verdict::Proceed | Verdict::KilledDuring => {}
        }
        let result = change(&mut state)?;
        state.statistics.names_changed += 1;
        if matches!(verdict, Verdict::KilledDuring) { Err(killed()) } else { Ok(result) }
    }

    fn read<T>(&self, read: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        let life = state.life;
        state.begin_whole(life, Operation::Read)?;
        read(&mut state)
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.read(|state| Ok(self.file(state, state.names.file(path)?, false)))
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.read(|state| Ok(self.file(state, state.names.file(path)?, true)))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.change(|state| {
            let number = state.names.new_number();
            state.names.add(path, Node::File(number))?;
            state.files.insert(number, Content::default());
            Ok(self.file(state, number, true))
        })
    }

    fn create_directories(&self, path: &Path) -> io::Result<()> {
        let mut made = PathBuf::new();
        for part in path.components() {
            made.push(part);
            let found = self.read(|state| Ok(state.names.directory(&made)))?;
            match found {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.change(|state| {
                    let number = state.names.new_number();
                    state.names.add(&made, Node::Directory(number))
                })?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.read(|state| Ok(state.names.names(path)?.into_iter().map(PathBuf::from).collect()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|state| state.names.remove(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| state.names.rename(from, to))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let life = state.life;
        state.begin_whole(life, Operation::SyncDirectory)?;
        let directory = state.names.directory(path)?;
        state.names.sync(directory);
        state.statistics.directory_syncs += 1;
        Ok(())
    }

    fn try_lock(&self, path: &Path, shared: bool) -> io::Result<Option<Lock>> {
        if self.read(|state| Ok(state.names.file(path).is_err()))? {
            match self.create_new(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        self.read(|state| {
            let held = match (state.locks.get(path), shared) {
                (None, false) => Held::Exclusive,
                (None, true) => Held::Shared(1),
                (Some(Held::Shared(holders)), true) => Held::Shared(holders + 1),
                (Some(_), _) => return Ok(None),
            };
            state.locks.insert(path.to_owned(), held);
            let guard = Guard { state: Arc::clone(&self.state), path: path.to_owned(), life: state.life };
            Ok(Some(Lock(Box::new(guard))))
        })
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.read(|state| Ok(state.available_bytes()))
    }

    fn display(&self, path: &Path) -> String {
        path.display().to_string()
    }
}

struct Guard {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    life: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.life != self.life {
            return;
        }
        match state.locks.get(&self.path) {
            Some(Held::Shared(holders)) if *holders > 1 => {
                let left = Held::Shared(holders - 1);
                state.locks.insert(self.path.clone(), left);
            }
            _ => {
                state.locks.remove(&self.path);
            }
        }
    }
}
