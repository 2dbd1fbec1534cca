//! A digest of a directory: names and content of every file, so that two moments can be compared.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

/// BLAKE3 over all regular files below `directory`, by ascending name.
pub fn of_directory(directory: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    add(&mut hasher, directory)?;
    Ok(hasher.finalize())
}

fn add(hasher: &mut blake3::Hasher, directory: &Path) -> Result<()> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let metadata = std::fs::symlink_metadata(&path)?;
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        if metadata.is_dir() {
            add(hasher, &path)?;
        } else if metadata.is_file() {
            hasher.update(&metadata.len().to_le_bytes());
            let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            hasher.update_reader(file).with_context(|| format!("cannot read {}", path.display()))?;
        }
    }
    Ok(())
}
