//! SQLite, in rollback and in WAL mode, killed at any moment: every moment of its life opens on a mount.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};

use crate::deadline::now;
use crate::site::Site;

/// What was seen committed: the row's number, and a position at or after its commit.
struct Acknowledged {
    row: i64,
    position: u64,
}

fn open(directory: &Path, mode: &str) -> Connection {
    let connection = Connection::open(directory.join("test.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    let chosen: String =
        connection.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |row| row.get(0)).unwrap();
    assert_eq!(chosen, mode);
    connection.pragma_update(None, "synchronous", "full").unwrap();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    connection
}

/// Every transaction writes one row and moves an amount between two accounts, whose sum stays 0.
fn transact(connection: &mut Connection, row: i64) {
    let transaction = connection.transaction().unwrap();
    let body = vec![(row % 251) as u8; 200 + (row as usize * 37) % 9000];
    transaction.execute("INSERT INTO entry VALUES (?1, ?2)", params![row, body]).unwrap();
    transaction.execute("UPDATE account SET balance = balance + ?1 WHERE id = ?2", [row, row % 50]).unwrap();
    transaction
        .execute("UPDATE account SET balance = balance - ?1 WHERE id = ?2", [row, 50 + row % 50])
        .unwrap();
    if row % 20 == 0 {
        transaction.execute("DELETE FROM entry WHERE id < ?1 - 200 AND id % 3 = 0", [row]).unwrap();
    }
    transaction.commit().unwrap();
}

fn examine(directory: &Path, mode: &str) -> i64 {
    let connection = open(directory, mode);
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    let sum: i64 = connection.query_row("SELECT sum(balance) FROM account", [], |row| row.get(0)).unwrap();
    assert_eq!(sum, 0);
    connection.query_row("SELECT coalesce(max(id), 0) FROM entry", [], |row| row.get(0)).unwrap()
}

fn every_moment_opens(mode: &str) {
    let site = Site::new(&["data"]);
    let schema = "CREATE TABLE entry (id INTEGER PRIMARY KEY, body BLOB);
        CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99) INSERT INTO account SELECT i, 0 FROM n;";
    open(site.data(), mode).execute_batch(schema).unwrap();
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    let first = site.now();

    let (seconds, moments) = if std::env::var_os("PITGATE_LONG").is_some() { (60, 50) } else { (3, 8) };
    let mut acknowledged = Vec::new();
    let mut connection = open(site.live(), mode);
    let begin = now();
    let mut row = 0;
    while begin.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..40 {
            row += 1;
            transact(&mut connection, row);
        }
        acknowledged.push(Acknowledged { row, position: site.now() });
    }
    drop(connection);
    let last = site.now();
    assert!(acknowledged.len() >= 3, "only {row} rows were written");

    let mut random = first;
    for moment in 0..moments {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let position = first + (random >> 33) % (last - first);
        eprintln!("moment {moment}: position {position} of {first} to {last}");
        let name = format!("copy{moment}");
        site.mount(&name, &format!("@{position}"), &[]);
        let found = examine(&site.path(&name), mode);
        let due = acknowledged
            .iter()
            .filter(|seen| seen.position <= position)
            .map(|seen| seen.row)
            .max()
            .unwrap_or(0);
        assert!(found >= due, "row {due} was acknowledged before position {position}, found up to {found}");
        let mut copy = open(&site.path(&name), mode);
        transact(&mut copy, 1_000_000);
        drop(copy);
        assert_eq!(examine(&site.path(&name), mode), 1_000_000);
        site.unmount(&name);
    }
    assert_eq!(examine(site.live(), mode), row);
    capture.stop();
}

#[test]
fn every_moment_of_sqlite_in_rollback_mode_opens() {
    every_moment_opens("delete");
}

#[test]
fn every_moment_of_sqlite_in_wal_mode_opens() {
    every_moment_opens("wal");
}
