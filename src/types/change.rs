//! What capture records: changes of data, of names, and marks. Their byte form is in `docs/disk-format.md`.

use bytes::Bytes;

use super::codec::{DecodeError, Decoder, Encoder};
use super::{FileId, FileKind, PAGE_BYTES, Time, pages_of};

/// One captured mutation, without the position and time that the journal gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeBody {
    Data(DataChange),
    Names(NamespaceChange),
    Mark(Mark),
}

/// A span of whole pages: `count` of them from page number `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    pub first: u64,
    pub count: u64,
}

/// New contents of whole pages.
///
/// `bytes.len()` is a positive multiple of 4 KiB. Bytes at or after the file's size are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageWrite {
    pub first_page: u64,
    pub bytes: Bytes,
}

/// A change of one regular file's data, size and modification time; all of it at one position.
///
/// Effects, in this order: if `cut`, every page from `pages_of(size_after)` on reads as zeros (a truncation;
/// the page that holds the new end is then among `pages` if the end is not aligned); pages of `zero` read as
/// zeros; pages of `pages` get their bytes; the size becomes `size_after`; the modification time becomes
/// `mtime` if there is one (the image of an unchanged file has none).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataChange {
    pub file: FileId,
    pub size_after: u64,
    pub mtime: Option<Time>,
    pub cut: bool,
    pub zero: Option<PageRange>,
    /// Ascending and disjoint.
    pub pages: Vec<PageWrite>,
}

impl DataChange {
    /// Whether the invariants of the fields hold; the journal refuses a change for which they do not.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let page_limit = pages_of(u64::MAX);
        let mut first_free = 0;
        let pages_fit = self.pages.iter().all(|write| {
            let end = write.first_page.checked_add((write.bytes.len() / PAGE_BYTES) as u64);
            let fits = !write.bytes.is_empty()
                && write.bytes.len().is_multiple_of(PAGE_BYTES)
                && write.first_page >= first_free
                && end.is_some_and(|end| end <= page_limit);
            first_free = end.unwrap_or(page_limit);
            fits
        });
        let zero_fits = self.zero.is_none_or(|zero| {
            zero.count > 0 && zero.first.checked_add(zero.count).is_some_and(|end| end <= page_limit)
        });
        pages_fit && zero_fits
    }
}

/// What `stat` says of a file apart from size and links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub kind: FileKind,
    /// Permission bits with set-id and sticky bits (`0o7777`).
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number of a device file, as Linux `st_rdev`; else 0.
    pub rdev: u64,
    pub mtime: Time,
}

/// Attributes that change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttributeChange {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Time>,
}

/// A change of names or attributes. Names are bytes without `/` and NUL, neither empty nor `.` nor `..`.
///
/// `parent_mtime` is the directory's modification time after the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceChange {
    /// Declares `file`, a directory, as the root named `label` below [`FileId::SOURCE`], or moves where an
    /// already declared one is found. `mountpoint` is where applications see it, `data_dir` where the backing
    /// files are; links whose targets begin with either are re-targeted.
    Root {
        file: FileId,
        label: Bytes,
        mountpoint: Bytes,
        data_dir: Bytes,
        attributes: Attributes,
    },
    /// A new file. `target` is the text of a symbolic link, else empty. A parent of `None` makes a file that
    /// has no name yet (O_TMPFILE).
    Create {
        file: FileId,
        parent: Option<FileId>,
        name: Bytes,
        attributes: Attributes,
        target: Bytes,
        parent_mtime: Time,
    },
    Link {
        file: FileId,
        parent: FileId,
        name: Bytes,
        parent_mtime: Time,
    },
    /// Removes a name of a file or of an empty directory.
    Unlink {
        parent: FileId,
        name: Bytes,
        parent_mtime: Time,
    },
    /// Moves a name; what stood at the new name loses it, or moves to the old name if `exchange`.
    Rename {
        parent: FileId,
        name: Bytes,
        new_parent: FileId,
        new_name: Bytes,
        exchange: bool,
        parent_mtime: Time,
        new_parent_mtime: Time,
    },
    Attributes {
        file: FileId,
        change: AttributeChange,
    },
    SetXattr {
        file: FileId,
        name: Bytes,
        value: Bytes,
    },
    RemoveXattr {
        file: FileId,
        name: Bytes,
    },
}

/// A moment worth a position without changing a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// An application's sync of this file returned at or after this position.
    Barrier { file: FileId },
    /// Capture was alive and had recorded everything up to here.
    Heartbeat,
    /// A point with a name, unique in its source.
    Bookmark { name: String },
    /// From here on every position is mountable: the image, or the comparison after a stop, is complete.
    CoverageBegin,
    /// From here on positions are not mountable until the next `CoverageBegin`.
    CoverageEnd { reason: String },
    /// The wall clock went back or jumped; times are held or jump here.
    ClockStep { from: Time, to: Time },
    /// The writer stopped in good order; nothing follows in this epoch.
    CleanStop,
}

mod tag {
    pub const ROOT: u8 = 1;
    pub const CREATE: u8 = 2;
    pub const LINK: u8 = 3;
    pub const UNLINK: u8 = 4;
    pub const RENAME: u8 = 5;
    pub const ATTRIBUTES: u8 = 6;
    pub const SET_XATTR: u8 = 7;
    pub const REMOVE_XATTR: u8 = 8;

    pub const BARRIER: u8 = 1;
    pub const HEARTBEAT: u8 = 2;
    pub const BOOKMARK: u8 = 3;
    pub const COVERAGE_BEGIN: u8 = 4;
    pub const COVERAGE_END: u8 = 5;
    pub const CLOCK_STEP: u8 = 6;
    pub const CLEAN_STOP: u8 = 7;
}

impl Attributes {
    pub fn encode(&self, out: &mut Encoder) {
        out.u8(self.kind as u8);
        out.varint(u64::from(self.mode));
        out.varint(u64::from(self.uid));
        out.varint(u64::from(self.gid));
        out.varint(self.rdev);
        out.i64(self.mtime.0);
    }

    /// # Errors
    /// `DecodeError` for bytes that [`Attributes::encode`] cannot have written.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Attributes, DecodeError> {
        let kind = FileKind::from_u8(input.u8()?).ok_or_else(|| input.error("kind of file"))?;
        Ok(Attributes {
            kind,
            mode: input.varint_u32()?,
            uid: input.varint_u32()?,
            gid: input.varint_u32()?,
            rdev: input.varint()?,
            mtime: Time(input.i64()?),
        })
    }
}

impl NamespaceChange {
    pub fn encode(&self, out: &mut Encoder) {
        match self {
            NamespaceChange::Root { file, label, mountpoint, data_dir, attributes } => {
                out.u8(tag::ROOT);
                out.varint(file.0);
                out.bytes(label);
                out.bytes(mountpoint);
                out.bytes(data_dir);
                attributes.encode(out);
            }
            NamespaceChange::Create { file, parent, name, attributes, target, parent_mtime } => {
                out.u8(tag::CREATE);
                out.varint(file.0);
                out.varint(parent.map_or(0, |parent| parent.0));
                out.bytes(name);
                attributes.encode(out);
                out.bytes(target);
                out.i64(parent_mtime.0);
            }
            NamespaceChange::Link { file, parent, name, parent_mtime } => {
                out.u8(tag::LINK);
                out.varint(file.0);
                out.varint(parent.0);
                out.bytes(name);
                out.i64(parent_mtime.0);
            }
            NamespaceChange::Unlink { parent, name, parent_mtime } => {
                out.u8(tag::UNLINK);
                out.varint(parent.0);
                out.bytes(name);
                out.i64(parent_mtime.0);
            }
            NamespaceChange::Rename {
                parent,
                name,
                new_parent,
                new_name,
                exchange,
                parent_mtime,
                new_parent_mtime,
            } => {
                out.u8(tag::RENAME);
                out.varint(parent.0);
                out.bytes(name);
                out.varint(new_parent.0);
                out.bytes(new_name);
                out.bool(*exchange);
                out.i64(parent_mtime.0);
                out.i64(new_parent_mtime.0);
            }
            NamespaceChange::Attributes { file, change } => {
                out.u8(tag::ATTRIBUTES);
                out.varint(file.0);
                change.encode(out);
            }
            NamespaceChange::SetXattr { file, name, value } => {
                out.u8(tag::SET_XATTR);
                out.varint(file.0);
                out.bytes(name);
                out.bytes(value);
            }
            NamespaceChange::RemoveXattr { file, name } => {
                out.u8(tag::REMOVE_XATTR);
                out.varint(file.0);
                out.bytes(name);
            }
        }
    }

    /// # Errors
    /// `DecodeError` for bytes that [`NamespaceChange::encode`] cannot have written.
    pub fn decode(input: &mut Decoder<'_>) -> Result<NamespaceChange, DecodeError> {
        Ok(match input.u8()? {
            tag::ROOT => NamespaceChange::Root {
                file: FileId(input.varint()?),
                label: input.name()?,
                mountpoint: input.bytes()?,
                data_dir: input.bytes()?,
                attributes: Attributes::decode(input)?,
            },
            tag::CREATE => {
                let file = FileId(input.varint()?);
                let parent = Some(FileId(input.varint()?)).filter(|parent| parent.0 != 0);
                let name = if parent.is_some() { input.name()? } else { input.bytes()? };
                NamespaceChange::Create {
                    file,
                    parent,
                    name,
                    attributes: Attributes::decode(input)?,
                    target: input.bytes()?,
                    parent_mtime: Time(input.i64()?),
                }
            }
            tag::LINK => NamespaceChange::Link {
                file: FileId(input.varint()?),
                parent: FileId(input.varint()?),
                name: input.name()?,
                parent_mtime: Time(input.i64()?),
            },
            tag::UNLINK => NamespaceChange::Unlink {
                parent: FileId(input.varint()?),
                name: input.name()?,
                parent_mtime: Time(input.i64()?),
            },
            tag::RENAME => NamespaceChange::Rename {
                parent: FileId(input.varint()?),
                name: input.name()?,
                new_parent: FileId(input.varint()?),
                new_name: input.name()?,
                exchange: input.bool()?,
                parent_mtime: Time(input.i64()?),
                new_parent_mtime: Time(input.i64()?),
            },
            tag::ATTRIBUTES => NamespaceChange::Attributes {
                file: FileId(input.varint()?),
                change: AttributeChange::decode(input)?,
            },
            tag::SET_XATTR => NamespaceChange::SetXattr {
                file: FileId(input.varint()?),
                name: input.bytes()?,
                value: input.bytes()?,
            },
            tag::REMOVE_XATTR => {
                NamespaceChange::RemoveXattr { file: FileId(input.varint()?), name: input.bytes()? }
            }
            _ => return Err(input.error("kind of namespace change")),
        })
    }
}

impl AttributeChange {
    fn encode(&self, out: &mut Encoder) {
        let present = u8::from(self.mode.is_some())
            | u8::from(self.uid.is_some()) << 1
            | u8::from(self.gid.is_some()) << 2
            | u8::from(self.mtime.is_some()) << 3;
        out.u8(present);
        for value in [self.mode, self.uid, self.gid].into_iter().flatten() {
            out.varint(u64::from(value));
        }
        if let Some(mtime) = self.mtime {
            out.i64(mtime.0);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<AttributeChange, DecodeError> {
        let present = input.u8()?;
        if present > 0b1111 {
            return Err(input.error("set of attributes"));
        }
        let mut change = AttributeChange::default();
        if present & 1 != 0 {
            change.mode = Some(input.varint_u32()?);
        }
        if present & 2 != 0 {
            change.uid = Some(input.varint_u32()?);
        }
        if present & 4 != 0 {
            change.gid = Some(input.varint_u32()?);
        }
        if present & 8 != 0 {
            change.mtime = Some(Time(input.i64()?));
        }
        Ok(change)
    }
}

impl Mark {
    pub fn encode(&self, out: &mut Encoder) {
        match self {
            Mark::Barrier { file } => {
                out.u8(tag::BARRIER);
                out.varint(file.0);
            }
            Mark::Heartbeat => out.u8(tag::HEARTBEAT),
            Mark::Bookmark { name } => {
                out.u8(tag::BOOKMARK);
                out.bytes(name.as_bytes());
            }
            Mark::CoverageBegin => out.u8(tag::COVERAGE_BEGIN),
            Mark::CoverageEnd { reason } => {
                out.u8(tag::COVERAGE_END);
                out.bytes(reason.as_bytes());
            }
            Mark::ClockStep { from, to } => {
                out.u8(tag::CLOCK_STEP);
                out.i64(from.0);
                out.i64(to.0);
            }
            Mark::CleanStop => out.u8(tag::CLEAN_STOP),
        }
    }

    /// # Errors
    /// `DecodeError` for bytes that [`Mark::encode`] cannot have written.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Mark, DecodeError> {
        Ok(match input.u8()? {
            tag::BARRIER => Mark::Barrier { file: FileId(input.varint()?) },
            tag::HEARTBEAT => Mark::Heartbeat,
            tag::BOOKMARK => Mark::Bookmark { name: input.text()? },
            tag::COVERAGE_BEGIN => Mark::CoverageBegin,
            tag::COVERAGE_END => Mark::CoverageEnd { reason: input.text()? },
            tag::CLOCK_STEP => Mark::ClockStep { from: Time(input.i64()?), to: Time(input.i64()?) },
            tag::CLEAN_STOP => Mark::CleanStop,
            _ => return Err(input.error("kind of mark")),
        })
    }
}
