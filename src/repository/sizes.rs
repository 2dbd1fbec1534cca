//! What a source takes and how fast it grows.

use super::history::{History, SegmentEntry};

const DAY_NS: u64 = 86_400_000_000_000;
/// Growth is told from at least an hour; less says nothing about a day.
const GROWTH_NS_MIN: u64 = DAY_NS / 24;

/// Sizes and counts over everything that is sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub segments: u64,
    /// Segments as they lie on disk.
    pub segment_bytes: u64,
    /// Snapshots of the names.
    pub snapshot_bytes: u64,
    /// Pages before compression.
    pub captured_bytes: u64,
    pub index_bytes: u64,
    pub page_versions: u64,
    /// Changes of data and names, and marks.
    pub changes: u64,
    /// What the last day added, scaled to a whole day if there is less; `None` if there is less than an hour.
    pub growth_bytes_per_day: Option<u64>,
}

impl History {
    /// What everything sealed takes.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let total = |of: fn(&SegmentEntry) -> u64| self.segments().iter().map(of).sum();
        Sizes {
            segments: self.segments().len() as u64,
            segment_bytes: total(|segment| segment.len_bytes),
            snapshot_bytes: self.snapshots().iter().map(|snapshot| snapshot.len_bytes).sum(),
            captured_bytes: total(|segment| segment.summary.captured_bytes),
            index_bytes: total(|segment| segment.summary.index_bytes),
            page_versions: total(|segment| segment.summary.page_versions),
            changes: total(|segment| {
                segment.summary.data_changes + segment.summary.names_changes + segment.summary.marks
            }),
            growth_bytes_per_day: growth(self.segments()),
        }
    }
}

/// The initial image is part of it, as it is of what storage must hold.
fn growth(segments: &[SegmentEntry]) -> Option<u64> {
    let end = segments.last()?.last().time;
    let recent = segments.iter().rev().take_while(|segment| end.since(segment.first().time) <= DAY_NS);
    let (mut bytes, mut span_ns) = (0, 0);
    for segment in recent {
        bytes += segment.len_bytes;
        span_ns = end.since(segment.first().time);
    }
    let per_day = u128::from(bytes) * u128::from(DAY_NS) / u128::from(span_ns.max(1));
    (span_ns >= GROWTH_NS_MIN).then(|| u64::try_from(per_day).unwrap_or(u64::MAX))
}
