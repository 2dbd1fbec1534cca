//! Where the pages of a file at one position are: segment by segment, the newest first, each asked only for
//! what no newer one answered.

use std::sync::Arc;

use super::cache::{Chunk, ChunkKey, ViewCache};
use super::error::{index_error, record_error, segment_error};
use crate::index::{Content, Found, Location};
use crate::repository::History;
use crate::types::{FileId, ImageError, PAGE_BYTES, Position};

/// Pages located at once when searching for a hole.
const SEARCH_PAGES: u64 = 1024;

/// Pages `first_page .. first_page + count` of a file, all from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub first_page: u64,
    pub count: u64,
    /// `None` if the pages read as zeros.
    pub stored: Option<Stored>,
}

/// A part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    segment: usize,
    location: Location,
    page_in_record: u32,
    position: Position,
}

/// The pages of a source at one position.
///
/// Segments are disjoint in time and none is consulted that begins after the position, so the newest segment
/// that says anything of a page is right.
pub(super) struct Pages {
    history: Arc<History>,
    position: Position,
    /// Segments of the history that begin at or before the position and may hold pages of its files.
    segments: std::ops::Range<usize>,
    cache: Arc<ViewCache>,
}

impl Pages {
    pub fn new(history: Arc<History>, position: Position, cache: Arc<ViewCache>) -> Pages {
        let segments = history.segments_from(position)..history.segments_before(position);
        Pages { history, position, segments, cache }
    }

    /// Where `count` pages from `first_page` on are: ascending, without gaps or overlaps.
    pub fn locate(&self, file: FileId, first_page: u64, count: u64) -> Result<Vec<Piece>, ImageError> {
        let mut pieces = Vec::new();
        let mut open = vec![(first_page, count)];
        let mut still_open = Vec::new();
        let mut found: Vec<Found> = Vec::new();
        for number in self.segments.clone().rev() {
            if open.is_empty() {
                break;
            }
            let segment = self.history.segment(number).map_err(|error| segment_error(&error))?;
            found.clear();
            for &(first_page, count) in &open {
                segment
                    .index()
                    .lookup(file, first_page, count, self.position, &mut found)
                    .map_err(|error| index_error(&error))?;
            }
            still_open.clear();
            for &Found { first_page, count, content } in &found {
                match content {
                    Content::Pages { position, location, page_in_record } => {
                        let stored = Stored { segment: number, location, page_in_record, position };
                        pieces.push(Piece { first_page, count, stored: Some(stored) });
                    }
                    Content::Zeros { .. } => pieces.push(Piece { first_page, count, stored: None }),
                    Content::Absent => extend_or_push(&mut still_open, first_page, count),
                }
            }
            std::mem::swap(&mut open, &mut still_open);
        }
        pieces.extend(open.iter().map(|&(first_page, count)| Piece { first_page, count, stored: None }));
        pieces.sort_unstable_by_key(|piece| piece.first_page);
        Ok(pieces)
    }

    /// The first page in `first_page .. end_page` that is stored, however long the hole before it.
    pub fn next_stored(
        &self,
        file: FileId,
        first_page: u64,
        end_page: u64,
    ) -> Result<Option<u64>, ImageError> {
        let mut page = first_page;
        while page < end_page {
            let mut hole_pages = end_page - page;
            for number in self.segments.clone().rev() {
                let segment = self.history.segment(number).map_err(|error| segment_error(&error))?;
                let piece = segment
                    .index()
                    .piece_at(file, page, self.position)
                    .map_err(|error| index_error(&error))?;
                hole_pages = hole_pages.min(piece.count);
                match piece.content {
                    Content::Pages { .. } => return Ok(Some(page)),
                    Content::Zeros { .. } => break,
                    Content::Absent => {}
                }
            }
            page += hole_pages;
        }
        Ok(None)
    }

    /// The first page in `first_page .. end_page` that is not stored.
    pub fn next_unstored(
        &self,
        file: FileId,
        first_page: u64,
        end_page: u64,
    ) -> Result<Option<u64>, ImageError> {
        let mut page = first_page;
        while page < end_page {
            let count = SEARCH_PAGES.min(end_page - page);
            let pieces = self.locate(file, page, count)?;
            if let Some(hole) = pieces.iter().find(|piece| piece.stored.is_none()) {
                return Ok(Some(hole.first_page));
            }
            page += count;
        }
        Ok(None)
    }

    /// The chunk that holds a piece, and where in its bytes the piece begins.
    pub fn chunk(&self, file: FileId, piece: &Piece, stored: &Stored) -> Result<(Chunk, usize), ImageError> {
        let id = self.history.segments()[stored.segment].id;
        let segment = u64::from(id.epoch.0) << 32 | u64::from(id.sequence);
        let key = ChunkKey { segment, offset_bytes: stored.location.offset_bytes };
        let chunk = self.cache.chunk(key, || self.read(stored))?;
        let begin = stored.page_in_record as usize * PAGE_BYTES;
        let end = begin as u64 + piece.count * PAGE_BYTES as u64;
        let is_the_one = chunk.file == file
            && chunk.position == stored.position
            && chunk.first_page + u64::from(stored.page_in_record) == piece.first_page
            && end <= chunk.bytes.len() as u64;
        if is_the_one {
            return Ok((chunk, begin));
        }
        // Index and record are each intact and contradict each other: neither may be believed.
        Err(ImageError::Damaged {
            what: format!(
                "index or record of segment {id} at byte {}: the index says change {} of {file:?} page {}, the \
                 record holds change {} of {:?} from page {} on",
                stored.location.offset_bytes,
                stored.position,
                piece.first_page,
                chunk.position,
                chunk.file,
                chunk.first_page
            ),
        })
    }

    fn read(&self, stored: &Stored) -> Result<Chunk, ImageError> {
        let segment = self.history.segment(stored.segment).map_err(|error| segment_error(&error))?;
        let pages = segment.read_record(stored.location).map_err(|error| record_error(&error))?;
        let (file, position) = (pages.file, pages.position);
        Ok(Chunk { file, position, first_page: pages.first_page, bytes: pages.bytes })
    }
}

fn extend_or_push(ranges: &mut Vec<(u64, u64)>, first_page: u64, count: u64) {
    match ranges.last_mut() {
        Some((last_first, last_count)) if *last_first + *last_count == first_page => *last_count += count,
        _ => ranges.push((first_page, count)),
    }
}
