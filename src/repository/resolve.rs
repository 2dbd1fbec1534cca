//! From what a user asks for to a position.

use jiff::tz::TimeZone;

use super::RepositoryError;
use super::history::{History, Moment, SegmentEntry};
use crate::types::{Point, Position, Time};

/// A point and the position it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub requested: Point,
    pub position: Position,
    /// The time of `position`: at or before the time that was asked for.
    pub time: Time,
}

/// Why a point cannot be mounted, and what can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("{requested} lies in the future: it is {now} now")]
    Future { requested: Point, now: Time },
    #[error("nothing can be mounted yet: no initial image is complete and sealed")]
    NothingCovered,
    #[error("{requested} is not covered; {}", nearest(before.as_ref(), after.as_ref()))]
    NotCovered { requested: Point, before: Option<Moment>, after: Option<Moment> },
    #[error("there is no bookmark `{name}`; {}", bookmarks(near))]
    NoSuchBookmark { name: String, near: Vec<String> },
    #[error("{requested} names no time")]
    NoTime { requested: Point },
    #[error("{requested} cannot be resolved: {what}")]
    Damaged { requested: Point, what: String },
}

fn nearest(before: Option<&Moment>, after: Option<&Moment>) -> String {
    let say = |moment: &Moment| format!("{} ({})", moment.time, moment.position);
    match (before, after) {
        (Some(before), Some(after)) => {
            format!("the last point before is {}, the first after {}", say(before), say(after))
        }
        (Some(before), None) => format!("the last point is {}", say(before)),
        (None, Some(after)) => format!("the first point is {}", say(after)),
        (None, None) => "no point is".to_owned(),
    }
}

fn bookmarks(near: &[String]) -> String {
    if near.is_empty() {
        "there is none yet".to_owned()
    } else {
        format!("there are `{}`", near.join("`, `"))
    }
}

impl History {
    /// The position that `point` stands for. `now` and `zone` read relative and local times.
    ///
    /// # Errors
    /// `ResolveError` says what is mountable instead.
    pub fn resolve(&self, point: &Point, now: Time, zone: &TimeZone) -> Result<Resolved, ResolveError> {
        let Some(latest) = self.ranges().last() else { return Err(ResolveError::NothingCovered) };
        let at = match point {
            Point::Latest => latest.last,
            Point::Position(position) => self.covered(point, *position)?,
            Point::Bookmark(name) => {
                // The newest, should a name have been given twice.
                let bookmark = self.bookmarks().iter().rfind(|bookmark| bookmark.name == *name);
                let bookmark = bookmark.ok_or_else(|| ResolveError::NoSuchBookmark {
                    name: name.clone(),
                    near: self.bookmarks_near(name),
                })?;
                self.covered(point, bookmark.at.position)?
            }
            Point::Time(_) | Point::LocalTime(_) | Point::Before(_) => {
                let time = point
                    .instant(now, zone)
                    .ok_or_else(|| ResolveError::NoTime { requested: point.clone() })?;
                if time > now {
                    return Err(ResolveError::Future { requested: point.clone(), now });
                }
                self.covered_time(point, time)?
            }
        };
        Ok(Resolved { requested: point.clone(), position: at.position, time: at.time })
    }

    /// Whether `point` may lie behind what is sealed, so that sealing the open segment may be needed first.
    #[must_use]
    pub fn may_need_seal(&self, point: &Point, now: Time, zone: &TimeZone) -> bool {
        let last = self.segments().last().map(SegmentEntry::last);
        match point {
            Point::Latest => true,
            Point::Position(position) => last.is_none_or(|last| *position > last.position),
            Point::Bookmark(name) => !self.bookmarks().iter().any(|bookmark| bookmark.name == *name),
            // More changes of the very same time may follow.
            Point::Time(_) | Point::LocalTime(_) | Point::Before(_) => point
                .instant(now, zone)
                .is_some_and(|time| time <= now && last.is_none_or(|last| time >= last.time)),
        }
    }

    fn covered(&self, requested: &Point, position: Position) -> Result<Moment, ResolveError> {
        let behind = self.ranges().partition_point(|range| range.first.position <= position);
        let range = behind.checked_sub(1).map(|index| &self.ranges()[index]);
        if range.is_none_or(|range| range.last.position < position) {
            return Err(self.not_covered(requested, behind));
        }
        match self.time_of(position) {
            Ok(Some(time)) => Ok(Moment { position, time }),
            Ok(None) => Err(self.not_covered(requested, behind)),
            Err(error) => Err(damaged(requested, &error)),
        }
    }

    /// The last change at or before `time`, if capture was recording then.
    fn covered_time(&self, requested: &Point, time: Time) -> Result<Moment, ResolveError> {
        let behind = self.ranges().partition_point(|range| range.first.time <= time);
        let range = behind.checked_sub(1).map(|index| &self.ranges()[index]);
        let Some(range) = range.filter(|range| time <= range.last.time) else {
            return Err(self.not_covered(requested, behind));
        };
        if time == range.last.time {
            return Ok(range.last);
        }
        // Segments of later ranges may begin at the same time.
        let begun = self.segments().partition_point(|segment| segment.summary.first_time <= time);
        let index = begun.min(self.segments_before(range.last.position)).saturating_sub(1);
        let entry = &self.segments()[index];
        let times = self
            .segment(index)
            .and_then(|reader| reader.times().map_err(|error| self.source().journal_error(entry.id, error)))
            .map_err(|error| damaged(requested, &error))?;
        let found = times.last_position_at(time).unwrap_or(range.first.position);
        let position = found.clamp(range.first.position, range.last.position);
        let at = times.time_of(position).unwrap_or(range.first.time);
        Ok(Moment { position, time: at })
    }

    fn not_covered(&self, requested: &Point, behind: usize) -> ResolveError {
        ResolveError::NotCovered {
            requested: requested.clone(),
            before: behind.checked_sub(1).map(|index| self.ranges()[index].last),
            after: self.ranges().get(behind).map(|range| range.first),
        }
    }

    /// Up to five names, those that begin most like `name` first, among equals the newest.
    fn bookmarks_near(&self, name: &str) -> Vec<String> {
        let alike = |other: &str| {
            other.chars().zip(name.chars()).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count()
        };
        let mut names: Vec<_> = self.bookmarks().iter().rev().map(|bookmark| bookmark.name.clone()).collect();
        names.sort_by_key(|other| std::cmp::Reverse(alike(other)));
        names.dedup();
        names.truncate(5);
        names
    }
}

fn damaged(requested: &Point, error: &RepositoryError) -> ResolveError {
    ResolveError::Damaged { requested: requested.clone(), what: error.in_full() }
}
