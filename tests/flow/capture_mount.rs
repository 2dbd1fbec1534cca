//! Files under capture, and what mounts and restores of their moments show.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use crate::deadline::wait_until;
use crate::site::{Site, is_mountpoint};
use crate::tree;

/// Files of several kinds and sizes, with holes.
fn fill(directory: &Path) {
    fs::create_dir(directory.join("base")).unwrap();
    for (name, len) in [("empty", 0), ("small", 10), ("page", 4096), ("large", 3_000_001)] {
        let bytes: Vec<u8> = (0..len).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(directory.join("base").join(name), bytes).unwrap();
    }
    let holes = fs::File::create(directory.join("holes")).unwrap();
    holes.write_all_at(b"end", 5_000_000).unwrap();
    std::os::unix::fs::symlink("base/large", directory.join("link")).unwrap();
    fs::hard_link(directory.join("base/small"), directory.join("second")).unwrap();
    fs::set_permissions(directory.join("base/page"), fs::Permissions::from_mode(0o640)).unwrap();
}

/// Changes something of every kind.
fn change(directory: &Path) {
    let file = OpenOptions::new().write(true).open(directory.join("base/large")).unwrap();
    file.write_all_at(&[0xaa; 700], 4_000).unwrap();
    file.set_len(1_000_000).unwrap();
    file.set_len(1_500_000).unwrap();
    file.sync_all().unwrap();
    fs::rename(directory.join("base/small"), directory.join("base/renamed")).unwrap();
    fs::remove_file(directory.join("base/empty")).unwrap();
    fs::write(directory.join("new"), "new").unwrap();
    let mut appended = OpenOptions::new().append(true).open(directory.join("holes")).unwrap();
    appended.write_all(&[7; 10_000]).unwrap();
    fs::create_dir(directory.join("base/deep")).unwrap();
}

#[test]
fn every_moment_is_mounted_and_restored_as_it_was() {
    let site = Site::new(&["data"]);
    fill(site.data());
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    tree::assert_same(&tree::of(site.data()), &tree::of(site.live()));

    let first_position = site.now();
    let first = tree::of(site.data());
    change(site.live());
    let second = tree::of(site.data());
    let bookmark = site.source_json(&["point", "bookmark"], &["changed"]);
    assert_eq!(bookmark["bookmark"], "changed");
    fs::remove_dir_all(site.live().join("base")).unwrap();

    site.mount("one", &format!("@{first_position}"), &["--read-only"]);
    let mount = site.mount("two", "bookmark:changed", &[]);
    for field in [
        "id",
        "source",
        "requested",
        "position",
        "time",
        "mountpoint",
        "via",
        "read_only",
        "overlay",
        "elapsed_ms",
    ] {
        assert!(mount.get(field).is_some(), "mount create has no field {field}: {mount}");
    }
    tree::assert_same(&first, &tree::of(&site.path("one")));
    tree::assert_same(&second, &tree::of(&site.path("two")));

    let to = site.path("restored");
    let restored =
        site.source_json(&["restore", "--at", "bookmark:changed"], &["--to", to.to_str().unwrap()]);
    assert_eq!(restored["missing"], serde_json::json!([]));
    assert_eq!(restored["verified"], true);
    tree::assert_same(&second, &tree::of(&to));

    let listed = site.json(&["mount", "list"]);
    assert_eq!(listed["mounts"].as_array().unwrap().len(), 2);
    site.unmount("one");
    site.unmount("two");
    assert_eq!(site.json(&["mount", "list"])["mounts"], serde_json::json!([]));
    capture.stop();
    let verified = site.json(&["repo", "verify", site.repository.to_str().unwrap()]);
    assert_eq!(verified["damages"], serde_json::json!([]));
}

#[test]
fn a_copy_that_is_written_changes_nothing_else() {
    let site = Site::new(&["data"]);
    fill(site.data());
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    let point = format!("@{}", site.now());
    let before = tree::of(site.data());

    site.mount("copy", &point, &[]);
    site.mount("other", &point, &[]);
    change(&site.path("copy"));
    let changed = tree::of(&site.path("copy"));
    assert_ne!(changed, before);
    tree::assert_same(&before, &tree::of(&site.path("other")));
    tree::assert_same(&before, &tree::of(site.live()));
    site.mount("again", &point, &["--read-only"]);
    tree::assert_same(&before, &tree::of(&site.path("again")));
    let refused = fs::write(site.path("again").join("x"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let to = site.path("kept");
    let mount = site.path("copy");
    let kept = site.json(&["restore", "--mount", mount.to_str().unwrap(), "--to", to.to_str().unwrap()]);
    assert_eq!(kept["requested"], point);
    tree::assert_same(&changed, &tree::of(&to));
    for name in ["copy", "other", "again"] {
        site.unmount(name);
    }
    capture.stop();
}

#[test]
fn an_overlay_outlives_the_kill_of_its_mount() {
    let site = Site::new(&["data"]);
    fill(site.data());
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    let point = format!("@{}", site.now());
    let overlay = site.path("overlay");
    let overlay = overlay.to_str().unwrap();

    let mount = site.mount("copy", &point, &["--overlay", overlay]);
    change(&site.path("copy"));
    let changed = tree::of(&site.path("copy"));
    let worker = site.json(&["mount", "show", mount["id"].as_str().unwrap()])["pid"].as_u64().unwrap();
    crate::site::signal(u32::try_from(worker).unwrap(), "KILL");
    wait_until("the worker is gone", Duration::from_secs(10), || {
        !Path::new(&format!("/proc/{worker}/mem")).exists()
    });
    assert_eq!(site.json(&["mount", "show", mount["id"].as_str().unwrap()])["serving"], false);

    // At the same place, where the kernel still holds what the dead worker had told it.
    site.mount("copy", &point, &["--overlay", overlay]);
    tree::assert_same(&changed, &tree::of(&site.path("copy")));
    site.unmount("copy");
    assert!(Path::new(overlay).exists(), "an overlay that was named is kept");
    capture.stop();
}

#[test]
fn what_was_synced_survives_a_kill_of_capture() {
    let site = Site::new(&["data"]);
    fill(site.data());
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    change(site.live());
    let file = OpenOptions::new().write(true).create_new(true).open(site.live().join("synced")).unwrap();
    file.write_all_at(&[0x5a; 100_000], 12_345).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let expected = tree::of(site.data());
    capture.kill();

    // Capture is dead: its open segment is recovered by the one who asks.
    site.mount("copy", "latest", &["--read-only"]);
    tree::assert_same(&expected, &tree::of(&site.path("copy")));
    site.unmount("copy");

    // While nobody looked, the files changed; the next life compares and its points show it.
    fs::write(site.data().join("synced"), "changed offline").unwrap();
    fs::remove_file(site.data().join("new")).unwrap();
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    site.mount("copy", "latest", &["--read-only"]);
    tree::assert_same(&tree::of(site.data()), &tree::of(&site.path("copy")));
    let points = site.source_json(&["point", "list"], &[]);
    assert_eq!(points["gaps"].as_array().unwrap().len(), 1, "{points}");
    assert_eq!(points["ranges"].as_array().unwrap().len(), 2, "{points}");
    site.unmount("copy");
    capture.stop();
}

#[test]
fn a_killed_capture_that_was_idle_starts_again() {
    let site = Site::new(&["data"]);
    fill(site.data());
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    // The kernel now keeps the attributes of the mountpoint, and gives them from a dead mount as well.
    fs::metadata(site.live()).unwrap();
    capture.kill();
    fs::metadata(site.live()).expect("a dead mount is known by what needs an answer only");
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    assert!(fs::read_dir(site.live()).unwrap().count() > 0);
    capture.stop();
}

#[test]
fn two_roots_share_one_order_and_links_between_them_stay_inside() {
    let site = Site::new(&["pgdata", "space"]);
    let link = site.roots[0].live.join("tablespace");
    fs::write(site.roots[1].data.join("relation"), "production").unwrap();
    let capture = site.start_capture(&[]);
    std::os::unix::fs::symlink(&site.roots[1].live, &link).unwrap();
    site.wait_for_points();

    site.mount("copy", "latest", &[]);
    let target = fs::read_link(site.path("copy").join("pgdata/tablespace")).unwrap();
    assert!(target.is_relative(), "{}", target.display());
    let through = site.path("copy").join("pgdata/tablespace/relation");
    assert_eq!(fs::read_to_string(&through).unwrap(), "production");
    fs::write(&through, "copy").unwrap();
    assert_eq!(fs::read_to_string(site.roots[1].live.join("relation")).unwrap(), "production");
    assert_eq!(fs::read_to_string(site.path("copy").join("space/relation")).unwrap(), "copy");
    site.unmount("copy");
    capture.stop();
}

#[test]
fn a_mount_outlives_its_command_and_ends_with_umount() {
    let site = Site::new(&["data"]);
    fill(site.data());
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    site.mount("copy", "latest", &["--read-only"]);
    capture.stop();
    assert!(is_mountpoint(&site.path("copy")));
    assert_eq!(fs::read(site.path("copy/base/page")).unwrap().len(), 4096);
    let status = std::process::Command::new("umount").arg(site.path("copy")).status().unwrap();
    assert!(status.success());
    wait_until("the mount is forgotten", Duration::from_secs(10), || {
        site.json(&["mount", "list"])["mounts"] == serde_json::json!([])
    });
}
