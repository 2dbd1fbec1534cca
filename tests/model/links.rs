//! Judges how links are shown: followed in the image, a link must lead to the same file as the recorded one
//! did in production, or be listed as external. Both ways are walked here by plain paths.

use std::collections::BTreeSet;

use bytes::Bytes;
use pitgate::types::{FileId, FileKind, Image};

use crate::compare::Difference;
use crate::reference::{Root, Tree};

type Path = Vec<Bytes>;

const FOLLOWED_MAX: u32 = 40;

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Below the root with this label.
    Inside(Bytes, Path),
    Outside,
    /// Not to be told: a loop, a link with several names, or a way through a link that leads out.
    Unclear,
}

/// A file system as plain paths see it.
trait Paths {
    /// The text of the link at a path, as one who follows it reads it; `None` if there is no link.
    fn link_at(&self, path: &[Bytes]) -> Result<Option<(FileId, Bytes)>, Difference>;
    /// The root that a path lies in, and its rest.
    fn end_of(&self, path: &[Bytes]) -> End;
}

/// The captured machine.
struct Production<'a>(&'a Tree);

/// The image, mounted at `/m`.
struct Mounted<'a> {
    image: &'a dyn Image,
    tree: &'a Tree,
}

/// Compares what every link of the tree leads to.
///
/// # Errors
/// The first link that is shown wrongly, or the image's error.
pub fn compare_links(image: &dyn Image, tree: &Tree) -> Result<(), Difference> {
    let external: BTreeSet<(Bytes, Bytes)> = image.external_links()?.into_iter().collect();
    let mut expected_external = BTreeSet::new();
    for (&file, held) in tree.files.iter().filter(|(_, file)| file.attributes.kind == FileKind::Symlink) {
        for (directory, name) in tree.names_of(file) {
            let (root, mut below) = place_of(tree, directory);
            let recorded = match follow_recorded(tree, root, &below, &held.target, |root| &root.mountpoint)? {
                End::Outside => follow_recorded(tree, root, &below, &held.target, |root| &root.data_dir)?,
                other => other,
            };
            let mounted = Mounted { image, tree };
            let text = image.read_link(file)?;
            if image.status(file)?.size != text.len() as u64 {
                return Err(Difference::Wrong(format!("{file:?}: size is not that of the text {text:?}")));
            }
            let mut start = mounted.path_of(root);
            start.extend(below.iter().cloned());
            let shown = resolve(&mounted, start, &text, &mut 0)?;
            below.push(name);
            let path = shown_path(tree, root, &below);
            match recorded {
                End::Outside => {
                    expected_external.insert((path, held.target.clone()));
                    if text != held.target && tree.names_of(file).len() == 1 {
                        return Err(Difference::Wrong(format!(
                            "external link {below:?} is shown as {text:?}"
                        )));
                    }
                }
                End::Unclear => {}
                End::Inside(..) if shown == recorded || tree.names_of(file).len() > 1 => {}
                End::Inside(..) => {
                    return Err(Difference::Wrong(format!(
                        "link {below:?} in {:?} to {:?} led to {recorded:?}, shown as {text:?} it leads to {shown:?}",
                        root.label, held.target
                    )));
                }
            }
        }
    }
    if let Some(missing) = expected_external.difference(&external).next() {
        return Err(Difference::Wrong(format!("{missing:?} leads out and is not listed")));
    }
    // A way through an external link may or may not count as one itself.
    Ok(())
}

fn follow_recorded(
    tree: &Tree,
    root: &Root,
    below: &[Bytes],
    target: &Bytes,
    side: fn(&Root) -> &Bytes,
) -> Result<End, Difference> {
    let mut start = parts(side(root));
    start.extend(below.iter().cloned());
    resolve(&Production(tree), start, target, &mut 0)
}

/// Follows `target` from `start`, every link but the last component's.
fn resolve(paths: &dyn Paths, start: Path, target: &Bytes, followed: &mut u32) -> Result<End, Difference> {
    let Some(path) = walk(paths, start, target, false, followed)? else { return Ok(End::Unclear) };
    Ok(paths.end_of(&path))
}

fn walk(
    paths: &dyn Paths,
    start: Path,
    target: &Bytes,
    through_last: bool,
    followed: &mut u32,
) -> Result<Option<Path>, Difference> {
    let mut path = if target.starts_with(b"/") { Vec::new() } else { start };
    let components = parts(target);
    for (number, component) in components.iter().enumerate() {
        if component == ".." {
            path.pop();
            continue;
        }
        let directory = path.clone();
        path.push(component.clone());
        if number + 1 == components.len() && !through_last {
            break;
        }
        if let Some((_, text)) = paths.link_at(&path)? {
            *followed += 1;
            if *followed > FOLLOWED_MAX {
                return Ok(None);
            }
            match walk(paths, directory, &text, true, followed)? {
                Some(led) if paths.end_of(&led) != End::Outside => path = led,
                _ => return Ok(None),
            }
        }
    }
    Ok(Some(path))
}

impl Paths for Production<'_> {
    fn link_at(&self, path: &[Bytes]) -> Result<Option<(FileId, Bytes)>, Difference> {
        let End::Inside(label, rest) = self.end_of(path) else { return Ok(None) };
        Ok(link_below(self.0, &label, &rest).map(|file| (file, self.0.files[&file].target.clone())))
    }

    fn end_of(&self, path: &[Bytes]) -> End {
        for root in &self.0.roots {
            for side in [&root.mountpoint, &root.data_dir] {
                if let Some(rest) = path.strip_prefix(parts(side).as_slice()) {
                    return End::Inside(root.label.clone(), rest.to_vec());
                }
            }
        }
        End::Outside
    }
}

impl Mounted<'_> {
    fn path_of(&self, root: &Root) -> Path {
        let mut path = vec![Bytes::from_static(b"m")];
        if self.tree.roots.len() > 1 {
            path.push(root.label.clone());
        }
        path
    }
}

impl Paths for Mounted<'_> {
    fn link_at(&self, path: &[Bytes]) -> Result<Option<(FileId, Bytes)>, Difference> {
        let End::Inside(label, rest) = self.end_of(path) else { return Ok(None) };
        let Some(file) = link_below(self.tree, &label, &rest) else { return Ok(None) };
        Ok(Some((file, self.image.read_link(file)?)))
    }

    fn end_of(&self, path: &[Bytes]) -> End {
        for root in &self.tree.roots {
            if let Some(rest) = path.strip_prefix(self.path_of(root).as_slice()) {
                return End::Inside(root.label.clone(), rest.to_vec());
            }
        }
        End::Outside
    }
}

/// The link at a path below a root, no link on the way followed.
fn link_below(tree: &Tree, label: &Bytes, rest: &[Bytes]) -> Option<FileId> {
    let mut at = tree.roots.iter().find(|root| root.label == label)?.file;
    for name in rest {
        at = *tree.files[&at].entries.get(name)?;
    }
    (tree.files[&at].attributes.kind == FileKind::Symlink).then_some(at)
}

/// The root that holds a directory, and the way down to it.
fn place_of(tree: &Tree, directory: FileId) -> (&Root, Path) {
    let mut below = Vec::new();
    let mut at = directory;
    loop {
        if let Some(root) = tree.roots.iter().find(|root| root.file == at) {
            below.reverse();
            return (root, below);
        }
        let (parent, name) = tree.names_of(at).remove(0);
        below.push(name);
        at = parent;
    }
}

fn shown_path(tree: &Tree, root: &Root, below: &[Bytes]) -> Bytes {
    let mut path = below.to_vec();
    if tree.roots.len() > 1 {
        path.insert(0, root.label.clone());
    }
    path.join(&b'/').into()
}

fn parts(path: &Bytes) -> Path {
    let parts = path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    parts.map(Bytes::copy_from_slice).collect()
}
