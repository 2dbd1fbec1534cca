//! What a segment holds besides its records, collected while they are appended or scanned.

use std::collections::HashMap;

use super::activity::ActivityBuilder;
use super::encode::Content;
use super::error::DamagedPlace;
use super::publish::{MarkAt, NamesAt, SegmentSummary};
use super::record::{Stamp, flag};
use super::times::TimeTable;
use crate::index::{END_OF_FILE, IndexBuilder, Location};
use crate::types::{AttributeChange, FileId, Mark, NamespaceChange, PAGE_BYTES, Position, Time, pages_of};

/// Bytes that the footers and the encoding of sections may take beyond what is counted.
const SLACK_BYTES: u64 = 20 << 10;

/// Index and sections in the making.
#[derive(Default)]
pub struct Contents {
    pub index: IndexBuilder,
    pub names: Vec<NamesAt>,
    pub marks: Vec<MarkAt>,
    pub times: TimeTable,
    pub activity: ActivityBuilder,
    pub damaged: Vec<DamagedPlace>,
    pub summary: SegmentSummary,
    /// Bytes of the records whose content goes into sections.
    section_bytes: u64,
    /// The newest size and time in the index, so that a rewrite in place adds none.
    sizes: HashMap<FileId, (u64, Option<Time>)>,
}

impl Contents {
    /// Takes the next record, which lies at `location`.
    pub fn add(&mut self, location: Location, stamp: Stamp, content: &Content) {
        if self.summary.last_position < stamp.position || self.is_empty() {
            self.begin_change(stamp, content);
        }
        self.summary.record_bytes += u64::from(location.len_bytes);
        self.activity.add(stamp, content);
        match content {
            Content::Data { head, flags } => {
                let size = (head.size_after, head.mtime);
                if self.sizes.insert(head.file, size) != Some(size) {
                    self.index.add_size(stamp.position, head.file, head.size_after, head.mtime);
                }
                if flags & flag::ZERO != 0 {
                    let end_page = head.first_page + head.page_count;
                    let end_page = if end_page == pages_of(u64::MAX) { END_OF_FILE } else { end_page };
                    if end_page > head.first_page {
                        self.index.add_zero(stamp.position, head.file, head.first_page, end_page);
                    }
                } else if head.page_count > 0 {
                    self.index.add_pages(
                        stamp.position,
                        head.file,
                        head.first_page,
                        head.page_count,
                        location,
                    );
                    self.summary.page_versions += head.page_count;
                    self.summary.captured_bytes += head.page_count * PAGE_BYTES as u64;
                }
            }
            Content::Names(change) => {
                // A time that was set must not be taken for the one that the last write left.
                if let NamespaceChange::Attributes { file, change: AttributeChange { mtime: Some(_), .. } } =
                    change
                {
                    self.sizes.remove(file);
                }
                self.section_bytes += u64::from(location.len_bytes);
                self.names.push(NamesAt {
                    position: stamp.position,
                    time: stamp.time,
                    change: change.clone(),
                });
            }
            Content::Mark(Mark::Barrier { .. } | Mark::Heartbeat) => {}
            Content::Mark(mark) => {
                self.section_bytes += u64::from(location.len_bytes);
                self.marks.push(MarkAt { position: stamp.position, time: stamp.time, mark: mark.clone() });
            }
        }
    }

    fn begin_change(&mut self, stamp: Stamp, content: &Content) {
        if self.is_empty() {
            self.summary.first_position = stamp.position;
            self.summary.first_time = stamp.time;
        }
        self.summary.last_position = stamp.position;
        self.summary.last_time = stamp.time;
        self.times.push(stamp.position, stamp.time);
        match content {
            Content::Data { .. } => self.summary.data_changes += 1,
            Content::Names(_) => self.summary.names_changes += 1,
            Content::Mark(_) => self.summary.marks += 1,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.summary.last_position == Position::ZERO
    }

    /// Whether all it holds are barriers and heartbeats.
    pub fn is_idle(&self) -> bool {
        self.summary.data_changes == 0 && self.names.is_empty() && self.marks.is_empty()
    }

    /// Memory in use, but for what grows with the number of files.
    pub fn held_bytes(&self) -> usize {
        let sections = usize::try_from(self.section_bytes).unwrap_or(usize::MAX);
        self.index.held_bytes().saturating_add(sections.saturating_mul(2))
    }

    /// Bytes that sealing adds to the file at the most.
    pub fn sealed_bytes_max(&self) -> u64 {
        let steps = self.times.steps().len() as u64;
        let damage = self.damaged.len() as u64 * 256;
        let sections = self.section_bytes * 2 + steps * 24 + self.activity.len_bytes_max() + damage;
        self.index.len_bytes_max() + sections + SLACK_BYTES
    }
}
