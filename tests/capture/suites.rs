//! Suites that others wrote, on the mount; and the journal holds what they did. Needs fio; pjdfstest and fsx, of
//! crates.io, are for the long run.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::mounted::{Mounted, Place};

/// Runs a command with its output in a file; everything it says is in the panic if it fails.
fn run(mounted: &Mounted, command: &mut Command) -> String {
    let said = mounted.place.above().join("said");
    let output = File::create(&said).unwrap();
    command.current_dir(mounted.place.above()).stdin(Stdio::null());
    command.stdout(output.try_clone().unwrap()).stderr(output);
    let name = format!("{command:?}");
    let status = command.status().unwrap_or_else(|error| panic!("this test needs {name}: {error}"));
    let said = std::fs::read_to_string(&said).unwrap();
    assert!(status.success(), "{name}: {status}\n{said}");
    said
}

fn fio(mounted: &Mounted, name: &str, options: &[&str]) {
    let mut command = Command::new("fio");
    command.arg(format!("--name={name}")).arg(format!("--directory={}", mounted.path("").display()));
    command.args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randrepeat=1"]);
    let said = run(mounted, command.args(options));
    assert!(!said.contains("verify:"), "{said}");
}

#[test]
fn fio_verifies_every_way_of_writing() {
    let mounted = Mounted::new();
    let ways: [(&str, &[&str]); 5] = [
        (
            "pages",
            &["--rw=randwrite", "--bs=8k", "--size=6m", "--numjobs=3", "--fsync=50", "--fallocate=none"],
        ),
        ("unaligned", &["--rw=randwrite", "--bs=512-24k", "--bs_unaligned", "--size=3m", "--numjobs=3"]),
        (
            "direct",
            &["--rw=randwrite", "--bs=4k", "--size=4m", "--direct=1", "--ioengine=libaio", "--iodepth=16"],
        ),
        ("mapped", &["--rw=randwrite", "--bs=4k", "--size=4m", "--ioengine=mmap", "--fsync=100"]),
        ("synchronous", &["--rw=write", "--bs=512", "--size=64k", "--sync=dsync"]),
    ];
    for (name, options) in ways {
        fio(&mounted, name, options);
    }
    mounted.assert_twin();
    mounted.stop();
}

/// A file in the tests' directory.
fn beside(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/capture").join(name).display().to_string()
}

#[test]
#[ignore = "long: `cargo xtask test --long` installs pjdfstest and runs this"]
fn pjdfstest_finds_nothing() {
    let place = Place::new();
    place.open_to_all();
    let mounted = Mounted::over(place);
    let mut command = Command::new("pjdfstest");
    command.args(["-c", &beside("pjdfstest.toml"), "-p"]).arg(mounted.place.mountpoint());
    let said = run(&mounted, &mut command);
    assert!(said.contains("Summary: 0 failed"), "{said}");
    mounted.assert_twin();
    mounted.stop();
}

#[test]
#[ignore = "long: `cargo xtask test --long` installs fsx and runs this"]
fn fsx_finds_nothing_in_a_hundred_thousand_operations() {
    let mounted = Mounted::new();
    for seed in 1..=4 {
        let mut command = Command::new("fsx");
        command.args(["-q", "-N", "25000", "-S", &format!("{seed}"), "-f", &beside("fsx.toml"), "-P", "."]);
        run(&mounted, command.arg(mounted.path("exercised")));
        mounted.assert_twin();
    }
    mounted.stop();
}
