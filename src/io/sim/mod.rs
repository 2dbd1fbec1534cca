//! A disk that forgets: what was not synced may be lost, torn or reordered when the simulated machine stops.

mod content;
mod disk;
mod fault;
mod file;
mod names;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;

pub use disk::SimDisk;
pub use fault::{DiskStatistics, Fault, Operation};
