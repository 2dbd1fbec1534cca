//! How busy a source was, in spans of ten seconds: what gives an attack or a batch job away.

use crate::types::{FileId, Time};

/// Length of a span.
pub const SPAN_NS: i64 = 10_000_000_000;

/// How many of the busiest files a span names.
pub const BUSIEST_MAX: usize = 8;

/// What happened in ten seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActivitySpan {
    /// A multiple of ten seconds.
    pub start: Time,
    /// Bytes of pages written by applications.
    pub written_bytes: u64,
    /// Of these, bytes that did not compress; encryption shows here.
    pub incompressible_bytes: u64,
    /// Bytes recorded by the image or a comparison, not written by anyone.
    pub image_bytes: u64,
    pub creates: u64,
    pub unlinks: u64,
    pub renames: u64,
    pub truncates: u64,
    pub syncs: u64,
    /// Files with the most bytes written, most first.
    pub busiest: Vec<(FileId, u64)>,
}

/// Spans in ascending order; one in which nothing happened is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    pub spans: Vec<ActivitySpan>,
}
