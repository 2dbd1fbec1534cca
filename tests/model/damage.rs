//! Damage anywhere in a repository: every read gives right bytes or an error that names the damaged object,
//! nothing else is offered in silence, and a verification names every damaged object and the points affected.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pitgate::index::BlockCache;
use pitgate::io::{Disk, SimDisk};
use pitgate::repository::{
    Access, Damage, History, Holder, Range, RecoveryReport, Repository, RepositoryError, SegmentEntry,
    Source, VerifyReport,
};
use pitgate::types::{FileKind, Image, PAGE_BYTES, Position};
use pitgate::view::{View, ViewCache, ViewError};

use crate::chance::Chance;
use crate::compare::{Difference, compare};
use crate::player::Player;
use crate::reference::{Reference, Tree};

const STEPS: u64 = 70;
const HARMS_PER_HISTORY: u64 = 24;
const POINTS_PER_HISTORY: usize = 6;

/// Files whose content nobody reads: they are there to be locked.
fn is_only_locked(path: &Path) -> bool {
    path.ends_with("lock") || path.components().any(|part| part.as_os_str() == "leases")
}

/// One file that is not what it was.
struct Harm {
    path: PathBuf,
    offset_bytes: u64,
    deed: Deed,
    what: &'static str,
}

enum Deed {
    Write(Vec<u8>),
    /// The file ends at the offset.
    Cut,
    Remove,
}

impl Harm {
    /// A random harm to a random file. All kinds of files are equally likely, beginnings and ends likelier
    /// than what lies between. `None` if it happens to change nothing.
    fn draw(disk: &SimDisk, chance: &mut Chance) -> Option<Harm> {
        let mut kinds: BTreeMap<PathBuf, Vec<(PathBuf, u64)>> = BTreeMap::new();
        for (path, len) in disk.files() {
            if len > 0 && !is_only_locked(&path) {
                kinds.entry(path.parent().unwrap_or(Path::new("")).to_owned()).or_default().push((path, len));
            }
        }
        let kinds: Vec<_> = kinds.into_values().collect();
        let kind = chance.choose(&kinds)?;
        let (path, len) = chance.choose(kind)?.clone();
        let offset = match chance.below(6) {
            0 => chance.below(len.min(128)),
            1 => len - 1 - chance.below(len.min(128)),
            2 => len - 1 - chance.below(len.min(8192)),
            _ => chance.below(len),
        };
        let (offset_bytes, bytes, what) = match chance.below(7) {
            5 => return Some(Harm { path, offset_bytes: offset, deed: Deed::Cut, what: "an end" }),
            6 => return Some(Harm { path, offset_bytes: 0, deed: Deed::Remove, what: "a removal" }),
            0 | 1 => (offset, flipped(&read(disk, &path, offset, 1), 1 << chance.below(8)), "a flipped bit"),
            2 => {
                let run = chance.between(1, 16).min(len - offset);
                (
                    offset,
                    flipped(&read(disk, &path, offset, run), chance.between(1, 255) as u8),
                    "flipped bytes",
                )
            }
            3 => {
                let sector = offset / 512 * 512;
                (sector, vec![0; (len - sector).min(512) as usize], "a sector of zeros")
            }
            _ => {
                let sector = offset / 512 * 512;
                let (other, other_len) = chance.choose(&disk.files()).cloned()?;
                let from = chance.below(other_len.max(1)) / 512 * 512;
                let moved = read(disk, &other, from, 512);
                let fits = moved.len().min((len - sector) as usize);
                (sector, moved[..fits].to_vec(), "a sector from elsewhere")
            }
        };
        let changes = read(disk, &path, offset_bytes, bytes.len() as u64) != bytes;
        changes.then_some(Harm { path, offset_bytes, deed: Deed::Write(bytes), what })
    }

    fn apply(&self, disk: &SimDisk) {
        let done = match &self.deed {
            Deed::Write(bytes) => disk.overwrite(&self.path, self.offset_bytes, bytes),
            Deed::Cut => disk.open_writable(&self.path).and_then(|file| file.set_len(self.offset_bytes)),
            Deed::Remove => disk.remove(&self.path),
        };
        done.expect("the file is there");
    }

    /// Whether a text lets a person find the harmed file.
    fn is_named_in(&self, text: &str) -> bool {
        let stem = self.path.file_stem().and_then(|stem| stem.to_str()).expect("names are plain");
        let makes_a_repository = stem == "pitgate-repository" && self.is_removal();
        text.contains(stem) || makes_a_repository && text.contains("is not a pitgate repository")
    }

    fn is_removal(&self) -> bool {
        matches!(self.deed, Deed::Remove)
    }

    /// Whether on the harmed disk nothing but zeros is left of the file from the harm on, as if nothing had
    /// been written there yet.
    fn leaves_nothing(&self, harmed: &SimDisk) -> bool {
        if self.is_removal() {
            return true;
        }
        let (_, len) =
            harmed.files().into_iter().find(|(path, _)| *path == self.path).expect("the file is there");
        let rest = len.saturating_sub(self.offset_bytes);
        read(harmed, &self.path, self.offset_bytes, rest).iter().all(|&byte| byte == 0)
    }
}

impl std::fmt::Display for Harm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {} of {}", self.what, self.offset_bytes, self.path.display())
    }
}

fn read(disk: &SimDisk, path: &Path, offset_bytes: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    let got = disk.open(path).and_then(|file| file.read_at(offset_bytes, &mut bytes)).expect("readable");
    bytes.truncate(got);
    bytes
}

fn flipped(bytes: &[u8], mask: u8) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ mask).collect()
}

/// An error and all its sources, as the command line shows them.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        write!(text, ": {source}").expect("text grows");
        next = source.source();
    }
    text
}

/// A history as it was before the harm.
struct Scene {
    disk: SimDisk,
    reference: Reference,
    /// Mountable positions to look at, and what is right there.
    points: Vec<(Position, Tree)>,
    ranges: Vec<Range>,
    bookmarks: usize,
    /// The segment that the writer had open when it died.
    open_segment: Option<PathBuf>,
}

impl Scene {
    /// Plays a history. If `abandoned`, its writer died with changes in the open segment, all of them durable.
    fn play(seed: u64, chance: &mut Chance, abandoned: bool) -> Scene {
        let segment_bytes = *chance.choose(&[64 << 10, 256 << 10, 1 << 20]).expect("not empty");
        let mut player = Player::new(seed, segment_bytes);
        for _ in 0..STEPS {
            player.step();
        }
        if abandoned {
            player.sync();
        } else {
            player.seal();
        }
        let disk = player.disk.copy(seed);
        disk.restart();
        let covered = player.reference.covered_positions(&player.epoch_ends);
        let mut points: BTreeMap<Position, Tree> = BTreeMap::new();
        for _ in 0..POINTS_PER_HISTORY {
            // The last ones are likelier: they depend on the most.
            let from = if chance.one_in(2) { covered.len().saturating_sub(10) } else { 0 };
            if let Some(&position) = chance.choose(&covered[from..]) {
                points.insert(position, player.reference.tree_at(position));
            }
        }
        let published = player.history();
        let is_open = |path: &PathBuf| {
            let is_published = |segment: &SegmentEntry| path.ends_with(segment.id.file_name());
            path.extension().is_some_and(|end| end == "seg") && !published.segments().iter().any(is_published)
        };
        let open_segment = disk.files().into_iter().map(|(path, _)| path).find(is_open);
        assert!(abandoned || open_segment.is_none(), "{open_segment:?} is not sealed");
        let sound = sound_history(&disk.copy(seed));
        Scene {
            disk,
            reference: player.reference,
            points: points.into_iter().collect(),
            ranges: sound.ranges().to_vec(),
            bookmarks: sound.bookmarks().len(),
            open_segment,
        }
    }
}

/// What one harm led to; faults panic.
struct Outcome {
    /// Whether anything failed to read.
    failed: bool,
}

struct Judge<'a> {
    scene: &'a Scene,
    harm: &'a Harm,
    disk: SimDisk,
    /// See [`Harm::leaves_nothing`]; recovery writes over it.
    leaves_nothing: bool,
    chance: Chance,
}

impl Judge<'_> {
    fn judge(mut self, abandoned: bool) -> Outcome {
        let access = if abandoned { Access::Write } else { Access::Read };
        let repository = match Repository::open(Arc::new(self.disk.clone()), access) {
            Ok(repository) => repository,
            Err(error) => return self.named(&error),
        };
        let source = match repository.source("his") {
            Ok(source) => source,
            Err(error) => return self.named(&error),
        };
        let cache = Arc::new(BlockCache::new(1 << 20));
        let recovery = match abandoned.then(|| seal_abandoned(&source, &cache)).transpose() {
            Ok(recovery) => recovery.unwrap_or_default(),
            Err(error) => return self.named(&error),
        };
        let history = match source.history(&cache) {
            Ok(history) => Arc::new(history),
            Err(error) => return self.named(&error),
        };
        let report = repository.verify(None, 2, &|_| {}).expect("storage answers");
        let reported = self.judge_reports(&report, &recovery);
        self.judge_offer(&history, reported);
        let mut failed = false;
        for (position, tree) in &self.scene.points {
            failed |= !self.judge_point(&history, *position, tree, &report.damages);
        }
        Outcome { failed }
    }

    /// The error must name what was harmed.
    fn named(&self, error: &RepositoryError) -> Outcome {
        let text = told(error);
        assert!(self.harm.is_named_in(&text), "{}: the error does not name it: {text}", self.harm);
        Outcome { failed: true }
    }

    /// Whether verification or recovery tells of the harm. It must, but for bytes of an open segment: those
    /// that were never used, or are cut as if torn.
    fn judge_reports(&self, report: &VerifyReport, recovery: &RecoveryReport) -> bool {
        let harm = self.harm;
        let mut verified = report.damages.iter().chain(&report.put_aside);
        let named = verified.any(|damage| harm.is_named_in(&damage.object))
            || recovery.damages.iter().any(|text| harm.is_named_in(text));
        let was_open = self.scene.open_segment.as_ref() == Some(&harm.path);
        // Others know what a manifest's object said; then its removal harms nothing.
        let is_spare =
            harm.is_removal() && harm.path.parent().is_some_and(|within| within.ends_with("manifest"));
        assert!(named || was_open || is_spare, "{harm}: not named by {report:?} nor {recovery:?}");
        named || recovery.discarded_bytes > 0 || was_open && self.leaves_nothing
    }

    /// Nothing is offered that was not, and what is offered no more is said to be damaged.
    fn judge_offer(&self, history: &History, reported: bool) {
        let known = |range: &Range| {
            self.scene.ranges.iter().any(|sound| sound.first <= range.first && range.last <= sound.last)
        };
        let (ranges, harm) = (history.ranges(), self.harm);
        assert!(ranges.iter().all(known), "{harm}: offers {ranges:?}, of {:?}", self.scene.ranges);
        let last = self.scene.reference.last_position();
        assert!(history.end() <= last, "{harm}: {} was never recorded", history.end());
        let complete = ranges == self.scene.ranges
            && history.bookmarks().len() == self.scene.bookmarks
            && history.end() == last;
        assert!(complete || reported, "{harm}: offers less, {ranges:?}, and nobody says so");
    }

    /// Whether the point reads right in everything; if not, errors name what was harmed, and a verification
    /// had warned of it.
    fn judge_point(
        &mut self,
        history: &Arc<History>,
        position: Position,
        tree: &Tree,
        damages: &[Damage],
    ) -> bool {
        let harm = self.harm;
        let view = match View::open(Arc::clone(history), position, ViewCache::new(1 << 20)) {
            Ok(view) => view,
            Err(ViewError::NotMountable(_)) => return false,
            Err(error) => {
                let text = told(&error);
                assert!(harm.is_named_in(&text), "{harm}: no view at {position}: {text}");
                self.warned(position, damages, &text);
                return false;
            }
        };
        match compare(&view, tree, &mut self.chance) {
            Ok(()) => return true,
            Err(Difference::Wrong(what)) => panic!("{harm}: wrong at {position}: {what}"),
            Err(Difference::Failed(error)) => {
                let text = told(&error);
                assert!(harm.is_named_in(&text), "{harm}: at {position}: {text}");
                self.warned(position, damages, &text);
            }
        }
        self.judge_pages(&view, position, tree);
        false
    }

    /// Every page is right or an error that names what was harmed.
    fn judge_pages(&self, view: &View, position: Position, tree: &Tree) {
        let harm = self.harm;
        // What an ended life left without a name is gone.
        let is_shown = |id| !tree.names_of(id).is_empty();
        let regular = tree.files.iter().filter(|(_, file)| file.attributes.kind == FileKind::Regular);
        for (id, file) in regular.filter(|(id, _)| is_shown(**id)) {
            for &page in file.pages.keys() {
                let mut buf = [0xaa; PAGE_BYTES];
                let offset_bytes = page * PAGE_BYTES as u64;
                match view.read_at(*id, offset_bytes, &mut buf) {
                    Ok(got) => {
                        let right = buf[..got] == file.read(offset_bytes, PAGE_BYTES);
                        assert!(right, "{harm}: page {page} of {id:?} is wrong at {position}");
                    }
                    Err(error) => {
                        let text = told(&error);
                        assert!(
                            harm.is_named_in(&text),
                            "{harm}: page {page} of {id:?} at {position}: {text}"
                        );
                    }
                }
            }
        }
    }

    fn warned(&self, position: Position, damages: &[Damage], error: &str) {
        let affected = |damage: &Damage| {
            damage.affected.is_some_and(|(first, last)| first <= position && position <= last)
        };
        let warned = damages.iter().any(affected);
        assert!(warned, "{}: {position} fails ({error}), verification says only {damages:?}", self.harm);
    }
}

/// What a repository offers once what a dead writer left is sealed.
fn sound_history(disk: &SimDisk) -> History {
    let repository = Repository::open(Arc::new(disk.clone()), Access::Write).expect("sound");
    let source = repository.source("his").expect("sound");
    let cache = Arc::new(BlockCache::new(1 << 20));
    let recovery = seal_abandoned(&source, &cache).expect("sound");
    assert!(recovery.damages.is_empty(), "{recovery:?}");
    source.history(&cache).expect("sound")
}

fn seal_abandoned(source: &Source, cache: &Arc<BlockCache>) -> Result<RecoveryReport, RepositoryError> {
    source.seal_abandoned(&Holder { pid: 2, host: "simulated".to_owned() }, cache)
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Plays histories and harms each in many ways, one at a time.
fn harm_histories(usual: u64, abandoned: bool) {
    let seeds = match number_from("PITGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from("PITGATE_SEEDS").unwrap_or(usual),
    };
    let (mut harms, mut felt, mut faults) = (0, 0, Vec::new());
    for seed in seeds.clone() {
        let mut chance = Chance::new(seed ^ 0x6861_726d);
        let scene = Scene::play(seed, &mut chance, abandoned);
        for number in 0..HARMS_PER_HISTORY {
            let Some(harm) = Harm::draw(&scene.disk, &mut chance) else { continue };
            let disk = scene.disk.copy(number);
            harm.apply(&disk);
            let leaves_nothing = harm.leaves_nothing(&disk);
            let chance = Chance::new(number);
            let judge = Judge { scene: &scene, harm: &harm, disk, leaves_nothing, chance };
            harms += 1;
            match catch_unwind(AssertUnwindSafe(|| judge.judge(abandoned))) {
                Ok(outcome) => felt += u64::from(outcome.failed),
                Err(panic) => faults.push(format!("PITGATE_SEED={seed}: {}", text_of(panic.as_ref()))),
            }
        }
    }
    println!("{harms} harms, {felt} of them felt");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults[..faults.len().min(20)].join("\n"));
    let one_seed = seeds.end - seeds.start == 1;
    assert!(one_seed || (felt > harms / 20 && felt < harms), "{felt} of {harms} harms were felt");
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// `PITGATE_SEEDS` sets how many histories; `PITGATE_SEED` replays one.
#[test]
fn damage_anywhere_is_named_and_never_read_as_something_else() {
    harm_histories(60, false);
}

#[test]
fn damage_of_what_a_dead_writer_left_is_reported_and_never_read_as_something_else() {
    harm_histories(40, true);
}

#[test]
fn a_sound_repository_verifies_without_a_word() {
    for seed in 0..20 {
        let scene = Scene::play(seed, &mut Chance::new(seed), false);
        let repository = Repository::open(Arc::new(scene.disk.clone()), Access::Read).expect("sound");
        let report = repository.verify(None, 2, &|_| {}).expect("storage answers");
        assert_eq!(report.damages, [], "seed {seed}");
        assert!(report.objects > 0 && report.bytes > 0);
    }
}
