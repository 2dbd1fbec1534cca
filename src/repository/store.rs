//! The repository's own directory: creating, opening, listing sources.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::object::{FrameError, Kind, names_in, read_whole, storage};
use super::source::{self, Source, SourceOptions};
use super::{RepositoryError, object};
use crate::io::Disk;
use crate::types::{Decoder, Encoder};

/// The file that makes a directory a repository.
pub(super) const REPOSITORY_FILE: &str = "pitgate-repository";
pub(super) const SOURCES: &str = "sources";

pub(super) const REPOSITORY_KIND: Kind = Kind { magic: b"PITGREPO", version: 1, len_bytes_max: 4096 };

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
    /// `RepositoryError::Exists`, `NotEmpty` or `Storage`; what a failed attempt leaves does not refuse the next.
    pub fn init(disk: Arc<dyn Disk>, identity: Identity) -> Result<Repository, RepositoryError> {
        let root = Path::new("");
        let names = names_in(&*disk, root)?;
        if names.iter().any(|name| name == REPOSITORY_FILE) {
            return Err(RepositoryError::Exists { path: disk.display(root) });
        }
        let half_made = format!("{REPOSITORY_FILE}.new");
        let sources_used = !names_in(&*disk, Path::new(SOURCES))?.is_empty();
        let fresh = |name: &String| *name == half_made || name == SOURCES || name == "lost+found";
        if sources_used || !names.iter().all(fresh) {
            return Err(RepositoryError::NotEmpty { path: disk.display(root) });
        }
        disk.create_directories(Path::new(SOURCES))
            .map_err(|error| storage(&*disk, "create", Path::new(SOURCES), error))?;
        let mut body = Encoder::new();
        body.raw(&identity.0);
        // Last, since with this file the repository exists.
        REPOSITORY_KIND.write(&*disk, Path::new(REPOSITORY_FILE), b"", &body.finish())?;
        Ok(Repository { disk, identity, access: Access::Write })
    }

    /// # Errors
    /// `RepositoryError::Missing`, `Foreign`, `Newer`, `Damaged` or `Storage`.
    pub fn open(disk: Arc<dyn Disk>, access: Access) -> Result<Repository, RepositoryError> {
        let root = Path::new("");
        let path = Path::new(REPOSITORY_FILE);
        let Some(bytes) = read_whole(&*disk, path, REPOSITORY_KIND.len_bytes_max)? else {
            let path = disk.display(root);
            return Err(match names_in(&*disk, root)?.as_slice() {
                [] => RepositoryError::Missing { path },
                _ => RepositoryError::Foreign { path },
            });
        };
        let damaged =
            |what: &str| RepositoryError::Damaged { object: disk.display(path), what: what.to_owned() };
        let body = REPOSITORY_KIND.unframe(b"", &bytes).map_err(|error| match error {
            // Nobody else gives a file this name.
            FrameError::Foreign => damaged("its first bytes are not its own"),
            FrameError::Newer(found) => {
                RepositoryError::Newer { path: disk.display(path), found, known: REPOSITORY_KIND.version }
            }
            FrameError::Damaged(what) => damaged(what),
        })?;
        let mut input = Decoder::new(body);
        let identity = object::identity(&mut input).map_err(|error| damaged(&error.to_string()))?;
        Ok(Repository { disk, identity, access })
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
        let mut names = Vec::new();
        for name in names_in(&*self.disk, Path::new(SOURCES))? {
            // A directory without this file is a source that was never finished.
            let inside = names_in(&*self.disk, &self.source_path(&name))?;
            if inside.iter().any(|inside| inside == source::SOURCE_FILE) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// An existing source.
    ///
    /// # Errors
    /// `RepositoryError::NoSuchSource` names those there are; `Newer`, `Damaged`, `Storage`.
    pub fn source(&self, name: &str) -> Result<Source, RepositoryError> {
        if is_source_name(name)
            && let Some(source) = Source::read(self, name)?
        {
            return Ok(source);
        }
        Err(RepositoryError::NoSuchSource { name: name.to_owned(), known: self.source_names()? })
    }

    /// A new source. `options.identity` must be random.
    ///
    /// # Errors
    /// `RepositoryError::SourceExists`, `BadSourceName`, `ReadOnly` or `Storage`.
    pub fn create_source(&self, name: &str, options: SourceOptions) -> Result<Source, RepositoryError> {
        self.require_write()?;
        if !is_source_name(name) {
            return Err(RepositoryError::BadSourceName { name: name.to_owned() });
        }
        if Source::read(self, name)?.is_some() {
            return Err(RepositoryError::SourceExists { name: name.to_owned() });
        }
        Source::create(self, name, options)
    }

    pub(super) fn source_path(&self, name: &str) -> PathBuf {
        Path::new(SOURCES).join(name)
    }

    pub(super) fn require_write(&self) -> Result<(), RepositoryError> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read => Err(RepositoryError::ReadOnly),
        }
    }
}

fn is_source_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    (1..=64).contains(&name.len())
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}
