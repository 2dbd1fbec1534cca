//! Why an index cannot answer.

use std::sync::Arc;

/// An index that cannot be read. Names the object, usually a segment, and the place in it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IndexError {
    #[error("index block {block} of {object} at byte {offset_bytes} is damaged: {what}")]
    Damaged { object: String, block: u32, offset_bytes: u64, what: &'static str },
    #[error("cannot read index block {block} of {object} at byte {offset_bytes}: {source}")]
    Storage { object: String, block: u32, offset_bytes: u64, source: Arc<std::io::Error> },
}
