//! `pitgate capture`: wiring of repository, journal and capture, and its life from the first line to SIGTERM.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::arguments::{RepositoryArguments, block_cache, new_identity};
use super::failure::UsageError;
use super::output::Output;
use super::{DONE, history};
use crate::capture::{
    Capture, CaptureConfig, CaptureError, Catalogue, ControlServer, OnFailure, Resume, RootConfig,
    control_socket,
};
use crate::io::{Clock, SystemClock};
use crate::journal::{Durability, Writer, WriterConfig};
use crate::mount::state_directory;
use crate::repository::{Access, Beginning, Repository, RepositoryError, Seat, Source, SourceOptions};
use crate::types::{ChangeSink, Image, Position};
use crate::view::{View, ViewCache};

/// Decoded pages kept for the comparison with the last life.
const CACHE_BYTES: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DurabilityArgument {
    /// An application's fsync waits for the journal too: nothing acknowledged is lost
    Fsync,
    /// The journal follows within a second
    Async,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnFailureArgument {
    /// Applications go on; nothing after the failure is recorded
    Continue,
    /// Applications get I/O errors
    Stop,
}

#[derive(Args)]
pub struct CaptureArguments {
    #[command(flatten)]
    repository: RepositoryArguments,
    /// Name of the source; made if it is new
    #[arg(long, value_name = "NAME")]
    source: String,
    /// What to record: where the files are, and where applications see them (may be the same); several roots share
    /// one order of changes
    #[arg(long = "root", value_name = "[LABEL=]DATA_DIR:MOUNTPOINT", required = true)]
    roots: Vec<String>,
    /// What an application's fsync waits for
    #[arg(long, value_enum, default_value = "fsync")]
    durability: DurabilityArgument,
    /// What applications see once nothing can be recorded any more
    #[arg(long, value_enum, default_value = "continue")]
    on_failure: OnFailureArgument,
    /// Seal the open segment at this size
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    segment_mib: u64,
    /// Seal the open segment at this age
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    seal_seconds: u64,
    /// Pages on their way to storage before applications wait
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    queue_mib: u64,
    /// Threads that serve each root; 0 for the default
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// The contract of `capture -o json`, printed once every mountpoint serves.
#[derive(Serialize)]
struct Serving {
    source: String,
    mountpoints: Vec<PathBuf>,
    position: Position,
}

pub fn run(arguments: CaptureArguments, output: &Output) -> Result<u8> {
    let config = config(&arguments)?;
    let repository = arguments.repository.open(Access::Write)?;
    check_directories(&config)?;
    let (source, is_new) = source(&repository, &arguments.source)?;
    let begun = begin(&arguments, &repository, &source, config);
    // Another process may have become its writer meanwhile: then it is that one's.
    let is_free =
        |error: &anyhow::Error| !matches!(error.downcast_ref(), Some(RepositoryError::WriterPresent { .. }));
    if is_new && begun.as_ref().err().is_some_and(is_free) {
        // Nothing half-made: who corrects the mistake begins anew.
        if let Err(error) = source.clone().discard() {
            tracing::warn!("source `{}` is left, empty: {error}", source.name());
        }
    }
    let Begun { seat, writer, capture, control, mountpoints } = begun?;
    let serving = Serving { source: source.name().to_owned(), mountpoints, position: writer.written() };
    let announced = output.print(&serving, |serving| {
        let mountpoints: Vec<String> =
            serving.mountpoints.iter().map(|path| path.display().to_string()).collect();
        format!("recording {} at {}", serving.source, mountpoints.join(", "))
    });
    // A database may already run on it: capture goes on if nobody listens.
    if let Err(error) = announced {
        tracing::warn!("{error:#}");
    }

    let stopped = stop_when_asked(&capture);
    drop(control);
    let clean_stop = writer.close().context("the last changes may be lost")?;
    if let Some(catalogue) = stopped.catalogue {
        seat.store_catalogue(clean_stop, &catalogue.encode(&source.identity().0))?;
    }
    Ok(DONE)
}

/// A capture that serves, and what it stands on.
struct Begun {
    seat: Seat,
    writer: Arc<Writer>,
    capture: Arc<Capture>,
    control: ControlServer,
    mountpoints: Vec<PathBuf>,
}

fn begin(
    arguments: &CaptureArguments,
    repository: &Repository,
    source: &Source,
    config: CaptureConfig,
) -> Result<Begun> {
    let state = state_directory()?;
    let socket = control_socket(&state, &repository.identity().0, source.name());

    let seat = source.become_writer(&history::holder(), &block_cache())?;
    report_recovery(&seat);
    let resume = resume(source, &seat);
    let writer = Arc::new(Writer::start(
        writer_config(arguments),
        seat.log_state.clone(),
        repository.disk().clone(),
        Arc::new(SystemClock),
        seat.publisher(),
    )?);
    let sink: Arc<dyn ChangeSink> = writer.clone();
    let mountpoints = config.roots.iter().map(|root| root.mountpoint.clone()).collect();
    let capture = Arc::new(Capture::start(config, sink, resume, Arc::new(SystemClock))?);
    let control = ControlServer::start(&socket, capture.clone())?;
    watch_signals(&capture)?;
    Ok(Begun { seat, writer, capture, control, mountpoints })
}

/// Waits for the end, and for another request if the mountpoints are still in use then.
fn stop_when_asked(capture: &Capture) -> crate::capture::Stopped {
    let mut said = String::new();
    loop {
        capture.wait();
        match capture.stop() {
            Ok(stopped) => return stopped,
            Err(error) => {
                let sentence = format!("error: {error}; capture goes on");
                if sentence != said {
                    eprintln!("{sentence}");
                    said = sentence;
                }
                // Unmounted from outside while still in use can come back at once; do not spin.
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

fn watch_signals(capture: &Arc<Capture>) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals =
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).context("cannot watch for signals")?;
    let capture = Arc::downgrade(capture);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                let Some(capture) = capture.upgrade() else { break };
                capture.request_stop();
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

fn config(arguments: &CaptureArguments) -> Result<CaptureConfig> {
    let roots = arguments.roots.iter().map(|text| parse_root(text)).collect::<Result<Vec<_>>>()?;
    let mut config = CaptureConfig::new(&arguments.source, roots);
    config.durability = match arguments.durability {
        DurabilityArgument::Fsync => crate::capture::Durability::Fsync,
        DurabilityArgument::Async => crate::capture::Durability::Async,
    };
    config.on_failure = match arguments.on_failure {
        OnFailureArgument::Continue => OnFailure::Continue,
        OnFailureArgument::Stop => OnFailure::Stop,
    };
    config.threads = arguments.threads;
    config.outside = vec![
        ("the repository".to_owned(), std::path::absolute(&arguments.repository.repo)?),
        ("the state directory".to_owned(), state_directory()?),
    ];
    Ok(config)
}

/// What can be told before a source is made; everything else `Capture::start` checks.
fn check_directories(config: &CaptureConfig) -> Result<(), CaptureError> {
    for root in &config.roots {
        for (what, path) in [("data directory", &root.data_dir), ("mountpoint", &root.mountpoint)] {
            match std::fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(CaptureError::NotADirectory { what, path: path.clone() }),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Err(CaptureError::Missing { what, path: path.clone() });
                }
                // A killed capture left its mount there; the start removes it.
                Err(error) if error.kind() == std::io::ErrorKind::NotConnected => {}
                Err(error) => {
                    return Err(CaptureError::Backing { path: path.clone(), source: Arc::new(error) });
                }
            }
        }
    }
    Ok(())
}

/// `[LABEL=]DATA_DIR:MOUNTPOINT`; the label is else the mountpoint's last part.
fn parse_root(text: &str) -> Result<RootConfig> {
    let usage = |why: &str| UsageError(format!("--root {text}: {why}; write [LABEL=]DATA_DIR:MOUNTPOINT"));
    let (label, directories) = match text.split_once('=') {
        Some((label, rest)) if !label.contains('/') => (Some(label), rest),
        _ => (None, text),
    };
    let (data_dir, mountpoint) = directories.rsplit_once(':').ok_or_else(|| usage("no colon"))?;
    if data_dir.is_empty() || mountpoint.is_empty() {
        return Err(usage("a directory is missing").into());
    }
    let mountpoint = std::path::absolute(mountpoint)?;
    let label = match label {
        Some("") => return Err(usage("the label is empty").into()),
        Some(label) => label.to_owned(),
        None => {
            let last = Path::file_name(&mountpoint).ok_or_else(|| usage("the mountpoint needs a label"))?;
            last.to_string_lossy().into_owned()
        }
    };
    Ok(RootConfig { label, data_dir: std::path::absolute(data_dir)?, mountpoint })
}

fn writer_config(arguments: &CaptureArguments) -> WriterConfig {
    let mut config = WriterConfig {
        durability: match arguments.durability {
            DurabilityArgument::Fsync => Durability::Fsync,
            DurabilityArgument::Async => Durability::Async,
        },
        seal_age: Duration::from_secs(arguments.seal_seconds.max(1)),
        queue_bytes: arguments.queue_mib.max(1) << 20,
        ..WriterConfig::default()
    };
    config.log.segment_bytes = arguments.segment_mib.max(1) << 20;
    config
}

/// The source with this name, and whether it is new; a new one reads times in this machine's zone.
fn source(repository: &Repository, name: &str) -> Result<(Source, bool)> {
    match repository.source(name) {
        Err(RepositoryError::NoSuchSource { .. }) => {
            let zone = jiff::tz::TimeZone::system().iana_name().unwrap_or("UTC").to_owned();
            let options = SourceOptions { identity: new_identity()?, created: SystemClock.now(), zone };
            Ok((repository.create_source(name, options)?, true))
        }
        found => Ok((found?, false)),
    }
}

fn report_recovery(seat: &Seat) {
    for damage in &seat.recovery.damages {
        eprintln!("warning: {damage}");
    }
    match &seat.beginning {
        Beginning::Crash => eprintln!(
            "the last capture did not stop in good order: everything up to {} is safe, {} bytes after it were never \
             acknowledged and are cut; every file is compared before new points exist",
            seat.recovery.durable_position, seat.recovery.discarded_bytes
        ),
        Beginning::Damaged { what } => {
            eprintln!("warning: {what}; every file is read anew before new points exist");
        }
        Beginning::First | Beginning::CleanStop { .. } => {}
    }
}

/// What capture compares the files with. Without the old image every file is recorded again: slower, as safe.
fn resume(source: &Source, seat: &Seat) -> Resume {
    let image = match View::open_at_end(seat.history.clone(), ViewCache::new(CACHE_BYTES)) {
        _ if matches!(seat.beginning, Beginning::First | Beginning::Damaged { .. }) => None,
        Ok(view) => Some(Arc::new(view) as Arc<dyn Image>),
        Err(error) => {
            eprintln!("warning: the last state cannot be read ({error}); every file is recorded again");
            None
        }
    };
    let catalogue = match &seat.beginning {
        Beginning::CleanStop { catalogue: Some(bytes) } => {
            Catalogue::decode(bytes, &source.identity().0).ok()
        }
        _ => None,
    };
    let catalogue = catalogue.filter(|catalogue| catalogue.is_of_end(seat.history.end()));
    let bookmarks = seat.history.bookmarks().iter().map(|bookmark| bookmark.name.clone()).collect();
    Resume { namespace: seat.namespace.clone(), image, catalogue, bookmarks }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_named_by_its_label_or_its_mountpoint() {
        let root = parse_root("/srv/a:/var/lib/pg").unwrap();
        assert_eq!((root.label.as_str(), root.data_dir.to_str()), ("pg", Some("/srv/a")));
        let root = parse_root("data=/srv/a=b:/m").unwrap();
        assert_eq!((root.label.as_str(), root.data_dir.to_str()), ("data", Some("/srv/a=b")));
        let root = parse_root("/srv/a=b:/m").unwrap();
        assert_eq!((root.label.as_str(), root.data_dir.to_str()), ("m", Some("/srv/a=b")));
        for wrong in ["/a", ":/m", "/a:", "=/a:/m", "/a:/"] {
            assert!(parse_root(wrong).unwrap_err().is::<UsageError>(), "{wrong}");
        }
    }
}
