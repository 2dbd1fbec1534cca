//! The reference's tree as an image, so that the comparison itself is put to the test.

use bytes::Bytes;
use pitgate::types::{DirectoryEntry, FileId, FileKind, Image, ImageError, PAGE_BYTES, Status};

use crate::reference::{File, Tree};

/// Serves a tree. Links are shown as they are.
pub struct TreeImage(pub Tree);

impl TreeImage {
    fn file(&self, file: FileId) -> Result<&File, ImageError> {
        self.0.files.get(&file).ok_or(ImageError::NoSuchFile(file))
    }

    fn entries(&self, directory: FileId) -> Result<Vec<(Bytes, FileId)>, ImageError> {
        if directory == FileId::SOURCE {
            return Ok(self.0.roots.iter().map(|root| (root.label.clone(), root.file)).collect());
        }
        Ok(self.file(directory)?.entries.iter().map(|(name, file)| (name.clone(), *file)).collect())
    }

    /// The first page from `page` on that was written, or was not, below the end of the file.
    fn next_page(&self, file: FileId, page: u64, written: bool) -> Result<Option<u64>, ImageError> {
        let held = self.file(file)?;
        let limit = held.size.div_ceil(PAGE_BYTES as u64);
        let next = if written {
            held.pages.range(page..).map(|(page, _)| *page).next()
        } else {
            (page..=limit).find(|page| !held.pages.contains_key(page))
        };
        Ok(next.filter(|&page| page < limit))
    }
}

impl Image for TreeImage {
    fn root(&self) -> FileId {
        if let [only] = self.0.roots.as_slice() { only.file } else { FileId::SOURCE }
    }

    fn status(&self, file: FileId) -> Result<Status, ImageError> {
        if file == FileId::SOURCE {
            let mut attributes = self.file(self.0.roots[0].file)?.attributes;
            attributes.kind = FileKind::Directory;
            return Ok(Status { file, attributes, size: 0, link_count: 2, allocated_bytes: 0 });
        }
        let held = self.file(file)?;
        let size = held.size + held.target.len() as u64;
        let link_count = self.0.link_count(file);
        Ok(Status { file, attributes: held.attributes, size, link_count, allocated_bytes: size })
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<Option<FileId>, ImageError> {
        Ok(self.entries(directory)?.into_iter().find(|(entry, _)| entry == name).map(|(_, file)| file))
    }

    fn read_directory(
        &self,
        directory: FileId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ImageError> {
        let entries = self.entries(directory)?.into_iter();
        let later = entries.filter(|(name, _)| after.is_none_or(|after| name.as_ref() > after));
        later
            .take(limit)
            .map(|(name, file)| Ok(DirectoryEntry { name, file, kind: self.file(file)?.attributes.kind }))
            .collect()
    }

    fn parent(&self, directory: FileId) -> Result<FileId, ImageError> {
        let named = self.0.names_of(directory).first().map(|(parent, _)| *parent);
        Ok(named.unwrap_or_else(|| self.root()))
    }

    fn read_link(&self, file: FileId) -> Result<Bytes, ImageError> {
        Ok(self.file(file)?.target.clone())
    }

    fn list_xattrs(&self, file: FileId) -> Result<Vec<Bytes>, ImageError> {
        Ok(self.file(file)?.xattrs.keys().cloned().collect())
    }

    fn xattr(&self, file: FileId, name: &[u8]) -> Result<Option<Bytes>, ImageError> {
        Ok(self.file(file)?.xattrs.get(name).cloned())
    }

    fn read_at(&self, file: FileId, offset_bytes: u64, buf: &mut [u8]) -> Result<usize, ImageError> {
        let bytes = self.file(file)?.read(offset_bytes, buf.len());
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn next_data(&self, file: FileId, offset_bytes: u64) -> Result<Option<u64>, ImageError> {
        let page = self.next_page(file, offset_bytes / PAGE_BYTES as u64, true)?;
        Ok(page
            .map(|page| offset_bytes.max(page * PAGE_BYTES as u64))
            .filter(|_| offset_bytes < self.0.files[&file].size))
    }

    fn next_hole(&self, file: FileId, offset_bytes: u64) -> Result<u64, ImageError> {
        let page = self.next_page(file, offset_bytes / PAGE_BYTES as u64, false)?;
        let size = self.file(file)?.size;
        Ok(page.map_or(size, |page| offset_bytes.max(page * PAGE_BYTES as u64)))
    }

    fn external_links(&self) -> Result<Vec<(Bytes, Bytes)>, ImageError> {
        Ok(Vec::new())
    }

    fn retarget(&self, _directory: FileId, _target: &[u8]) -> Result<Option<Bytes>, ImageError> {
        Ok(None)
    }
}

mod tests {
    use pitgate::types::{ChangeBody, Position, Time};

    use crate::chance::Chance;
    use crate::compare::{Difference, compare};
    use crate::generator::{Generator, Step};
    use crate::reference::Reference;

    use super::*;

    fn reference(seed: u64) -> Reference {
        let mut generator = Generator::new(seed);
        let mut reference = Reference::default();
        for _ in 0..150 {
            if let Step::Change(change) = generator.step() {
                reference.record(reference.last_position().next(), Time(0), change);
            }
        }
        assert_eq!(reference.tree_at(Position::MAX), *generator.live());
        reference
    }

    fn verdict(shown: Tree, expected: &Tree) -> Result<(), Difference> {
        compare(&TreeImage(shown), expected, &mut Chance::new(5))
    }

    #[test]
    fn a_tree_equals_itself_and_no_other_position() {
        for seed in 0..40 {
            let reference = reference(seed);
            let position = Position(reference.last_position().0 / 2);
            let tree = reference.tree_at(position);
            verdict(tree.clone(), &tree).unwrap_or_else(|difference| panic!("seed {seed}: {difference}"));
            let mut cut = reference.clone();
            cut.forget_after(position);
            assert_eq!(cut.last_position(), position);
            assert_eq!(cut.tree_at(Position::MAX), tree);
        }
    }

    /// Reachable files only: the comparison walks from the root.
    fn reachable(tree: &Tree) -> Vec<FileId> {
        let mut found: Vec<FileId> = tree.roots.iter().map(|root| root.file).collect();
        let mut at = 0;
        while at < found.len() {
            found.extend(tree.files[&found[at]].entries.values());
            at += 1;
        }
        found
    }

    #[test]
    fn every_difference_is_seen() {
        let mut seen = [0; 7];
        for seed in 0..40 {
            let tree = reference(seed).tree_at(Position::MAX);
            for id in reachable(&tree) {
                let mutations: [fn(&mut File) -> bool; 7] = [
                    |file| flip_a_byte(file),
                    |file| {
                        file.pages.pop_first().is_some_and(|(page, bytes)| {
                            page * 4096 < file.size && bytes.iter().any(|byte| *byte != 0)
                        })
                    },
                    |file| {
                        file.size += 1;
                        file.attributes.kind == FileKind::Regular
                    },
                    |file| {
                        file.attributes.mode ^= 1;
                        true
                    },
                    |file| {
                        file.attributes.mtime = Time(file.attributes.mtime.0 + 1);
                        true
                    },
                    |file| file.xattrs.pop_first().is_some(),
                    |file| file.entries.pop_first().is_some(),
                ];
                for (number, mutate) in mutations.into_iter().enumerate() {
                    let mut wrong = tree.clone();
                    if mutate(wrong.files.get_mut(&id).expect("the file is reachable")) {
                        seen[number] += 1;
                        assert!(
                            verdict(wrong, &tree).is_err(),
                            "seed {seed}: mutation {number} of {id:?} unseen"
                        );
                    }
                }
            }
        }
        assert!(seen.iter().all(|&count| count > 10), "too few of some mutation: {seen:?}");
    }

    fn flip_a_byte(file: &mut File) -> bool {
        let size = file.size;
        let Some((page, bytes)) = file.pages.iter_mut().next_back() else { return false };
        let mut flipped = bytes.to_vec();
        flipped[17] ^= 0x40;
        *bytes = flipped.into();
        page * PAGE_BYTES as u64 + 17 < size
    }

    #[test]
    fn coverage_ends_with_its_mark_and_with_the_life() {
        use pitgate::types::Mark;
        let mut reference = Reference::default();
        let end = || Mark::CoverageEnd { reason: "full".into() };
        let bookmark = || Mark::Bookmark { name: "noon".into() };
        let marks = [
            Mark::Heartbeat,
            Mark::CoverageBegin,
            bookmark(),
            end(),
            Mark::Heartbeat,
            Mark::CoverageBegin,
            Mark::CleanStop,
            Mark::Heartbeat,
        ];
        for (number, mark) in (1..).zip(marks) {
            reference.record(Position(number), Time(0), ChangeBody::Mark(mark));
        }
        assert_eq!(reference.covered_positions(&[Position(7)]), [2, 3, 6, 7].map(Position));
        assert_eq!(reference.bookmarks(), [("noon".to_owned(), Position(3))]);
        assert_eq!(reference.changes().len(), 8);
    }
}
