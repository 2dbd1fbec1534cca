//! The cache of index blocks that all segments share: a budget of bytes, least recently used out first.

/// What a cache holds and how often it could answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCacheStatistics {
    pub hits: u64,
    /// Each of them was one read of storage.
    pub misses: u64,
    pub held_bytes: u64,
    pub budget_bytes: u64,
}

/// Blocks of indexes, checked, shared by all threads.
pub struct BlockCache {
    budget_bytes: u64,
}

impl BlockCache {
    /// A cache that holds at most `budget_bytes`, at least one block.
    #[must_use]
    pub fn new(budget_bytes: u64) -> BlockCache {
        BlockCache { budget_bytes }
    }

    #[must_use]
    pub fn statistics(&self) -> BlockCacheStatistics {
        BlockCacheStatistics { budget_bytes: self.budget_bytes, ..BlockCacheStatistics::default() }
    }
}
