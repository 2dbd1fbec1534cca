//! Who a segment is: its number within a source, its file name, and the seed of every checksum in it.

use std::fmt;

use crate::types::Epoch;

/// The number of a segment within its source; ascending in the order of positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    pub epoch: Epoch,
    pub sequence: u32,
}

impl SegmentId {
    /// The name of its file, such as `00000003-0000000a.seg`.
    #[must_use]
    pub fn file_name(self) -> String {
        format!("{self}.seg")
    }

    /// The inverse of [`SegmentId::file_name`].
    #[must_use]
    pub fn parse_file_name(name: &str) -> Option<SegmentId> {
        let (epoch, sequence) = name.strip_suffix(".seg")?.split_once('-')?;
        let number = |text: &str| {
            let lower_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            (text.len() == 8 && lower_hex).then(|| u32::from_str_radix(text, 16).ok()).flatten()
        };
        Some(SegmentId { epoch: Epoch(number(epoch)?), sequence: number(sequence)? })
    }
}

/// The epoch and the sequence as eight hexadecimal digits each.
impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:08x}", self.epoch.0, self.sequence)
    }
}

/// Whose journal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalIdentity {
    pub repository: [u8; 16],
    pub source: [u8; 16],
}

impl JournalIdentity {
    /// What every checksum in segment `id` begins with, so that bytes of another segment, source or
    /// repository never pass for this one's.
    #[must_use]
    pub fn seed(&self, id: SegmentId) -> u32 {
        let seed = crc32c::crc32c_append(self.payload_seed(), &id.epoch.0.to_le_bytes());
        crc32c::crc32c_append(seed, &id.sequence.to_le_bytes())
    }

    /// What the checksum of a payload begins with. Payloads are checked before it is known which segment
    /// they go to; the record's header binds them to it.
    pub(super) fn payload_seed(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.repository), &self.source)
    }

    pub(super) fn seeds(&self, id: SegmentId) -> Seeds {
        Seeds { payload: self.payload_seed(), segment: self.seed(id) }
    }
}

/// The seeds of records' checksums.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeds {
    pub payload: u32,
    pub segment: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_tells_the_segment_and_no_other_name_does() {
        let id = SegmentId { epoch: Epoch(3), sequence: 0xabc };
        assert_eq!(id.file_name(), "00000003-00000abc.seg");
        assert_eq!(SegmentId::parse_file_name(&id.file_name()), Some(id));
        for other in ["", "00000003-00000abc", "3-abc.seg", "00000003-00000ABC.seg", "+0000003-00000abc.seg"]
        {
            assert_eq!(SegmentId::parse_file_name(other), None, "{other}");
        }
    }
}
