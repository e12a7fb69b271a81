//! What is wrong with a file, where, and what would be right.
//!
//! Everything that reads a file reports into one [`Report`], so that a file's faults come out together, in the order
//! of the file, and not one a run.

use std::fmt;
use std::path::PathBuf;

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file does not load.
    Error,
    /// The file loads, but an operator should look.
    Warning,
    /// The file loads; this says how something in it is understood.
    Note,
}

/// One thing to say about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named on the command line or by the `!include` that led to it.
    pub file: PathBuf,
    /// Line from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// Column from 1, in characters.
    pub column: usize,
    /// Keys from the root, list positions from 1: `channels[2].resend.port`; empty when it is about no key.
    pub key_path: String,
    /// What is wrong.
    pub what: String,
    /// What would be right; may be empty.
    pub hint: String,
    /// How much it matters.
    pub severity: Severity,
}

impl fmt::Display for Problem {
    /// `FILE:LINE:COLUMN: KEY.PATH: what is wrong; what would be right`, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if !self.key_path.is_empty() {
            write!(f, " {}:", one_line(&self.key_path))?;
        }
        write!(f, " {}", one_line(&self.what))?;
        if !self.hint.is_empty() {
            write!(f, "; {}", one_line(&self.hint))?;
        }
        Ok(())
    }
}

/// Why a file did not load: at least one error, and with it the warnings and notes found on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The errors alone.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter().filter(|p| p.severity == Severity::Error)
    }
}

impl fmt::Display for Problems {
    /// The errors, one a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.errors().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A position in one of the files read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Index into the report's files.
    pub(crate) file: u32,
    /// From 1.
    pub(crate) line: u32,
    /// From 1, in characters.
    pub(crate) column: u32,
}

impl Place {
    /// The file as a whole.
    pub(crate) fn whole(file: u32) -> Place {
        Place { file, line: 0, column: 0 }
    }
}

/// A position and the keys that lead to it.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    /// Where.
    pub(crate) place: Place,
    /// Key path, empty at the root.
    pub(crate) path: String,
}

impl Spot {
    /// The path of `key` below this one.
    pub(crate) fn key(&self, key: &str, place: Place) -> Spot {
        Spot { place, path: join(&self.path, key) }
    }

    /// The path of the list item at `index` (from 0) below this one.
    pub(crate) fn item(&self, index: usize, place: Place) -> Spot {
        Spot { place, path: format!("{}[{}]", self.path, index + 1) }
    }
}

/// `path.key`, or `key` at the root.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Problems kept of one load. A file with more is not a configuration with typing errors but another file.
const PROBLEMS_MAX: usize = 1_000;

/// The problems of a load, as they are found.
#[derive(Debug)]
pub(crate) struct Report {
    files: Vec<PathBuf>,
    problems: Vec<(Place, Problem)>,
    errors: usize,
    /// How an unknown key is reported (`unknown_keys`).
    pub(crate) unknown_keys: Severity,
}

impl Report {
    /// No files and no problems yet.
    pub(crate) fn new() -> Report {
        Report { files: Vec::new(), problems: Vec::new(), errors: 0, unknown_keys: Severity::Error }
    }

    /// Takes a file in, for places that lie in it.
    pub(crate) fn add_file(&mut self, path: PathBuf) -> u32 {
        self.files.push(path);
        u32::try_from(self.files.len() - 1).expect("at most 1,000 files are read")
    }

    /// `FILE:LINE:COLUMN` of a place, for naming it inside the text of another problem.
    pub(crate) fn name_of(&self, place: Place) -> String {
        let file = self.files[place.file as usize].display();
        if place.line == 0 { file.to_string() } else { format!("{file}:{}:{}", place.line, place.column) }
    }

    /// Reports with a given weight.
    pub(crate) fn add(
        &mut self,
        severity: Severity,
        spot: &Spot,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let problem = self.problem(severity, spot, what, hint);
        if severity == Severity::Error {
            self.errors += 1;
        }
        if self.problems.len() < PROBLEMS_MAX || (severity == Severity::Error && self.errors == 1) {
            self.problems.push((spot.place, problem));
        }
    }

    /// A problem at a spot, without reporting it.
    pub(crate) fn problem(
        &self,
        severity: Severity,
        spot: &Spot,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Problem {
        Problem {
            file: self.files[spot.place.file as usize].clone(),
            line: spot.place.line as usize,
            column: spot.place.column as usize,
            key_path: spot.path.clone(),
            what: what.into(),
            hint: hint.into(),
            severity,
        }
    }

    /// Reports an error.
    pub(crate) fn error(&mut self, spot: &Spot, what: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Error, spot, what, hint);
    }

    /// Reports a warning.
    pub(crate) fn warn(&mut self, spot: &Spot, what: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Warning, spot, what, hint);
    }

    /// Says how something is understood.
    pub(crate) fn note(&mut self, spot: &Spot, what: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Note, spot, what, hint);
    }

    /// Whether an error was reported.
    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Every file read, and what was reported in the order of the files.
    pub(crate) fn finish(mut self) -> (Vec<PathBuf>, Vec<Problem>) {
        self.problems.sort_by_key(|(place, _)| *place);
        let mut problems: Vec<Problem> = self.problems.into_iter().map(|(_, problem)| problem).collect();
        if problems.len() >= PROBLEMS_MAX {
            problems.push(Problem {
                file: self.files.first().cloned().unwrap_or_default(),
                line: 0,
                column: 0,
                key_path: String::new(),
                what: format!("more than {PROBLEMS_MAX} problems, the rest is not shown"),
                hint: "look at the first".to_owned(),
                severity: if self.errors > 0 { Severity::Error } else { Severity::Warning },
            });
        }
        (self.files, problems)
    }
}

/// Characters of a value that a problem shows.
const SHOWN_MAX: usize = 80;

/// A value as a problem shows it: in quotes, escaped, cut short.
pub(crate) fn quoted(value: &str) -> String {
    let mut shown: String = value.chars().take(SHOWN_MAX).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    let mut out = String::with_capacity(shown.len() + 2);
    out.push('"');
    for c in shown.chars() {
        match c {
            // A backslash stays one: patterns and HL7 escapes are read by people here.
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Control characters escaped, so that nothing in a file can forge a second line of the log.
fn one_line(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_with_place_path_fault_and_hint() {
        let mut report = Report::new();
        let file = report.add_file("a.yaml".into());
        let spot = Spot { place: Place { file, line: 3, column: 7 }, path: "channels[1].port".into() };
        report.error(&spot, "80 is\nout of range", "1024 to 49151");
        let (_, problems) = report.finish();
        assert_eq!(
            problems[0].to_string(),
            "a.yaml:3:7: channels[1].port: 80 is\\nout of range; 1024 to 49151"
        );
    }

    #[test]
    fn problems_come_in_the_order_of_the_file_and_are_bounded() {
        let mut report = Report::new();
        let file = report.add_file("a.yaml".into());
        for n in (1..=1_500).rev() {
            report.warn(&Spot { place: Place { file, line: n, column: 1 }, path: String::new() }, "x", "");
        }
        report.error(&Spot { place: Place { file, line: 1, column: 1 }, path: String::new() }, "late", "");
        let (_, problems) = report.finish();
        assert_eq!(problems.len(), PROBLEMS_MAX + 2);
        assert_eq!(problems[0].what, "late");
        assert!(problems.iter().is_sorted_by_key(|p| if p.line == 0 { usize::MAX } else { p.line }));
    }
}
