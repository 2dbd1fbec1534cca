//! Single cases: hot pages, deep trees, budgets, sizes, pinned bytes.

use super::*;

/// Drawn in `docs/disk-format.md`. A change of these bytes is a new version of the segment.
#[test]
fn the_bytes_of_an_index_are_pinned() {
    let mut builder = IndexBuilder::new();
    builder.add_pages(Position(5), FileId(2), 10, 4, Location { offset_bytes: 4096, len_bytes: 5000 });
    builder.add_pages(Position(6), FileId(2), 12, 4, Location { offset_bytes: 9096, len_bytes: 100 });
    builder.add_zero(Position(7), FileId(2), 13, END_OF_FILE);
    builder.add_size(Position(7), FileId(2), 53_000, Some(Time(1_234_567_890)));
    builder.add_size(Position(8), FileId(2), 53_000, None);
    let encoded = builder.finish(SEED);
    assert_eq!(encoded.root.len_bytes(), 8192);
    let digest = blake3::hash(&encoded.bytes).to_hex();
    assert_eq!(digest.as_str(), "14779b5b6fbf7dab6424e379d71fe401940442a266e06459e9882c5809ee3a9f");
    let (index, _) = open(&encoded, &Arc::new(BlockCache::new(0)));
    let ranges: Vec<_> = index.entries().map(Result::unwrap).collect();
    let ranges: Vec<_> = ranges
        .iter()
        .map(|entry| (entry.first_page, entry.end_page, entry.position.0, entry.record))
        .collect();
    let (first, second) =
        (Location { offset_bytes: 4096, len_bytes: 5000 }, Location { offset_bytes: 9096, len_bytes: 100 });
    assert_eq!(
        ranges,
        [
            (10, 12, 5, Some((first, 0))),
            (12, 13, 6, Some((second, 0))),
            (12, 13, 5, Some((first, 2))),
            (13, 14, 7, None),
            (13, 14, 6, Some((second, 1))),
            (13, 14, 5, Some((first, 3))),
            (14, 16, 7, None),
            (14, 16, 6, Some((second, 2))),
            (16, END_OF_FILE, 7, None),
        ]
    );
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
    let root = builder.finish(SEED).root;
    let each = root.len_bytes() as f64 / versions as f64;
    let of_pages = root.pages.map_or(0, |root| u64::from(root.block + 1) * BLOCK_BYTES as u64);
    println!(
        "{each:.2} bytes a page version, {:.2} without sizes; room reserved {:.2}",
        of_pages as f64 / versions as f64,
        len_bytes_max as f64 / versions as f64
    );
    assert!(each <= 10.0, "{each} bytes a page version");
}
