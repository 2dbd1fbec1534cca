//! Reading everything back and naming what is damaged.

use super::{Repository, RepositoryError};
use crate::types::Position;

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub source: Option<String>,
    /// Path of the object in the repository.
    pub object: String,
    /// Where in it, and what is wrong.
    pub what: String,
    /// Points from the first to the last position given may fail to read; `None` if no point is affected.
    pub affected: Option<(Position, Position)>,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub objects: u64,
    pub bytes: u64,
    pub damages: Vec<Damage>,
}

impl Repository {
    /// Reads every object of every source (of one, if named) with `threads` threads and checks every byte
    /// that is covered by a checksum. `progress` is called now and then from any of them.
    ///
    /// # Errors
    /// `RepositoryError::Storage` if storage does not answer; damage is in the report.
    pub fn verify(
        &self,
        source: Option<&str>,
        threads: usize,
        progress: &(dyn Fn(VerifyProgress) + Sync),
    ) -> Result<VerifyReport, RepositoryError> {
        let _ = (source, threads, progress);
        panic!("not built yet")
    }
}
