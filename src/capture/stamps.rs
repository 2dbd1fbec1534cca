//! Modification times of files being written.
//!
//! Asking the backing for the time after every write costs about as much as the write itself: the kernel then
//! stamps the inode anew each time. So a write is given the kernel's clock, which is the backing's stamp to within
//! a tick, and the exact one follows within a second, and before every seal, bookmark and stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::backing;
use super::node::{FileState, Node};
use super::pass::Shared;
use crate::io::Clock;
use crate::types::{ChangeBody, DataChange, Time};

/// Files whose last recorded time is the clock's.
pub(super) struct Stamps {
    clock: Arc<dyn Clock>,
    /// Each referred to, so that it stays the only node of its file.
    written: Mutex<Vec<Arc<Node>>>,
    /// Held while times are settled: who asks for that finds them settled, not about to be by another.
    settling: Mutex<()>,
}

impl Stamps {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Stamps {
        Stamps { clock, written: Mutex::default(), settling: Mutex::default() }
    }

    /// The modification time to record for a write that was just applied to the file, whose state is held.
    pub(super) fn stamp(&self, node: &Arc<Node>, state: &mut FileState) -> Time {
        let now = self.clock.now_coarse();
        if state.stamped.replace(now).is_none() {
            node.references.fetch_add(1, Ordering::Relaxed);
            self.written.lock().push(Arc::clone(node));
        }
        now
    }
}

impl Shared {
    /// Records the backing's modification time of every file that has the clock's.
    pub(super) fn settle_stamps(&self) {
        let _held = self.stamps.settling.lock();
        let written = std::mem::take(&mut *self.stamps.written.lock());
        for node in written {
            self.settle(&node);
            self.table.release(node.file, 1);
        }
    }

    fn settle(&self, node: &Node) {
        let mut state = node.state.lock();
        let Some(stamped) = state.stamped.take() else { return };
        let (Some(size_after), false) = (state.size, state.nameless) else { return };
        // Without an answer the clock's time stays, which is right to within a tick.
        let Ok(stat) = node.descriptor().and_then(|descriptor| backing::stat_fd(&*descriptor)) else {
            return;
        };
        let mtime = backing::mtime(&stat);
        if mtime == stamped || !self.recorder.is_recording() {
            return;
        }
        let change = DataChange {
            file: node.file,
            size_after,
            mtime: Some(mtime),
            cut: false,
            zero: None,
            pages: Vec::new(),
        };
        // A failure is the recorder's to tell.
        if let Ok(position) = self.recorder.record(ChangeBody::Data(change)) {
            node.touch(position);
        }
    }
}
