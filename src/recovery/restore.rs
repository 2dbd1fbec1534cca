//! A whole restore: staged beside the destination, verified, and moved into place only when complete.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::RestoreError;
use super::attributes;
use super::copy::Copy;
use super::plan::Plan;
use crate::types::{FileKind, Image};

/// How to restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Threads that copy; at least one.
    pub threads: usize,
    /// Whether everything is read back and compared.
    pub verify: bool,
}

/// What a restore is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Copying,
    Verifying,
}

/// How far a restore has come; `done_bytes <= total_bytes`, both counting holes.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub stage: Stage,
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// What a restore made.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    pub files: u64,
    pub directories: u64,
    /// Sizes of all regular files.
    pub content_bytes: u64,
    /// Bytes that had to be written; the rest are holes.
    pub written_bytes: u64,
    /// What this process had no right to set, or the destination cannot hold.
    pub missing: Vec<String>,
}

/// Copies `image` into the directory `to`, which must be empty or not exist.
///
/// The copy is durable and complete when this returns: content, holes, names, hard links, owners, modes,
/// extended attributes, modification times. `progress` is called from several threads.
///
/// # Errors
/// See [`RestoreError`]; the destination is then as it was before.
pub fn restore(
    image: &dyn Image,
    to: &Path,
    options: &RestoreOptions,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Restored, RestoreError> {
    check_destination(to)?;
    let plan = Plan::of(image)?;
    let staging = Staging::create(to)?;
    check_space(&plan, &staging.path)?;
    make_names(&plan, &staging.path)?;

    let copy = Copy::new(image, &plan.files, &staging.path);
    let counted = |stage| {
        let done = AtomicU64::new(0);
        let total_bytes = plan.content_bytes;
        move |bytes: u64| {
            let done_bytes = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            progress(Progress { stage, done_bytes, total_bytes });
        }
    };
    copy.run(options.threads, &counted(Stage::Copying))?;
    sync_files(&plan, &staging.path)?;
    if options.verify {
        copy.verify(options.threads, &counted(Stage::Verifying))?;
    }

    let mut restored = Restored {
        files: plan.files.len() as u64,
        directories: plan.directories.len() as u64,
        content_bytes: plan.content_bytes,
        written_bytes: copy.written_bytes.load(Ordering::Relaxed),
        missing: Vec::new(),
    };
    // A directory's time changes with each name in it, so directories come last, the deepest first.
    let (root, below) = plan.directories.split_first().expect("a plan has the image's root");
    for planned in plan.files.iter().chain(below.iter().rev()) {
        attributes::apply(image, planned, &staging.path.join(&planned.path), &mut restored.missing)?;
    }
    staging.complete(to)?;
    attributes::apply(image, root, to, &mut restored.missing)?;
    Ok(restored)
}

fn check_destination(to: &Path) -> Result<(), RestoreError> {
    let entries = match fs::read_dir(to) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(RestoreError::NotADirectory(to.to_owned()));
        }
        Err(error) => return Err(RestoreError::write("read", to)(error)),
    };
    for entry in entries {
        // A fresh ext4 file system is as good as empty.
        if entry.map_err(RestoreError::write("read", to))?.file_name() != "lost+found" {
            return Err(RestoreError::NotEmpty(to.to_owned()));
        }
    }
    Ok(())
}

fn check_space(plan: &Plan, path: &Path) -> Result<(), RestoreError> {
    let free =
        rustix::fs::statvfs(path).map_err(io::Error::from).map_err(RestoreError::write("examine", path))?;
    let available_bytes = free.f_bavail.saturating_mul(free.f_frsize);
    if plan.allocated_bytes > available_bytes {
        let path = path.parent().unwrap_or(path).to_owned();
        return Err(RestoreError::NoSpace { path, needed_bytes: plan.allocated_bytes, available_bytes });
    }
    Ok(())
}

/// Makes every name: directories open to nobody else, files empty but of their size.
fn make_names(plan: &Plan, base: &Path) -> Result<(), RestoreError> {
    for planned in plan.directories.iter().skip(1) {
        let path = base.join(&planned.path);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(RestoreError::write("create", &path))?;
    }
    for planned in &plan.files {
        let path = base.join(&planned.path);
        if planned.status.attributes.kind == FileKind::Regular {
            let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            made.and_then(|file| file.set_len(planned.status.size))
                .map_err(RestoreError::write("create", &path))?;
        } else {
            attributes::make_special(planned, &path).map_err(RestoreError::write("create", &path))?;
        }
        for link in &planned.links {
            let link = base.join(link);
            fs::hard_link(&path, &link).map_err(RestoreError::write("link", &link))?;
        }
    }
    Ok(())
}

/// Makes content durable and drops it from the page cache, so that verification reads storage.
fn sync_files(plan: &Plan, base: &Path) -> Result<(), RestoreError> {
    sync_file_system(base)?;
    for planned in plan.files.iter().filter(|planned| planned.status.attributes.kind == FileKind::Regular) {
        let path = base.join(&planned.path);
        let file = fs::File::open(&path).map_err(RestoreError::write("open", &path))?;
        // Only advice: a kernel that keeps the pages makes the verification weaker, not wrong.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
    Ok(())
}

/// Makes everything durable that was written below `path`: one sync for any number of files.
fn sync_file_system(path: &Path) -> Result<(), RestoreError> {
    let synced = fs::File::open(path).and_then(|directory| Ok(rustix::fs::syncfs(&directory)?));
    synced.map_err(RestoreError::write("sync", path))
}

/// The unfinished copy; removed unless completed.
///
/// It stands inside a destination that exists, which may be a file system of its own, else beside it.
struct Staging {
    path: PathBuf,
    is_inside: bool,
    is_complete: bool,
}

impl Staging {
    fn create(to: &Path) -> Result<Staging, RestoreError> {
        let is_inside = to.is_dir();
        let name = to.file_name().unwrap_or(to.as_os_str()).to_string_lossy().into_owned();
        let above = match to.parent() {
            _ if is_inside => to,
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let path = above.join(format!(".{name}.pitgate-restore-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(RestoreError::write("create", &path))?;
        Ok(Staging { path, is_inside, is_complete: false })
    }

    /// Makes the copy durable and moves it to where it was asked for.
    fn complete(mut self, to: &Path) -> Result<(), RestoreError> {
        sync_file_system(&self.path)?;
        if self.is_inside {
            let entries = fs::read_dir(&self.path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            for entry in entries.map_err(RestoreError::write("read", &self.path))? {
                let target = to.join(entry.file_name());
                fs::rename(entry.path(), &target)
                    .map_err(RestoreError::write("move the copy to", &target))?;
            }
            fs::remove_dir(&self.path).map_err(RestoreError::write("remove", &self.path))?;
        } else {
            fs::rename(&self.path, to).map_err(RestoreError::write("move the copy to", to))?;
        }
        self.is_complete = true;
        let named_in = if self.is_inside { to } else { self.path.parent().unwrap_or(Path::new("/")) };
        let synced = fs::File::open(named_in).and_then(|directory| directory.sync_all());
        synced.map_err(RestoreError::write("sync", named_in))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_complete {
            // The error that led here is what the person needs to see; the rest is named by its path.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
