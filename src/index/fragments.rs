//! Cuts the versions of one file into ranges of pages that are equal or disjoint, so that a search needs to
//! look at one place only.
//!
//! Zeros enter a range only where they end something: after a zero, another changes nothing. So there are
//! never more zeros than pages plus twice the ranges, however often a file was truncated.

use std::collections::BTreeSet;

use super::Location;

/// Pages or zeros (`record` is `None`) from one position on. `end_page` is exclusive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub position: u64,
    pub first_page: u64,
    pub end_page: u64,
    pub record: Option<Location>,
}

/// What a range holds from one position on: a record and the page in it where the range begins, or zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub position: u64,
    pub record: Option<(Location, u32)>,
}

/// A range of pages and its versions, positions descending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fragment {
    pub first_page: u64,
    pub end_page: u64,
    pub versions: Vec<Version>,
}

impl Fragment {
    /// Takes in `next` if it continues this range with the same history.
    fn absorb(&mut self, next: &Fragment) -> bool {
        let joins = self.end_page == next.first_page
            && self.versions.len() == next.versions.len()
            && self.versions.iter().zip(&next.versions).all(|(mine, theirs)| {
                mine.position == theirs.position
                    && match (mine.record, theirs.record) {
                        (None, None) => true,
                        (Some((my_location, my_page)), Some((location, page))) => {
                            my_location == location
                                && u64::from(my_page) + (next.first_page - self.first_page) == u64::from(page)
                        }
                        _ => false,
                    }
            });
        if joins {
            self.end_page = next.end_page;
        }
        joins
    }
}

/// Hands `emit` the fragments of one file, pages ascending.
///
/// `events` ascend by position; among those of one position zeros come first, and the last page wins.
pub(super) fn fragments(events: &[Event], mut emit: impl FnMut(&Fragment)) {
    let mut bounds: Vec<u64> = events.iter().flat_map(|event| [event.first_page, event.end_page]).collect();
    bounds.sort_unstable();
    bounds.dedup();
    let pieces = pieces_of_records(events, &bounds);
    let mut zeros = ActiveZeros::new(events);
    let mut pending = Fragment::default();
    let mut next = Fragment::default();
    let mut rest = pieces.as_slice();
    for (at, range) in bounds.windows(2).enumerate() {
        zeros.advance_to(range[0]);
        let here = rest.iter().take_while(|piece| piece.range as usize == at).count();
        let (pieces, later) = rest.split_at(here);
        rest = later;
        (next.first_page, next.end_page) = (range[0], range[1]);
        zeros.versions(events, pieces, range[0], &mut next.versions);
        if next.versions.is_empty() || pending.absorb(&next) {
            continue;
        }
        if !pending.versions.is_empty() {
            emit(&pending);
        }
        std::mem::swap(&mut pending, &mut next);
    }
    if !pending.versions.is_empty() {
        emit(&pending);
    }
}

/// That a record covers a range, both by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    range: u32,
    event: u32,
}

/// Ranges ascending, then positions; of several records of one position only the last.
fn pieces_of_records(events: &[Event], bounds: &[u64]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(events.len());
    for (number, event) in events.iter().enumerate().filter(|(_, event)| event.record.is_some()) {
        let first = bounds.partition_point(|&bound| bound < event.first_page);
        let covered = bounds[first..].iter().take_while(|&&bound| bound < event.end_page).count();
        pieces.extend(
            (first..first + covered).map(|range| Piece { range: range as u32, event: number as u32 }),
        );
    }
    pieces.sort_unstable();
    pieces.dedup_by(|later, kept| {
        let same = later.range == kept.range
            && events[later.event as usize].position == events[kept.event as usize].position;
        if same {
            *kept = *later;
        }
        same
    });
    pieces
}

/// The zeros that cover the range at hand, while ranges are visited in order.
struct ActiveZeros {
    /// First page and position.
    starts: Vec<(u64, u64)>,
    /// End page and position.
    ends: Vec<(u64, u64)>,
    started: usize,
    ended: usize,
    /// Position, and how many zeros began before it did; the latter only to tell equal positions apart.
    positions: BTreeSet<(u64, u64)>,
}

impl ActiveZeros {
    fn new(events: &[Event]) -> ActiveZeros {
        let zeros = events.iter().filter(|event| event.record.is_none());
        let mut starts: Vec<_> = zeros.clone().map(|zero| (zero.first_page, zero.position)).collect();
        let mut ends: Vec<_> = zeros.map(|zero| (zero.end_page, zero.position)).collect();
        starts.sort_unstable();
        ends.sort_unstable();
        ActiveZeros { starts, ends, started: 0, ended: 0, positions: BTreeSet::new() }
    }

    fn advance_to(&mut self, page: u64) {
        while let Some(&(_, position)) = self.starts.get(self.started).filter(|start| start.0 <= page) {
            let same = self.positions.range((position, 0)..=(position, u64::MAX)).count() as u64;
            self.positions.insert((position, same));
            self.started += 1;
        }
        while let Some(&(_, position)) = self.ends.get(self.ended).filter(|end| end.0 <= page) {
            let last = self.positions.range((position, 0)..=(position, u64::MAX)).next_back().copied();
            if let Some(last) = last {
                self.positions.remove(&last);
            }
            self.ended += 1;
        }
    }

    /// The first position above `after` (any, if `None`) and below `before` at which a zero covers the range.
    fn between(&self, after: Option<u64>, before: u64) -> Option<u64> {
        let from = match after {
            None => 0,
            Some(position) => position.checked_add(1)?,
        };
        self.positions
            .range((from, 0)..)
            .next()
            .map(|&(position, _)| position)
            .filter(|&found| found < before)
    }

    /// The versions of a range, descending, from its records and the zeros between them.
    fn versions(&self, events: &[Event], pieces: &[Piece], first_page: u64, versions: &mut Vec<Version>) {
        versions.clear();
        let mut after = None;
        for piece in pieces {
            let event = &events[piece.event as usize];
            if let Some(position) = self.between(after, event.position) {
                versions.push(Version { position, record: None });
            }
            let page_in_record = (first_page - event.first_page) as u32;
            let record = event.record.map(|location| (location, page_in_record));
            versions.push(Version { position: event.position, record });
            after = Some(event.position);
        }
        if let Some(position) = self.between(after, u64::MAX) {
            versions.push(Version { position, record: None });
        }
        versions.reverse();
    }
}
