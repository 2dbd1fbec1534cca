//! A namespace as bytes and back. `docs/disk-format.md` draws them.

use std::io::Read;

use bytes::Bytes;

use super::tree::{Name, Namespace, Node, Root};
use crate::types::{Attributes, DecodeError, Decoder, Encoder, FileId, FileKind};

const MAGIC: &[u8; 8] = b"PITGNAME";
const VERSION: u32 = 1;
/// Magic, version, bytes unpacked, bytes packed, digest.
const HEADER_BYTES: usize = 8 + 4 + 8 + 8 + 32;
/// What unpacking may fill, whatever the header says: some twenty million files.
const UNPACKED_BYTES_MAX: u64 = 4 << 30;
const ZSTD_LEVEL: i32 = 3;
/// No file takes fewer bytes in a body.
const FILE_BYTES_MIN: usize = 16;

/// Why bytes are not the snapshot that they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("not a namespace snapshot")]
    Foreign,
    #[error("namespace snapshot of format {0}, which this pitgate does not know: use a newer one")]
    Newer(u32),
    #[error("namespace snapshot fails its checksum")]
    Damaged,
    #[error("namespace snapshot holds {0} bytes unpacked, more than is believed")]
    TooLarge(u64),
    #[error("namespace snapshot cannot be unpacked: {0}")]
    Unpack(String),
    #[error("namespace snapshot is {0}")]
    Malformed(#[from] DecodeError),
    #[error("namespace snapshot contradicts itself at {0:?}")]
    Inconsistent(FileId),
}

impl Namespace {
    /// The namespace as bytes, the same for equal namespaces. `identity` names what it is a snapshot of; only
    /// who gives the same reads it back.
    #[must_use]
    pub fn encode(&self, identity: &[u8]) -> Vec<u8> {
        self.encode_as(VERSION, identity)
    }

    pub(super) fn encode_as(&self, version: u32, identity: &[u8]) -> Vec<u8> {
        let body = self.encode_body();
        let packed =
            zstd::bulk::compress(&body, ZSTD_LEVEL).expect("zstd compresses whatever fits in memory");
        let mut out = Encoder::new();
        out.raw(MAGIC);
        out.u32(version);
        out.u64(body.len() as u64);
        out.u64(packed.len() as u64);
        let digest = digest(identity, &out, &packed);
        out.raw(&digest);
        out.raw(&packed);
        out.finish()
    }

    /// Reads what [`Namespace::encode`] wrote with the same `identity`.
    ///
    /// # Errors
    /// `SnapshotError` for anything else; never a namespace that breaks its invariants.
    pub fn decode(bytes: &[u8], identity: &[u8]) -> Result<Namespace, SnapshotError> {
        if !bytes.starts_with(MAGIC) {
            return Err(SnapshotError::Foreign);
        }
        let mut input = Decoder::new(&bytes[MAGIC.len()..]);
        let version = input.u32()?;
        let unpacked_bytes = input.u64()?;
        let packed_bytes = input.u64()?;
        let written = input.raw(32)?;
        let packed = &bytes[HEADER_BYTES..];
        let signed = Encoder::after(bytes[..HEADER_BYTES - 32].to_vec());
        if packed.len() as u64 != packed_bytes || digest(identity, &signed, packed) != *written {
            return Err(SnapshotError::Damaged);
        }
        // After the digest, so that a damaged version is damage; the header stays as it is in all versions.
        if version != VERSION {
            return Err(if version > VERSION {
                SnapshotError::Newer(version)
            } else {
                SnapshotError::Damaged
            });
        }
        if unpacked_bytes > UNPACKED_BYTES_MAX {
            return Err(SnapshotError::TooLarge(unpacked_bytes));
        }
        decode_body(&unpack(packed, unpacked_bytes)?)
    }

    pub(super) fn encode_body(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.varint(self.next_file.0);
        out.varint(self.roots.len() as u64);
        for root in &self.roots {
            out.varint(root.file.0);
            out.bytes(&root.label);
            out.bytes(&root.mountpoint);
            out.bytes(&root.data_dir);
        }
        let mut files: Vec<_> = self.files().collect();
        files.sort_unstable_by_key(|(file, _)| *file);
        out.varint(files.len() as u64);
        let mut previous = 0;
        for (file, node) in files {
            out.varint(file.0 - previous);
            previous = file.0;
            node.encode(&mut out);
        }
        out.finish()
    }
}

impl Node {
    fn encode(&self, out: &mut Encoder) {
        self.attributes.encode(out);
        match self.attributes.kind {
            FileKind::Regular => out.varint(self.size),
            FileKind::Symlink => out.bytes(&self.target),
            _ => {}
        }
        out.varint(self.names.len() as u64);
        for name in &self.names {
            out.varint(name.parent.0);
            out.bytes(&name.name);
        }
        out.varint(self.xattrs.len() as u64);
        for (name, value) in self.xattrs() {
            out.bytes(name);
            out.bytes(value);
        }
    }
}

fn digest(identity: &[u8], header: &Encoder, packed: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(identity.len() as u64).to_le_bytes());
    hasher.update(identity);
    hasher.update(header.as_slice());
    hasher.update(packed);
    *hasher.finalize().as_bytes()
}

fn unpack(packed: &[u8], unpacked_bytes: u64) -> Result<Bytes, SnapshotError> {
    let failed = |error: std::io::Error| SnapshotError::Unpack(error.to_string());
    let mut body = Vec::new();
    // The limit is one above what is expected, so that too much is noticed and not cut.
    zstd::Decoder::new(packed)
        .map_err(failed)?
        .take(unpacked_bytes + 1)
        .read_to_end(&mut body)
        .map_err(failed)?;
    if body.len() as u64 != unpacked_bytes {
        return Err(SnapshotError::Damaged);
    }
    Ok(body.into())
}

/// Names, texts and values share the one buffer.
pub(super) fn decode_body(body: &Bytes) -> Result<Namespace, SnapshotError> {
    let mut input = Decoder::new(body);
    let mut namespace = Namespace::new();
    namespace.nodes.clear();
    namespace.next_file = FileId(input.varint()?);
    for _ in 0..input.varint()? {
        let file = FileId(input.varint()?);
        let label = body.slice_ref(input.name_slice()?);
        let mountpoint = body.slice_ref(input.slice()?);
        let data_dir = body.slice_ref(input.slice()?);
        namespace.roots.push(Root { file, label, mountpoint, data_dir });
    }
    let mut names: Vec<Named> = Vec::new();
    let mut previous = 0u64;
    let count = input.varint()?;
    // A file takes more bytes than this, so the word of the input is not believed beyond its length.
    let likely = usize::try_from(count).unwrap_or(usize::MAX).min(input.remaining() / FILE_BYTES_MIN);
    namespace.nodes.reserve(likely);
    names.reserve(likely);
    for _ in 0..count {
        let step = input.varint()?;
        let file = FileId(previous.checked_add(step).ok_or_else(|| input.error("file id"))?);
        if step == 0 || file >= namespace.next_file || file.is_overlay() {
            return Err(input.error("file id").into());
        }
        previous = file.0;
        let node = decode_node(body, &mut input)?;
        let is_directory = node.is_directory();
        names.extend(node.names.iter().cloned().map(|name| Named { name, file, is_directory }));
        namespace.nodes.insert(file, node);
    }
    input.finish()?;
    fill_directories(&mut namespace, names)?;
    check(&namespace)?;
    Ok(namespace)
}

struct Named {
    name: Name,
    file: FileId,
    is_directory: bool,
}

/// Directories are built from sorted names, which is much cheaper than name by name.
fn fill_directories(namespace: &mut Namespace, mut names: Vec<Named>) -> Result<(), SnapshotError> {
    names.sort_unstable_by(|a, b| (a.name.parent, &a.name.name).cmp(&(b.name.parent, &b.name.name)));
    if let Some(pair) = names.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(SnapshotError::Inconsistent(pair[1].file));
    }
    for of_directory in names.chunk_by(|a, b| a.name.parent == b.name.parent) {
        let parent = of_directory[0].name.parent;
        let node = namespace.nodes.get_mut(&parent);
        let Some(directory) = node.and_then(|node| node.directory.as_mut()) else {
            return Err(SnapshotError::Inconsistent(of_directory[0].file));
        };
        let directories = of_directory.iter().filter(|named| named.is_directory).count();
        directory.directories = u32::try_from(directories).unwrap_or(u32::MAX);
        directory.children = of_directory.iter().map(|named| (named.name.name.clone(), named.file)).collect();
    }
    Ok(())
}

fn decode_node(body: &Bytes, input: &mut Decoder<'_>) -> Result<Node, SnapshotError> {
    let mut node = Node::new(Attributes::decode(input)?, Bytes::new());
    match node.attributes.kind {
        FileKind::Regular => node.size = input.varint()?,
        FileKind::Symlink => node.target = body.slice_ref(input.slice()?),
        _ => {}
    }
    for _ in 0..input.varint()? {
        let parent = FileId(input.varint()?);
        node.names.push(Name { parent, name: body.slice_ref(input.name_slice()?) });
    }
    for _ in 0..input.varint()? {
        let name = body.slice_ref(input.slice()?);
        let value = body.slice_ref(input.slice()?);
        node.xattrs.insert(name, value);
    }
    Ok(node)
}

/// The invariants that [`Namespace`] states and that decoding has not yet forced.
fn check(namespace: &Namespace) -> Result<(), SnapshotError> {
    let wrong = |file| Err(SnapshotError::Inconsistent(file));
    match namespace.file(FileId::SOURCE) {
        Some(source) if source.is_directory() && source.names.is_empty() => {}
        _ => return wrong(FileId::SOURCE),
    }
    let children = namespace.children(FileId::SOURCE).map(|(label, file)| (label.clone(), file));
    let roots = namespace.roots.iter().map(|root| (root.label.clone(), root.file));
    if !children.eq(roots) {
        return wrong(FileId::SOURCE);
    }
    let mut directories = 0;
    for (file, node) in namespace.files() {
        let is_root = namespace.roots.iter().any(|root| root.file == file);
        let names = node.names.len();
        if (node.is_directory() && file != FileId::SOURCE && names != 1)
            || (is_root && !node.is_directory())
            || node.attributes.mode > 0o7777
        {
            return wrong(file);
        }
        directories += usize::from(node.is_directory());
    }
    // Directories with one name each that are not all reached from the top must go round in a circle.
    let mut reached = 0;
    let mut ahead = vec![FileId::SOURCE];
    while let Some(at) = ahead.pop() {
        reached += 1;
        if namespace.directory(at).is_some_and(|directory| directory.directories > 0) {
            let below = namespace.children(at).map(|(_, file)| file);
            ahead.extend(below.filter(|&file| namespace.directory(file).is_some()));
        }
    }
    if reached == directories { Ok(()) } else { wrong(FileId::SOURCE) }
}
