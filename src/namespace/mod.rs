//! The tree of files of a source at one position: names, attributes, sizes, links and extended attributes.
//!
//! Held in memory, advanced change by change, written as a snapshot and read back. Knows nothing of
//! journals or of what files hold. `docs/disk-format.md` draws the snapshot.

mod apply;
mod snapshot;
mod tree;

pub use apply::NamespaceError;
pub use snapshot::SnapshotError;
pub use tree::{Name, Namespace, Node, Root};

#[cfg(test)]
mod tests;
