//! Which processes use a mount, from `/proc`. Looks at links only, so that a dead mount cannot block it.

use std::fs;
use std::path::Path;

/// More than this many are not listed one by one.
const NAMED_MAX: usize = 5;

/// Names the processes that have files or directories below `mountpoint` open, mapped, or as their place.
pub(super) fn users_of(mountpoint: &Path) -> String {
    let Ok(processes) = fs::read_dir("/proc") else { return "unknown processes".to_owned() };
    let mut users = Vec::new();
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid != std::process::id() && uses(&process.path(), mountpoint) {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            users.push(format!("{} (process {pid})", command.trim()));
        }
    }
    match users.len() {
        0 => "in use by the kernel or by processes that cannot be seen".to_owned(),
        count if count > NAMED_MAX => {
            format!("used by {} and {} more", users[..NAMED_MAX].join(", "), count - NAMED_MAX)
        }
        _ => format!("used by {}", users.join(", ")),
    }
}

fn uses(process: &Path, mountpoint: &Path) -> bool {
    let leads_in = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(mountpoint));
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    ["cwd", "root", "exe"].iter().any(|link| leads_in(&process.join(link)))
        || descriptors.into_iter().any(|descriptor| leads_in(&descriptor.path()))
        || fs::read_to_string(process.join("maps")).is_ok_and(|maps| {
            maps.lines()
                .filter_map(|line| line.find('/').map(|at| &line[at..]))
                .any(|path| Path::new(path).starts_with(mountpoint))
        })
}
