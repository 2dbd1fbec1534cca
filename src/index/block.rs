//! One block: up to some hundred rows, stored by columns, each column as small differences from its least value.
//!
//! `docs/disk-format.md` draws the bytes. Rows of every kind begin with a key of three columns and lie in
//! ascending order of it. A block is checked whole when it is read: after that no access can fail.

use super::{BLOCK_BYTES, END_OF_FILE};

const MAGIC: u32 = u32::from_le_bytes(*b"PGIX");
const HEADER_BYTES: usize = 16;
const COLUMN_HEADER_BYTES: usize = 9;
/// Rows of every kind have at most this many columns.
pub(super) const COLUMNS_MAX: usize = 7;
/// So that eight bytes and a ninth can be read at any bit of a block.
const SLACK_BYTES: usize = 16;

/// Columns of the key, in every kind of block.
pub(super) const FILE: usize = 0;
pub(super) const PAGE: usize = 1;
pub(super) const POSITION: usize = 2;
/// Column of a fence.
pub(super) const CHILD: usize = 3;
/// Columns of a page leaf. A count of 0 means to the end of the file, a length of 0 zeros.
pub(super) const COUNT: usize = 3;
pub(super) const LEN: usize = 4;
pub(super) const OFFSET: usize = 5;
pub(super) const PAGE_IN_RECORD: usize = 6;
/// Columns of a size leaf; the time is meant only if `HAS_MTIME` is 1.
pub(super) const SIZE: usize = 3;
pub(super) const HAS_MTIME: usize = 4;
pub(super) const MTIME: usize = 5;

/// What the leaves of a tree hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Pages = 1,
    Sizes = 2,
}

impl Kind {
    pub fn column_count(self, level: u8) -> usize {
        match (level, self) {
            (0, Kind::Pages) => 7,
            (0, Kind::Sizes) => 6,
            _ => 4,
        }
    }
}

/// Bits for the columns' values in a block.
pub(super) fn capacity_bits(column_count: usize) -> usize {
    (BLOCK_BYTES - HEADER_BYTES - COLUMN_HEADER_BYTES * column_count) * 8
}

/// Bits that tell apart the numbers `0..=largest`.
pub(super) fn bits_of(largest: u64) -> u32 {
    u64::BITS - largest.leading_zeros()
}

/// The order of rows: files ascending, pages ascending, positions descending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub file: u64,
    pub page: u64,
    pub position: u64,
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> std::cmp::Ordering {
        (self.file, self.page, other.position).cmp(&(other.file, other.page, self.position))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A row before it is packed. Values of the columns in `ignored` (a bit mask) need not come back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    pub values: [u64; COLUMNS_MAX],
    pub ignored: u8,
}

impl Row {
    pub fn key(&self) -> Key {
        Key { file: self.values[FILE], page: self.values[PAGE], position: self.values[POSITION] }
    }
}

/// Gathers the rows of one block until it is full.
pub(super) struct BlockPacker {
    kind: Kind,
    level: u8,
    rows: Vec<Row>,
    least: [u64; COLUMNS_MAX],
    greatest: [u64; COLUMNS_MAX],
}

impl BlockPacker {
    pub fn new(kind: Kind, level: u8) -> BlockPacker {
        BlockPacker {
            kind,
            level,
            rows: Vec::new(),
            least: [u64::MAX; COLUMNS_MAX],
            greatest: [0; COLUMNS_MAX],
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The key of the first row, as the fence above holds it.
    pub fn first_key(&self) -> Option<Key> {
        self.rows.first().map(Row::key)
    }

    /// Adds a row if there is room; an empty block has room for any.
    #[must_use]
    pub fn try_push(&mut self, row: Row) -> bool {
        debug_assert!(self.rows.last().is_none_or(|last| last.key() < row.key()), "rows come in order");
        let columns = self.kind.column_count(self.level);
        let (mut least, mut greatest) = (self.least, self.greatest);
        let mut row_bits = 0;
        for column in 0..columns {
            if row.ignored & 1 << column == 0 {
                least[column] = least[column].min(row.values[column]);
                greatest[column] = greatest[column].max(row.values[column]);
            }
            row_bits += bits_of(greatest[column].saturating_sub(least[column])) as usize;
        }
        if row_bits * (self.rows.len() + 1) > capacity_bits(columns)
            || self.rows.len() == usize::from(u16::MAX)
        {
            return false;
        }
        (self.least, self.greatest) = (least, greatest);
        self.rows.push(row);
        true
    }

    /// Appends the block to `out` as the block with this number, and is empty again.
    pub fn pack(&mut self, seed: u64, number: u32, out: &mut Vec<u8>) {
        let columns = self.kind.column_count(self.level);
        let mut block = vec![0u8; BLOCK_BYTES + SLACK_BYTES];
        block[4..8].copy_from_slice(&MAGIC.to_le_bytes());
        block[8..12].copy_from_slice(&number.to_le_bytes());
        block[12] = self.kind as u8;
        block[13] = self.level;
        block[14..16].copy_from_slice(&(self.rows.len() as u16).to_le_bytes());
        let mut bit = (HEADER_BYTES + columns * COLUMN_HEADER_BYTES) * 8;
        for column in 0..columns {
            // A column whose every value is ignored has no least value.
            let base = if self.least[column] > self.greatest[column] { 0 } else { self.least[column] };
            let width = bits_of(self.greatest[column].saturating_sub(base));
            let at = HEADER_BYTES + column * COLUMN_HEADER_BYTES;
            block[at..at + 8].copy_from_slice(&base.to_le_bytes());
            block[at + 8] = width as u8;
            for row in &self.rows {
                if row.ignored & 1 << column == 0 {
                    put_bits(&mut block, bit, row.values[column] - base);
                }
                bit += width as usize;
            }
        }
        let checksum = checksum(seed, number, &block[4..BLOCK_BYTES]);
        block[..4].copy_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(&block[..BLOCK_BYTES]);
        *self = BlockPacker::new(self.kind, self.level);
    }
}

/// Sets bits that are still zero. `block` has slack for nine bytes at any bit.
fn put_bits(block: &mut [u8], bit: usize, value: u64) {
    let shifted = u128::from(value) << (bit % 8);
    for (byte, part) in block[bit / 8..].iter_mut().zip(shifted.to_le_bytes()).take(9) {
        *byte |= part;
    }
}

/// CRC32C of a block's bytes after the checksum, bound to the object by `seed` and to the place by `number`.
pub(super) fn checksum(seed: u64, number: u32, bytes: &[u8]) -> u32 {
    let bound = crc32c::crc32c_append(crc32c::crc32c(&seed.to_le_bytes()), &number.to_le_bytes());
    crc32c::crc32c_append(bound, bytes)
}

#[derive(Clone, Copy, Debug, Default)]
struct Column {
    base: u64,
    width: u32,
    first_bit: usize,
}

/// A checked block. Every row can be read; keys ascend; ranges of pages within are equal or disjoint.
pub(super) struct Block {
    bytes: Box<[u8; BLOCK_BYTES + SLACK_BYTES]>,
    pub kind: Kind,
    pub level: u8,
    row_count: usize,
    columns: [Column; COLUMNS_MAX],
}

impl Block {
    /// Memory that a block takes.
    pub const HELD_BYTES: usize = BLOCK_BYTES + SLACK_BYTES + size_of::<Block>() + 2 * size_of::<usize>();

    /// Reads a block through `fill` and checks all of it. The inner error says what is wrong with the bytes.
    pub fn read<E>(
        seed: u64,
        number: u32,
        fill: impl FnOnce(&mut [u8; BLOCK_BYTES]) -> Result<(), E>,
    ) -> Result<Result<Block, &'static str>, E> {
        let mut bytes = Box::new([0u8; BLOCK_BYTES + SLACK_BYTES]);
        if let Some(content) = bytes.first_chunk_mut() {
            fill(content)?;
        }
        Ok(Block::check(seed, number, bytes))
    }

    fn check(
        seed: u64,
        number: u32,
        bytes: Box<[u8; BLOCK_BYTES + SLACK_BYTES]>,
    ) -> Result<Block, &'static str> {
        if bytes[..4] != checksum(seed, number, &bytes[4..BLOCK_BYTES]).to_le_bytes() {
            return Err("its checksum does not match");
        }
        if bytes[4..8] != MAGIC.to_le_bytes() || bytes[8..12] != number.to_le_bytes() {
            return Err("it is not this block of an index");
        }
        let kind = match bytes[12] {
            1 => Kind::Pages,
            2 => Kind::Sizes,
            _ => return Err("its kind is unknown"),
        };
        let level = bytes[13];
        let row_count = usize::from(u16::from_le_bytes([bytes[14], bytes[15]]));
        let column_count = kind.column_count(level);
        let mut block = Block { bytes, kind, level, row_count, columns: [Column::default(); COLUMNS_MAX] };
        let mut bit = (HEADER_BYTES + column_count * COLUMN_HEADER_BYTES) * 8;
        for column in 0..column_count {
            let at = HEADER_BYTES + column * COLUMN_HEADER_BYTES;
            let mut base = [0; 8];
            base.copy_from_slice(&block.bytes[at..at + 8]);
            let width = u32::from(block.bytes[at + 8]);
            block.columns[column] = Column { base: u64::from_le_bytes(base), width, first_bit: bit };
            bit = bit.saturating_add(row_count * width as usize);
            if width > u64::BITS || bit > BLOCK_BYTES * 8 {
                return Err("its columns do not fit");
            }
        }
        block.check_rows()?;
        Ok(block)
    }

    fn check_rows(&self) -> Result<(), &'static str> {
        if self.row_count == 0 {
            return Err("it is empty");
        }
        for row in 0..self.row_count {
            let key = self.key(row);
            let previous = row.checked_sub(1).map(|previous| (previous, self.key(previous)));
            if previous.is_some_and(|(_, previous)| previous >= key) {
                return Err("its rows are out of order");
            }
            if self.kind != Kind::Pages || self.level != 0 {
                continue;
            }
            let end = self.end_page(row);
            let disjoint = previous.is_none_or(|(previous_row, previous)| {
                let previous_end = self.end_page(previous_row);
                previous.file != key.file
                    || previous_end <= key.page
                    || (previous.page == key.page && previous_end == end)
            });
            let count = self.value(COUNT, row);
            let count_fits = count == 0 || key.page.checked_add(count).is_some();
            let len = self.value(LEN, row);
            let record_fits = u32::try_from(len).is_ok()
                && (len == 0
                    || (u32::try_from(self.value(PAGE_IN_RECORD, row)).is_ok()
                        && self.value(OFFSET, row).checked_add(len).is_some()));
            if !disjoint || !count_fits || !record_fits || key.page == END_OF_FILE {
                return Err("its rows contradict each other");
            }
        }
        Ok(())
    }

    pub fn row_count(&self) -> usize {
        self.row_count
    }

    /// The value of a column. `column` is one of this kind's, `row < row_count()`.
    pub fn value(&self, column: usize, row: usize) -> u64 {
        debug_assert!(row < self.row_count, "row {row} of {}", self.row_count);
        let Column { base, width, first_bit } = self.columns[column];
        if width == 0 {
            return base;
        }
        let bit = first_bit + row * width as usize;
        let mut window = [0u8; 16];
        window[..9].copy_from_slice(&self.bytes[bit / 8..bit / 8 + 9]);
        let value = (u128::from_le_bytes(window) >> (bit % 8)) as u64;
        let mask = u64::MAX >> (u64::BITS - width);
        // Wrapping only for bytes that no encoder wrote; the order of rows then betrays them or they are as good as any.
        base.wrapping_add(value & mask)
    }

    pub fn key(&self, row: usize) -> Key {
        Key { file: self.value(FILE, row), page: self.value(PAGE, row), position: self.value(POSITION, row) }
    }

    /// Exclusive end of a range of pages; for a page leaf.
    pub fn end_page(&self, row: usize) -> u64 {
        match self.value(COUNT, row) {
            0 => END_OF_FILE,
            count => self.value(PAGE, row).saturating_add(count),
        }
    }

    /// The first row whose key is `target` or after it; `row_count()` if there is none.
    pub fn first_at_or_after(&self, target: Key) -> usize {
        let (mut low, mut high) = (0, self.row_count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < target {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The last row whose key is `target` or before it; the first row if there is none.
    pub fn last_at_or_before(&self, target: Key) -> usize {
        let row = self.first_at_or_after(target);
        if row < self.row_count && self.key(row) == target { row } else { row.saturating_sub(1) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(seed: u64, number: u32, bytes: &[u8]) -> Result<Block, &'static str> {
        Block::read(seed, number, |into| {
            into.copy_from_slice(bytes);
            Ok::<(), ()>(())
        })
        .expect("reading memory does not fail")
    }

    fn row(file: u64, page: u64, position: u64, rest: [u64; 4], ignored: u8) -> Row {
        Row { values: [file, page, position, rest[0], rest[1], rest[2], rest[3]], ignored }
    }

    proptest! {
        #[test]
        fn packed_rows_come_back(
            shifts in prop::array::uniform7(0u32..64),
            raw in prop::collection::vec((any::<[u64; 7]>(), 0u8..128), 1..300),
        ) {
            let mut rows: Vec<Row> = raw
                .into_iter()
                .map(|(values, ignored)| Row {
                    values: std::array::from_fn(|column| values[column] >> shifts[column]),
                    ignored: ignored & 0b111_1000,
                })
                .collect();
            rows.sort_by_key(Row::key);
            rows.dedup_by_key(|row| row.key());
            // Level 1 of seven columns does not exist; a size leaf has six and no rules beyond the order.
            let mut packer = BlockPacker::new(Kind::Sizes, 0);
            let mut packed = Vec::new();
            for row in rows {
                if !packer.try_push(row) {
                    break;
                }
                packed.push(row);
            }
            let mut bytes = Vec::new();
            packer.pack(7, 3, &mut bytes);
            prop_assert_eq!(bytes.len(), BLOCK_BYTES);
            let block = read(7, 3, &bytes).unwrap();
            prop_assert_eq!(block.row_count(), packed.len());
            for (at, row) in packed.iter().enumerate() {
                for column in 0..6 {
                    if row.ignored & 1 << column == 0 {
                        prop_assert_eq!(block.value(column, at), row.values[column]);
                    }
                }
                prop_assert_eq!(block.first_at_or_after(row.key()), at);
                prop_assert_eq!(block.last_at_or_before(row.key()), at);
            }
        }

        #[test]
        fn arbitrary_bytes_with_a_right_checksum_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), BLOCK_BYTES),
            kind in 0u8..4,
            level in 0u8..3,
            rows in 0u16..700,
            widths in prop::array::uniform7(0u8..70),
            target: (u64, u64, u64),
        ) {
            bytes[4..8].copy_from_slice(&MAGIC.to_le_bytes());
            bytes[8..12].copy_from_slice(&3u32.to_le_bytes());
            bytes[12] = kind;
            bytes[13] = level;
            bytes[14..16].copy_from_slice(&rows.to_le_bytes());
            for (column, width) in widths.into_iter().enumerate() {
                bytes[HEADER_BYTES + column * COLUMN_HEADER_BYTES + 8] = width % 24;
            }
            let sum = checksum(7, 3, &bytes[4..]);
            bytes[..4].copy_from_slice(&sum.to_le_bytes());
            if let Ok(block) = read(7, 3, &bytes) {
                let target = Key { file: target.0, page: target.1, position: target.2 };
                prop_assert!(block.first_at_or_after(target) <= block.row_count());
                prop_assert!(block.last_at_or_before(target) < block.row_count());
            }
        }
    }

    #[test]
    fn a_block_of_another_object_or_place_is_refused() {
        let mut packer = BlockPacker::new(Kind::Pages, 0);
        assert!(packer.try_push(row(1, 2, 3, [1, 100, 4096, 0], 0)));
        let mut bytes = Vec::new();
        packer.pack(7, 3, &mut bytes);
        assert!(read(7, 3, &bytes).is_ok());
        assert!(read(8, 3, &bytes).is_err());
        assert!(read(7, 4, &bytes).is_err());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut packer = BlockPacker::new(Kind::Pages, 0);
        for page in 0..100 {
            assert!(packer.try_push(row(1, page, 3, [1, 100, 4096 * page, 0], 0)));
        }
        let mut bytes = Vec::new();
        packer.pack(7, 3, &mut bytes);
        for bit in 0..BLOCK_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(7, 3, &bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(read(7, 3, &bytes).is_ok());
    }
}
