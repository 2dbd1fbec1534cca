//! Arguments that several commands share, and how the repository they name is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;

use crate::index::BlockCache;
use crate::io::{Randomness, RealDisk, SystemRandomness};
use crate::repository::{Access, Identity, Repository, Source};
use crate::types::{ParsePointError, Point};

/// Index blocks that a command keeps in memory.
const BLOCK_CACHE_BYTES: u64 = 64 << 20;

/// Which repository.
#[derive(Args, Clone, Debug)]
pub struct RepositoryArguments {
    /// Directory of the repository
    #[arg(long, value_name = "REPO")]
    pub repo: PathBuf,
}

/// Which source of which repository.
#[derive(Args, Clone, Debug)]
pub struct SourceArguments {
    #[command(flatten)]
    pub repository: RepositoryArguments,
    /// Name of the source
    #[arg(long, value_name = "NAME")]
    pub source: String,
}

impl RepositoryArguments {
    pub fn open(&self, access: Access) -> Result<Repository> {
        open_repository(&self.repo, access)
    }
}

impl SourceArguments {
    pub fn open(&self, access: Access) -> Result<Source> {
        Ok(self.repository.open(access)?.source(&self.source)?)
    }
}

/// Opens the repository at `path`.
pub fn open_repository(path: &Path, access: Access) -> Result<Repository> {
    let path =
        std::path::absolute(path).with_context(|| format!("cannot tell where {} is", path.display()))?;
    if !path.is_dir() {
        let path = path.display().to_string();
        return Err(crate::repository::RepositoryError::Missing { path }.into());
    }
    let disk = RealDisk::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Repository::open(Arc::new(disk), access)?)
}

/// A point as the user wrote it, once it is known to be one; answers show it in these words.
pub fn point_text(text: &str) -> Result<String, ParsePointError> {
    text.parse::<Point>().map(|_| text.to_owned())
}

pub fn block_cache() -> Arc<BlockCache> {
    Arc::new(BlockCache::new(BLOCK_CACHE_BYTES))
}

/// A new identity, from the machine's randomness.
pub fn new_identity() -> Result<Identity> {
    let mut identity = [0; 16];
    SystemRandomness.fill(&mut identity).context("cannot draw a random identity")?;
    Ok(Identity(identity))
}

/// An identity as people and `-o json` see it.
pub fn hexadecimal(identity: Identity) -> String {
    identity.0.iter().map(|byte| format!("{byte:02x}")).collect()
}
