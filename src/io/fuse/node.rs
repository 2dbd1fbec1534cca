//! What a file system and the kernel tell each other: nodes, handles, and what both can do.

use std::time::Duration;

use crate::types::{FileKind, Time};

/// Who asks. Requests that the kernel makes by itself (write-back, read-ahead) carry zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// The thread that asks (its process is in `/proc/PID/status`, as `Tgid`).
    pub pid: u32,
}

/// What `stat` shows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAttributes {
    /// The node id, shown as inode number.
    pub node: u64,
    pub kind: FileKind,
    /// Permission bits with set-id and sticky bits (`0o7777`).
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    /// As Linux `st_rdev`.
    pub rdev: u64,
    pub size: u64,
    /// Storage used, in units of 512 bytes.
    pub blocks: u64,
    /// Preferred size of reads and writes, in bytes.
    pub block_bytes: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
}

/// A node found by name. Each entry given to the kernel counts as one lookup until [`forget`] takes it back.
///
/// [`forget`]: super::FileSystem::forget
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Must change if a node id is ever used for another file.
    pub generation: u64,
    pub attributes: NodeAttributes,
    /// How long the kernel may use the attributes without asking.
    pub attribute_ttl: Duration,
    /// How long the kernel may use the name without asking.
    pub entry_ttl: Duration,
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Ours to choose; given back with every request on this open file.
    pub handle: u64,
    /// Pages the kernel holds of this file stay valid.
    pub keep_cache: bool,
    /// Reads and writes pass the page cache by.
    pub direct_io: bool,
    /// Direct writes of one file may run at the same time; only together with `direct_io` or O_DIRECT.
    pub parallel_direct_writes: bool,
    /// The kernel may keep the names of this directory, for as long as `keep_cache` holds them valid.
    pub cache_directory: bool,
    /// `close` sends no flush.
    pub no_flush: bool,
}

/// How a time is to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    Now,
    /// Times outside the years 1677 to 2262 arrive as the nearest one within.
    At(Time),
}

/// Attributes to change; `None` leaves one as it is.
///
/// With `handle_killpriv_v2` the kernel leaves it to the file system to drop set-id bits and capabilities
/// when an unprivileged caller changes owner or size, and the transport does not say whether it asks for it:
/// judge by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// `0o7777` at most.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<TimeSet>,
    pub mtime: Option<TimeSet>,
    /// Sent only with `writeback_cache`.
    pub ctime: Option<Time>,
    /// The open file this was asked through (`ftruncate`).
    pub handle: Option<u64>,
}

/// What comes with the bytes of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteFlags {
    /// From the page cache: handle and caller may be anyone's who has the file open.
    pub from_cache: bool,
    /// Set-id bits and capabilities of the file must be dropped.
    pub kill_privileges: bool,
    /// The open flags of the file now (`fcntl` may have changed them): O_APPEND, O_DIRECT, O_SYNC, O_DSYNC.
    pub open_flags: i32,
}

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

/// What `statfs` shows. Blocks are of `block_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageStatus {
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub block_bytes: u32,
    pub name_bytes_max: u32,
}

/// Takes the entries of one `readdir` reply.
pub trait DirectorySink {
    /// Adds a name; `next_offset` is what a later request passes to go on after it (never 0). Returns whether
    /// it was taken; after the first `false` nothing more is.
    fn add(&mut self, node: u64, next_offset: u64, kind: FileKind, name: &[u8]) -> bool;
}

/// Takes the entries of one `readdirplus` reply.
pub trait DirectoryPlusSink {
    /// Adds a name with its entry, as [`DirectorySink::add`] does. An entry that is taken counts as a lookup,
    /// except for `.` and `..`; one that is not taken does not.
    fn add(&mut self, next_offset: u64, name: &[u8], entry: &Entry) -> bool;
}

/// What kernel and file system agree on before the first request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiation {
    /// The kernel's protocol version: major, minor.
    pub protocol: (u32, u32),
    /// What the kernel can do.
    pub offered: Capabilities,
    /// What the file system wants; of it, what is offered is taken. Starts as [`Capabilities::usual`].
    pub wanted: Capabilities,
    /// Largest write, and largest read, that the kernel sends; 1 MiB to start with.
    pub max_write_bytes: u32,
    /// What the kernel may read ahead; it may cap this at 128 KiB (see [`super::SessionOptions`]).
    pub max_readahead_bytes: u32,
    /// Read-ahead and write-back requests in flight.
    pub max_background: u16,
}

/// Features of the protocol, named as the kernel names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Writes end in the page cache and arrive later, whole pages, sizes and times kept by the kernel. Reads
    /// may then come through handles opened for writing only, and O_APPEND is the kernel's matter.
    pub writeback_cache: bool,
    /// The file system drops set-id bits and capabilities on write, truncate and chown.
    pub handle_killpriv_v2: bool,
    /// Cached pages are dropped only when the file system says so, never for a changed modification time.
    pub explicit_inval_data: bool,
    /// Cached pages are dropped when a file's modification time or size is seen to have changed.
    pub auto_inval_data: bool,
    /// Lookups and `readdir` in one directory may run at the same time.
    pub parallel_dirops: bool,
    /// Direct I/O is split into requests that run at the same time.
    pub async_dio: bool,
    pub readdirplus: bool,
    /// The kernel chooses between `readdir` and `readdirplus`.
    pub readdirplus_auto: bool,
    /// Shared maps of files opened with `direct_io`.
    pub direct_io_allow_mmap: bool,
    /// O_TRUNC comes with `open` instead of as a `setattr` after it.
    pub atomic_o_trunc: bool,
    /// Texts of symbolic links are cached by the kernel.
    pub cache_symlinks: bool,
}

impl Capabilities {
    /// What costs nothing and helps every file system here.
    #[must_use]
    pub fn usual() -> Capabilities {
        Capabilities {
            parallel_dirops: true,
            async_dio: true,
            readdirplus: true,
            readdirplus_auto: true,
            direct_io_allow_mmap: true,
            ..Capabilities::default()
        }
    }
}
