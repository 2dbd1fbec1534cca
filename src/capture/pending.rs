//! Which files' bytes the journal does not have yet, and whether points exist.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::ImageProgress;
use super::node::Node;
use super::recorder::Recorder;
use crate::types::Mark;

/// A file whose bytes are to be read and recorded.
pub(super) struct Work {
    /// Referred to until it is done.
    pub node: Arc<Node>,
    pub base: Base,
    /// How many bytes it counts for in the progress.
    pub bytes: u64,
}

/// What the journal holds of a file before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// Nothing: every page reads as zeros.
    Zeros,
    /// What the image of the last life's end holds under this file's id.
    Image,
    /// Nobody can say.
    Unknown,
    /// A directory that appeared behind our back; what lies in it is not known.
    Directory,
}

/// The files to be read, and the coverage that begins once there are none.
#[derive(Default)]
pub(super) struct Pending {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    /// Files that could not be read, with the reason; tried again later.
    unreadable: Vec<(Work, String)>,
    /// A file is being read.
    busy: bool,
    covered: bool,
    /// Files for which the coverage was ended and which are still to be added.
    announced: u32,
    ended: bool,
    progress: ImageProgress,
}

/// What the thread that reads files does next.
pub(super) enum Next {
    Read(Work),
    /// Everything readable was read.
    Wait,
    End,
}

impl Pending {
    /// Adds a file without a word on coverage: before it began.
    pub(super) fn add(&self, work: Work) {
        let mut queue = self.queue.lock();
        queue.progress.files_total += 1;
        queue.progress.bytes_total += work.bytes;
        queue.waiting.push_back(work);
        self.changed.notify_all();
    }

    /// No point exists from here on until everything that waits was read.
    pub(super) fn end_coverage(&self, recorder: &Recorder, reason: &str) {
        let mut queue = self.queue.lock();
        tracing::warn!("{reason}: points exist again once it is read");
        if queue.covered && recorder.is_recording() {
            queue.covered = false;
            // A failure is the recorder's to tell.
            let _recorded = recorder.record_mark(Mark::CoverageEnd { reason: reason.to_owned() });
        }
        queue.progress.complete = false;
        // The coverage must not begin again before what this was called for has been added.
        queue.announced += 1;
    }

    /// Adds a file that [`Pending::end_coverage`] was called for.
    pub(super) fn add_announced(&self, work: Option<Work>) {
        self.queue.lock().announced -= 1;
        match work {
            Some(work) => self.add(work),
            None => {
                self.changed.notify_all();
            }
        }
    }

    /// The next file to read.
    pub(super) fn next(&self) -> Next {
        let mut queue = self.queue.lock();
        if queue.ended {
            return Next::End;
        }
        match queue.waiting.pop_front() {
            Some(work) => {
                queue.busy = true;
                Next::Read(work)
            }
            None => Next::Wait,
        }
    }

    /// The file that [`Pending::next`] gave was read.
    pub(super) fn done(&self, work: &Work) {
        let mut queue = self.queue.lock();
        queue.busy = false;
        queue.progress.files_done += 1;
        queue.progress.bytes_done += work.bytes;
        queue.progress.unreadable = queue.unreadable.iter().map(|(_, reason)| reason.clone()).collect();
    }

    /// It could not be read.
    pub(super) fn failed(&self, work: Work, reason: String) {
        let mut queue = self.queue.lock();
        queue.busy = false;
        if !queue.progress.unreadable.contains(&reason) {
            tracing::error!("{reason}; it is tried again, and no point exists before");
            queue.progress.unreadable.push(reason.clone());
        }
        queue.unreadable.push((work, reason));
    }

    /// Counts bytes that differed and were recorded.
    pub(super) fn count_recorded(&self, bytes: u64) {
        self.queue.lock().progress.bytes_recorded += bytes;
    }

    /// With nothing left to read, begins the coverage if it has not; returns whether it did just now.
    pub(super) fn begin_coverage(&self, recorder: &Recorder) -> bool {
        let mut queue = self.queue.lock();
        let idle = queue.waiting.is_empty() && !queue.busy;
        let complete = idle && queue.unreadable.is_empty() && queue.announced == 0;
        if !complete || queue.covered || !recorder.is_recording() {
            return false;
        }
        // Within the lock: a file that is added from now on finds the coverage begun, and ends it.
        let Ok(position) = recorder.record_mark(Mark::CoverageBegin) else { return false };
        recorder.request_commit(position);
        queue.covered = recorder.is_recording();
        queue.progress.complete = queue.covered;
        queue.progress.unreadable.clear();
        self.changed.notify_all();
        queue.covered
    }

    /// Waits up to `patience` for something to read; then files that could not be read are tried again.
    pub(super) fn wait(&self, patience: std::time::Duration) {
        let mut queue = self.queue.lock();
        if queue.waiting.is_empty() && !queue.ended {
            self.changed.wait_for(&mut queue, patience);
        }
        let again = std::mem::take(&mut queue.unreadable);
        queue.waiting.extend(again.into_iter().map(|(work, _)| work));
    }

    /// Waits up to `patience` for the image to be complete, and returns whether it is.
    pub(super) fn wait_complete(&self, patience: std::time::Duration) -> bool {
        let mut queue = self.queue.lock();
        self.changed.wait_while_for(&mut queue, |queue| !queue.progress.complete && !queue.ended, patience);
        queue.progress.complete
    }

    /// No more is read.
    pub(super) fn end(&self) {
        self.queue.lock().ended = true;
        self.changed.notify_all();
    }

    pub(super) fn is_ended(&self) -> bool {
        self.queue.lock().ended
    }

    pub(super) fn progress(&self) -> ImageProgress {
        self.queue.lock().progress.clone()
    }
}
