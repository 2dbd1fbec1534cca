//! Takes stock of a segment that was open when its writer died, and judges what of it was durable.
//!
//! A flush record tells up to where the file was durable when it was written. A bad record before that place
//! is damage: it stays, and is reported. The first bad one behind it was torn by the crash: nothing from
//! there on was ever promised to anyone, and it is cut.

use std::io;

use super::contents::Contents;
use super::encode::Content;
use super::error::DamagedPlace;
use super::header::HEADER_BLOCK_BYTES;
use super::record::{Header, Kind, RawRecord, Stamp, data_head, flag};
use super::records::content_of;
use super::scan::{Found, Scanner};
use super::segment::{Seeds, SegmentId};
use crate::index::Location;
use crate::io::DiskFile;
use crate::types::Position;

/// Everything found in a file, in order.
pub struct Survey {
    segment: SegmentId,
    items: Vec<Item>,
    /// The highest place in the order seen in any sound header.
    pub highest: Stamp,
    /// What the flush records found tell.
    durable: (Position, u64),
    /// An end record with something behind it: it was durable, and all records with it.
    end_confirmed: bool,
    /// Behind the last byte that is not zero.
    used_end_bytes: u64,
}

enum Item {
    Change {
        location: Location,
        stamp: Stamp,
        flags: u8,
        content: Content,
    },
    /// A data record whose payload alone is damaged.
    LostPages {
        location: Location,
        stamp: Stamp,
        flags: u8,
        content: Content,
    },
    /// A flush record.
    Neutral {
        stamp: Stamp,
        end_bytes: u64,
    },
    Damaged {
        offset_bytes: u64,
        len_bytes: u64,
        known: Option<Stamp>,
    },
    End {
        stamp: Stamp,
        end_bytes: u64,
    },
}

/// What of a segment stays.
pub struct Kept {
    pub contents: Contents,
    /// Where the end record goes, or behind it if there is one.
    pub end_bytes: u64,
    pub has_end: bool,
    /// Flush records vouch for everything before this.
    pub durable_end_bytes: u64,
    pub discarded_bytes: u64,
    pub discarded_changes: u64,
}

impl Survey {
    /// Walks over the whole file.
    pub fn take(file: &dyn DiskFile, seeds: Seeds, segment: SegmentId, len_bytes: u64) -> io::Result<Survey> {
        let start_bytes = HEADER_BLOCK_BYTES as u64;
        let mut scanner = Scanner::new(file, seeds, start_bytes, len_bytes);
        let mut survey = Survey {
            segment,
            items: Vec::new(),
            highest: Stamp::default(),
            durable: (Position::ZERO, start_bytes),
            end_confirmed: false,
            used_end_bytes: start_bytes,
        };
        while let Some(found) = scanner.next()? {
            survey.used_end_bytes = scanner.at_bytes();
            match found {
                Found::Damaged { offset_bytes, len_bytes, header } => {
                    survey.used_end_bytes = offset_bytes + len_bytes;
                    survey.take_damage(offset_bytes, len_bytes, header);
                }
                Found::Record { offset_bytes, bytes, .. } => {
                    let raw = RawRecord::decode(&bytes, seeds, offset_bytes).expect("the scanner checked it");
                    if survey.take_record(&raw, offset_bytes, scanner.at_bytes()) {
                        survey.end_confirmed = scanner.anything_follows()?;
                        break;
                    }
                }
            }
        }
        Ok(survey)
    }

    fn see(&mut self, stamp: Stamp) {
        self.highest.position = self.highest.position.max(stamp.position);
        self.highest.time = self.highest.time.max(stamp.time);
    }

    fn take_damage(&mut self, offset_bytes: u64, len_bytes: u64, header: Option<(Header, Vec<u8>)>) {
        let Some((header, extra)) = header else {
            self.items.push(Item::Damaged { offset_bytes, len_bytes, known: None });
            return;
        };
        let stamp = header.stamp;
        self.see(stamp);
        self.items.push(match data_head(&header, &extra) {
            Some(head) => {
                let location = Location { offset_bytes, len_bytes: header.len_bytes() };
                let flags = header.flags;
                Item::LostPages { location, stamp, flags, content: Content::Data { head, flags } }
            }
            None => Item::Damaged { offset_bytes, len_bytes, known: Some(stamp) },
        });
    }

    /// Whether it is the end record.
    fn take_record(&mut self, raw: &RawRecord<'_>, offset_bytes: u64, end_bytes: u64) -> bool {
        let stamp = raw.header.stamp;
        self.see(stamp);
        match (raw.header.kind, content_of(raw)) {
            (Kind::End, _) => self.items.push(Item::End { stamp, end_bytes }),
            (Kind::Flush, _) => {
                if let Some((position, durable_end_bytes)) = raw.flush() {
                    let (highest, end) = self.durable;
                    self.durable = (highest.max(position), end.max(durable_end_bytes.min(offset_bytes)));
                }
                self.items.push(Item::Neutral { stamp, end_bytes });
            }
            (_, Some(content)) => {
                let location = Location { offset_bytes, len_bytes: raw.header.len_bytes() };
                self.items.push(Item::Change { location, stamp, flags: raw.header.flags, content });
            }
            (_, None) => {
                let len_bytes = end_bytes - offset_bytes;
                self.items.push(Item::Damaged { offset_bytes, len_bytes, known: Some(stamp) });
            }
        }
        raw.header.kind == Kind::End
    }

    /// Sorts what was durable from what was torn, and damage from both. `first_position` is what the
    /// header says, `next_first_position` what the next segment's says.
    pub fn judge(&self, first_position: Option<Position>, next_first_position: Option<Position>) -> Kept {
        let all_durable = self.end_confirmed || next_first_position.is_some();
        let mut judge = Judge {
            segment: self.segment,
            durable_end_bytes: if all_durable { u64::MAX } else { self.durable.1 },
            contents: Contents::default(),
            change: Vec::new(),
            expected: first_position,
            gap: None,
            end_bytes: HEADER_BLOCK_BYTES as u64,
            has_end: false,
        };
        let cut = self.items.iter().position(|item| judge.take(item));
        let torn = judge.drop_incomplete_tail();
        let known_end = next_first_position.map(Position::previous);
        let last_promised = known_end.or((self.durable.0 > Position::ZERO).then_some(self.durable.0));
        judge.close_gap(last_promised.map(Position::next), judge.end_bytes);
        let discarded = &self.items[cut.unwrap_or(self.items.len())..];
        Kept {
            discarded_bytes: if cut.is_some() || torn { self.used_end_bytes - judge.end_bytes } else { 0 },
            discarded_changes: discarded.iter().filter(|item| item.completes_change()).count() as u64,
            end_bytes: judge.end_bytes,
            has_end: judge.has_end,
            durable_end_bytes: self.durable.1,
            contents: judge.contents,
        }
    }
}

impl Item {
    fn completes_change(&self) -> bool {
        matches!(self, Item::Change { flags, .. } if flags & flag::CONTINUES == 0)
    }
}

/// Walks over the items and keeps what stays.
struct Judge {
    segment: SegmentId,
    durable_end_bytes: u64,
    contents: Contents,
    /// Records of a change that is not complete yet.
    change: Vec<(Location, Stamp, Content)>,
    /// The position of the next change; `None` until it is known where the segment begins.
    expected: Option<Position>,
    /// Damage that may have taken changes: it is known which, once the next sound one is seen.
    gap: Option<DamagedPlace>,
    end_bytes: u64,
    has_end: bool,
}

impl Judge {
    /// Whether the segment is to be cut before this item.
    fn take(&mut self, item: &Item) -> bool {
        match item {
            Item::Change { location, stamp, flags, content } => {
                self.take_change(*location, *stamp, *flags, content);
                false
            }
            Item::LostPages { location, stamp, flags, content } => {
                if location.offset_bytes >= self.durable_end_bytes {
                    return true;
                }
                self.take_change(*location, *stamp, *flags, content);
                let mut place = self.place(location.offset_bytes, u64::from(location.len_bytes));
                place.positions = Some((stamp.position, stamp.position));
                place.contained = true;
                self.contents.damaged.push(place);
                false
            }
            // Both carry the position of the last change before them.
            Item::Neutral { stamp, end_bytes } => {
                self.close_gap(Some(stamp.position.next()), self.end_bytes);
                self.end_bytes = *end_bytes;
                false
            }
            Item::End { stamp, end_bytes } => {
                self.close_gap(Some(stamp.position.next()), self.end_bytes);
                self.end_bytes = *end_bytes;
                self.has_end = true;
                false
            }
            Item::Damaged { offset_bytes, len_bytes, known } => {
                if *offset_bytes >= self.durable_end_bytes {
                    return true;
                }
                self.take_damage(*offset_bytes, *len_bytes, *known);
                false
            }
        }
    }

    fn take_change(&mut self, location: Location, stamp: Stamp, flags: u8, content: &Content) {
        let begins = flags & flag::CONTINUATION == 0;
        if begins {
            self.change.clear();
            self.close_gap(Some(stamp.position), location.offset_bytes);
        }
        self.end_bytes = location.offset_bytes
            + u64::from(location.len_bytes).next_multiple_of(super::record::ALIGN_BYTES as u64);
        let follows = self.change.last().is_some_and(|(_, before, _)| before.position == stamp.position);
        // A part whose beginning is lost is lost with it; so is a change from before those already seen.
        if begins && self.expected.is_none_or(|expected| stamp.position >= expected) || !begins && follows {
            self.change.push((location, stamp, content.clone()));
        }
        if flags & flag::CONTINUES != 0 {
            return;
        }
        if self.change.is_empty() {
            self.gap.get_or_insert_with(|| missing(self.segment, location.offset_bytes));
            return;
        }
        for (location, stamp, content) in self.change.drain(..) {
            self.contents.add(location, stamp, &content);
        }
        self.expected = Some(stamp.position.next());
    }

    fn take_damage(&mut self, offset_bytes: u64, len_bytes: u64, known: Option<Stamp>) {
        self.end_bytes = offset_bytes + len_bytes.next_multiple_of(super::record::ALIGN_BYTES as u64);
        self.change.clear();
        let mut place = self.place(offset_bytes, len_bytes);
        if let Some(stamp) = known {
            self.close_gap(Some(stamp.position), offset_bytes);
            place.positions = Some((stamp.position, stamp.position));
            self.expected = Some(stamp.position.next());
            self.contents.damaged.push(place);
        } else if let Some(gap) = &mut self.gap {
            gap.len_bytes = self.end_bytes - gap.offset_bytes;
        } else {
            self.gap = Some(place);
        }
    }

    /// The next sound change has position `next`: says what the gap before it took. A gap that took nothing,
    /// such as a damaged flush record, is harmless.
    fn close_gap(&mut self, next: Option<Position>, offset_bytes: u64) {
        let lost = match (self.expected, next) {
            (Some(expected), Some(next)) if expected < next => Some((expected, next.previous())),
            // Nobody knows where the segment began, or ended.
            (None, Some(next)) if self.gap.is_some() => Some((next.previous(), next.previous())),
            _ => None,
        };
        let gap = self.gap.take().or_else(|| lost.map(|_| missing(self.segment, offset_bytes)));
        if let Some(mut place) = gap {
            place.positions = lost;
            place.contained = lost.is_none();
            self.contents.damaged.push(place);
        }
        if let (Some(_), Some(next)) = (lost, next) {
            self.expected = Some(next);
        }
    }

    /// A change that lacks its last records at the very end was torn. Whether there was one.
    fn drop_incomplete_tail(&mut self) -> bool {
        let Some((location, stamp, _)) = self.change.first() else {
            return false;
        };
        if location.offset_bytes < self.durable_end_bytes {
            let mut place = self.place(location.offset_bytes, self.end_bytes - location.offset_bytes);
            place.positions = Some((stamp.position, stamp.position));
            self.contents.damaged.push(place);
            self.expected = Some(stamp.position.next());
            return false;
        }
        self.end_bytes = location.offset_bytes;
        true
    }

    fn place(&self, offset_bytes: u64, len_bytes: u64) -> DamagedPlace {
        DamagedPlace { len_bytes, ..missing(self.segment, offset_bytes) }
    }
}

/// Changes that are not where they should be.
fn missing(segment: SegmentId, offset_bytes: u64) -> DamagedPlace {
    let what = "record".to_owned();
    DamagedPlace { segment, what, offset_bytes, len_bytes: 0, positions: None, contained: false }
}
