//! A source at one position, read-only: names, attributes and bytes exactly as they stood.
//!
//! Owns how a position's tree is put together (snapshot, tail, sizes), how a page is found (newest segment
//! first, stop at the first hit), and the cache of decoded chunks. It leaves what is mountable to the
//! repository, and what a mount writes to the overlay.

#[expect(dead_code, reason = "the view that reads through it comes next")]
mod cache;

pub use cache::{CacheCounters, ViewCache};
