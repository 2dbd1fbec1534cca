//! A PostgreSQL 15 server in a directory, run by the unprivileged user `postgres`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::deadline::{Ended, run, wait_for, wait_until};
use crate::site::signal;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const PATIENCE: Duration = Duration::from_secs(60);

/// Where servers of one test keep sockets and logs; readable by the servers' user.
pub struct Sockets {
    pub directory: PathBuf,
}

/// A running server; dropping it kills it.
pub struct Server<'a> {
    sockets: &'a Sockets,
    process: Child,
    pub port: u16,
}

impl Sockets {
    pub fn in_directory(directory: PathBuf) -> Sockets {
        let program = Path::new(PROGRAMS).join("postgres");
        assert!(program.exists(), "{} is missing: install the package postgresql-15", program.display());
        fs::create_dir(&directory).unwrap();
        give_to_server(&directory);
        Sockets { directory }
    }

    /// A program of the installation, as the servers' user, that dies with this test.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig", "KILL", "--"]);
        command.arg(Path::new(PROGRAMS).join(program)).current_dir(&self.directory);
        command.env("PGTZ", "UTC").env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Runs a program to its end, which must be good.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let ended = self.run_any(program, arguments);
        assert!(ended.status.success(), "{program} {arguments:?}: {}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    #[track_caller]
    pub fn run_any(&self, program: &str, arguments: &[&str]) -> Ended {
        run(self.command(program).args(arguments), &self.directory, 2 * PATIENCE)
    }

    /// A new cluster with checksums.
    #[track_caller]
    pub fn create_cluster(&self, directory: &Path) {
        give_to_server(directory);
        self.run("initdb", &["-k", "-N", "-A", "trust", "-D", directory.to_str().unwrap()]);
    }

    /// Starts a server in `directory` and waits for its first answer.
    #[track_caller]
    pub fn start(&self, directory: &Path, port: u16) -> Server<'_> {
        let log = self.log(port);
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let settings = [
            "listen_addresses=".to_owned(),
            format!("unix_socket_directories={}", self.directory.display()),
            "shared_buffers=32MB".to_owned(),
            "max_connections=20".to_owned(),
            // Checkpoints run all the time, so that moments in the middle of one are common.
            "checkpoint_timeout=30s".to_owned(),
            "max_wal_size=48MB".to_owned(),
            "min_wal_size=32MB".to_owned(),
            "wal_recycle=on".to_owned(),
        ];
        let mut command = self.command("postgres");
        command.arg("-D").arg(directory).args(["-p", &port.to_string()]);
        for setting in &settings {
            command.args(["-c", setting]);
        }
        let process = command.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        let mut server = Server { sockets: self, process, port };
        wait_until("the server answers", PATIENCE, || {
            let ended = server.process.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended: {}", self.last_words(port));
            server.try_ask("SELECT 1").status.success()
        });
        server
    }

    fn log(&self, port: u16) -> PathBuf {
        self.directory.join(format!("{port}.log"))
    }

    pub fn last_words(&self, port: u16) -> String {
        let log = fs::read_to_string(self.log(port)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Server<'_> {
    pub fn client_arguments(&self) -> Vec<String> {
        vec!["-h".into(), self.sockets.directory.display().to_string(), "-p".into(), self.port.to_string()]
    }

    fn try_ask(&self, query: &str) -> Ended {
        let mut command = self.sockets.command("psql");
        command
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", query])
            .args(self.client_arguments());
        run(&mut command, &self.sockets.directory, PATIENCE)
    }

    #[track_caller]
    pub fn ask(&self, query: &str) -> String {
        let ended = self.try_ask(query);
        let said = || self.sockets.last_words(self.port);
        assert!(ended.status.success(), "{query}: {}\nthe server's log:\n{}", ended.stderr, said());
        ended.stdout.trim().to_owned()
    }

    /// Ends it in good order.
    #[track_caller]
    pub fn stop(mut self) {
        signal(self.process.id(), "INT");
        let status = wait_for("the server stops", &mut self.process, PATIENCE);
        assert!(status.success(), "the server ended with {status}: {}", self.sockets.last_words(self.port));
    }

    /// Kills it and waits until its backends are gone too.
    #[track_caller]
    pub fn kill(mut self) {
        self.end_hard();
    }

    fn end_hard(&mut self) {
        let children = children_of(self.process.id());
        let _ = self.process.kill();
        let _ = self.process.wait();
        for child in children {
            let _ = Command::new("kill").args(["-s", "KILL", &child]).stderr(Stdio::null()).status();
            let begin = crate::deadline::now();
            while Path::new("/proc").join(&child).exists() && begin.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            self.end_hard();
        }
    }
}

fn children_of(process: u32) -> Vec<String> {
    let tasks = format!("/proc/{process}/task/{process}/children");
    fs::read_to_string(tasks).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

#[track_caller]
pub fn give_to_server(path: &Path) {
    let status = Command::new("chown").arg("-R").arg("postgres:postgres").arg(path).status().unwrap();
    assert!(status.success(), "these tests run as root, and the user postgres exists");
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
}
