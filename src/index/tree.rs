//! A tree of blocks: leaves in the order of their keys, fences above them that hold the first key of each
//! block below. Writing streams: it holds one open block a level, however many rows there are.

use std::sync::Arc;

use super::block::{Block, BlockPacker, CHILD, Key, Kind, Row};
use super::{BlockCache, BlockSource, IndexError, TreeRoot};

/// Blocks written so far, to be read under the same seed.
pub(super) struct BlockSink {
    pub seed: u64,
    pub bytes: Vec<u8>,
    pub block_count: u32,
}

/// Writes a tree from rows in ascending order of their keys.
pub(super) struct TreeWriter<'a> {
    sink: &'a mut BlockSink,
    kind: Kind,
    row_count: u64,
    /// The open block of each level; only the topmost has never been written.
    open: Vec<BlockPacker>,
}

impl<'a> TreeWriter<'a> {
    pub fn new(sink: &'a mut BlockSink, kind: Kind) -> TreeWriter<'a> {
        TreeWriter { sink, kind, row_count: 0, open: vec![BlockPacker::new(kind, 0)] }
    }

    pub fn push(&mut self, row: Row) {
        self.row_count += 1;
        self.push_at(0, row);
    }

    /// Writes what is open; `None` if there were no rows.
    pub fn finish(mut self) -> Option<TreeRoot> {
        if self.row_count == 0 {
            return None;
        }
        for level in 0.. {
            if level + 1 == self.open.len() {
                let (block, _) = self.write(level);
                return Some(TreeRoot { block, level: level as u8, rows: self.row_count });
            }
            if !self.open[level].is_empty() {
                self.write_below_fence(level);
            }
        }
        None
    }

    fn push_at(&mut self, level: usize, row: Row) {
        if !self.open[level].try_push(row) {
            self.write_below_fence(level);
            let pushed = self.open[level].try_push(row);
            assert!(pushed, "an empty block has room for any row");
        }
    }

    fn write_below_fence(&mut self, level: usize) {
        let (block, first) = self.write(level);
        if level + 1 == self.open.len() {
            self.open.push(BlockPacker::new(self.kind, level as u8 + 1));
        }
        let values = [first.file, first.page, first.position, u64::from(block), 0, 0, 0];
        self.push_at(level + 1, Row { values, ignored: 0 });
    }

    fn write(&mut self, level: usize) -> (u32, Key) {
        let number = self.sink.block_count;
        self.sink.block_count = number.checked_add(1).expect("an index has fewer than 2³² blocks");
        let first = self.open[level].first_key().expect("a block that is written has rows");
        self.open[level].pack(self.sink.seed, number, &mut self.sink.bytes);
        (number, first)
    }
}

/// Blocks of an index, read through the cache.
pub(super) struct Blocks {
    source: Arc<dyn BlockSource>,
    seed: u64,
    block_count: u32,
    cache: Arc<BlockCache>,
    name: u64,
}

impl Blocks {
    pub fn new(source: Arc<dyn BlockSource>, seed: u64, block_count: u32, cache: Arc<BlockCache>) -> Blocks {
        let name = cache.name_index();
        Blocks { source, seed, block_count, cache, name }
    }

    pub fn get(&self, number: u32) -> Result<Arc<Block>, IndexError> {
        self.cache.get(self.name, number, || self.read(number))
    }

    /// The block as storage has it, past the cache.
    pub fn read(&self, number: u32) -> Result<Block, IndexError> {
        if number >= self.block_count {
            return Err(self.damaged(number, "the index has no such block"));
        }
        let read = Block::read(self.seed, number, |into| self.source.read_block(number, into));
        let read = read.map_err(|source| IndexError::Storage {
            object: self.source.object(),
            block: number,
            offset_bytes: self.source.offset_bytes(number),
            source: Arc::new(source),
        })?;
        read.map_err(|what| self.damaged(number, what))
    }

    pub fn damaged(&self, number: u32, what: &'static str) -> IndexError {
        IndexError::Damaged {
            object: self.source.object(),
            block: number,
            offset_bytes: self.source.offset_bytes(number),
            what,
        }
    }
}

struct Step {
    block: Arc<Block>,
    row: usize,
}

/// A place in a tree: a row of a leaf, or just after the leaf's last row.
///
/// Invariant: `path` is empty, or leads from the root to a leaf.
pub(super) struct Cursor<'a> {
    blocks: &'a Blocks,
    root: TreeRoot,
    kind: Kind,
    path: Vec<Step>,
}

impl<'a> Cursor<'a> {
    /// Stands nowhere until it is told to seek.
    pub fn new(blocks: &'a Blocks, root: TreeRoot, kind: Kind) -> Cursor<'a> {
        Cursor { blocks, root, kind, path: Vec::new() }
    }

    /// Goes to the leaf where `target` is or would be, and in it to the first row at or after `target`, or
    /// past its end. The row before `target`, if there is one, is in the same leaf unless `target` is there.
    pub fn seek(&mut self, target: Key) -> Result<(), IndexError> {
        let at_hand = self.path.last().is_some_and(|leaf| leaf.block.key(0) <= target)
            && self.next_leaf_key().is_none_or(|next| target < next);
        if !at_hand {
            self.descend(|fence| fence.last_at_or_before(target))?;
        }
        if let Some(leaf) = self.path.last_mut() {
            leaf.row = leaf.block.first_at_or_after(target);
        }
        Ok(())
    }

    /// Goes to the first row of the tree.
    pub fn seek_first(&mut self) -> Result<(), IndexError> {
        self.descend(|_| 0)
    }

    /// Goes to the next row, in the next leaf if need be. `false` at the end of the tree.
    pub fn next_row(&mut self) -> Result<bool, IndexError> {
        if let Some(leaf) = self.path.last_mut() {
            leaf.row += 1;
        }
        self.settle()
    }

    /// If past the end of a leaf, goes to the first row of the next. `false` at the end of the tree.
    pub fn settle(&mut self) -> Result<bool, IndexError> {
        match self.path.last() {
            Some(leaf) if leaf.row < leaf.block.row_count() => return Ok(true),
            None => return Ok(false),
            Some(_) => {}
        }
        let fences = self.path.len() - 1;
        let Some(turn) =
            (0..fences).rev().find(|&at| self.path[at].row + 1 < self.path[at].block.row_count())
        else {
            return Ok(false);
        };
        self.path.truncate(turn + 1);
        self.path[turn].row += 1;
        self.continue_down(|_| 0)?;
        Ok(true)
    }

    /// The leaf and the row in it, which may be just past its last.
    pub fn leaf(&self) -> Option<(&Block, usize)> {
        self.path.last().map(|leaf| (leaf.block.as_ref(), leaf.row))
    }

    /// The first key after this leaf, known without reading another.
    pub fn next_leaf_key(&self) -> Option<Key> {
        let fences = self.path.len().checked_sub(1)?;
        self.path[..fences]
            .iter()
            .rev()
            .find(|step| step.row + 1 < step.block.row_count())
            .map(|step| step.block.key(step.row + 1))
    }

    /// What is wrong with the leaf that the cursor is in.
    pub fn damaged(&self, what: &'static str) -> IndexError {
        let parent = self.path.len().checked_sub(2).map(|at| &self.path[at]);
        let number = parent.map_or(self.root.block, |fence| fence.block.value(CHILD, fence.row) as u32);
        self.blocks.damaged(number, what)
    }

    fn descend(&mut self, choose: impl Fn(&Block) -> usize) -> Result<(), IndexError> {
        self.path.clear();
        let block = self.blocks.get(self.root.block)?;
        if block.kind != self.kind || block.level != self.root.level {
            return Err(self.blocks.damaged(self.root.block, "it is not the root it should be"));
        }
        let row = if block.level == 0 { 0 } else { choose(&block) };
        self.path.push(Step { block, row });
        self.continue_down(choose).inspect_err(|_| self.path.clear())
    }

    /// From the last step of the path, a fence with its row chosen, to a leaf.
    fn continue_down(&mut self, choose: impl Fn(&Block) -> usize) -> Result<(), IndexError> {
        while let Some(Step { block: fence, row }) = self.path.last()
            && fence.level > 0
        {
            let child = fence.value(CHILD, *row);
            let number = u32::try_from(child).unwrap_or(u32::MAX);
            let loaded = self.blocks.get(number)?;
            // Each level is one less than the last, so that no damage can make the way down endless.
            if loaded.kind != self.kind || loaded.level + 1 != fence.level || loaded.key(0) != fence.key(*row)
            {
                return Err(self.blocks.damaged(number, "it does not belong where the fence above has it"));
            }
            let row = if loaded.level == 0 { 0 } else { choose(&loaded) };
            self.path.push(Step { block: loaded, row });
        }
        Ok(())
    }
}
