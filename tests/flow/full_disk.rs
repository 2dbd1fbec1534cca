//! A full disk: under the journal the database goes on, under an overlay only its writer sees it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::deadline::wait_until;
use crate::site::Site;

/// A small file system of its own.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mounted_at(path: PathBuf, size_mib: u64) -> SmallDisk {
        fs::create_dir(&path).unwrap();
        let options = format!("size={size_mib}m,mode=0755");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "pitgate-test"]).arg(&path).status();
        assert!(status.unwrap().success(), "root can mount a tmpfs");
        SmallDisk { path }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        crate::site::detach(&self.path);
    }
}

/// Bytes that do not compress, another block for each `number`.
fn noise(number: u64) -> Vec<u8> {
    let mut block = vec![0; 1 << 20];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut block);
    block
}

fn write_noise(path: &Path, mib: u64) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    for number in 0..mib {
        file.write_all(&noise(number))?;
        file.sync_data()?;
    }
    Ok(())
}

#[test]
fn the_database_goes_on_when_the_repository_is_full() {
    let mut site = Site::without_repository(&["data"]);
    let disk = SmallDisk::mounted_at(site.path("small"), 48);
    site.repository = disk.path.join("repository");
    site.json(&["repo", "init", site.repository.to_str().unwrap()]);
    fs::write(site.data().join("before"), "before").unwrap();
    let mut capture = site.start_capture(&["--segment-mib", "16"]);
    site.wait_for_points();
    let good = site.now();

    write_noise(&site.live().join("big"), 96).expect("the application never sees the repository's disk");
    assert_eq!(fs::metadata(site.data().join("big")).unwrap().len(), 96 << 20);
    wait_until("the failure is shown", Duration::from_secs(20), || {
        let shown = site.source_json(&["source", "show"], &[]);
        shown["capture"]["recording"] == false && shown["capture"]["failure"].is_string()
    });
    assert!(capture.is_running());
    fs::write(site.live().join("after"), "after").unwrap();
    assert_eq!(fs::read_to_string(site.data().join("after")).unwrap(), "after");

    site.mount("copy", &format!("@{good}"), &["--read-only"]);
    assert_eq!(fs::read_to_string(site.path("copy/before")).unwrap(), "before");
    site.unmount("copy");
    let message = site.refused(&site.of_source(&["point", "bookmark"], &["late"]));
    assert!(message.contains("journal"), "{message}");
    let said = capture.stop_after_failure();
    assert!(said.contains("space"), "{said}");
}

#[test]
fn a_full_disk_under_an_overlay_is_said_and_loses_nothing() {
    let site = Site::new(&["data"]);
    fs::write(site.data().join("file"), "content").unwrap();
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    let disk = SmallDisk::mounted_at(site.path("small"), 16);
    let overlay = disk.path.join("overlay");
    site.mount("copy", "latest", &["--overlay", overlay.to_str().unwrap()]);
    let copy = site.path("copy");
    fs::write(copy.join("file"), "changed").unwrap();
    fs::File::open(copy.join("file")).unwrap().sync_all().unwrap();
    let error = write_noise(&copy.join("big"), 64).expect_err("64 MiB do not fit into 16");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    assert_eq!(fs::read_to_string(copy.join("file")).unwrap(), "changed");
    assert_eq!(fs::read_to_string(site.live().join("file")).unwrap(), "content");
    site.unmount("copy");
    capture.stop();
}
