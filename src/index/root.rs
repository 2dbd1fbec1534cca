//! What must be known of an index before its first block is read; a segment's footer keeps it.

use crate::types::{DecodeError, Decoder, Encoder};

/// Where a tree of blocks begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeRoot {
    /// Number of the block that a search begins with.
    pub block: u32,
    /// Height of that block above the leaves, which have level 0.
    pub level: u8,
    /// Rows in all leaves.
    pub rows: u64,
}

/// Size and roots of an encoded index. `block_count` × 4096 is its length in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexRoot {
    pub block_count: u32,
    /// Versions of pages; `None` if there are none.
    pub pages: Option<TreeRoot>,
    /// Versions of sizes; `None` if there are none.
    pub sizes: Option<TreeRoot>,
}

impl IndexRoot {
    /// Bytes that the blocks take.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        u64::from(self.block_count) * super::BLOCK_BYTES as u64
    }

    pub fn encode(&self, out: &mut Encoder) {
        out.u32(self.block_count);
        for tree in [self.pages, self.sizes] {
            let tree = tree.unwrap_or(TreeRoot { block: 0, level: 0, rows: 0 });
            out.u32(tree.block);
            out.u8(tree.level);
            out.u64(tree.rows);
        }
    }

    /// # Errors
    /// `DecodeError` for bytes that [`IndexRoot::encode`] cannot have written.
    pub fn decode(input: &mut Decoder<'_>) -> Result<IndexRoot, DecodeError> {
        let block_count = input.u32()?;
        let mut tree = || -> Result<Option<TreeRoot>, DecodeError> {
            let root = TreeRoot { block: input.u32()?, level: input.u8()?, rows: input.u64()? };
            if root.rows == 0 {
                return Ok(None);
            }
            if root.block >= block_count {
                Err(input.error("root block of an index"))
            } else {
                Ok(Some(root))
            }
        };
        Ok(IndexRoot { block_count, pages: tree()?, sizes: tree()? })
    }
}
