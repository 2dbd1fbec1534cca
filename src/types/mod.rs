//! The words every module shares: positions, times, files, changes, points, and the trait that reads
//! an image. No input or output happens here; modules of every rank may import this one.

mod change;
mod codec;
mod image;
mod point;
mod position;
mod sink;

pub use change::{
    AttributeChange, Attributes, ChangeBody, DataChange, Mark, NamespaceChange, PageRange, PageWrite,
};
pub use codec::{DecodeError, Decoder, Encoder};
pub use image::{DirectoryEntry, Image, ImageError, Status};
pub use point::{ParsePointError, Point};
pub use position::{Epoch, FileId, FileKind, Position, Time};
pub use sink::{ChangeSink, SinkError, WriterStatus};

/// The unit of addressing in every format and cache, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// One page of zeros.
pub const ZERO_PAGE: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// Number of pages that hold `len_bytes` bytes, the last perhaps in part.
#[must_use]
pub const fn pages_of(len_bytes: u64) -> u64 {
    len_bytes.div_ceil(PAGE_BYTES as u64)
}
