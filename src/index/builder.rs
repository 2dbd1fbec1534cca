//! Collects the versions of one segment in memory and encodes them as an index.

use super::block::{self, Kind, Row, bits_of, capacity_bits};
use super::fragments::{Event, Fragment, fragments};
use super::tree::{BlockSink, TreeWriter};
use super::{BLOCK_BYTES, END_OF_FILE, IndexRoot, Location};
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
pub struct IndexBuilder {
    events: Vec<(u64, Event)>,
    sizes: Vec<Size>,
    bounds: Bounds,
}

#[derive(Clone, Copy, Debug)]
struct Size {
    file: u64,
    position: u64,
    size: u64,
    mtime: Option<Time>,
}

impl IndexBuilder {
    #[must_use]
    pub fn new() -> IndexBuilder {
        IndexBuilder::default()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.sizes.is_empty()
    }

    /// Pages `first_page .. first_page + count` are those of the record at `location`, in order. A record
    /// has at least one page and fewer than 2³².
    pub fn add_pages(
        &mut self,
        position: Position,
        file: FileId,
        first_page: u64,
        count: u64,
        location: Location,
    ) {
        assert!(count > 0 && u32::try_from(count).is_ok(), "a record has 1 to 2³² - 1 pages, not {count}");
        assert!(location.len_bytes > 0, "a record has bytes");
        let end_page =
            first_page.checked_add(count).filter(|&end| end != END_OF_FILE).expect("pages end below 2⁶⁴ - 1");
        let event = Event { position: position.0, first_page, end_page, record: Some(location) };
        self.bounds.add_event(file.0, &event);
        self.events.push((file.0, event));
    }

    /// Pages `first_page .. end_page` read as zeros; [`super::END_OF_FILE`] as the end means all that follow.
    pub fn add_zero(&mut self, position: Position, file: FileId, first_page: u64, end_page: u64) {
        if first_page < end_page {
            let event = Event { position: position.0, first_page, end_page, record: None };
            self.bounds.add_event(file.0, &event);
            self.events.push((file.0, event));
        }
    }

    /// The file has `size` bytes; without `mtime` its modification time stays.
    ///
    /// Only the newest version is ever asked for, so one without a time keeps the time of the one before it.
    /// If its size is no other either, it says nothing and is left out: an attribute change that came between
    /// may have set another time.
    pub fn add_size(&mut self, position: Position, file: FileId, size: u64, mtime: Option<Time>) {
        let size = Size { file: file.0, position: position.0, size, mtime };
        self.bounds.add_size(&size);
        self.sizes.push(size);
    }

    /// Memory in use. [`IndexBuilder::finish`] needs about as much again for the largest file.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.events.capacity() * size_of::<(u64, Event)>() + self.sizes.capacity() * size_of::<Size>()
    }

    /// Bytes that [`IndexBuilder::finish`] gives at the most; for reserving room. Seldom reached by half.
    #[must_use]
    pub fn len_bytes_max(&self) -> u64 {
        self.bounds.len_bytes_max()
    }

    /// Encodes everything added. `seed` binds the blocks' checksums to the object that will hold them; the
    /// same must be given to read them.
    #[must_use]
    pub fn finish(mut self, seed: u64) -> EncodedIndex {
        let mut sink = BlockSink { seed, bytes: Vec::new(), block_count: 0 };
        // Stable, so that of equal ones the last added stays last and wins.
        self.events.sort_by_key(|(file, event)| (*file, event.position, event.record.is_some()));
        let mut pages = TreeWriter::new(&mut sink, Kind::Pages);
        for of_file in self.events.chunk_by(|one, other| one.0 == other.0) {
            let file = of_file[0].0;
            let events: Vec<Event> = of_file.iter().map(|(_, event)| *event).collect();
            fragments(&events, |fragment| push_fragment(&mut pages, file, fragment));
        }
        let pages = pages.finish();
        let mut sizes = TreeWriter::new(&mut sink, Kind::Sizes);
        for size in size_versions(self.sizes) {
            sizes.push(size_row(&size));
        }
        let sizes = sizes.finish();
        EncodedIndex { root: IndexRoot { block_count: sink.block_count, pages, sizes }, bytes: sink.bytes }
    }
}

fn push_fragment(pages: &mut TreeWriter<'_>, file: u64, fragment: &Fragment) {
    for version in &fragment.versions {
        let mut row = Row::default();
        row.values[block::FILE] = file;
        row.values[block::PAGE] = fragment.first_page;
        row.values[block::POSITION] = version.position;
        if fragment.end_page != END_OF_FILE {
            row.values[block::COUNT] = fragment.end_page - fragment.first_page;
        }
        if let Some((location, page_in_record)) = version.record {
            row.values[block::LEN] = u64::from(location.len_bytes);
            row.values[block::OFFSET] = location.offset_bytes;
            row.values[block::PAGE_IN_RECORD] = u64::from(page_in_record);
        } else {
            row.ignored = 1 << block::OFFSET | 1 << block::PAGE_IN_RECORD;
        }
        pages.push(row);
    }
}

/// What is stored of `sizes`: files ascending, positions descending, each with the newest time up to it.
fn size_versions(mut sizes: Vec<Size>) -> Vec<Size> {
    // Stable, so that of equal ones the last added stays last and wins.
    sizes.sort_by_key(|size| (size.file, size.position));
    let mut versions: Vec<Size> = Vec::with_capacity(sizes.len());
    for at_one_position in
        sizes.chunk_by(|one, other| (one.file, one.position) == (other.file, other.position))
    {
        let mut size = at_one_position[at_one_position.len() - 1];
        if let (None, Some(before)) = (size.mtime, versions.last().filter(|before| before.file == size.file))
        {
            if before.size == size.size {
                continue;
            }
            size.mtime = before.mtime;
        }
        versions.push(size);
    }
    versions.sort_by_key(|size| (size.file, std::cmp::Reverse(size.position)));
    versions
}

fn size_row(size: &Size) -> Row {
    let mut row = Row::default();
    row.values[block::FILE] = size.file;
    row.values[block::POSITION] = size.position;
    row.values[block::SIZE] = size.size;
    if let Some(mtime) = size.mtime {
        row.values[block::HAS_MTIME] = 1;
        row.values[block::MTIME] = ordered_from_time(mtime);
    } else {
        row.ignored = 1 << block::MTIME;
    }
    row
}

/// Times as unsigned numbers in the same order, so that close times differ by small numbers.
pub(super) fn ordered_from_time(time: Time) -> u64 {
    time.0 as u64 ^ 1 << 63
}

/// The inverse of [`ordered_from_time`].
pub(super) fn time_from_ordered(ordered: u64) -> Time {
    Time((ordered ^ 1 << 63) as i64)
}

/// What limits the size of the encoded index.
#[derive(Debug, Default)]
struct Bounds {
    records: u64,
    zeros: u64,
    record_pages: u64,
    sizes: u64,
    page_columns: ColumnRanges,
    size_columns: ColumnRanges,
}

/// The least and the greatest value of each column.
#[derive(Debug, Default)]
struct ColumnRanges([Option<(u64, u64)>; block::COLUMNS_MAX]);

impl ColumnRanges {
    fn add(&mut self, column: usize, value: u64) {
        let (least, greatest) = self.0[column].unwrap_or((value, value));
        self.0[column] = Some((least.min(value), greatest.max(value)));
    }

    /// Bits that a row takes at the most.
    fn row_bits(&self) -> usize {
        self.0.iter().flatten().map(|(least, greatest)| bits_of(greatest - least) as usize).sum()
    }
}

impl Bounds {
    fn add_event(&mut self, file: u64, event: &Event) {
        let columns = &mut self.page_columns;
        columns.add(block::FILE, file);
        columns.add(block::POSITION, event.position);
        // Ranges are cut, so a page may come to begin where another range ends, and a count be as large as
        // the distance of the outermost pages.
        columns.add(block::PAGE, event.first_page);
        columns
            .add(block::PAGE, if event.end_page == END_OF_FILE { event.first_page } else { event.end_page });
        let pages = columns.0[block::PAGE].map_or(0, |(least, greatest)| greatest - least);
        columns.add(block::COUNT, 0);
        columns.add(block::COUNT, pages);
        columns.add(block::LEN, 0);
        if let Some(location) = event.record {
            let count = event.end_page - event.first_page;
            columns.add(block::LEN, u64::from(location.len_bytes));
            columns.add(block::OFFSET, location.offset_bytes);
            columns.add(block::PAGE_IN_RECORD, 0);
            columns.add(block::PAGE_IN_RECORD, count);
            self.records += 1;
            self.record_pages += count;
        } else {
            self.zeros += 1;
        }
    }

    fn add_size(&mut self, size: &Size) {
        self.sizes += 1;
        let columns = &mut self.size_columns;
        columns.add(block::FILE, size.file);
        columns.add(block::POSITION, size.position);
        columns.add(block::SIZE, size.size);
        columns.add(block::HAS_MTIME, u64::from(size.mtime.is_some()));
        if let Some(mtime) = size.mtime {
            columns.add(block::MTIME, ordered_from_time(mtime));
        }
    }

    fn len_bytes_max(&self) -> u64 {
        // A record's page makes one row, and one more if a zero follows it; a range makes one more if it
        // begins with a zero, and every record and zero adds at most two ranges.
        let zero_rows =
            if self.zeros == 0 { 0 } else { 2 * self.record_pages + 2 * (self.records + self.zeros) };
        let pages = blocks_max(self.record_pages + zero_rows, self.page_columns.row_bits(), Kind::Pages);
        let sizes = blocks_max(self.sizes, self.size_columns.row_bits(), Kind::Sizes);
        (pages + sizes) * BLOCK_BYTES as u64
    }
}

/// Blocks of a tree with this many rows of at most `row_bits` bits.
fn blocks_max(rows: u64, row_bits: usize, kind: Kind) -> u64 {
    let (mut rows, mut row_bits, mut blocks) = (rows, row_bits, 0);
    for level in 0.. {
        let per_block = (capacity_bits(kind.column_count(level)) / row_bits.max(1)) as u64;
        let here = rows.div_ceil(per_block.max(1));
        blocks += here;
        if here <= 1 {
            break;
        }
        (rows, row_bits) = (here, 3 * u64::BITS as usize + u32::BITS as usize);
    }
    blocks
}
