//! `bench mount-latency`: from the command to the first byte, with a short and with a long history.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use super::scene::Scene;
use super::{Figure, load, now, number_from};

const ROUNDS: usize = 11;
const PAGE_BYTES: usize = 4096;
const TABLE_BYTES: u64 = 256 << 20;

/// Times in milliseconds, medians.
struct Measured {
    warm: f64,
    cold: f64,
}

/// Measures both histories and reports the long one's figures beside the short one's.
pub fn run(report: &mut dyn FnMut(Figure)) -> Result<()> {
    let short_versions = number_from("PITGATE_BENCH_SHORT", 100_000)?;
    let long_versions = number_from("PITGATE_BENCH_LONG", 1_000_000)?;
    let short = measure(short_versions)?;
    let long = measure(long_versions)?;
    for (case, value, peer_value) in [("warm", long.warm, short.warm), ("cold", long.cold, short.cold)] {
        let case = format!("{long_versions} versions, {case}, against {short_versions}");
        report(Figure {
            bench: "mount-latency",
            case,
            value,
            unit: "ms",
            peer: "shorter history",
            peer_value,
        });
    }
    Ok(())
}

fn measure(versions: u64) -> Result<Measured> {
    let mut scene = Scene::new("mount-latency")?;
    load::write_table(&scene.path("data/table"), TABLE_BYTES)?;
    scene.begin_capture()?;
    load::churn(&scene.seen().join("table"), versions, PAGE_BYTES)?;
    scene.end_capture()?;
    let mut round = |is_cold: bool| {
        if is_cold {
            load::drop_page_cache()?;
        }
        let started = now();
        let table = scene.mount()?.join("table");
        let mut byte = [0];
        File::open(&table)?
            .read_exact_at(&mut byte, TABLE_BYTES / 2)
            .context("cannot read the first byte")?;
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        scene.unmount()?;
        anyhow::Ok(elapsed_ms)
    };
    round(false)?;
    let mut median = |is_cold| {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times.push(round(is_cold)?);
        }
        times.sort_by(f64::total_cmp);
        anyhow::Ok(times[ROUNDS / 2])
    };
    Ok(Measured { warm: median(false)?, cold: median(true)? })
}
