//! Which position was reached when: the time table of a segment.

use crate::types::{Position, Time};

/// Steps of time within a segment: from each position on, changes have its time.
///
/// Both columns strictly ascend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeTable {
    steps: Vec<(Position, Time)>,
    last_position: Position,
}

impl TimeTable {
    /// Takes the next change; a time that is not later than the last adds no step.
    pub fn push(&mut self, position: Position, time: Time) {
        if self.steps.last().is_none_or(|(_, last)| *last < time) {
            self.steps.push((position, time));
        }
        self.last_position = self.last_position.max(position);
    }

    /// Extends the last step up to `last_position`.
    pub(super) fn reach(&mut self, last_position: Position) {
        self.last_position = self.last_position.max(last_position);
    }

    /// The last position whose time is at or before `time`; `None` if all are later.
    #[must_use]
    pub fn last_position_at(&self, time: Time) -> Option<Position> {
        let later = self.steps.partition_point(|(_, step)| *step <= time);
        match self.steps.get(later) {
            None => self.steps.last().map(|_| self.last_position),
            Some((next, _)) if later > 0 => Some(next.previous()),
            Some(_) => None,
        }
    }

    /// The time of the change at `position`; `None` outside the segment.
    #[must_use]
    pub fn time_of(&self, position: Position) -> Option<Time> {
        if position > self.last_position {
            return None;
        }
        let later = self.steps.partition_point(|(step, _)| *step <= position);
        Some(self.steps[later.checked_sub(1)?].1)
    }

    /// The first position of every step, with its time.
    #[must_use]
    pub fn steps(&self) -> &[(Position, Time)] {
        &self.steps
    }

    #[must_use]
    pub fn last_position(&self) -> Position {
        self.last_position
    }
}
