//! What commands print: text for people or one JSON document, progress on a terminal.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::types::Time;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Where results go.
pub struct Output {
    format: Format,
}

impl Output {
    pub fn new(format: Format) -> Output {
        Output { format }
    }

    /// Prints `value` as one line of JSON, or what `text` makes of it.
    ///
    /// # Errors
    /// If stdout is closed.
    pub fn print<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let line = match self.format {
            Format::Json => serde_json::to_string(value).context("cannot write JSON")?,
            Format::Text => text(value).trim_end().to_owned(),
        };
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("cannot print")
    }

    /// A bar on stderr that counts bytes, hidden unless that is a terminal and results are text.
    pub fn progress(&self, what: &'static str) -> ProgressBar {
        let visible = self.format == Format::Text && std::io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template(
            "{msg:10} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }
}

/// Rows under headings, columns aligned.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&str]) -> Table {
        Table { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    /// A table without headings: names and values.
    pub fn plain() -> Table {
        Table { rows: Vec::new() }
    }

    pub fn row(&mut self, cells: &[&dyn Display]) {
        self.rows.push(cells.iter().map(ToString::to_string).collect());
    }

    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
            })
            .map(Option::unwrap_or_default)
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A time as people read it: in this machine's zone and in UTC; once if they are the same.
pub fn local_and_utc(time: Time) -> String {
    let Ok(timestamp) = jiff::Timestamp::from_nanosecond(i128::from(time.0)) else { return time.to_string() };
    let local = timestamp.to_zoned(jiff::tz::TimeZone::system());
    if local.offset() == jiff::tz::Offset::UTC {
        return timestamp.strftime("%Y-%m-%d %H:%M:%S%.3f UTC").to_string();
    }
    format!(
        "{} ({})",
        local.strftime("%Y-%m-%d %H:%M:%S%.3f %Z"),
        timestamp.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
    )
}

/// A time in `-o json`.
pub fn rfc3339(time: Time) -> String {
    time.to_string()
}

/// A number of bytes as people read it.
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A moment in `-o json`.
#[derive(Clone, Debug, Serialize)]
pub struct MomentShown {
    pub position: crate::types::Position,
    pub time: String,
}

impl From<crate::repository::Moment> for MomentShown {
    fn from(moment: crate::repository::Moment) -> MomentShown {
        MomentShown { position: moment.position, time: rfc3339(moment.time) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["name", "n"]);
        table.row(&[&"a long one", &1]);
        table.row(&[&"b", &22]);
        assert_eq!(table.text(), "name        n\na long one  1\nb           22\n");
    }
}
