//! Peers: a snapshot on a btrfs file system in a file, and a chain of qcow2 images served by QEMU.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{load, now};

/// A btrfs file system; unmounted when dropped.
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
        File::create(&image)?.set_len(image_bytes).context("cannot create the image")?;
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
        .with_context(|| format!("cannot start {program}: install btrfs-progs and qemu-utils"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A chain of two qcow2 images, exported over FUSE by QEMU's storage daemon; ended when dropped.
pub struct QemuChain {
    daemon: Child,
    table: PathBuf,
}

impl QemuChain {
    /// Puts `table` into the lower image and `churned` overwritten blocks into the upper one.
    pub fn over(directory: &Path, table: &Path, churned: u64) -> Result<QemuChain> {
        let [base, top, export] = ["base.qcow2", "top.qcow2", "exported"].map(|name| directory.join(name));
        run(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(table).arg(&base))?;
        let backing = format!("backing_file={},backing_fmt=qcow2", base.display());
        run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", &backing]).arg(&top))?;
        File::create(&export).context("cannot create a mountpoint")?;
        let daemon = Command::new("qemu-storage-daemon")
            .arg("--blockdev")
            .arg(format!("driver=file,node-name=file,filename={}", top.display()))
            .args(["--blockdev", "driver=qcow2,node-name=chain,file=file"])
            .arg("--export")
            .arg(format!("type=fuse,id=out,node-name=chain,writable=on,mountpoint={}", export.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start qemu-storage-daemon: install qemu-system-common")?;
        let mut chain = QemuChain { daemon, table: export };
        chain.wait_until_served(table)?;
        load::churn(&chain.table, churned, load::BLOCK_BYTES)?;
        Ok(chain)
    }

    pub fn table(&self) -> PathBuf {
        self.table.clone()
    }

    fn wait_until_served(&mut self, table: &Path) -> Result<()> {
        let expected = std::fs::metadata(table)?.len();
        let started = now();
        while std::fs::metadata(&self.table).map_or(0, |metadata| metadata.len()) != expected {
            if self.daemon.try_wait()?.is_some() || started.elapsed() > Duration::from_secs(30) {
                bail!("qemu-storage-daemon does not serve the chain");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for QemuChain {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
        let _ = Command::new("umount").arg("--lazy").arg(&self.table).stderr(Stdio::null()).status();
    }
}
