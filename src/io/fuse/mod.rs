//! The seam of the FUSE transport: a [`FileSystem`] with plain results on our side, the kernel on the other.
//!
//! Everything of `fuser` stays in this module, so that another transport can take its place. Capture and
//! mounts implement [`FileSystem`]; neither sees a reply object, and tests call them without a kernel.

mod adapter;
mod answer;
mod convert;
mod file_system;
#[cfg(test)]
mod memory;
mod mounting;
mod node;
mod session;
#[cfg(test)]
mod tests;

pub use file_system::FileSystem;
pub use mounting::{detach_dead, is_dead, unmount};
pub use node::{
    Caller, Capabilities, DirectoryPlusSink, DirectorySink, Entry, Negotiation, NodeAttributes, Opened, Seek,
    SetAttributes, StorageStatus, TimeSet, WriteFlags,
};
pub use rustix::io::Errno;
pub use session::{Notifier, Session, SessionOptions};

/// The node id of a file system's root directory.
pub const ROOT_NODE: u64 = 1;
