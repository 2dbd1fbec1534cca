//! Inode operations over a view or an overlay, for any protocol.

use std::sync::Arc;

use crate::overlay::Overlay;
use crate::types::Image;

/// What one mount serves.
#[derive(Clone)]
pub enum Export {
    ReadOnly(Arc<dyn Image>),
    Writable(Arc<Overlay>),
}
