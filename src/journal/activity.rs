//! How busy a source was, in spans of ten seconds: what gives an attack or a batch job away.

use std::collections::HashMap;

use super::encode::Content;
use super::record::{Stamp, flag};
use crate::types::{DecodeError, Decoder, Encoder, FileId, Mark, NamespaceChange, PAGE_BYTES, Time};

/// Length of a span.
const SPAN_NS: i64 = 10_000_000_000;

/// How many of the busiest files a span names.
const BUSIEST_MAX: usize = 8;

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

/// Counts as changes come in.
#[derive(Debug, Default)]
pub struct ActivityBuilder {
    done: Activity,
    span: ActivitySpan,
    written: HashMap<FileId, u64>,
}

impl ActivityBuilder {
    pub fn add(&mut self, stamp: Stamp, content: &Content) {
        let start = Time(stamp.time.0.saturating_sub(stamp.time.0.rem_euclid(SPAN_NS)));
        if start != self.span.start {
            self.end_span();
            self.span.start = start;
        }
        match content {
            Content::Data { head, flags } => {
                let part = flags & flag::CONTINUATION != 0;
                self.span.truncates += u64::from(flags & flag::CUT != 0 && !part);
                let zero = flags & flag::ZERO != 0;
                if zero || head.page_count == 0 {
                    return;
                }
                let bytes = head.page_count * PAGE_BYTES as u64;
                if flags & flag::IMAGE != 0 {
                    self.span.image_bytes += bytes;
                    return;
                }
                self.span.written_bytes += bytes;
                *self.written.entry(head.file).or_default() += bytes;
                if flags & flag::ZSTD == 0 {
                    self.span.incompressible_bytes += bytes;
                }
            }
            Content::Names(NamespaceChange::Create { .. }) => self.span.creates += 1,
            Content::Names(NamespaceChange::Unlink { .. }) => self.span.unlinks += 1,
            Content::Names(NamespaceChange::Rename { .. }) => self.span.renames += 1,
            Content::Mark(Mark::Barrier { .. }) => self.span.syncs += 1,
            Content::Names(_) | Content::Mark(_) => {}
        }
    }

    fn end_span(&mut self) {
        let mut busiest: Vec<(FileId, u64)> = self.written.drain().collect();
        busiest.sort_by_key(|&(file, bytes)| (std::cmp::Reverse(bytes), file));
        busiest.truncate(BUSIEST_MAX);
        let span = ActivitySpan { busiest, ..std::mem::take(&mut self.span) };
        if span != (ActivitySpan { start: span.start, ..ActivitySpan::default() }) {
            self.done.spans.push(span);
        }
    }

    pub fn finish(mut self) -> Activity {
        self.end_span();
        self.done
    }

    /// Bytes that the section takes at the most.
    pub fn len_bytes_max(&self) -> u64 {
        (self.done.spans.len() as u64 + 1) * 512
    }
}

impl Activity {
    pub(super) fn encode(&self, out: &mut Encoder) {
        for span in &self.spans {
            out.signed_varint(span.start.0 / SPAN_NS);
            for count in span.counts() {
                out.varint(count);
            }
            out.varint(span.busiest.len() as u64);
            for &(file, bytes) in &span.busiest {
                out.varint(file.0);
                out.varint(bytes);
            }
        }
    }

    pub(super) fn decode(input: &mut Decoder<'_>) -> Result<Activity, DecodeError> {
        let mut spans = Vec::new();
        while !input.is_empty() {
            let start = input.signed_varint()?.checked_mul(SPAN_NS).ok_or_else(|| input.error("time"))?;
            let mut span = ActivitySpan { start: Time(start), ..ActivitySpan::default() };
            for count in span.counts_mut() {
                *count = input.varint()?;
            }
            for _ in 0..input.varint()? {
                span.busiest.push((FileId(input.varint()?), input.varint()?));
            }
            spans.push(span);
        }
        Ok(Activity { spans })
    }
}

impl ActivitySpan {
    fn counts(&self) -> [u64; 8] {
        [
            self.written_bytes,
            self.incompressible_bytes,
            self.image_bytes,
            self.creates,
            self.unlinks,
            self.renames,
            self.truncates,
            self.syncs,
        ]
    }

    fn counts_mut(&mut self) -> [&mut u64; 8] {
        [
            &mut self.written_bytes,
            &mut self.incompressible_bytes,
            &mut self.image_bytes,
            &mut self.creates,
            &mut self.unlinks,
            &mut self.renames,
            &mut self.truncates,
            &mut self.syncs,
        ]
    }
}
