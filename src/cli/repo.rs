//! `pitgate repo`: making, showing and verifying a repository.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;

use super::arguments::{self, hexadecimal};
use super::failure::FAILED;
use super::output::{MomentShown, Output, Table, local_and_utc, size};
use super::{DONE, protect};
use crate::io::RealDisk;
use crate::repository::{Access, Damage, Moment, Repository, VerifyProgress};
use crate::types::Position;

#[derive(Subcommand)]
pub enum Command {
    /// Make a new or empty directory a repository
    Init { repo: PathBuf },
    /// Sizes and counts, by source
    Show { repo: PathBuf },
    /// Read every object back and name what is damaged; status 1 if anything is
    Verify {
        repo: PathBuf,
        /// Only this source
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
        /// Objects read at the same time
        #[arg(long, default_value_t = default_threads())]
        threads: usize,
    },
}

pub fn run(command: Command, output: &Output) -> Result<u8> {
    match command {
        Command::Init { repo } => init(&repo, output),
        Command::Show { repo } => show(&repo, output),
        Command::Verify { repo, source, threads } => verify(&repo, source.as_deref(), threads, output),
    }
}

pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

#[derive(Serialize)]
struct Initialised {
    repository: PathBuf,
    id: String,
}

fn init(path: &Path, output: &Output) -> Result<u8> {
    let path =
        std::path::absolute(path).with_context(|| format!("cannot tell where {} is", path.display()))?;
    protect::refuse_inside_captures("the repository", &path)?;
    let existed = path.exists();
    if !existed {
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let made = arguments::new_identity().and_then(|identity| {
        let disk = RealDisk::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Repository::init(Arc::new(disk), identity)?)
    });
    if made.is_err() && !existed {
        // Only an empty directory goes: what a failed start left is worth looking at.
        let _ = std::fs::remove_dir(&path);
    }
    let repository = made?;
    let shown = Initialised { repository: path, id: hexadecimal(repository.identity()) };
    output.print(&shown, |shown| {
        format!("{} is a repository now ({})", shown.repository.display(), shown.id)
    })?;
    Ok(DONE)
}

/// The contract of `repo show -o json`.
#[derive(Serialize)]
struct RepositoryShown {
    repository: PathBuf,
    id: String,
    sources: Vec<SourceSizes>,
    stored_bytes: u64,
    available_bytes: u64,
}

#[derive(Serialize)]
struct SourceSizes {
    source: String,
    segments: u64,
    /// Segments and snapshots of names as they lie on disk.
    stored_bytes: u64,
    /// Of these, the snapshots.
    names_bytes: u64,
    /// What the last day added; null with less than an hour of history.
    growth_bytes_per_day: Option<u64>,
    /// Pages before compression.
    captured_bytes: u64,
    index_bytes: u64,
    page_versions: u64,
    changes: u64,
    bookmarks: u64,
    first: Option<MomentShown>,
    last: Option<MomentShown>,
    warnings: Vec<String>,
}

fn show(path: &Path, output: &Output) -> Result<u8> {
    let repository = arguments::open_repository(path, Access::Read)?;
    let cache = arguments::block_cache();
    let mut sources = Vec::new();
    let mut last_moments: Vec<Option<Moment>> = Vec::new();
    for name in repository.source_names()? {
        let history = repository.source(&name)?.history(&cache)?;
        let sizes = history.sizes();
        let last = history.ranges().last().map(|range| range.last);
        last_moments.push(last);
        sources.push(SourceSizes {
            source: name,
            segments: sizes.segments,
            stored_bytes: sizes.segment_bytes + sizes.snapshot_bytes,
            names_bytes: sizes.snapshot_bytes,
            growth_bytes_per_day: sizes.growth_bytes_per_day,
            captured_bytes: sizes.captured_bytes,
            index_bytes: sizes.index_bytes,
            page_versions: sizes.page_versions,
            changes: sizes.changes,
            bookmarks: history.bookmarks().len() as u64,
            first: history.ranges().first().map(|range| range.first.into()),
            last: last.map(Into::into),
            warnings: history.damages().to_vec(),
        });
    }
    let shown = RepositoryShown {
        repository: std::path::absolute(path)?,
        id: hexadecimal(repository.identity()),
        stored_bytes: sources.iter().map(|source| source.stored_bytes).sum(),
        available_bytes: repository.disk().available_bytes().context("cannot tell the space left")?,
        sources,
    };
    output.print(&shown, |shown| show_text(shown, &last_moments))?;
    Ok(DONE)
}

fn show_text(shown: &RepositoryShown, last_moments: &[Option<Moment>]) -> String {
    let mut text = format!(
        "{} ({}): {} in {} sources, {} free\n",
        shown.repository.display(),
        shown.id,
        size(shown.stored_bytes),
        shown.sources.len(),
        size(shown.available_bytes)
    );
    let mut table = Table::new(&[
        "source",
        "stored",
        "captured",
        "a day",
        "index",
        "segments",
        "page versions",
        "last point",
    ]);
    for (source, last) in shown.sources.iter().zip(last_moments) {
        let last = last.map_or_else(|| "none".to_owned(), |last| local_and_utc(last.time));
        table.row(&[
            &source.source,
            &size(source.stored_bytes),
            &size(source.captured_bytes),
            &source.growth_bytes_per_day.map_or_else(|| "-".to_owned(), size),
            &size(source.index_bytes),
            &source.segments,
            &source.page_versions,
            &last,
        ]);
    }
    if !shown.sources.is_empty() {
        text.push_str(&table.text());
    }
    for source in &shown.sources {
        for warning in &source.warnings {
            text.push_str(&format!("warning: {}: {warning}\n", source.source));
        }
    }
    text
}

/// The contract of `repo verify -o json`.
#[derive(Serialize)]
struct Verified {
    repository: PathBuf,
    objects: u64,
    bytes: u64,
    damages: Vec<DamageShown>,
    /// What recovery after a crash found damaged; no mountable point needs it.
    put_aside: Vec<DamageShown>,
}

#[derive(Serialize)]
struct DamageShown {
    source: Option<String>,
    object: String,
    what: String,
    /// Points from the first to the last may fail to read; null if none is affected.
    affected: Option<Affected>,
}

impl From<Damage> for DamageShown {
    fn from(damage: Damage) -> DamageShown {
        DamageShown {
            source: damage.source,
            object: damage.object,
            what: damage.what,
            affected: damage.affected.map(|(first, last)| Affected { first, last }),
        }
    }
}

#[derive(Serialize)]
struct Affected {
    first: Position,
    last: Position,
}

fn verify(path: &Path, source: Option<&str>, threads: usize, output: &Output) -> Result<u8> {
    let repository = arguments::open_repository(path, Access::Read)?;
    let bar = output.progress("verifying");
    let report = repository.verify(source, threads.max(1), &|progress: VerifyProgress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
    });
    bar.finish_and_clear();
    let report = report?;
    let is_sound = report.damages.is_empty();
    let shown = Verified {
        repository: std::path::absolute(path)?,
        objects: report.objects,
        bytes: report.bytes,
        damages: report.damages.into_iter().map(DamageShown::from).collect(),
        put_aside: report.put_aside.into_iter().map(DamageShown::from).collect(),
    };
    output.print(&shown, verify_text)?;
    Ok(if is_sound { DONE } else { FAILED })
}

fn verify_text(shown: &Verified) -> String {
    let checked = format!("{} objects, {}", shown.objects, size(shown.bytes));
    let mut text = match shown.damages.len() {
        0 => format!("sound: {checked}\n"),
        damages => format!("{damages} damaged places in {checked}\n"),
    };
    for damage in &shown.damages {
        let affected = damage.affected.as_ref().map_or_else(
            || "no point affected".to_owned(),
            |affected| match (affected.first, affected.last) {
                (first, Position::MAX) => format!("points from {first} on affected"),
                (first, last) => format!("points from {first} to {last} affected"),
            },
        );
        text.push_str(&format!("{}: {}; {affected}\n", damage.object, damage.what));
    }
    for damage in &shown.put_aside {
        text.push_str(&format!("{}: {}\n", damage.object, damage.what));
    }
    text
}
