//! Views and overlays served over FUSE to this machine's kernel. Needs `/dev/fuse` and leave to mount.

mod base;
mod behaviour;
mod fio;
mod nodes;
mod pinned;
mod stage;
mod twin;
