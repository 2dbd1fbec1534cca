//! Recording a live directory tree: a FUSE pass-through over each root that hands every change to a
//! [`crate::types::ChangeSink`], in the order in which the backing file system applied it.
//!
//! Owns the pass-through, the initial image and the comparison after a stop, heartbeats, and the control
//! socket. What happens to changes afterwards is the sink's business.

mod attributes;
mod backing;
mod catalogue;
mod compare;
mod config;
mod control;
mod data;
mod directory;
mod error;
mod image;
mod names;
mod node;
mod pass;
mod pending;
mod range_lock;
mod recorder;
mod running;
mod stamps;
mod start;
mod status;
mod table;
mod users;

pub use catalogue::Catalogue;
pub use config::{CaptureConfig, Durability, OnFailure, Resume, RootConfig};
pub use control::{ControlClient, ControlReply, ControlRequest, ControlServer, control_socket};
pub use error::{CaptureError, ControlError};
pub use running::{Capture, Stopped, is_captured};
pub use status::{CaptureStatus, ImageProgress, RootStatus};
