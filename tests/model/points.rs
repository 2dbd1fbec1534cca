//! Points of random histories: what a bookmark, a time or `latest` must resolve to, and what must be refused.

use std::sync::Arc;

use jiff::tz::TimeZone;
use pitgate::repository::{History, ResolveError, Resolved};
use pitgate::types::{Point, Position, Time};
use pitgate::view::{View, ViewCache, ViewError};

use crate::chance::Chance;
use crate::player::Player;

const TIMES: usize = 4;

/// Checks points of `history`, which must hold everything that `player` recorded. Panics at the first fault.
pub fn check_points(player: &Player, history: &History, chance: &mut Chance) {
    let covered = player.covered_positions();
    for (name, position) in player.reference.bookmarks() {
        match resolve(history, Point::Bookmark(name.clone())) {
            Ok(resolved) => assert_eq!(resolved.position, position, "bookmark {name}"),
            Err(error) => assert!(!covered.contains(&position), "bookmark {name} at {position}: {error}"),
        }
    }
    let unknown = resolve(history, Point::Bookmark("never".to_owned()));
    let is_refused =
        matches!(unknown, Err(ResolveError::NoSuchBookmark { .. } | ResolveError::NothingCovered));
    assert!(is_refused, "an unknown bookmark: {unknown:?}");
    let latest = resolve(history, Point::Latest).ok().map(|resolved| resolved.position);
    assert_eq!(latest, covered.last().copied(), "the latest point");
    let recorded = recorded_times(player, history);
    for _ in 0..TIMES {
        let (_, time) = chance.choose(&recorded).expect("roots were declared");
        let ns = *chance.choose(&[0, 1, -1, 700_000, -700_000]).expect("not empty");
        check_time(player, history, &covered, &recorded, Time(time.0 + ns));
    }
}

/// Every recorded position with its time. As long as the clock never went back, that is the clock's in whole
/// milliseconds; afterwards it is what the journal says, if it does not go back.
fn recorded_times(player: &Player, history: &History) -> Vec<(Position, Time)> {
    let tables: Vec<_> = (0..history.segments().len())
        .map(|number| history.segment(number).expect("a sound segment").times().expect("a sound time table"))
        .collect();
    let time_of = |position: Position| {
        let number = history.segments_before(position).checked_sub(1).expect("a segment holds the position");
        tables[number].time_of(position).unwrap_or_else(|| panic!("{position} has no time"))
    };
    let mut times: Vec<(Position, Time)> = Vec::new();
    for &(position, clock, _) in player.reference.changes() {
        let time = time_of(position);
        assert!(times.last().is_none_or(|(_, before)| *before <= time), "times go back at {position}");
        if player.clock_went_back_at.is_none_or(|back| position < back) {
            assert_eq!(time, clock, "the time of {position}");
        }
        times.push((position, time));
    }
    times
}

/// A time stands for the last covered change at or before it, if it lies in that one's range.
fn check_time(
    player: &Player,
    history: &History,
    covered: &[Position],
    recorded: &[(Position, Time)],
    time: Time,
) {
    let begun = recorded.partition_point(|(_, at)| *at <= time);
    let last = recorded[..begun].iter().rposition(|(position, _)| covered.contains(position));
    let next = last.and_then(|last| recorded.get(last + 1)).map(|(position, _)| *position);
    let expected = last.map(|last| recorded[last]).filter(|(position, at)| {
        let goes_on =
            next.is_some_and(|next| covered.contains(&next)) && !player.epoch_ends.contains(position);
        *at == time || goes_on
    });
    match (resolve(history, Point::Time(time)), expected) {
        (Ok(resolved), Some((position, at))) => {
            assert_eq!(resolved.position, position, "the change that {time} stands for");
            assert_eq!(resolved.time, at, "the time of {}, which {time} resolved to", resolved.position);
        }
        (Err(ResolveError::NotCovered { .. } | ResolveError::NothingCovered), None) => {}
        (Err(error), Some((position, _))) => panic!("{time} stands for {position}: {error}"),
        (outcome, None) => panic!("{time} is not covered: {outcome:?}"),
    }
}

/// Positions at which nothing, or nothing whole, was recorded: no view opens there.
pub fn check_refusals(player: &Player, history: &Arc<History>, cache: &Arc<ViewCache>, chance: &mut Chance) {
    let covered = player.covered_positions();
    let (any, _, _) = chance.choose(player.reference.changes()).expect("roots were declared");
    let end = player.reference.last_position();
    for position in [*any, any.next(), Position::ZERO, end.next(), Position(end.0 + (1 << 30))] {
        if covered.contains(&position) {
            continue;
        }
        match View::open(Arc::clone(history), position, Arc::clone(cache)) {
            Err(ViewError::NotMountable(_)) => {}
            Err(error) => panic!("{position}, which is not covered: {error}"),
            Ok(_) => panic!("a view at {position}, which is not covered"),
        }
    }
}

fn resolve(history: &History, point: Point) -> Result<Resolved, ResolveError> {
    history.resolve(&point, Time::MAX, &TimeZone::UTC)
}
