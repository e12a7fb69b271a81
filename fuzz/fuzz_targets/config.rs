//! Any YAML, in up to three files that include each other: it loads, or every problem is told on one line; what was
//! loaded reaches a worker as it is.
#![no_main]

use config::{Mode, Severity, WorkerSettings};
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

/// Parts an input into files.
const SEPARATOR: &str = "\n=====\n";
const NAMES: [&str; 3] = ["main.yaml", "a.yaml", "b.yaml"];

/// Below `TMPDIR`, which `fuzz/run` makes and takes away.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("config-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for the files");
    folder
});

fuzz_target!(|data: &[u8]| {
    let [choice, text @ ..] = data else { return };
    let Ok(text) = str::from_utf8(text) else { return };
    // Outside of its folder is what this machine has, and no input is to depend on that.
    if text.contains("..") || text.split("!include").skip(1).any(|path| path.contains('/')) {
        return;
    }
    let mut parts = text.split(SEPARATOR);
    for name in NAMES {
        let path = FOLDER.join(name);
        match parts.next() {
            Some(part) => fs::write(path, part).expect("the file is ours"),
            None => drop(fs::remove_file(path)),
        }
    }
    let mode = if choice & 1 == 0 { Mode::Check } else { Mode::Run };
    let known_secret = |name: &str| choice & 2 == 0 || name.len() % 2 == 0;
    let problems = match config::load(&FOLDER.join(NAMES[0]), &known_secret, mode) {
        Ok(loaded) => {
            assert!(loaded.warnings.iter().all(|warning| warning.severity != Severity::Error));
            carried(&loaded.config);
            loaded.warnings
        }
        Err(problems) => {
            assert!(problems.errors().next().is_some(), "a refusal says why");
            problems.0
        }
    };
    for problem in problems {
        let line = problem.to_string();
        assert!(!line.chars().any(char::is_control), "a problem is one line: {line:?}");
    }
});

fn carried(config: &config::Config) {
    for channel in &config.channels {
        let settings = config.worker_settings(channel);
        let text = serde_json::to_string(&settings).expect("settings are text");
        let back: WorkerSettings = serde_json::from_str(&text).expect("settings read back");
        assert_eq!(back, settings);
    }
}
