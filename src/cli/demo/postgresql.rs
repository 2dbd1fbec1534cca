//! A real PostgreSQL server of this machine as the hospital's database.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::database::{Acknowledged, Database, Findings};
use crate::io::{Clock, SystemClock};
use crate::types::Time;

const PATIENCE: Duration = Duration::from_secs(60);
const DOCUMENT_BYTES: u64 = 64 << 10;

/// A counter row makes visits commit in the order of their numbers.
const SCHEMA: &str = "
CREATE TABLE document (id bigserial PRIMARY KEY, body text NOT NULL);
CREATE TABLE counter (last_visit bigint NOT NULL);
INSERT INTO counter VALUES (0);
CREATE TABLE registration (visit bigint PRIMARY KEY, patient bigint NOT NULL, admitted timestamptz NOT NULL);
CREATE TABLE medical_order (visit bigint NOT NULL REFERENCES registration, item text NOT NULL);
CREATE TABLE result (visit bigint NOT NULL REFERENCES registration, value float8 NOT NULL, remark text NOT NULL);
CREATE TABLE charge (visit bigint NOT NULL REFERENCES registration, amount bigint NOT NULL);
CREATE TABLE ledger (department bigint PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO ledger SELECT d, 0 FROM generate_series(0, 11) d;
CREATE INDEX ON medical_order (visit);
CREATE INDEX ON result (visit);
CREATE INDEX ON charge (visit);
CREATE FUNCTION admit() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE v bigint;
BEGIN
  UPDATE counter SET last_visit = last_visit + 1 RETURNING last_visit INTO v;
  INSERT INTO registration VALUES (v, v * 7919 % 100000, clock_timestamp());
  INSERT INTO medical_order VALUES (v, 'blood count');
  INSERT INTO result VALUES (v, v % 17, repeat(md5(v::text), 6));
  INSERT INTO charge VALUES (v, 100 + v * 37 % 9000);
  UPDATE ledger SET balance = balance + 100 + v * 37 % 9000 WHERE department = v % 12;
  RETURN v;
END $$;
";

const FINDINGS: &str = "
SELECT count(*), (SELECT last_visit FROM counter), (SELECT coalesce(sum(amount), 0) FROM charge),
  (SELECT sum(balance) FROM ledger),
  count(*) FILTER (WHERE NOT EXISTS (SELECT FROM medical_order o WHERE o.visit = r.visit)
    OR NOT EXISTS (SELECT FROM result t WHERE t.visit = r.visit)
    OR NOT EXISTS (SELECT FROM charge c WHERE c.visit = r.visit))
FROM registration r";

/// The programs of a PostgreSQL installation, and where its servers leave sockets and logs.
pub struct Postgresql {
    programs: PathBuf,
    scratch: PathBuf,
}

/// A running server; dropping it kills it.
struct Server<'a> {
    database: &'a Postgresql,
    process: Child,
    port: String,
}

impl Postgresql {
    /// Finds the newest installation of this machine.
    ///
    /// # Errors
    /// Names the package if there is none.
    pub fn find(stage: &Path) -> Result<Postgresql> {
        let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join("bin"))
            .filter(|programs| programs.join("postgres").exists() && programs.join("pgbench").exists())
            .collect();
        found.sort();
        let programs =
            found.pop().context("no PostgreSQL server is installed: install the package postgresql")?;
        let scratch = stage.join("postgresql");
        std::fs::create_dir(&scratch)?;
        let database = Postgresql { programs, scratch };
        database.give_to_server(&database.scratch)?;
        Ok(database)
    }

    /// A command of the installation, run by the unprivileged user `postgres` if this process is root.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = if rustix::process::getuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        // Root's directories may be closed to the server's user.
        command.current_dir(&self.scratch).stdin(Stdio::null());
        command
    }

    fn give_to_server(&self, path: &Path) -> Result<()> {
        if !rustix::process::getuid().is_root() {
            return Ok(());
        }
        let status =
            Command::new("chown").arg("postgres:postgres").arg(path).status().context("cannot run chown")?;
        ensure!(status.success(), "cannot give {} to the user postgres", path.display());
        Ok(())
    }

    fn start(&self, directory: &Path, port: u16) -> Result<Server<'_>> {
        // In a copy it names the server of the source, which may run.
        let _ = std::fs::remove_file(directory.join("postmaster.pid"));
        let log = std::fs::File::create(self.scratch.join(format!("{port}.log")))?;
        let process = self
            .command("postgres")
            .arg("-D")
            .arg(directory)
            .args(["-c", "listen_addresses=", "-c", "shared_buffers=64MB", "-c", "log_checkpoints=off"])
            .args(["-c", &format!("unix_socket_directories={}", self.scratch.display())])
            .args(["-p", &port.to_string()])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the server")?;
        let mut server = Server { database: self, process, port: port.to_string() };
        let begin = SystemClock.monotonic();
        while server.ask("SELECT 1").is_err() {
            if let Some(status) = server.process.try_wait()? {
                bail!("the server ended ({status}): {}", self.last_words(port));
            }
            ensure!(
                SystemClock.monotonic().saturating_sub(begin) < PATIENCE,
                "the server does not answer: {}",
                self.last_words(port)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    fn last_words(&self, port: u16) -> String {
        let log = std::fs::read_to_string(self.scratch.join(format!("{port}.log"))).unwrap_or_default();
        log.lines().rev().take(5).collect::<Vec<_>>().join("; ")
    }
}

impl Server<'_> {
    fn psql(&self) -> Command {
        let mut command = self.database.command("psql");
        command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-p", &self.port, "-d", "postgres", "-h"]);
        command.arg(&self.database.scratch);
        command
    }

    fn ask(&self, query: &str) -> Result<String> {
        let output = self.psql().args(["-c", query]).output().context("cannot start psql")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Other clients at work, for `seconds`.
    fn start_bench(&self, seconds: u64) -> Result<Child> {
        let script = self.database.scratch.join("admit.sql");
        std::fs::write(&script, "SELECT admit();\n")?;
        let mut bench = self.database.command("pgbench");
        bench.args(["-n", "-c", "3", "-T", &seconds.to_string(), "-p", &self.port, "-f"]).arg(script);
        bench.arg("-h").arg(&self.database.scratch).arg("postgres");
        bench.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start pgbench")
    }

    /// One client that notes what it saw committed.
    fn witness(&self, duration: Duration) -> Result<Acknowledged> {
        let mut client =
            self.psql().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start psql")?;
        let mut questions = client.stdin.take().context("psql takes no input")?;
        let mut answers = BufReader::new(client.stdout.take().context("psql has no output")?);
        let mut last = Acknowledged { visit: 0, time: Time::MIN, transactions: 0 };
        let begin = SystemClock.monotonic();
        while SystemClock.monotonic().saturating_sub(begin) < duration {
            questions.write_all(b"SELECT admit();\n")?;
            let mut answer = String::new();
            answers.read_line(&mut answer)?;
            last.visit = answer.trim().parse().context("psql gave no number: the server is gone")?;
            last.time = SystemClock.now();
        }
        last.transactions = last.visit;
        drop(questions);
        client.wait()?;
        Ok(last)
    }

    fn stop(mut self, signal: rustix::process::Signal) -> Result<()> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), signal)?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            // Its backends notice and end by themselves.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

impl Database for Postgresql {
    fn name(&self) -> &'static str {
        "PostgreSQL"
    }

    fn create(&self, directory: &Path, size_bytes: u64) -> Result<()> {
        self.give_to_server(directory)?;
        let mut initdb = self.command("initdb");
        initdb.args(["-k", "-N", "-A", "trust", "-D"]).arg(directory);
        let output = initdb.output().context("cannot start initdb")?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr).trim());
        let server = self.start(directory, 5432)?;
        server.ask(SCHEMA)?;
        // Stored outside the row without compression, so that the size is what was asked for.
        server.ask("ALTER TABLE document ALTER body SET STORAGE EXTERNAL")?;
        let repeats = DOCUMENT_BYTES / 32;
        let count = size_bytes / DOCUMENT_BYTES;
        server.ask(&format!(
            "INSERT INTO document (body) SELECT repeat(md5(n::text), {repeats}) FROM generate_series(1, {count}) n"
        ))?;
        server.stop(rustix::process::Signal::INT)
    }

    fn load(&self, directory: &Path, duration: Duration) -> Result<Acknowledged> {
        let server = self.start(directory, 5432)?;
        let mut bench = server.start_bench(duration.as_secs().max(1))?;
        let last = server.witness(duration)?;
        // The witness is the last to be answered before the server dies.
        bench.wait()?;
        let last = Acknowledged { transactions: server.ask("SELECT admit()")?.parse()?, ..last };
        let last = Acknowledged { visit: last.transactions, time: SystemClock.now(), ..last };
        server.stop(rustix::process::Signal::KILL)?;
        Ok(last)
    }

    fn examine(&self, directory: &Path, write: bool, first_answer: &mut dyn FnMut()) -> Result<Findings> {
        let server = self.start(directory, 5433)?;
        first_answer();
        let answer = server.ask(FINDINGS)?;
        let numbers: Vec<i64> =
            answer.split('|').map(str::parse).collect::<Result<_, _>>().context(answer.clone())?;
        let [visits, last_visit, charges, ledgers, incomplete] = numbers[..] else {
            bail!("unexpected answer: {answer}")
        };
        if write {
            server.ask("SELECT admit()")?;
        }
        server.stop(rustix::process::Signal::INT)?;
        let count = |number: i64| u64::try_from(number).context("a count is negative");
        Ok(Findings {
            visits: count(visits)?,
            last_visit: count(last_visit)?,
            charges,
            ledgers,
            incomplete_visits: count(incomplete)?,
        })
    }
}
