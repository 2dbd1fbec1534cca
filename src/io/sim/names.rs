//! The names of the simulated disk: live, durable, and the changes that no directory sync has covered.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path};

use super::content::Survival;
use crate::io::SeededRandom;

pub(super) type Number = u64;
pub(super) const ROOT: Number = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(Number),
    Directory(Number),
}

/// What a name stands for since change number `since`; `None` for a name that was taken away.
#[derive(Clone, Copy, Debug)]
struct Durable {
    since: u64,
    node: Option<Node>,
}

#[derive(Clone, Debug, Default)]
struct Directory {
    live: BTreeMap<OsString, Node>,
    durable: BTreeMap<OsString, Durable>,
}

/// One effect on one name.
#[derive(Clone, Debug)]
struct Effect {
    directory: Number,
    name: OsString,
    node: Option<Node>,
    synced: bool,
}

/// A change of names, whole or not at all after a crash.
#[derive(Clone, Debug)]
struct Change {
    number: u64,
    effects: Vec<Effect>,
}

#[derive(Clone, Debug)]
pub(super) struct Names {
    directories: BTreeMap<Number, Directory>,
    pending: Vec<Change>,
    next_change: u64,
    next_number: Number,
}

impl Names {
    pub fn new() -> Names {
        Names {
            directories: BTreeMap::from([(ROOT, Directory::default())]),
            pending: Vec::new(),
            next_change: 1,
            next_number: ROOT + 1,
        }
    }

    pub fn new_number(&mut self) -> Number {
        self.next_number += 1;
        self.next_number - 1
    }

    pub fn find(&self, path: &Path) -> io::Result<Node> {
        let mut node = Node::Directory(ROOT);
        for part in path.components() {
            let Component::Normal(name) = part else {
                if part == Component::CurDir {
                    continue;
                }
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "path leads out of its disk"));
            };
            let Node::Directory(directory) = node else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            node = *self.live(directory)?.get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    pub fn file(&self, path: &Path) -> io::Result<Number> {
        match self.find(path)? {
            Node::File(number) => Ok(number),
            Node::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub fn directory(&self, path: &Path) -> io::Result<Number> {
        match self.find(path)? {
            Node::Directory(number) => Ok(number),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The directory of a path and its last part.
    pub fn place(&self, path: &Path) -> io::Result<(Number, OsString)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.directory(path.parent().unwrap_or(Path::new("")))?, name.to_owned()))
    }

    pub fn add(&mut self, path: &Path, node: Node) -> io::Result<()> {
        let (directory, name) = self.place(path)?;
        if self.live(directory)?.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if let Node::Directory(number) = node {
            self.directories.insert(number, Directory::default());
        }
        self.change(vec![(directory, name, Some(node))]);
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let (directory, name) = self.place(path)?;
        self.change(vec![(directory, name, None)]);
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_directory, from_name) = self.place(from)?;
        let (to_directory, to_name) = self.place(to)?;
        let number = self.file(from)?;
        match self.live(to_directory)?.get(&to_name) {
            Some(Node::Directory(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            Some(Node::File(same)) if *same == number => return Ok(()),
            _ => {}
        }
        self.change(vec![
            (from_directory, from_name, None),
            (to_directory, to_name, Some(Node::File(number))),
        ]);
        Ok(())
    }

    pub fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        Ok(self.live(self.directory(path)?)?.keys().cloned().collect())
    }

    /// Makes the names in a directory durable. A change of two directories becomes durable when both are synced.
    pub fn sync(&mut self, directory: Number) {
        for effect in self.pending.iter_mut().flat_map(|change| &mut change.effects) {
            effect.synced |= effect.directory == directory;
        }
        let pending = std::mem::take(&mut self.pending);
        let (done, left) = pending
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.effects.iter().all(|effect| effect.synced));
        self.pending = left;
        for change in done {
            self.settle(change);
        }
    }

    /// The machine stops: of the changes that no sync covered, some survive.
    pub fn crash(&mut self, random: &mut SeededRandom) {
        let survival = Survival::draw(random);
        let pending = std::mem::take(&mut self.pending);
        let whole = random.below(pending.len() as u64 + 1) as usize;
        for (index, change) in pending.into_iter().enumerate() {
            let survives = match survival {
                Survival::Nothing => false,
                Survival::Everything => true,
                Survival::Beginning => index < whole,
                Survival::Some(odds) => random.chance(odds, 8),
            };
            if survives {
                self.settle(change);
            }
        }
        for directory in self.directories.values_mut() {
            directory.durable.retain(|_, durable| durable.node.is_some());
            directory.live = directory
                .durable
                .iter()
                .filter_map(|(name, durable)| Some((name.clone(), durable.node?)))
                .collect();
        }
        let reached = self.reached();
        self.directories.retain(|number, _| reached.contains(&Node::Directory(*number)) || *number == ROOT);
    }

    /// Everything that a live name leads to.
    pub fn reached(&self) -> Vec<Node> {
        let mut reached = vec![Node::Directory(ROOT)];
        let mut next = 0;
        while let Some(node) = reached.get(next).copied() {
            if let Node::Directory(number) = node {
                reached
                    .extend(self.directories.get(&number).into_iter().flat_map(|found| found.live.values()));
            }
            next += 1;
        }
        reached
    }

    fn live(&self, directory: Number) -> io::Result<&BTreeMap<OsString, Node>> {
        Ok(&self.directories.get(&directory).ok_or(io::ErrorKind::NotFound)?.live)
    }

    fn change(&mut self, effects: Vec<(Number, OsString, Option<Node>)>) {
        let number = self.next_change;
        self.next_change += 1;
        let mut recorded = Vec::with_capacity(effects.len());
        for (directory, name, node) in effects {
            if let Some(found) = self.directories.get_mut(&directory) {
                match node {
                    Some(node) => found.live.insert(name.clone(), node),
                    None => found.live.remove(&name),
                };
            }
            recorded.push(Effect { directory, name, node, synced: false });
        }
        self.pending.push(Change { number, effects: recorded });
    }

    /// Changes may settle out of order; the later one of a name wins.
    fn settle(&mut self, change: Change) {
        for effect in change.effects {
            let Some(directory) = self.directories.get_mut(&effect.directory) else { continue };
            let durable = Durable { since: change.number, node: effect.node };
            let entry = directory.durable.entry(effect.name).or_insert(durable);
            if entry.since < change.number {
                *entry = durable;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> &Path {
        Path::new(text)
    }

    #[test]
    fn a_synced_name_survives_and_an_unsynced_one_may_not() {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..100 {
            let mut names = Names::new();
            let number = names.new_number();
            names.add(path("synced"), Node::File(number)).unwrap();
            names.sync(ROOT);
            let number = names.new_number();
            names.add(path("unsynced"), Node::File(number)).unwrap();
            names.crash(&mut SeededRandom::new(seed));
            assert!(names.file(path("synced")).is_ok());
            if names.file(path("unsynced")).is_ok() { kept += 1 } else { lost += 1 }
        }
        assert!(lost > 10 && kept > 10);
    }

    #[test]
    fn a_rename_happens_whole_or_not_at_all() {
        for seed in 0..100 {
            let mut names = Names::new();
            let (old, new) = (names.new_number(), names.new_number());
            names.add(path("target"), Node::File(old)).unwrap();
            names.add(path("fresh"), Node::File(new)).unwrap();
            names.sync(ROOT);
            names.rename(path("fresh"), path("target")).unwrap();
            names.crash(&mut SeededRandom::new(seed));
            let target = names.file(path("target")).unwrap();
            assert_eq!(names.file(path("fresh")).is_ok(), target == old, "seed {seed}");
        }
    }

    #[test]
    fn what_lies_below_a_lost_directory_is_lost() {
        let mut lost = 0;
        for seed in 0..100 {
            let mut names = Names::new();
            let directory = names.new_number();
            names.add(path("d"), Node::Directory(directory)).unwrap();
            let file = names.new_number();
            names.add(path("d/f"), Node::File(file)).unwrap();
            names.sync(directory);
            names.crash(&mut SeededRandom::new(seed));
            let has_directory = names.directory(path("d")).is_ok();
            assert_eq!(names.reached().contains(&Node::File(file)), has_directory);
            lost += u32::from(!has_directory);
        }
        assert!(lost > 10);
    }

    #[test]
    fn a_name_removed_and_synced_stays_removed_although_its_rename_settles_later() {
        let mut names = Names::new();
        let (directory, file) = (names.new_number(), names.new_number());
        names.add(path("d"), Node::Directory(directory)).unwrap();
        names.add(path("a"), Node::File(file)).unwrap();
        names.sync(ROOT);
        names.rename(path("a"), path("d/b")).unwrap();
        names.remove(path("d/b")).unwrap();
        names.sync(directory);
        names.sync(ROOT);
        names.crash(&mut SeededRandom::new(1));
        assert!(names.names(path("d")).unwrap().is_empty());
        assert_eq!(names.names(path("")).unwrap(), ["d"]);
    }
}
