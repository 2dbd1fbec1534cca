//! The journal's order is the backing's: every prefix is a state that a power cut could have left.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use pitgate::types::{ChangeBody, FileId};

use crate::mounted::Mounted;
use crate::recording::Reference;

/// The number at the start of a file of this name, in a state.
fn number(reference: &Reference, name: &[u8]) -> Option<u64> {
    let root = reference.namespace.lookup(FileId::SOURCE, b"data")?;
    let file = reference.namespace.lookup(root, name)?;
    let contents = reference.contents(file);
    Some(u64::from_le_bytes(contents.get(..8)?.try_into().ok()?))
}

#[test]
fn what_was_written_first_is_never_missing_from_what_came_later() {
    let mounted = Mounted::new();
    let (first, second) =
        (File::create_new(mounted.path("first")).unwrap(), File::create_new(mounted.path("second")).unwrap());
    for round in 1..200u64 {
        first.write_all_at(&round.to_le_bytes(), 0).unwrap();
        second.write_all_at(&round.to_le_bytes(), 0).unwrap();
    }
    drop((first, second));
    let mut state = Reference::default();
    for change in mounted.sink.changes() {
        state.apply(&change);
        let (first, second) = (number(&state, b"first"), number(&state, b"second"));
        assert!(first.unwrap_or(0) >= second.unwrap_or(0), "{first:?} {second:?}");
    }
    mounted.stop();
}

#[test]
fn a_file_written_and_renamed_into_place_is_never_seen_half_written() {
    let mounted = Mounted::new();
    for round in 0..50u64 {
        let contents: Vec<u8> = round.to_le_bytes().repeat(3000);
        fs::write(mounted.path("new"), contents).unwrap();
        fs::rename(mounted.path("new"), mounted.path("current")).unwrap();
    }
    let mut state = Reference::default();
    let mut seen = 0;
    for change in mounted.sink.changes() {
        state.apply(&change);
        let root = state.namespace.lookup(FileId::SOURCE, b"data");
        let Some(file) = root.and_then(|root| state.namespace.lookup(root, b"current")) else { continue };
        let contents = state.contents(file);
        assert_eq!(contents.len(), 24_000);
        assert!(contents.chunks(8).all(|chunk| chunk == &contents[..8]));
        seen += 1;
    }
    assert!(seen >= 50);
    mounted.stop();
}

#[test]
fn a_change_has_its_position_before_its_reply() {
    let mounted = Mounted::new();
    let file = File::create_new(mounted.path("file")).unwrap();
    for round in 0..100u64 {
        file.write_all_at(&[1; 100], round * 5000).unwrap();
        let recorded = mounted.sink.changes();
        let last = recorded.iter().rev().find_map(|change| match change {
            ChangeBody::Data(data) => Some(data.size_after),
            _ => None,
        });
        assert_eq!(last, Some(round * 5000 + 100));
    }
    drop(file);
    mounted.stop();
}
