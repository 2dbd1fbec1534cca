//! fio writes and verifies on a mount: many jobs at once, every way of doing input and output. Needs fio.

use std::process::{Command, Stdio};

use crate::stage::Stage;

/// Runs one job on the mount; everything it says is in the panic if it fails.
fn fio(stage: &Stage, name: &str, options: &[&str]) {
    let output_path = stage.scratch.path().join(format!("{name}.out"));
    let output = std::fs::File::create(&output_path).unwrap();
    let mut command = Command::new("fio");
    command.arg(format!("--name={name}")).arg(format!("--directory={}", stage.path("").display()));
    // fio leaves its state where it stands.
    command.current_dir(stage.scratch.path());
    command.args([
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--randrepeat=1",
        "--fallocate=none",
    ]);
    command.args(options).stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
    let status = command.status().expect("this test needs fio");
    let said = std::fs::read_to_string(&output_path).unwrap();
    assert!(status.success() && !said.contains("verify:"), "{name}: {said}");
}

/// Verifies again, from the log alone, what a job wrote before the mount was made anew.
fn verify_again(stage: &Stage, name: &str, options: &[&str]) {
    let options: Vec<&str> = options.iter().copied().chain(["--verify_only"]).collect();
    fio(stage, name, &options);
}

#[test]
fn buffered_writes_of_several_jobs_verify_before_and_after_a_new_mount() {
    let mut stage = Stage::new();
    let options =
        ["--rw=randwrite", "--bs=512-24k", "--bs_unaligned", "--size=3m", "--numjobs=4", "--fsync=50"];
    fio(&stage, "buffered", &options);
    stage.remount();
    verify_again(&stage, "buffered", &options);
}

#[test]
fn direct_writes_in_parallel_verify_before_and_after_a_new_mount() {
    let mut stage = Stage::new();
    let options = [
        "--rw=randwrite",
        "--bs=8k",
        "--size=4m",
        "--numjobs=2",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=16",
    ];
    fio(&stage, "direct", &options);
    stage.remount();
    verify_again(&stage, "direct", &options);
}

#[test]
fn shared_maps_verify_before_and_after_a_new_mount() {
    let mut stage = Stage::new();
    let options = ["--rw=randwrite", "--bs=4k", "--size=4m", "--numjobs=2", "--ioengine=mmap", "--fsync=100"];
    fio(&stage, "mapped", &options);
    stage.remount();
    verify_again(&stage, "mapped", &options);
}
