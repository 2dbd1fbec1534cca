//! The records of a segment in order, decoded.

use bytes::Bytes;

use super::encode::Content;
use super::error::{DamagedPlace, JournalError};
use super::reader::read_error;
use super::record::{DataHead, Header, Kind, RawRecord, Stamp, data_head, flag};
use super::scan::{Found, Scanner};
use super::segment::{Seeds, SegmentId};
use crate::index::Location;
use crate::io::DiskFile;
use crate::types::{Decoder, FileId, Mark, NamespaceChange, PageRange, Position, Time};

/// A record as stored. A change of data may span several, all with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset_bytes: u64,
    /// Header and payload, without the padding.
    pub len_bytes: u32,
    pub position: Position,
    pub time: Time,
    /// The wall clock had gone back; `time` is not what it showed.
    pub clock_held: bool,
    /// More records of the same change follow.
    pub continues: bool,
    pub body: RecordBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordBody {
    /// Pages get bytes; none means that only size and time change.
    Data {
        file: FileId,
        size_after: u64,
        mtime: Option<Time>,
        first_page: u64,
        bytes: Bytes,
    },
    /// Pages read as zeros; `cut` if it is the end of a truncated file, and the range has no end.
    Zero {
        file: FileId,
        size_after: u64,
        mtime: Option<Time>,
        pages: PageRange,
        cut: bool,
    },
    Names(NamespaceChange),
    Mark(Mark),
    /// Everything up to this position, and all bytes before this offset, were durable when it was written.
    Flush {
        durable_position: Position,
        durable_end_bytes: u64,
    },
    /// No record follows.
    End,
}

/// The records of a segment in order. Damaged stretches are errors; it goes on behind them.
pub struct Records<'a> {
    scanner: Scanner<'a>,
    segment: SegmentId,
    seeds: Seeds,
    /// The last position of the segment, where it is known.
    last_position: Option<Position>,
    /// The last sound record: its position and whether its change was complete.
    last: Option<(Position, bool)>,
    /// Damage whose extent in positions the next sound record will tell.
    pending: Option<DamagedPlace>,
    held_back: Option<Record>,
    ended: bool,
}

impl<'a> Records<'a> {
    pub(super) fn new(
        file: &'a dyn DiskFile,
        segment: SegmentId,
        seeds: Seeds,
        start_bytes: u64,
        end_bytes: u64,
    ) -> Records<'a> {
        let scanner = Scanner::new(file, seeds, start_bytes, end_bytes);
        Records {
            scanner,
            segment,
            seeds,
            last_position: None,
            last: None,
            pending: None,
            held_back: None,
            ended: false,
        }
    }

    /// With the last position of a sealed segment, damage at its end tells what it took.
    pub(super) fn up_to(self, last_position: Position) -> Records<'a> {
        Records { last_position: Some(last_position), ..self }
    }

    /// What the records add to index and sections, without their pages.
    pub(super) fn contents(
        self,
    ) -> impl Iterator<Item = Result<(Location, Stamp, Content), JournalError>> + 'a {
        let Records { mut scanner, segment, seeds, .. } = self;
        std::iter::from_fn(move || {
            loop {
                return match scanner.next() {
                    Err(source) => Some(Err(read_error(segment, source))),
                    Ok(None) => None,
                    Ok(Some(Found::Damaged { offset_bytes, len_bytes, header })) => {
                        Some(damaged_content(segment, offset_bytes, len_bytes, header.as_ref()))
                    }
                    Ok(Some(Found::Record { offset_bytes, bytes, .. })) => {
                        let location = Location { offset_bytes, len_bytes: bytes.len() as u32 };
                        let raw = RawRecord::decode(&bytes, seeds, offset_bytes)?;
                        match content_of(&raw) {
                            Some(content) => Some(Ok((location, raw.header.stamp, content))),
                            None if matches!(raw.header.kind, Kind::Flush | Kind::End) => continue,
                            None => Some(damaged_content(segment, offset_bytes, bytes.len() as u64, None)),
                        }
                    }
                };
            }
        })
    }

    fn place(&self, offset_bytes: u64, len_bytes: u64) -> DamagedPlace {
        let what = "record".to_owned();
        DamagedPlace {
            segment: self.segment,
            what,
            offset_bytes,
            len_bytes,
            positions: None,
            contained: false,
        }
    }

    /// The first change that damage behind the last sound record may have taken.
    fn first_missing(&self) -> Position {
        match self.last {
            Some((position, false)) => position,
            Some((position, true)) => position.next(),
            None => Position::ZERO,
        }
    }

    fn take_record(
        &mut self,
        offset_bytes: u64,
        bytes: &[u8],
        padding_is_zero: bool,
    ) -> Result<(Record, Position), DamagedPlace> {
        let len_bytes = bytes.len() as u32;
        let raw = RawRecord::decode(bytes, self.seeds, offset_bytes);
        let last_before = raw.as_ref().map(|raw| last_change_before(&raw.header));
        let record = raw.and_then(|raw| decode_record(&raw, offset_bytes, len_bytes));
        let record = record.zip(last_before).ok_or_else(|| self.place(offset_bytes, u64::from(len_bytes)))?;
        if !padding_is_zero {
            let mut place = self.place(offset_bytes + u64::from(len_bytes), 8 - u64::from(len_bytes) % 8);
            place.what = "padding".to_owned();
            place.contained = true;
            self.pending.get_or_insert(place);
        }
        Ok(record)
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(record) = self.held_back.take() {
            return Some(Ok(record));
        }
        if self.ended {
            return None;
        }
        let found = match self.scanner.next() {
            Ok(found) => found,
            Err(source) => {
                self.ended = true;
                return Some(Err(read_error(self.segment, source)));
            }
        };
        let place = match found {
            None => {
                self.ended = true;
                if let Some(last_position) = self.last_position {
                    self.close_pending(last_position);
                }
                return self.pending.take().map(|place| Err(JournalError::Damaged(place)));
            }
            Some(Found::Record { offset_bytes, bytes, padding_is_zero }) => {
                match self.take_record(offset_bytes, &bytes, padding_is_zero) {
                    Ok((record, last_before)) => return Some(self.after_record(record, last_before)),
                    Err(place) => place,
                }
            }
            Some(Found::Damaged { offset_bytes, len_bytes, header }) => {
                let mut place = self.place(offset_bytes, len_bytes);
                if let Some((header, extra)) = &header {
                    let position = header.stamp.position;
                    self.close_pending(last_change_before(header));
                    let is_change = !matches!(header.kind, Kind::Flush | Kind::End);
                    place.positions = is_change.then_some((position, position));
                    place.contained = !is_change || data_head(header, extra).is_some();
                    if is_change {
                        self.last = Some((position, !header.has(flag::CONTINUES)));
                    }
                }
                place
            }
        };
        let before = self.pending.replace(place);
        match before {
            Some(before) => Some(Err(JournalError::Damaged(before))),
            None => self.next(),
        }
    }
}

impl Records<'_> {
    /// Gives the damage that lies before `record` first, now that its extent is known.
    fn after_record(&mut self, record: Record, last_before: Position) -> Result<Record, JournalError> {
        let is_change = !matches!(record.body, RecordBody::Flush { .. } | RecordBody::End);
        self.close_pending(last_before);
        if is_change {
            self.last = Some((record.position, !record.continues));
        }
        let Some(place) = self.pending.take() else {
            return Ok(record);
        };
        self.held_back = Some(record);
        Err(JournalError::Damaged(place))
    }

    /// Says which changes the pending damage took, now that everything up to `last_missing` is missing.
    fn close_pending(&mut self, last_missing: Position) {
        let missing = self.first_missing();
        let in_doubt = |place: &&mut DamagedPlace| place.positions.is_none() && !place.contained;
        if let Some(place) = self.pending.as_mut().filter(in_doubt) {
            place.positions = (missing <= last_missing).then_some((missing, last_missing));
            place.contained |= place.positions.is_none();
        }
    }
}

/// The last change that has bytes before this record: of a change of several records its own.
fn last_change_before(header: &Header) -> Position {
    let position = header.stamp.position;
    let begins = !matches!(header.kind, Kind::Flush | Kind::End) && !header.has(flag::CONTINUATION);
    if begins { position.previous() } else { position }
}

/// A data record whose payload alone is damaged still tells which pages it holds.
fn damaged_content(
    segment: SegmentId,
    offset_bytes: u64,
    len_bytes: u64,
    header: Option<&(Header, Vec<u8>)>,
) -> Result<(Location, Stamp, Content), JournalError> {
    if let Some((header, extra)) = header
        && let Some(head) = data_head(header, extra)
    {
        let location = Location { offset_bytes, len_bytes: header.len_bytes() };
        return Ok((location, header.stamp, Content::Data { head, flags: header.flags }));
    }
    let what = "record".to_owned();
    Err(JournalError::Damaged(DamagedPlace {
        segment,
        what,
        offset_bytes,
        len_bytes,
        positions: None,
        contained: false,
    }))
}

/// What a sound record adds to index and sections; `None` for flush and end, and for bytes that no encoder
/// writes.
pub(super) fn content_of(raw: &RawRecord<'_>) -> Option<Content> {
    match raw.header.kind {
        Kind::Data => raw.data_head().map(|head| Content::Data { head, flags: raw.header.flags }),
        Kind::Names => {
            let mut input = Decoder::new(raw.payload);
            let names = NamespaceChange::decode(&mut input).ok()?;
            input.finish().ok()?;
            Some(Content::Names(names))
        }
        Kind::Mark => {
            let mut input = Decoder::new(raw.payload);
            let mark = Mark::decode(&mut input).ok()?;
            input.finish().ok()?;
            Some(Content::Mark(mark))
        }
        Kind::Flush | Kind::End => None,
    }
}

fn decode_record(raw: &RawRecord<'_>, offset_bytes: u64, len_bytes: u32) -> Option<Record> {
    let header = &raw.header;
    let body = match header.kind {
        Kind::Flush => {
            let (durable_position, durable_end_bytes) = raw.flush()?;
            RecordBody::Flush { durable_position, durable_end_bytes }
        }
        Kind::End => RecordBody::End,
        Kind::Names | Kind::Mark | Kind::Data => match content_of(raw)? {
            Content::Names(names) => RecordBody::Names(names),
            Content::Mark(mark) => RecordBody::Mark(mark),
            Content::Data { head, .. } => data_body(raw, &head)?,
        },
    };
    Some(Record {
        offset_bytes,
        len_bytes,
        position: header.stamp.position,
        time: header.stamp.time,
        clock_held: header.stamp.held,
        continues: header.has(flag::CONTINUES),
        body,
    })
}

fn data_body(raw: &RawRecord<'_>, head: &DataHead) -> Option<RecordBody> {
    let DataHead { file, size_after, mtime, first_page, page_count } = *head;
    if raw.header.has(flag::ZERO) {
        let pages = PageRange { first: first_page, count: page_count };
        return Some(RecordBody::Zero { file, size_after, mtime, pages, cut: raw.header.has(flag::CUT) });
    }
    let bytes = if page_count == 0 { Bytes::new() } else { raw.pages(head)? };
    Some(RecordBody::Data { file, size_after, mtime, first_page, bytes })
}
