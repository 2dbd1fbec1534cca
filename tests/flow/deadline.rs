//! Waiting for conditions and for processes, never longer than said.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a command that has ended left.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

#[expect(clippy::disallowed_methods, reason = "these tests run on the machine's own time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Waits until `condition` holds.
///
/// # Panics
/// After `patience`, with `what`.
#[track_caller]
pub fn wait_until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let begin = now();
    while !condition() {
        assert!(begin.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for a child's end.
///
/// # Panics
/// After `patience`; the child is then killed.
#[track_caller]
pub fn wait_for(what: &str, child: &mut Child, patience: Duration) -> ExitStatus {
    let begin = now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begin.elapsed() > patience {
            // Not waited for: a process stuck in the kernel cannot be, and this test fails anyway.
            let _ = child.kill();
            panic!("not ended within {patience:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `command` with its output in files below `scratch`, so that nothing it leaves running can hold this test.
///
/// # Panics
/// If it cannot start or does not end within `patience`.
#[track_caller]
pub fn run(command: &mut Command, scratch: &Path, patience: Duration) -> Ended {
    let stdout = tempfile::NamedTempFile::new_in(scratch).unwrap();
    let stderr = tempfile::NamedTempFile::new_in(scratch).unwrap();
    command.stdin(Stdio::null()).stdout(stdout.reopen().unwrap()).stderr(stderr.reopen().unwrap());
    let name = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
    let status = wait_for(&name, &mut child, patience);
    let text = |file: &tempfile::NamedTempFile| {
        String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned()
    };
    Ended { status, stdout: text(&stdout), stderr: text(&stderr) }
}
