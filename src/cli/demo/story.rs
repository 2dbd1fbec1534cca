//! The demo's acts, in order, and what each proves.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::attack::{self, Destroyed};
use super::database::{Acknowledged, Database, Findings};
use super::digest;
use super::report::Report;
use super::stage::Stage;
use crate::io::{Clock, SystemClock};

const IMAGE_PATIENCE: Duration = Duration::from_secs(60);

fn say(what: &str) {
    eprintln!("\n-- {what}");
}

/// Plays all acts and returns what they showed.
pub fn tell(stage: &Stage, database: &dyn Database, seconds: u64, size_bytes: u64) -> Result<Report> {
    let begin = SystemClock.monotonic();
    let last = record(stage, database, seconds, size_bytes)?;

    // Times are recorded to the millisecond: the attack begins in a later one than the last visit.
    std::thread::sleep(Duration::from_millis(20));
    let before_attack = SystemClock.now();
    std::thread::sleep(Duration::from_millis(20));
    let (destroyed, destroyed_digest) = destroy(stage)?;

    let point = before_attack.to_string();
    let (mounted, findings) = mount_and_examine(stage, database, &point, last.visit)?;
    let evidence = compare_source_and_journal(stage, &point, &mounted, destroyed_digest)?;
    let (restore_ms, copied) = copy_in_full(stage, &point, evidence)?;
    stage.unmount("copy")?;
    stage.stop_capture()?;
    Ok(Report {
        database: database.name(),
        transactions: last.transactions,
        destroyed_files: destroyed.files,
        destroyed_bytes: destroyed.bytes,
        visits_acknowledged: last.visit,
        visits_lost: last.visit - findings.last_visit.min(last.visit),
        lost_ms: before_attack.since(last.time) as f64 / 1e6,
        mount_ms: mounted.answer["elapsed_ms"].as_f64().context("mount did not say how long it took")?,
        mount_command_ms: milliseconds(mounted.command),
        first_query_ms: milliseconds(mounted.first_query),
        overlay_bytes: mounted.overlay_bytes,
        restore_ms,
        plain_copy_ms: milliseconds(copied),
        total_ms: milliseconds(SystemClock.monotonic().saturating_sub(begin)),
    })
}

/// The arguments that name the demo's source.
fn of_source(stage: &Stage) -> [String; 4] {
    let repository = stage.repository().display().to_string();
    ["--repo".to_owned(), repository, "--source".to_owned(), "his".to_owned()]
}

/// Runs a command of the demo's source: its words, then `more`.
fn ask(stage: &Stage, words: &[&str], more: &[&str]) -> Result<String> {
    let source = of_source(stage);
    stage.pitgate(
        &words
            .iter()
            .copied()
            .chain(source.iter().map(String::as_str))
            .chain(more.iter().copied())
            .collect::<Vec<_>>(),
    )
}

fn record(stage: &Stage, database: &dyn Database, seconds: u64, size_bytes: u64) -> Result<Acknowledged> {
    say(&format!("a hospital's database ({}), {} MiB of documents", database.name(), size_bytes >> 20));
    database.create(&stage.backing(), size_bytes)?;
    stage.pitgate(&["repo", "init", &stage.repository().display().to_string()])?;
    stage.start_capture()?;
    stage.wait_for_points(IMAGE_PATIENCE)?;

    say(&format!("visits are admitted for {seconds} s: registration, order, result, charge"));
    database.load(&stage.live(), Duration::from_secs(seconds / 2))?;
    ask(stage, &["point", "bookmark"], &["before-the-night-shift"])?;
    database.load(&stage.live(), Duration::from_secs(seconds.div_ceil(2)))
}

fn destroy(stage: &Stage) -> Result<(Destroyed, blake3::Hash)> {
    say("an attacker encrypts and renames every file");
    let destroyed = attack::destroy(&stage.live())?;
    let digest = digest::of_directory(&stage.backing())?;

    say("what the journal saw");
    eprint!("{}", ask(stage, &["source", "activity"], &[])?);
    Ok((destroyed, digest))
}

/// The copy, and how long it took.
struct Mounted {
    answer: serde_json::Value,
    command: Duration,
    first_query: Duration,
    overlay_bytes: u64,
}

fn mount_and_examine(
    stage: &Stage,
    database: &dyn Database,
    point: &str,
    acknowledged: u64,
) -> Result<(Mounted, Findings)> {
    say("the moment before, mounted");
    let asked = SystemClock.monotonic();
    let answer = stage.mount("copy", point, &[])?;
    let command = SystemClock.monotonic().saturating_sub(asked);
    let copy = stage.directory().join("copy");
    let mut first_query = None;
    let findings = database.examine(&copy, true, &mut || {
        first_query = Some(SystemClock.monotonic().saturating_sub(asked));
    })?;
    check(&findings, acknowledged)?;
    let shown = stage.pitgate_json(&["mount", "show", &copy.display().to_string()])?;
    let overlay = shown["overlay"].as_str().context("the mount has no overlay")?;
    let overlay_bytes = super::super::protect::stored_bytes(std::path::Path::new(overlay));
    let first_query = first_query.context("the database never answered")?;
    Ok((Mounted { answer, command, first_query, overlay_bytes }, findings))
}

/// Proves that the copy's writes reached neither the source nor the journal; returns the digest of the point.
fn compare_source_and_journal(
    stage: &Stage,
    point: &str,
    mounted: &Mounted,
    destroyed_digest: blake3::Hash,
) -> Result<blake3::Hash> {
    say("the copy was written to: is anything else changed?");
    let evidence = stage.mount("evidence", point, &["--read-only"])?;
    ensure!(evidence["position"] == mounted.answer["position"], "one point resolved to two positions");
    ensure!(
        digest::of_directory(&stage.backing())? == destroyed_digest,
        "the source changed while the copy was written to"
    );
    let digest = digest::of_directory(&stage.directory().join("evidence"))?;
    stage.unmount("evidence")?;
    Ok(digest)
}

/// The same point as full copies: restored and verified, and copied plainly from the restored files.
fn copy_in_full(stage: &Stage, point: &str, evidence: blake3::Hash) -> Result<(f64, Duration)> {
    say("the same, as a full copy");
    let restored = stage.directory().join("restored");
    let at = format!("--at={point}");
    let answer = ask(stage, &["restore"], &[&at, "--to", &restored.display().to_string(), "-o", "json"])?;
    let answer: serde_json::Value = serde_json::from_str(&answer).context("restore gave no JSON")?;
    ensure!(digest::of_directory(&restored)? == evidence, "restore and mount differ");
    Ok((answer["elapsed_ms"].as_f64().context("restore did not say how long it took")?, plain_copy(stage)?))
}

fn check(findings: &Findings, acknowledged: u64) -> Result<()> {
    if !findings.is_consistent() {
        bail!("the copy is not consistent: {findings:?}");
    }
    if findings.last_visit < acknowledged {
        bail!("visit {acknowledged} was acknowledged, the copy ends at {}", findings.last_visit);
    }
    eprintln!(
        "{} visits, the last one number {}; charges {} = ledgers {}",
        findings.visits, findings.last_visit, findings.charges, findings.ledgers
    );
    Ok(())
}

/// How long copying the restored files takes, synced, with the source files in the page cache.
fn plain_copy(stage: &Stage) -> Result<Duration> {
    let begin = SystemClock.monotonic();
    let copy = stage.directory().join("plain-copy");
    copy_directory(&stage.directory().join("restored"), &copy)?;
    rustix::fs::syncfs(std::fs::File::open(&copy)?)?;
    Ok(SystemClock.monotonic().saturating_sub(begin))
}

fn copy_directory(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
