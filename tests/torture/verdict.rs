//! Runs the checker over a ledger and the places of a site.

use crate::ledger::Ledger;
use crate::support::{Site, finish, within};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long the checker may take.
const CHECKING: Duration = Duration::from_secs(300);

/// The checker with what it is to look at.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    words: Vec<OsString>,
}

/// What the checker said.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// Its line of JSON.
    pub(crate) found: Value,
    words: String,
}

/// The program.
pub(crate) fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/checker")
}

impl Checker {
    /// With a ledger.
    pub(crate) fn of(ledger: &Ledger) -> Checker {
        let mut checker = Checker::default();
        checker.word("--ledger").word(ledger.written());
        checker
    }

    /// Messages in files: `place` is `CHANNEL/NAME`.
    pub(crate) fn messages(&mut self, place: &str, folder: &Path) -> &mut Checker {
        self.word("--messages").word(place).word(folder)
    }

    /// Documents in files.
    pub(crate) fn documents(&mut self, place: &str, folder: &Path) -> &mut Checker {
        self.word("--documents").word(place).word(folder)
    }

    /// Credential tasks in files.
    pub(crate) fn tasks(&mut self, place: &str, folder: &Path) -> &mut Checker {
        self.word("--tasks").word(place).word(folder)
    }

    /// Rows; `columns` are `order,control[,patient]`.
    pub(crate) fn sqlite(&mut self, place: &str, file: &Path, table: &str, columns: &str) -> &mut Checker {
        self.word("--sqlite").word(place).word(file).word(table).word(columns)
    }

    /// What the caller has listed in a file, a JSON object a line or CSV.
    pub(crate) fn rows(&mut self, place: &str, file: &Path) -> &mut Checker {
        self.word("--rows").word(place).word(file)
    }

    /// A place that cannot tell what came twice.
    pub(crate) fn at_least_once(&mut self, place: &str) -> &mut Checker {
        self.word("--at-least-once").word(place)
    }

    /// What the server lists as waiting and failed. It must be running.
    pub(crate) fn listed(&mut self, site: &Site) -> &mut Checker {
        for (option, words) in
            [("--queue", &["queue", "list", "--limit", "500"][..]), ("--failed", &["failed", "list"])]
        {
            let lines: String = site.list(words).iter().map(|line| format!("{line}\n")).collect();
            let file = site.path(&format!("listed{option}.jsonl"));
            fs::write(&file, lines).unwrap();
            self.word(option).word(file);
        }
        self
    }

    fn word(&mut self, word: impl Into<OsString>) -> &mut Checker {
        self.words.push(word.into());
        self
    }

    /// What it says.
    #[track_caller]
    pub(crate) fn verdict(&self) -> Verdict {
        let mut command = Command::new(program());
        command.args(&self.words);
        let ran = finish(command, CHECKING);
        assert!(matches!(ran.code, Some(0 | 1)) && !ran.stdout.is_empty(), "{ran:#?}");
        Verdict { found: ran.json(), words: ran.stderr }
    }

    /// Fails unless everything balances and nothing failed or waits.
    #[track_caller]
    pub(crate) fn balances(&self) -> Verdict {
        let verdict = self.verdict();
        let nothing = ["failed", "waiting", "temporary"].iter().all(|key| verdict.number(key) == 0);
        assert!(verdict.found["ok"] == true && nothing, "the accounts do not balance\n{}", verdict.words);
        verdict
    }
}

impl Verdict {
    /// A figure of it.
    #[track_caller]
    pub(crate) fn number(&self, key: &str) -> u64 {
        self.found[key].as_u64().unwrap_or_else(|| panic!("no number {key:?} in {:#}", self.found))
    }
}

/// Waits until no message waits or is worked on.
#[track_caller]
pub(crate) fn drained(site: &Site, limit: Duration) {
    within(limit, "nothing waits any more", || site.is_drained().then_some(()));
}
