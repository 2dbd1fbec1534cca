//! What the demo shows at its end.

use serde::Serialize;

use super::super::output::{Table, size};

/// The contract of `demo -o json`.
#[derive(Serialize)]
pub struct Report {
    pub database: &'static str,
    pub transactions: u64,
    pub destroyed_files: u64,
    pub destroyed_bytes: u64,
    pub visits_acknowledged: u64,
    pub visits_lost: u64,
    /// Between the last acknowledged visit and the moment that was mounted: nothing was written in it.
    pub lost_ms: f64,
    /// Within the worker, from its start to the first answered `stat`.
    pub mount_ms: f64,
    /// From the command to its end.
    pub mount_command_ms: f64,
    /// From the mount command to the database's first answer.
    pub first_query_ms: f64,
    pub overlay_bytes: u64,
    pub restore_ms: f64,
    pub plain_copy_ms: f64,
    pub total_ms: f64,
}

pub fn text(report: &Report) -> String {
    let mut table = Table::plain();
    let destroyed = format!("{} files, {}", report.destroyed_files, size(report.destroyed_bytes));
    table.row(&[&"database", &report.database]);
    table.row(&[&"transactions under capture", &report.transactions]);
    table.row(&[&"destroyed by the attack", &destroyed]);
    let lost = format!("{} of {} acknowledged visits", report.visits_lost, report.visits_acknowledged);
    table.row(&[&"data lost", &lost]);
    table.row(&[&"time to mount", &format!("{:.0} ms", report.mount_command_ms)]);
    table.row(&[&"time to first query", &format!("{:.0} ms", report.first_query_ms)]);
    table.row(&[&"space used by the mount", &size(report.overlay_bytes)]);
    table.row(&[&"a full restore, verified", &format!("{:.0} ms", report.restore_ms)]);
    table.row(&[&"a plain copy, of files in memory", &format!("{:.0} ms", report.plain_copy_ms)]);
    table.row(&[&"the whole demo", &format!("{:.1} s", report.total_ms / 1000.0)]);
    format!("\n{}", table.text())
}
