//! Gives positions and times.
//!
//! Times never go back within a source. Small steps of the wall clock back are waited out; while a large one
//! lasts, times go on at half speed and are flagged, so that a clock that once stood far ahead does not hold
//! them for ever.

use std::time::Duration;

use super::record::Stamp;
use crate::types::{Mark, Position, Time};

/// The resolution of times.
const TICK_NS: i64 = 1_000_000;
/// The wall clock has stepped if it moved this much more or less than the monotonic one.
const STEP_NS: i64 = 1_000_000_000;

/// The next position and time of a source.
#[derive(Clone, Debug)]
pub struct Sequencer {
    next_position: Position,
    last_time: Time,
    /// The clocks at the last change.
    wall: Option<(Time, Duration)>,
    /// While times are held: the time and the monotonic clock when that began.
    held_since: Option<(Time, Duration)>,
}

impl Sequencer {
    pub fn new(first_position: Position, last_time: Time) -> Sequencer {
        Sequencer { next_position: first_position, last_time, wall: None, held_since: None }
    }

    /// The last position given.
    pub fn last_position(&self) -> Position {
        self.next_position.previous()
    }

    /// The last time given.
    pub fn last_time(&self) -> Time {
        self.last_time
    }

    /// Whether times are held now.
    pub fn is_held(&self) -> bool {
        self.held_since.is_some()
    }

    /// The place of the next change. If the wall clock stepped, a mark that says so comes before it, at a
    /// place of its own.
    pub fn next(&mut self, now: Time, monotonic: Duration) -> (Option<(Stamp, Mark)>, Stamp) {
        let step = self.observe(now, monotonic).map(|mark| (self.give(now, monotonic), mark));
        (step, self.give(now, monotonic))
    }

    /// Compares the clocks with what they said last.
    fn observe(&mut self, now: Time, monotonic: Duration) -> Option<Mark> {
        let expected = match self.wall.replace((now, monotonic)) {
            Some((wall, then)) => Time(wall.0.saturating_add(nanoseconds(monotonic.saturating_sub(then)))),
            // The first change of a life: the clock may be behind the last life's.
            None if now.0 < self.last_time.0.saturating_sub(STEP_NS) => self.last_time,
            None => return None,
        };
        if now.0.abs_diff(expected.0) <= STEP_NS as u64 {
            return None;
        }
        let behind = now.0 < self.last_time.0.saturating_sub(STEP_NS);
        self.held_since = behind.then_some((self.last_time, monotonic));
        Some(Mark::ClockStep { from: expected, to: now })
    }

    fn give(&mut self, now: Time, monotonic: Duration) -> Stamp {
        let tick = Time(now.0.saturating_sub(now.0.rem_euclid(TICK_NS)));
        if tick >= self.last_time {
            self.held_since = None;
        }
        let time = match self.held_since {
            Some((since, began)) => {
                let elapsed = nanoseconds(monotonic.saturating_sub(began)) / 2;
                Time(since.0.saturating_add(elapsed - elapsed % TICK_NS))
            }
            None => tick,
        };
        self.last_time = self.last_time.max(time);
        let position = self.next_position;
        self.next_position = position.next();
        Stamp { position, time: self.last_time, held: self.held_since.is_some() }
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn at(seconds: i64) -> Time {
        Time(seconds * SECOND)
    }

    #[test]
    fn times_are_whole_milliseconds_and_never_go_back() {
        let mut sequencer = Sequencer::new(Position(5), Time(0));
        let (_, first) = sequencer.next(Time(7 * SECOND + 1_999_999), Duration::from_secs(1));
        assert_eq!((first.position, first.time), (Position(5), Time(7 * SECOND + 1_000_000)));
        let (step, second) = sequencer.next(Time(7 * SECOND + 500), Duration::from_secs(1));
        assert_eq!(step, None);
        assert_eq!((second.position, second.time, second.held), (Position(6), first.time, false));
    }

    #[test]
    fn a_step_back_is_recorded_and_times_go_on_flagged_until_the_clock_has_caught_up() {
        let mut sequencer = Sequencer::new(Position(1), Time(0));
        sequencer.next(at(100), Duration::from_secs(0));
        let (step, stamp) = sequencer.next(at(51), Duration::from_secs(1));
        let (mark_at, mark) = step.unwrap();
        assert_eq!((mark_at.position, stamp.position), (Position(2), Position(3)));
        assert_eq!(mark, Mark::ClockStep { from: at(101), to: at(51) });
        assert!(stamp.held && stamp.time == at(100));
        let (step, stamp) = sequencer.next(at(71), Duration::from_secs(21));
        assert!(step.is_none() && stamp.held && stamp.time == at(110));
        let (step, stamp) = sequencer.next(at(200), Duration::from_secs(150));
        assert!(step.is_none() && !stamp.held && stamp.time == at(200));
    }

    #[test]
    fn a_step_forward_is_recorded_and_followed() {
        let mut sequencer = Sequencer::new(Position(1), Time(0));
        sequencer.next(at(100), Duration::from_secs(0));
        let (step, stamp) = sequencer.next(at(5000), Duration::from_secs(1));
        assert_eq!(step.unwrap().1, Mark::ClockStep { from: at(101), to: at(5000) });
        assert!(!stamp.held && stamp.time == at(5000));
    }

    #[test]
    fn a_clock_that_once_stood_far_ahead_does_not_hold_times_for_ever() {
        let mut sequencer = Sequencer::new(Position(1), at(1_000_000));
        let (step, stamp) = sequencer.next(at(10), Duration::from_secs(0));
        assert!(step.is_some() && stamp.held && stamp.time == at(1_000_000));
        let (_, later) = sequencer.next(at(30), Duration::from_secs(20));
        assert!(later.held && later.time == at(1_000_010));
    }
}
