//! Positions, times, epochs and file identities: integers that must not be swapped.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The order of a change in its source's journal.
///
/// Dense within an epoch. The first change of a source has position 1; 0 stands before every change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// Before every change.
    pub const ZERO: Position = Position(0);
    /// Above every change that will ever be recorded.
    pub const MAX: Position = Position(u64::MAX);

    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }

    /// The position before this one; `ZERO` has itself.
    #[must_use]
    pub fn previous(self) -> Position {
        Position(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

/// Nanoseconds since 1970-01-01T00:00:00Z, without leap seconds; may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub i64);

impl Time {
    pub const MIN: Time = Time(i64::MIN);
    pub const MAX: Time = Time(i64::MAX);

    /// The time as seconds and the nanoseconds within that second (0 ≤ nanoseconds < 10⁹).
    #[must_use]
    pub fn split(self) -> (i64, u32) {
        (self.0.div_euclid(1_000_000_000), self.0.rem_euclid(1_000_000_000) as u32)
    }

    /// The inverse of [`Time::split`]; saturates outside the years 1677 to 2262.
    #[must_use]
    pub fn join(seconds: i64, nanoseconds: u32) -> Time {
        Time(seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(nanoseconds)))
    }

    /// `self - earlier` in nanoseconds, 0 if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Time) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

/// RFC 3339 in UTC with nanoseconds, as `-o json` prints it.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(timestamp) => write!(f, "{timestamp:.9}"),
            Err(_) => write!(f, "{} ns", self.0),
        }
    }
}

/// One life of a source's writer. Epochs grow; 0 is never used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

/// The identity of a file, directory, link or special file within a source: persistent, never reused.
///
/// Ids from 2⁶³ on belong to overlays and never appear in a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileId(pub u64);

impl FileId {
    /// The directory that holds a source's roots, one entry a root, named by its label. It exists from
    /// position 0 on, in every source.
    pub const SOURCE: FileId = FileId(1);
    /// The first id that an overlay may give.
    pub const OVERLAY_FIRST: FileId = FileId(1 << 63);

    /// Whether an overlay gave this id.
    #[must_use]
    pub fn is_overlay(self) -> bool {
        self >= FileId::OVERLAY_FIRST
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum FileKind {
    Regular = 1,
    Directory = 2,
    Symlink = 3,
    Fifo = 4,
    Socket = 5,
    CharacterDevice = 6,
    BlockDevice = 7,
}

impl FileKind {
    /// The kind with this number in a format.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<FileKind> {
        Some(match number {
            1 => FileKind::Regular,
            2 => FileKind::Directory,
            3 => FileKind::Symlink,
            4 => FileKind::Fifo,
            5 => FileKind::Socket,
            6 => FileKind::CharacterDevice,
            7 => FileKind::BlockDevice,
            _ => return None,
        })
    }
}
