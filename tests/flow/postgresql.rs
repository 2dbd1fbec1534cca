//! PostgreSQL 15 under capture, killed in the middle: a server starts on any moment of its life.
//!
//! `PITGATE_LONG=1` is the full form: scale 20, 60 seconds of load, 24 moments.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::deadline::{now, wait_for};
use crate::server::{Server, Sockets, give_to_server};
use crate::site::Site;

/// How much the test does.
struct Effort {
    scale: u32,
    /// Each half of the load; the server is killed between them.
    half_seconds: u64,
    moments: usize,
}

impl Effort {
    fn chosen() -> Effort {
        if std::env::var_os("PITGATE_LONG").is_some() {
            Effort { scale: 20, half_seconds: 30, moments: 24 }
        } else {
            Effort { scale: 4, half_seconds: 5, moments: 4 }
        }
    }
}

/// What one client saw: rows with the time at which each was acknowledged, and spans of checkpoints.
#[derive(Default)]
struct Witness {
    rows: Vec<(u64, i64)>,
    checkpoints: Vec<(i64, i64)>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "compared with the times that the journal took from the same clock"
)]
fn wall_clock_ns() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

impl Witness {
    /// Inserts rows and asks for checkpoints while pgbench runs.
    fn watch(&mut self, server: &Server<'_>, duration: Duration) {
        let begin = now();
        while begin.elapsed() < duration {
            for _ in 0..5 {
                let row = server.ask("INSERT INTO witness DEFAULT VALUES RETURNING id").parse().unwrap();
                self.rows.push((row, wall_clock_ns()));
            }
            let begun = wall_clock_ns();
            server.ask("CHECKPOINT");
            self.checkpoints.push((begun, wall_clock_ns()));
        }
    }

    /// The last row that was acknowledged before `time`.
    fn due_at(&self, time: i64) -> u64 {
        self.rows
            .iter()
            .filter(|(_, acknowledged)| *acknowledged < time)
            .map(|(row, _)| *row)
            .max()
            .unwrap_or(0)
    }
}

fn load(sockets: &Sockets, server: &Server<'_>, seconds: u64, witness: &mut Witness) {
    let mut bench = sockets.command("pgbench");
    bench.args(["-n", "-c", "4", "-T", &seconds.to_string()]).args(server.client_arguments()).arg("postgres");
    let log = fs::File::create(sockets.directory.join("pgbench.log")).unwrap();
    let mut bench = bench.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    witness.watch(server, Duration::from_secs(seconds));
    let status = wait_for("pgbench", &mut bench, Duration::from_secs(seconds + 60));
    let said = fs::read_to_string(sockets.directory.join("pgbench.log")).unwrap();
    assert!(status.success(), "pgbench: {said}");
    eprintln!(
        "{}",
        said.lines().filter(|line| line.contains("tps") || line.contains("processed")).collect::<String>()
    );
}

/// A cluster under capture, with a tablespace in a second root.
fn create(site: &Site, sockets: &Sockets, effort: &Effort) {
    let server = sockets.start(site.live(), 5432);
    let tablespace = site.roots[1].live.join("ts");
    fs::create_dir(&tablespace).unwrap();
    give_to_server(&tablespace);
    server.ask(&format!("CREATE TABLESPACE space LOCATION '{}'", tablespace.display()));
    server.ask("CREATE TABLE witness (id bigserial PRIMARY KEY, at timestamptz DEFAULT now())");
    server.ask("CREATE EXTENSION amcheck");
    let mut arguments: Vec<String> =
        ["-i", "-q", "-s", &effort.scale.to_string()].map(str::to_owned).to_vec();
    arguments.extend(["--tablespace=space".to_owned(), "--index-tablespace=pg_default".to_owned()]);
    arguments.extend(server.client_arguments());
    arguments.push("postgres".to_owned());
    sockets.run("pgbench", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    server.stop();
}

/// Starts a server on the copy, checks that nothing is wrong, and stops it; `due` is the row that must be there.
fn examine(sockets: &Sockets, copy: &Path, due: u64) {
    let directory = copy.join("data");
    forget_old_server(&directory);
    let server = sockets.start(&directory, 5433);
    let found: u64 = server.ask("SELECT coalesce(max(id), 0) FROM witness").parse().unwrap();
    assert!(found >= due, "row {due} was acknowledged before this moment, the copy ends at {found}");
    check_balances(&server);
    let mut arguments = vec!["-d".to_owned(), "postgres".to_owned(), "--heapallindexed".to_owned()];
    arguments.extend(server.client_arguments());
    sockets.run("pg_amcheck", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    server.ask("UPDATE pgbench_branches SET filler = 'only in the copy'");
    server.stop();
    sockets.run("pg_checksums", &["--check", "-D", directory.to_str().unwrap()]);
}

fn check_balances(server: &Server<'_>) {
    let sums = server.ask(
        "SELECT (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts), (SELECT coalesce(sum(bbalance), 0) FROM
         pgbench_branches), (SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0)
         FROM pgbench_history)",
    );
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(sums.len() == 4 && sums.iter().all(|sum| *sum == sums[0]), "balances differ: {sums:?}");
}

/// The file that names the source's server, which may run: what a recovery takes away first.
fn forget_old_server(directory: &Path) {
    let _ = fs::remove_file(directory.join("postmaster.pid"));
}

#[test]
fn a_server_starts_on_any_moment_of_its_life() {
    let effort = Effort::chosen();
    let site = Site::new(&["data", "space"]);
    let sockets = Sockets::in_directory(site.path("postgresql"));
    sockets.create_cluster(site.data());
    give_to_server(&site.roots[1].data);
    let capture = site.start_capture(&["--segment-mib", "64"]);
    site.wait_for_points();
    create(&site, &sockets, &effort);

    let mut witness = Witness::default();
    let first = site.now();
    let server = sockets.start(site.live(), 5432);
    load(&sockets, &server, effort.half_seconds, &mut witness);
    server.kill();
    forget_old_server(site.live());
    let server = sockets.start(site.live(), 5432);
    load(&sockets, &server, effort.half_seconds, &mut witness);
    let last = site.now();
    eprintln!(
        "{} rows, {} checkpoints, positions {first} to {last}",
        witness.rows.len(),
        witness.checkpoints.len()
    );

    for (number, point) in points(&effort, &witness, first, last).iter().enumerate() {
        let mount = site.mount("copy", point, &[]);
        let time: jiff::Timestamp = mount["time"].as_str().unwrap().parse().unwrap();
        let due = witness.due_at(i64::try_from(time.as_nanosecond()).unwrap());
        eprintln!("moment {number}: {point} is {} at {time}, row {due} is due", mount["position"]);
        examine(&sockets, &site.path("copy"), due);
        site.unmount("copy");
    }
    two_copies_and_the_source_run_at_once(&site, &sockets, &server, last);
    server.stop();
    sockets.run("pg_checksums", &["--check", "-D", site.live().to_str().unwrap()]);
    capture.stop();
}

/// Half of them positions drawn evenly, half in the middle of checkpoints.
fn points(effort: &Effort, witness: &Witness, first: u64, last: u64) -> Vec<String> {
    let mut random = wall_clock_ns().unsigned_abs();
    eprintln!("moments are drawn from seed {random}");
    let mut draw = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    (0..effort.moments)
        .map(|number| {
            if number.is_multiple_of(2) {
                return format!("@{}", first + draw(last - first));
            }
            let (begun, ended) = witness.checkpoints[draw(witness.checkpoints.len() as u64) as usize];
            let middle = i128::from(begun + (ended - begun) / 2);
            jiff::Timestamp::from_nanosecond(middle).unwrap().to_string()
        })
        .collect()
}

/// Three servers write at the same time; none sees what another wrote.
fn two_copies_and_the_source_run_at_once(site: &Site, sockets: &Sockets, source: &Server<'_>, position: u64) {
    let mut copies: Vec<(String, PathBuf)> = Vec::new();
    for name in ["first-copy", "second-copy"] {
        site.mount(name, &format!("@{position}"), &[]);
        let directory = site.path(name).join("data");
        forget_old_server(&directory);
        copies.push((name.to_owned(), directory));
    }
    let servers = [sockets.start(&copies[0].1, 5434), sockets.start(&copies[1].1, 5435)];
    let all = [source, &servers[0], &servers[1]];
    for (number, server) in all.iter().enumerate() {
        server.ask(&format!("CREATE TABLE written_by_{number} AS SELECT * FROM pgbench_tellers"));
    }
    let mut tested = Vec::new();
    for server in all {
        let mut bench = sockets.command("pgbench");
        bench.args(["-n", "-c", "2", "-t", "100"]).args(server.client_arguments()).arg("postgres");
        let log = fs::File::create(sockets.directory.join("pgbench.log")).unwrap();
        tested.push(bench.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }
    for mut bench in tested {
        assert!(wait_for("pgbench", &mut bench, Duration::from_secs(60)).success());
    }
    for (number, server) in all.iter().enumerate() {
        check_balances(server);
        let tables = server.ask("SELECT relname FROM pg_class WHERE relname LIKE 'written_by_%'");
        assert_eq!(tables, format!("written_by_{number}"));
    }
    let space = |root: &Path| fs::read_dir(root).unwrap().count();
    assert!(space(&site.path("first-copy").join("space")) > 0, "the tablespace is part of the copy");
    for server in servers {
        server.stop();
    }
    for (name, directory) in copies {
        sockets.run("pg_checksums", &["--check", "-D", directory.to_str().unwrap()]);
        site.unmount(&name);
    }
}
