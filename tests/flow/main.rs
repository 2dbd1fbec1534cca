//! Start to end with the real program: capture, mounts and real databases on this machine's kernel.

use std::process::{Command, Stdio};

#[test]
fn the_program_runs() {
    let status = Command::new(env!("CARGO_BIN_EXE_pitgate"))
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("the program starts").success());
}
