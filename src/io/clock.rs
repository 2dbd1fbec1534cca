//! Wall clock and monotonic clock.

use std::time::Duration;

use crate::types::Time;

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// UTC now, at the clock's full resolution; may step in either direction.
    fn now(&self) -> Time;
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Time::join(now.tv_sec, now.tv_nsec as u32)
    }

    fn monotonic(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }
}
