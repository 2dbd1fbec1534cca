//! From what a user asks for to a position.

use jiff::tz::TimeZone;

use super::History;
use super::history::Moment;
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
        let _ = (point, now, zone);
        panic!("not built yet")
    }

    /// Whether `point` may lie behind what is sealed, so that sealing the open segment may be needed first.
    #[must_use]
    pub fn may_need_seal(&self, point: &Point, now: Time, zone: &TimeZone) -> bool {
        let _ = (point, now, zone);
        panic!("not built yet")
    }
}
