//! What a clean stop knows of every backing file, so that the next start reads only those that changed since.

use std::collections::HashMap;

use rustix::fs::Stat;

use super::backing::{self, InodeKey};
use crate::types::{DecodeError, Decoder, Encoder, FileId, Position, Time};

const MAGIC: &[u8; 8] = b"PITGFILE";
const VERSION: u32 = 1;

/// Which backing inode was in which state when capture stopped in good order.
///
/// Any change moves an inode's change time (ctime), and nobody can set that. It is trusted only if the backing
/// was synced before it was taken: a loss of power could otherwise take back bytes and leave the time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// The last position before the clean stop's.
    pub position: Position,
    pub(super) files: HashMap<FileId, Known>,
}

/// One regular file's identity and state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub inode: InodeKey,
    pub size: u64,
    pub mtime: Time,
    pub ctime: Time,
}

impl Known {
    pub(super) fn of(stat: &Stat) -> Known {
        Known {
            inode: InodeKey::of(stat),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: backing::mtime(stat),
            ctime: backing::ctime(stat),
        }
    }
}

impl Catalogue {
    /// Whether it was written at the end of a journal whose last position is `end`, the clean stop's.
    #[must_use]
    pub fn is_of_end(&self, end: Position) -> bool {
        end == self.position.next()
    }

    /// Whether the file is as it was.
    pub(super) fn vouches_for(&self, file: FileId, stat: &Stat) -> bool {
        self.files.get(&file).is_some_and(|known| *known == Known::of(stat))
    }

    /// The catalogue as bytes, bound to `identity`, which names the source.
    #[must_use]
    pub fn encode(&self, identity: &[u8]) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(MAGIC);
        out.u32(VERSION);
        out.u64(self.position.0);
        out.u64(self.files.len() as u64);
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|(file, _)| **file);
        for (file, known) in files {
            out.varint(file.0);
            out.varint(known.inode.device);
            out.varint(known.inode.inode);
            out.varint(known.size);
            out.i64(known.mtime.0);
            out.i64(known.ctime.0);
        }
        let mut bytes = out.finish();
        let checksum = checksum(identity, &bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// # Errors
    /// `DecodeError` for bytes that [`Catalogue::encode`] cannot have written under this `identity`.
    pub fn decode(bytes: &[u8], identity: &[u8]) -> Result<Catalogue, DecodeError> {
        let error = |what| DecodeError { what, offset_bytes: 0 };
        let (body, stored) = bytes.split_last_chunk::<4>().ok_or_else(|| error("length"))?;
        if u32::from_le_bytes(*stored) != checksum(identity, body) {
            return Err(error("checksum"));
        }
        let mut input = Decoder::new(body);
        if input.raw(8)? != MAGIC {
            return Err(error("magic"));
        }
        if input.u32()? != VERSION {
            return Err(error("version"));
        }
        let position = Position(input.u64()?);
        let count = input.u64()?;
        let mut files = HashMap::new();
        for _ in 0..count {
            let file = FileId(input.varint()?);
            let inode = InodeKey { device: input.varint()?, inode: input.varint()? };
            let known =
                Known { inode, size: input.varint()?, mtime: Time(input.i64()?), ctime: Time(input.i64()?) };
            files.insert(file, known);
        }
        input.finish()?;
        Ok(Catalogue { position, files })
    }
}

fn checksum(identity: &[u8], bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(identity), bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Catalogue {
        let known = |number: u64| Known {
            inode: InodeKey { device: 8, inode: number },
            size: number << 20,
            mtime: Time(-5),
            ctime: Time(number as i64),
        };
        Catalogue {
            position: Position(77),
            files: (2..9).map(|number| (FileId(number), known(number))).collect(),
        }
    }

    #[test]
    fn a_catalogue_is_read_back_by_its_own_source_only() {
        let bytes = example().encode(b"source");
        assert_eq!(Catalogue::decode(&bytes, b"source"), Ok(example()));
        assert!(Catalogue::decode(&bytes, b"another").is_err());
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused() {
        let bytes = example().encode(b"source");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(Catalogue::decode(&damaged, b"source").is_err(), "byte {at}");
        }
    }

    #[test]
    fn it_is_of_one_end_only() {
        assert!(example().is_of_end(Position(78)));
        assert!(!example().is_of_end(Position(77)));
        assert!(!example().is_of_end(Position(79)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = Catalogue::decode(&bytes, b"");
        }
    }
}
