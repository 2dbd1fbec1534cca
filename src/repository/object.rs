//! Small files that are written whole: one frame with magic, version, length, body and digest, moved into
//! place so that a crash leaves the old file, the new one or none, but never a part.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Identity, RepositoryError};
use crate::io::Disk;
use crate::types::{DecodeError, Decoder};

/// Magic, version, body length; body; digest.
const HEADER_BYTES: usize = 8 + 4 + 8;
const DIGEST_BYTES: usize = 32;

/// A kind of small file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub magic: &'static [u8; 8],
    pub version: u32,
    /// No file of this kind is believed to be larger.
    pub len_bytes_max: u64,
}

/// Why bytes are not the frame that they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FrameError {
    Foreign,
    Newer(u32),
    Damaged(&'static str),
}

impl Kind {
    /// The file's bytes; `identity` says whose it is and what for, and is part of the digest.
    pub fn frame(&self, identity: &[u8], body: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + body.len() + DIGEST_BYTES);
        out.extend_from_slice(self.magic);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&(body.len() as u64).to_le_bytes());
        out.extend_from_slice(body);
        let digest = digest(identity, &out);
        out.extend_from_slice(&digest);
        out
    }

    /// The body of a frame that was made with the same identity.
    pub fn unframe<'a>(&self, identity: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], FrameError> {
        if !bytes.starts_with(self.magic) {
            return Err(FrameError::Foreign);
        }
        let Some((signed, written)) = bytes
            .len()
            .checked_sub(DIGEST_BYTES)
            .filter(|signed| *signed >= HEADER_BYTES)
            .map(|signed| bytes.split_at(signed))
        else {
            return Err(FrameError::Damaged("it is too short"));
        };
        // The digest first: a damaged version is damage. So the frame itself must stay as it is in all versions.
        let body = &signed[HEADER_BYTES..];
        if digest(identity, signed) != *written
            || signed[12..HEADER_BYTES] != (body.len() as u64).to_le_bytes()
        {
            return Err(FrameError::Damaged("it fails its checksum"));
        }
        let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        if version > self.version {
            return Err(FrameError::Newer(version));
        }
        if version != self.version {
            return Err(FrameError::Damaged("its format version was never used"));
        }
        Ok(body)
    }

    /// Reads the file at `path` and returns its body; `None` if there is no such file.
    pub fn read(
        &self,
        disk: &dyn Disk,
        path: &Path,
        identity: &[u8],
    ) -> Result<Option<Vec<u8>>, RepositoryError> {
        let Some(bytes) = read_whole(disk, path, self.len_bytes_max)? else { return Ok(None) };
        match self.unframe(identity, &bytes) {
            Ok(body) => Ok(Some(body.to_vec())),
            Err(FrameError::Newer(found)) => {
                Err(RepositoryError::Newer { path: disk.display(path), found, known: self.version })
            }
            Err(FrameError::Foreign) => Err(RepositoryError::Damaged {
                object: disk.display(path),
                what: "its first bytes are not its own".into(),
            }),
            Err(FrameError::Damaged(what)) => {
                Err(RepositoryError::Damaged { object: disk.display(path), what: what.into() })
            }
        }
    }

    /// Writes the file at `path`, replacing what is there.
    pub fn write(
        &self,
        disk: &dyn Disk,
        path: &Path,
        identity: &[u8],
        body: &[u8],
    ) -> Result<(), RepositoryError> {
        write_whole(disk, path, &self.frame(identity, body))
    }
}

fn digest(identity: &[u8], signed: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(identity.len() as u64).to_le_bytes());
    hasher.update(identity);
    hasher.update(signed);
    *hasher.finalize().as_bytes()
}

/// The bytes of a file; `None` if there is none.
pub(super) fn read_whole(
    disk: &dyn Disk,
    path: &Path,
    len_bytes_max: u64,
) -> Result<Option<Vec<u8>>, RepositoryError> {
    let failed = |source| storage(disk, "read", path, source);
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let len = file.len().map_err(failed)?;
    if len > len_bytes_max {
        let what = format!("it has {len} bytes, more than it can have");
        return Err(RepositoryError::Damaged { object: disk.display(path), what });
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let read = file.read_at(0, &mut bytes).map_err(failed)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Writes a file whole and durably: first under another name, then moved into place.
pub(super) fn write_whole(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), RepositoryError> {
    let failed = |source| storage(disk, "write", path, source);
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    let file = match disk.create_new(new) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // What a crash left here was never moved into place and belongs to nobody.
            disk.remove(new).map_err(failed)?;
            disk.create_new(new).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    let written = file.write_at(0, bytes).and_then(|()| file.sync()).and_then(|()| disk.rename(new, path));
    if let Err(error) = written {
        // Best effort: a file left over is replaced by the next attempt.
        let _ = disk.remove(new);
        return Err(failed(error));
    }
    // Sync the directory too: after power loss, a synced file without an entry is a lost file.
    disk.sync_directory(path.parent().unwrap_or(Path::new(""))).map_err(failed)
}

/// Removes a file; one that is gone already is fine.
pub(super) fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), RepositoryError> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(storage(disk, "remove", path, error)),
        _ => Ok(()),
    }
}

/// Names in a directory; none if it does not exist.
pub(super) fn names_in(disk: &dyn Disk, path: &Path) -> Result<Vec<String>, RepositoryError> {
    match disk.list(path) {
        Ok(paths) => {
            Ok(paths.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(storage(disk, "list", path, error)),
    }
}

pub(super) fn storage(
    disk: &dyn Disk,
    action: &'static str,
    path: &Path,
    source: io::Error,
) -> RepositoryError {
    RepositoryError::Storage { action, object: disk.display(path), source: Arc::new(source) }
}

/// The next sixteen bytes as an identity.
pub(super) fn identity(input: &mut Decoder<'_>) -> Result<Identity, DecodeError> {
    let mut identity = Identity([0; 16]);
    identity.0.copy_from_slice(input.raw(16)?);
    Ok(identity)
}
