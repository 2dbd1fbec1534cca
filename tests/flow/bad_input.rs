//! What cannot be done is refused in one clear sentence, with a status, and nothing half-made.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::deadline::{run, wait_until};
use crate::site::{SOURCE, Site, is_mountpoint};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{message}` does not say `{word}`");
    }
}

#[test]
fn a_missing_or_foreign_repository_is_refused() {
    let site = Site::without_repository(&["data"]);
    let missing = site.path("nowhere");
    assert_says(&site.refused(&["repo", "show", text(&missing)]), &["no repository", "repo init"]);
    assert!(!missing.exists());

    let foreign = site.path("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("file"), "mine").unwrap();
    assert_says(&site.refused(&["repo", "show", text(&foreign)]), &["not a pitgate repository"]);
    assert_says(&site.refused(&["repo", "init", text(&foreign)]), &["not empty"]);
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);

    site.json(&["repo", "init", text(&site.repository)]);
    assert_says(&site.refused(&["repo", "init", text(&site.repository)]), &["already"]);
}

#[test]
fn a_newer_format_is_named() {
    let site = Site::new(&["data"]);
    let header = site.repository.join("pitgate-repository");
    let mut bytes = fs::read(&header).unwrap();
    // Magic of 8 bytes, then the version; a digest of all that comes before it at the end.
    bytes[8..12].copy_from_slice(&99u32.to_le_bytes());
    let signed = bytes.len() - 32;
    let digest = blake3::Hasher::new().update(&0u64.to_le_bytes()).update(&bytes[..signed]).finalize();
    bytes[signed..].copy_from_slice(digest.as_bytes());
    fs::write(&header, bytes).unwrap();
    assert_says(&site.refused(&["repo", "show", text(&site.repository)]), &["99", "newer pitgate"]);
}

#[test]
fn sources_and_points_that_do_not_exist_are_named() {
    let site = Site::new(&["data"]);
    fs::write(site.data().join("file"), "content").unwrap();
    let message = site.refused(&site.of_source(&["point", "list"], &[]));
    assert_says(&message, &["no source `his`"]);
    assert_says(&site.refused(&site.of_source(&["point", "bookmark"], &["x"])), &["no source"]);

    let capture = site.start_capture(&[]);
    site.wait_for_points();
    site.source_json(&["point", "bookmark"], &["known"]);
    let resolve = |point: &str| site.refused(&site.of_source(&["point", "resolve"], &["--", point]));
    assert_says(&resolve("bookmark:unknown"), &["unknown", "`known`"]);
    assert_says(&resolve("2200-01-01T00:00:00Z"), &["future"]);
    assert_says(&resolve("2001-01-01T00:00:00Z"), &["not covered", "first point is"]);
    assert_says(&resolve("@99999999999"), &["@99999999999"]);
    assert_says(&resolve("-30d"), &["not covered"]);
    let ended = site.pitgate(&site.of_source(&["point", "resolve"], &["yesterday"]));
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert_says(&ended.stderr, &["yesterday", "bookmark:NAME"]);
    let again = site.refused(&site.of_source(&["point", "bookmark"], &["known"]));
    assert_says(&again, &["known"]);
    capture.stop();
    assert_says(&site.refused(&site.of_source(&["point", "bookmark"], &["late"])), &["no capture"]);
}

#[test]
fn a_second_writer_is_refused_by_name() {
    let site = Site::new(&["data"]);
    let capture = site.start_capture(&[]);
    let other = site.path("other");
    fs::create_dir(&other).unwrap();
    let root = format!("{}:{}", other.display(), other.display());
    let message = site.refused(&site.of_source(&["capture"], &["--root", &root]));
    assert_says(&message, &["writer", &capture.id().to_string()]);
    assert!(!is_mountpoint(&other));
    capture.stop();
}

#[test]
fn a_directory_is_captured_once() {
    let site = Site::new(&["data"]);
    let capture = site.start_capture(&[]);
    let elsewhere = site.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let root = format!("{}:{}", site.data().display(), elsewhere.display());
    let words = ["capture", "--repo", text(&site.repository), "--source", "second", "--root", &root];
    let message = site.refused(&words);
    assert_says(&message, &[text(site.data())]);
    capture.stop();
}

#[test]
fn nothing_of_pitgate_lies_inside_a_root() {
    let site = Site::without_repository(&["data"]);
    let inside = site.data().join("repository");
    site.json(&["repo", "init", text(&inside)]);
    let root = format!("{}:{}", site.data().display(), site.live().display());
    let message = site.refused(&["capture", "--repo", text(&inside), "--source", SOURCE, "--root", &root]);
    assert_says(&message, &["repository", "inside"]);
    assert!(!is_mountpoint(site.live()));
    fs::remove_dir_all(&inside).unwrap();

    site.json(&["repo", "init", text(&site.repository)]);
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    let inside = site.live().join("inside");
    fs::create_dir(&inside).unwrap();
    let copy = site.path("copy");
    fs::create_dir(&copy).unwrap();
    let create = ["mount", "create", "--at", "latest"];
    let message = site.refused(&site.of_source(&create, &["--overlay", text(&inside), text(&copy)]));
    assert_says(&message, &["overlay", "inside", SOURCE]);
    let message = site.refused(&site.of_source(&create, &[text(&inside)]));
    assert_says(&message, &["mountpoint", "inside"]);
    let message = site.refused(&site.of_source(&["restore", "--at", "latest"], &["--to", text(&inside)]));
    assert_says(&message, &["destination", "inside"]);
    let message = site.refused(&["repo", "init", text(&inside)]);
    assert_says(&message, &["repository", "inside"]);
    capture.stop();
}

#[test]
fn a_process_that_holds_the_data_directory_is_named() {
    let site = Site::new(&["data"]);
    fs::write(site.data().join("file"), "content").unwrap();
    let held = fs::File::open(site.data().join("file")).unwrap();
    let mut holder = Command::new("sleep");
    let mut holder =
        holder.arg("60").stdin(held).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // In place: what the holder writes would bypass capture.
    let root = format!("{}:{}", site.data().display(), site.data().display());
    let message = site.refused(&site.of_source(&["capture"], &["--root", &root]));
    let id = holder.id().to_string();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_says(&message, &["sleep", &id]);
    assert!(!is_mountpoint(site.data()));
    assert_eq!(
        site.json(&["source", "list", "--repo", text(&site.repository)])["sources"],
        serde_json::json!([])
    );
    assert_eq!(
        fs::read_dir(site.repository.join("sources").join(SOURCE).join("segments")).unwrap().count(),
        0
    );
}

#[test]
fn a_machine_without_fuse_is_told_so() {
    let site = Site::new(&["data"]);
    fs::write(site.data().join("file"), "content").unwrap();
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    capture.stop();

    // A device directory of its own, without /dev/fuse, for these commands only.
    let without_fuse = |words: &[&str]| {
        let script = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 \
            && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_pitgate")]).args(words);
        command.env("PITGATE_STATE_DIR", site.path("state"));
        let ended = run(&mut command, &site.path("state"), Duration::from_secs(30));
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        ended.stderr
    };
    let copy = site.path("copy");
    fs::create_dir(&copy).unwrap();
    let message = without_fuse(&site.of_source(&["mount", "create", "--at", "latest"], &[text(&copy)]));
    assert_says(&message, &["/dev/fuse"]);
    assert_eq!(site.json(&["mount", "list"])["mounts"], serde_json::json!([]));
    let root = format!("{}:{}", site.data().display(), site.live().display());
    let message =
        without_fuse(&["capture", "--repo", text(&site.repository), "--source", "other", "--root", &root]);
    assert_says(&message, &["/dev/fuse"]);
    let sources = site.json(&["source", "list", "--repo", text(&site.repository)]);
    assert_eq!(sources["sources"].as_array().unwrap().len(), 1, "{sources}");
}

#[test]
fn a_mountpoint_in_use_is_refused() {
    let site = Site::new(&["data"]);
    fs::write(site.data().join("file"), "content").unwrap();
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    site.mount("copy", "latest", &[]);
    let copy = site.path("copy");
    let message = site.refused(&site.of_source(&["mount", "create", "--at", "latest"], &[text(&copy)]));
    assert_says(&message, &[text(&copy)]);
    let nowhere = site.path("nowhere");
    let message = site.refused(&site.of_source(&["mount", "create", "--at", "latest"], &[text(&nowhere)]));
    assert_says(&message, &[text(&nowhere), "does not exist"]);

    // In use by a process: removal names it, and the mount goes on.
    let held = fs::File::open(copy.join("file")).unwrap();
    let message = site.refused(&["mount", "remove", text(&copy)]);
    assert_says(&message, &["busy", &std::process::id().to_string()]);
    assert_eq!(fs::read_to_string(copy.join("file")).unwrap(), "content");
    drop(held);
    site.unmount("copy");
    assert_says(&site.refused(&["mount", "show", "nothing"]), &["nothing"]);
    capture.stop();
}

#[test]
fn capture_stays_while_its_mountpoint_is_in_use() {
    let site = Site::new(&["data"]);
    fs::write(site.data().join("file"), "content").unwrap();
    let mut capture = site.start_capture(&[]);
    let held = fs::File::open(site.live().join("file")).unwrap();
    crate::site::signal(capture.id(), "TERM");
    wait_until("capture names who uses it", Duration::from_secs(15), || {
        capture.said().contains(&std::process::id().to_string())
    });
    assert!(capture.is_running());
    assert_eq!(fs::read_to_string(site.live().join("file")).unwrap(), "content");
    drop(held);
    capture.stop();
}

#[test]
fn nothing_else_writes_into_the_repository() {
    let site = Site::new(&["data"]);
    fs::write(site.data().join("file"), "content").unwrap();
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    let inside = site.repository.join("inside");
    let copy = site.path("copy");
    fs::create_dir(&copy).unwrap();
    let create = ["mount", "create", "--at", "latest"];
    let message = site.refused(&site.of_source(&create, &["--overlay", text(&inside), text(&copy)]));
    assert_says(&message, &["overlay", "inside the repository"]);
    let message = site.refused(&site.of_source(&["restore", "--at", "latest"], &["--to", text(&inside)]));
    assert_says(&message, &["destination", "inside the repository"]);
    assert!(!inside.exists());
    fs::create_dir(&inside).unwrap();
    let message = site.refused(&site.of_source(&create, &[text(&inside)]));
    assert_says(&message, &["mountpoint", "inside the repository"]);
    assert!(!is_mountpoint(&copy));
    capture.stop();
}

#[test]
fn a_restore_names_the_links_that_lead_out_of_it() {
    let site = Site::new(&["data"]);
    std::os::unix::fs::symlink("/etc/hostname", site.data().join("outside")).unwrap();
    std::os::unix::fs::symlink(site.data(), site.data().join("within")).unwrap();
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    let copy = site.path("copy");
    let restored = site.source_json(&["restore", "--at", "latest"], &["--to", text(&copy)]);
    assert_eq!(restored["external_links"], serde_json::json!(["outside -> /etc/hostname"]));
    assert_eq!(fs::read_link(copy.join("within")).unwrap(), Path::new("."));
    capture.stop();
}

#[test]
fn what_a_restore_would_overwrite_is_left_alone() {
    let site = Site::new(&["data"]);
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    let mine = site.path("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("file"), "precious").unwrap();
    let message = site.refused(&site.of_source(&["restore", "--at", "latest"], &["--to", text(&mine)]));
    assert_says(&message, &["already holds files"]);
    assert_eq!(fs::read_to_string(mine.join("file")).unwrap(), "precious");
    capture.stop();
}

#[test]
fn a_read_only_repository_is_mounted_and_not_written() {
    let site = Site::new(&["data"]);
    fs::write(site.data().join("file"), "content").unwrap();
    let capture = site.start_capture(&[]);
    site.wait_for_points();
    capture.stop();

    let read_only = ReadOnly::over(&site.repository);
    site.mount("copy", "latest", &[]);
    assert_eq!(fs::read_to_string(site.path("copy/file")).unwrap(), "content");
    fs::write(site.path("copy/file"), "changed").unwrap();
    site.unmount("copy");
    let root = format!("{}:{}", site.data().display(), site.live().display());
    let message = site.refused(&site.of_source(&["capture"], &["--root", &root]));
    assert_says(&message, &["Read-only"]);
    assert!(!is_mountpoint(site.live()));
    drop(read_only);
}

/// A directory seen read-only through a bind mount, as on storage that is exported so.
struct ReadOnly<'a> {
    path: &'a Path,
}

impl ReadOnly<'_> {
    fn over(path: &Path) -> ReadOnly<'_> {
        let mount = |arguments: &[&str]| {
            let status = Command::new("mount").args(arguments).arg(path).status().unwrap();
            assert!(status.success(), "mount {arguments:?}");
        };
        mount(&["--bind", text(path)]);
        let guard = ReadOnly { path };
        mount(&["-o", "remount,bind,ro"]);
        guard
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        crate::site::detach(self.path);
    }
}
