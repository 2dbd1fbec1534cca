//! A repository with one captured directory, made by the same commands a person would use; taken down when
//! dropped, whatever happened.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::now;

const PATIENCE: Duration = Duration::from_secs(600);

pub struct Scene {
    directory: PathBuf,
    /// In memory, as by default.
    state: PathBuf,
    binary: PathBuf,
    capture: Option<Child>,
    mounts: Vec<PathBuf>,
}

impl Scene {
    /// An empty scene below `PITGATE_BENCH_DIR`, with a fresh release build.
    pub fn new(name: &str) -> Result<Scene> {
        let base =
            std::env::var_os("PITGATE_BENCH_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let directory = base.join(format!("pitgate-bench-{name}-{}", std::process::id()));
        let state = PathBuf::from("/run").join(directory.file_name().unwrap_or_default());
        let parts = ["data", "seen", "mount"].map(|part| directory.join(part));
        for part in parts.iter().chain([&state]) {
            std::fs::create_dir_all(part).with_context(|| format!("cannot create {}", part.display()))?;
        }
        let binary = release_binary()?;
        Ok(Scene { directory, state, binary, capture: None, mounts: Vec::new() })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where applications see the captured directory.
    pub fn seen(&self) -> PathBuf {
        self.path("seen")
    }

    /// Runs a command of pitgate to its end.
    pub fn pitgate(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.command(arguments);
        let output = command.stdin(Stdio::null()).output().context("cannot start pitgate")?;
        if !output.status.success() {
            bail!("pitgate {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// What a command about the source answers with `-o json`.
    pub fn pitgate_answer(&self, words: &[&str]) -> Result<String> {
        let mut command = self.command(words);
        command.args(["--repo", &self.text("repo"), "--source", "bench", "-o", "json"]);
        let output = command.stdin(Stdio::null()).output().context("cannot start pitgate")?;
        if !output.status.success() {
            bail!("pitgate {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Begins to capture `data`, which may hold files already; returns when all of it is in the journal.
    pub fn begin_capture(&mut self) -> Result<()> {
        self.begin_capture_with(&[])
    }

    /// As [`Scene::begin_capture`], with further arguments of `capture`.
    pub fn begin_capture_with(&mut self, further: &[&str]) -> Result<()> {
        let repo = self.text("repo");
        self.pitgate(&["repo", "init", &repo])?;
        let root = format!("{}:{}", self.text("data"), self.text("seen"));
        let log = std::fs::File::create(self.path("capture.log")).context("cannot create a log")?;
        let child = self
            .command(&["capture", "--repo", &repo, "--source", "bench", "--root", &root])
            .args(further)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start pitgate capture")?;
        self.capture = Some(child);
        self.mounts.push(self.seen());
        self.wait_for_a_point()
    }

    /// Ends the capture in good order, so that everything is sealed.
    pub fn end_capture(&mut self) -> Result<()> {
        let Some(mut child) = self.capture.take() else { return Ok(()) };
        signal(&child, "-TERM");
        let started = now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("capture ended with {status}: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.capture = Some(child);
        bail!("capture does not end: {}", self.log())
    }

    /// Mounts the latest point read-only and returns where.
    pub fn mount(&mut self) -> Result<PathBuf> {
        let mountpoint = self.path("mount");
        let (repo, at) = (self.text("repo"), mountpoint.to_string_lossy().into_owned());
        self.mounts.push(mountpoint.clone());
        self.pitgate(&[
            "mount",
            "create",
            "--repo",
            &repo,
            "--source",
            "bench",
            "--at",
            "latest",
            "--read-only",
            &at,
        ])?;
        Ok(mountpoint)
    }

    pub fn unmount(&mut self) -> Result<()> {
        let at = self.text("mount");
        self.pitgate(&["mount", "remove", &at])
    }

    fn wait_for_a_point(&mut self) -> Result<()> {
        let repo = self.text("repo");
        let started = now();
        loop {
            let resolved =
                self.pitgate(&["point", "resolve", "--repo", &repo, "--source", "bench", "latest"]);
            let Err(error) = resolved else { return Ok(()) };
            let ended = match &mut self.capture {
                Some(child) => child.try_wait()?.is_some(),
                None => true,
            };
            if ended || started.elapsed() > PATIENCE {
                bail!("no point came to be: {error:#}; capture says: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("PITGATE_STATE_DIR", &self.state);
        command
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("capture.log")).unwrap_or_default()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Err(error) = self.end_capture() {
            eprintln!("warning: {error:#}");
        }
        if let Some(mut child) = self.capture.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for mountpoint in self.mounts.drain(..).rev() {
            // Most are gone already; what is left must not outlive the run.
            let _ = Command::new("umount").arg("--lazy").arg(mountpoint).stderr(Stdio::null()).status();
        }
        for directory in [&self.directory, &self.state] {
            if let Err(error) = std::fs::remove_dir_all(directory) {
                eprintln!("warning: {} is left behind: {error}", directory.display());
            }
        }
    }
}

fn signal(child: &Child, name: &str) {
    let _ = Command::new("kill").args([name, &child.id().to_string()]).status();
}

fn release_binary() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--bin", "pitgate"])
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the release build failed ({status})");
    }
    let own = std::env::current_exe().context("cannot find the target directory")?;
    let target = own.ancestors().nth(2).unwrap_or(Path::new("target"));
    Ok(target.join("release").join("pitgate"))
}
