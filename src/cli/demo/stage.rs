//! Where the demo plays: a directory of its own with repository, data, mountpoints and state, the commands that run
//! in it, and its removal whatever happens.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;

use crate::io::{Clock, SystemClock};

/// The directory and the processes in it; dropping it ends and removes them.
pub struct Stage {
    directory: PathBuf,
    program: PathBuf,
    capture: Mutex<Option<Child>>,
    mountpoints: Mutex<Vec<PathBuf>>,
}

impl Stage {
    pub fn build(parent: &Path) -> Result<Stage> {
        let parent = parent.canonicalize().with_context(|| format!("cannot find {}", parent.display()))?;
        let directory = parent.join(format!("pitgate-demo-{}", std::process::id()));
        let stage = Stage {
            directory,
            program: std::env::current_exe().context("cannot find this program")?,
            capture: Mutex::new(None),
            mountpoints: Mutex::new(Vec::new()),
        };
        fs::create_dir(&stage.directory)
            .with_context(|| format!("cannot create {}", stage.directory.display()))?;
        for name in ["backing", "live", "copy", "evidence"] {
            fs::create_dir(stage.directory.join(name))?;
        }
        fs::DirBuilder::new().mode(0o700).create(stage.directory.join("state"))?;
        // A database server that runs as another user passes through here.
        fs::set_permissions(&stage.directory, fs::Permissions::from_mode(0o755))?;
        Ok(stage)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the database's files are.
    pub fn backing(&self) -> PathBuf {
        self.directory.join("backing")
    }

    /// Where the database sees them.
    pub fn live(&self) -> PathBuf {
        self.directory.join("live")
    }

    pub fn repository(&self) -> PathBuf {
        self.directory.join("repository")
    }

    /// Runs `pitgate` with `words` and returns what it printed; shows the command first.
    pub fn pitgate(&self, words: &[&str]) -> Result<String> {
        self.show(words);
        let output = self.command(words).stdin(Stdio::null()).output().context("cannot start pitgate")?;
        if !output.status.success() {
            bail!("pitgate {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// As [`Stage::pitgate`] with `-o json`.
    pub fn pitgate_json(&self, words: &[&str]) -> Result<serde_json::Value> {
        let mut words = words.to_vec();
        words.extend(["-o", "json"]);
        let text = self.pitgate(&words)?;
        serde_json::from_str(&text).with_context(|| format!("unexpected answer: {text}"))
    }

    /// Starts the capture of the live directory and waits until it serves.
    pub fn start_capture(&self) -> Result<()> {
        let root = format!("hospital={}:{}", self.backing().display(), self.live().display());
        let repository = self.repository().display().to_string();
        let words = ["capture", "--repo", &repository, "--source", "his", "--root", &root];
        self.show(&words);
        let log = File::create(self.directory.join("capture.log"))?;
        let mut child = self
            .command(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start capture")?;
        let stdout = child.stdout.take().context("capture has no output")?;
        *self.capture.lock() = Some(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.is_empty() {
            bail!(
                "capture did not start: {}",
                fs::read_to_string(self.directory.join("capture.log"))?.trim()
            );
        }
        Ok(())
    }

    /// Waits until the initial image is complete, so that points exist.
    pub fn wait_for_points(&self, patience: Duration) -> Result<()> {
        let repository = self.repository().display().to_string();
        let words = ["source", "show", "--repo", &repository, "--source", "his", "-o", "json"];
        let begin = SystemClock.monotonic();
        loop {
            let output = self.command(&words).stdin(Stdio::null()).output()?;
            let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if shown["capture"]["image"]["complete"] == true {
                return Ok(());
            }
            if SystemClock.monotonic().saturating_sub(begin) > patience {
                bail!("the initial image did not complete: {}", String::from_utf8_lossy(&output.stderr));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Mounts `point` at the directory `name` of the stage.
    pub fn mount(&self, name: &str, point: &str, further: &[&str]) -> Result<serde_json::Value> {
        let mountpoint = self.directory.join(name);
        self.mountpoints.lock().push(mountpoint.clone());
        let (repository, mountpoint) =
            (self.repository().display().to_string(), mountpoint.display().to_string());
        let at = format!("--at={point}");
        let mut words = vec!["mount", "create", "--repo", &repository, "--source", "his", &at];
        words.extend(further);
        words.push(&mountpoint);
        self.pitgate_json(&words)
    }

    /// Ends the mount at the directory `name`.
    pub fn unmount(&self, name: &str) -> Result<()> {
        let mountpoint = self.directory.join(name);
        self.pitgate(&["mount", "remove", &mountpoint.display().to_string()])?;
        self.mountpoints.lock().retain(|mounted| *mounted != mountpoint);
        Ok(())
    }

    /// Stops capture in good order.
    pub fn stop_capture(&self) -> Result<()> {
        let Some(mut child) = self.capture.lock().take() else { return Ok(()) };
        terminate(&child);
        if !wait(&mut child, Duration::from_secs(20)) {
            *self.capture.lock() = Some(child);
            bail!("capture did not stop within 20 s");
        }
        Ok(())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).env("PITGATE_STATE_DIR", self.directory.join("state"));
        command
    }

    fn show(&self, words: &[&str]) {
        let directory = format!("{}/", self.directory.display());
        eprintln!("$ pitgate {}", words.join(" ").replace(&directory, ""));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Whatever still stands after a failure must not stay: lazily unmounted, killed, removed.
        for mountpoint in self.mountpoints.lock().drain(..) {
            let mountpoint = mountpoint.display().to_string();
            let _ = self.command(&["mount", "remove", "--lazy", &mountpoint]).stderr(Stdio::null()).output();
        }
        if let Some(mut child) = self.capture.lock().take() {
            terminate(&child);
            if !wait(&mut child, Duration::from_secs(5)) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        let left = rustix::mount::unmount(self.live(), rustix::mount::UnmountFlags::DETACH);
        if left.is_ok() {
            eprintln!("warning: {} was still mounted", self.live().display());
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("warning: cannot remove {}: {error}", self.directory.display());
        }
    }
}

fn terminate(child: &Child) {
    let process = rustix::process::Pid::from_child(child);
    // A process that is gone already needs no signal.
    let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
}

/// Whether `child` ended in time.
fn wait(child: &mut Child, patience: Duration) -> bool {
    let begin = SystemClock.monotonic();
    while SystemClock.monotonic().saturating_sub(begin) < patience {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
