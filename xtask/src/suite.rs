//! What `check`, `test`, `demo` and `bench` run.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::phase::Phases;
use crate::setup;

/// How long the tests may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// As CI runs them.
    Short,
    /// The soak.
    Long,
}

const MINUTE: Duration = Duration::from_secs(60);

/// Formatting, lints, the project's rules, and the tests that need neither database nor kernel.
pub fn check() -> Result<()> {
    let mut phases = Phases::new()?;
    setup::tools(&mut phases);
    lint(&mut phases);
    phases.run(
        "tests without the flow",
        10 * MINUTE,
        cargo("nextest run --workspace -E").arg("not binary(flow)"),
    );
    phases.finish()
}

/// Everything that CI runs.
pub fn test(length: Length) -> Result<()> {
    let mut phases = Phases::new()?;
    setup::packages(&mut phases, &[])?;
    setup::tools(&mut phases);
    lint(&mut phases);
    phases.run("build of the tests", 25 * MINUTE, &mut cargo("nextest run --workspace --no-run"));
    let (profile, limit) = match length {
        Length::Short => ("ci", 20 * MINUTE),
        Length::Long => ("long", 12 * 60 * MINUTE),
    };
    let mut tests = cargo("nextest run --workspace --profile");
    tests.arg(profile);
    if length == Length::Long {
        setup::suites(&mut phases);
        tests.args(["--run-ignored", "all"]);
        tests
            .env("PITGATE_LONG", "1")
            .env("PITGATE_LIVES", "1000")
            .env("PITGATE_HISTORIES", "100000")
            .env("PITGATE_SEEDS", "100000");
    }
    phases.run("tests", limit, &mut tests);
    phases.run("doc tests", 10 * MINUTE, &mut cargo("test --quiet --workspace --doc"));
    phases.finish()
}

/// The main job on this machine, with the program as it is installed.
pub fn demo(arguments: &[&str]) -> Result<()> {
    let needed: &[&str] = match arguments {
        ["--database", "postgresql", ..] => &["gcc", "libc6-dev", "fuse3", "postgresql-15"],
        _ => &["gcc", "libc6-dev", "fuse3"],
    };
    setup::packages(&mut Phases::new()?, needed)?;
    build_release("pitgate")?;
    let status = Command::new("target/release/pitgate").arg("demo").args(arguments).status();
    match status.context("cannot start target/release/pitgate")? {
        status if status.success() => Ok(()),
        status => bail!("the demo failed ({status})"),
    }
}

fn lint(phases: &mut Phases) {
    phases.run("rustfmt", MINUTE, &mut cargo("fmt --all --check"));
    phases.run("clippy", 25 * MINUTE, &mut cargo("clippy --workspace --all-targets --quiet -- -D warnings"));
    phases.run("cargo deny", 5 * MINUTE, &mut cargo("deny --log-level error check bans licenses sources"));
}

fn build_release(binary: &str) -> Result<()> {
    let status = cargo("build --release --bin").arg(binary).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the build failed ({status})");
    }
    Ok(())
}

/// `cargo` with these words, at the root of the project.
fn cargo(words: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words.split(' ')).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command
}
