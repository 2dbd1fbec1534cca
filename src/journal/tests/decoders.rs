//! Bytes that no encoder writes, with checksums that are right: an error, never a panic.

use proptest::prelude::*;

use super::*;
use crate::journal::footer::{FOOTER_BYTES, Footer, FooterBlock, place_crc};
use crate::journal::header::{HEADER_BLOCK_BYTES, SegmentHeader};
use crate::journal::record::{HEADER_BYTES, Header, RawRecord, payload_crc, seal_header};
use crate::journal::records::content_of;
use crate::journal::sections::{Section, unpack};
use crate::types::Decoder;

const ID: SegmentId = SegmentId { epoch: Epoch(2), sequence: 3 };

fn decode_section<S: Section>(bytes: &[u8]) {
    let _ = S::decode(&mut Decoder::new(bytes), ID);
    let _ = unpack::<S>(bytes, bytes.len() as u64, ID);
    let stored = zstd::bulk::compress(bytes, 1).unwrap();
    let _ = unpack::<S>(&stored, bytes.len() as u64, ID);
    assert!(unpack::<S>(&stored, bytes.len() as u64 + 1, ID).is_none(), "the length is checked");
}

/// A record whose checksums fit whatever it holds.
fn forge(kind: u8, flags: u8, extra: &[u8], payload: &[u8], offset_bytes: u64) -> Vec<u8> {
    let seeds = IDENTITY.seeds(ID);
    let mut record = vec![0; HEADER_BYTES];
    record[4..8].copy_from_slice(&payload_crc(payload, seeds.payload).to_le_bytes());
    record[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    record[12..15].copy_from_slice(&[kind, flags, extra.len() as u8]);
    record.extend_from_slice(extra);
    record.extend_from_slice(payload);
    seal_header(&mut record, seeds.segment, offset_bytes);
    record
}

proptest! {
    #[test]
    fn sections_of_arbitrary_bytes_are_refused_or_read(bytes: Vec<u8>) {
        decode_section::<Vec<NamesAt>>(&bytes);
        decode_section::<Vec<MarkAt>>(&bytes);
        decode_section::<TimeTable>(&bytes);
        decode_section::<Activity>(&bytes);
        decode_section::<Vec<DamagedPlace>>(&bytes);
    }

    #[test]
    fn records_of_arbitrary_bytes_are_refused_or_read(
        kind in 0u8..8,
        flags: u8,
        extra in proptest::collection::vec(any::<u8>(), 0..64),
        payload in proptest::collection::vec(any::<u8>(), 0..9000),
        place in 0u64..1 << 40,
    ) {
        let offset_bytes = place * 8;
        let record = forge(kind, flags, &extra, &payload, offset_bytes);
        let seeds = IDENTITY.seeds(ID);
        prop_assert_eq!(Header::decode(&record, seeds.segment, offset_bytes).is_some(), (1..=5).contains(&kind));
        prop_assert!(Header::decode(&record, seeds.segment, offset_bytes + 8).is_none(), "bound to its place");
        if let Some(raw) = RawRecord::decode(&record, seeds, offset_bytes) {
            let _ = (content_of(&raw), raw.flush());
            if let Some(pages) = raw.data_head().and_then(|head| raw.pages(&head)) {
                prop_assert!(pages.len() <= 16 * PAGE_BYTES);
            }
        }
        for len in [0, 4, HEADER_BYTES - 1, HEADER_BYTES, record.len() - 1] {
            prop_assert!(RawRecord::decode(&record[..len.min(record.len() - 1)], seeds, offset_bytes).is_none());
        }
    }

    #[test]
    fn footers_and_headers_of_arbitrary_bytes_are_refused_or_read(
        bytes in proptest::collection::vec(any::<u8>(), 300),
        offset_bytes: u64,
    ) {
        let mut block = bytes.clone();
        block.resize(FOOTER_BYTES, 0);
        block[..12].copy_from_slice(b"PITGSEGF\x01\0\0\0");
        let crc = crc32c::crc32c_append(place_crc(&block[..12], IDENTITY.seed(ID), offset_bytes), &block[16..]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        if let FooterBlock::Sound(footer) = Footer::decode(&block, &IDENTITY, ID, offset_bytes) {
            prop_assert!(footer.index_offset_bytes <= offset_bytes);
        }
        let mut block = bytes;
        block.resize(HEADER_BLOCK_BYTES, 0);
        block[..12].copy_from_slice(b"PITGSEGM\x01\0\0\0");
        let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        let _ = SegmentHeader::decode(&block);
    }
}
