//! What a running capture says of itself.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::types::{Position, Time};

/// How far the image, or the comparison after a stop, has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageProgress {
    /// Points exist: the journal holds every byte.
    pub complete: bool,
    pub files_done: u64,
    pub files_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
    /// Bytes that differed from the journal and were recorded.
    pub bytes_recorded: u64,
    /// Files that cannot be read, with the reason; they are tried again, and no point exists before.
    pub unreadable: Vec<String>,
}

/// One root as it is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootStatus {
    pub label: String,
    pub data_dir: PathBuf,
    pub mountpoint: PathBuf,
    /// False once somebody unmounted it.
    pub serving: bool,
}

/// What a capture is doing, for people and for `-o json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStatus {
    pub source: String,
    pub pid: u32,
    pub roots: Vec<RootStatus>,
    /// Whether changes are being recorded, and if not, why.
    pub recording: bool,
    pub failure: Option<String>,
    pub image: ImageProgress,
    /// The last position given, its time, and up to where a loss of power takes nothing.
    pub written: Position,
    pub written_time: Time,
    pub durable: Position,
    pub lag_ms: u64,
    pub queue_bytes: u64,
    pub queue_bytes_max: u64,
    pub captured_bytes: u64,
    pub stored_bytes: u64,
    pub journal_syncs: u64,
    /// Processor time of this whole process.
    pub cpu_ms: u64,
    pub files: u64,
    /// Operations served since the start.
    pub reads: u64,
    pub writes: u64,
    pub syncs: u64,
    /// What people should know, such as files linked from outside the roots.
    pub warnings: Vec<String>,
}
