//! The repository's own directory: creating, opening, listing sources.

use std::sync::Arc;

use super::{RepositoryError, Source, SourceOptions};
use crate::io::Disk;

/// What a repository is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing is ever written, not even a lease where storage refuses it.
    Read,
    Write,
}

/// Who a repository or source is, for ever; every checksum below is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity(pub [u8; 16]);

/// An open repository.
#[derive(Clone)]
pub struct Repository {
    disk: Arc<dyn Disk>,
    identity: Identity,
    access: Access,
}

impl Repository {
    /// Makes the disk's root, empty so far, a repository. `identity` must be random.
    ///
    /// # Errors
    /// `RepositoryError::Exists`, `NotEmpty` or `Storage`; nothing half-made is left that would refuse a
    /// second attempt.
    pub fn init(disk: Arc<dyn Disk>, identity: Identity) -> Result<Repository, RepositoryError> {
        let _ = (disk, identity);
        panic!("not built yet")
    }

    /// # Errors
    /// `RepositoryError::Missing`, `Foreign`, `Newer`, `Damaged` or `Storage`.
    pub fn open(disk: Arc<dyn Disk>, access: Access) -> Result<Repository, RepositoryError> {
        let _ = (disk, access);
        panic!("not built yet")
    }

    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Names of sources, ascending.
    ///
    /// # Errors
    /// `RepositoryError::Storage`.
    pub fn source_names(&self) -> Result<Vec<String>, RepositoryError> {
        panic!("not built yet")
    }

    /// An existing source.
    ///
    /// # Errors
    /// `RepositoryError::NoSuchSource` names those there are.
    pub fn source(&self, name: &str) -> Result<Source, RepositoryError> {
        let _ = name;
        panic!("not built yet")
    }

    /// A new source. `options.identity` must be random.
    ///
    /// # Errors
    /// `RepositoryError::SourceExists`, `BadSourceName`, `ReadOnly` or `Storage`.
    pub fn create_source(&self, name: &str, options: SourceOptions) -> Result<Source, RepositoryError> {
        let _ = (name, options);
        panic!("not built yet")
    }
}
