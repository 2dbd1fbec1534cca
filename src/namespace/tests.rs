//! The tree against a naive one (a set of names), and snapshots against damage.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::snapshot::decode_body;
use super::*;
use crate::types::{AttributeChange, Attributes, FileId, FileKind, NamespaceChange, Time};

const ROOT: u64 = 2;

fn attributes(kind: FileKind) -> Attributes {
    Attributes { kind, mode: 0o644, uid: 3, gid: 4, rdev: 0, mtime: Time(5) }
}

fn name(number: u8) -> Bytes {
    Bytes::from(format!("n{number}"))
}

fn with_root() -> Namespace {
    let mut namespace = Namespace::new();
    namespace.apply(&root_change()).unwrap();
    namespace
}

fn root_change() -> NamespaceChange {
    NamespaceChange::Root {
        file: FileId(ROOT),
        label: "data".into(),
        mountpoint: "/mnt/data".into(),
        data_dir: "/srv/data".into(),
        attributes: attributes(FileKind::Directory),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create { file: u64, parent: u64, name: u8, directory: bool },
    CreateNameless { file: u64 },
    Link { file: u64, parent: u64, name: u8 },
    Unlink { parent: u64, name: u8 },
    Rename { parent: u64, name: u8, new_parent: u64, new_name: u8, exchange: bool },
    Mode { file: u64, mode: u32 },
    Xattr { file: u64, name: u8, set: bool },
    Size { file: u64, size: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let file = || 1..14u64;
    let name = || 0..5u8;
    let step = prop_oneof![
        6 => (file(), file(), name(), any::<bool>())
            .prop_map(|(file, parent, name, directory)| Step::Create { file, parent, name, directory }),
        1 => file().prop_map(|file| Step::CreateNameless { file }),
        2 => (file(), file(), name()).prop_map(|(file, parent, name)| Step::Link { file, parent, name }),
        2 => (file(), name()).prop_map(|(parent, name)| Step::Unlink { parent, name }),
        4 => (file(), name(), file(), name(), any::<bool>()).prop_map(
            |(parent, name, new_parent, new_name, exchange)| {
                Step::Rename { parent, name, new_parent, new_name, exchange }
            }
        ),
        1 => (file(), any::<u32>()).prop_map(|(file, mode)| Step::Mode { file, mode }),
        1 => (file(), name(), any::<bool>()).prop_map(|(file, name, set)| Step::Xattr { file, name, set }),
        1 => (file(), any::<u64>()).prop_map(|(file, size)| Step::Size { file, size }),
    ];
    prop::collection::vec(step, 0..80)
}

fn change(step: &Step) -> Option<NamespaceChange> {
    let mtime = Time(7);
    Some(match *step {
        Step::Create { file, parent, name: number, directory } => NamespaceChange::Create {
            file: FileId(file),
            parent: Some(FileId(parent)),
            name: name(number),
            attributes: attributes(if directory { FileKind::Directory } else { FileKind::Regular }),
            target: Bytes::new(),
            parent_mtime: mtime,
        },
        Step::CreateNameless { file } => NamespaceChange::Create {
            file: FileId(file),
            parent: None,
            name: Bytes::new(),
            attributes: attributes(FileKind::Regular),
            target: Bytes::new(),
            parent_mtime: mtime,
        },
        Step::Link { file, parent, name: number } => NamespaceChange::Link {
            file: FileId(file),
            parent: FileId(parent),
            name: name(number),
            parent_mtime: mtime,
        },
        Step::Unlink { parent, name: number } => {
            NamespaceChange::Unlink { parent: FileId(parent), name: name(number), parent_mtime: mtime }
        }
        Step::Rename { parent, name: old, new_parent, new_name, exchange } => NamespaceChange::Rename {
            parent: FileId(parent),
            name: name(old),
            new_parent: FileId(new_parent),
            new_name: name(new_name),
            exchange,
            parent_mtime: mtime,
            new_parent_mtime: mtime,
        },
        Step::Mode { file, mode } => NamespaceChange::Attributes {
            file: FileId(file),
            change: AttributeChange { mode: Some(mode), ..AttributeChange::default() },
        },
        Step::Xattr { file, name: number, set: true } => {
            NamespaceChange::SetXattr { file: FileId(file), name: name(number), value: "v".into() }
        }
        Step::Xattr { file, name: number, set: false } => {
            NamespaceChange::RemoveXattr { file: FileId(file), name: name(number) }
        }
        Step::Size { .. } => return None,
    })
}

/// The tree as a set of names; what is not named directly is found by searching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Naive {
    names: BTreeMap<(u64, Bytes), u64>,
    /// Whether each file is a directory.
    files: BTreeMap<u64, bool>,
}

impl Naive {
    fn is_directory(&self, file: u64) -> bool {
        self.files.get(&file) == Some(&true)
    }

    fn is_empty(&self, file: u64) -> bool {
        !self.names.keys().any(|(parent, _)| *parent == file)
    }

    fn lies_in(&self, file: u64, ancestor: u64) -> bool {
        file == ancestor
            || self.names.iter().any(|((parent, _), named)| *named == file && self.lies_in(*parent, ancestor))
    }

    fn drop_unnamed(&mut self, file: u64) {
        if !self.names.values().any(|named| *named == file) {
            self.files.remove(&file);
        }
    }

    /// Whether the step is possible; if so it is done.
    fn step(&mut self, step: &Step) -> bool {
        match *step {
            Step::Create { file, parent, name: number, directory } => {
                let key = (parent, name(number));
                let possible = file > 1
                    && !self.files.contains_key(&file)
                    && self.is_directory(parent)
                    && !self.names.contains_key(&key);
                if possible {
                    self.files.insert(file, directory);
                    self.names.insert(key, file);
                }
                possible
            }
            Step::CreateNameless { file } => {
                let possible = file > 1 && !self.files.contains_key(&file);
                if possible {
                    self.files.insert(file, false);
                }
                possible
            }
            Step::Link { file, parent, name: number } => {
                let key = (parent, name(number));
                let possible = self.files.get(&file) == Some(&false)
                    && self.is_directory(parent)
                    && !self.names.contains_key(&key);
                if possible {
                    self.names.insert(key, file);
                }
                possible
            }
            Step::Unlink { parent, name: number } => {
                let key = (parent, name(number));
                let Some(&file) = self.names.get(&key) else { return false };
                if !self.is_empty(file) {
                    return false;
                }
                self.names.remove(&key);
                self.drop_unnamed(file);
                true
            }
            Step::Rename { parent, name: old, new_parent, new_name, exchange } => {
                self.rename((parent, name(old)), (new_parent, name(new_name)), exchange)
            }
            Step::Mode { file, .. } | Step::Xattr { file, .. } => file == 1 || self.files.contains_key(&file),
            Step::Size { .. } => true,
        }
    }

    fn rename(&mut self, from: (u64, Bytes), to: (u64, Bytes), exchange: bool) -> bool {
        let Some(&file) = self.names.get(&from) else { return false };
        if !self.is_directory(to.0) {
            return false;
        }
        let other = self.names.get(&to).copied();
        if other == Some(file) {
            return true;
        }
        if self.lies_in(to.0, file) {
            return false;
        }
        match other {
            None if exchange => return false,
            Some(other) if exchange => {
                if self.lies_in(from.0, other) {
                    return false;
                }
                self.names.insert(from, other);
            }
            Some(other) => {
                if self.is_directory(file) != self.is_directory(other) || !self.is_empty(other) {
                    return false;
                }
                self.names.remove(&from);
                self.names.remove(&to);
                self.drop_unnamed(other);
            }
            None => {
                self.names.remove(&from);
            }
        }
        self.names.insert(to, file);
        true
    }
}

/// What a namespace says, in the naive form.
fn naive_of(namespace: &Namespace) -> Naive {
    let mut naive = Naive::default();
    for (file, node) in namespace.files().filter(|(file, _)| *file != FileId::SOURCE) {
        naive.files.insert(file.0, node.is_directory());
        if file.0 == ROOT {
            continue;
        }
        for name in node.names() {
            assert!(naive.names.insert((name.parent.0, name.name.clone()), file.0).is_none());
        }
        assert_eq!(namespace.paths(file).len(), node.names().len());
        for path in namespace.paths(file) {
            assert_eq!(namespace.resolve(&path), Some(file));
        }
        let directories =
            namespace.children(file).filter(|(_, child)| namespace.file(*child).unwrap().is_directory());
        if node.is_directory() {
            assert_eq!(node.link_count() as usize, 2 + directories.count());
        }
    }
    naive
}

proptest! {
    #[test]
    fn changes_do_what_they_do_to_a_set_of_names(steps in steps()) {
        let mut namespace = with_root();
        let mut naive = Naive { files: BTreeMap::from([(ROOT, true)]), ..Naive::default() };
        for step in &steps {
            let before = namespace.clone();
            let possible = naive.step(step);
            match change(step) {
                Some(change) => prop_assert_eq!(namespace.apply(&change).is_ok(), possible, "{:?}", step),
                None => if let Step::Size { file, size } = step {
                    let regular = naive.files.get(file) == Some(&false);
                    prop_assert_eq!(namespace.set_size(FileId(*file), *size, None), regular);
                }
            }
            if !possible {
                prop_assert_eq!(&namespace, &before, "a refused change left a trace");
            }
            prop_assert_eq!(&naive_of(&namespace), &naive);
        }
        let bytes = namespace.encode(b"me");
        prop_assert_eq!(Namespace::decode(&bytes, b"me"), Ok(namespace));
        prop_assert_eq!(Namespace::decode(&bytes, b"you"), Err(SnapshotError::Damaged));
    }

    #[test]
    fn a_changed_byte_is_never_read_as_names(steps in steps(), at: prop::sample::Index, flip in 1u8..) {
        let mut namespace = with_root();
        steps.iter().filter_map(change).for_each(|change| { let _ = namespace.apply(&change); });
        let mut bytes = namespace.encode(b"");
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(Namespace::decode(&bytes, b"").is_err());
        bytes[at] ^= flip;
        prop_assert!(Namespace::decode(&bytes[..at], b"").is_err());
    }

    #[test]
    fn a_body_that_passes_every_check_keeps_the_invariants(
        steps in steps(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut namespace = with_root();
        steps.iter().filter_map(change).for_each(|change| { let _ = namespace.apply(&change); });
        let mut body = namespace.encode_body();
        for (at, value) in changes {
            let at = at.index(body.len());
            body[at] = value;
        }
        if let Ok(decoded) = decode_body(&body.into()) {
            naive_of(&decoded);
            prop_assert_eq!(Namespace::decode(&decoded.encode(b""), b""), Ok(decoded));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Namespace::decode(&bytes, b"");
        let _ = decode_body(&bytes.into());
    }
}

#[test]
fn a_newer_snapshot_is_named_as_such() {
    let bytes = with_root().encode_as(9, b"");
    assert_eq!(Namespace::decode(&bytes, b""), Err(SnapshotError::Newer(9)));
}

#[test]
fn roots_are_the_children_of_the_source() {
    let mut namespace = with_root();
    assert_eq!(namespace.lookup(FileId::SOURCE, b"data"), Some(FileId(ROOT)));
    assert_eq!(namespace.root_of(FileId(ROOT)).unwrap().mountpoint, "/mnt/data");
    assert_eq!(namespace.parent(FileId(ROOT)), Some(FileId::SOURCE));

    // Declared again: it moved.
    let NamespaceChange::Root { file, data_dir, attributes, .. } = root_change() else { unreachable!() };
    let moved = NamespaceChange::Root {
        file,
        label: "main".into(),
        mountpoint: "/other".into(),
        data_dir,
        attributes,
    };
    namespace.apply(&moved).unwrap();
    assert_eq!(namespace.lookup(FileId::SOURCE, b"data"), None);
    assert_eq!(namespace.roots()[0].label, "main");
    assert_eq!(namespace.file(FileId::SOURCE).unwrap().link_count(), 3);

    let stray = NamespaceChange::Create {
        file: FileId(9),
        parent: Some(FileId::SOURCE),
        name: "stray".into(),
        attributes,
        target: Bytes::new(),
        parent_mtime: Time(0),
    };
    assert_eq!(namespace.apply(&stray), Err(NamespaceError::OutsideRoots));
    let removed =
        NamespaceChange::Unlink { parent: FileId::SOURCE, name: "main".into(), parent_mtime: Time(8) };
    namespace.apply(&removed).unwrap();
    assert!(namespace.roots().is_empty() && namespace.is_empty());
    assert_eq!(namespace.next_file(), FileId(ROOT + 1), "an id that was given stays given");
}

#[test]
fn a_file_goes_with_its_last_name_and_one_without_a_name_waits_for_its_first() {
    let mut namespace = with_root();
    let create = |file, parent, text: &'static str| NamespaceChange::Create {
        file: FileId(file),
        parent,
        name: text.into(),
        attributes: attributes(FileKind::Regular),
        target: Bytes::new(),
        parent_mtime: Time(1),
    };
    namespace.apply(&create(3, None, "")).unwrap();
    assert!(namespace.file(FileId(3)).unwrap().names().is_empty());
    let link = |text: &'static str| NamespaceChange::Link {
        file: FileId(3),
        parent: FileId(ROOT),
        name: text.into(),
        parent_mtime: Time(2),
    };
    let unlink = |text: &'static str| NamespaceChange::Unlink {
        parent: FileId(ROOT),
        name: text.into(),
        parent_mtime: Time(3),
    };
    for change in [link("one"), link("two"), unlink("one")] {
        namespace.apply(&change).unwrap();
    }
    assert_eq!(namespace.path(FileId(3)).unwrap(), "data/two");
    namespace.apply(&unlink("two")).unwrap();
    assert!(namespace.file(FileId(3)).is_none());
    assert!(!namespace.set_size(FileId(3), 7, None), "a late write to it belongs to no view");

    namespace.apply(&create(4, None, "")).unwrap();
    namespace.drop_nameless();
    assert!(namespace.file(FileId(4)).is_none() && namespace.file(FileId(ROOT)).is_some());
}

#[test]
fn directories_are_read_in_order_from_any_name() {
    let mut namespace = with_root();
    for (file, text) in [(3, "b"), (4, "a"), (5, "c")] {
        let create = NamespaceChange::Create {
            file: FileId(file),
            parent: Some(FileId(ROOT)),
            name: text.into(),
            attributes: attributes(FileKind::Symlink),
            target: "elsewhere".into(),
            parent_mtime: Time(1),
        };
        namespace.apply(&create).unwrap();
    }
    let after = |after: Option<&[u8]>| -> Vec<u64> {
        namespace.children_after(FileId(ROOT), after).map(|(_, file)| file.0).collect()
    };
    assert_eq!(after(None), [4, 3, 5]);
    assert_eq!(after(Some(b"a")), [3, 5]);
    assert_eq!(after(Some(b"bb")), [5]);
    assert_eq!(namespace.file(FileId(3)).unwrap().status_size(), 9);
    assert_eq!(namespace.children(FileId(3)).count(), 0);
}

/// Drawn in `docs/disk-format.md`. A change of these bytes is a new version of the snapshot.
#[test]
fn the_bytes_of_a_snapshot_are_pinned() {
    let mut namespace = with_root();
    for step in [
        Step::Create { file: 3, parent: ROOT, name: 1, directory: false },
        Step::Create { file: 300, parent: ROOT, name: 2, directory: true },
        Step::Link { file: 3, parent: 300, name: 1 },
        Step::CreateNameless { file: 5 },
        Step::Xattr { file: 3, name: 4, set: true },
    ] {
        namespace.apply(&change(&step).unwrap()).unwrap();
    }
    namespace.set_size(FileId(3), 70_000, Some(Time(-5)));
    let body = namespace.encode_body();
    assert_eq!(format!("{} {:.16}", body.len(), blake3::hash(&body).to_hex()), "144 b5d64974263ca494");
    let bytes = namespace.encode(b"");
    assert_eq!(&bytes[..12], b"PITGNAME\x01\0\0\0");
    assert_eq!(bytes[12..20], (body.len() as u64).to_le_bytes());
    assert_eq!(bytes[20..28], (bytes.len() as u64 - 60).to_le_bytes());
}
