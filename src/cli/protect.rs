//! What must not lie inside a directory that is being captured: writing there would be recorded, and a mount or
//! copy there would be taken for production.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::capture::{ControlClient, ControlReply, ControlRequest};
use crate::mount::state_directory;

/// A directory that a running capture owns.
struct CapturedDirectory {
    source: String,
    path: PathBuf,
}

/// Refuses `path`, which may not exist yet, if a capture on this host records it.
///
/// # Errors
/// Names the source and the directory.
pub fn refuse_inside_captures(what: &str, path: &Path) -> Result<()> {
    let real = real_path(path).with_context(|| format!("cannot tell where {} is", path.display()))?;
    for captured in captured_directories() {
        if real.starts_with(&captured.path) {
            bail!(
                "{what} {} lies inside {}, which the capture of source `{}` records: choose a place outside",
                path.display(),
                captured.path.display(),
                captured.source
            );
        }
    }
    Ok(())
}

/// Refuses `path`, which may not exist yet, if it lies in the repository: nothing else may write there.
///
/// # Errors
/// Names both.
pub fn refuse_inside_repository(what: &str, path: &Path, repository: &Path) -> Result<()> {
    let real =
        |path: &Path| real_path(path).with_context(|| format!("cannot tell where {} is", path.display()));
    if real(path)?.starts_with(real(repository)?) {
        bail!(
            "{what} {} lies inside the repository {}: choose a place outside",
            path.display(),
            repository.display()
        );
    }
    Ok(())
}

/// Data directories and mountpoints of every capture that answers on this host.
fn captured_directories() -> Vec<CapturedDirectory> {
    let Ok(state) = state_directory() else { return Vec::new() };
    let Ok(sockets) = std::fs::read_dir(state.join("captures")) else { return Vec::new() };
    let mut captured = Vec::new();
    for socket in sockets
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "sock"))
    {
        let Ok(ControlReply::Status(status)) = ControlClient::ask(&socket, &ControlRequest::Status) else {
            continue;
        };
        for root in &status.roots {
            for path in [&root.data_dir, &root.mountpoint] {
                captured.push(CapturedDirectory { source: status.source.clone(), path: path.clone() });
            }
        }
    }
    captured
}

/// `path` without links, as far as it exists; the rest as it is written.
pub fn real_path(path: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let mut missing = Vec::new();
    let mut existing = absolute.as_path();
    loop {
        match existing.canonicalize() {
            Ok(real) => return Ok(missing.iter().rev().fold(real, |path, name| path.join(name))),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Err(error) => {
                let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else {
                    return Err(error);
                };
                missing.push(name.to_owned());
                existing = parent;
            }
        }
    }
}

/// Bytes that storage holds for the files in `directory`; 0 if it cannot be read.
pub fn stored_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_far_as_they_exist() {
        let scratch = tempfile::tempdir().unwrap();
        let real = scratch.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(real_path(&real.join("link/new/deep")).unwrap(), real.join("new/deep"));
    }
}
