//! What a user asks for, as text: `latest`, a time, `-10m`, `@position`, `bookmark:NAME`.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;

use super::{Position, Time};

/// A moment a user named. The repository resolves it to a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// The last mountable position.
    Latest,
    Position(Position),
    /// RFC 3339 with an offset.
    Time(Time),
    /// A date and time without an offset, read in the source's zone.
    LocalTime(jiff::civil::DateTime),
    /// This many nanoseconds before now.
    Before(u64),
    Bookmark(String),
}

/// Why text is not a point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a point: write `latest`, a time such as `2026-05-01T03:00:00Z` or `2026-05-01 03:00:00`, `-10m`, `@1234` or `bookmark:NAME`"
)]
pub struct ParsePointError {
    pub text: String,
}

impl FromStr for Point {
    type Err = ParsePointError;

    fn from_str(text: &str) -> Result<Point, ParsePointError> {
        let error = || ParsePointError { text: text.to_owned() };
        if text == "latest" {
            return Ok(Point::Latest);
        }
        if let Some(position) = text.strip_prefix('@') {
            return Ok(Point::Position(Position(position.parse().map_err(|_| error())?)));
        }
        if let Some(name) = text.strip_prefix("bookmark:") {
            return if name.is_empty() { Err(error()) } else { Ok(Point::Bookmark(name.to_owned())) };
        }
        if let Some(ago) = text.strip_prefix('-') {
            return parse_duration(ago).map(Point::Before).ok_or_else(error);
        }
        if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
            return i64::try_from(timestamp.as_nanosecond())
                .map(|ns| Point::Time(Time(ns)))
                .map_err(|_| error());
        }
        text.parse::<jiff::civil::DateTime>().map(Point::LocalTime).map_err(|_| error())
    }
}

/// `90s`, `10m`, `2h`, `1d`, or several such as `1h30m`, in nanoseconds.
fn parse_duration(text: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit_len = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        let unit = match &rest[digits..digits + unit_len] {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + unit_len..];
    }
    (!text.is_empty()).then_some(total)
}

impl Point {
    /// The instant this point names if it names one by the clock; `now` and `zone` are the asker's.
    ///
    /// A local time that the zone skips or repeats takes the offset before the transition.
    #[must_use]
    pub fn instant(&self, now: Time, zone: &TimeZone) -> Option<Time> {
        match self {
            Point::Time(time) => Some(*time),
            Point::Before(ago_ns) => {
                Some(Time(now.0.saturating_sub(i64::try_from(*ago_ns).unwrap_or(i64::MAX))))
            }
            Point::LocalTime(local) => {
                let timestamp = zone.to_ambiguous_timestamp(*local).earlier().ok()?;
                i64::try_from(timestamp.as_nanosecond()).ok().map(Time)
            }
            Point::Latest | Point::Position(_) | Point::Bookmark(_) => None,
        }
    }
}

/// The text that parses to the same point.
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::Latest => write!(f, "latest"),
            Point::Position(position) => write!(f, "{position}"),
            Point::Time(time) => write!(f, "{time}"),
            Point::LocalTime(local) => write!(f, "{local}"),
            Point::Before(ago_ns) => write!(f, "-{}ms", ago_ns / 1_000_000),
            Point::Bookmark(name) => write!(f, "bookmark:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        assert_eq!("latest".parse(), Ok(Point::Latest));
        assert_eq!("@17".parse(), Ok(Point::Position(Position(17))));
        assert_eq!("-1h30m".parse(), Ok(Point::Before(5_400_000_000_000)));
        assert_eq!("bookmark:before upgrade".parse(), Ok(Point::Bookmark("before upgrade".into())));
        assert_eq!("1970-01-01T01:00:01+01:00".parse(), Ok(Point::Time(Time(1_000_000_000))));
        assert!(matches!("2026-05-01 03:00:00".parse(), Ok(Point::LocalTime(_))));
        for wrong in ["", "@", "@x", "-", "-10", "-10y", "bookmark:", "yesterday", "2026-13-01T00:00:00Z"] {
            assert!(wrong.parse::<Point>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_local_time_is_read_in_the_zone_given() {
        let point: Point = "2026-05-01 03:00:00".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(8));
        let expected: Point = "2026-04-30T19:00:00Z".parse().unwrap();
        assert_eq!(point.instant(Time(0), &zone), expected.instant(Time(0), &TimeZone::UTC));
    }
}
