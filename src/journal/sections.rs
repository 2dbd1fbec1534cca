//! The small sections of a sealed segment: names, marks, times, activity, and the damage that recovery found.
//!
//! Each is encoded, compressed with zstd, and checked by a checksum in the footer.

use std::io::Read;

use super::activity::Activity;
use super::error::DamagedPlace;
use super::publish::{MarkAt, NamesAt};
use super::segment::SegmentId;
use super::times::TimeTable;
use crate::types::{DecodeError, Decoder, Encoder, Mark, NamespaceChange, Position, Time};

const ZSTD_LEVEL: i32 = 3;

/// What a section holds. The number is its place in the footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SectionKind {
    Names = 0,
    Marks = 1,
    Times = 2,
    Activity = 3,
    Damage = 4,
}

impl SectionKind {
    pub const ALL: [SectionKind; 5] = [
        SectionKind::Names,
        SectionKind::Marks,
        SectionKind::Times,
        SectionKind::Activity,
        SectionKind::Damage,
    ];

    /// As errors name it.
    pub fn name(self) -> &'static str {
        match self {
            SectionKind::Names => "names section",
            SectionKind::Marks => "marks section",
            SectionKind::Times => "time table",
            SectionKind::Activity => "activity section",
            SectionKind::Damage => "damage section",
        }
    }
}

/// Something that is a section.
pub trait Section: Sized {
    const KIND: SectionKind;
    fn encode(&self, out: &mut Encoder);
    fn decode(input: &mut Decoder<'_>, segment: SegmentId) -> Result<Self, DecodeError>;
}

/// The stored form and its length before compression.
pub fn pack<S: Section>(section: &S) -> std::io::Result<(Vec<u8>, u64)> {
    let mut out = Encoder::new();
    section.encode(&mut out);
    let raw = out.finish();
    Ok((zstd::bulk::compress(&raw, ZSTD_LEVEL)?, raw.len() as u64))
}

/// The inverse of [`pack`]; `None` for bytes it cannot have given. Memory grows with what the bytes really
/// hold, at most `raw_len_bytes`.
pub fn unpack<S: Section>(stored: &[u8], raw_len_bytes: u64, segment: SegmentId) -> Option<S> {
    let mut raw = Vec::new();
    let mut zstd = zstd::stream::read::Decoder::new(stored).ok()?.take(raw_len_bytes.checked_add(1)?);
    zstd.read_to_end(&mut raw).ok()?;
    if raw.len() as u64 != raw_len_bytes {
        return None;
    }
    let mut input = Decoder::new(&raw);
    let section = S::decode(&mut input, segment).ok()?;
    input.finish().ok()?;
    Some(section)
}

/// Encodes and decodes ascending places: each position and time as the difference to the last.
#[derive(Default)]
struct Places {
    position: u64,
    time: i64,
}

impl Places {
    fn encode(&mut self, position: Position, time: Time, out: &mut Encoder) {
        out.varint(position.0.wrapping_sub(self.position));
        out.varint(time.0.wrapping_sub(self.time) as u64);
        (self.position, self.time) = (position.0, time.0);
    }

    fn decode(&mut self, input: &mut Decoder<'_>) -> Result<(Position, Time), DecodeError> {
        self.position = self.position.wrapping_add(input.varint()?);
        self.time = self.time.wrapping_add(input.varint()? as i64);
        Ok((Position(self.position), Time(self.time)))
    }
}

impl Section for Vec<NamesAt> {
    const KIND: SectionKind = SectionKind::Names;

    fn encode(&self, out: &mut Encoder) {
        let mut places = Places::default();
        for names in self {
            places.encode(names.position, names.time, out);
            names.change.encode(out);
        }
    }

    fn decode(input: &mut Decoder<'_>, _: SegmentId) -> Result<Self, DecodeError> {
        let (mut places, mut all) = (Places::default(), Vec::new());
        while !input.is_empty() {
            let (position, time) = places.decode(input)?;
            all.push(NamesAt { position, time, change: NamespaceChange::decode(input)? });
        }
        Ok(all)
    }
}

impl Section for Vec<MarkAt> {
    const KIND: SectionKind = SectionKind::Marks;

    fn encode(&self, out: &mut Encoder) {
        let mut places = Places::default();
        for mark in self {
            places.encode(mark.position, mark.time, out);
            mark.mark.encode(out);
        }
    }

    fn decode(input: &mut Decoder<'_>, _: SegmentId) -> Result<Self, DecodeError> {
        let (mut places, mut all) = (Places::default(), Vec::new());
        while !input.is_empty() {
            let (position, time) = places.decode(input)?;
            all.push(MarkAt { position, time, mark: Mark::decode(input)? });
        }
        Ok(all)
    }
}

impl Section for TimeTable {
    const KIND: SectionKind = SectionKind::Times;

    fn encode(&self, out: &mut Encoder) {
        out.varint(self.last_position().0);
        let mut places = Places::default();
        for &(position, time) in self.steps() {
            places.encode(position, time, out);
        }
    }

    fn decode(input: &mut Decoder<'_>, _: SegmentId) -> Result<Self, DecodeError> {
        let last_position = Position(input.varint()?);
        let (mut places, mut table) = (Places::default(), TimeTable::default());
        while !input.is_empty() {
            let (position, time) = places.decode(input)?;
            let ascends = table.steps().last().is_none_or(|(p, t)| *p < position && *t < time);
            if !ascends || position > last_position {
                return Err(input.error("step of time"));
            }
            table.push(position, time);
        }
        table.reach(last_position);
        Ok(table)
    }
}

impl Section for Activity {
    const KIND: SectionKind = SectionKind::Activity;

    fn encode(&self, out: &mut Encoder) {
        Activity::encode(self, out);
    }

    fn decode(input: &mut Decoder<'_>, _: SegmentId) -> Result<Self, DecodeError> {
        Activity::decode(input)
    }
}

impl Section for Vec<DamagedPlace> {
    const KIND: SectionKind = SectionKind::Damage;

    fn encode(&self, out: &mut Encoder) {
        for place in self {
            out.bytes(place.what.as_bytes());
            out.varint(place.offset_bytes);
            out.varint(place.len_bytes);
            out.bool(place.contained);
            out.bool(place.positions.is_some());
            if let Some((first, last)) = place.positions {
                out.varint(first.0);
                out.varint(last.0);
            }
        }
    }

    fn decode(input: &mut Decoder<'_>, segment: SegmentId) -> Result<Self, DecodeError> {
        let mut all = Vec::new();
        while !input.is_empty() {
            let what = input.text()?;
            let (offset_bytes, len_bytes) = (input.varint()?, input.varint()?);
            let contained = input.bool()?;
            let positions = match input.bool()? {
                true => Some((Position(input.varint()?), Position(input.varint()?))),
                false => None,
            };
            all.push(DamagedPlace { segment, what, offset_bytes, len_bytes, positions, contained });
        }
        Ok(all)
    }
}
