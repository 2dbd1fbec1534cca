//! The index against a naive model: every version of every page in a map.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::types::{Decoder, Encoder};

const SEED: u64 = 0x5eed;
/// Pages that the model looks at; ranges without end reach it.
const PAGES: u64 = 64;

/// An index in memory that counts how often it is read.
struct Memory {
    bytes: Vec<u8>,
    reads: AtomicU64,
}

impl BlockSource for Memory {
    fn read_block(&self, block: u32, into: &mut [u8; BLOCK_BYTES]) -> std::io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let offset = block as usize * BLOCK_BYTES;
        let bytes = self.bytes.get(offset..offset + BLOCK_BYTES);
        into.copy_from_slice(bytes.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn object(&self) -> String {
        "segment 1-1".into()
    }

    fn offset_bytes(&self, block: u32) -> u64 {
        u64::from(block) * BLOCK_BYTES as u64
    }
}

fn open(encoded: &EncodedIndex, cache: &Arc<BlockCache>) -> (Index, Arc<Memory>) {
    assert_eq!(encoded.bytes.len() as u64, encoded.root.len_bytes());
    let mut out = Encoder::new();
    encoded.root.encode(&mut out);
    let out = out.finish();
    let root = IndexRoot::decode(&mut Decoder::new(&out)).expect("a root comes back");
    assert_eq!(root, encoded.root);
    let memory = Arc::new(Memory { bytes: encoded.bytes.clone(), reads: AtomicU64::new(0) });
    (Index::new(memory.clone(), root, SEED, Arc::clone(cache)), memory)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Pages { file: u64, first: u64, count: u64 },
    Zero { file: u64, first: u64, count: u64 },
    Cut { file: u64, first: u64 },
    Size { file: u64, size: u64, mtime: Option<i64> },
}

/// `PITGATE_HISTORIES` asks for more than the usual number.
fn cases(usual: u32) -> ProptestConfig {
    let asked = std::env::var("PITGATE_HISTORIES").ok().and_then(|text| text.parse().ok());
    ProptestConfig::with_cases(asked.map_or(usual, |asked: u32| asked.max(usual)))
}

/// Steps at one position; and how far the next is.
fn steps() -> impl Strategy<Value = Vec<(Vec<Step>, u64)>> {
    let file = 1u64..4;
    let step = prop_oneof![
        6 => (file.clone(), 0..PAGES - 16, 1u64..=16).prop_map(|(file, first, count)| Step::Pages { file, first, count }),
        3 => (file.clone(), 0..8u64, 1u64..3).prop_map(|(file, at, count)| Step::Pages { file, first: at * 2, count }),
        2 => (file.clone(), 0..PAGES - 16, 1u64..=16).prop_map(|(file, first, count)| Step::Zero { file, first, count }),
        1 => (file.clone(), 0..PAGES).prop_map(|(file, first)| Step::Cut { file, first }),
        2 => (file, any::<u64>(), any::<Option<i64>>()).prop_map(|(file, size, mtime)| Step::Size { file, size, mtime }),
    ];
    prop::collection::vec((prop::collection::vec(step, 1..4), 1u64..50), 1..400)
}

/// What one page holds from a position on: record and page in it, or zeros.
type PageContent = Option<(Location, u32)>;

#[derive(Default)]
struct Model {
    pages: BTreeMap<(u64, u64), BTreeMap<u64, PageContent>>,
    sizes: BTreeMap<u64, BTreeMap<u64, (u64, Option<Time>)>>,
    builder: IndexBuilder,
    offset: u64,
}

impl Model {
    fn play(history: &[(Vec<Step>, u64)]) -> (Model, u64) {
        let mut model = Model::default();
        let mut position = 1;
        for (steps, distance) in history {
            for step in steps {
                model.step(position, *step);
            }
            position += distance;
        }
        (model, position)
    }

    fn step(&mut self, position: u64, step: Step) {
        let at = Position(position);
        match step {
            Step::Pages { file, first, count } => {
                let location = Location { offset_bytes: self.offset, len_bytes: 30 + 100 * count as u32 };
                self.offset += u64::from(location.len_bytes);
                self.builder.add_pages(at, FileId(file), first, count, location);
                for page in first..first + count {
                    let content = Some((location, (page - first) as u32));
                    self.pages.entry((file, page)).or_default().insert(position, content);
                }
            }
            Step::Zero { file, first, count } => {
                self.builder.add_zero(at, FileId(file), first, first + count);
                self.zero(file, first, first + count, position);
            }
            Step::Cut { file, first } => {
                self.builder.add_zero(at, FileId(file), first, END_OF_FILE);
                self.zero(file, first, PAGES, position);
            }
            Step::Size { file, size, mtime } => {
                self.builder.add_size(at, FileId(file), size, mtime.map(Time));
                self.sizes.entry(file).or_default().insert(position, (size, mtime.map(Time)));
            }
        }
    }

    fn zero(&mut self, file: u64, first: u64, end: u64, position: u64) {
        for page in first..end {
            self.pages.entry((file, page)).or_default().entry(position).or_insert(None);
        }
    }

    fn page_at(&self, file: u64, page: u64, at: u64) -> Option<PageContent> {
        self.pages.get(&(file, page))?.range(..=at).next_back().map(|(_, content)| *content)
    }

    fn size_at(&self, file: u64, at: u64) -> Option<SizeVersion> {
        let (position, (size, mtime)) = self.sizes.get(&file)?.range(..=at).next_back()?;
        Some(SizeVersion { position: Position(*position), size: *size, mtime: *mtime })
    }
}

/// That a lookup tiles its range and says of every page what the model says.
fn assert_range(model: &Model, index: &Index, file: u64, first: u64, count: u64, at: u64) {
    let mut found = Vec::new();
    index.lookup(FileId(file), first, count, Position(at), &mut found).expect("sound");
    let mut next = first;
    for piece in &found {
        assert_eq!(piece.first_page, next, "pieces follow each other");
        assert!(piece.count > 0);
        next += piece.count;
        for page in piece.first_page..next.min(PAGES) {
            let expected = model.page_at(file, page, at);
            let actual = match piece.content {
                Content::Absent => None,
                Content::Zeros { position } => {
                    assert!(position.0 <= at);
                    Some(None)
                }
                Content::Pages { position, location, page_in_record } => {
                    assert!(position.0 <= at && model.pages[&(file, page)].contains_key(&position.0));
                    Some(Some((location, page_in_record + (page - piece.first_page) as u32)))
                }
            };
            assert_eq!(actual, expected, "file {file} page {page} at {at}");
        }
    }
    assert_eq!(next, first + count);
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn every_page_and_size_at_any_position_is_what_the_model_says(
        history in steps(),
        places in prop::collection::vec((0u64..5, 0..PAGES, 1..PAGES, any::<prop::sample::Index>()), 40),
    ) {
        let (mut model, last) = Model::play(&history);
        let builder = std::mem::take(&mut model.builder);
        let len_bytes_max = builder.len_bytes_max();
        let encoded = builder.finish(SEED);
        prop_assert!(encoded.root.len_bytes() <= len_bytes_max);
        let (index, _) = open(&encoded, &Arc::new(BlockCache::new(1 << 20)));
        prop_assert!(index.verify().is_empty());
        for (file, first, count, at) in places {
            let at = at.index(last as usize + 2) as u64;
            assert_range(&model, &index, file, first, count, at);
            prop_assert_eq!(index.size_at(FileId(file), Position(at)).unwrap(), model.size_at(file, at));
            let sizes: Vec<_> = index.sizes_at(Position(at)).map(Result::unwrap).collect();
            let expected: Vec<_> =
                (0..5).filter_map(|file| Some((FileId(file), model.size_at(file, at)?))).collect();
            prop_assert_eq!(sizes, expected);
        }
        for file in 0..5 {
            assert_range(&model, &index, file, 0, 1 << 40, last);
        }
    }

    #[test]
    fn entries_are_all_versions_in_order(history in steps()) {
        let (mut model, _) = Model::play(&history);
        let encoded = std::mem::take(&mut model.builder).finish(SEED);
        let (index, _) = open(&encoded, &Arc::new(BlockCache::new(1 << 20)));
        let entries: Vec<Entry> = index.entries().map(Result::unwrap).collect();
        prop_assert_eq!(entries.len() as u64, encoded.root.pages.map_or(0, |root| root.rows));
        let in_order = entries.is_sorted_by_key(|entry| {
            (entry.file, entry.first_page, std::cmp::Reverse(entry.position))
        });
        prop_assert!(in_order);
        let mut listed: BTreeMap<(u64, u64), BTreeMap<u64, PageContent>> = BTreeMap::new();
        for entry in &entries {
            for page in entry.first_page..entry.end_page.min(PAGES) {
                let content = entry.record.map(|(location, first)| {
                    (location, first + (page - entry.first_page) as u32)
                });
                listed.entry((entry.file.0, page)).or_default().insert(entry.position.0, content);
            }
        }
        for versions in model.pages.values_mut() {
            let mut after_zero = false;
            versions.retain(|_, content| {
                let repeated = after_zero && content.is_none();
                after_zero = content.is_none();
                !repeated
            });
        }
        prop_assert_eq!(listed, model.pages);
    }

    #[test]
    fn a_flipped_bit_gives_an_error_and_never_another_answer(
        history in steps(),
        flip: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let (mut model, last) = Model::play(&history);
        let mut encoded = std::mem::take(&mut model.builder).finish(SEED);
        let at = flip.index(encoded.bytes.len());
        encoded.bytes[at] ^= 1 << bit;
        let (index, _) = open(&encoded, &Arc::new(BlockCache::new(1 << 20)));
        let damaged = (at / BLOCK_BYTES) as u32;
        let errors = index.verify();
        prop_assert!(matches!(errors.as_slice(), [IndexError::Damaged { block, .. }] if *block == damaged), "{errors:?}");
        for file in 0..5 {
            for page in 0..PAGES {
                let mut found = Vec::new();
                match index.lookup(FileId(file), page, 1, Position(last), &mut found) {
                    Ok(()) => assert_range(&model, &index, file, page, 1, last),
                    Err(IndexError::Damaged { block, object, offset_bytes, .. }) => {
                        prop_assert_eq!((block, object.as_str()), (damaged, "segment 1-1"));
                        prop_assert_eq!(offset_bytes, (at / BLOCK_BYTES * BLOCK_BYTES) as u64);
                    }
                    Err(other) => prop_assert!(false, "{}", other),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(300))]

    /// Bytes that no encoder wrote, under right checksums: any answer or error will do, but there is one.
    #[test]
    fn forged_blocks_neither_panic_nor_loop(
        history in steps(),
        forgeries in prop::collection::vec((any::<prop::sample::Index>(), 4usize..200, any::<u8>()), 1..10),
    ) {
        let (mut model, last) = Model::play(&history);
        let mut encoded = std::mem::take(&mut model.builder).finish(SEED);
        for (block, offset, value) in forgeries {
            let number = block.index(encoded.root.block_count as usize);
            let bytes = &mut encoded.bytes[number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES];
            bytes[offset] = value;
            let sum = block::checksum(SEED, number as u32, &bytes[4..]);
            bytes[..4].copy_from_slice(&sum.to_le_bytes());
        }
        let (index, _) = open(&encoded, &Arc::new(BlockCache::new(1 << 20)));
        let _ = index.verify();
        let mut found = Vec::new();
        for file in 0..5 {
            for at in [1, last / 2, last] {
                let _ = index.lookup(FileId(file), 0, 1 << 40, Position(at), &mut found);
                for page in 0..PAGES {
                    let _ = index.lookup(FileId(file), page, 1, Position(at), &mut found);
                }
                let _ = index.size_at(FileId(file), Position(at));
            }
        }
        let _ = index.sizes_at(Position(last)).count();
        let _ = index.entries().count();
    }
}

/// Files, pages and positions so far apart that blocks hold few rows and fences need fences.
#[test]
fn a_tree_of_three_levels_answers() {
    let mut builder = IndexBuilder::new();
    let spread = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2;
    for number in 1..40_000u64 {
        let location = Location { offset_bytes: spread(number + 3), len_bytes: 1 + number as u32 };
        builder.add_pages(Position(number << 40), FileId(spread(number)), spread(number + 1), 1, location);
        builder.add_size(Position(number << 40), FileId(spread(number)), spread(number + 2), None);
    }
    let len_bytes_max = builder.len_bytes_max();
    let encoded = builder.finish(SEED);
    assert!(encoded.root.len_bytes() <= len_bytes_max);
    let root = encoded.root.pages.expect("pages");
    assert!(root.level >= 2, "{root:?}");
    let (index, _) = open(&encoded, &Arc::new(BlockCache::new(64 << 20)));
    assert_eq!(index.verify().len(), 0);
    for number in 1..40_000u64 {
        let (file, page) = (FileId(spread(number)), spread(number + 1));
        let mut found = Vec::new();
        index.lookup(file, page - 1, 3, Position::MAX, &mut found).expect("sound");
        index.lookup(file, page, 1, Position((number << 40) - 1), &mut found).expect("sound");
        let location = Location { offset_bytes: spread(number + 3), len_bytes: 1 + number as u32 };
        let content = Content::Pages { position: Position(number << 40), location, page_in_record: 0 };
        let contents: Vec<Content> = found.iter().map(|piece| piece.content).collect();
        assert_eq!(contents, [Content::Absent, content, Content::Absent, Content::Absent]);
        let size = index.size_at(file, Position(number << 40)).expect("sound").expect("one");
        assert_eq!(size.size, spread(number + 2));
    }
}

/// Versions of one range of two pages, enough for many leaves, between colder ones.
fn hot_index() -> EncodedIndex {
    let mut builder = IndexBuilder::new();
    builder.add_pages(Position(1), FileId(7), 0, 16, Location { offset_bytes: 4096, len_bytes: 9000 });
    for position in 2..20_002 {
        let location = Location { offset_bytes: position * 3000, len_bytes: 2000 + (position % 1000) as u32 };
        builder.add_pages(Position(position), FileId(7), 8, 2, location);
    }
    builder.add_pages(
        Position(30_000),
        FileId(7),
        10,
        2,
        Location { offset_bytes: 1 << 27, len_bytes: 9000 },
    );
    builder.finish(SEED)
}

#[test]
fn every_version_of_a_hot_page_is_found_with_few_reads() {
    let encoded = hot_index();
    let (index, memory) = open(&encoded, &Arc::new(BlockCache::new(0)));
    let levels = u64::from(encoded.root.pages.expect("pages").level) + 1;
    assert!(encoded.root.block_count > 20, "{:?}", encoded.root);
    for at in (2..20_002).step_by(7).chain([20_001, 25_000]) {
        for page in [8, 9] {
            let before = memory.reads.load(Ordering::Relaxed);
            let mut found = Vec::new();
            index.lookup(FileId(7), page, 1, Position(at), &mut found).expect("sound");
            let expected = at.min(20_001);
            let location =
                Location { offset_bytes: expected * 3000, len_bytes: 2000 + (expected % 1000) as u32 };
            let position = Position(expected);
            let content = Content::Pages { position, location, page_in_record: (page - 8) as u32 };
            assert_eq!(found, [Found { first_page: page, count: 1, content }], "page {page} at {at}");
            let reads = memory.reads.load(Ordering::Relaxed) - before;
            assert!(reads <= 2 * levels, "{reads} reads for page {page} at {at}");
        }
    }
}

#[test]
fn blocks_are_read_once_while_the_budget_holds_them_and_never_more_are_held() {
    let encoded = hot_index();
    let cache = Arc::new(BlockCache::new(10 << 20));
    let (index, memory) = open(&encoded, &cache);
    for _ in 0..2 {
        assert_eq!(index.entries().count() as u64, encoded.root.pages.expect("pages").rows);
    }
    assert_eq!(memory.reads.load(Ordering::Relaxed), u64::from(encoded.root.block_count));
    let statistics = cache.statistics();
    assert_eq!(statistics.misses, u64::from(encoded.root.block_count));
    assert!(statistics.hits >= statistics.misses);

    let small = Arc::new(BlockCache::new(20 * 4096));
    for _ in 0..3 {
        let (index, _) = open(&encoded, &small);
        assert!(index.entries().all(|entry| entry.is_ok()));
        let statistics = small.statistics();
        assert!(statistics.held_bytes <= statistics.budget_bytes, "{statistics:?}");
        assert!(statistics.held_bytes > 0);
    }
}

#[test]
fn a_block_in_the_place_of_another_is_refused() {
    let mut encoded = hot_index();
    let (one, other) = encoded.bytes.split_at_mut(3 * BLOCK_BYTES);
    one[2 * BLOCK_BYTES..].swap_with_slice(&mut other[..BLOCK_BYTES]);
    let (index, _) = open(&encoded, &Arc::new(BlockCache::new(0)));
    assert_eq!(index.verify().len(), 2);
}

#[test]
fn an_index_cut_short_names_the_block_it_lacks() {
    let mut encoded = hot_index();
    let root = encoded.root;
    encoded.bytes.truncate(encoded.bytes.len() - 100);
    let memory = Arc::new(Memory { bytes: encoded.bytes, reads: AtomicU64::new(0) });
    let index = Index::new(memory, root, SEED, Arc::new(BlockCache::new(0)));
    let errors = index.verify();
    assert!(
        matches!(errors.as_slice(), [IndexError::Storage { block, .. }] if *block == root.block_count - 1),
        "{errors:?}"
    );
}

#[test]
fn an_empty_index_answers() {
    let encoded = IndexBuilder::new().finish(SEED);
    assert!(encoded.bytes.is_empty());
    let (index, _) = open(&encoded, &Arc::new(BlockCache::new(0)));
    let mut found = Vec::new();
    index.lookup(FileId(1), 5, 6, Position::MAX, &mut found).expect("sound");
    assert_eq!(found, [Found { first_page: 5, count: 6, content: Content::Absent }]);
    assert_eq!(index.size_at(FileId(1), Position::MAX).expect("sound"), None);
    assert_eq!(index.sizes_at(Position::MAX).count(), 0);
    assert_eq!(index.entries().count(), 0);
    assert!(index.verify().is_empty());
}

#[test]
fn thousands_of_truncations_cost_rows_in_proportion() {
    let mut builder = IndexBuilder::new();
    let mut position = 0;
    for round in 0..1000u64 {
        for page in 0..20 {
            position += 1;
            let location = Location { offset_bytes: position * 1000, len_bytes: 900 };
            builder.add_pages(Position(position), FileId(3), page * 2, 2, location);
        }
        position += 1;
        builder.add_zero(Position(position), FileId(3), round % 30, END_OF_FILE);
    }
    let encoded = builder.finish(SEED);
    let rows = encoded.root.pages.expect("pages").rows;
    assert!(rows <= 21_000 * 3, "{rows} rows");
}

/// The page versions of a minute of pgbench: 8 KiB writes skewed to some pages, appended log, compressed to
/// a quarter; and the size record of each.
#[test]
fn a_page_version_costs_at_most_ten_bytes() {
    let mut builder = IndexBuilder::new();
    let (mut random, mut offset, mut versions, mut wal) = (1u64, 4096u64, 0u64, 0u64);
    for position in 1..100_000u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let len_bytes = 1500 + (random >> 50) as u32 % 2000;
        let skewed = (random >> 33) % 40_000 * ((random >> 20) % 100) / 100;
        let (file, first_page) =
            if position % 3 == 0 { (900, wal) } else { (16_384 + skewed % 4, skewed * 2) };
        wal += u64::from(position % 3 == 0) * 2;
        builder.add_pages(
            Position(position),
            FileId(file),
            first_page,
            2,
            Location { offset_bytes: offset, len_bytes },
        );
        let mtime = Time(1_750_000_000_000_000_000 + position as i64 * 600_123);
        builder.add_size(Position(position), FileId(file), 16 << 20, Some(mtime));
        offset += u64::from(len_bytes);
        versions += 2;
    }
    let len_bytes_max = builder.len_bytes_max();
    let len_bytes = builder.finish(SEED).root.len_bytes();
    let each = len_bytes as f64 / versions as f64;
    println!("{each:.2} bytes a page version, room reserved {:.2}", len_bytes_max as f64 / versions as f64);
    assert!(each <= 10.0, "{each} bytes a page version");
}
