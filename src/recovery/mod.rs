//! Getting data back out: a plain copy of an image in a directory. Mounting needs none of this.

mod attributes;
mod copy;
mod directory_image;
mod error;
mod plan;
mod restore;
#[cfg(test)]
mod tests;

pub use directory_image::DirectoryImage;
pub use error::RestoreError;
pub use restore::{Progress, RestoreOptions, Restored, Stage, restore};
