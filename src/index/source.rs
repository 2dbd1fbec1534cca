//! Where the blocks of an index come from.

use std::io;
use std::sync::Arc;

use super::BLOCK_BYTES;
use crate::io::DiskFile;

/// Storage of one index, a block at a time.
pub trait BlockSource: Send + Sync {
    /// Reads the block with this number.
    ///
    /// # Errors
    /// The storage's; `UnexpectedEof` if it ends before the block does.
    fn read_block(&self, block: u32, into: &mut [u8; BLOCK_BYTES]) -> io::Result<()>;

    /// The object that holds the index, as errors name it.
    fn object(&self) -> String;

    /// Where the block lies in the object, as errors name it.
    fn offset_bytes(&self, block: u32) -> u64;
}

/// An index that lies in a file from `offset_bytes` on.
pub struct FileRegion {
    pub file: Arc<dyn DiskFile>,
    pub offset_bytes: u64,
    /// The file's name as errors give it.
    pub object: String,
}

impl BlockSource for FileRegion {
    fn read_block(&self, block: u32, into: &mut [u8; BLOCK_BYTES]) -> io::Result<()> {
        let offset_bytes = self.offset_bytes(block);
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            let got = self.file.read_at(offset_bytes + filled as u64, &mut into[filled..])?;
            if got == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends inside the index"));
            }
            filled += got;
        }
        Ok(())
    }

    fn object(&self) -> String {
        self.object.clone()
    }

    fn offset_bytes(&self, block: u32) -> u64 {
        self.offset_bytes.saturating_add(u64::from(block) * BLOCK_BYTES as u64)
    }
}
