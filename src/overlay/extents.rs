//! Where the pages of one file are: which the overlay holds, which it has made zero, which are the image's.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::types::PAGE_BYTES;

/// Where a page and its checksum lie in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub data_offset: u64,
    pub table_offset: u64,
}

impl Place {
    pub fn advance(self, pages: u64) -> Place {
        Place {
            data_offset: self.data_offset + pages * PAGE_BYTES as u64,
            table_offset: self.table_offset + pages * 4,
        }
    }
}

/// What a run of pages holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The image's pages.
    Base,
    Zero,
    Log(Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    count: u64,
    /// `None`: zeros.
    place: Option<Place>,
}

impl Extent {
    fn skip(self, pages: u64) -> Extent {
        Extent { count: self.count - pages, place: self.place.map(|place| place.advance(pages)) }
    }
}

/// The pages of one file. Extents are disjoint; pages in none of them are the image's below `base_pages`,
/// and zeros from there on.
#[derive(Clone, Debug, Default)]
pub(super) struct ExtentMap {
    extents: BTreeMap<u64, Extent>,
    base_pages: u64,
    log_pages: u64,
}

impl ExtentMap {
    /// The pages of a file of which the image holds the first `base_pages`.
    pub fn over_base(base_pages: u64) -> ExtentMap {
        ExtentMap { base_pages, ..ExtentMap::default() }
    }

    /// Pages the log holds for this file.
    pub fn log_pages(&self) -> u64 {
        self.log_pages
    }

    pub fn set_log(&mut self, first: u64, count: u64, place: Place) {
        self.clear(first..first + count);
        self.extents.insert(first, Extent { count, place: Some(place) });
        self.log_pages += count;
    }

    pub fn set_zero(&mut self, first: u64, count: u64) {
        let end = first + count;
        self.clear(first..end);
        // Beyond the image's pages what no extent holds is zero anyway.
        let end = end.min(self.base_pages);
        if first < end {
            self.extents.insert(first, Extent { count: end - first, place: None });
        }
    }

    /// Makes every page from `first` on zero.
    pub fn cut(&mut self, first: u64) {
        self.clear(first..u64::MAX);
        self.base_pages = self.base_pages.min(first);
    }

    /// What page `page` holds, and how many pages from it on hold the same kind in one run, at most `limit`.
    pub fn run_at(&self, page: u64, limit: u64) -> (u64, Content) {
        if let Some((&first, extent)) = self.extents.range(..=page).next_back()
            && page < first + extent.count
        {
            let rest = extent.skip(page - first);
            return (rest.count.min(limit), rest.place.map_or(Content::Zero, Content::Log));
        }
        let next = self.extents.range(page + 1..).next().map_or(u64::MAX, |(&first, _)| first);
        let gap = (next - page).min(limit);
        if page < self.base_pages {
            (gap.min(self.base_pages - page), Content::Base)
        } else {
            (gap, Content::Zero)
        }
    }

    /// Removes what the extents say of these pages, splitting those that reach beyond.
    fn clear(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut touched: Vec<(u64, Extent)> = Vec::new();
        if let Some((&first, &extent)) = self.extents.range(..range.start).next_back()
            && first + extent.count > range.start
        {
            touched.push((first, extent));
        }
        touched.extend(self.extents.range(range.clone()).map(|(&first, &extent)| (first, extent)));
        for (first, extent) in touched {
            self.extents.remove(&first);
            let end = first + extent.count;
            if extent.place.is_some() {
                self.log_pages -= end.min(range.end) - first.max(range.start);
            }
            if first < range.start {
                self.extents.insert(first, Extent { count: range.start - first, ..extent });
            }
            if end > range.end {
                self.extents.insert(range.end, extent.skip(range.end - first));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Log { first: u64, count: u64 },
        Zero { first: u64, count: u64 },
        Cut { first: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..64u64, 1..16u64).prop_map(|(first, count)| Step::Log { first, count }),
            2 => (0..64u64, 1..16u64).prop_map(|(first, count)| Step::Zero { first, count }),
            1 => (0..64u64).prop_map(|first| Step::Cut { first }),
        ]
    }

    proptest! {
        #[test]
        fn every_page_holds_what_was_last_put_there(base_pages in 0..48u64, steps in prop::collection::vec(step(), 0..40)) {
            let mut map = ExtentMap::over_base(base_pages);
            let mut model: Vec<Content> =
                (0..96).map(|page| if page < base_pages { Content::Base } else { Content::Zero }).collect();
            let mut log_end = 0;
            for step in steps {
                match step {
                    Step::Log { first, count } => {
                        let place = Place { data_offset: log_end, table_offset: log_end / 1024 };
                        log_end += count * PAGE_BYTES as u64;
                        map.set_log(first, count, place);
                        for page in first..first + count {
                            model[page as usize] = Content::Log(place.advance(page - first));
                        }
                    }
                    Step::Zero { first, count } => {
                        map.set_zero(first, count);
                        model[first as usize..(first + count) as usize].fill(Content::Zero);
                    }
                    Step::Cut { first } => {
                        map.cut(first);
                        model[first as usize..].fill(Content::Zero);
                    }
                }
            }
            let mut page = 0;
            while page < model.len() as u64 {
                let (count, content) = map.run_at(page, model.len() as u64 - page);
                prop_assert!(count > 0);
                for index in 0..count {
                    let expected = model[(page + index) as usize];
                    let found = match content {
                        Content::Log(place) => Content::Log(place.advance(index)),
                        other => other,
                    };
                    prop_assert_eq!(found, expected, "page {}", page + index);
                }
                page += count;
            }
            let held = model.iter().filter(|content| matches!(content, Content::Log(_))).count() as u64;
            prop_assert_eq!(map.log_pages(), held);
        }
    }
}
