//! Flipped bytes and lost files anywhere: right answers or errors that say what is damaged.

use std::path::{Path, PathBuf};

use super::*;
use crate::io::Disk;

/// Two lives with covered ranges, several segments each, and what should be seen of them.
struct Sound {
    disk: SimDisk,
    replay: Replay,
    ranges: Vec<Range>,
    bookmarks: usize,
    end: Position,
}

fn sound() -> Sound {
    let disk = SimDisk::new(11);
    let source = new_source(&disk);
    let clock = Arc::new(SimClock::new(START));
    let mut chances = Chances::new(11);
    let mut replay = Replay::default();
    for _ in 0..2 {
        let mut life = Life::begin(&source, &clock);
        for step in 0..60 {
            let change = if step == 10 { begin() } else { chances.draw() };
            replay.changes.push((life.record(&change), change));
            if step % 12 == 11 {
                life.seal();
            }
        }
    }
    let history = source.history(&cache()).unwrap();
    assert_eq!((history.segments().len(), history.ranges().len()), (10, 2));
    assert!(history.snapshots().len() > 2);
    Sound {
        disk,
        replay,
        ranges: history.ranges().to_vec(),
        bookmarks: history.bookmarks().len(),
        end: history.end(),
    }
}

fn source_on(disk: &SimDisk) -> Result<Source, RepositoryError> {
    Repository::open(Arc::new(disk.clone()), Access::Write)?.source("his")
}

impl Sound {
    /// What is asked after `path` was damaged. `names_must_survive`: other objects say the same.
    fn judge(&self, disk: &SimDisk, path: &Path, names_must_survive: bool) {
        let history = match source_on(disk) {
            Ok(source) => source.history(&cache()).expect("damage is worked around"),
            Err(error) => {
                assert!(names_in(&error, path), "{error}");
                return;
            }
        };
        assert_eq!(history.ranges(), self.ranges, "{}", path.display());
        assert_eq!(history.bookmarks().len(), self.bookmarks);
        for (position, _) in self.replay.changes.iter().step_by(7) {
            match history.namespace_at(*position) {
                Ok(namespace) => assert_eq!(namespace, self.replay.at(*position), "{position}"),
                Err(RepositoryError::NamesLost { .. }) if !names_must_survive => {}
                Err(error) => panic!("{position}: {error}"),
            }
        }
        drop(history);
        let source = source_on(disk).expect("it was there");
        let report = source.repository().verify(None, 1, &|_| {}).expect("storage answers");
        let named = report.damages.iter().any(|damage| Path::new(&damage.object).ends_with(path));
        assert!(named, "{} is not among {:?}", path.display(), report.damages);

        let clock = Arc::new(SimClock::new(Time(START.0 + 1_000_000_000_000)));
        let mut life = Life::begin(&source, &clock);
        assert!(life.log.written_position() >= self.end);
        match &life.seat.beginning {
            Beginning::Damaged { .. } => assert!(!names_must_survive && life.seat.namespace.is_empty()),
            Beginning::Crash => assert_eq!(life.seat.namespace, self.replay.at(self.end)),
            other => panic!("{other:?}"),
        }
        life.record(&begin());
        life.seal();
        drop(life);
        let healed = source.history(&cache()).expect("as before");
        assert_eq!(healed.ranges()[..2], self.ranges);
        assert_eq!(healed.ranges().len(), 3);
        assert_eq!(healed.damages(), [] as [&str; 0], "a new writer mends the manifest");
    }
}

fn names_in(error: &RepositoryError, path: &Path) -> bool {
    let object = match error {
        RepositoryError::Damaged { object, .. } => object,
        // The first bytes of the file that makes a repository: then it is none.
        RepositoryError::Foreign { .. } => return path == Path::new("pitgate-repository"),
        _ => return false,
    };
    Path::new(object).ends_with(path)
}

/// Objects whose loss must cost no name: something else says the same.
fn is_redundant(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("manifest") || text.contains("snapshots")
}

fn has_a_checksum(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name != "lock" && name != "readers")
}

fn objects(sound: &Sound) -> Vec<(PathBuf, u64)> {
    let mut files = sound.disk.files();
    files.retain(|(path, len)| has_a_checksum(path) && *len > 0);
    files
}

#[test]
fn a_flipped_byte_anywhere_is_named_and_gives_no_wrong_answer() {
    let sound = sound();
    let mut random = SeededRandom::new(5);
    for (path, len_bytes) in objects(&sound) {
        for _ in 0..6 {
            let disk = sound.disk.copy(random.next());
            let at = random.below(len_bytes);
            let mut byte = [0];
            disk.open(&path).unwrap().read_at(at, &mut byte).unwrap();
            disk.overwrite(&path, at, &[byte[0] ^ (1 << random.below(8))]).unwrap();
            println!("{} at {at}", path.display());
            sound.judge(&disk, &path, is_redundant(&path));
        }
    }
}

#[test]
fn a_lost_manifest_is_put_together_from_what_it_named() {
    let sound = sound();
    let disk = sound.disk.copy(1);
    for (path, _) in objects(&sound).iter().filter(|(path, _)| path.to_string_lossy().contains("manifest")) {
        disk.remove(path).unwrap();
    }
    let source = source_on(&disk).unwrap();
    let history = source.history(&cache()).unwrap();
    assert_eq!(history.ranges(), sound.ranges);
    let seat = source.become_writer(&holder(), &cache()).unwrap();
    assert!(seat.log_state.first_position > sound.end);
    assert_eq!(seat.log_state.epoch.0, 3);
    assert_eq!(seat.namespace, sound.replay.at(sound.end));
}

#[test]
fn a_lost_segment_is_named_and_points_before_it_stay() {
    let sound = sound();
    let source = source_on(&sound.disk).unwrap();
    let history = source.history(&cache()).unwrap();
    let lost = history.segments()[4].clone();
    let disk = sound.disk.copy(1);
    disk.remove(&source.segment_path(lost.id)).unwrap();
    // Without the snapshots behind it nothing leads over the hole.
    for snapshot in history.snapshots().iter().filter(|snapshot| snapshot.position >= lost.first().position) {
        disk.remove(&source.snapshot_path(snapshot)).unwrap();
    }
    let source = source_on(&disk).unwrap();
    let history = source.history(&cache()).unwrap();
    for (position, _) in &sound.replay.changes {
        match history.namespace_at(*position) {
            Ok(namespace) => {
                assert!(*position < lost.first().position);
                assert_eq!(namespace, sound.replay.at(*position));
            }
            Err(error) => {
                assert!(*position >= lost.first().position);
                assert!(error.to_string().contains(&lost.id.to_string()), "{error}");
            }
        }
    }
    let report = source.repository().verify(Some("his"), 3, &|_| {}).unwrap();
    let named = report.damages.iter().find(|damage| damage.object.contains(&lost.id.to_string())).unwrap();
    assert_eq!(named.affected, Some((lost.first().position, sound.end)));

    // Capture goes on with a tree that starts anew, under ids never given before.
    let clock = Arc::new(SimClock::new(Time(START.0 + 1_000_000_000_000)));
    let mut life = Life::begin(&source, &clock);
    assert!(
        matches!(&life.seat.beginning, Beginning::Damaged { what } if what.contains(&lost.id.to_string()))
    );
    let fresh = life.seat.namespace.next_file();
    assert!(life.seat.namespace.is_empty() && fresh.0 > 1 << 40);
    let ChangeBody::Names(NamespaceChange::Root { label, mountpoint, data_dir, attributes, .. }) =
        declare_root()
    else {
        unreachable!("that is what it is")
    };
    let root = NamespaceChange::Root { file: fresh, label, mountpoint, data_dir, attributes };
    life.record(&ChangeBody::Names(root.clone()));
    let covered = life.record(&begin());
    life.seal();
    drop(life);
    let mut expected = Namespace::new();
    expected.raise_next_file(fresh);
    expected.apply(&root).unwrap();
    let history = source.history(&cache()).unwrap();
    assert_eq!(history.namespace_at(covered).unwrap(), expected);
    assert_eq!(
        history.segments_from(covered),
        10,
        "no page of the new tree is looked for in the old segments"
    );
    assert_eq!(history.segments_from(sound.end), 0);
    assert_eq!(history.ranges().last().unwrap().first.position, covered);
    // And the life after that finds its tree.
    assert_eq!(Life::begin(&source, &clock).seat.namespace, expected);
}
