//! What to capture, and what earlier lives of the source left.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Catalogue;
use crate::namespace::Namespace;
use crate::types::Image;

/// One directory tree to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootConfig {
    /// The root's name in the source; not empty, without `/`.
    pub label: String,
    /// Where the backing files are.
    pub data_dir: PathBuf,
    /// Where applications see them; may equal `data_dir`.
    pub mountpoint: PathBuf,
}

/// What an application's `fsync` waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// For the backing file and for the journal: what was acknowledged survives a loss of power in both.
    #[default]
    Fsync,
    /// For the backing file alone; the journal follows within a second.
    Async,
}

/// What happens to applications once the sink takes no more changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// They go on, from the backing files alone; nothing after the failure is recorded.
    #[default]
    Continue,
    /// Every operation that would change something fails with EIO.
    Stop,
}

/// What to capture and how.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// The source's name, for mount tables and messages.
    pub source: String,
    /// At least one; labels differ, and no directory lies within another.
    pub roots: Vec<RootConfig>,
    pub durability: Durability,
    pub on_failure: OnFailure,
    /// How long the image may wait for a busy file before it is reported.
    pub patience: Duration,
    /// Paths that must not lie inside a root, each with what it is ("the repository"), nor a root inside them.
    pub outside: Vec<(String, PathBuf)>,
    /// FUSE threads of each root; 0 for the default.
    pub threads: usize,
}

impl CaptureConfig {
    /// Defaults for everything but the name and the roots.
    #[must_use]
    pub fn new(source: &str, roots: Vec<RootConfig>) -> CaptureConfig {
        CaptureConfig {
            source: source.to_owned(),
            roots,
            durability: Durability::default(),
            on_failure: OnFailure::default(),
            patience: Duration::from_secs(30),
            outside: Vec::new(),
            threads: 0,
        }
    }
}

/// What the journal holds before this life: the base of the comparison.
#[derive(Clone, Default)]
pub struct Resume {
    /// The tree at the journal's end, every size applied; `Namespace::new()` for a new source.
    pub namespace: Namespace,
    /// The bytes at the journal's end, by the ids of `namespace`; without it every file is read anew.
    pub image: Option<Arc<dyn Image>>,
    /// What the last clean stop left. It must be of this journal's very end, else it is not given here.
    pub catalogue: Option<Catalogue>,
    /// Bookmarks that exist already; a name is given once.
    pub bookmarks: BTreeSet<String>,
}
