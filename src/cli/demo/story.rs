//! The demo's acts, in order, and what each proves.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::attack;
use super::database::{Database, Findings};
use super::digest;
use super::report::Report;
use super::stage::Stage;
use crate::io::{Clock, SystemClock};
use crate::types::Time;

const IMAGE_PATIENCE: Duration = Duration::from_secs(60);

fn say(what: &str) {
    eprintln!("\n-- {what}");
}

pub fn tell(stage: &Stage, database: &dyn Database, seconds: u64, size_bytes: u64) -> Result<Report> {
    let begin = SystemClock.monotonic();
    let repository = stage.repository().display().to_string();
    let of_source = ["--repo", &repository, "--source", "his"];

    say(&format!("a hospital's database ({}), {} MiB of documents", database.name(), size_bytes >> 20));
    database.create(&stage.backing(), size_bytes)?;
    stage.pitgate(&["repo", "init", &repository])?;
    stage.start_capture()?;
    stage.wait_for_points(IMAGE_PATIENCE)?;

    say(&format!("visits are admitted for {seconds} s: registration, order, result, charge"));
    database.load(&stage.live(), Duration::from_secs(seconds / 2))?;
    stage.pitgate(&[&["point", "bookmark"][..], &of_source, &["before-the-night-shift"]].concat())?;
    let last = database.load(&stage.live(), Duration::from_secs(seconds.div_ceil(2)))?;

    // Times are recorded to the millisecond: the attack begins in a later one than the last visit.
    std::thread::sleep(Duration::from_millis(20));
    let before_attack = SystemClock.now();
    std::thread::sleep(Duration::from_millis(20));
    say("an attacker encrypts and renames every file");
    let destroyed = attack::destroy(&stage.live())?;
    let destroyed_digest = digest::of_directory(&stage.backing())?;

    say("what the journal saw");
    let activity = stage.pitgate(&[&["source", "activity"][..], &of_source].concat())?;
    eprint!("{activity}");

    say("the moment before, mounted");
    let point = before_attack.to_string();
    let asked = SystemClock.monotonic();
    let mount = stage.mount("copy", &point, &[])?;
    let mounted = SystemClock.monotonic();
    let copy = stage.directory().join("copy");
    let mut answered = None;
    let findings = database.examine(&copy, true, &mut || answered = Some(SystemClock.monotonic()))?;
    check(&findings, last.visit)?;
    let answered = answered.context("the database never answered")?;
    let shown = stage.pitgate_json(&["mount", "show", &copy.display().to_string()])?;

    say("the copy was written to: is anything else changed?");
    let evidence = stage.mount("evidence", &point, &["--read-only"])?;
    ensure!(evidence["position"] == mount["position"], "one point resolved to two positions");
    ensure!(
        digest::of_directory(&stage.backing())? == destroyed_digest,
        "the source changed while the copy was written to"
    );
    let from_journal = digest::of_directory(&stage.directory().join("evidence"))?;
    stage.unmount("evidence")?;

    say("the same, as a full copy");
    let restored_to = stage.directory().join("restored").display().to_string();
    let at = format!("--at={point}");
    let restore =
        stage.pitgate_json(&[&["restore"][..], &of_source, &[&at, "--to", &restored_to]].concat())?;
    let restored = stage.directory().join("restored");
    ensure!(digest::of_directory(&restored)? == from_journal, "the journal gave other bytes than before");
    let copied = plain_copy(stage)?;

    let overlay_bytes = overlay_bytes(&shown)?;
    stage.unmount("copy")?;
    stage.stop_capture()?;
    Ok(Report {
        database: database.name(),
        transactions: last.transactions,
        destroyed_files: destroyed.files,
        destroyed_bytes: destroyed.bytes,
        visits_acknowledged: last.visit,
        visits_lost: last.visit - findings.last_visit.min(last.visit),
        lost_ms: milliseconds_between(last.time, before_attack),
        mount_ms: mount["elapsed_ms"].as_f64().context("mount did not say how long it took")?,
        mount_command_ms: milliseconds(mounted.saturating_sub(asked)),
        first_query_ms: milliseconds(answered.saturating_sub(asked)),
        overlay_bytes,
        restore_ms: restore["elapsed_ms"].as_f64().unwrap_or_default(),
        plain_copy_ms: milliseconds(copied),
        total_ms: milliseconds(SystemClock.monotonic().saturating_sub(begin)),
    })
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
    copy_directory(&stage.directory().join("restored"), &stage.directory().join("plain-copy"))?;
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
            std::fs::File::open(&target)?.sync_all()?;
        }
    }
    Ok(())
}

fn overlay_bytes(mount: &serde_json::Value) -> Result<u64> {
    let overlay = mount["overlay"].as_str().context("the mount has no overlay")?;
    Ok(super::super::protect::stored_bytes(std::path::Path::new(overlay)))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn milliseconds_between(earlier: Time, later: Time) -> f64 {
    later.since(earlier) as f64 / 1e6
}
