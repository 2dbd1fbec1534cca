//! `pitgate mount`: serving a point as a file system.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::arguments::{SourceArguments, point_text};
use super::output::{Output, Table, local_and_utc, size};
use super::{DONE, protect};
use crate::mount::{self, MountRecord, MountRequest, Registry, state_directory};

#[derive(Subcommand)]
pub enum Command {
    /// Serve a point in the background; returns once it serves
    Create(MountArguments),
    /// The same in the foreground, until it is unmounted or SIGTERM comes
    Run(MountArguments),
    /// All mounts of this host
    List,
    /// One mount
    Show {
        /// Id or mountpoint
        mount: String,
    },
    /// End a mount; a private overlay goes with it
    Remove {
        /// Id or mountpoint
        mount: String,
        /// Detach it even if it is in use; it goes when its users do
        #[arg(long)]
        lazy: bool,
    },
}

#[derive(Args)]
pub struct MountArguments {
    #[command(flatten)]
    source: SourceArguments,
    /// latest, a time, -10m, @POSITION or bookmark:NAME
    #[arg(long, value_name = "POINT", allow_hyphen_values = true, value_parser = point_text)]
    at: String,
    /// Refuse every change; without it changes go to a private overlay
    #[arg(long)]
    read_only: bool,
    /// Keep changes in this directory, also after the mount is removed; a directory that holds an overlay of this
    /// point is attached again
    #[arg(long, value_name = "DIR", conflicts_with = "read_only")]
    overlay: Option<PathBuf>,
    /// Accept symbolic links that lead out of every captured root: a copy could write into production through them
    #[arg(long)]
    allow_external_links: bool,
    /// Let other users see the mount (always so when root mounts)
    #[arg(long)]
    allow_other: bool,
    /// Budget of the cache of decoded pages
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    cache_bytes: u64,
    #[arg(long, hide = true)]
    id: Option<String>,
    /// An empty directory
    mountpoint: PathBuf,
}

pub fn run(command: Command, output: &Output) -> Result<u8> {
    match command {
        Command::Create(arguments) => {
            let record = mount::create(&request(arguments)?)?;
            output.print(&record, serving_text)?;
        }
        Command::Run(arguments) => {
            let request = request(arguments)?;
            mount::run(&request, &mut |record| {
                // A mount is worth more than its announcement: it goes on if nobody listens.
                if let Err(error) = output.print(record, serving_text) {
                    tracing::warn!("{error:#}");
                }
            })?;
        }
        Command::List => list(output)?,
        Command::Show { mount } => {
            let record = Registry::open(&state_directory()?)?.find(&mount)?;
            output.print(&record, show_text)?;
        }
        Command::Remove { mount, lazy } => {
            let record = mount::remove(&mount, lazy)?;
            output.print(&record, |record| {
                format!("{} is gone from {}", record.id, record.mountpoint.display())
            })?;
        }
    }
    Ok(DONE)
}

fn request(arguments: MountArguments) -> Result<MountRequest> {
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).with_context(|| format!("cannot tell where {} is", path.display()))
    };
    let mountpoint = absolute(arguments.mountpoint)?;
    let repository = absolute(arguments.source.repository.repo)?;
    protect::refuse_inside_captures("the mountpoint", &mountpoint)?;
    protect::refuse_inside_repository("the mountpoint", &mountpoint, &repository)?;
    let overlay = arguments.overlay.map(absolute).transpose()?;
    if let Some(overlay) = &overlay {
        protect::refuse_inside_captures("the overlay", overlay)?;
        protect::refuse_inside_repository("the overlay", overlay, &repository)?;
    }
    Ok(MountRequest {
        repository,
        source: arguments.source.source,
        at: arguments.at,
        mountpoint,
        read_only: arguments.read_only,
        overlay,
        allow_external_links: arguments.allow_external_links,
        allow_other: arguments.allow_other,
        cache_bytes: arguments.cache_bytes,
        id: arguments.id,
    })
}

#[derive(Serialize)]
struct Mounts {
    mounts: Vec<MountRecord>,
}

fn list(output: &Output) -> Result<()> {
    let mounts = Registry::open(&state_directory()?)?.list()?;
    output.print(&Mounts { mounts }, |shown| {
        if shown.mounts.is_empty() {
            return "no mounts".to_owned();
        }
        let mut table = Table::new(&["id", "source", "point", "mountpoint", "kind", "state"]);
        for mount in &shown.mounts {
            table.row(&[
                &mount.id,
                &mount.source,
                &local_and_utc(mount.time),
                &mount.mountpoint.display(),
                &kind(mount),
                &state(mount),
            ]);
        }
        table.text()
    })
}

fn kind(mount: &MountRecord) -> &'static str {
    if mount.read_only { "read-only" } else { "writable" }
}

fn state(mount: &MountRecord) -> &'static str {
    if mount.serving { "serving" } else { "dead" }
}

fn serving_text(mount: &MountRecord) -> String {
    format!(
        "{} serves {} as of {} ({}) at {}, {}, after {:.0} ms",
        mount.id,
        mount.source,
        local_and_utc(mount.time),
        mount.position,
        mount.mountpoint.display(),
        kind(mount),
        mount.elapsed_ms
    )
}

fn show_text(mount: &MountRecord) -> String {
    let mut table = Table::plain();
    table.row(&[&"mount", &mount.id]);
    table.row(&[&"state", &format!("{}, process {}", state(mount), mount.pid)]);
    table.row(&[&"mountpoint", &mount.mountpoint.display()]);
    table.row(&[&"source", &format!("{} in {}", mount.source, mount.repository.display())]);
    table.row(&[&"requested", &mount.requested]);
    table.row(&[&"point", &format!("{} ({})", local_and_utc(mount.time), mount.position)]);
    table.row(&[&"kind", &kind(mount)]);
    if let Some(overlay) = &mount.overlay {
        table.row(&[&"overlay", &overlay.display()]);
        table.row(&[&"used", &size(protect::stored_bytes(overlay))]);
    }
    table.row(&[&"since", &local_and_utc(mount.started)]);
    table.text()
}
