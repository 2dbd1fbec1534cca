//! The world outside: clock, disk and randomness, each real and simulated, and the seam of the FUSE transport.
//!
//! Everything that persists goes through [`Disk`], so that a simulation can lose, tear and reorder what was
//! not synced. Nothing here knows what the bytes mean.

mod clock;
mod disk;
pub mod fuse;
mod mountinfo;

pub use clock::{Clock, SystemClock};
pub use disk::{Disk, DiskFile, Lock};
pub use mountinfo::{MountEntry, mounted_on, mounts};
