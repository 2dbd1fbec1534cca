//! Capture on a real FUSE mount, judged by replaying what it recorded and comparing that with the backing files.
//!
//! Needs `/dev/fuse`.

mod mounted;
mod order;
mod recording;
mod refusals;
mod restart;
mod semantics;
mod suites;
mod twin;
