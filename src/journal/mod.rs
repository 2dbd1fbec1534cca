//! The journal of one source: segments of records in the order of positions, the writer that appends to them,
//! and the readers. The bytes are drawn in `docs/disk-format.md`.
//!
//! Architecture invariant: nothing here knows of other segments than the one at hand. Which segments make a
//! history, and which positions of it are offered, the repository decides.

mod activity;
mod chain;
mod contents;
mod encode;
mod error;
mod footer;
mod header;
mod log;
mod publish;
mod queue;
mod reader;
mod record;
mod records;
mod recovery;
mod scan;
mod seal;
mod sections;
mod segment;
mod sequencer;
mod survey;
#[cfg(test)]
mod tests;
mod times;
mod write_thread;
mod writer;

pub use activity::{Activity, ActivitySpan};
pub use error::{DamagedPlace, JournalError};
pub use log::{EPOCH_GAP, Log, LogConfig, LogState};
pub use publish::{MarkAt, NamesAt, PublishError, Publisher, SealedSegment, SegmentOpened, SegmentSummary};
pub use reader::{Pages, SegmentReader};
pub use records::{Record, RecordBody, Records};
pub use recovery::{Recovered, recover_open_segment};
pub use segment::{JournalIdentity, SegmentId};
pub use times::TimeTable;
pub use writer::{Durability, Writer, WriterConfig};
