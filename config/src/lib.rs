//! The configuration file: YAML text → checked, typed values. The only place that knows YAML.
//!
//! [`load`] reads a file and all it includes, checks every key, and gives a [`Config`] in which nothing is a string
//! that still has to be checked; or every problem of the file, each with file, line, column, key path and what would
//! be right. It knows no sockets and no processes, and asks of no path or host whether it exists now.
//!
//! The way of a file: `include` (files → tree) → `raw` (tree → mirror of the file) → `resolve` (mirror → typed values),
//! all of them reporting into one list.

mod diff;
mod glob;
mod include;
pub mod model;
mod network;
pub mod pattern;
mod problem;
mod raw;
mod resolve;
pub mod secret;
pub mod time_format;
mod workflow;
mod yaml;

pub use diff::{Action, Change, diff};
pub use model::*;
pub use pattern::{Pattern, PatternFault};
pub use problem::{Problem, Problems, Severity};
pub use secret::{PlainSecret, SecretName, Secrets};
pub use time_format::{Granularity, TimeFormat};

use problem::{Report, Spot};
use raw::read::Read;
use std::path::{Path, PathBuf};
use yaml::{Entry, Kind, Node};

/// What a file is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To be looked at: a secret that is not known here is a warning.
    Check,
    /// To be run: a secret that something enabled needs and that is not known is an error.
    Run,
}

/// A file that loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The typed values.
    pub config: Config,
    /// Warnings, and notes on how something is understood (see [`Severity`]), in the order of the files.
    pub warnings: Vec<Problem>,
    /// Every file read, the main one first.
    pub files: Vec<PathBuf>,
}

/// Reads and checks a file. `secrets` says whether a secret of a name is known here, see [`Secrets::is_known`].
pub fn load(path: &Path, secrets: &dyn Fn(&str) -> bool, mode: Mode) -> Result<Loaded, Problems> {
    let mut report = Report::new();
    let outcome = load_into(path, secrets, mode, &mut report);
    let failed = report.has_errors();
    let (files, problems) = report.finish();
    match outcome {
        Some(config) if !failed => Ok(Loaded { config, warnings: problems, files }),
        _ => Err(Problems(problems)),
    }
}

fn load_into(path: &Path, secrets: &dyn Fn(&str) -> bool, mode: Mode, report: &mut Report) -> Option<Config> {
    let root = include::load(path, report)?;
    let (root, spot) = service_of(&root);
    if matches!(root.kind, Kind::Null) {
        report.error(&spot, "an empty file", "write channels: with at least one channel");
        return None;
    }
    report.unknown_keys = unknown_keys(root, &spot, report);
    let raw = raw::Service::read(root, &spot, report)?;
    Some(resolve::resolve(&raw, &mut resolve::Context { report, known_secret: secrets, mode }))
}

/// The table that holds the keys: the root, or what a lone `service:` holds.
fn service_of(root: &Node) -> (&Node, Spot) {
    let spot = Spot { place: root.place, path: String::new() };
    if let Kind::Table(entries) = &root.kind {
        let mut keys = entries.iter().filter(|entry| !entry.key.starts_with("x-"));
        if let (Some(Entry { key, value, .. }), None) = (keys.next(), keys.next())
            && key == "service"
            && matches!(value.kind, Kind::Table(_))
        {
            return (value, spot.key("service", value.place));
        }
    }
    (root, spot)
}

/// How unknown keys are reported, which must be known before the first is met.
fn unknown_keys(root: &Node, spot: &Spot, report: &mut Report) -> Severity {
    let Kind::Table(entries) = &root.kind else { return Severity::Error };
    let Some(entry) = entries.iter().find(|entry| entry.key == "unknown_keys") else {
        return Severity::Error;
    };
    match &entry.value.kind {
        Kind::Null => Severity::Error,
        Kind::Scalar(scalar) if scalar.text == "error" => Severity::Error,
        Kind::Scalar(scalar) if scalar.text == "warn" => Severity::Warning,
        Kind::List(_) | Kind::Table(_) | Kind::Include(_) => Severity::Error,
        Kind::Scalar(_) => {
            let spot = spot.key("unknown_keys", entry.value.place);
            report.error(&spot, format!("unknown value {}", entry.value.describe()), "known are error, warn");
            Severity::Error
        }
    }
}
