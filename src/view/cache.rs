//! The cache of decoded chunks: verified, decompressed pages, shared by all views of a source.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use crate::types::{FileId, Position};

const SHARDS: usize = 16;

/// What a chunk takes beside its bytes: key, links, the hash table's slot.
const ENTRY_OVERHEAD_BYTES: u64 = 160;

/// Where a chunk lies: its segment and the offset of its record there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ChunkKey {
    pub segment: u64,
    pub offset_bytes: u64,
}

/// Verified contents of a record: whole pages from `first_page` on.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub file: FileId,
    pub position: Position,
    pub first_page: u64,
    pub bytes: Bytes,
}

/// How often the cache answered, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounters {
    pub hits: u64,
    pub misses: u64,
    pub held_bytes: u64,
}

/// Decoded chunks of one source, least recently used first out.
///
/// Invariant: `held_bytes <= budget_bytes`, shard by shard. Segments never change, so nothing is ever invalidated.
pub struct ViewCache {
    shards: Vec<Mutex<Shard>>,
    shard_budget_bytes: u64,
    hits: AtomicU64,
    misses: AtomicU64,
}

struct Shard {
    chunks: LruCache<ChunkKey, Chunk>,
    held_bytes: u64,
}

impl ViewCache {
    /// A cache that holds at most `budget_bytes`; 0 holds nothing.
    #[must_use]
    pub fn new(budget_bytes: u64) -> Arc<ViewCache> {
        let shard = || Mutex::new(Shard { chunks: LruCache::unbounded(), held_bytes: 0 });
        Arc::new(ViewCache {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            shard_budget_bytes: budget_bytes / SHARDS as u64,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    #[must_use]
    pub fn counters(&self) -> CacheCounters {
        CacheCounters {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            held_bytes: self.shards.iter().map(|shard| shard.lock().held_bytes).sum(),
        }
    }

    /// The chunk, from the cache or else from `read`, which runs without a lock: two threads may read the
    /// same chunk at once, and one result is kept.
    pub(super) fn chunk<E>(
        &self,
        key: ChunkKey,
        read: impl FnOnce() -> Result<Chunk, E>,
    ) -> Result<Chunk, E> {
        let shard = self.shard(key);
        if let Some(chunk) = shard.lock().chunks.get(&key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(chunk.clone());
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let chunk = read()?;
        self.keep(key, &chunk);
        Ok(chunk)
    }

    /// Whether the chunk is held; does not count as a use.
    #[cfg(test)]
    fn holds(&self, key: ChunkKey) -> bool {
        self.shard(key).lock().chunks.contains(&key)
    }

    fn shard(&self, key: ChunkKey) -> &Mutex<Shard> {
        // Offsets are spread by the multiplier's high bits; neighbours in a segment land in different shards.
        let mixed = (key.segment ^ key.offset_bytes.rotate_left(20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[(mixed >> 60) as usize % SHARDS]
    }

    fn keep(&self, key: ChunkKey, chunk: &Chunk) {
        let cost = cost_bytes(chunk);
        if cost > self.shard_budget_bytes {
            return;
        }
        let mut shard = self.shard(key).lock();
        if let Some(old) = shard.chunks.put(key, chunk.clone()) {
            shard.held_bytes -= cost_bytes(&old);
        }
        shard.held_bytes += cost;
        while shard.held_bytes > self.shard_budget_bytes {
            let (_, old) = shard.chunks.pop_lru().expect("held bytes belong to a held chunk");
            shard.held_bytes -= cost_bytes(&old);
        }
    }
}

fn cost_bytes(chunk: &Chunk) -> u64 {
    chunk.bytes.len() as u64 + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(len_bytes: usize) -> Chunk {
        Chunk {
            file: FileId(2),
            position: Position(1),
            first_page: 0,
            bytes: Bytes::from(vec![7; len_bytes]),
        }
    }

    fn key(offset_bytes: u64) -> ChunkKey {
        ChunkKey { segment: 1, offset_bytes }
    }

    #[test]
    fn a_held_chunk_is_not_read_again() {
        let cache = ViewCache::new(1 << 20);
        let read = || Ok::<_, ()>(chunk(4096));
        cache.chunk(key(0), read).unwrap();
        let again = cache.chunk(key(0), || Err::<Chunk, _>("read twice")).unwrap();
        assert_eq!(again.bytes.len(), 4096);
        assert_eq!((cache.counters().hits, cache.counters().misses), (1, 1));
    }

    #[test]
    fn the_budget_holds_whatever_is_read() {
        let budget_bytes = 16 * 20_000;
        let cache = ViewCache::new(budget_bytes);
        for offset in 0..1_000 {
            cache.chunk(key(offset * 4096), || Ok::<_, ()>(chunk(4096))).unwrap();
            assert!(cache.counters().held_bytes <= budget_bytes);
        }
        assert!(cache.counters().held_bytes > budget_bytes / 2, "the budget is used");
        assert!(cache.holds(key(999 * 4096)) && !cache.holds(key(0)), "the oldest go first");
    }

    #[test]
    fn a_chunk_beyond_the_budget_is_not_held() {
        let cache = ViewCache::new(0);
        cache.chunk(key(0), || Ok::<_, ()>(chunk(4096))).unwrap();
        assert_eq!(cache.counters().held_bytes, 0);
    }

    #[test]
    fn a_failed_read_is_not_held() {
        let cache = ViewCache::new(1 << 20);
        assert_eq!(cache.chunk(key(0), || Err::<Chunk, _>("damaged")).unwrap_err(), "damaged");
        assert!(!cache.holds(key(0)));
    }
}
