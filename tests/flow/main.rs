//! Start to end with the real program: capture, mounts and real databases on this machine's kernel.
//!
//! These tests need root, `/dev/fuse` and PostgreSQL 15; without them they fail, and say what is missing.

mod bad_input;
mod capture_mount;
mod deadline;
mod full_disk;
mod lives;
mod postgresql;
mod server;
mod site;
mod sqlite;
mod tree;
