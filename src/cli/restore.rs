//! `pitgate restore`: a point, copied into a directory.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::arguments::{RepositoryArguments, SourceArguments, point_text};
use super::failure::UsageError;
use super::output::{Output, local_and_utc, rfc3339, size};
use super::{DONE, history, protect, repo};
use crate::io::{Clock, SystemClock};
use crate::mount::{Registry, ResolvedPoint, state_directory};
use crate::recovery::{DirectoryImage, Progress, RestoreOptions, Stage, restore};
use crate::types::{Image, Position, Time};
use crate::view::{View, ViewCache};

/// Decoded pages kept in memory.
const CACHE_BYTES: u64 = 128 << 20;

#[derive(Args)]
pub struct RestoreArguments {
    /// Directory of the repository
    #[arg(long, value_name = "REPO", required_unless_present = "mount")]
    repo: Option<PathBuf>,
    /// Name of the source
    #[arg(long, value_name = "NAME", required_unless_present = "mount")]
    source: Option<String>,
    /// latest, a time, -10m, @POSITION or bookmark:NAME
    #[arg(long, value_name = "POINT", allow_hyphen_values = true, value_parser = point_text, required_unless_present = "mount")]
    at: Option<String>,
    /// Copy what this mount shows instead, with everything written to it; stop what writes there first
    #[arg(long, value_name = "ID", conflicts_with_all = ["repo", "source", "at"])]
    mount: Option<String>,
    /// A new or empty directory
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Threads that copy
    #[arg(long, default_value_t = repo::default_threads().max(4))]
    threads: usize,
    /// Do not read the copy back
    #[arg(long)]
    no_verify: bool,
}

/// The contract of `restore -o json`.
#[derive(Serialize)]
struct RestoredShown {
    source: String,
    requested: String,
    position: Position,
    time: String,
    to: PathBuf,
    files: u64,
    directories: u64,
    content_bytes: u64,
    written_bytes: u64,
    verified: bool,
    /// What could not be set for lack of rights or support.
    missing: Vec<String>,
    /// Links that lead out of every captured root, as `PATH -> TARGET`: the copy shares what they lead to.
    external_links: Vec<String>,
    elapsed_ms: u64,
}

/// What is to be copied, and what answers say of it.
struct Original {
    image: Box<dyn Image>,
    source: String,
    requested: String,
    position: Position,
    time: Time,
}

fn original(arguments: &RestoreArguments) -> Result<Original> {
    if let Some(mount) = &arguments.mount {
        let record = Registry::open(&state_directory()?)?.find(mount)?;
        if !record.serving {
            bail!("mount {mount} does not serve: attach its overlay again with `pitgate mount create`");
        }
        return Ok(Original {
            image: Box::new(DirectoryImage::open(&record.mountpoint)?),
            source: record.source,
            requested: record.requested,
            position: record.position,
            time: record.time,
        });
    }
    let (Some(repo), Some(source), Some(at)) = (&arguments.repo, &arguments.source, &arguments.at) else {
        bail!(UsageError("name --repo, --source and --at, or --mount".to_owned()));
    };
    let repository = RepositoryArguments { repo: repo.clone() };
    let arguments = SourceArguments { repository, source: source.clone() };
    let ResolvedPoint { source, history, resolved } = history::resolve(&arguments, at)?;
    Ok(Original {
        image: Box::new(View::open(history, resolved.position, ViewCache::new(CACHE_BYTES))?),
        source: source.name().to_owned(),
        requested: at.clone(),
        position: resolved.position,
        time: resolved.time,
    })
}

pub fn run(arguments: &RestoreArguments, output: &Output) -> Result<u8> {
    let to = std::path::absolute(&arguments.to)?;
    protect::refuse_inside_captures("the destination", &to)?;
    if let Some(repo) = &arguments.repo {
        protect::refuse_inside_repository("the destination", &to, repo)?;
    }
    let begin = SystemClock.monotonic();
    let original = original(arguments)?;

    let external_links = original.image.external_links()?.into_iter().map(|(path, target)| {
        format!("{} -> {}", String::from_utf8_lossy(&path), String::from_utf8_lossy(&target))
    });
    let external_links = external_links.collect();

    let bar = output.progress("copying");
    let options = RestoreOptions { threads: arguments.threads.max(1), verify: !arguments.no_verify };
    let restored = restore(&*original.image, &to, &options, &|progress: Progress| {
        bar.set_message(match progress.stage {
            Stage::Copying => "copying",
            Stage::Verifying => "verifying",
        });
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
    });
    bar.finish_and_clear();
    let restored = restored?;

    let elapsed = SystemClock.monotonic().saturating_sub(begin);
    let shown = RestoredShown {
        source: original.source,
        requested: original.requested,
        position: original.position,
        time: rfc3339(original.time),
        to,
        files: restored.files,
        directories: restored.directories,
        content_bytes: restored.content_bytes,
        written_bytes: restored.written_bytes,
        verified: options.verify,
        missing: restored.missing,
        external_links,
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    };
    for missing in &shown.missing {
        eprintln!("warning: could not set {missing}");
    }
    for link in &shown.external_links {
        eprintln!(
            "warning: {link} leads out of the copy: what is written through it is shared with the source"
        );
    }
    output.print(&shown, |shown| {
        format!(
            "{} of {} files restored to {} as of {} ({}) in {:.1} s{}",
            size(shown.content_bytes),
            shown.files,
            shown.to.display(),
            local_and_utc(original.time),
            shown.position,
            shown.elapsed_ms as f64 / 1000.0,
            if shown.verified { ", verified" } else { "" }
        )
    })?;
    Ok(DONE)
}
