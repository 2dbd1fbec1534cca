//! What a clean stop knows of every backing file, so that the next start reads only those that changed since.

use std::collections::HashMap;

use crate::types::{DecodeError, FileId, Position, Time};

/// Which backing inode was in which state when capture stopped in good order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// The last position of the life that wrote it.
    pub position: Position,
    pub(super) files: HashMap<FileId, CatalogueEntry>,
}

/// One regular file's identity and state; `changed` (ctime) moves with every change that anyone makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CatalogueEntry {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    pub modified: Time,
    pub changed: Time,
}

impl Catalogue {
    /// Whether it was written at the end of a journal whose last position is `end`, the clean stop's.
    #[must_use]
    pub fn is_of_end(&self, end: Position) -> bool {
        end == self.position.next()
    }

    /// The catalogue as bytes, bound to `identity` (what names the source).
    #[must_use]
    pub fn encode(&self, identity: &[u8]) -> Vec<u8> {
        let _ = identity;
        panic!("catalogue encoding")
    }

    /// # Errors
    /// `DecodeError` for bytes that [`Catalogue::encode`] cannot have written under this `identity`.
    pub fn decode(bytes: &[u8], identity: &[u8]) -> Result<Catalogue, DecodeError> {
        let _ = (bytes, identity);
        panic!("catalogue decoding")
    }
}
