//! Compares an image with a tree of the reference: byte for byte, attribute for attribute, name for name.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use pitgate::types::{FileId, FileKind, Image, ImageError, PAGE_BYTES};

use crate::chance::Chance;
use crate::reference::{File, Tree};

const PAGE: u64 = PAGE_BYTES as u64;

/// Where image and reference part, in words; or the image's error.
#[derive(Debug)]
pub enum Difference {
    Wrong(String),
    Failed(ImageError),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Wrong(what) => write!(f, "{what}"),
            Difference::Failed(error) => write!(f, "the image failed: {error}"),
        }
    }
}

impl From<ImageError> for Difference {
    fn from(error: ImageError) -> Difference {
        Difference::Failed(error)
    }
}

macro_rules! same {
    ($image:expr, $reference:expr, $($what:tt)+) => {{
        match (&$image, &$reference) {
            (image, reference) if image == reference => {}
            (image, reference) => {
                let what = format!($($what)+);
                let difference = format!("{what}: image has {image:?}, reference {reference:?}");
                return Err(Difference::Wrong(difference));
            }
        }
    }};
}

/// Compares everything below the image's root; `chance` draws sizes and offsets of reads.
///
/// # Errors
/// The first difference, or the first error that the image returned.
pub fn compare(image: &dyn Image, tree: &Tree, chance: &mut Chance) -> Result<(), Difference> {
    let root = image.root();
    if let [only] = tree.roots.as_slice() {
        same!(root, only.file, "root directory");
        same!(image.parent(root)?, root, "parent of the root directory");
        return compare_directory(image, tree, chance, root, "");
    }
    same!(root, FileId::SOURCE, "root directory");
    same!(image.parent(root)?, root, "parent of the root directory");
    same!(image.status(root)?.attributes.kind, FileKind::Directory, "kind of the root directory");
    let labels: Vec<(Bytes, FileId)> =
        tree.roots.iter().map(|root| (root.label.clone(), root.file)).collect();
    same!(read_names(image, chance, root)?, labels, "labels");
    for (label, file) in labels {
        same!(image.lookup(root, &label)?, Some(file), "lookup of {label:?}");
        same!(image.parent(file)?, root, "parent of {label:?}");
        compare_directory(image, tree, chance, file, &String::from_utf8_lossy(&label))?;
    }
    Ok(())
}

fn compare_directory(
    image: &dyn Image,
    tree: &Tree,
    chance: &mut Chance,
    directory: FileId,
    path: &str,
) -> Result<(), Difference> {
    compare_status(image, tree, directory, path)?;
    let expected: Vec<(Bytes, FileId)> =
        tree.files[&directory].entries.iter().map(|(name, file)| (name.clone(), *file)).collect();
    same!(read_names(image, chance, directory)?, expected, "names in {path}");
    same!(image.lookup(directory, b"no such name")?, None, "lookup of an absent name in {path}");
    for (name, file) in expected {
        let path = format!("{path}/{}", name.escape_ascii());
        same!(image.lookup(directory, &name)?, Some(file), "lookup of {path}");
        if tree.files[&file].attributes.kind == FileKind::Directory {
            same!(image.parent(file)?, directory, "parent of {path}");
            compare_directory(image, tree, chance, file, &path)?;
        } else {
            compare_status(image, tree, file, &path)?;
            compare_data(image, &tree.files[&file], chance, file, &path)?;
        }
    }
    Ok(())
}

fn compare_status(image: &dyn Image, tree: &Tree, id: FileId, path: &str) -> Result<(), Difference> {
    let file = &tree.files[&id];
    let status = image.status(id)?;
    same!(status.file, id, "id of {path}");
    same!(status.attributes, file.attributes, "attributes of {path}");
    same!(status.link_count, tree.link_count(id), "links of {path}");
    if file.attributes.kind == FileKind::Regular {
        same!(status.size, file.size, "size of {path}");
    }
    let names: Vec<Bytes> = file.xattrs.keys().cloned().collect();
    same!(image.list_xattrs(id)?, names, "extended attributes of {path}");
    for (name, value) in &file.xattrs {
        same!(image.xattr(id, name)?, Some(value.clone()), "extended attribute {name:?} of {path}");
    }
    same!(image.xattr(id, b"user.none")?, None, "absent extended attribute of {path}");
    Ok(())
}

/// All names and files of a directory, read a few at a time.
fn read_names(
    image: &dyn Image,
    chance: &mut Chance,
    directory: FileId,
) -> Result<Vec<(Bytes, FileId)>, Difference> {
    let mut names: Vec<(Bytes, FileId)> = Vec::new();
    loop {
        let limit = chance.between(1, 5) as usize;
        let after = names.last().map(|(name, _)| name.clone());
        let entries = image.read_directory(directory, after.as_deref(), limit)?;
        assert!(entries.len() <= limit, "asked for {limit} entries, got {}", entries.len());
        if entries.is_empty() {
            return Ok(names);
        }
        for entry in entries {
            same!(image.status(entry.file)?.attributes.kind, entry.kind, "kind of {:?}", entry.name);
            names.push((entry.name, entry.file));
        }
    }
}

fn compare_data(
    image: &dyn Image,
    file: &File,
    chance: &mut Chance,
    id: FileId,
    path: &str,
) -> Result<(), Difference> {
    if file.attributes.kind != FileKind::Regular {
        return Ok(());
    }
    compare_extents(image, file, id, path)?;
    // Around every written page, then anywhere.
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &page in file.pages.keys() {
        match ranges.last_mut() {
            Some((_, end)) if *end == page => *end = page + 1,
            _ => ranges.push((page, page + 1)),
        }
    }
    for (first, end) in ranges {
        let from = (first * PAGE).saturating_sub(chance.below(PAGE));
        let to = end * PAGE + chance.below(PAGE);
        let mut at = from;
        while at < to {
            let len = chance.between(1, 150_000).min(to - at);
            compare_read(image, file, id, path, at, len as usize)?;
            at += len;
        }
    }
    for _ in 0..3 {
        let at = chance.below(file.size.max(1) + PAGE);
        compare_read(image, file, id, path, at, chance.between(0, 20_000) as usize)?;
    }
    compare_read(image, file, id, path, file.size, 100)?;
    compare_read(image, file, id, path, u64::MAX - 10, 100)?;
    compare_read(image, file, id, path, file.size.saturating_sub(1), 100)
}

fn compare_read(
    image: &dyn Image,
    file: &File,
    id: FileId,
    path: &str,
    offset: u64,
    len: usize,
) -> Result<(), Difference> {
    let mut buf = vec![0xaa; len];
    let read = image.read_at(id, offset, &mut buf)?;
    let expected = file.read(offset, len);
    same!(read, expected.len(), "length of a read of {len} at {offset} of {path}");
    if let Some(at) = (0..read).find(|&at| buf[at] != expected[at]) {
        let wrong = (0..read).filter(|&at| buf[at] != expected[at]).count();
        return Err(Difference::Wrong(format!(
            "{path}: {wrong} of {len} bytes at {offset} differ, the first at {}: image {:#x}, reference {:#x}",
            offset + at as u64,
            buf[at],
            expected[at]
        )));
    }
    Ok(())
}

/// Data and holes alternate, end with the file, and leave out no byte that is not zero; what was never
/// written, or cut or punched, is a hole.
fn compare_extents(image: &dyn Image, file: &File, id: FileId, path: &str) -> Result<(), Difference> {
    let mut at = 0;
    let mut pages: BTreeSet<u64> = BTreeSet::new();
    while at < file.size {
        let Some(data) = image.next_data(id, at)? else { break };
        let hole = image.next_hole(id, data)?;
        if data < at || hole <= data || data >= file.size || hole > file.size {
            return Err(Difference::Wrong(format!("{path}: data from {data} to {hole}, asked at {at}")));
        }
        if at < data {
            same!(image.next_hole(id, at)?, at, "hole in {path} before data at {data}");
        }
        let extent = data / PAGE..hole.div_ceil(PAGE);
        if extent.end - extent.start > file.pages.len() as u64 {
            let written = file.pages.len();
            return Err(Difference::Wrong(format!(
                "{path}: data from {data} to {hole}, {written} pages written"
            )));
        }
        pages.extend(extent);
        at = hole;
    }
    if let Some(page) = pages.iter().find(|page| !file.pages.contains_key(page)) {
        return Err(Difference::Wrong(format!("{path}: page {page} is a hole, the image says data")));
    }
    let limit = file.size.div_ceil(PAGE);
    let is_zero = |bytes: &Bytes| bytes.iter().all(|&byte| byte == 0);
    for (page, bytes) in file.pages.range(..limit) {
        if !is_zero(bytes) && !pages.contains(page) {
            return Err(Difference::Wrong(format!("{path}: page {page} holds data, the image says hole")));
        }
    }
    same!(image.next_data(id, file.size)?, None, "data behind the end of {path}");
    Ok(())
}
