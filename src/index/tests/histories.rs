//! The index against a naive model: every version of every page in a map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Pages that the model looks at; ranges without end reach it.
const PAGES: u64 = 64;

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
        2 => (file, prop_oneof![any::<u64>(), Just(7)], any::<Option<i64>>()).prop_map(|(file, size, mtime)| Step::Size { file, size, mtime }),
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
        let mut newest: Option<SizeVersion> = None;
        for (&position, &(size, mtime)) in self.sizes.get(&file)?.range(..=at) {
            if mtime.is_none() && newest.is_some_and(|before| before.size == size) {
                continue;
            }
            let mtime = mtime.or(newest.and_then(|before| before.mtime));
            newest = Some(SizeVersion { position: Position(position), size, mtime });
        }
        newest
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
