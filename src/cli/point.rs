//! `pitgate point`: moments that can be mounted.

use anyhow::{Result, bail};
use clap::Subcommand;
use serde::Serialize;

use super::arguments::{SourceArguments, point_text};
use super::output::{MomentShown, Output, Table, local_and_utc, rfc3339};
use super::{DONE, history};
use crate::capture::{ControlReply, ControlRequest};
use crate::repository::{Access, History, Moment};
use crate::types::Position;

#[derive(Subcommand)]
pub enum Command {
    /// What can be mounted: ranges, gaps between them, bookmarks
    List {
        #[command(flatten)]
        source: SourceArguments,
    },
    /// Which position a point stands for; fails if it cannot be mounted
    Resolve {
        #[command(flatten)]
        source: SourceArguments,
        /// latest, a time, -10m, @POSITION or bookmark:NAME
        #[arg(allow_hyphen_values = true, value_parser = point_text)]
        point: String,
    },
    /// Give this moment a name; returns once it is durable. Needs a running capture
    Bookmark {
        #[command(flatten)]
        source: SourceArguments,
        /// Unique in its source
        name: String,
    },
}

pub fn run(command: Command, output: &Output) -> Result<u8> {
    match command {
        Command::List { source } => list(&source, output),
        Command::Resolve { source, point } => resolve(&source, &point, output),
        Command::Bookmark { source, name } => bookmark(&source, &name, output),
    }
}

/// The contract of `point list -o json`.
#[derive(Serialize)]
struct Points {
    source: String,
    first: Option<MomentShown>,
    last: Option<MomentShown>,
    bookmarks: Vec<BookmarkShown>,
    ranges: Vec<RangeShown>,
    gaps: Vec<GapShown>,
}

#[derive(Serialize)]
struct BookmarkShown {
    name: String,
    position: Position,
    time: String,
}

#[derive(Serialize)]
pub struct RangeShown {
    pub first: MomentShown,
    pub last: MomentShown,
}

#[derive(Serialize)]
pub struct GapShown {
    pub after: MomentShown,
    pub before: Option<MomentShown>,
    pub reason: String,
}

/// Ranges and gaps as `-o json` shows them.
pub fn coverage(history: &History) -> (Vec<RangeShown>, Vec<GapShown>) {
    let ranges = history.ranges().iter();
    let ranges = ranges.map(|range| RangeShown { first: range.first.into(), last: range.last.into() });
    let gaps = history.gaps().iter().map(|gap| GapShown {
        after: gap.after.into(),
        before: gap.before.map(Into::into),
        reason: gap.reason.clone(),
    });
    (ranges.collect(), gaps.collect())
}

fn list(arguments: &SourceArguments, output: &Output) -> Result<u8> {
    let (source, history) = history::up_to_now(arguments)?;
    let (ranges, gaps) = coverage(&history);
    let shown = Points {
        source: source.name().to_owned(),
        first: history.ranges().first().map(|range| range.first.into()),
        last: history.ranges().last().map(|range| range.last.into()),
        bookmarks: history
            .bookmarks()
            .iter()
            .map(|bookmark| BookmarkShown {
                name: bookmark.name.clone(),
                position: bookmark.at.position,
                time: rfc3339(bookmark.at.time),
            })
            .collect(),
        ranges,
        gaps,
    };
    output.print(&shown, |_| list_text(&history))?;
    Ok(DONE)
}

fn list_text(history: &History) -> String {
    if history.ranges().is_empty() {
        return "nothing can be mounted yet: no initial image is complete".to_owned();
    }
    let mut table = Table::new(&["what", "position", "time"]);
    let mut moments: Vec<(String, Moment)> = Vec::new();
    for range in history.ranges() {
        moments.push(("mountable from".to_owned(), range.first));
        moments.push(("mountable to".to_owned(), range.last));
    }
    for bookmark in history.bookmarks() {
        moments.push((format!("bookmark:{}", bookmark.name), bookmark.at));
    }
    for gap in history.gaps() {
        moments.push((format!("gap after ({})", gap.reason), gap.after));
    }
    moments.sort_by_key(|(_, moment)| *moment);
    for (what, moment) in &moments {
        table.row(&[what, &moment.position, &local_and_utc(moment.time)]);
    }
    table.text()
}

/// The contract of `point resolve -o json`.
#[derive(Serialize)]
struct ResolvedShown {
    requested: String,
    position: Position,
    time: String,
}

fn resolve(arguments: &SourceArguments, point: &str, output: &Output) -> Result<u8> {
    let resolved = history::resolve(arguments, point)?.resolved;
    let shown = ResolvedShown {
        requested: point.to_owned(),
        position: resolved.position,
        time: rfc3339(resolved.time),
    };
    output.print(&shown, |shown| {
        format!("{} is {} at {}", shown.requested, shown.position, local_and_utc(resolved.time))
    })?;
    Ok(DONE)
}

#[derive(Serialize)]
struct Bookmarked {
    source: String,
    bookmark: String,
    position: Position,
}

fn bookmark(arguments: &SourceArguments, name: &str, output: &Output) -> Result<u8> {
    let source = arguments.open(Access::Read)?;
    let request = ControlRequest::Bookmark { name: name.to_owned() };
    let ControlReply::Bookmarked { position } = history::ask_capture(&source, &request)? else {
        bail!("capture gave another answer than was asked for: are its program and this one of one version?");
    };
    let shown = Bookmarked { source: source.name().to_owned(), bookmark: name.to_owned(), position };
    output.print(&shown, |shown| format!("bookmark:{} is {}", shown.bookmark, shown.position))?;
    Ok(DONE)
}
