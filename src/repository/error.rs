//! Why a repository, a source or its history cannot be used.

use std::io;
use std::sync::Arc;

use crate::journal::{JournalError, SegmentId};
use crate::types::Position;

/// Fields name the object as a person finds it on disk.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RepositoryError {
    #[error("there is no repository at {path}: create one with `pitgate repo init {path}`")]
    Missing { path: String },
    #[error("{path} is not a pitgate repository")]
    Foreign { path: String },
    #[error("{path} is not empty and not a pitgate repository: choose a new or empty directory")]
    NotEmpty { path: String },
    #[error("{path} is a pitgate repository already")]
    Exists { path: String },
    #[error("{path} has format {found}, this pitgate knows up to {known}: use a newer pitgate")]
    Newer { path: String, found: u32, known: u32 },
    #[error("the repository was opened for reading only")]
    ReadOnly,
    #[error("there is no source `{name}`; there {}", list(known))]
    NoSuchSource { name: String, known: Vec<String> },
    #[error("source `{name}` exists already")]
    SourceExists { name: String },
    #[error(
        "`{name}` cannot name a source: use 1 to 64 letters, digits, `-`, `_` and `.`, the first a letter or digit"
    )]
    BadSourceName { name: String },
    #[error("source `{name}` has a writer already: {holder}")]
    WriterPresent { name: String, holder: String },
    #[error("{object} is damaged: {what}")]
    Damaged { object: String, what: String },
    #[error("the names of source `{name}` at {position} cannot be told: {what}")]
    NamesLost { name: String, position: Position, what: String },
    #[error("segment {segment} of source `{name}`: {source}")]
    Journal { name: String, segment: SegmentId, source: JournalError },
    #[error("cannot {action} {object}")]
    Storage { action: &'static str, object: String, source: Arc<io::Error> },
}

impl RepositoryError {
    /// The error and what caused it in one line, for where only text can be kept.
    pub(super) fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let more = error.to_string();
            // Some say what their cause says already.
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        text
    }
}

fn list(known: &[String]) -> String {
    match known {
        [] => "is none yet".to_owned(),
        [one] => format!("is `{one}`"),
        several => format!("are `{}`", several.join("`, `")),
    }
}
