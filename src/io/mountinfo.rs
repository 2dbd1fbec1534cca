//! What is mounted where, from `/proc/self/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount of this process's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    pub id: u64,
    /// Device number of its files: major, minor.
    pub device: (u32, u32),
    pub mountpoint: PathBuf,
    /// Type of the file system, such as `ext4` or `fuse.pitgate`.
    pub kind: String,
    /// What is mounted, such as a block device or the name a FUSE server gave.
    pub name: OsString,
}

/// All mounts, in the order in which they were made.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount that `path` (absolute, without links) names the top of, the uppermost if several; `None` if it is
/// not a mountpoint. Looks at the kernel's table only, so that a dead mount cannot block it.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn mounted_on(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rev().find(|entry| entry.mountpoint == path))
}

fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mount/point options [optional…] - type source super-options`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let device = fields.nth(1)?;
    let mountpoint = unescape(fields.nth(1)?);
    let mut rest = fields.skip_while(|field| *field != b"-");
    rest.next()?;
    let kind = String::from_utf8_lossy(rest.next()?).into_owned();
    let name = unescape(rest.next().unwrap_or_default());
    let colon = device.iter().position(|byte| *byte == b':')?;
    let device = (number(&device[..colon])?, number(&device[colon + 1..])?);
    Some(MountEntry { id, device, mountpoint: PathBuf::from(mountpoint), kind, name })
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            bytes.push(value as u8);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}

/// `path` as the kernel would write it in the table.
#[cfg(test)]
fn escape(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;

    let mut line = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => line.extend(format!("\\{byte:03o}").into_bytes()),
            other => line.push(*other),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes_is_read() {
        let line = b"36 35 98:12 / /mnt/a\\040b\\134c rw,noatime master:1 propagate_from:2 - fuse.pitgate demo\\040x rw";
        let entry = parse_line(line).unwrap();
        assert_eq!(entry.id, 36);
        assert_eq!(entry.device, (98, 12));
        assert_eq!(entry.mountpoint, Path::new("/mnt/a b\\c"));
        assert_eq!(entry.kind, "fuse.pitgate");
        assert_eq!(entry.name, "demo x");
    }

    #[test]
    fn this_machine_has_a_root_and_proc() {
        assert!(mounted_on(Path::new("/")).unwrap().is_some());
        assert_eq!(mounted_on(Path::new("/proc")).unwrap().unwrap().kind, "proc");
        assert_eq!(mounted_on(Path::new("/proc/self")).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_path_is_found_as_it_was_named(bytes in proptest::collection::vec(1u8..=255, 1..40)) {
            let path = PathBuf::from(OsString::from_vec(bytes));
            prop_assert_eq!(unescape(&escape(&path)), path.as_os_str());
        }

        #[test]
        fn arbitrary_tables_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }
    }
}
