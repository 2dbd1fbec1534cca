//! `pitgate demo`: the main job on this machine, with the commands a person would type: record a live database,
//! lose it to an attack, mount the moment before, and work on the copy.

mod attack;
mod database;
mod digest;
mod postgresql;
mod report;
mod sqlite;
mod stage;
mod story;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::DONE;
use super::output::Output;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DatabaseArgument {
    /// Embedded, in WAL mode
    Sqlite,
    /// A real server of this machine, run by an unprivileged user
    Postgresql,
}

#[derive(Args)]
pub struct DemoArguments {
    /// Which database plays the hospital's
    #[arg(long, value_enum, default_value = "sqlite")]
    database: DatabaseArgument,
    /// Seconds of load before the attack
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// MiB of documents in the database before the load
    #[arg(long, default_value_t = 192)]
    size_mib: u64,
    /// Where to work; removed afterwards
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
}

pub fn run(arguments: &DemoArguments, output: &Output) -> Result<u8> {
    let stage = stage::Stage::build(&arguments.directory)?;
    let database: Box<dyn database::Database> = match arguments.database {
        DatabaseArgument::Sqlite => Box::new(sqlite::Sqlite::new()),
        DatabaseArgument::Postgresql => Box::new(postgresql::Postgresql::find(stage.directory())?),
    };
    let report = story::tell(&stage, database.as_ref(), arguments.seconds, arguments.size_mib << 20)?;
    output.print(&report, report::text)?;
    Ok(DONE)
}
