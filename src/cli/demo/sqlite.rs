//! SQLite in WAL mode as the hospital's database, in this process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};

use super::database::{Acknowledged, Database, Findings, document};
use crate::io::{Clock, SystemClock};
use crate::types::Time;

const DOCUMENT_BYTES: usize = 64 << 10;
const DEPARTMENTS: i64 = 12;

const SCHEMA: &str = "
    CREATE TABLE document (id INTEGER PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE registration (visit INTEGER PRIMARY KEY, patient INTEGER NOT NULL, admitted TEXT NOT NULL);
    CREATE TABLE medical_order (visit INTEGER NOT NULL REFERENCES registration, item TEXT NOT NULL);
    CREATE TABLE result (visit INTEGER NOT NULL REFERENCES registration, value REAL NOT NULL, remark TEXT NOT NULL);
    CREATE TABLE charge (visit INTEGER NOT NULL REFERENCES registration, amount INTEGER NOT NULL);
    CREATE TABLE ledger (department INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
    CREATE INDEX order_visit ON medical_order (visit);
    CREATE INDEX result_visit ON result (visit);
    CREATE INDEX charge_visit ON charge (visit);
";

pub struct Sqlite;

impl Sqlite {
    pub fn new() -> Sqlite {
        Sqlite
    }
}

fn file(directory: &Path) -> PathBuf {
    directory.join("hospital.db")
}

fn open(directory: &Path) -> Result<Connection> {
    let path = file(directory);
    let connection = Connection::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // A commit returns only when the log is synced: what is acknowledged must survive.
    connection.pragma_update(None, "synchronous", "full")?;
    Ok(connection)
}

impl Database for Sqlite {
    fn name(&self) -> &'static str {
        "SQLite, WAL mode"
    }

    fn create(&self, directory: &Path, size_bytes: u64) -> Result<()> {
        let mut connection = open(directory)?;
        connection.execute_batch(SCHEMA)?;
        let transaction = connection.transaction()?;
        for department in 1..=DEPARTMENTS {
            transaction.execute("INSERT INTO ledger VALUES (?1, 0)", [department])?;
        }
        for number in 0..size_bytes / DOCUMENT_BYTES as u64 {
            let body = document(number, DOCUMENT_BYTES);
            transaction.execute("INSERT INTO document (body) VALUES (?1)", [body])?;
        }
        transaction.commit()?;
        connection.close().map_err(|(_, error)| error).context("cannot close the database")
    }

    fn load(&self, directory: &Path, duration: Duration) -> Result<Acknowledged> {
        let mut connection = open(directory)?;
        let begin = SystemClock.monotonic();
        let mut last = Acknowledged { visit: last_visit(&connection)?, time: Time::MIN, transactions: 0 };
        while SystemClock.monotonic().saturating_sub(begin) < duration {
            admit(&mut connection, last.visit + 1)?;
            last.visit += 1;
            last.time = SystemClock.now();
        }
        last.transactions = last.visit;
        // Closing would move the log into the database: a machine that is attacked gets no such chance.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.close().map_err(|(_, error)| error).context("cannot close the database")?;
        Ok(last)
    }

    fn examine(&self, directory: &Path, write: bool, first_answer: &mut dyn FnMut()) -> Result<Findings> {
        let mut connection = open(directory)?;
        let visits = number(&connection, "SELECT count(*) FROM registration")?;
        first_answer();
        let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        ensure!(verdict == "ok", "integrity_check says: {verdict}");
        let findings = Findings {
            visits,
            last_visit: last_visit(&connection)?,
            charges: connection
                .query_row("SELECT coalesce(sum(amount), 0) FROM charge", [], |row| row.get(0))?,
            ledgers: connection.query_row("SELECT sum(balance) FROM ledger", [], |row| row.get(0))?,
            incomplete_visits: number(
                &connection,
                "SELECT count(*) FROM registration WHERE visit NOT IN (SELECT visit FROM medical_order)
                    OR visit NOT IN (SELECT visit FROM result) OR visit NOT IN (SELECT visit FROM charge)",
            )?,
        };
        if write {
            admit(&mut connection, findings.last_visit + 1)?;
        }
        connection.close().map_err(|(_, error)| error).context("cannot close the database")?;
        Ok(findings)
    }
}

fn number(connection: &Connection, query: &str) -> Result<u64> {
    let number: i64 = connection.query_row(query, [], |row| row.get(0))?;
    u64::try_from(number).context("a count is negative")
}

fn last_visit(connection: &Connection) -> Result<u64> {
    number(connection, "SELECT coalesce(max(visit), 0) FROM registration")
}

/// One visit, one transaction.
fn admit(connection: &mut Connection, visit: u64) -> Result<()> {
    let remark = document(visit, 200);
    let visit = i64::try_from(visit).context("too many visits")?;
    let amount = 100 + visit * 37 % 9_000;
    let transaction = connection.transaction()?;
    let patient = visit * 7919 % 100_000;
    let admitted = SystemClock.now().to_string();
    transaction.execute("INSERT INTO registration VALUES (?1, ?2, ?3)", params![visit, patient, admitted])?;
    transaction.execute("INSERT INTO medical_order VALUES (?1, 'blood count')", [visit])?;
    transaction.execute("INSERT INTO result VALUES (?1, ?2, ?3)", params![visit, visit % 17, remark])?;
    transaction.execute("INSERT INTO charge VALUES (?1, ?2)", [visit, amount])?;
    let department = 1 + visit % DEPARTMENTS;
    transaction
        .execute("UPDATE ledger SET balance = balance + ?2 WHERE department = ?1", [department, amount])?;
    Ok(transaction.commit()?)
}
