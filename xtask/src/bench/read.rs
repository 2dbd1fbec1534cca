//! `bench read`: reads of a mounted point against ext4, a btrfs snapshot, and a qcow2 chain that QEMU serves
//! over FUSE; storage cold.
//!
//! An eighth of the table's blocks was overwritten at random before, in pitgate's history as on btrfs below a
//! snapshot; the table on ext4 was overwritten in place.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::peer::{Btrfs, QemuChain};
use super::scene::Scene;
use super::{Figure, load, number_from};

const DURATION: Duration = Duration::from_secs(6);

struct Measured {
    random_1: f64,
    random_8: f64,
    sequential: f64,
    sequential_warm: f64,
}

/// Measures pitgate and its peers and reports each ratio.
pub fn run(report: &mut dyn FnMut(Figure)) -> Result<()> {
    let len_bytes = number_from("PITGATE_BENCH_MIB", 1024)? << 20;
    let churned = len_bytes / load::BLOCK_BYTES as u64 / 8;
    let mut scene = Scene::new("read")?;
    let table = scene.path("data/table");
    load::write_table(&table, len_bytes)?;
    scene.begin_capture()?;
    load::churn(&scene.seen().join("table"), churned, load::BLOCK_BYTES)?;
    scene.end_capture()?;

    let pitgate = measure_mounted(&mut scene)?;
    let ext4 = measure(&table)?;
    let btrfs = Btrfs::with_snapshot(&scene.path(""), &table, len_bytes * 2 + (1 << 30), churned)?;
    let snapshot = measure(&btrfs.table())?;
    drop(btrfs);
    let chain = QemuChain::over(&scene.path(""), &table, churned)?;
    let qemu = measure(&chain.table())?;
    drop(chain);

    for (peer, measured) in [("btrfs snapshot", &snapshot), ("qemu FUSE", &qemu), ("ext4", &ext4)] {
        let mut figure = |case: &str, value, unit, peer_value| {
            report(Figure { bench: "read", case: case.to_owned(), value, unit, peer, peer_value });
        };
        figure("8K random, 1 job, cold", pitgate.random_1, "IOPS", measured.random_1);
        figure("8K random, 8 jobs, cold", pitgate.random_8, "IOPS", measured.random_8);
        figure("1M sequential, cold", pitgate.sequential, "MiB/s", measured.sequential);
        figure("1M sequential, warm", pitgate.sequential_warm, "MiB/s", measured.sequential_warm);
    }
    Ok(())
}

/// Each case on a fresh mount, so that nothing is in pitgate's own caches either.
fn measure_mounted(scene: &mut Scene) -> Result<Measured> {
    let mut fresh = |read: &dyn Fn(&Path) -> Result<f64>| {
        let table = scene.mount()?.join("table");
        load::drop_page_cache()?;
        let value = read(&table)?;
        scene.unmount()?;
        anyhow::Ok(value)
    };
    Ok(Measured {
        random_1: fresh(&|table| load::random_reads(table, 1, DURATION))?,
        random_8: fresh(&|table| load::random_reads(table, 8, DURATION))?,
        sequential: fresh(&load::sequential_read)?,
        sequential_warm: fresh(&|table| {
            load::sequential_read(table)?;
            load::sequential_read(table)
        })?,
    })
}

fn measure(table: &Path) -> Result<Measured> {
    load::drop_page_cache()?;
    let random_1 = load::random_reads(table, 1, DURATION)?;
    load::drop_page_cache()?;
    let random_8 = load::random_reads(table, 8, DURATION)?;
    load::drop_page_cache()?;
    let sequential = load::sequential_read(table)?;
    let sequential_warm = load::sequential_read(table)?;
    Ok(Measured { random_1, random_8, sequential, sequential_warm })
}
