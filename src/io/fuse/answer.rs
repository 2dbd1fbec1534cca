//! Turns results into replies, and our negotiation into the kernel's.

use std::any::Any;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{
    FileHandle, Generation, INodeNo, KernelConfig, ReplyAttr, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyXattr, Request,
};

use super::convert::{
    attributes_to_fuser, capabilities_from_fuser, capabilities_to_fuser, directory_kind, errno_to_fuser,
    opened_to_fuser,
};
use super::{
    Caller, Capabilities, DirectoryPlusSink, DirectorySink, Entry, Errno, FileSystem, Negotiation,
    NodeAttributes, Opened,
};
use crate::types::FileKind;

/// Largest read and write asked for: what the kernel sends at most without a raised `fs.fuse.max_pages_limit`.
const REQUEST_BYTES: u32 = 1 << 20;

pub(super) fn negotiate(file_system: &dyn FileSystem, config: &mut KernelConfig) -> Result<(), Errno> {
    let abi = config.kernel_abi();
    let mut negotiation = Negotiation {
        protocol: (abi.0, abi.1),
        offered: capabilities_from_fuser(config.capabilities()),
        wanted: Capabilities::usual(),
        max_write_bytes: REQUEST_BYTES,
        max_readahead_bytes: REQUEST_BYTES,
        max_background: 64,
    };
    file_system.init(&mut negotiation)?;
    let wanted = capabilities_to_fuser(&negotiation.wanted) & config.capabilities();
    config.add_capabilities(wanted).map_err(|_| Errno::INVAL)?;
    // A value out of range comes back as the nearest one that fits.
    if let Err(nearest) = config.set_max_write(negotiation.max_write_bytes) {
        config.set_max_write(nearest).map_err(|_| Errno::INVAL)?;
    }
    if let Err(nearest) = config.set_max_readahead(negotiation.max_readahead_bytes) {
        // A kernel told not to read ahead at all offers 0, which cannot be set but is kept as it is.
        if nearest > 0 {
            config.set_max_readahead(nearest).map_err(|_| Errno::INVAL)?;
        }
    }
    config.set_max_background(negotiation.max_background.max(1)).map_err(|_| Errno::INVAL)?;
    Ok(())
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "no message"
    }
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

pub(super) fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno_to_fuser(errno)),
    }
}

pub(super) fn reply_entry(reply: ReplyEntry, result: Result<Entry, Errno>) {
    match result {
        Ok(entry) => reply.entry_with_ttls(
            &entry.attribute_ttl,
            &entry.entry_ttl,
            &attributes_to_fuser(&entry.attributes),
            Generation(entry.generation),
        ),
        Err(errno) => reply.error(errno_to_fuser(errno)),
    }
}

pub(super) fn reply_attributes(reply: ReplyAttr, result: Result<(NodeAttributes, Duration), Errno>) {
    match result {
        Ok((attributes, ttl)) => reply.attr(&ttl, &attributes_to_fuser(&attributes)),
        Err(errno) => reply.error(errno_to_fuser(errno)),
    }
}

pub(super) fn reply_opened(reply: ReplyOpen, result: Result<Opened, Errno>) {
    match result {
        Ok(opened) => reply.opened(FileHandle(opened.handle), opened_to_fuser(&opened)),
        Err(errno) => reply.error(errno_to_fuser(errno)),
    }
}

/// `size` 0 asks how large the value is.
pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, Errno>) {
    match result {
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&value),
            Ok(_) => reply.error(fuser::Errno::ERANGE),
            Err(_) => reply.error(fuser::Errno::E2BIG),
        },
        Err(errno) => reply.error(errno_to_fuser(errno)),
    }
}

pub(super) struct Names(pub ReplyDirectory);

impl DirectorySink for Names {
    fn add(&mut self, node: u64, next_offset: u64, kind: FileKind, name: &[u8]) -> bool {
        !self.0.add(INodeNo(node), next_offset, directory_kind(kind), OsStr::from_bytes(name))
    }
}

pub(super) struct Entries(pub ReplyDirectoryPlus);

impl DirectoryPlusSink for Entries {
    fn add(&mut self, next_offset: u64, name: &[u8], entry: &Entry) -> bool {
        let attributes = attributes_to_fuser(&entry.attributes);
        let ttl = entry.attribute_ttl.min(entry.entry_ttl);
        let generation = Generation(entry.generation);
        !self.0.add(attributes.ino, next_offset, OsStr::from_bytes(name), &ttl, &attributes, generation)
    }
}
