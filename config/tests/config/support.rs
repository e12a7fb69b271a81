//! Files in a temporary folder, and what loading them says.

use config::{Loaded, Mode, Problems, Severity};
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder of files, gone at the end of the test.
pub(crate) struct Files {
    folder: TempDir,
}

impl Files {
    /// Writes files; a name may contain folders.
    pub(crate) fn new(files: &[(&str, &str)]) -> Files {
        let files_here = Files { folder: tempfile::tempdir().unwrap() };
        for (name, text) in files {
            files_here.write(name, text.as_bytes());
        }
        files_here
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Loads a file with no secret known.
    pub(crate) fn load(&self, name: &str) -> Result<Loaded, Problems> {
        config::load(&self.path(name), &|_| false, Mode::Check)
    }

    /// What is said of a file that does not load, without the folder's name.
    pub(crate) fn errors(&self, name: &str) -> Vec<String> {
        let problems = self.load(name).expect_err("the file has errors");
        problems.errors().map(|problem| self.without_folder(&problem.to_string())).collect()
    }

    pub(crate) fn without_folder(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

/// Loads a text.
pub(crate) fn load(text: &str) -> Result<Loaded, Problems> {
    Files::new(&[("f.yaml", text)]).load("f.yaml")
}

/// A text that must load.
pub(crate) fn loaded(text: &str) -> Loaded {
    load(text).unwrap_or_else(|problems| panic!("{problems}\nin:\n{text}"))
}

/// Errors of a text, each without the file's name: `LINE:COLUMN: …`.
pub(crate) fn errors_of(text: &str) -> Vec<String> {
    let files = Files::new(&[("f.yaml", text)]);
    let strip = |error: String| error.strip_prefix("f.yaml:").map_or(error.clone(), str::to_owned);
    files.errors("f.yaml").into_iter().map(strip).collect()
}

/// Warnings and notes of a text that loads, each as `warning LINE:COLUMN: …`.
pub(crate) fn remarks_of(text: &str) -> Vec<String> {
    let files = Files::new(&[("f.yaml", text)]);
    let loaded = files.load("f.yaml").unwrap_or_else(|problems| panic!("{problems}\nin:\n{text}"));
    let word = |severity| if severity == Severity::Note { "note" } else { "warning" };
    loaded
        .warnings
        .iter()
        .map(|p| {
            format!(
                "{} {}",
                word(p.severity),
                files.without_folder(&p.to_string()).replacen("f.yaml:", "", 1)
            )
        })
        .collect()
}
