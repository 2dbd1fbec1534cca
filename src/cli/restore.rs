//! `pitgate restore`: a point, copied into a directory.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::arguments::{SourceArguments, point_text};
use super::output::{Output, local_and_utc, rfc3339, size};
use super::{DONE, history, protect, repo};
use crate::io::{Clock, SystemClock};
use crate::mount::ResolvedPoint;
use crate::recovery::{Progress, RestoreOptions, Stage, restore};
use crate::types::{Image, Position};
use crate::view::{View, ViewCache};

/// Decoded pages kept in memory.
const CACHE_BYTES: u64 = 128 << 20;

#[derive(Args)]
pub struct RestoreArguments {
    #[command(flatten)]
    source: SourceArguments,
    /// latest, a time, -10m, @POSITION or bookmark:NAME
    #[arg(long, value_name = "POINT", allow_hyphen_values = true, value_parser = point_text)]
    at: String,
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

pub fn run(arguments: &RestoreArguments, output: &Output) -> Result<u8> {
    let to = std::path::absolute(&arguments.to)?;
    protect::refuse_inside_captures("the destination", &to)?;
    protect::refuse_inside_repository("the destination", &to, &arguments.source.repository.repo)?;
    let begin = SystemClock.monotonic();
    let ResolvedPoint { source, history, resolved } = history::resolve(&arguments.source, &arguments.at)?;
    let view = View::open(history, resolved.position, ViewCache::new(CACHE_BYTES))?;

    let external_links = view.external_links()?.into_iter().map(|(path, target)| {
        format!("{} -> {}", String::from_utf8_lossy(&path), String::from_utf8_lossy(&target))
    });
    let external_links = external_links.collect();

    let bar = output.progress("copying");
    let options = RestoreOptions { threads: arguments.threads.max(1), verify: !arguments.no_verify };
    let restored = restore(&view, &to, &options, &|progress: Progress| {
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
        source: source.name().to_owned(),
        requested: arguments.at.clone(),
        position: resolved.position,
        time: rfc3339(resolved.time),
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
            local_and_utc(resolved.time),
            shown.position,
            shown.elapsed_ms as f64 / 1000.0,
            if shown.verified { ", verified" } else { "" }
        )
    })?;
    Ok(DONE)
}
