//! One source: its directory, identity, time zone and what can be done with it.

use std::sync::Arc;

use super::{History, Holder, Identity, RecoveryReport, Repository, RepositoryError, Seat};
use crate::index::BlockCache;
use crate::types::Time;

/// What a new source is given.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Random.
    pub identity: Identity,
    pub created: Time,
    /// IANA name of the zone in which times without an offset are read, such as `Asia/Shanghai`.
    pub zone: String,
}

/// One protected thing in a repository.
#[derive(Clone)]
pub struct Source {
    repository: Repository,
    name: String,
    options: SourceOptions,
}

impl Source {
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn identity(&self) -> Identity {
        self.options.identity
    }

    #[must_use]
    pub fn created(&self) -> Time {
        self.options.created
    }

    /// The zone in which times without an offset are read; UTC if this machine does not know its name.
    #[must_use]
    pub fn zone(&self) -> jiff::tz::TimeZone {
        jiff::tz::TimeZone::get(&self.options.zone).unwrap_or(jiff::tz::TimeZone::UTC)
    }

    /// What is sealed now, held by a lease until dropped.
    ///
    /// # Errors
    /// `RepositoryError::Storage`; damage of the manifest is worked around and listed in the history.
    pub fn history(&self, cache: &Arc<BlockCache>) -> Result<History, RepositoryError> {
        let _ = cache;
        panic!("not built yet")
    }

    /// Takes the writer's seat: locks the source, recovers what the last writer left, starts a new epoch.
    ///
    /// # Errors
    /// `RepositoryError::WriterPresent` names the holder; `ReadOnly`, `Storage`.
    pub fn become_writer(&self, holder: &Holder, cache: &Arc<BlockCache>) -> Result<Seat, RepositoryError> {
        let _ = (holder, cache);
        panic!("not built yet")
    }

    /// Seals what a dead writer left open, so that its points can be mounted.
    ///
    /// # Errors
    /// As [`Source::become_writer`].
    pub fn seal_abandoned(
        &self,
        holder: &Holder,
        cache: &Arc<BlockCache>,
    ) -> Result<RecoveryReport, RepositoryError> {
        let _ = (holder, cache);
        panic!("not built yet")
    }

    /// Who holds the writer's seat now; `None` if nobody.
    ///
    /// # Errors
    /// `RepositoryError::Storage`.
    pub fn writer(&self) -> Result<Option<String>, RepositoryError> {
        panic!("not built yet")
    }

    /// Whether a segment exists that is not sealed and published yet.
    ///
    /// # Errors
    /// `RepositoryError::Storage`.
    pub fn has_open_segment(&self) -> Result<bool, RepositoryError> {
        panic!("not built yet")
    }
}
