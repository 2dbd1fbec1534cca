//! pitgate: records every change of a database's files and serves any recorded moment as a writable file system.
//!
//! `ARCHITECTURE.md` draws the modules and their order; `docs/semantics.md` numbers what they promise.

pub mod capture;
pub mod cli;
pub mod index;
pub mod io;
pub mod journal;
pub mod mount;
pub mod namespace;
pub mod overlay;
pub mod recovery;
pub mod repository;
pub mod types;
pub mod view;
