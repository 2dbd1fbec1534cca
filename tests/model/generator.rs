//! Random histories: what databases, administrators and unlucky people do to files, as capture reports it.
//!
//! The generator keeps the live tree itself, so that every change it gives is one that a file system could
//! have applied. `data` and `names` make the changes; here is what holds them together.

mod data;
mod names;

use std::collections::BTreeSet;

use bytes::Bytes;
use pitgate::types::{Attributes, ChangeBody, FileId, FileKind, Mark, Time};

use crate::chance::Chance;
use crate::reference::{File, Root, Tree};

/// What happens next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Append this change.
    Change(ChangeBody),
    /// Wait until everything appended is durable.
    Commit,
    /// Seal the open segment.
    Seal,
    /// Stop the writer in good order and start another on the same source.
    Reopen,
    /// The wall clock moves by this many nanoseconds, seldom back.
    Advance { ns: i64 },
}

/// Makes the steps of one history; the same seed makes the same history.
pub struct Generator {
    chance: Chance,
    tree: Tree,
    now: Time,
    next_file: u64,
    root_count: usize,
    bookmark_count: u64,
    covered: bool,
    /// Files that had no name when their life ended: nobody can name them any more.
    lost: BTreeSet<FileId>,
    /// Changes that must come before anything else.
    queue: Vec<Step>,
}

const START: Time = Time(1_780_000_000_000_000_000);

impl Generator {
    pub fn new(seed: u64) -> Generator {
        let mut chance = Chance::new(seed);
        let root_count = chance.weighted(&[0, 3, 2, 1]);
        let mut generator = Generator {
            chance,
            tree: Tree::default(),
            now: START,
            next_file: 2,
            root_count,
            bookmark_count: 0,
            covered: false,
            lost: BTreeSet::new(),
            queue: Vec::new(),
        };
        generator.begin_life();
        generator
    }

    /// Another life of the writer begins, over `tree`: what is left after a crash, or the live tree after a
    /// clean stop. Ids and bookmarks of what a crash took are not used again.
    pub fn resume(&mut self, tree: Tree) {
        self.tree = tree;
        self.begin_life();
    }

    /// The tree as it stands after all changes given so far.
    pub fn live(&self) -> &Tree {
        &self.tree
    }

    /// Where the simulated wall clock stands.
    pub fn now(&self) -> Time {
        self.now
    }

    pub fn step(&mut self) -> Step {
        let step = if self.queue.is_empty() { self.draw() } else { self.queue.remove(0) };
        match &step {
            Step::Change(change) => self.tree.apply(change),
            Step::Advance { ns } => self.now = Time(self.now.0 + ns),
            Step::Reopen => self.begin_life(),
            Step::Commit | Step::Seal => {}
        }
        step
    }

    /// The first thing a writer does: declare the roots; then the image or the comparison, a few changes
    /// that no point shows half; then coverage begins.
    fn begin_life(&mut self) {
        self.queue.clear();
        self.covered = false;
        let nameless = self.tree.files.keys().filter(|&&file| {
            self.tree.names_of(file).is_empty() && !self.tree.roots.iter().any(|root| root.file == file)
        });
        self.lost = nameless.copied().collect();
        for number in 0..self.root_count {
            let change = self.root(number);
            self.queue.push(Step::Change(ChangeBody::Names(change)));
        }
    }

    fn root(&mut self, number: usize) -> pitgate::types::NamespaceChange {
        let label = Bytes::from(["data", "wal", "space 2"][number]);
        let known = self.tree.roots.iter().find(|root| root.label == label).cloned();
        let mut directory = |base: &str| {
            let moved = if self.chance.one_in(8) { "-moved" } else { "" };
            Bytes::from(format!("{base}/{}{moved}", String::from_utf8_lossy(&label)))
        };
        // Not alike, so that what lies around a root depends on the path it is seen by.
        let (mountpoint, data_dir) =
            (directory(["/srv/pg", "/srv", "/srv/pg"][number]), directory("/backing"));
        let (file, attributes) = match known {
            Some(Root { file, .. }) => (file, self.tree.files[&file].attributes),
            None => (self.new_file(), self.attributes(FileKind::Directory)),
        };
        pitgate::types::NamespaceChange::Root { file, label, mountpoint, data_dir, attributes }
    }

    fn draw(&mut self) -> Step {
        if !self.covered && self.chance.one_in(6) {
            self.covered = true;
            return Step::Change(ChangeBody::Mark(Mark::CoverageBegin));
        }
        let kind = self.chance.weighted(&[100, 60, 8, 12, 3, 2, 6]);
        let drawn = match kind {
            0 => self.draw_data().map(|change| Step::Change(ChangeBody::Data(change))),
            1 => self.draw_names().map(|change| Step::Change(ChangeBody::Names(change))),
            2 => self.draw_mark().map(|mark| Step::Change(ChangeBody::Mark(mark))),
            3 => Some(Step::Commit),
            4 => Some(Step::Seal),
            5 => self.chance.one_in(2).then_some(Step::Reopen),
            _ => Some(self.draw_advance()),
        };
        drawn.unwrap_or(Step::Commit)
    }

    fn draw_mark(&mut self) -> Option<Mark> {
        match self.chance.weighted(&[4, 3, 3, 1]) {
            0 => Some(Mark::Heartbeat),
            1 => Some(Mark::Barrier { file: self.some_regular()? }),
            2 => {
                self.bookmark_count += 1;
                Some(Mark::Bookmark { name: format!("shift {}", self.bookmark_count) })
            }
            _ if self.covered && self.chance.one_in(3) => {
                self.covered = false;
                Some(Mark::CoverageEnd { reason: "repository full".into() })
            }
            _ => None,
        }
    }

    fn draw_advance(&mut self) -> Step {
        let ns = match self.chance.weighted(&[6, 3, 2, 1]) {
            0 => self.chance.between(1, 2_000_000),
            1 => self.chance.between(1_000_000, 1_500_000_000),
            2 => self.chance.between(1_000_000_000, 400_000_000_000),
            _ => return Step::Advance { ns: -(self.chance.between(1, 90_000_000_000) as i64) },
        };
        Step::Advance { ns: ns as i64 }
    }

    fn new_file(&mut self) -> FileId {
        // Gaps: ids are not dense, for a crash or another root took some.
        self.next_file += self.chance.between(1, 3);
        FileId(self.next_file - 1)
    }

    fn attributes(&mut self, kind: FileKind) -> Attributes {
        let rdev = match kind {
            FileKind::CharacterDevice | FileKind::BlockDevice => self.chance.between(1, 1 << 40),
            _ => 0,
        };
        Attributes {
            kind,
            mode: self.mode(),
            uid: self.owner(),
            gid: self.owner(),
            rdev,
            mtime: self.mtime(),
        }
    }

    fn mode(&mut self) -> u32 {
        *self
            .chance
            .choose(&[0o600, 0o644, 0o640, 0o700, 0o755, 0o4755, 0o1777, 0, 0o7777])
            .expect("not empty")
    }

    fn owner(&mut self) -> u32 {
        *self.chance.choose(&[0, 26, 999, 65_534, u32::MAX - 1]).expect("not empty")
    }

    /// Mostly now; sometimes what `touch -d` or `tar` set.
    fn mtime(&mut self) -> Time {
        if self.chance.one_in(12) { Time(self.chance.number() as i64 >> 2) } else { self.now }
    }

    fn some_regular(&mut self) -> Option<FileId> {
        let regular: Vec<FileId> = self.of_kind(FileKind::Regular);
        self.chance.choose(&regular).copied()
    }

    /// Files that this life can name or has open.
    fn reachable(&self) -> impl Iterator<Item = (&FileId, &File)> {
        self.tree.files.iter().filter(|(id, _)| !self.lost.contains(id))
    }

    fn of_kind(&self, kind: FileKind) -> Vec<FileId> {
        let matches = self.reachable().filter(|(_, file)| file.attributes.kind == kind);
        matches.map(|(id, _)| *id).collect()
    }
}

mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_history() {
        let history = |seed| {
            let mut generator = Generator::new(seed);
            (0..300).map(|_| format!("{:?}", generator.step())).collect::<Vec<_>>()
        };
        assert!(history(11) == history(11), "seed 11 makes two histories");
        assert!(history(11) != history(12), "seeds 11 and 12 make one history");
    }

    #[test]
    fn a_resumed_history_uses_no_id_again() {
        let mut generator = Generator::new(3);
        let early = generator.live().clone();
        let mut created = std::collections::BTreeSet::new();
        for number in 0..400 {
            if number == 200 {
                // A crash that took everything.
                generator.resume(early.clone());
            }
            use pitgate::types::NamespaceChange::{Create, Root};
            match generator.step() {
                Step::Change(ChangeBody::Names(Create { file, .. })) => {
                    assert!(created.insert(file), "{file:?}")
                }
                Step::Change(ChangeBody::Names(Root { file, .. })) if number > 199 => {
                    assert!(!created.contains(&file), "{file:?}");
                }
                _ => {}
            }
        }
        assert!(generator.now() > START);
    }

    /// What a step is called in the count below.
    fn kind_of(step: &Step) -> String {
        let text = match step {
            Step::Change(ChangeBody::Data(change)) => {
                let sort = match (change.cut, change.zero, change.pages.len(), change.mtime) {
                    (_, _, _, None) => "image",
                    (true, _, 0, _) => "cut",
                    (true, _, _, _) => "cut with edge",
                    (_, Some(_), 0, _) => "zero",
                    (_, Some(_), _, _) => "zero with edges",
                    (_, _, 0, _) => "size",
                    _ => "write",
                };
                return format!("Data {sort}");
            }
            Step::Change(ChangeBody::Names(change)) => format!("{change:?}"),
            Step::Change(ChangeBody::Mark(mark)) => format!("{mark:?}"),
            other => format!("{other:?}"),
        };
        let nameless = text.contains("parent: None");
        let exchange = text.contains("exchange: true");
        let word: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
        format!(
            "{word}{}{}",
            if nameless { " nameless" } else { "" },
            if exchange { " exchange" } else { "" }
        )
    }

    #[test]
    fn histories_hold_every_kind_of_change() {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for seed in 0..60 {
            let mut generator = Generator::new(seed);
            for _ in 0..200 {
                *counts.entry(kind_of(&generator.step())).or_default() += 1;
            }
        }
        let data = ["image", "cut", "cut with edge", "zero", "zero with edges", "size", "write"];
        let others = [
            "Root",
            "Create",
            "Create nameless",
            "Link",
            "Unlink",
            "Rename",
            "Rename exchange",
            "Attributes",
            "SetXattr",
            "RemoveXattr",
            "Heartbeat",
            "Barrier",
            "Bookmark",
            "CoverageBegin",
            "CoverageEnd",
            "Commit",
            "Seal",
            "Reopen",
            "Advance",
        ];
        for kind in data.map(|sort| format!("Data {sort}")).iter().cloned().chain(others.map(str::to_owned)) {
            assert!(counts.get(&kind).copied().unwrap_or(0) >= 10, "{kind} is rare in {counts:#?}");
        }
    }
}
