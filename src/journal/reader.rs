//! Reads a sealed segment: its sections, single records, or all of them in order.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Activity, DamagedPlace, JournalError, JournalIdentity, MarkAt, NamesAt, SegmentId, SegmentSummary,
    TimeTable,
};
use crate::index::{BlockCache, Index, Location};
use crate::io::DiskFile;
use crate::types::{FileId, Mark, NamespaceChange, PageRange, Position, Time};

/// The pages of one record, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pages {
    pub file: FileId,
    pub position: Position,
    pub first_page: u64,
    /// Whole pages.
    pub bytes: Bytes,
}

/// A record as stored. A change of data may span several, all with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset_bytes: u64,
    /// Header and payload, without the padding.
    pub len_bytes: u32,
    pub position: Position,
    pub time: Time,
    /// The wall clock had gone back; `time` is not what it showed.
    pub clock_held: bool,
    /// More records of the same change follow.
    pub continues: bool,
    pub body: RecordBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordBody {
    /// Pages get bytes; none means that only size and time change.
    Data {
        file: FileId,
        size_after: u64,
        mtime: Option<Time>,
        first_page: u64,
        bytes: Bytes,
    },
    /// Pages read as zeros. A count that reaches past the last page a file can have is a truncation.
    Zero {
        file: FileId,
        size_after: u64,
        mtime: Option<Time>,
        pages: PageRange,
        cut: bool,
    },
    Names(NamespaceChange),
    Mark(Mark),
    /// Everything up to this position, and all bytes before this offset, were durable when it was written.
    Flush {
        durable_position: Position,
        durable_end_bytes: u64,
    },
}

/// A sealed segment. Reads nothing but its footer when opened; all else on demand.
pub struct SegmentReader {}

impl SegmentReader {
    /// Reads and verifies the footer.
    ///
    /// # Errors
    /// `JournalError::NotSealed` if there is none, `JournalError::Foreign`, `JournalError::NewerVersion`,
    /// `JournalError::Damaged`, `JournalError::Storage`.
    pub fn open(
        _file: Arc<dyn DiskFile>,
        _identity: &JournalIdentity,
        _id: SegmentId,
        _cache: Arc<BlockCache>,
    ) -> Result<SegmentReader, JournalError> {
        panic!("not yet written")
    }

    #[must_use]
    pub fn id(&self) -> SegmentId {
        panic!("not yet written")
    }

    #[must_use]
    pub fn summary(&self) -> &SegmentSummary {
        panic!("not yet written")
    }

    /// Where recovery found damage when it sealed the segment.
    #[must_use]
    pub fn damaged(&self) -> &[DamagedPlace] {
        panic!("not yet written")
    }

    #[must_use]
    pub fn index(&self) -> &Index {
        panic!("not yet written")
    }

    /// The pages of the record that the index found at `location`.
    ///
    /// # Errors
    /// `JournalError::Damaged`, `JournalError::Storage`.
    pub fn read_record(&self, _location: Location) -> Result<Pages, JournalError> {
        panic!("not yet written")
    }

    /// All namespace changes in order. A damaged section is rebuilt from the records.
    ///
    /// # Errors
    /// `JournalError::Damaged` if records that may hold names are damaged too; `JournalError::Storage`.
    pub fn names(&self) -> Result<Vec<NamesAt>, JournalError> {
        panic!("not yet written")
    }

    /// All marks but barriers and heartbeats, in order; rebuilt as names are.
    ///
    /// # Errors
    /// As [`SegmentReader::names`].
    pub fn marks(&self) -> Result<Vec<MarkAt>, JournalError> {
        panic!("not yet written")
    }

    /// # Errors
    /// As [`SegmentReader::names`].
    pub fn times(&self) -> Result<TimeTable, JournalError> {
        panic!("not yet written")
    }

    /// # Errors
    /// As [`SegmentReader::names`].
    pub fn activity(&self) -> Result<Activity, JournalError> {
        panic!("not yet written")
    }

    /// All records in order; damaged stretches come as errors between them.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        panic!("not yet written")
    }

    /// Reads and checks everything: header, records, index, sections, footer.
    ///
    /// # Errors
    /// `JournalError::Storage`; damage is what it returns.
    pub fn verify(&self) -> Result<Vec<DamagedPlace>, JournalError> {
        panic!("not yet written")
    }

    /// BLAKE3 of the whole file as it is now.
    ///
    /// # Errors
    /// `JournalError::Storage`.
    pub fn digest(&self) -> Result<[u8; 32], JournalError> {
        panic!("not yet written")
    }
}

/// The records of a segment in order.
pub struct Records<'a> {
    _reader: &'a SegmentReader,
}

impl Iterator for Records<'_> {
    type Item = Result<Record, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        panic!("not yet written")
    }
}
