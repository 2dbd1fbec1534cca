//! Running one command with a name, a time and a limit, so that nothing can hang unseen.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Several commands one after the other; each is run whatever came of those before, and the first failure
/// counts at the end.
pub struct Phases {
    interrupted: Arc<AtomicBool>,
    outcomes: Vec<(String, Duration, Option<String>)>,
}

impl Phases {
    pub fn new() -> Result<Phases> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, interrupted.clone()).context("cannot watch for signals")?;
        }
        Ok(Phases { interrupted, outcomes: Vec::new() })
    }

    /// Runs `command` for at most `limit`, then kills it and what it started.
    pub fn run(&mut self, name: &str, limit: Duration, command: &mut Command) {
        if self.interrupted.load(Ordering::Relaxed) {
            return;
        }
        println!("== {name}: begins (limit {} s)", limit.as_secs());
        let started = now();
        let failure = self.outcome(limit, command).err().map(|error| format!("{error:#}"));
        let elapsed = started.elapsed();
        println!("== {name}: {} in {:.1} s", failure.as_deref().unwrap_or("ok"), elapsed.as_secs_f64());
        self.outcomes.push((name.to_owned(), elapsed, failure));
    }

    /// Prints what each phase took; an error if one failed.
    pub fn finish(self) -> Result<()> {
        println!("== summary");
        for (name, elapsed, failure) in &self.outcomes {
            println!("{:>8.1} s  {name}: {}", elapsed.as_secs_f64(), failure.as_deref().unwrap_or("ok"));
        }
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        let failed: Vec<&str> = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.2.is_some())
            .map(|outcome| outcome.0.as_str())
            .collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }

    fn outcome(&self, limit: Duration, command: &mut Command) -> Result<()> {
        let mut child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let status = self.wait(&mut child, limit)?;
        if !status.success() {
            bail!("failed ({status})");
        }
        Ok(())
    }

    fn wait(&self, child: &mut Child, limit: Duration) -> Result<ExitStatus> {
        let started = now();
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for it")? {
                return Ok(status);
            }
            let interrupted = self.interrupted.load(Ordering::Relaxed);
            if interrupted || started.elapsed() > limit {
                kill_group(child);
                bail!("{}", if interrupted { "interrupted" } else { "killed at its limit" });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Ends the child's process group, first politely; does not wait for a process that cannot die.
fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    for (signal, patience_s) in [("-TERM", 10), ("-KILL", 10)] {
        let _ = Command::new("kill").args([signal, "--", &group]).stderr(Stdio::null()).status();
        let started = now();
        while started.elapsed() < Duration::from_secs(patience_s) {
            if matches!(child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "xtask is no part of the program whose time is simulated")]
fn now() -> Instant {
    Instant::now()
}
