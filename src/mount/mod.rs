//! Serving a view, with or without an overlay, as a file system: the protocol-free [`Export`], its FUSE
//! adapter, the worker process that serves one mount, and the registry that knows all workers.
//!
//! errno is mapped here and nowhere else (`errno`).

mod detached;
mod errno;
mod error;
mod export;
mod fuse;
mod point;
mod registry;
mod users;
mod worker;

pub use detached::{create, remove};
pub use error::MountError;
pub use export::{Export, RangeOperation, Room, Setting, Stat};
pub use fuse::FuseExport;
pub use point::{ResolvedPoint, history_up_to_now, resolve};
pub use registry::{MountRecord, Registry, Via, state_directory};
pub use worker::{MountRequest, run};
