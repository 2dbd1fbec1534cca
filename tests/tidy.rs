//! The project's law, as tests: order of modules, which crate may appear where, sizes, first lines, and that every
//! promise names a test that exists.
//!
//! The tables below are what counts; a change of architecture begins here.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Module and rank. A module imports only modules of lower rank; siblings never know each other.
const RANKS: &[(&str, u32)] = &[
    ("types", 0),
    ("io", 1),
    ("index", 2),
    ("namespace", 2),
    ("journal", 3),
    ("repository", 4),
    ("view", 5),
    ("overlay", 6),
    ("capture", 6),
    ("plugin", 7),
    ("mount", 8),
    ("recovery", 9),
    ("gateway", 10),
    ("cli", 11),
];

/// Path prefix in code, and the only modules that may name it.
const HOMES: &[(&str, &[&str])] = &[
    ("fuser", &["io"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("indicatif", &["cli"]),
    ("anyhow", &["cli"]),
    ("rusqlite", &["cli"]),
    ("tracing_subscriber", &["cli"]),
    ("signal_hook", &["cli", "io", "mount"]),
    ("zstd", &["journal", "namespace", "repository"]),
    ("std::fs", &["io", "capture", "mount", "recovery", "cli"]),
    ("std::net", &["io", "mount", "cli"]),
    ("std::process", &["io", "mount", "recovery", "cli"]),
];

/// The only modules where `unsafe` may stand.
const UNSAFE_HOMES: &[&str] = &["io"];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

const WORDS_WITHOUT_MEANING: &[&str] = &["utils", "util", "helpers", "helper", "common", "manager", "misc"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the project below `directory`, relative to the project.
fn rust_files(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from(directory)];
    while let Some(next) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(root().join(&next)) else { continue };
        for entry in entries {
            let entry = entry.expect("a directory of the project can be read");
            let path = next.join(entry.file_name());
            if entry.file_type().expect("an entry has a type").is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    waiting.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn all_rust_files() -> Vec<PathBuf> {
    ["src", "tests", "xtask", "benches", "fuzz", "plugins"]
        .iter()
        .flat_map(|directory| rust_files(directory))
        .collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The top-level module that a file of `src` belongs to; `None` for `main.rs` and `lib.rs`.
fn module_of(path: &Path) -> Option<String> {
    let name = path.components().nth(1)?.as_os_str().to_str()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (name != "main" && name != "lib").then(|| name.to_owned())
}

fn rank_of(module: &str) -> Option<u32> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

/// `text` with comments, strings and character literals blanked out, line for line.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                text[at..].find('\n').map_or(text.len(), |len| at + len)
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                text[at..].find("*/").map_or(text.len(), |len| at + len + 2)
            }
            b'"' => end_of_string(bytes, at),
            b'r' if !ends_in_word(&code) => end_of_raw_string(text, at),
            b'\'' => end_of_character(text, at),
            _ => at,
        };
        if end == at {
            let character = text[at..].chars().next().expect("within the text");
            code.push(character);
            at += character.len_utf8();
        } else {
            code.extend(text[at..end].chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

fn ends_in_word(code: &str) -> bool {
    code.chars().next_back().is_some_and(|last| last.is_alphanumeric() || last == '_')
}

fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The end of the raw string that begins at `start`; `start` itself if none does.
fn end_of_raw_string(text: &str, start: usize) -> usize {
    let rest = &text[start + 1..];
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    if !rest[hashes..].starts_with('"') {
        return start;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let body = start + 1 + hashes + 1;
    text[body..].find(&close).map_or(text.len(), |len| body + len + close.len())
}

/// The end of the character literal that begins at `start`; `start` itself if it is a lifetime.
fn end_of_character(text: &str, start: usize) -> usize {
    let rest = &text[start + 1..];
    if let Some(escaped) = rest.strip_prefix('\\') {
        let skipped = escaped.chars().next().map_or(0, char::len_utf8);
        return escaped[skipped..].find('\'').map_or(text.len(), |len| start + 2 + skipped + len + 1);
    }
    let first = rest.chars().next().map_or(0, char::len_utf8);
    if rest[first..].starts_with('\'') { start + 1 + first + 1 } else { start }
}

/// Top-level modules that a line of code names through `crate::` (or `super::` from a module's own root), with
/// the line's number.
fn imports(code: &str, super_is_crate: bool) -> Vec<(usize, String)> {
    let mut prefixes = vec!["crate::"];
    if super_is_crate {
        prefixes.push("super::");
    }
    let mut found = Vec::new();
    for prefix in prefixes {
        for (at, _) in code.match_indices(prefix) {
            if ends_in_word(&code[..at]) || code[..at].ends_with("::") {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            for name in names_after(&code[at + prefix.len()..]) {
                found.push((line, name));
            }
        }
    }
    found
}

/// First segments of what a `use` path goes on with: one name, or those at the outer level of a group.
fn names_after(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let mut names = Vec::new();
    let mut depth = 0;
    let mut expects_name = true;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expects_name = true,
            _ if depth == 0 && expects_name && !character.is_whitespace() => {
                names.push(word(&group[at..]));
                expects_name = false;
            }
            _ => {}
        }
    }
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

/// Lines (from 1) where the path `prefix` is named as a whole.
fn lines_naming(code: &str, prefix: &str) -> Vec<usize> {
    code.match_indices(prefix)
        .filter(|(at, _)| {
            let before = &code[..*at];
            let after = code[at + prefix.len()..].chars().next();
            let starts = !ends_in_word(before) && !before.ends_with("::") && !before.ends_with('.');
            let is_path = prefix.contains("::")
                || code[at + prefix.len()..].starts_with("::")
                || before.ends_with("use ");
            starts && is_path && !after.is_some_and(|after| after.is_alphanumeric() || after == '_')
        })
        .map(|(at, _)| code[..at].matches('\n').count() + 1)
        .collect()
}

/// Name, first line and number of lines of every function with a body.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if ends_in_word(&code[..at]) {
            continue;
        }
        let name = word(&code[at + 3..]);
        let Some(body) = code[at..].find(['{', ';']).map(|len| at + len) else { continue };
        if name.is_empty() || code.as_bytes()[body] == b';' {
            continue;
        }
        let mut depth = 0;
        let end = code[body..].char_indices().find_map(|(offset, character)| {
            depth += i32::from(character == '{') - i32::from(character == '}');
            (depth == 0).then_some(body + offset)
        });
        let end = end.unwrap_or(code.len());
        found.push((name, code[..at].matches('\n').count() + 1, code[at..end].matches('\n').count() + 1));
    }
    found
}

/// The first line that belongs to unit tests; `usize::MAX` if there is none.
fn first_test_line(path: &Path, code: &str) -> usize {
    let in_test_file = path.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        part == "tests" || part == "tests.rs" || part.ends_with("_tests.rs")
    });
    if in_test_file {
        return 0;
    }
    code.lines()
        .position(|line| line.trim_start().starts_with("#[cfg(test)]"))
        .map_or(usize::MAX, |line| line + 1)
}

#[track_caller]
fn assert_none(faults: &[String]) {
    let mut text = String::new();
    for fault in faults {
        let _ = writeln!(text, "{fault}");
    }
    assert!(faults.is_empty(), "{} faults:\n{text}", faults.len());
}

#[test]
fn a_module_imports_only_modules_of_lower_rank() {
    let mut faults = Vec::new();
    for path in rust_files("src") {
        let Some(module) = module_of(&path) else { continue };
        let Some(rank) = rank_of(&module) else {
            faults.push(format!("{}: module {module} has no rank in tests/tidy.rs", path.display()));
            continue;
        };
        let is_module_root =
            path.components().count() == 2 || path.ends_with(Path::new(&module).join("mod.rs"));
        for (line, name) in imports(&code_of(&read(&path)), is_module_root) {
            let Some(other) = rank_of(&name) else { continue };
            if name != module && other >= rank {
                faults.push(format!(
                    "{}:{line}: {module} ({rank}) may not import {name} ({other})",
                    path.display()
                ));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn a_crate_appears_only_in_its_home() {
    let mut faults = Vec::new();
    for path in rust_files("src") {
        let Some(module) = module_of(&path) else { continue };
        let code = code_of(&read(&path));
        let tests_from = first_test_line(&path, &code);
        for (prefix, homes) in HOMES.iter().filter(|(_, homes)| !homes.contains(&module.as_str())) {
            for line in lines_naming(&code, prefix) {
                if line < tests_from {
                    let homes = homes.join(", ");
                    faults.push(format!(
                        "{}:{line}: {prefix} belongs to {homes}, not to {module}",
                        path.display()
                    ));
                }
            }
        }
        if !UNSAFE_HOMES.contains(&module.as_str()) && code.contains("unsafe ") {
            faults.push(format!("{}: `unsafe` belongs to {}", path.display(), UNSAFE_HOMES.join(", ")));
        }
    }
    assert_none(&faults);
}

#[test]
fn files_and_functions_keep_their_size() {
    let mut faults = Vec::new();
    for path in all_rust_files() {
        let text = read(&path);
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            faults.push(format!("{}: {lines} lines, {FILE_LINES_MAX} at most", path.display()));
        }
        for (name, line, lines) in functions(&code_of(&text)) {
            if lines > FUNCTION_LINES_MAX {
                let path = path.display();
                faults.push(format!(
                    "{path}:{line}: fn {name} has {lines} lines, {FUNCTION_LINES_MAX} at most"
                ));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_file_says_first_what_it_owns() {
    let files = all_rust_files();
    let faults = files.iter().filter(|path| !read(path).starts_with("//! "));
    assert_none(
        &faults.map(|path| format!("{}: does not begin with `//! `", path.display())).collect::<Vec<_>>(),
    );
}

#[test]
fn names_of_files_mean_something() {
    let files = all_rust_files();
    let faults = files.iter().filter(|path| {
        path.components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            WORDS_WITHOUT_MEANING.contains(&part.strip_suffix(".rs").unwrap_or(&part))
        })
    });
    assert_none(
        &faults.map(|path| format!("{}: name it after what it owns", path.display())).collect::<Vec<_>>(),
    );
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let mut faults = Vec::new();
    for manifest in ["Cargo.toml", "xtask/Cargo.toml"] {
        let text = read(Path::new(manifest));
        let mut in_dependencies = false;
        for (number, line) in text.lines().enumerate() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies && line.contains('=') && !line.contains("# ") && !line.starts_with('#')
            {
                faults.push(format!("{manifest}:{}: no word on what it is for", number + 1));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let path = Path::new("docs/semantics.md");
    let text = read(path);
    let mut names = BTreeSet::new();
    for file in all_rust_files() {
        names.extend(functions(&code_of(&read(&file))).into_iter().map(|(name, _, _)| name));
    }
    let mut faults = Vec::new();
    let promises: Vec<&str> =
        text.split("\n## ").skip(1).filter(|part| part.starts_with(char::is_numeric)).collect();
    assert!(promises.len() >= 9, "docs/semantics.md numbers {} promises, 9 expected", promises.len());
    for promise in promises {
        let title = promise.lines().next().unwrap_or_default();
        let tests =
            promise.split("\n\n").find_map(|paragraph| paragraph.trim_start().strip_prefix("Tests: "));
        let Some(tests) = tests else {
            faults.push(format!("{}: promise `{title}` has no paragraph `Tests: `", path.display()));
            continue;
        };
        // A promise of what is not built yet says so instead of naming a test.
        if !tests.contains('`') && !promise.contains("not built yet") {
            faults.push(format!("{}: promise `{title}` names no test", path.display()));
        }
        for name in tests.split('`').skip(1).step_by(2) {
            if !names.contains(name.rsplit("::").next().unwrap_or(name)) {
                faults.push(format!(
                    "{}: promise `{title}` names {name}, which does not exist",
                    path.display()
                ));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn the_scanner_sees_what_it_must() {
    let code = code_of(
        "use crate::{io::Disk, view};\n// crate::cli\nlet a = \"crate::cli\"; let b = '\"'; x::<'a>(r#\"\"#);\n",
    );
    assert_eq!(imports(&code, false), [(1, "io".to_owned()), (1, "view".to_owned())]);
    assert_eq!(imports("    let x = super::cli::run();", true), [(1, "cli".to_owned())]);
    assert_eq!(
        lines_naming("use std::fs;\nuse std::fs::File;\nfuser::mount();\nmy_fuser::x", "std::fs"),
        [1, 2]
    );
    assert_eq!(lines_naming("fuser::mount();\nmy_fuser::x();\nself.fuser::<u8>()", "fuser"), [1]);
    assert_eq!(functions("trait T { fn a(); fn b() {\n} }"), [("b".to_owned(), 1, 2)]);
}
