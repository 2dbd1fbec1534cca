//! Changes of data: writes of any alignment widened to whole pages, truncations, holes, the image.

use bytes::Bytes;
use pitgate::types::{DataChange, FileId, PAGE_BYTES, PageRange, PageWrite, Time, ZERO_PAGE, pages_of};

use super::Generator;

const PAGE: u64 = PAGE_BYTES as u64;

impl Generator {
    pub(super) fn draw_data(&mut self) -> Option<DataChange> {
        if self.chance.one_in(60) {
            return Some(self.write_to_the_gone());
        }
        let file = self.some_regular()?;
        Some(match self.chance.weighted(&[60, 14, 12, 6, 4, 4]) {
            0 => self.write(file),
            1 => self.truncate(file),
            2 => self.zero_range(file),
            3 => self.image(file),
            4 => self.allocate(file),
            _ => self.write_after_hole(file),
        })
    }

    fn size(&self, file: FileId) -> u64 {
        self.tree.files[&file].size
    }

    fn write(&mut self, file: FileId) -> DataChange {
        let size = self.size(file);
        let (offset, len) = match self.chance.weighted(&[5, 4, 4, 4, 1]) {
            // A database's block.
            0 => (self.chance.below(size / 8192 + 2) * 8192, 8192),
            // Redo: a few sectors, often where the last ones ended.
            1 => (size / 512 * 512, 512 * self.chance.between(1, 4)),
            // An append of any length.
            2 => (size, self.chance.between(1, 9_000)),
            // Anything anywhere.
            3 => (self.chance.below(size + 3 * PAGE), self.chance.between(1, 30_000)),
            // More than a chunk, and more than one record.
            _ => (self.chance.below(size + 1) / PAGE * PAGE, self.chance.between(60_000, 400_000)),
        };
        self.write_at(file, offset, len)
    }

    fn write_after_hole(&mut self, file: FileId) -> DataChange {
        let beyond = *self.chance.choose(&[1 << 20, 1 << 33, 5 << 40, 1 << 54]).expect("not empty");
        let offset = (self.size(file) + beyond).min(1 << 55);
        let len = self.chance.between(1, 9_000);
        self.write_at(file, offset, len)
    }

    fn write_at(&mut self, file: FileId, offset: u64, len: u64) -> DataChange {
        let content = self.content(len as usize);
        let size_after = self.size(file).max(offset + len);
        let write = self.widened(file, offset, &content);
        let pages = self.split(write);
        DataChange { file, size_after, mtime: Some(self.now), cut: false, zero: None, pages }
    }

    /// Whole pages around `content`, their rest as it stands, as the edge read gives it.
    fn widened(&self, file: FileId, offset: u64, content: &[u8]) -> PageWrite {
        let first_page = offset / PAGE;
        let end_page = (offset + content.len() as u64).div_ceil(PAGE);
        let live = &self.tree.files[&file];
        let mut bytes: Vec<u8> = (first_page..end_page).flat_map(|page| live.page(page)).copied().collect();
        let within = (offset % PAGE) as usize;
        bytes[within..within + content.len()].copy_from_slice(content);
        PageWrite { first_page, bytes: Bytes::from(bytes) }
    }

    /// The same pages in one to three pieces, as a vectored write may come.
    fn split(&mut self, write: PageWrite) -> Vec<PageWrite> {
        let mut pieces = vec![write];
        while pieces.len() < 3 && self.chance.one_in(5) {
            let last = pieces.pop().expect("never empty");
            let pages = (last.bytes.len() / PAGE_BYTES) as u64;
            if pages < 2 {
                pieces.push(last);
                break;
            }
            let at = self.chance.between(1, pages - 1);
            let cut = at as usize * PAGE_BYTES;
            pieces.push(PageWrite { first_page: last.first_page, bytes: last.bytes.slice(..cut) });
            pieces.push(PageWrite { first_page: last.first_page + at, bytes: last.bytes.slice(cut..) });
        }
        pieces
    }

    fn truncate(&mut self, file: FileId) -> DataChange {
        let size = self.size(file);
        let size_after = match self.chance.weighted(&[4, 3, 2, 1]) {
            0 => self.chance.below(size + 1),
            1 => self.chance.below(size + 1) / PAGE * PAGE,
            2 => size + self.chance.below(6 * PAGE),
            _ => 0,
        };
        let cut = size_after < size || self.chance.one_in(2);
        let mut pages = Vec::new();
        let within = (size_after % PAGE) as usize;
        if size_after < size && within != 0 {
            // The page that holds the new end, its rest now zero.
            let page = size_after / PAGE;
            let mut bytes = self.tree.files[&file].page(page).to_vec();
            bytes[within..].fill(0);
            pages.push(PageWrite { first_page: page, bytes: Bytes::from(bytes) });
        }
        DataChange { file, size_after, mtime: Some(self.now), cut, zero: None, pages }
    }

    /// A punched hole or a zeroed range; its unaligned edges come as pages.
    fn zero_range(&mut self, file: FileId) -> DataChange {
        let size = self.size(file);
        let offset = self.chance.below(size + 2 * PAGE);
        let len = if self.chance.one_in(10) { 1 << 60 } else { self.chance.between(1, 20 * PAGE) };
        let keeps_size = len > 1 << 40 || self.chance.one_in(2);
        let end = offset + len;
        let size_after = if keeps_size { size } else { size.max(end) };
        let whole = (offset.div_ceil(PAGE), end / PAGE);
        let mut edges: Vec<(u64, u64)> = Vec::new();
        if !offset.is_multiple_of(PAGE) {
            edges.push((offset, end.min(offset.next_multiple_of(PAGE))));
        }
        if !end.is_multiple_of(PAGE) && (end / PAGE > offset / PAGE || offset.is_multiple_of(PAGE)) {
            edges.push(((end / PAGE) * PAGE, end));
        }
        let mut pages = Vec::new();
        for (from, to) in edges {
            if from < size {
                pages.push(self.widened(file, from, &ZERO_PAGE[..(to - from) as usize]));
            }
        }
        let mut zero = (whole.0 < whole.1).then(|| PageRange { first: whole.0, count: whole.1 - whole.0 });
        if self.chance.one_in(3) && !pages.is_empty() {
            // The range may as well cover its edges: their bytes come after it.
            let first = offset / PAGE;
            let covered = end.div_ceil(PAGE);
            let edges_are_pages = |page: u64| pages.iter().any(|write: &PageWrite| write.first_page == page);
            let lost_first = !offset.is_multiple_of(PAGE) && !edges_are_pages(first);
            let lost_last =
                !end.is_multiple_of(PAGE) && !edges_are_pages(covered - 1) && covered - 1 < pages_of(size);
            if !lost_first && !lost_last {
                zero = Some(PageRange { first, count: covered - first });
            }
        }
        DataChange { file, size_after, mtime: Some(self.now), cut: false, zero, pages }
    }

    /// What the file holds already, as the image or a resynchronisation records it: without a time.
    fn image(&mut self, file: FileId) -> DataChange {
        let size = self.size(file);
        let first_page = self.chance.below(pages_of(size) + 1);
        let count = self.chance.between(1, 16).min(pages_of(size).saturating_sub(first_page));
        let live = &self.tree.files[&file];
        let bytes: Vec<u8> =
            (first_page..first_page + count).flat_map(|page| live.page(page)).copied().collect();
        let pages =
            if bytes.is_empty() { Vec::new() } else { vec![PageWrite { first_page, bytes: bytes.into() }] };
        DataChange { file, size_after: size, mtime: None, cut: false, zero: None, pages }
    }

    /// `fallocate`: the size alone.
    fn allocate(&mut self, file: FileId) -> DataChange {
        let size_after = self.size(file) + self.chance.below(20 * PAGE);
        DataChange { file, size_after, mtime: Some(self.now), cut: false, zero: None, pages: Vec::new() }
    }

    /// A write that was under way when the last name went.
    fn write_to_the_gone(&mut self) -> DataChange {
        let file = self.new_file();
        let bytes = Bytes::from(self.content(PAGE_BYTES));
        let pages = vec![PageWrite { first_page: 0, bytes }];
        DataChange { file, size_after: PAGE, mtime: Some(Time(0)), cut: false, zero: None, pages }
    }

    /// Bytes that compress well, badly, partly, or are zero.
    fn content(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        match self.chance.weighted(&[5, 4, 1, 2]) {
            0 => {
                let row = self.chance.number().to_le_bytes();
                for (index, byte) in bytes.iter_mut().enumerate() {
                    *byte = row[index % 8] ^ (index / 97) as u8;
                }
            }
            1 => self.chance.fill(&mut bytes),
            2 => {}
            _ => {
                for piece in bytes.chunks_mut(PAGE_BYTES) {
                    if self.chance.one_in(2) {
                        self.chance.fill(piece);
                    }
                }
            }
        }
        bytes
    }
}
