//! `bench capture-pgbench`: what capture costs a PostgreSQL server, against the same server on the bare file system.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::scene::Scene;
use super::{Figure, now, number_from};

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const PORT: &str = "5477";
const PATIENCE: Duration = Duration::from_secs(60);

struct Load {
    scale: u64,
    seconds: u64,
}

/// Measures the bare directory, then capture with each durability.
pub fn run(report: &mut dyn FnMut(Figure)) -> Result<()> {
    let load = Load {
        scale: number_from("PITGATE_BENCH_SCALE", 20)?,
        seconds: number_from("PITGATE_BENCH_SECONDS", 30)?,
    };
    let bare = {
        let scene = Scene::new("pgbench-bare")?;
        let cluster = Cluster::create(&scene.path("data"), scene.path("postgresql"), &load)?;
        cluster.transactions_per_second(&scene.path("data"), &load)?
    };
    for durability in ["fsync", "async"] {
        let mut scene = Scene::new("pgbench-capture")?;
        let cluster = Cluster::create(&scene.path("data"), scene.path("postgresql"), &load)?;
        scene.begin_capture_with(&["--durability", durability])?;
        let captured = cluster.transactions_per_second(&scene.seen(), &load)?;
        let figure = |case: String, value, unit, peer, peer_value| Figure {
            bench: "capture-pgbench",
            case,
            value,
            unit,
            peer,
            peer_value,
        };
        report(figure(format!("{durability}, 4 clients"), captured, "tps", "bare directory", bare));
        let status = scene.pitgate_answer(&["source", "show"])?;
        let of_life = |field: &str| number_after(&status, field);
        let (captured_bytes, stored_bytes) = (of_life("captured_bytes")?, of_life("stored_bytes")?);
        let case = format!("{durability}, journal bytes");
        report(figure(case, stored_bytes / 1e6, "MB", "pages captured", captured_bytes / 1e6));
        let cpu_s = of_life("cpu_ms")? / 1e3;
        let wall_s = load.seconds as f64;
        report(figure(format!("{durability}, processor time"), cpu_s, "s", "one core", wall_s));
        scene.end_capture()?;
    }
    Ok(())
}

/// The number of a field of flat JSON.
fn number_after(json: &str, field: &str) -> Result<f64> {
    let name = format!("\"{field}\":");
    // The capture's own figures come last; the source's have the same names.
    let at = json.rfind(&name).with_context(|| format!("no {field} in {json}"))?;
    let digits: String =
        json[at + name.len()..].chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    digits.parse().with_context(|| format!("{field} is no number in {json}"))
}

/// A cluster with pgbench's tables, owned by the unprivileged user `postgres`.
struct Cluster {
    sockets: PathBuf,
}

/// A running server; dropping it stops it.
struct Server(Child);

impl Cluster {
    fn create(directory: &Path, sockets: PathBuf, load: &Load) -> Result<Cluster> {
        std::fs::create_dir(&sockets)?;
        for path in [directory, &sockets] {
            let status = Command::new("chown").arg("postgres:postgres").arg(path).status()?;
            ensure!(status.success(), "this benchmark runs as root and needs the package postgresql-15");
        }
        let cluster = Cluster { sockets };
        let text = directory.to_string_lossy().into_owned();
        cluster.run("initdb", &["-N", "-A", "trust", "-D", &text])?;
        let server = cluster.start(directory)?;
        let scale = load.scale.to_string();
        cluster.client("pgbench", &["-i", "-q", "-s", &scale, "postgres"])?;
        drop(server);
        Ok(cluster)
    }

    fn transactions_per_second(&self, directory: &Path, load: &Load) -> Result<f64> {
        let server = self.start(directory)?;
        let seconds = load.seconds.to_string();
        let said = self.client("pgbench", &["-n", "-c", "4", "-T", &seconds, "postgres"])?;
        drop(server);
        let line =
            said.lines().find_map(|line| line.strip_prefix("tps = ")).context("pgbench said no tps")?;
        line.split(' ').next().unwrap_or_default().parse().with_context(|| format!("no number: {line}"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig", "KILL", "--"]);
        command.arg(Path::new(PROGRAMS).join(program)).current_dir(&self.sockets).stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.command(program).args(arguments).output().context("cannot start setpriv")?;
        if !output.status.success() {
            bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn client(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let sockets = self.sockets.to_string_lossy().into_owned();
        self.run(program, &[&["-h", &sockets, "-p", PORT], arguments].concat())
    }

    fn start(&self, directory: &Path) -> Result<Server> {
        let log = std::fs::File::create(self.sockets.join("log"))?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(directory).args(["-p", PORT, "-c", "listen_addresses="]);
        command.args(["-c", "shared_buffers=256MB", "-c", "max_wal_size=1GB"]);
        command.args(["-c", &format!("unix_socket_directories={}", self.sockets.display())]);
        let mut server = Server(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        let started = now();
        while self.client("psql", &["-c", "SELECT 1", "postgres"]).is_err() {
            let is_over = server.0.try_wait()?.is_some() || started.elapsed() > PATIENCE;
            ensure!(
                !is_over,
                "the server does not start: {}",
                std::fs::read_to_string(self.sockets.join("log"))?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let started = now();
        while started.elapsed() < PATIENCE && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
