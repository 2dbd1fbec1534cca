//! The world outside: clock, disk and randomness, each real and simulated, and the seam of the FUSE transport.
//!
//! Everything that persists goes through [`Disk`], so that a simulation can lose, tear and reorder what was
//! not synced. Nothing here knows what the bytes mean.

mod clock;
mod disk;
pub mod fuse;
mod mountinfo;
mod random;
mod real_disk;
mod sim;

pub use clock::{Clock, SimClock, SystemClock, thread_cpu_time};
pub use disk::{Disk, DiskFile, Lock};
pub use mountinfo::{MountEntry, mounted_on, mounts};
pub use random::{Randomness, SeededRandom, SystemRandomness};
pub use real_disk::RealDisk;
pub use sim::{DiskStatistics, Fault, Operation, SimDisk};
