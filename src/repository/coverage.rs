//! Which positions are mountable: from each `CoverageBegin` to the next break or the end of the epoch.

use super::history::{Break, Gap, Moment, Range, SegmentEntry};
use crate::journal::{DamagedPlace, MarkAt, TimeTable};
use crate::types::{Mark, Position};

/// Ranges that can be mounted and what lies between them, both ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Coverage {
    pub ranges: Vec<Range>,
    pub gaps: Vec<Gap>,
}

#[derive(Default)]
struct Walk {
    coverage: Coverage,
    first: Option<Moment>,
    /// Why there is a gap now, and the last moment before it.
    gap: Option<(Moment, String)>,
    /// Changes of this epoch are lost without anybody knowing of which files. Its writer did not know either, so
    /// nothing that it said later heals that; the next epoch begins with a comparison that does.
    lost: bool,
}

impl Walk {
    fn begin(&mut self, at: Moment) {
        if self.first.is_some() || self.lost {
            return;
        }
        self.first = Some(at);
        if let Some((after, reason)) = self.gap.take() {
            self.coverage.gaps.push(Gap { after, before: Some(at), reason });
        }
    }

    fn end(&mut self, last: Moment, reason: &str) {
        if let Some(first) = self.first.take() {
            self.coverage.ranges.push(Range { first, last });
            self.gap = Some((last, reason.to_owned()));
        }
    }
}

/// The coverage that a source's segments, ascending, give.
pub(super) fn of(segments: &[SegmentEntry]) -> Coverage {
    let mut walk = Walk::default();
    let mut previous: Option<&SegmentEntry> = None;
    for segment in segments {
        let within = previous.filter(|before| before.id.epoch == segment.id.epoch);
        match (previous, within) {
            (_, Some(before)) if before.last().position.next() != segment.first().position => {
                walk.end(before.last(), "a segment is missing");
                walk.lost = true;
            }
            (_, Some(_)) => {}
            (before, None) => {
                if let Some(before) = before {
                    walk.end(before.last(), "capture ended without a clean stop");
                }
                // An epoch begins with segment 0; while that is recovered, later ones may already be sealed.
                walk.lost = segment.id.sequence != 0;
            }
        }
        follow(&mut walk, segment, previous.map(SegmentEntry::last));
        previous = Some(segment);
    }
    let Walk { mut coverage, first, gap, .. } = walk;
    match (first, previous) {
        (Some(first), Some(segment)) => coverage.ranges.push(Range { first, last: segment.last() }),
        _ => {
            if let Some((after, reason)) = gap {
                coverage.gaps.push(Gap { after, before: None, reason });
            }
        }
    }
    coverage
}

fn follow(walk: &mut Walk, segment: &SegmentEntry, previous: Option<Moment>) {
    let lost_from = losses(&segment.damaged).map(|(position, _)| position).min();
    let mut breaks = segment.breaks.iter().peekable();
    let mut end_before = |walk: &mut Walk, position: Option<Position>| {
        while let Some(broken) =
            breaks.next_if(|broken| position.is_none_or(|limit| broken.position <= limit))
        {
            // Without a moment before it in this segment, the one before is in the segment before.
            if let Some(last) = broken.last.or(previous) {
                walk.end(last, &broken.reason);
            }
        }
    };
    for mark in &segment.marks {
        end_before(walk, Some(mark.position));
        walk.lost |= lost_from.is_some_and(|lost| lost <= mark.position);
        let at = Moment { position: mark.position, time: mark.time };
        match &mark.mark {
            Mark::CoverageBegin => walk.begin(at),
            // The stop itself changes nothing, so it is mountable.
            Mark::CleanStop => walk.end(at, "capture was stopped"),
            _ => {}
        }
    }
    end_before(walk, None);
    walk.lost |= lost_from.is_some();
}

/// Damage that hides changes, with the first change hidden. Contained damage hides nothing: reading what it
/// took fails.
fn losses(damaged: &[DamagedPlace]) -> impl Iterator<Item = (Position, &DamagedPlace)> {
    damaged.iter().filter(|place| !place.contained).filter_map(|place| Some((place.positions?.0, place)))
}

/// Where mountable positions end in a segment: at `CoverageEnd` marks and at the first lost change of each
/// damaged place.
pub(super) fn breaks(marks: &[MarkAt], damaged: &[DamagedPlace], times: &TimeTable) -> Vec<Break> {
    let ends = marks.iter().filter_map(|mark| match &mark.mark {
        Mark::CoverageEnd { reason } => Some((mark.position, reason.clone())),
        _ => None,
    });
    let losses = losses(damaged).map(|(position, place)| (position, format!("{place} is damaged")));
    let mut breaks: Vec<_> = ends
        .chain(losses)
        .map(|(position, reason)| {
            let before = position.previous();
            let last = times.time_of(before).map(|time| Moment { position: before, time });
            Break { position, last, reason }
        })
        .collect();
    breaks.sort_by_key(|broken| broken.position);
    breaks
}
