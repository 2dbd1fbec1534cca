//! Between the pass-through and the sink: whether changes are being recorded, and what a failure means.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::{Durability, OnFailure};
use crate::types::{ChangeBody, ChangeSink, Mark, NamespaceChange, Position, SinkError};

/// Hands changes to the sink until that fails, for good.
pub(super) struct Recorder {
    sink: Arc<dyn ChangeSink>,
    durability: Durability,
    on_failure: OnFailure,
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Recorder {
    pub(super) fn new(sink: Arc<dyn ChangeSink>, durability: Durability, on_failure: OnFailure) -> Recorder {
        Recorder { sink, durability, on_failure, failed: AtomicBool::new(false), failure: Mutex::default() }
    }

    pub(super) fn sink(&self) -> &Arc<dyn ChangeSink> {
        &self.sink
    }

    /// Whether changes are still recorded; if not, none need be prepared.
    pub(super) fn is_recording(&self) -> bool {
        !self.failed.load(Ordering::Acquire)
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Asked before anything changes.
    ///
    /// # Errors
    /// `EIO` if nothing may change because nothing is recorded.
    pub(super) fn admit(&self) -> Result<(), Errno> {
        match self.on_failure {
            OnFailure::Stop if !self.is_recording() => Err(Errno::IO),
            OnFailure::Stop | OnFailure::Continue => Ok(()),
        }
    }

    /// Records a change that has been applied; `Position::ZERO` if nothing is recorded any more.
    ///
    /// # Errors
    /// `EIO` if the sink failed and applications must not go on without it.
    pub(super) fn record(&self, change: ChangeBody) -> Result<Position, Errno> {
        if self.is_recording() {
            match self.sink.append(change) {
                Ok(position) => return Ok(position),
                Err(error) => self.fail(&error),
            }
        }
        self.admit().map(|()| Position::ZERO)
    }

    /// As [`Recorder::record`].
    pub(super) fn record_names(&self, change: NamespaceChange) -> Result<Position, Errno> {
        self.record(ChangeBody::Names(change))
    }

    /// As [`Recorder::record`].
    pub(super) fn record_mark(&self, mark: Mark) -> Result<Position, Errno> {
        self.record(ChangeBody::Mark(mark))
    }

    /// Begins what [`Recorder::commit`] waits for.
    pub(super) fn request_commit(&self, position: Position) {
        if self.is_recording() {
            self.sink.request_commit(position);
        }
    }

    /// Waits as the durability asks until `position` is durable.
    ///
    /// # Errors
    /// As [`Recorder::record`].
    pub(super) fn commit(&self, position: Position) -> Result<(), Errno> {
        if self.is_recording() && self.durability == Durability::Fsync {
            match self.sink.commit(position) {
                Ok(()) => return Ok(()),
                Err(error) => self.fail(&error),
            }
        }
        self.admit()
    }

    /// Waits until `position` is durable whatever the durability; returns whether everything is recorded.
    pub(super) fn make_durable(&self, position: Position) -> bool {
        if self.is_recording()
            && let Err(error) = self.sink.commit(position)
        {
            self.fail(&error);
        }
        self.is_recording()
    }

    fn fail(&self, error: &SinkError) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            tracing::error!(
                "{error}; {}",
                match self.on_failure {
                    OnFailure::Continue => "applications go on, nothing is recorded from here on",
                    OnFailure::Stop => "applications get I/O errors from here on",
                }
            );
            *failure = Some(error.to_string());
        }
        self.failed.store(true, Ordering::Release);
    }
}
