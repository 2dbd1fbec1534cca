//! Where a site keeps everything: the repository's directory, its sources, and for each source the manifest
//! of what was sealed, the snapshots of its names, its coverage, the writer's seat and readers' leases.
//!
//! What a segment holds belongs to `journal`, what a file looks like at a position to `view`.
//! `docs/disk-format.md` draws the directory and every file that is written here.

mod coverage;
mod desk;
mod entry;
mod error;
mod history;
mod manifest;
mod names;
mod object;
mod resolve;
mod seat;
mod sizes;
mod source;
mod store;
mod verify;

pub use error::RepositoryError;
pub use history::{Bookmark, Break, Gap, History, Moment, Range, SegmentEntry, SnapshotEntry};
pub use resolve::{ResolveError, Resolved};
pub use seat::{Beginning, Holder, RecoveryReport, Seat};
pub use sizes::Sizes;
pub use source::{Source, SourceOptions};
pub use store::{Access, Identity, Repository};
pub use verify::{Damage, VerifyProgress, VerifyReport};

#[cfg(test)]
mod tests;
