//! Starting again: what was edited meanwhile is found, what was not is not read again.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use pitgate::types::ChangeBody;

use crate::mounted::{Mounted, Place};

fn populated() -> Place {
    let place = Place::new();
    let path = |name: &str| place.data().join(name);
    fs::create_dir_all(path("base/1")).unwrap();
    for name in ["a", "b", "base/c", "base/1/d", "base/1/e"] {
        fs::write(path(name), vec![name.len() as u8; 300_000]).unwrap();
    }
    symlink("a", path("link")).unwrap();
    fs::hard_link(path("a"), path("base/a too")).unwrap();
    place
}

#[test]
fn after_a_clean_stop_nothing_is_read_again() {
    let (place, base, catalogue) = Mounted::over(populated()).stop();
    let catalogue = catalogue.expect("a clean stop vouches for every file");
    let mounted = Mounted::again(place, base, Some(catalogue));
    mounted.assert_twin();
    let image = mounted.capture().status().image;
    assert_eq!((image.files_total, image.bytes_recorded), (0, 0));
    let recorded = |change: &ChangeBody| !matches!(change, ChangeBody::Mark(_));
    assert!(!mounted.sink.changes().iter().any(recorded), "{:?}", mounted.sink.changes());
    fs::write(mounted.path("a"), "and it goes on").unwrap();
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn every_kind_of_offline_edit_is_found() {
    let (place, base, catalogue) = Mounted::over(populated()).stop();
    let path = |name: &str| place.data().join(name);
    let edited = File::options().write(true).open(path("base/c")).unwrap();
    edited.write_all_at(b"one byte or two", 150_000).unwrap();
    edited.set_modified(fs::metadata(path("base/1/d")).unwrap().modified().unwrap()).unwrap();
    drop(edited);
    File::options().write(true).open(path("base/1/d")).unwrap().set_len(100_001).unwrap();
    File::options().write(true).open(path("base/1/e")).unwrap().set_len(400_001).unwrap();
    fs::remove_file(path("b")).unwrap();
    fs::create_dir(path("b")).unwrap();
    fs::write(path("b/inner"), "new").unwrap();
    fs::remove_file(path("link")).unwrap();
    symlink("elsewhere", path("link")).unwrap();
    fs::remove_file(path("base/a too")).unwrap();
    fs::write(path("base/a too"), "no link any more").unwrap();
    fs::hard_link(path("base/c"), path("c too")).unwrap();
    fs::set_permissions(path("a"), fs::Permissions::from_mode(0o600)).unwrap();
    rustix::fs::setxattr(path("a"), "user.x", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    fs::rename(path("base/1"), path("base/2")).unwrap();
    let mounted = Mounted::again(place, base, catalogue);
    mounted.assert_twin();
    mounted.stop();
}

#[test]
fn without_a_clean_stop_only_what_differs_is_recorded() {
    let (place, base, _) = Mounted::over(populated()).stop();
    File::options().write(true).open(place.data().join("a")).unwrap().write_all_at(b"x", 5000).unwrap();
    let mounted = Mounted::again(place, base, None);
    mounted.assert_twin();
    let image = mounted.capture().status().image;
    assert_eq!((image.files_done, image.bytes_recorded), (5, 4096));
    mounted.stop();
}

#[test]
fn no_point_exists_before_the_comparison_is_complete() {
    let mounted = Mounted::over(populated());
    mounted.wait_for_image();
    let changes = mounted.sink.changes();
    let begin = changes
        .iter()
        .position(|change| matches!(change, ChangeBody::Mark(pitgate::types::Mark::CoverageBegin)))
        .expect("coverage began");
    let mut at_begin = crate::recording::Reference::default();
    for change in &changes[..=begin] {
        at_begin.apply(change);
    }
    at_begin.assert_equals("data", &mounted.place.data());
    mounted.stop();
}

#[test]
fn a_file_that_appears_behind_our_back_is_found_and_read() {
    let mounted = Mounted::over(populated());
    mounted.wait_for_image();
    fs::create_dir(mounted.backing("sudden")).unwrap();
    fs::write(mounted.backing("sudden/file"), vec![3; 70_000]).unwrap();
    assert_eq!(fs::metadata(mounted.path("sudden/file")).unwrap().len(), 70_000);
    crate::mounted::eventually("coverage", || mounted.capture().status().image.complete);
    mounted.assert_twin();
    mounted.stop();
}
