//! `pitgate source`: what is protected, what it holds, how busy it was.

use std::collections::HashMap;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;

use super::arguments::{RepositoryArguments, SourceArguments, block_cache, hexadecimal};
use super::output::{MomentShown, Output, Table, local_and_utc, rfc3339, size};
use super::point::{GapShown, RangeShown, coverage};
use super::{DONE, history};
use crate::capture::{CaptureStatus, ControlReply, ControlRequest};
use crate::io::{Clock, SystemClock};
use crate::journal::ActivitySpan;
use crate::namespace::Namespace;
use crate::repository::{Access, History, Source};
use crate::types::{FileId, Point, Time};

#[derive(Subcommand)]
pub enum Command {
    /// All sources of a repository
    List {
        #[command(flatten)]
        repository: RepositoryArguments,
    },
    /// One source: its roots, what can be mounted, and its capture if that runs on this host
    Show {
        #[command(flatten)]
        source: SourceArguments,
    },
    /// How much was written, renamed, removed, and how much of it looks encrypted, in spans of ten seconds
    Activity {
        #[command(flatten)]
        source: SourceArguments,
        /// Only from this point on
        #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
        since: Option<Point>,
        /// Only up to this point
        #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
        until: Option<Point>,
    },
}

pub fn run(command: Command, output: &Output) -> Result<u8> {
    match command {
        Command::List { repository } => list(&repository, output),
        Command::Show { source } => show(&source, output),
        Command::Activity { source, since, until } => {
            activity(&source, since.as_ref(), until.as_ref(), output)
        }
    }
}

#[derive(Serialize)]
struct Sources {
    sources: Vec<SourceLine>,
}

#[derive(Serialize)]
struct SourceLine {
    source: String,
    id: String,
    created: String,
    /// Who writes it now; null if nobody.
    writer: Option<String>,
    first: Option<MomentShown>,
    last: Option<MomentShown>,
}

fn list(arguments: &RepositoryArguments, output: &Output) -> Result<u8> {
    let repository = arguments.open(Access::Read)?;
    let cache = block_cache();
    let mut sources = Vec::new();
    let mut lasts = Vec::new();
    for name in repository.source_names()? {
        let source = repository.source(&name)?;
        let history = source.history(&cache)?;
        lasts.push(
            history.ranges().last().map_or_else(|| "none".to_owned(), |range| local_and_utc(range.last.time)),
        );
        sources.push(line(&source, &history)?);
    }
    output.print(&Sources { sources }, |shown| {
        if shown.sources.is_empty() {
            return "no sources yet: `pitgate capture` makes the first".to_owned();
        }
        let mut table = Table::new(&["source", "writer", "last sealed point"]);
        for (source, last) in shown.sources.iter().zip(&lasts) {
            table.row(&[&source.source, &source.writer.as_deref().unwrap_or("none"), last]);
        }
        table.text()
    })?;
    Ok(DONE)
}

fn line(source: &Source, history: &History) -> Result<SourceLine> {
    Ok(SourceLine {
        source: source.name().to_owned(),
        id: hexadecimal(source.identity()),
        created: rfc3339(source.created()),
        writer: source.writer()?,
        first: history.ranges().first().map(|range| range.first.into()),
        last: history.ranges().last().map(|range| range.last.into()),
    })
}

/// The contract of `source show -o json`.
#[derive(Serialize)]
struct SourceShown {
    #[serde(flatten)]
    line: SourceLine,
    zone: String,
    roots: Vec<RootShown>,
    files: u64,
    segments: u64,
    stored_bytes: u64,
    ranges: Vec<RangeShown>,
    gaps: Vec<GapShown>,
    warnings: Vec<String>,
    /// What the capture on this host says; null if none runs here.
    capture: Option<CaptureStatus>,
}

#[derive(Serialize)]
struct RootShown {
    label: String,
    mountpoint: String,
    data_dir: String,
}

fn show(arguments: &SourceArguments, output: &Output) -> Result<u8> {
    let (source, history) = history::up_to_now(arguments)?;
    let mut warnings = history.damages().to_vec();
    let names = history.namespace_at(history.end()).unwrap_or_else(|error| {
        warnings.push(error.to_string());
        Namespace::new()
    });
    let capture = match history::ask_capture(&source, &ControlRequest::Status) {
        Ok(ControlReply::Status(status)) => Some(*status),
        _ => None,
    };
    let (ranges, gaps) = coverage(&history);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let shown = SourceShown {
        line: line(&source, &history)?,
        zone: source.zone().iana_name().unwrap_or("UTC").to_owned(),
        roots: names
            .roots()
            .iter()
            .map(|root| RootShown {
                label: text(&root.label),
                mountpoint: text(&root.mountpoint),
                data_dir: text(&root.data_dir),
            })
            .collect(),
        files: names.len() as u64,
        segments: history.segments().len() as u64,
        stored_bytes: history.segments().iter().map(|segment| segment.len_bytes).sum(),
        ranges,
        gaps,
        warnings,
        capture,
    };
    let last = history.ranges().last().map(|range| range.last.time);
    output.print(&shown, |shown| show_text(shown, last))?;
    Ok(DONE)
}

fn show_text(shown: &SourceShown, last: Option<Time>) -> String {
    let mut table = Table::plain();
    table.row(&[&"source", &shown.line.source]);
    for root in &shown.roots {
        table.row(&[&"root", &format!("{}: {} (files in {})", root.label, root.mountpoint, root.data_dir)]);
    }
    table.row(&[&"stored", &format!("{} in {} segments", size(shown.stored_bytes), shown.segments)]);
    table.row(&[&"zone", &shown.zone]);
    table.row(&[&"mountable", &format!("{} ranges, {} gaps", shown.ranges.len(), shown.gaps.len())]);
    table.row(&[&"last point", &last.map_or_else(|| "none".to_owned(), local_and_utc)]);
    match &shown.capture {
        None => table.row(&[&"capture", &shown.line.writer.as_deref().unwrap_or("not running")]),
        Some(capture) => capture_rows(&mut table, capture),
    }
    for warning in &shown.warnings {
        table.row(&[&"warning", warning]);
    }
    table.text()
}

fn capture_rows(table: &mut Table, capture: &CaptureStatus) {
    let state = match (&capture.failure, capture.image.complete) {
        (Some(failure), _) => format!("NOT RECORDING: {failure}"),
        (None, false) => {
            let image = &capture.image;
            format!("recording; image at {} of {}", size(image.bytes_done), size(image.bytes_total))
        }
        (None, true) => "recording".to_owned(),
    };
    table.row(&[&"capture", &format!("process {}, {state}", capture.pid)]);
    table.row(&[&"written", &format!("{}, durable {}", capture.written, capture.durable)]);
    let queue = format!(
        "{} ms, queue {} of {}",
        capture.lag_ms,
        size(capture.queue_bytes),
        size(capture.queue_bytes_max)
    );
    table.row(&[&"lag", &queue]);
    table.row(&[
        &"this life",
        &format!(
            "{} captured into {}, {} syncs, {:.1} s of processor",
            size(capture.captured_bytes),
            size(capture.stored_bytes),
            capture.journal_syncs,
            capture.cpu_ms as f64 / 1000.0
        ),
    ]);
    for warning in &capture.warnings {
        table.row(&[&"warning", warning]);
    }
}

/// The contract of `source activity -o json`.
#[derive(Serialize)]
struct ActivityShown {
    source: String,
    span_seconds: u64,
    spans: Vec<SpanShown>,
}

#[derive(Serialize)]
struct SpanShown {
    start: String,
    written_bytes: u64,
    incompressible_bytes: u64,
    /// Part of the bytes written that did not compress, 0 to 1; null if nothing was written.
    incompressible_share: Option<f64>,
    image_bytes: u64,
    creates: u64,
    unlinks: u64,
    renames: u64,
    truncates: u64,
    syncs: u64,
    busiest: Vec<BusyFile>,
}

#[derive(Serialize)]
struct BusyFile {
    /// As it is named now, else as it was last named; null if that is not known.
    path: Option<String>,
    file: FileId,
    written_bytes: u64,
}

fn activity(
    arguments: &SourceArguments,
    since: Option<&Point>,
    until: Option<&Point>,
    output: &Output,
) -> Result<u8> {
    let (source, history) = history::up_to_now(arguments)?;
    let instant = |point: Option<&Point>, otherwise: Time| -> Result<Time> {
        let Some(point) = point else { return Ok(otherwise) };
        let now = SystemClock.now();
        match point.instant(now, &source.zone()) {
            Some(time) => Ok(time),
            None => Ok(history.resolve(point, now, &source.zone())?.time),
        }
    };
    let (since, until) = (instant(since, Time::MIN)?, instant(until, Time::MAX)?);
    let spans = spans(&history, since, until)?;
    let names = history.namespace_at(history.end()).ok();
    let shown = ActivityShown {
        source: source.name().to_owned(),
        span_seconds: 10,
        spans: spans.iter().map(|span| span_shown(span, names.as_ref())).collect(),
    };
    output.print(&shown, |shown| activity_text(shown, &spans))?;
    Ok(DONE)
}

/// Spans of all segments that touch `since..=until`, those of one start added up.
fn spans(history: &History, since: Time, until: Time) -> Result<Vec<ActivitySpan>> {
    let mut spans: Vec<ActivitySpan> = Vec::new();
    for (index, segment) in history.segments().iter().enumerate() {
        if segment.summary.last_time < since || segment.summary.first_time > until {
            continue;
        }
        let reader = history.segment(index)?;
        let activity =
            reader.activity().with_context(|| format!("cannot read activity of segment {}", segment.id))?;
        for span in activity.spans {
            match spans.last_mut() {
                Some(last) if last.start == span.start => add(last, &span),
                _ => spans.push(span),
            }
        }
    }
    let span_end = |span: &ActivitySpan| Time(span.start.0.saturating_add(10_000_000_000));
    spans.retain(|span| span_end(span) > since && span.start <= until);
    Ok(spans)
}

fn add(total: &mut ActivitySpan, span: &ActivitySpan) {
    total.written_bytes += span.written_bytes;
    total.incompressible_bytes += span.incompressible_bytes;
    total.image_bytes += span.image_bytes;
    total.creates += span.creates;
    total.unlinks += span.unlinks;
    total.renames += span.renames;
    total.truncates += span.truncates;
    total.syncs += span.syncs;
    let mut bytes_by_file: HashMap<FileId, u64> = total.busiest.iter().copied().collect();
    for (file, bytes) in &span.busiest {
        *bytes_by_file.entry(*file).or_default() += bytes;
    }
    total.busiest = bytes_by_file.into_iter().collect();
    total.busiest.sort_by_key(|(file, bytes)| (std::cmp::Reverse(*bytes), *file));
    total.busiest.truncate(8);
}

fn span_shown(span: &ActivitySpan, names: Option<&Namespace>) -> SpanShown {
    let path = |file: FileId| {
        let path = names?.paths(file).into_iter().next()?;
        Some(String::from_utf8_lossy(&path).into_owned())
    };
    SpanShown {
        start: rfc3339(span.start),
        written_bytes: span.written_bytes,
        incompressible_bytes: span.incompressible_bytes,
        incompressible_share: share(span),
        image_bytes: span.image_bytes,
        creates: span.creates,
        unlinks: span.unlinks,
        renames: span.renames,
        truncates: span.truncates,
        syncs: span.syncs,
        busiest: span
            .busiest
            .iter()
            .map(|(file, written_bytes)| BusyFile {
                path: path(*file),
                file: *file,
                written_bytes: *written_bytes,
            })
            .collect(),
    }
}

fn share(span: &ActivitySpan) -> Option<f64> {
    (span.written_bytes > 0).then(|| span.incompressible_bytes as f64 / span.written_bytes as f64)
}

fn activity_text(shown: &ActivityShown, spans: &[ActivitySpan]) -> String {
    if spans.is_empty() {
        return "nothing was recorded then".to_owned();
    }
    let mut table = Table::new(&[
        "from",
        "written",
        "incompressible",
        "creates",
        "renames",
        "removes",
        "truncates",
        "syncs",
        "busiest file",
    ]);
    for (span, shown) in spans.iter().zip(&shown.spans) {
        let incompressible =
            share(span).map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0));
        let busiest = shown.busiest.first().map_or_else(String::new, |busy| {
            busy.path.clone().unwrap_or_else(|| format!("file {}", busy.file.0))
        });
        table.row(&[
            &local_and_utc(span.start),
            &size(span.written_bytes),
            &incompressible,
            &span.creates,
            &span.renames,
            &span.unlinks,
            &span.truncates,
            &span.syncs,
            &busiest,
        ]);
    }
    table.text()
}
