//! The bytes of one simulated file: a live image, a durable image, and what lies between them.

use std::collections::BTreeMap;

use crate::io::SeededRandom;

/// What a disk writes at once: never torn in itself.
const SECTOR_BYTES: u64 = 512;
const BLOCK_BYTES: u64 = 4096;

/// Sparse bytes. Blocks that are absent, and bytes of blocks beyond `len`, read as zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub len: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK_BYTES as usize]>>,
    /// Reserved blocks as start → end, apart from those that hold bytes.
    reserved: BTreeMap<u64, u64>,
}

impl Image {
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let len = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        for (at, part) in blocks_of(offset, len) {
            let target = &mut buf[part.clone()];
            match self.blocks.get(&(at / BLOCK_BYTES)) {
                Some(block) => {
                    let start = (at % BLOCK_BYTES) as usize;
                    target.copy_from_slice(&block[start..start + target.len()]);
                }
                None => target.fill(0),
            }
        }
        len
    }

    /// Stores bytes without moving the end; bytes beyond it are lost unless the end follows.
    fn store(&mut self, offset: u64, bytes: &[u8]) {
        for (at, part) in blocks_of(offset, bytes.len()) {
            let block =
                self.blocks.entry(at / BLOCK_BYTES).or_insert_with(|| Box::new([0; BLOCK_BYTES as usize]));
            let start = (at % BLOCK_BYTES) as usize;
            block[start..start + part.len()].copy_from_slice(&bytes[part]);
        }
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.store(offset, bytes);
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.cut_blocks(len);
        }
        self.len = len;
    }

    fn cut_blocks(&mut self, len: u64) {
        self.blocks.split_off(&len.div_ceil(BLOCK_BYTES));
        if let Some(last) = self.blocks.get_mut(&(len / BLOCK_BYTES)) {
            last[(len % BLOCK_BYTES) as usize..].fill(0);
        }
        let end = len.div_ceil(BLOCK_BYTES);
        self.reserved.split_off(&end);
        if let Some((_, last_end)) = self.reserved.range_mut(..end).next_back() {
            *last_end = (*last_end).min(end);
        }
    }

    pub fn reserve(&mut self, offset: u64, len: u64) {
        let mut start = offset / BLOCK_BYTES;
        let mut end = (offset + len).div_ceil(BLOCK_BYTES);
        let touching: Vec<u64> = self
            .reserved
            .range(..=end)
            .filter(|(_, old_end)| **old_end >= start)
            .map(|(at, _)| *at)
            .collect();
        for at in touching {
            let old_end = self.reserved.remove(&at).unwrap_or(at);
            start = start.min(at);
            end = end.max(old_end);
        }
        self.reserved.insert(start, end);
        self.len = self.len.max(offset + len);
    }

    /// Storage that the file occupies.
    pub fn allocated_bytes(&self) -> u64 {
        let reserved: u64 = self.reserved.iter().map(|(start, end)| end - start).sum();
        let others = self.blocks.keys().filter(|block| !self.is_reserved(**block)).count() as u64;
        (reserved + others) * BLOCK_BYTES
    }

    /// Storage that a write or reservation of this range would newly occupy.
    pub fn missing_bytes(&self, offset: u64, len: u64) -> u64 {
        let (start, end) = (offset / BLOCK_BYTES, (offset + len).div_ceil(BLOCK_BYTES));
        let held: u64 =
            self.reserved.iter().map(|(at, old_end)| end.min(*old_end).saturating_sub(start.max(*at))).sum();
        let others =
            self.blocks.range(start..end).filter(|(block, _)| !self.is_reserved(**block)).count() as u64;
        (end - start).saturating_sub(held + others) * BLOCK_BYTES
    }

    fn is_reserved(&self, block: u64) -> bool {
        self.reserved.range(..=block).next_back().is_some_and(|(_, end)| block < *end)
    }
}

/// Splits a range at block borders: where each part begins in the file, and where it lies in the buffer.
fn blocks_of(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    pieces(offset, len, BLOCK_BYTES)
}

fn pieces(offset: u64, len: usize, unit: u64) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let part = ((unit - at % unit) as usize).min(len - done);
        done += part;
        Some((at, done - part..done))
    })
}

/// A change that no sync has covered.
#[derive(Clone, Debug)]
enum Pending {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
    Reserve { offset: u64, len: u64 },
}

/// How much of what was not synced survives a stop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Survival {
    Nothing,
    Everything,
    /// Each sector and each change of a size for itself, this many of 8.
    Some(u64),
    /// What came first, up to some moment; the change at that moment perhaps torn.
    Beginning,
}

impl Survival {
    pub fn draw(random: &mut SeededRandom) -> Survival {
        match random.below(8) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            2..=4 => Survival::Beginning,
            _ => Survival::Some(1 + random.below(7)),
        }
    }
}

/// A file: `durable` plus `pending`, in order, is `live` (until a failed sync drops what is pending).
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub live: Image,
    pub durable: Image,
    pending: Vec<Pending>,
}

impl Content {
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.live.write(offset, bytes);
        self.pending.push(Pending::Write { offset, bytes: bytes.to_vec() });
    }

    pub fn set_len(&mut self, len: u64) {
        self.live.set_len(len);
        self.pending.push(Pending::SetLen(len));
    }

    pub fn reserve(&mut self, offset: u64, len: u64) {
        self.live.reserve(offset, len);
        self.pending.push(Pending::Reserve { offset, len });
    }

    pub fn sync(&mut self) {
        for change in self.pending.drain(..) {
            match change {
                Pending::Write { offset, bytes } => self.durable.write(offset, &bytes),
                Pending::SetLen(len) => self.durable.set_len(len),
                Pending::Reserve { offset, len } => self.durable.reserve(offset, len),
            }
        }
    }

    /// The kernel could not write: some of the dirty bytes are stored, the rest is forgotten as if it were
    /// clean, while reads still show it. Sizes and reservations are the file system's own, and are kept.
    pub fn fail_sync(&mut self, random: &mut SeededRandom) {
        let odds = random.below(9);
        for change in std::mem::take(&mut self.pending) {
            match change {
                Pending::Write { offset, bytes } => {
                    self.durable.len = self.durable.len.max(offset + bytes.len() as u64);
                    self.store_sectors(offset, &bytes, odds, random);
                }
                Pending::SetLen(len) => self.durable.set_len(len),
                Pending::Reserve { offset, len } => self.durable.reserve(offset, len),
            }
        }
    }

    /// The machine stops.
    pub fn crash(&mut self, random: &mut SeededRandom) {
        self.settle(Survival::draw(random), random);
        self.live = self.durable.clone();
    }

    /// Moves what survives into the durable image, drops the rest.
    fn settle(&mut self, survival: Survival, random: &mut SeededRandom) {
        let pending = std::mem::take(&mut self.pending);
        let whole = match survival {
            Survival::Nothing => 0,
            Survival::Everything => pending.len(),
            Survival::Beginning => random.below(pending.len() as u64 + 1) as usize,
            Survival::Some(_) => 0,
        };
        for (index, change) in pending.into_iter().enumerate() {
            let odds = match survival {
                Survival::Some(odds) => odds,
                _ if index < whole => 8,
                Survival::Beginning if index == whole => 4,
                _ => return,
            };
            self.settle_one(change, odds, random);
        }
    }

    fn settle_one(&mut self, change: Pending, odds: u64, random: &mut SeededRandom) {
        match change {
            Pending::Write { offset, bytes } => {
                if random.chance(odds, 8) {
                    self.durable.len = self.durable.len.max(offset + bytes.len() as u64);
                }
                self.store_sectors(offset, &bytes, odds, random);
            }
            Pending::SetLen(len) if random.chance(odds, 8) => self.durable.set_len(len),
            Pending::Reserve { offset, len } if random.chance(odds, 8) => self.durable.reserve(offset, len),
            Pending::SetLen(_) | Pending::Reserve { .. } => {}
        }
    }

    /// Stores each sector of a write for itself, with a chance of `odds` in 8.
    fn store_sectors(&mut self, offset: u64, bytes: &[u8], odds: u64, random: &mut SeededRandom) {
        for (at, part) in pieces(offset, bytes.len(), SECTOR_BYTES) {
            let fits = at + part.len() as u64 <= self.durable.len;
            if fits && random.chance(odds, 8) {
                self.durable.store(at, &bytes[part]);
            }
        }
    }

    /// Changes stored bytes in place, as a failing medium or a hand does.
    pub fn overwrite(&mut self, offset: u64, bytes: &[u8]) {
        for image in [&mut self.live, &mut self.durable] {
            let fits =
                usize::try_from(image.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
            image.store(offset, &bytes[..fits]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(image: &Image) -> Vec<u8> {
        let mut all = vec![1; image.len as usize];
        assert_eq!(image.read(0, &mut all), all.len());
        all
    }

    #[test]
    fn synced_bytes_survive_every_crash() {
        for seed in 0..200 {
            let mut content = Content::default();
            content.write(100, &[7; 5000]);
            content.sync();
            content.write(6000, &[9; 3000]);
            content.crash(&mut SeededRandom::new(seed));
            let after = bytes(&content.live);
            assert!(after.len() >= 5100);
            assert!(after[100..5100].iter().all(|byte| *byte == 7), "seed {seed}");
        }
    }

    #[test]
    fn unsynced_writes_are_lost_kept_and_torn() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let mut content = Content::default();
            content.write(0, &[1; 4096]);
            content.sync();
            content.write(0, &[2; 4096]);
            content.crash(&mut SeededRandom::new(seed));
            let after = bytes(&content.live);
            for sector in after.chunks(512) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never torn in itself");
            }
            match after.iter().filter(|byte| **byte == 2).count() {
                0 => lost += 1,
                4096 => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(lost > 10 && kept > 10 && torn > 10, "{lost} lost, {kept} kept, {torn} torn");
    }

    #[test]
    fn a_failed_sync_leaves_live_bytes_that_a_later_sync_does_not_store() {
        let mut lost = 0;
        for seed in 0..100 {
            let mut content = Content::default();
            content.write(0, &[5; 512]);
            content.fail_sync(&mut SeededRandom::new(seed));
            content.sync();
            assert_eq!(bytes(&content.live), vec![5; 512]);
            content.crash(&mut SeededRandom::new(seed));
            lost += u32::from(bytes(&content.live) != vec![5; 512]);
        }
        assert!(lost > 20);
    }

    #[test]
    fn reservations_are_counted_once() {
        let mut image = Image::default();
        image.reserve(0, 10 * BLOCK_BYTES);
        image.reserve(5 * BLOCK_BYTES, 10 * BLOCK_BYTES);
        assert_eq!(image.allocated_bytes(), 15 * BLOCK_BYTES);
        assert_eq!(image.missing_bytes(14 * BLOCK_BYTES, 2 * BLOCK_BYTES), BLOCK_BYTES);
        image.write(14 * BLOCK_BYTES, &[1; 2 * BLOCK_BYTES as usize]);
        assert_eq!(image.allocated_bytes(), 16 * BLOCK_BYTES);
        image.set_len(BLOCK_BYTES / 2);
        assert_eq!(image.allocated_bytes(), BLOCK_BYTES);
    }

    proptest! {
        #[test]
        fn an_image_holds_what_a_vector_holds(
            operations in proptest::collection::vec((0u8..3, 0u64..20_000, 1usize..9000, any::<u8>()), 1..40)
        ) {
            let mut image = Image::default();
            let mut model: Vec<u8> = Vec::new();
            for (kind, offset, len, fill) in operations {
                let end = offset as usize + len;
                match kind {
                    0 => {
                        image.write(offset, &vec![fill; len]);
                        model.resize(model.len().max(end), 0);
                        model[offset as usize..end].fill(fill);
                    }
                    1 => {
                        image.set_len(offset);
                        model.resize(offset as usize, 0);
                    }
                    _ => {
                        image.reserve(offset, len as u64);
                        model.resize(model.len().max(end), 0);
                    }
                }
                prop_assert_eq!(bytes(&image), model.clone());
            }
        }
    }
}
