//! The command line: one noun a module, one verb a function. What a command does belongs to the modules below;
//! here are arguments, wiring, and words for people.

mod arguments;
mod capture;
mod demo;
mod failure;
mod history;
mod mount;
mod output;
mod point;
mod protect;
mod repo;
mod restore;
mod source;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::output::Output;

/// What one command leaves as exit status, unless it fails (1) or cannot be understood (2).
pub const DONE: u8 = 0;

const EXAMPLES: &str = "\
Examples:
  pitgate repo init /backup/pitgate
  pitgate capture --repo /backup/pitgate --source his --root /srv/pgdata:/var/lib/postgresql/15/main
  pitgate point bookmark --repo /backup/pitgate --source his before-upgrade
  pitgate mount create --repo /backup/pitgate --source his --at -10m /mnt/before
  pitgate restore --repo /backup/pitgate --source his --at '2026-05-01 03:00:00' --to /srv/restored

Points: latest, a time (RFC 3339; without an offset it is read in the source's zone), -10m, @POSITION, bookmark:NAME.
Exit status: 0 done, 1 failed, 2 usage.";

/// Records every change of a database's files and serves any recorded moment as a writable file system.
#[derive(Parser)]
#[command(name = "pitgate", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Arguments {
    /// How to print results
    #[arg(short, long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    output: output::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Where a site keeps everything: make, look at, check a repository
    #[command(subcommand)]
    Repo(repo::Command),
    /// What is protected: sources, what they hold, how busy they were
    #[command(subcommand)]
    Source(source::Command),
    /// Record a live directory tree; runs in the foreground until SIGTERM
    Capture(Box<capture::CaptureArguments>),
    /// Moments that can be mounted: list, resolve, give a name
    #[command(subcommand)]
    Point(point::Command),
    /// Serve a point as a file system
    #[command(subcommand)]
    Mount(mount::Command),
    /// Copy a point into a directory
    Restore(restore::RestoreArguments),
    /// The main job on this machine, start to end: record, destroy, mount the moment before
    Demo(demo::DemoArguments),
    /// Print completions for a shell: pitgate completions bash > /etc/bash_completion.d/pitgate
    Completions { shell: clap_complete::Shell },
}

/// Reads this process's arguments, does what they ask, and says how that went.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are printed this way too, with status 0. Nobody can be told if that fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    start_log(&arguments.command);
    let output = Output::new(arguments.output);
    match dispatch(arguments.command, &output) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            failure::report(&error);
            ExitCode::from(failure::status(&error))
        }
    }
}

fn dispatch(command: Command, output: &Output) -> anyhow::Result<u8> {
    match command {
        Command::Repo(command) => repo::run(command, output),
        Command::Source(command) => source::run(command, output),
        Command::Capture(arguments) => capture::run(*arguments, output),
        Command::Point(command) => point::run(command, output),
        Command::Mount(command) => mount::run(command, output),
        Command::Restore(arguments) => restore::run(&arguments, output),
        Command::Demo(arguments) => demo::run(&arguments, output),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "pitgate", &mut std::io::stdout());
            Ok(DONE)
        }
    }
}

/// The log goes to stderr; `PITGATE_LOG` chooses its detail, such as `debug` or `pitgate::capture=trace`. Only what
/// runs for long says when.
fn start_log(command: &Command) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PITGATE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // A second start in one process finds the log running; that is fine.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let _ = match command {
        Command::Capture(_) | Command::Mount(mount::Command::Run(_)) => log.try_init(),
        _ => log.without_time().with_target(false).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn points_before_now_are_no_options() {
        for words in [
            "pitgate mount create --repo r --source s --at -10m m",
            "pitgate restore --repo r --source s --at=-10m --to d -o json",
            "pitgate point resolve --repo r --source s -10m",
            "pitgate -o json point resolve --repo r --source s -- -10m",
        ] {
            assert!(Arguments::try_parse_from(words.split(' ')).is_ok(), "{words}");
        }
    }

    #[test]
    fn completions_are_made_for_every_shell() {
        use clap::ValueEnum;
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "pitgate", &mut script);
            assert!(String::from_utf8_lossy(&script).contains("bookmark"), "{shell}");
        }
    }
}
