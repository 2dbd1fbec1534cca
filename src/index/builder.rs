//! Collects the versions of one segment in memory and encodes them as an index.

use super::{IndexRoot, Location};
use crate::types::{FileId, Position, Time};

/// The blocks of an index and what must be kept to read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedIndex {
    /// Whole blocks.
    pub bytes: Vec<u8>,
    pub root: IndexRoot,
}

/// Collects versions in the order of their positions. Memory grows with the number of calls.
///
/// At one position, pages win over zeros whichever came first, and a later page over an earlier one.
#[derive(Debug, Default)]
pub struct IndexBuilder {}

impl IndexBuilder {
    #[must_use]
    pub fn new() -> IndexBuilder {
        IndexBuilder::default()
    }

    /// Pages `first_page .. first_page + count` are those of the record at `location`, in order.
    pub fn add_pages(
        &mut self,
        _position: Position,
        _file: FileId,
        _first_page: u64,
        _count: u64,
        _location: Location,
    ) {
        panic!("not written yet");
    }

    /// Pages `first_page .. end_page` read as zeros; [`super::END_OF_FILE`] as the end means all that follow.
    pub fn add_zero(&mut self, _position: Position, _file: FileId, _first_page: u64, _end_page: u64) {
        panic!("not written yet");
    }

    /// The file has `size` bytes; without `mtime` its modification time stays.
    pub fn add_size(&mut self, _position: Position, _file: FileId, _size: u64, _mtime: Option<Time>) {
        panic!("not written yet");
    }

    /// Bytes that [`IndexBuilder::finish`] gives at the most; for reserving room.
    #[must_use]
    pub fn len_bytes_max(&self) -> u64 {
        panic!("not written yet");
    }

    /// Encodes everything added. `seed` binds the blocks' checksums to the object that will hold them; the
    /// same must be given to read them.
    #[must_use]
    pub fn finish(self, _seed: u64) -> EncodedIndex {
        panic!("not written yet");
    }
}
