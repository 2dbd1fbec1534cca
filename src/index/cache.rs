//! The cache of index blocks that all segments share: a budget of bytes, least recently used out first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

use super::block::Block;

/// So that threads seldom wait for each other.
const SHARDS_MAX: u64 = 16;
/// Fewer blocks than this are not worth a shard of their own.
const SHARD_BLOCKS_MIN: u64 = 8;
/// What the maps of a cache need for each block beside it.
const MAP_BYTES: u64 = 80;

/// What a cache holds and how often it could answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCacheStatistics {
    pub hits: u64,
    /// Each of them was one read of storage.
    pub misses: u64,
    pub held_bytes: u64,
    pub budget_bytes: u64,
}

/// An index, as a cache knows it, and the number of a block in it.
type BlockName = (u64, u32);

/// Blocks of indexes, checked, shared by all threads.
pub struct BlockCache {
    budget_bytes: u64,
    shard_blocks_max: usize,
    shards: Vec<Mutex<LruCache<BlockName, Arc<Block>>>>,
    indexes: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl BlockCache {
    /// A cache that holds at most `budget_bytes`, at least one block.
    #[must_use]
    pub fn new(budget_bytes: u64) -> BlockCache {
        let blocks = (budget_bytes / (Block::HELD_BYTES as u64 + MAP_BYTES)).max(1);
        let shards = (blocks / SHARD_BLOCKS_MIN).clamp(1, SHARDS_MAX);
        BlockCache {
            budget_bytes,
            shard_blocks_max: (blocks / shards) as usize,
            shards: (0..shards).map(|_| Mutex::new(LruCache::unbounded())).collect(),
            indexes: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    #[must_use]
    pub fn statistics(&self) -> BlockCacheStatistics {
        let blocks: usize = self.shards.iter().map(|shard| shard.lock().len()).sum();
        BlockCacheStatistics {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            held_bytes: blocks as u64 * (Block::HELD_BYTES as u64 + MAP_BYTES),
            budget_bytes: self.budget_bytes,
        }
    }

    /// A name that no other index in this cache has.
    pub(super) fn name_index(&self) -> u64 {
        self.indexes.fetch_add(1, Ordering::Relaxed)
    }

    /// The block from the cache, else from `read`, which runs without any lock held. Errors are not cached.
    pub(super) fn get<E>(
        &self,
        index: u64,
        block: u32,
        read: impl FnOnce() -> Result<Block, E>,
    ) -> Result<Arc<Block>, E> {
        // Neighbouring blocks and neighbouring indexes land in different shards.
        let spread = index.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20).wrapping_add(u64::from(block));
        let shard = &self.shards[(spread % self.shards.len() as u64) as usize];
        if let Some(block) = shard.lock().get(&(index, block)) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(Arc::clone(block));
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let loaded = Arc::new(read()?);
        let mut shard = shard.lock();
        while shard.len() >= self.shard_blocks_max {
            shard.pop_lru();
        }
        shard.put((index, block), Arc::clone(&loaded));
        Ok(loaded)
    }
}
