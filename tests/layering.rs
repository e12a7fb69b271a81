//! Who may know whom: crates, unsafe code, lints, and what the sources of a pure crate must not name.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crate → the crates of this workspace that it may depend on, for whatever purpose.
const EDGES: [(&str, &[&str]); 9] = [
    ("hl7server", &["master", "worker", "db", "config", "journal", "hl7", "pdf", "link"]),
    ("master", &["config", "link"]),
    ("worker", &["config", "db", "link", "hl7", "journal", "pdf"]),
    ("db", &["config"]),
    ("config", &["hl7"]),
    ("link", &[]),
    ("hl7", &[]),
    ("journal", &[]),
    ("pdf", &[]),
];

/// Libraries → the only crates that may depend on them.
const LIBRARIES: [(&str, &[&str]); 13] = [
    ("serde_yaml", &["config"]),
    ("saphyr-parser", &["config"]),
    ("mio", &["master", "worker", "hl7server"]),
    ("encoding_rs", &["hl7"]),
    ("sd-notify", &["master"]),
    ("clap", &["hl7server"]),
    ("httparse", &["hl7server"]),
    ("mysql", &["db"]),
    ("tokio-postgres", &["db"]),
    ("tiberius", &["db"]),
    ("ssh2", &["worker"]),
    ("rustls", &["worker", "hl7server"]),
    ("ureq", &["worker", "hl7server"]),
];

/// Folder → what its sources must not name: pure code knows no sockets, files, clock or log, and so on.
const UNKNOWN: [(&str, &[&str]); 5] = [
    (
        "worker/hl7/src",
        &["std::net", "std::fs", "std::process", "std::thread", "SystemTime", "Instant", "log::"],
    ),
    ("worker/journal/src", &["hl7::", "std::net", "std::process"]),
    ("config/src", &["std::net::Tcp", "std::net::Udp", "std::process", "std::thread"]),
    ("master/src", &["hl7::", "journal::"]),
    // It shows and never acts.
    (
        "src/cli/dashboard",
        &[
            "worker::",
            "Request::Reload",
            "Question::Retry",
            "Question::Discard",
            "fs::write",
            "fs::remove",
            "fs::rename",
        ],
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Crate → the names of all it depends on, tests and build scripts included.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let names = |package: &Value| -> BTreeSet<String> {
        let list = package["dependencies"].as_array().unwrap();
        list.iter().map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect()
    };
    packages().iter().map(|package| (package["name"].as_str().unwrap().to_owned(), names(package))).collect()
}

#[test]
fn crates_depend_only_on_those_they_may_know() {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.into();
    for (name, found) in dependencies() {
        let may =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is a crate this test does not know"));
        for other in found.iter().filter(|other| allowed.contains_key(other.as_str())) {
            assert!(may.contains(&other.as_str()), "{name} must not depend on {other}");
        }
    }
}

#[test]
fn libraries_stay_in_the_crates_they_are_for() {
    let libraries: BTreeMap<&str, &[&str]> = LIBRARIES.into();
    for (name, found) in dependencies() {
        for (library, homes) in &libraries {
            assert!(
                !found.contains(*library) || homes.contains(&name.as_str()),
                "{name} must not use {library}"
            );
        }
    }
}

#[test]
fn unsafe_code_stands_only_in_link() {
    for (path, text) in sources(root()) {
        if path.starts_with(root().join("master/link")) {
            continue;
        }
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "#[unsafe("];
            // This list names them too.
            let here = path.ends_with("tests/layering.rs");
            assert!(
                here || !is_unsafe.iter().any(|word| code.contains(word)),
                "{}:{}: {line}",
                path.display(),
                n + 1
            );
        }
    }
}

#[test]
fn every_crate_takes_the_workspaces_lints() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"forbid\""), "the workspace must forbid unsafe code");
    for package in packages() {
        let manifest = fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        let lints: Vec<&str> = manifest.lines().skip_while(|line| !line.starts_with("[lints")).collect();
        if package["name"] == "link" {
            assert!(lints.contains(&"undocumented_unsafe_blocks = \"deny\""), "link: {lints:?}");
        } else {
            assert_eq!(
                lints.get(..2),
                Some(["[lints]", "workspace = true"].as_slice()),
                "{}",
                package["name"]
            );
        }
    }
}

#[test]
fn pure_crates_name_nothing_they_must_not_know() {
    for (folder, words) in UNKNOWN {
        for (path, text) in sources(&root().join(folder)) {
            // Tests at a file's foot may use what they like.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (n, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
            {
                for word in words {
                    assert!(!names(line, word), "{}:{} names {word}: {line}", path.display(), n + 1);
                }
            }
        }
    }
}

/// Whether the line holds the word, not as the end of a longer one.
fn names(line: &str, word: &str) -> bool {
    let mut rest = line;
    while let Some(at) = rest.find(word) {
        let before = rest[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            return true;
        }
        rest = &rest[at + word.len()..];
    }
    false
}

#[test]
fn a_name_is_found_only_as_a_whole() {
    assert!(names("use hl7::path;", "hl7::") && names("(hl7::x)", "hl7::"));
    assert!(!names("my_hl7::x", "hl7::") && !names("nothing", "hl7::"));
}

/// The folder beside the repository is not part of the product: only tests and CI may name it.
#[test]
fn only_tests_and_ci_name_the_folder_beside_the_repository() {
    let folder = ["shared", "/"].concat();
    let tracked = Command::new("git")
        .args(["ls-files", "-z", "-co", "--exclude-standard"])
        .current_dir(root())
        .output();
    let Ok(tracked) = tracked else {
        eprintln!("SKIPPED: no git");
        return;
    };
    for name in String::from_utf8(tracked.stdout).unwrap().split_terminator('\0') {
        if name.split('/').any(|part| part == "tests" || part == "tests.rs") || name == ".ci/run" {
            continue;
        }
        let Ok(bytes) = fs::read(root().join(name)) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let found = text.lines().position(|line| self::names(line, &folder));
        assert!(found.is_none(), "{name}:{} names {folder}", found.unwrap_or_default() + 1);
    }
}

/// The Rust sources below a folder, without those of dependencies and builds.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let hidden = name.to_string_lossy().starts_with('.') || name == "target";
            if path.is_dir() && !hidden {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources");
    found
}
