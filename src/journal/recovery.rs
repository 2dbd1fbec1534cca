//! Makes a segment that was open when its writer died whole again: cuts what was never durable, reports what
//! is damaged, and seals it.

use std::path::Path;
use std::sync::Arc;

use super::error::DamagedPlace;
use super::footer::FooterBlock;
use super::header::{HEADER_BLOCK_BYTES, HeaderBlock, SegmentHeader, VERSION};
use super::reader::{hash_prefix, read_exact, read_footer};
use super::record::{Stamp, encode_end};
use super::seal::UnsealedSegment;
use super::survey::{Kept, Survey};
use super::{JournalError, JournalIdentity, Record, RecordBody, SealedSegment, SegmentId, SegmentReader};
use crate::index::BlockCache;
use crate::io::{Disk, DiskFile};
use crate::types::{Mark, Position, Time};

/// What recovery made of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The segment, now sealed (or found sealed); `None` if it held no whole change and was removed, or, if
    /// `damaged` says so, set aside with `.damaged` behind its name.
    pub segment: Option<SealedSegment>,
    /// The last position kept; `Position::ZERO` if there is none.
    pub durable_position: Position,
    /// The highest position seen anywhere in the file, whether kept or not.
    pub highest_position: Position,
    /// The latest time seen.
    pub last_time: Time,
    /// Bytes of a torn tail that were cut: what was never durable.
    pub discarded_bytes: u64,
    /// Whole changes within that tail.
    pub discarded_changes: u64,
    /// Places that were durable once and fail their checksums now. They stay in the file.
    pub damaged: Vec<DamagedPlace>,
    /// Whether the last change kept is a clean stop.
    pub clean_stop: bool,
}

/// Recovers segment `id` at `path`. `next_first_position` is the first position of the next segment of the
/// same epoch if there is one: everything below it was durable. Safe to repeat after a crash in the middle.
///
/// # Errors
/// `JournalError::Storage`, `JournalError::NewerVersion`, `JournalError::Foreign`; damage is no error.
pub fn recover_open_segment(
    disk: &dyn Disk,
    path: &Path,
    identity: &JournalIdentity,
    id: SegmentId,
    next_first_position: Option<Position>,
) -> Result<Recovered, JournalError> {
    let name = disk.display(path);
    let read_error = |source| JournalError::storage("recover", name.clone(), source);
    let file = disk.open_writable(path).map_err(read_error)?;
    if let Some(sealed) = find_sealed(&file, path, identity, id)? {
        return Ok(sealed);
    }
    let len_bytes = file.len().map_err(read_error)?;
    let mut block = vec![0; HEADER_BLOCK_BYTES];
    let whole = read_exact(file.as_ref(), 0, &mut block).map_err(read_error)?;
    let header = match SegmentHeader::decode(&block) {
        HeaderBlock::Sound(header) => Some(header),
        HeaderBlock::Newer(version) => {
            return Err(JournalError::NewerVersion { path: name, version, supported: VERSION });
        }
        HeaderBlock::Damaged => None,
    };
    if let Some(header) = header {
        header.expect(identity, id)?;
    }
    let survey = Survey::take(file.as_ref(), identity.seeds(id), id, len_bytes).map_err(read_error)?;
    let mut kept = survey.judge(header.map(|header| header.first_position), next_first_position);
    let mut recovered = Recovered {
        segment: None,
        durable_position: kept.contents.summary.last_position,
        // The change that the segment was begun for has a position even if it was never written.
        highest_position: header
            .map_or(Position::ZERO, |header| header.first_position)
            .max(survey.highest.position),
        last_time: survey.highest.time,
        discarded_bytes: kept.discarded_bytes,
        discarded_changes: kept.discarded_changes,
        damaged: Vec::new(),
        clean_stop: matches!(kept.contents.marks.last(), Some(last)
            if last.mark == Mark::CleanStop && last.position == kept.contents.summary.last_position),
    };
    if kept.contents.is_empty() {
        recovered.damaged = kept.contents.damaged;
        remove_or_set_aside(disk, path, recovered.damaged.is_empty()).map_err(read_error)?;
        return Ok(recovered);
    }
    if header.is_none() {
        restore_header(&mut kept, file.as_ref(), identity, id, whole).map_err(read_error)?;
    }
    recovered.damaged = kept.contents.damaged.clone();
    recovered.segment = Some(complete(kept, file, path, identity, id)?);
    Ok(recovered)
}

/// A segment whose writer died between completing and publishing it.
fn find_sealed(
    file: &Arc<dyn DiskFile>,
    path: &Path,
    identity: &JournalIdentity,
    id: SegmentId,
) -> Result<Option<Recovered>, JournalError> {
    let len_bytes =
        file.len().map_err(|source| JournalError::storage("recover", path.display().to_string(), source))?;
    if !matches!(read_footer(file.as_ref(), identity, id, len_bytes)?, FooterBlock::Sound(_)) {
        return Ok(None);
    }
    let reader = SegmentReader::open(file.clone(), identity, id, Arc::new(BlockCache::new(1 << 20)));
    let reader = match reader {
        Ok(reader) => reader,
        Err(JournalError::Damaged(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The footer may have reached the disk before what it speaks of. What recovery itself recorded as
    // damaged is no reason to seal again.
    let known =
        |place: &DamagedPlace| reader.damaged().iter().any(|known| known.offset_bytes == place.offset_bytes);
    if !reader.verify()?.iter().all(known) {
        return Ok(None);
    }
    let flushed = |record: Result<Record, JournalError>| match record.ok()?.body {
        RecordBody::Flush { durable_end_bytes, .. } => Some(durable_end_bytes),
        _ => None,
    };
    let durable_end_bytes = reader.records().filter_map(flushed).max().unwrap_or(HEADER_BLOCK_BYTES as u64);
    let sync = |source| JournalError::storage("recover", path.display().to_string(), source);
    write_again(file.as_ref(), durable_end_bytes, len_bytes).map_err(sync)?;
    file.sync().map_err(sync)?;
    let summary = reader.summary().clone();
    let marks = reader.marks()?;
    let last = summary.last_position;
    Ok(Some(Recovered {
        durable_position: last,
        highest_position: last,
        last_time: summary.last_time,
        clean_stop: marks.last().is_some_and(|mark| mark.mark == Mark::CleanStop && mark.position == last),
        damaged: reader.damaged().to_vec(),
        segment: Some(SealedSegment {
            id,
            path: path.to_owned(),
            len_bytes,
            digest: reader.digest()?,
            summary,
            names: reader.names()?,
            marks,
            damaged: reader.damaged().to_vec(),
        }),
        ..Recovered::default()
    }))
}

/// Writes what the file holds once more, its size included. A sync that failed may have left bytes in memory
/// that the system takes for stored: they can be read, and no later sync would store them.
fn write_again(file: &dyn DiskFile, start_bytes: u64, end_bytes: u64) -> std::io::Result<()> {
    let size = file.len()?;
    file.set_len(size + 1)?;
    file.set_len(size)?;
    let mut buf = vec![0; 1 << 20];
    let mut at = start_bytes;
    while at < end_bytes {
        let wanted = buf.len().min((end_bytes - at) as usize);
        if !read_exact(file, at, &mut buf[..wanted])? {
            break;
        }
        file.write_at(at, &buf[..wanted])?;
        at += wanted as u64;
    }
    Ok(())
}

/// What never held a change is of no use; what may have held some is kept for whoever looks into it.
fn remove_or_set_aside(disk: &dyn Disk, path: &Path, remove: bool) -> std::io::Result<()> {
    if remove {
        disk.remove(path)?;
    } else {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".damaged");
        disk.rename(path, Path::new(&aside))?;
    }
    disk.sync_directory(path.parent().unwrap_or(Path::new("")))
}

/// Writes the first block anew; all of it is known from elsewhere.
fn restore_header(
    kept: &mut Kept,
    file: &dyn DiskFile,
    identity: &JournalIdentity,
    id: SegmentId,
    whole: bool,
) -> std::io::Result<()> {
    let summary = &kept.contents.summary;
    let header = SegmentHeader {
        identity: *identity,
        id,
        first_position: summary.first_position,
        first_time: summary.first_time,
    };
    file.write_at(0, &header.encode())?;
    if whole {
        kept.contents.damaged.push(DamagedPlace {
            segment: id,
            what: "header, restored".to_owned(),
            offset_bytes: 0,
            len_bytes: HEADER_BLOCK_BYTES as u64,
            positions: None,
            contained: true,
        });
    }
    Ok(())
}

/// Ends the records and seals.
fn complete(
    kept: Kept,
    file: Arc<dyn DiskFile>,
    path: &Path,
    identity: &JournalIdentity,
    id: SegmentId,
) -> Result<SealedSegment, JournalError> {
    let error = |source| JournalError::storage("recover", path.display().to_string(), source);
    let mut records_end_bytes = kept.end_bytes;
    // The end record promises that everything before it is durable: what a killed writer left may so far be
    // in memory only.
    write_again(file.as_ref(), kept.durable_end_bytes, records_end_bytes).map_err(error)?;
    file.sync().map_err(error)?;
    if !kept.has_end {
        let summary = &kept.contents.summary;
        let stamp = Stamp { position: summary.last_position, time: summary.last_time, held: false };
        let end = encode_end(stamp, identity.seeds(id), records_end_bytes);
        file.write_at(records_end_bytes, &end).map_err(error)?;
        file.sync().map_err(error)?;
        records_end_bytes += end.len() as u64;
    }
    let hasher = hash_prefix(file.as_ref(), records_end_bytes).map_err(error)?;
    let unsealed = UnsealedSegment {
        identity: *identity,
        id,
        path: path.to_owned(),
        file,
        records_end_bytes,
        hasher,
        contents: kept.contents,
    };
    unsealed.seal()
}
