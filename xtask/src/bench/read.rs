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

const DURATION: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;

/// What is measured: name, unit.
const CASES: [(&str, &str); 5] = [
    ("8K random, 1 job, cold", "IOPS"),
    ("8K random, 8 jobs, cold", "IOPS"),
    ("8K random, 1 job, warm", "IOPS"),
    ("1M sequential, cold", "MiB/s"),
    ("1M sequential, warm", "MiB/s"),
];

type Measured = [f64; CASES.len()];

/// Measures pitgate and its peers, in turns, and reports each ratio of medians.
pub fn run(report: &mut dyn FnMut(Figure)) -> Result<()> {
    let len_bytes = number_from("PITGATE_BENCH_MIB", 1024)? << 20;
    let churned = len_bytes / load::BLOCK_BYTES as u64 / 8;
    let mut scene = Scene::new("read")?;
    let table = scene.path("data/table");
    load::write_table(&table, len_bytes)?;
    scene.begin_capture()?;
    load::churn(&scene.seen().join("table"), churned, load::BLOCK_BYTES)?;
    scene.end_capture()?;
    let btrfs = Btrfs::with_snapshot(&scene.path(""), &table, len_bytes * 2 + (1 << 30), churned)?;
    let chain = QemuChain::over(&scene.path(""), &table, churned)?;

    let peers = [("btrfs snapshot", btrfs.table()), ("qemu FUSE", chain.table()), ("ext4", table)];
    let mut own = Vec::new();
    let mut others = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        own.push(measure(&mut Subject::Mounted(&mut scene))?);
        for ((_, table), measured) in peers.iter().zip(&mut others) {
            measured.push(measure(&mut Subject::Plain(table))?);
        }
    }
    let own = medians(&own);
    for ((peer, _), measured) in peers.iter().zip(&others) {
        for ((&(case, unit), value), peer_value) in CASES.iter().zip(own).zip(medians(measured)) {
            report(Figure { bench: "read", case: case.to_owned(), value, unit, peer, peer_value });
        }
    }
    Ok(())
}

/// What is read.
enum Subject<'a> {
    /// A point, on a fresh mount for each case, so that nothing is in pitgate's own caches either.
    Mounted(&'a mut Scene),
    Plain(&'a Path),
}

impl Subject<'_> {
    /// Drops the page cache, then gives the table to `read`.
    fn cold(&mut self, read: impl Fn(&Path) -> Result<f64>) -> Result<f64> {
        match self {
            Subject::Mounted(scene) => {
                let table = scene.mount()?.join("table");
                load::drop_page_cache()?;
                let value = read(&table)?;
                scene.unmount()?;
                Ok(value)
            }
            Subject::Plain(table) => {
                load::drop_page_cache()?;
                read(table)
            }
        }
    }
}

/// One value for each of [`CASES`].
fn measure(subject: &mut Subject<'_>) -> Result<Measured> {
    Ok([
        subject.cold(|table| load::random_reads(table, 1, DURATION))?,
        subject.cold(|table| load::random_reads(table, 8, DURATION))?,
        subject.cold(|table| {
            load::sequential_read(table).and_then(|_| load::random_reads(table, 1, DURATION))
        })?,
        subject.cold(load::sequential_read)?,
        subject.cold(|table| load::sequential_read(table).and_then(|_| load::sequential_read(table)))?,
    ])
}

fn medians(rounds: &[Measured]) -> Measured {
    std::array::from_fn(|case| {
        let mut values: Vec<f64> = rounds.iter().map(|round| round[case]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    })
}
