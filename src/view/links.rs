//! How symbolic links are shown. A link that led into a captured root, by the mountpoint or by the data
//! directory, is shown as a relative path to the same file in the view; one that led elsewhere is external.
//!
//! Links are judged as production resolved them: component by component, through other links, from the
//! directory that holds them. Outside of the roots nothing is known but paths.

use bytes::Bytes;

use crate::namespace::Namespace;
use crate::types::{FileId, FileKind};

/// As many links as the kernel follows in one path.
const FOLLOWED_MAX: u32 = 40;

/// What a link's text is to a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// The recorded text leads to the same file here.
    AsRecorded,
    /// This text does.
    Retargeted(Bytes),
    /// The link led out of every root.
    External,
}

/// Where the walk along a path stands.
enum Place {
    /// In `directory`, then down `below`, components that are not directories known to the namespace.
    Inside { directory: FileId, below: usize },
    /// At an absolute path that lies in no root.
    Outside(Vec<Bytes>),
}

/// Where a walk ended, and when it last came into a root from outside.
struct Walked {
    place: Place,
    entered: Option<Entered>,
}

struct Entered {
    root: FileId,
    /// Number of the first component after the one that came in.
    component: usize,
}

/// By which of its paths a root is seen; decides what lies around it.
#[derive(Clone, Copy)]
enum Side {
    Mountpoint,
    DataDir,
}

/// Judges `target`, the text of a link in `directory`, which must be a directory of `namespace`.
pub(super) fn judge(namespace: &Namespace, directory: FileId, target: &[u8]) -> Shown {
    // Applications see the mountpoint; a link made in the data directory may make sense only from there.
    for side in [Side::Mountpoint, Side::DataDir] {
        let mut walker = Walker { namespace, side, followed: 0 };
        let Walked { place, entered } = walker.walk(directory, target, false);
        match (place, entered) {
            (Place::Outside(_), _) => {}
            (Place::Inside { .. }, None) => return Shown::AsRecorded,
            (Place::Inside { .. }, Some(entered)) => {
                return Shown::Retargeted(relative_path(namespace, directory, target, &entered));
            }
        }
    }
    Shown::External
}

struct Walker<'a> {
    namespace: &'a Namespace,
    side: Side,
    /// Links followed so far, in this walk and those within it.
    followed: u32,
}

impl Walker<'_> {
    /// Walks along `target` from `start`; the last component is followed only if `through_last`.
    fn walk(&mut self, start: FileId, target: &[u8], through_last: bool) -> Walked {
        let mut entered = None;
        let mut place = Place::Inside { directory: start, below: 0 };
        if target.first() == Some(&b'/') {
            place = Place::Outside(Vec::new());
        }
        let count = components(target).count();
        for (number, component) in components(target).enumerate() {
            place = match place {
                Place::Outside(mut path) => {
                    step_outside(&mut path, component);
                    match root_at(self.namespace, &path) {
                        Some((root, side)) => {
                            self.side = side;
                            entered = Some(Entered { root, component: number + 1 });
                            Place::Inside { directory: root, below: 0 }
                        }
                        None => Place::Outside(path),
                    }
                }
                Place::Inside { directory, below } if component == b".." => self.climb(directory, below),
                Place::Inside { directory, below: 0 } => {
                    let through = through_last || number + 1 < count;
                    match self.descend(directory, component, through) {
                        Place::Inside { directory, below } => Place::Inside { directory, below },
                        // Another link leads out on the way: that one is external, this one leads to it.
                        Place::Outside(_) => {
                            return Walked { place: Place::Inside { directory, below: 1 }, entered };
                        }
                    }
                }
                Place::Inside { directory, below } => Place::Inside { directory, below: below + 1 },
            };
        }
        Walked { place, entered }
    }

    /// One component down from a directory.
    fn descend(&mut self, directory: FileId, component: &[u8], through: bool) -> Place {
        let unknown = Place::Inside { directory, below: 1 };
        let Some(file) = self.namespace.lookup(directory, component) else { return unknown };
        let Some(node) = self.namespace.file(file) else { return unknown };
        match node.attributes.kind {
            FileKind::Directory => Place::Inside { directory: file, below: 0 },
            FileKind::Symlink if through && self.followed < FOLLOWED_MAX => {
                self.followed += 1;
                let side = self.side;
                let inner = self.walk(directory, &node.target, true);
                self.side = side;
                inner.place
            }
            _ => unknown,
        }
    }

    /// One component up.
    fn climb(&self, directory: FileId, below: usize) -> Place {
        if below > 0 {
            return Place::Inside { directory, below: below - 1 };
        }
        if let Some(root) = self.namespace.roots().iter().find(|root| root.file == directory) {
            let mut path = owned_components(match self.side {
                Side::Mountpoint => &root.mountpoint,
                Side::DataDir => &root.data_dir,
            });
            path.pop();
            return Place::Outside(path);
        }
        Place::Inside { directory: self.namespace.parent(directory).unwrap_or(directory), below: 0 }
    }
}

fn step_outside(path: &mut Vec<Bytes>, component: &[u8]) {
    if component == b".." {
        path.pop();
    } else {
        path.push(Bytes::copy_from_slice(component));
    }
}

/// The root that is found at an absolute path, and by which of its paths.
fn root_at(namespace: &Namespace, path: &[Bytes]) -> Option<(FileId, Side)> {
    let is_at =
        |text: &Bytes| text.first() == Some(&b'/') && components(text).eq(path.iter().map(Bytes::as_ref));
    namespace.roots().iter().find_map(|root| {
        let side = if is_at(&root.mountpoint) {
            Side::Mountpoint
        } else if is_at(&root.data_dir) {
            Side::DataDir
        } else {
            return None;
        };
        Some((root.file, side))
    })
}

/// From `directory` to where the walk came in, then on as recorded.
fn relative_path(namespace: &Namespace, directory: FileId, target: &[u8], entered: &Entered) -> Bytes {
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut at = directory;
    let own_root = loop {
        if let Some(root) = namespace.roots().iter().find(|root| root.file == at) {
            break Some(root);
        }
        match namespace.parent(at) {
            Some(parent) if parent != at => at = parent,
            _ => break None,
        }
        parts.push(b"..");
    };
    if own_root.is_none_or(|root| root.file != entered.root) {
        if own_root.is_some() {
            parts.push(b"..");
        }
        let label = namespace.roots().iter().find(|root| root.file == entered.root).map(|root| &root.label);
        parts.extend(label.map(Bytes::as_ref));
    }
    parts.extend(components(target).skip(entered.component));
    if parts.is_empty() {
        parts.push(b".");
    }
    parts.join(&b'/').into()
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}

fn owned_components(path: &[u8]) -> Vec<Bytes> {
    components(path).map(Bytes::copy_from_slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Attributes, NamespaceChange, Time};

    const DATA: FileId = FileId(2);
    const WAL: FileId = FileId(3);
    const BASE: FileId = FileId(4);
    const DEEP: FileId = FileId(5);

    fn attributes(kind: FileKind) -> Attributes {
        Attributes { kind, mode: 0o755, uid: 0, gid: 0, rdev: 0, mtime: Time(0) }
    }

    fn create(
        namespace: &mut Namespace,
        file: u64,
        parent: FileId,
        name: &str,
        kind: FileKind,
        target: &str,
    ) {
        let change = NamespaceChange::Create {
            file: FileId(file),
            parent: Some(parent),
            name: Bytes::copy_from_slice(name.as_bytes()),
            attributes: attributes(kind),
            target: Bytes::copy_from_slice(target.as_bytes()),
            parent_mtime: Time(0),
        };
        namespace.apply(&change).unwrap();
    }

    /// `data` at /srv/pg/data over /backing/data, `wal` at /srv/wal over /backing/wal; in `data` stand
    /// base/deep and some links.
    fn namespace(roots: usize) -> Namespace {
        let mut namespace = Namespace::new();
        let places =
            [(DATA, "data", "/srv/pg/data", "/backing/data"), (WAL, "wal", "/srv/wal/", "/backing/wal")];
        for (file, label, mountpoint, data_dir) in places.into_iter().take(roots) {
            let change = NamespaceChange::Root {
                file,
                label: label.into(),
                mountpoint: mountpoint.into(),
                data_dir: data_dir.into(),
                attributes: attributes(FileKind::Directory),
            };
            namespace.apply(&change).unwrap();
        }
        create(&mut namespace, BASE.0, DATA, "base", FileKind::Directory, "");
        create(&mut namespace, DEEP.0, BASE, "deep", FileKind::Directory, "");
        create(&mut namespace, 6, BASE, "up", FileKind::Symlink, "..");
        create(&mut namespace, 7, BASE, "up twice", FileKind::Symlink, "up");
        create(&mut namespace, 8, DATA, "out", FileKind::Symlink, "/etc");
        create(&mut namespace, 9, DATA, "loop", FileKind::Symlink, "loop/x");
        create(&mut namespace, 10, DATA, "here", FileKind::Symlink, "/srv/pg/data/base");
        namespace
    }

    fn shown(roots: usize, directory: FileId, target: &str) -> String {
        match judge(&namespace(roots), directory, target.as_bytes()) {
            Shown::AsRecorded => "as recorded".to_owned(),
            Shown::Retargeted(text) => String::from_utf8(text.to_vec()).unwrap(),
            Shown::External => "external".to_owned(),
        }
    }

    #[test]
    fn links_into_a_root_become_relative_by_either_path() {
        assert_eq!(shown(1, DATA, "/srv/pg/data/base/1"), "base/1");
        assert_eq!(shown(1, DEEP, "/srv/pg/data/base/1"), "../../base/1");
        assert_eq!(shown(1, DEEP, "/backing/data/base/1"), "../../base/1");
        assert_eq!(shown(1, DATA, "/srv/pg/data"), ".");
        assert_eq!(shown(1, DEEP, "//srv/./pg//data/"), "../..");
        assert_eq!(shown(1, DATA, "/srv/x/../pg/data/base"), "base");
        assert_eq!(shown(1, DATA, "/srv/pg/data/missing/x"), "missing/x");
    }

    #[test]
    fn links_into_another_root_pass_by_its_label() {
        assert_eq!(shown(2, DATA, "/srv/wal"), "../wal");
        assert_eq!(shown(2, DEEP, "/backing/wal/0001"), "../../../wal/0001");
        assert_eq!(shown(2, WAL, "/srv/pg/data/base"), "../data/base");
        assert_eq!(shown(2, WAL, "/srv/wal/0001"), "0001");
        // The label is not the last part of the path here: the way out must be rewritten.
        assert_eq!(shown(2, DATA, "../../wal/0001"), "../wal/0001");
        assert_eq!(shown(2, DATA, "../wal/0001"), "../wal/0001", "found from the data directory only");
    }

    #[test]
    fn links_that_stay_within_a_root_are_shown_as_recorded() {
        for target in ["base", "base/../base/deep", "./base//deep", "base/none/../x", "base/up/base", "loop"]
        {
            assert_eq!(shown(1, DATA, target), "as recorded", "{target}");
        }
        assert_eq!(shown(1, DEEP, "../../base"), "as recorded");
        assert_eq!(shown(1, DATA, "loop/y"), "as recorded", "a loop ends");
        assert_eq!(
            shown(1, DATA, "here/deep"),
            "as recorded",
            "the link on the way is shown re-targeted itself"
        );
        assert_eq!(shown(1, DATA, "out/passwd"), "as recorded", "the link on the way is the external one");
    }

    #[test]
    fn links_that_leave_every_root_are_external() {
        for target in
            ["/etc/passwd", "/", "/srv/pg/database", "/srv/pg", "..", "../../etc", "/srv/pg/data/../x"]
        {
            assert_eq!(shown(1, DATA, target), "external", "{target}");
        }
        assert_eq!(shown(1, DATA, "/srv/wal"), "external", "that root is not captured");
        assert_eq!(shown(1, DEEP, "../up/../x"), "external", "through a link that leads up");
        assert_eq!(shown(1, DEEP, "../up twice/../x"), "external", "through two");
        assert_eq!(shown(1, DATA, "/srv/pg/data/base/up/../../etc"), "external");
    }

    #[test]
    fn a_link_that_leaves_and_comes_back_is_rewritten() {
        assert_eq!(shown(1, DATA, "../data/base"), "base");
        assert_eq!(shown(1, DEEP, "../../../data/base"), "../../base");
        assert_eq!(shown(1, DATA, "/srv/pg/data/../data/base"), "base");
        // By the path it came in, not by the other one.
        assert_eq!(shown(2, DATA, "/srv/pg/data/../wal/1"), "external");
        assert_eq!(shown(2, DATA, "/backing/data/../wal/1"), "../wal/1");
    }

    #[test]
    fn many_links_on_one_path_end() {
        let mut namespace = namespace(1);
        for level in 0..60u64 {
            let target = format!("l{0}/../l{0}/..", level.saturating_sub(1));
            create(&mut namespace, 100 + level, DATA, &format!("l{level}"), FileKind::Symlink, &target);
        }
        judge(&namespace, DATA, b"l59/x");
    }
}
