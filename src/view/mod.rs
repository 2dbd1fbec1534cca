//! A source at one position, read-only: names, attributes and bytes exactly as they stood.
//!
//! Owns how a page is found (newest segment first, stop at the first hit), how links that lead into a captured
//! root are shown, and the cache of decoded chunks. It leaves what is mountable and what the names were to the
//! repository, and what a mount writes to the overlay.

mod cache;
mod error;
mod image;
mod links;
mod pages;

pub use cache::{CacheCounters, ViewCache};
pub use error::ViewError;
pub use image::{View, ViewCounters};
