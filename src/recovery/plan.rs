//! What a restore will make: one walk over the image's names, before anything is written.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bytes::Bytes;

use super::RestoreError;
use crate::types::{FileId, FileKind, Image, Status};

const NAMES_A_TIME: usize = 4096;

/// A file and the paths, relative to the destination, where it will stand.
pub(super) struct PlannedFile {
    pub status: Status,
    pub path: PathBuf,
    /// Further names of the same file.
    pub links: Vec<PathBuf>,
    /// The text of a symbolic link.
    pub target: Option<Bytes>,
}

/// Everything to make. Directories stand before what is in them.
pub(super) struct Plan {
    pub directories: Vec<PlannedFile>,
    pub files: Vec<PlannedFile>,
    pub content_bytes: u64,
    /// What storage holds for the files, as far as the image knows.
    pub allocated_bytes: u64,
}

impl Plan {
    /// Walks the whole image.
    pub fn of(image: &dyn Image) -> Result<Plan, RestoreError> {
        let mut plan =
            Plan { directories: Vec::new(), files: Vec::new(), content_bytes: 0, allocated_bytes: 0 };
        let mut known: HashMap<FileId, usize> = HashMap::new();
        plan.add_directory(image, image.root(), PathBuf::new())?;
        let mut next = 0;
        while next < plan.directories.len() {
            let directory = plan.directories[next].status.file;
            let base = plan.directories[next].path.clone();
            next += 1;
            let mut after: Option<Bytes> = None;
            loop {
                let entries = image
                    .read_directory(directory, after.as_deref(), NAMES_A_TIME)
                    .map_err(RestoreError::read(&base))?;
                let Some(last) = entries.last() else { break };
                after = Some(last.name.clone());
                for entry in entries {
                    let path = base.join(OsStr::from_bytes(&entry.name));
                    if entry.kind == FileKind::Directory {
                        plan.add_directory(image, entry.file, path)?;
                    } else if let Some(at) = known.get(&entry.file) {
                        plan.files[*at].links.push(path);
                    } else {
                        known.insert(entry.file, plan.files.len());
                        plan.add_file(image, entry.file, path)?;
                    }
                }
            }
        }
        Ok(plan)
    }

    fn add_directory(&mut self, image: &dyn Image, file: FileId, path: PathBuf) -> Result<(), RestoreError> {
        let status = image.status(file).map_err(RestoreError::read(&path))?;
        self.directories.push(PlannedFile { status, path, links: Vec::new(), target: None });
        Ok(())
    }

    fn add_file(&mut self, image: &dyn Image, file: FileId, path: PathBuf) -> Result<(), RestoreError> {
        let status = image.status(file).map_err(RestoreError::read(&path))?;
        let mut target = None;
        match status.attributes.kind {
            FileKind::Regular => {
                self.content_bytes += status.size;
                self.allocated_bytes += status.allocated_bytes.min(status.size);
            }
            FileKind::Symlink => target = Some(image.read_link(file).map_err(RestoreError::read(&path))?),
            _ => {}
        }
        self.files.push(PlannedFile { status, path, links: Vec::new(), target });
        Ok(())
    }
}
