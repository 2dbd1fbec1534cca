//! A btrfs file system in a file, and a snapshot there of a table that was churned under an earlier snapshot.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::load;

/// Unmounted when dropped.
pub struct Btrfs {
    mountpoint: PathBuf,
}

impl Btrfs {
    /// Copies `table` into a new file system of `image_bytes`, snapshots it, overwrites `churned` blocks, and
    /// snapshots it again: that one is read.
    pub fn with_snapshot(directory: &Path, table: &Path, image_bytes: u64, churned: u64) -> Result<Btrfs> {
        let image = directory.join("btrfs.img");
        let mountpoint = directory.join("btrfs");
        std::fs::create_dir_all(&mountpoint).context("cannot create a mountpoint")?;
        std::fs::File::create(&image)?.set_len(image_bytes).context("cannot create the image")?;
        run(Command::new("mkfs.btrfs").arg("--quiet").arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mountpoint))?;
        let btrfs = Btrfs { mountpoint };
        let live = btrfs.mountpoint.join("live");
        run(Command::new("btrfs").args(["subvolume", "create"]).arg(&live))?;
        std::fs::copy(table, live.join("table")).context("cannot copy the table")?;
        let snapshot = |name: &str| {
            let at = btrfs.mountpoint.join(name);
            run(Command::new("btrfs").args(["subvolume", "snapshot", "-r"]).arg(&live).arg(at))
        };
        snapshot("before")?;
        load::churn(&live.join("table"), churned, load::BLOCK_BYTES)?;
        snapshot("then")?;
        Ok(btrfs)
    }

    pub fn table(&self) -> PathBuf {
        self.mountpoint.join("then").join("table")
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        // The loop device goes with its mount.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mountpoint).status();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}: install btrfs-progs"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
