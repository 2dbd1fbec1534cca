//! Wall clock and monotonic clock.

use std::time::Duration;

use parking_lot::Mutex;

use crate::types::Time;

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// UTC now, at the clock's full resolution; may step in either direction.
    fn now(&self) -> Time;
    /// UTC now as file systems stamp files: at the resolution of the kernel's tick, and cheaper than [`Clock::now`].
    fn now_coarse(&self) -> Time {
        self.now()
    }
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

    fn now_coarse(&self) -> Time {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Time::join(now.tv_sec, now.tv_nsec as u32)
    }

    fn monotonic(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }
}

/// Processor time that the calling thread has used.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

/// A clock that moves only when told to, or by a fixed tick with each look at it.
#[derive(Debug)]
pub struct SimClock {
    state: Mutex<SimTime>,
    tick: Duration,
}

#[derive(Clone, Copy, Debug)]
struct SimTime {
    wall: Time,
    monotonic: Duration,
}

impl SimClock {
    /// Stands still at `start`.
    #[must_use]
    pub fn new(start: Time) -> SimClock {
        SimClock::ticking(start, Duration::ZERO)
    }

    /// Moves on by `tick` each time the wall clock is read.
    #[must_use]
    pub fn ticking(start: Time, tick: Duration) -> SimClock {
        SimClock { state: Mutex::new(SimTime { wall: start, monotonic: Duration::ZERO }), tick }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.state.lock().pass(by);
    }

    /// Sets the wall clock, forwards or back, without time passing.
    pub fn step_to(&self, wall: Time) {
        self.state.lock().wall = wall;
    }
}

impl SimTime {
    fn pass(&mut self, by: Duration) {
        let nanoseconds = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        self.wall = Time(self.wall.0.saturating_add(nanoseconds));
        self.monotonic = self.monotonic.saturating_add(by);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        let mut state = self.state.lock();
        state.pass(self.tick);
        state.wall
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().monotonic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_clocks_move_forward() {
        let (wall, monotonic) = (SystemClock.now(), SystemClock.monotonic());
        assert!(wall > Time::join(1_600_000_000, 0));
        assert!(SystemClock.monotonic() >= monotonic);
    }

    #[test]
    fn a_simulated_step_moves_only_the_wall_clock() {
        let clock = SimClock::ticking(Time(1000), Duration::from_nanos(1));
        assert_eq!(clock.now(), Time(1001));
        clock.advance(Duration::from_nanos(9));
        clock.step_to(Time(5));
        assert_eq!(clock.monotonic(), Duration::from_nanos(10));
        assert_eq!(clock.now(), Time(6));
    }
}
