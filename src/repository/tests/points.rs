//! Coverage, points, and names at any position.

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::types::Point;

fn second(number: i64) -> Time {
    Time(START.0 + number * 1_000_000_000)
}

fn moment(position: u64, seconds: i64) -> Moment {
    Moment { position: Position(position), time: second(seconds) }
}

/// Positions 1 to 8, a second apart: image, coverage 3 to 5, a gap, coverage from 7 to the stop at 8.
fn short_history(source: &Source, clock: &Arc<SimClock>) {
    let mut life = Life::begin(source, clock);
    for change in [declare_root(), create(3, "f"), begin()] {
        life.record(&change);
    }
    life.seal();
    for change in
        [write(3, 0, 1, 4096, Some(1)), bookmark("before upgrade"), end("journal failed"), begin(), stop()]
    {
        life.record(&change);
    }
    life.seal();
}

#[test]
fn coverage_lies_between_its_marks() {
    let source = new_source(&SimDisk::new(1));
    let clock = Arc::new(SimClock::new(START));
    assert!(source.history(&cache()).unwrap().ranges().is_empty());
    short_history(&source, &clock);
    let history = source.history(&cache()).unwrap();
    assert_eq!(history.segments().len(), 2);
    assert_eq!(
        history.ranges(),
        [
            Range { first: moment(3, 3), last: moment(5, 5) },
            Range { first: moment(7, 7), last: moment(8, 8) }
        ]
    );
    assert_eq!(
        history.gaps(),
        [
            Gap { after: moment(5, 5), before: Some(moment(7, 7)), reason: "journal failed".to_owned() },
            Gap { after: moment(8, 8), before: None, reason: "capture was stopped".to_owned() }
        ]
    );
    assert_eq!(history.bookmarks(), [Bookmark { name: "before upgrade".to_owned(), at: moment(5, 5) }]);

    // A life that never completes its image covers nothing.
    let mut life = Life::begin(&source, &clock);
    let next = life.record(&touch(3, 5));
    life.seal();
    drop(life);
    assert!(next > Position(8 + (1 << 20) - 1), "{next}");
    let history = source.history(&cache()).unwrap();
    assert_eq!(history.ranges().len(), 2);
    assert_eq!(history.end(), next);

    // A life that dies covers what it recorded.
    let mut life = Life::begin(&source, &clock);
    let first = life.record(&begin());
    let last = life.record(&touch(3, 6));
    life.seal();
    drop(life);
    let mut life = Life::begin(&source, &clock);
    life.record(&begin());
    life.seal();
    let history = source.history(&cache()).unwrap();
    let died = history.ranges()[2];
    assert_eq!((died.first.position, died.last.position), (first, last));
    assert_eq!(history.gaps()[2].reason, "capture ended without a clean stop");
    assert_eq!(history.gaps().len(), 3, "the last range is still growing");
}

fn resolved(history: &History, text: &str) -> Result<(u64, Time), String> {
    let point: Point = text.parse().expect("a point");
    let resolved = history.resolve(&point, second(100), &TimeZone::UTC);
    let resolved = resolved.map_err(|error| error.to_string())?;
    assert_eq!(resolved.requested, point);
    Ok((resolved.position.0, resolved.time))
}

#[test]
fn a_point_resolves_only_where_capture_was_recording() {
    let source = new_source(&SimDisk::new(1));
    short_history(&source, &Arc::new(SimClock::new(START)));
    let history = source.history(&cache()).unwrap();
    for (point, position) in [
        ("latest", 8),
        ("@3", 3),
        ("@5", 5),
        ("@7", 7),
        ("bookmark:before upgrade", 5),
        ("2026-05-01T00:00:03Z", 3),
        ("2026-05-01T00:00:03.999Z", 3),
        ("2026-05-01 00:00:04", 4),
        ("2026-05-01T08:00:05+08:00", 5),
        ("-92s", 8),
        ("-93s", 7),
    ] {
        assert_eq!(resolved(&history, point), Ok((position, second(position as i64))), "{point}");
    }
    let refusals = [
        ("@2", "@2 is not covered; the first point is 2026-05-01T00:00:03.000000000Z (@3)"),
        (
            "@6",
            "@6 is not covered; the last point before is 2026-05-01T00:00:05.000000000Z (@5), the first after \
             2026-05-01T00:00:07.000000000Z (@7)",
        ),
        ("@9", "@9 is not covered; the last point is 2026-05-01T00:00:08.000000000Z (@8)"),
        (
            "2026-05-01T00:00:05.001Z",
            "2026-05-01T00:00:05.001000000Z is not covered; the last point before is \
             2026-05-01T00:00:05.000000000Z (@5), the first after 2026-05-01T00:00:07.000000000Z (@7)",
        ),
        ("-91s", "-91000ms is not covered; the last point is 2026-05-01T00:00:08.000000000Z (@8)"),
        (
            "2026-05-01T00:01:41Z",
            "2026-05-01T00:01:41.000000000Z lies in the future: it is 2026-05-01T00:01:40.000000000Z now",
        ),
        ("bookmark:before Update", "there is no bookmark `before Update`; there are `before upgrade`"),
    ];
    for (point, refusal) in refusals {
        assert_eq!(resolved(&history, point), Err(refusal.to_owned()), "{point}");
    }
}

#[test]
fn nothing_is_mountable_before_an_image_is_complete() {
    let source = new_source(&SimDisk::new(1));
    let mut life = Life::begin(&source, &Arc::new(SimClock::new(START)));
    life.record(&declare_root());
    life.seal();
    let history = source.history(&cache()).unwrap();
    assert_eq!(
        resolved(&history, "latest"),
        Err("nothing can be mounted yet: no initial image is complete and sealed".to_owned())
    );
}

#[test]
fn a_point_behind_what_is_sealed_asks_for_sealing() {
    let source = new_source(&SimDisk::new(1));
    short_history(&source, &Arc::new(SimClock::new(START)));
    let history = source.history(&cache()).unwrap();
    let asks =
        |text: &str| history.may_need_seal(&text.parse().expect("a point"), second(100), &TimeZone::UTC);
    for (point, expected) in [
        ("latest", true),
        ("@8", false),
        ("@9", true),
        ("bookmark:before upgrade", false),
        ("bookmark:now", true),
        ("-93s", false),
        ("-92s", true),
        ("-1s", true),
        ("2026-05-02T00:00:00Z", false),
    ] {
        assert_eq!(asks(point), expected, "{point}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn names_at_any_position_are_what_the_changes_led_to(seed: u64) {
        let disk = SimDisk::new(seed);
        let source = new_source(&disk);
        let clock = Arc::new(SimClock::new(START));
        let mut chances = Chances::new(seed);
        let mut replay = Replay::default();
        let mut life = Life::begin(&source, &clock);
        for _ in 0..200 {
            if chances.random.chance(1, 12) {
                life.seal();
            }
            if chances.random.chance(1, 40) {
                drop(life.log);
                drop(life.seat);
                life = Life::begin(&source, &clock);
                // What was not sealed was not synced either, but a kill of the process loses nothing written.
                let kept = life.seat.history.end();
                replay.changes.retain(|(position, _)| *position <= kept);
                prop_assert_eq!(&life.seat.namespace, &replay.at(kept));
                chances.go_on_from(&life.seat.namespace);
            }
            let change = chances.draw();
            replay.changes.push((life.record(&change), change));
        }
        life.seal();
        let history = source.history(&cache()).unwrap();
        prop_assert!(!history.snapshots().is_empty());
        for (position, _) in &replay.changes {
            prop_assert_eq!(history.namespace_at(*position).unwrap(), replay.at(*position), "{}", position);
        }
        prop_assert_eq!(history.namespace_at(Position::ZERO).unwrap(), Namespace::new());
        let report = source.repository().verify(None, 2, &|_| {}).unwrap();
        prop_assert_eq!(report.damages, []);
    }
}
