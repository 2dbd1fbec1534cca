//! What the index's tests share: an index in memory that counts its reads.

mod cases;
mod histories;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::types::{Decoder, Encoder};

const SEED: u64 = 0x5eed;

/// An index in memory that counts how often it is read.
struct Memory {
    bytes: Vec<u8>,
    reads: AtomicU64,
}

impl BlockSource for Memory {
    fn read_block(&self, block: u32, into: &mut [u8; BLOCK_BYTES]) -> std::io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let offset = block as usize * BLOCK_BYTES;
        let bytes = self.bytes.get(offset..offset + BLOCK_BYTES);
        into.copy_from_slice(bytes.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn object(&self) -> String {
        "segment 1-1".into()
    }

    fn offset_bytes(&self, block: u32) -> u64 {
        u64::from(block) * BLOCK_BYTES as u64
    }
}

fn open(encoded: &EncodedIndex, cache: &Arc<BlockCache>) -> (Index, Arc<Memory>) {
    assert_eq!(encoded.bytes.len() as u64, encoded.root.len_bytes());
    let mut out = Encoder::new();
    encoded.root.encode(&mut out);
    let out = out.finish();
    let root = IndexRoot::decode(&mut Decoder::new(&out)).expect("a root comes back");
    assert_eq!(root, encoded.root);
    let memory = Arc::new(Memory { bytes: encoded.bytes.clone(), reads: AtomicU64::new(0) });
    (Index::new(memory.clone(), root, SEED, Arc::clone(cache)), memory)
}
