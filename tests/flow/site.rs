//! A site of its own for one test: repository, source, data, state directory; ended and removed with the test.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::deadline::{Ended, run, wait_for, wait_until};

const COMMAND_PATIENCE: Duration = Duration::from_secs(60);
pub const CAPTURE_PATIENCE: Duration = Duration::from_secs(30);
pub const SOURCE: &str = "his";

/// One captured directory of a site.
#[derive(Clone)]
pub struct Root {
    pub label: String,
    pub data: PathBuf,
    pub live: PathBuf,
}

/// Directory of one test.
pub struct Site {
    scratch: tempfile::TempDir,
    pub roots: Vec<Root>,
    pub repository: PathBuf,
    mountpoints: std::cell::RefCell<Vec<PathBuf>>,
}

/// A running capture; dropping it kills it and detaches its mountpoints.
pub struct CaptureProcess {
    child: Child,
    mountpoints: Vec<PathBuf>,
    log: PathBuf,
}

impl Site {
    /// A site with an initialised repository and one root for each label, named `LABEL-data` and `LABEL`.
    pub fn new(labels: &[&str]) -> Site {
        let site = Site::without_repository(labels);
        site.json(&["repo", "init", site.repository.to_str().unwrap()]);
        site
    }

    pub fn without_repository(labels: &[&str]) -> Site {
        let scratch = tempfile::Builder::new().prefix("pitgate-flow-").tempdir().unwrap();
        // A database server that runs as another user passes through here.
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let roots = labels.iter().map(|label| Root {
            label: (*label).to_owned(),
            data: scratch.path().join(format!("{label}-data")),
            live: scratch.path().join(label),
        });
        let roots: Vec<Root> = roots.collect();
        for root in &roots {
            fs::create_dir(&root.data).unwrap();
            fs::create_dir(&root.live).unwrap();
        }
        let repository = scratch.path().join("repository");
        fs::create_dir(scratch.path().join("state")).unwrap();
        fs::set_permissions(scratch.path().join("state"), fs::Permissions::from_mode(0o700)).unwrap();
        Site { scratch, roots, repository, mountpoints: std::cell::RefCell::default() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub fn live(&self) -> &Path {
        &self.roots[0].live
    }

    pub fn data(&self) -> &Path {
        &self.roots[0].data
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pitgate"));
        command.args(words).env("PITGATE_STATE_DIR", self.path("state")).env("TZ", "UTC");
        command.env("XDG_DATA_HOME", self.path("state"));
        command
    }

    /// Runs `pitgate` with `words`, whatever comes of it.
    #[track_caller]
    pub fn pitgate(&self, words: &[&str]) -> Ended {
        run(&mut self.command(words), self.scratch.path(), COMMAND_PATIENCE)
    }

    /// Runs `pitgate WORDS -o json` and returns its answer.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        let mut words = words.to_vec();
        words.extend(["-o", "json"]);
        let ended = self.pitgate(&words);
        assert!(ended.status.success(), "pitgate {}: {}", words.join(" "), ended.stderr);
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}", ended.stdout))
    }

    /// As [`Site::json`] with the arguments that name this site's source after the first words.
    #[track_caller]
    pub fn source_json(&self, words: &[&str], more: &[&str]) -> Value {
        self.json(&self.of_source(words, more))
    }

    /// Runs a command that must fail with status 1 and returns its words.
    #[track_caller]
    pub fn refused(&self, words: &[&str]) -> String {
        let ended = self.pitgate(words);
        assert_eq!(
            ended.status.code(),
            Some(1),
            "pitgate {}: {} {}",
            words.join(" "),
            ended.stdout,
            ended.stderr
        );
        assert!(ended.stderr.starts_with("error: "), "{}", ended.stderr);
        assert_eq!(ended.stderr.trim_end().lines().count(), 1, "one sentence: {}", ended.stderr);
        ended.stderr.trim_end().to_owned()
    }

    pub fn of_source<'a>(&'a self, words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        let source = ["--repo", self.repository.to_str().unwrap(), "--source", SOURCE];
        [words, &source, more].concat()
    }

    /// Starts capture of all roots and waits until it serves.
    #[track_caller]
    pub fn start_capture(&self, more: &[&str]) -> CaptureProcess {
        let roots: Vec<String> = self
            .roots
            .iter()
            .map(|root| format!("{}={}:{}", root.label, root.data.display(), root.live.display()))
            .collect();
        let mut words = self.of_source(&["capture", "-o", "json"], more);
        for root in &roots {
            words.extend(["--root", root]);
        }
        // The log is kept for all lives; the first line of stdout is of this life.
        let log = self.path("capture.log");
        let announcement = tempfile::NamedTempFile::new_in(self.scratch.path()).unwrap();
        let errors = File::options().create(true).append(true).open(&log).unwrap();
        let own = self.command(&words);
        let mut command = Command::new("setpriv");
        // However this test ends, the capture ends with it.
        command.args(["--pdeathsig", "KILL", "--"]).arg(own.get_program()).args(own.get_args());
        command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(announcement.reopen().unwrap()).stderr(errors);
        let child = command.spawn().expect("setpriv (package util-linux) starts");
        let mountpoints = self.roots.iter().map(|root| root.live.clone()).collect();
        let mut capture = CaptureProcess { child, mountpoints, log };
        wait_until("capture serves", CAPTURE_PATIENCE, || {
            assert!(capture.child.try_wait().unwrap().is_none(), "capture ended: {}", capture.said());
            fs::read_to_string(announcement.path()).unwrap().ends_with('\n')
        });
        let line = fs::read_to_string(announcement.path()).unwrap();
        let serving: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
        assert_eq!(serving["source"], SOURCE);
        assert_eq!(serving["mountpoints"].as_array().unwrap().len(), self.roots.len());
        assert!(serving["position"].is_u64(), "{line}");
        capture
    }

    /// Waits until points exist: the initial image, or the comparison after a stop, is complete.
    #[track_caller]
    pub fn wait_for_points(&self) {
        wait_until("the image is complete", CAPTURE_PATIENCE, || {
            self.source_json(&["source", "show"], &[])["capture"]["image"]["complete"] == true
        });
    }

    /// The position that is written now, sealed so that it can be mounted.
    #[track_caller]
    pub fn now(&self) -> u64 {
        self.source_json(&["point", "resolve"], &["latest"])["position"].as_u64().unwrap()
    }

    /// Mounts `point` at a new directory `name`.
    #[track_caller]
    pub fn mount(&self, name: &str, point: &str, more: &[&str]) -> Value {
        let mountpoint = self.path(name);
        // What a dead process left mounted there cannot be looked at.
        if !mountpoint.exists() && !is_mountpoint(&mountpoint) {
            fs::create_dir(&mountpoint).unwrap();
        }
        self.mountpoints.borrow_mut().push(mountpoint.clone());
        let at = format!("--at={point}");
        let mut words = self.of_source(&["mount", "create", &at], more);
        words.push(mountpoint.to_str().unwrap());
        self.json(&words)
    }

    #[track_caller]
    pub fn unmount(&self, name: &str) {
        let mountpoint = self.path(name);
        self.json(&["mount", "remove", mountpoint.to_str().unwrap()]);
        self.mountpoints.borrow_mut().retain(|mounted| *mounted != mountpoint);
        assert!(!is_mountpoint(&mountpoint), "{} is still mounted", mountpoint.display());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for mountpoint in self.mountpoints.borrow().iter() {
            let mountpoint = mountpoint.to_str().unwrap();
            let _ = self.command(&["mount", "remove", "--lazy", mountpoint]).stderr(Stdio::null()).status();
            detach(Path::new(mountpoint));
        }
    }
}

impl CaptureProcess {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to its log.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it in good order, as `systemctl stop` would.
    #[track_caller]
    pub fn stop(mut self) {
        signal(self.child.id(), "TERM");
        let status = wait_for("capture stops", &mut self.child, CAPTURE_PATIENCE);
        assert!(status.success(), "capture ended with {status}: {}", self.said());
        for mountpoint in &self.mountpoints {
            assert!(!is_mountpoint(mountpoint), "{} is still mounted", mountpoint.display());
        }
    }

    /// Ends it once it could not record any more: it unmounts, and its status says that something was not recorded.
    #[track_caller]
    pub fn stop_after_failure(mut self) -> String {
        signal(self.child.id(), "TERM");
        let status = wait_for("capture stops", &mut self.child, CAPTURE_PATIENCE);
        assert_eq!(status.code(), Some(1), "{}", self.said());
        assert!(self.mountpoints.iter().all(|mountpoint| !is_mountpoint(mountpoint)));
        self.said()
    }

    /// Ends it as a power cut or the out-of-memory killer would.
    pub fn kill(mut self) {
        self.end_hard();
    }

    fn end_hard(&mut self) {
        let _ = self.child.kill();
        for mountpoint in &self.mountpoints {
            detach(mountpoint);
        }
        let _ = self.child.wait();
    }
}

impl Drop for CaptureProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the capture's log:\n{}", self.said());
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end_hard();
        }
    }
}

/// Whether the kernel's table names `path`; asks no file system, so that a dead one cannot block.
pub fn is_mountpoint(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

/// Unmounts lazily, as long as something is mounted.
pub fn detach(path: &Path) {
    while is_mountpoint(path) {
        let status = Command::new("umount").arg("-l").arg(path).stderr(Stdio::null()).status();
        if !status.is_ok_and(|status| status.success()) {
            break;
        }
    }
}

pub fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap();
    assert!(status.success(), "cannot send {name} to {process}");
}
