//! `cargo xtask bench NAME`: comparisons with peers in one run on one disk; each line of output is one ratio.
//!
//! Needs root, `/dev/fuse` and room for a few GiB below `PITGATE_BENCH_DIR` (default `/var/tmp`).

mod capture_pgbench;
mod load;
mod mount_latency;
mod peer;
mod read;
mod scene;

use std::time::Instant;

use anyhow::{Result, bail};

/// One measured figure beside its peer's.
pub struct Figure {
    pub bench: &'static str,
    pub case: String,
    pub value: f64,
    pub unit: &'static str,
    pub peer: &'static str,
    pub peer_value: f64,
}

impl Figure {
    /// One line: an object for `-o json`, else for people.
    fn print(&self, as_json: bool) {
        let Figure { bench, case, value, unit, peer, peer_value } = self;
        let ratio = value / peer_value;
        if as_json {
            println!(
                r#"{{"bench":"{bench}","case":"{case}","value":{value:.3},"unit":"{unit}","peer":"{peer}","peer_value":{peer_value:.3},"ratio":{ratio:.3}}}"#
            );
        } else {
            println!(
                "{bench:14} {case:32} {value:>12.1} {unit:6} {peer:>16} {peer_value:>12.1}   ratio {ratio:.2}"
            );
        }
    }
}

/// Runs the benchmark that `arguments` name.
pub fn run(arguments: &[&str]) -> Result<()> {
    let (names, as_json) = match arguments {
        [name] => (vec![*name], false),
        [name, "-o", "json"] | ["-o", "json", name] => (vec![*name], true),
        _ => bail!("which one? `cargo xtask bench read|mount-latency|capture-pgbench [-o json]`"),
    };
    for name in names {
        let mut report = |figure: Figure| figure.print(as_json);
        match name {
            "read" => read::run(&mut report)?,
            "mount-latency" => mount_latency::run(&mut report)?,
            "capture-pgbench" => capture_pgbench::run(&mut report)?,
            other => {
                bail!("no benchmark is named {other}; there are read, mount-latency and capture-pgbench")
            }
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "xtask is no part of the program whose time is simulated")]
fn now() -> Instant {
    Instant::now()
}

/// A size or count from the environment.
fn number_from(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().map_err(|_| anyhow::anyhow!("{variable}={text} is not a number")),
        Err(_) => Ok(default),
    }
}
