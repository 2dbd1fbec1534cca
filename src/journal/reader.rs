//! Reads a sealed segment: its sections, single records, or all of them in order.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;

use super::footer::{FOOTER_BYTES, FOOTER_COPIES, Footer, FooterBlock, SectionPlace, place_crc};
use super::header::{HEADER_BLOCK_BYTES, HeaderBlock, SegmentHeader, VERSION};
use super::record::{DataHead, RawRecord, flag};
use super::records::Records;
use super::sections::{Section, SectionKind, unpack};
use super::segment::Seeds;
use super::{
    Activity, DamagedPlace, JournalError, JournalIdentity, MarkAt, NamesAt, SegmentId, SegmentSummary,
    TimeTable,
};
use crate::index::{BlockCache, FileRegion, Index, IndexError, Location};
use crate::io::DiskFile;
use crate::types::{FileId, Position};

/// The pages of one record, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pages {
    pub file: FileId,
    pub position: Position,
    pub first_page: u64,
    /// Whole pages.
    pub bytes: Bytes,
}

/// A sealed segment. Reads nothing but its footer when opened; all else on demand.
pub struct SegmentReader {
    file: Arc<dyn DiskFile>,
    identity: JournalIdentity,
    id: SegmentId,
    len_bytes: u64,
    footer: Footer,
    index: Index,
    damaged: Vec<DamagedPlace>,
}

thread_local! {
    // One stored record at a time; decompression or the copy out of it makes the bytes that are kept.
    static STORED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl SegmentReader {
    /// Reads and verifies the footer.
    ///
    /// # Errors
    /// `JournalError::NotSealed` if there is none, `JournalError::Foreign`, `JournalError::NewerVersion`,
    /// `JournalError::Damaged`, `JournalError::Storage`.
    pub fn open(
        file: Arc<dyn DiskFile>,
        identity: &JournalIdentity,
        id: SegmentId,
        cache: Arc<BlockCache>,
    ) -> Result<SegmentReader, JournalError> {
        let len_bytes = file.len().map_err(|source| read_error(id, source))?;
        let footer = match read_footer(file.as_ref(), identity, id, len_bytes)? {
            FooterBlock::Sound(footer) => *footer,
            FooterBlock::Newer(version) => {
                return Err(JournalError::NewerVersion { path: id.file_name(), version, supported: VERSION });
            }
            block => return Err(why_no_footer(file.as_ref(), identity, id, len_bytes, &block)),
        };
        let region = FileRegion {
            file: file.clone(),
            offset_bytes: footer.index_offset_bytes,
            object: format!("segment {id}"),
        };
        let index = Index::new(Arc::new(region), footer.index_root, u64::from(identity.seed(id)), cache);
        let mut reader =
            SegmentReader { file, identity: *identity, id, len_bytes, footer, index, damaged: Vec::new() };
        if reader.footer.sections[SectionKind::Damage as usize].raw_len_bytes > 0 {
            reader.damaged = reader.section()?;
        }
        Ok(reader)
    }

    #[must_use]
    pub fn id(&self) -> SegmentId {
        self.id
    }

    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    #[must_use]
    pub fn summary(&self) -> &SegmentSummary {
        &self.footer.summary
    }

    /// Where recovery found damage when it sealed the segment.
    #[must_use]
    pub fn damaged(&self) -> &[DamagedPlace] {
        &self.damaged
    }

    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The pages of the record that the index found at `location`.
    ///
    /// # Errors
    /// `JournalError::Damaged`, `JournalError::Storage`.
    pub fn read_record(&self, location: Location) -> Result<Pages, JournalError> {
        let Location { offset_bytes, len_bytes } = location;
        let damaged = || JournalError::Damaged(self.place("record", offset_bytes, u64::from(len_bytes)));
        // A damaged index could ask for anything; what it may ask for are records.
        if offset_bytes.saturating_add(u64::from(len_bytes)) > self.footer.records_end_bytes {
            return Err(damaged());
        }
        STORED.with_borrow_mut(|stored| {
            stored.resize(len_bytes as usize, 0);
            self.read_exact(offset_bytes, stored)?;
            let record = RawRecord::decode(stored, self.seeds(), offset_bytes).ok_or_else(damaged)?;
            let head: DataHead = record.data_head().ok_or_else(damaged)?;
            if record.header.has(flag::ZERO) {
                return Err(damaged());
            }
            let bytes = record.pages(&head).ok_or_else(damaged)?;
            let position = record.header.stamp.position;
            Ok(Pages { file: head.file, position, first_page: head.first_page, bytes })
        })
    }

    /// All namespace changes in order. A damaged section is rebuilt from the records.
    ///
    /// # Errors
    /// `JournalError::Damaged` if records that may hold names are damaged too; `JournalError::Storage`.
    pub fn names(&self) -> Result<Vec<NamesAt>, JournalError> {
        self.section_or(|| Ok(self.rebuild()?.names))
    }

    /// All marks but barriers and heartbeats, in order; rebuilt as names are.
    ///
    /// # Errors
    /// As [`SegmentReader::names`].
    pub fn marks(&self) -> Result<Vec<MarkAt>, JournalError> {
        self.section_or(|| Ok(self.rebuild()?.marks))
    }

    /// # Errors
    /// As [`SegmentReader::names`].
    pub fn times(&self) -> Result<TimeTable, JournalError> {
        self.section_or(|| Ok(self.rebuild()?.times))
    }

    /// # Errors
    /// As [`SegmentReader::names`].
    pub fn activity(&self) -> Result<Activity, JournalError> {
        self.section_or(|| Ok(self.rebuild()?.activity.finish()))
    }

    /// All records in order; damaged stretches come as errors between them.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        let (start, end) = (HEADER_BLOCK_BYTES as u64, self.footer.records_end_bytes);
        let records = Records::new(self.file.as_ref(), self.id, self.seeds(), start, end);
        records.up_to(self.summary().last_position)
    }

    /// Reads and checks everything: header, records, index, sections, footer.
    ///
    /// # Errors
    /// `JournalError::Storage`; damage is what it returns.
    pub fn verify(&self) -> Result<Vec<DamagedPlace>, JournalError> {
        let mut places = Vec::new();
        let mut block = vec![0; HEADER_BLOCK_BYTES];
        self.read_exact(0, &mut block)?;
        match SegmentHeader::decode(&block) {
            HeaderBlock::Sound(header) if header.expect(&self.identity, self.id).is_ok() => {}
            _ => places.push(self.place("header", 0, HEADER_BLOCK_BYTES as u64)),
        }
        for record in self.records() {
            match record {
                Ok(_) => {}
                Err(JournalError::Damaged(place)) => places.push(place),
                Err(error) => return Err(error),
            }
        }
        self.verify_index(&mut places)?;
        self.verify_section::<Vec<NamesAt>>(&mut places)?;
        self.verify_section::<Vec<MarkAt>>(&mut places)?;
        self.verify_section::<TimeTable>(&mut places)?;
        self.verify_section::<Activity>(&mut places)?;
        self.verify_section::<Vec<DamagedPlace>>(&mut places)?;
        self.verify_footers(&mut places)?;
        Ok(places)
    }

    /// BLAKE3 of the whole file as it is now.
    ///
    /// # Errors
    /// `JournalError::Storage`.
    pub fn digest(&self) -> Result<[u8; 32], JournalError> {
        let hasher =
            hash_prefix(self.file.as_ref(), self.len_bytes).map_err(|source| read_error(self.id, source))?;
        Ok(*hasher.finalize().as_bytes())
    }

    fn verify_index(&self, places: &mut Vec<DamagedPlace>) -> Result<(), JournalError> {
        for error in self.index.verify() {
            match error {
                IndexError::Damaged { offset_bytes, block, what, .. } => {
                    let what = format!("index block {block} ({what})");
                    let mut place = self.place(&what, offset_bytes, crate::index::BLOCK_BYTES as u64);
                    // The records may be sound, but which of them hold a page nobody can tell.
                    let summary = self.summary();
                    place.positions = Some((summary.first_position, summary.last_position));
                    places.push(place);
                }
                IndexError::Storage { source, .. } => {
                    let what = format!("segment {}", self.id);
                    return Err(JournalError::Storage { action: "read", what, source });
                }
            }
        }
        Ok(())
    }

    fn verify_section<S: Section>(&self, places: &mut Vec<DamagedPlace>) -> Result<(), JournalError> {
        match self.section::<S>() {
            Ok(_) => Ok(()),
            Err(JournalError::Damaged(place)) => {
                places.push(place);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn verify_footers(&self, places: &mut Vec<DamagedPlace>) -> Result<(), JournalError> {
        for copy in 1..=FOOTER_COPIES as u64 {
            let offset_bytes = self.len_bytes - copy * FOOTER_BYTES as u64;
            let mut block = vec![0; FOOTER_BYTES];
            self.read_exact(offset_bytes, &mut block)?;
            let found = Footer::decode(&block, &self.identity, self.id, offset_bytes);
            if !matches!(found, FooterBlock::Sound(_)) {
                places.push(self.place("footer", offset_bytes, FOOTER_BYTES as u64));
            }
        }
        Ok(())
    }

    /// The section, or what `rebuild` makes if it is damaged.
    fn section_or<S: Section>(
        &self,
        rebuild: impl FnOnce() -> Result<S, JournalError>,
    ) -> Result<S, JournalError> {
        match self.section() {
            Err(JournalError::Damaged(_)) => rebuild(),
            other => other,
        }
    }

    fn section<S: Section>(&self) -> Result<S, JournalError> {
        let SectionPlace { offset_bytes, stored_len_bytes, raw_len_bytes, crc } =
            self.footer.sections[S::KIND as usize];
        let mut stored = vec![0; stored_len_bytes as usize];
        self.read_exact(offset_bytes, &mut stored)?;
        let sound = place_crc(&stored, self.seeds().segment, offset_bytes) == crc;
        let section = if sound { unpack(&stored, raw_len_bytes, self.id) } else { None };
        section
            .ok_or_else(|| JournalError::Damaged(self.place(S::KIND.name(), offset_bytes, stored_len_bytes)))
    }

    #[cfg(test)]
    pub(super) fn section_place(&self, kind: SectionKind) -> SectionPlace {
        self.footer.sections[kind as usize]
    }

    /// Everything that sections hold, from the records.
    fn rebuild(&self) -> Result<super::contents::Contents, JournalError> {
        let mut contents = super::contents::Contents::default();
        for item in self.records().contents() {
            let (location, stamp, content) = item?;
            contents.add(location, stamp, &content);
        }
        Ok(contents)
    }

    fn seeds(&self) -> Seeds {
        self.identity.seeds(self.id)
    }

    fn place(&self, what: &str, offset_bytes: u64, len_bytes: u64) -> DamagedPlace {
        let what = what.to_owned();
        DamagedPlace { segment: self.id, what, offset_bytes, len_bytes, positions: None, contained: true }
    }

    /// The footer said that these bytes are there; a file that ends before them is damaged.
    fn read_exact(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<(), JournalError> {
        let len_bytes = buf.len() as u64;
        match read_exact(self.file.as_ref(), offset_bytes, buf) {
            Ok(true) => Ok(()),
            Ok(false) => Err(JournalError::Damaged(self.place("end", offset_bytes, len_bytes))),
            Err(source) => Err(read_error(self.id, source)),
        }
    }
}

/// The sound copy nearest to the end, else what the last block is.
pub(super) fn read_footer(
    file: &dyn DiskFile,
    identity: &JournalIdentity,
    id: SegmentId,
    len_bytes: u64,
) -> Result<FooterBlock, JournalError> {
    let mut found = FooterBlock::None;
    for copy in (1..=FOOTER_COPIES as u64).rev() {
        let Some(offset_bytes) = len_bytes.checked_sub(copy * FOOTER_BYTES as u64) else {
            continue;
        };
        let mut block = vec![0; FOOTER_BYTES];
        if !read_exact(file, offset_bytes, &mut block).map_err(|source| read_error(id, source))? {
            continue;
        }
        match Footer::decode(&block, identity, id, offset_bytes) {
            FooterBlock::None => {}
            sound @ (FooterBlock::Sound(_) | FooterBlock::Newer(_)) => return Ok(sound),
            FooterBlock::Damaged => found = FooterBlock::Damaged,
        }
    }
    Ok(found)
}

/// Says what a file without a sound footer is.
fn why_no_footer(
    file: &dyn DiskFile,
    identity: &JournalIdentity,
    id: SegmentId,
    len_bytes: u64,
    block: &FooterBlock,
) -> JournalError {
    let mut first = vec![0; HEADER_BLOCK_BYTES];
    match read_exact(file, 0, &mut first) {
        Err(source) => return read_error(id, source),
        Ok(_) => match SegmentHeader::decode(&first) {
            HeaderBlock::Sound(header) => {
                if let Err(foreign) = header.expect(identity, id) {
                    return foreign;
                }
                if *block == FooterBlock::None {
                    return JournalError::NotSealed { segment: id };
                }
            }
            HeaderBlock::Newer(version) => {
                return JournalError::NewerVersion { path: id.file_name(), version, supported: VERSION };
            }
            HeaderBlock::Damaged => {}
        },
    }
    JournalError::Damaged(DamagedPlace {
        segment: id,
        what: "footer".to_owned(),
        offset_bytes: len_bytes.saturating_sub(FOOTER_BYTES as u64),
        len_bytes: FOOTER_BYTES as u64,
        positions: None,
        contained: true,
    })
}

/// Whether the file held all of the bytes.
pub(super) fn read_exact(file: &dyn DiskFile, offset_bytes: u64, buf: &mut [u8]) -> std::io::Result<bool> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(offset_bytes + filled as u64, &mut buf[filled..])? {
            0 => return Ok(false),
            got => filled += got,
        }
    }
    Ok(true)
}

/// BLAKE3 over the first `len_bytes` bytes, to be continued.
pub(super) fn hash_prefix(file: &dyn DiskFile, len_bytes: u64) -> std::io::Result<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    while at < len_bytes {
        let wanted = buf.len().min((len_bytes - at) as usize);
        if !read_exact(file, at, &mut buf[..wanted])? {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buf[..wanted]);
        at += wanted as u64;
    }
    Ok(hasher)
}

pub(super) fn read_error(id: SegmentId, source: std::io::Error) -> JournalError {
    JournalError::storage("read", format!("segment {id}"), source)
}
