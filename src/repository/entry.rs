//! What the manifest keeps of a segment, a snapshot and an epoch, and their bytes.

use super::history::{Break, Moment, SegmentEntry, SnapshotEntry};
use crate::journal::{DamagedPlace, MarkAt, SegmentId, SegmentSummary};
use crate::types::{DecodeError, Decoder, Encoder, Epoch, Mark, Position, Time};

/// What a manifest object says happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A writer took the seat; none of its positions is below `first_position`.
    EpochBegan {
        epoch: Epoch,
        first_position: Position,
    },
    Sealed(SegmentEntry),
    SnapshotTaken(SnapshotEntry),
}

mod tag {
    pub const EPOCH_BEGAN: u8 = 1;
    pub const SEALED: u8 = 2;
    pub const SNAPSHOT_TAKEN: u8 = 3;
}

impl Event {
    pub fn encode(&self, out: &mut Encoder) {
        match self {
            Event::EpochBegan { epoch, first_position } => {
                out.u8(tag::EPOCH_BEGAN);
                out.u32(epoch.0);
                out.u64(first_position.0);
            }
            Event::Sealed(segment) => {
                out.u8(tag::SEALED);
                segment.encode(out);
            }
            Event::SnapshotTaken(snapshot) => {
                out.u8(tag::SNAPSHOT_TAKEN);
                out.u64(snapshot.position.0);
                out.varint(snapshot.len_bytes);
                out.bool(snapshot.reset);
            }
        }
    }

    pub fn decode(input: &mut Decoder<'_>) -> Result<Event, DecodeError> {
        Ok(match input.u8()? {
            tag::EPOCH_BEGAN => {
                Event::EpochBegan { epoch: Epoch(input.u32()?), first_position: Position(input.u64()?) }
            }
            tag::SEALED => Event::Sealed(SegmentEntry::decode(input)?),
            tag::SNAPSHOT_TAKEN => Event::SnapshotTaken(SnapshotEntry {
                position: Position(input.u64()?),
                len_bytes: input.varint()?,
                reset: input.bool()?,
            }),
            _ => return Err(input.error("kind of manifest event")),
        })
    }
}

impl SegmentEntry {
    fn encode(&self, out: &mut Encoder) {
        encode_id(self.id, out);
        out.varint(self.len_bytes);
        out.bool(self.digest.is_some());
        if let Some(digest) = &self.digest {
            out.raw(digest);
        }
        encode_summary(&self.summary, out);
        out.varint(self.marks.len() as u64);
        for mark in &self.marks {
            encode_moment(Moment { position: mark.position, time: mark.time }, out);
            mark.mark.encode(out);
        }
        out.varint(self.breaks.len() as u64);
        for broken in &self.breaks {
            out.u64(broken.position.0);
            out.bool(broken.last.is_some());
            if let Some(last) = broken.last {
                encode_moment(last, out);
            }
            out.bytes(broken.reason.as_bytes());
        }
        out.varint(self.damaged.len() as u64);
        for place in &self.damaged {
            encode_damaged(place, out);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<SegmentEntry, DecodeError> {
        let id = decode_id(input)?;
        let len_bytes = input.varint()?;
        let digest = if input.bool()? {
            let mut digest = [0; 32];
            digest.copy_from_slice(input.raw(32)?);
            Some(digest)
        } else {
            None
        };
        let summary = decode_summary(input)?;
        let mut marks = Vec::new();
        for _ in 0..input.varint()? {
            let Moment { position, time } = decode_moment(input)?;
            marks.push(MarkAt { position, time, mark: Mark::decode(input)? });
        }
        let mut breaks = Vec::new();
        for _ in 0..input.varint()? {
            let position = Position(input.u64()?);
            let last = if input.bool()? { Some(decode_moment(input)?) } else { None };
            breaks.push(Break { position, last, reason: input.text()? });
        }
        let mut damaged = Vec::new();
        for _ in 0..input.varint()? {
            damaged.push(decode_damaged(input)?);
        }
        Ok(SegmentEntry { id, len_bytes, digest, summary, marks, breaks, damaged })
    }
}

fn encode_id(id: SegmentId, out: &mut Encoder) {
    out.u32(id.epoch.0);
    out.u32(id.sequence);
}

fn decode_id(input: &mut Decoder<'_>) -> Result<SegmentId, DecodeError> {
    Ok(SegmentId { epoch: Epoch(input.u32()?), sequence: input.u32()? })
}

fn encode_moment(moment: Moment, out: &mut Encoder) {
    out.u64(moment.position.0);
    out.i64(moment.time.0);
}

fn decode_moment(input: &mut Decoder<'_>) -> Result<Moment, DecodeError> {
    Ok(Moment { position: Position(input.u64()?), time: Time(input.i64()?) })
}

fn encode_damaged(place: &DamagedPlace, out: &mut Encoder) {
    encode_id(place.segment, out);
    out.bytes(place.what.as_bytes());
    out.varint(place.offset_bytes);
    out.varint(place.len_bytes);
    out.bool(place.contained);
    out.bool(place.positions.is_some());
    if let Some((first, last)) = place.positions {
        out.u64(first.0);
        out.u64(last.0);
    }
}

fn decode_damaged(input: &mut Decoder<'_>) -> Result<DamagedPlace, DecodeError> {
    let segment = decode_id(input)?;
    let what = input.text()?;
    let offset_bytes = input.varint()?;
    let len_bytes = input.varint()?;
    let contained = input.bool()?;
    let positions = if input.bool()? { Some((Position(input.u64()?), Position(input.u64()?))) } else { None };
    Ok(DamagedPlace { segment, what, offset_bytes, len_bytes, positions, contained })
}

fn encode_summary(summary: &SegmentSummary, out: &mut Encoder) {
    out.u64(summary.first_position.0);
    out.u64(summary.last_position.0);
    out.i64(summary.first_time.0);
    out.i64(summary.last_time.0);
    for count in [
        summary.data_changes,
        summary.names_changes,
        summary.marks,
        summary.page_versions,
        summary.captured_bytes,
        summary.record_bytes,
        summary.index_bytes,
    ] {
        out.varint(count);
    }
}

fn decode_summary(input: &mut Decoder<'_>) -> Result<SegmentSummary, DecodeError> {
    let summary = SegmentSummary {
        first_position: Position(input.u64()?),
        last_position: Position(input.u64()?),
        first_time: Time(input.i64()?),
        last_time: Time(input.i64()?),
        data_changes: input.varint()?,
        names_changes: input.varint()?,
        marks: input.varint()?,
        page_versions: input.varint()?,
        captured_bytes: input.varint()?,
        record_bytes: input.varint()?,
        index_bytes: input.varint()?,
    };
    if summary.first_position > summary.last_position {
        return Err(input.error("order of positions"));
    }
    Ok(summary)
}
