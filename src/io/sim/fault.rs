//! What a simulated disk can be told to do wrong, and what it counts.

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    Read,
    Write,
    /// `DiskFile::sync`.
    Sync,
    SyncDirectory,
    /// Creating, renaming and removing files and directories.
    Name,
}

/// A failure to come: EIO for `times` operations of this kind after `after` more that succeed. A sync that
/// fails drops an arbitrary part of what it should have stored, and later ones do not know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub operation: Operation,
    pub after: u64,
    /// `u64::MAX`: for good.
    pub times: u64,
}

impl Fault {
    /// The next operation of this kind fails, and none after it.
    #[must_use]
    pub fn once(operation: Operation) -> Fault {
        Fault { operation, after: 0, times: 1 }
    }

    /// Counts one operation; whether it fails.
    pub(super) fn strikes(&mut self, operation: Operation) -> bool {
        if self.operation != operation || self.times == 0 {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        if self.times != u64::MAX {
            self.times -= 1;
        }
        true
    }
}

/// Operations since the disk was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStatistics {
    pub reads: u64,
    pub bytes_read: u64,
    pub writes: u64,
    pub bytes_written: u64,
    pub syncs: u64,
    pub directory_syncs: u64,
    /// Files and directories created, renamed and removed.
    pub names_changed: u64,
}
