//! Checks that several parts of the file have in common.

use super::Context;
use crate::problem::{Spot, quoted};
use crate::raw::read::{At, Key, List, nearest};
use crate::yaml::is_typographic_quote;
use hl7::path::FieldPath;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Characters of a name that the user chose.
const LABEL_CHARS_MAX: usize = 64;

impl Context<'_> {
    /// A whole number within a range.
    pub(super) fn number(
        &mut self,
        key: &Key<i64>,
        range: RangeInclusive<i64>,
        default: i64,
        hint: &str,
    ) -> i64 {
        let Some(at) = key.given() else { return default };
        if !range.contains(&at.value) {
            self.report.error(&at.spot, format!("{} is out of range", at.value), hint);
            return default;
        }
        at.value
    }

    /// A TCP port that we connect to.
    pub(super) fn remote_port(&mut self, key: &Key<i64>, default: u16) -> u16 {
        let port = self.number(key, 1..=65_535, i64::from(default), "a port is 1 to 65535");
        u16::try_from(port).unwrap_or(default)
    }

    /// A duration that is not zero.
    pub(super) fn wait(&mut self, key: &Key<Duration>, default: Duration) -> Duration {
        let Some(at) = key.given() else { return default };
        if at.value.is_zero() {
            self.report.error(&at.spot, "a wait of zero", "write at least 1ms");
            return default;
        }
        at.value
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&mut self, key: &Key<String>, words: &[(&str, T)], default: T) -> T {
        key.given().and_then(|at| self.word(at, words)).unwrap_or(default)
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&mut self, at: &At<String>, words: &[(&str, T)]) -> Option<T> {
        let found = words.iter().find(|(word, _)| *word == at.value);
        if found.is_none() {
            let hint = match nearest(&at.value, words.iter().map(|(word, _)| *word)) {
                Some(near) => format!("did you mean {near}?"),
                None => {
                    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                    format!("known are {}", known.join(", "))
                }
            };
            self.report.error(&at.spot, format!("unknown value {}", quoted(&at.value)), hint);
        }
        found.map(|(_, value)| *value)
    }

    /// A name of the user's choice: shown in logs and used in step names, so one line of no great length.
    pub(super) fn label(&mut self, value: &str, spot: &Spot) {
        let length = value.chars().count();
        if value.trim().is_empty() || length > LABEL_CHARS_MAX || value.chars().any(char::is_control) {
            let what = format!("{} is no name", quoted(value));
            self.report.error(spot, what, "a name has 1 to 64 characters on one line");
        } else if let Some(quote) = value.chars().find(|c| is_typographic_quote(*c)) {
            let what = format!("{} has the typographic quote {quote}", quoted(value));
            self.report.error(spot, what, "write it without quotes");
        }
    }

    /// A host name or address.
    pub(super) fn host(&mut self, at: &At<String>) -> String {
        let sound =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'%' | b'[' | b']');
        let value = at.value.trim();
        let colons_are_of_an_address = !value.contains(':')
            || value
                .trim_matches(['[', ']'])
                .split('%')
                .next()
                .is_some_and(|a| a.parse::<std::net::Ipv6Addr>().is_ok());
        if value.is_empty() || value.len() > 255 || !value.bytes().all(sound) || !colons_are_of_an_address {
            let what = format!("{} is no host", quoted(&at.value));
            self.report.error(&at.spot, what, "write a host name or an IP address alone");
        }
        value.trim_matches(['[', ']']).to_owned()
    }

    /// A host name or address, or the default.
    pub(super) fn host_or(&mut self, key: &Key<String>, default: &str) -> String {
        key.given().map_or_else(|| default.to_owned(), |at| self.host(at))
    }

    /// A path that must begin at the root.
    pub(super) fn absolute_path(&mut self, key: &Key<String>, default: &str) -> PathBuf {
        let Some(at) = key.given() else { return PathBuf::from(default) };
        let path = self.path(at);
        if !at.value.is_empty() && path.is_relative() {
            self.report.error(&at.spot, format!("{} is relative", quoted(&at.value)), "write the whole path");
        }
        path
    }

    /// A path of this machine; a relative one is taken from wherever the server runs, so it gets a warning.
    pub(super) fn local_path(&mut self, at: &At<String>) -> PathBuf {
        let path = self.path(at);
        if !at.value.is_empty() && path.is_relative() {
            let what = format!("{} is relative to the folder that the server runs in", quoted(&at.value));
            self.report.warn(&at.spot, what, "write the whole path");
        }
        path
    }

    /// A local path, where one is given.
    pub(super) fn optional_path(&mut self, key: &Key<String>) -> Option<PathBuf> {
        key.given().map(|at| self.local_path(at))
    }

    /// A path that may begin with the user's home.
    pub(super) fn home_path(&mut self, key: &Key<String>) -> Option<PathBuf> {
        let at = key.given()?;
        Some(if at.value.starts_with("~/") { self.path(at) } else { self.local_path(at) })
    }

    fn path(&mut self, at: &At<String>) -> PathBuf {
        if at.value.trim().is_empty() {
            self.report.error(&at.spot, "an empty path", "write a path, or take the key out");
        } else if at.value.chars().any(char::is_control) {
            let what = format!("a control character in {}", quoted(&at.value));
            self.report.error(&at.spot, what, "take it out");
        }
        PathBuf::from(&at.value)
    }

    /// A field path.
    pub(super) fn field_path(&mut self, at: &At<String>) -> Option<FieldPath> {
        match at.value.parse::<FieldPath>() {
            Ok(path) => {
                self.known_segment(at);
                Some(path)
            }
            Err(fault) => {
                let shown = quoted(&at.value);
                let what =
                    if fault.what.contains(&shown) { fault.what } else { format!("{shown}: {}", fault.what) };
                self.report.error(&at.spot, what, fault.hint);
                None
            }
        }
    }

    /// A field path, where one is given.
    pub(super) fn optional_field_path(&mut self, key: &Key<String>) -> Option<FieldPath> {
        key.given().and_then(|at| self.field_path(at))
    }

    /// Segments that the standard does not have begin with Z; another one is most likely misspelt.
    fn known_segment(&mut self, at: &At<String>) {
        let segment = at.value.split('.').next().unwrap_or_default();
        if !segment.starts_with('Z') && !is_known_segment(segment) {
            let what = format!("HL7 has no segment {segment}");
            self.report.warn(&at.spot, what, "it is looked for all the same");
        }
    }

    /// A name of a table or column. Source of the rule: the reference, § Database.
    pub(super) fn identifier(&mut self, at: &At<String>, qualified: bool) -> String {
        let parts: Vec<&str> = at.value.split('.').collect();
        if parts.len() > if qualified { 2 } else { 1 } || !parts.iter().all(|part| is_identifier(part)) {
            let hint = match qualified {
                true => "letters, digits, _ and $, not first a digit, at most 63, one dot after a schema",
                false => "letters, digits, _ and $, not first a digit, at most 63",
            };
            self.report.error(&at.spot, format!("{} cannot name a table or column", quoted(&at.value)), hint);
        }
        at.value.clone()
    }

    /// Texts of a list that may not be empty.
    pub(super) fn texts(&mut self, key: &Key<List<String>>, hint: &str) -> Option<Vec<String>> {
        let list = key.given()?;
        if list.value.is_empty() {
            self.report.error(&list.spot, "an empty list", hint);
        }
        for at in &list.value {
            if at.value.trim().is_empty() {
                self.report.error(&at.spot, "an empty value", "take it out");
            }
        }
        Some(list.value.iter().map(|at| at.value.clone()).collect())
    }
}

/// Segments of the reference's table: some of them no standard has.
const SOLR_SEGMENTS: [&str; 18] = [
    "MSH", "PID", "OBX", "OBR", "ZDS", "TXA", "ORC", "PV1", "PV2", "EVN", "CTI", "NK1", "AL1", "DG1", "PR1",
    "ROL", "GT1", "IN1",
];

/// Whether the standard or the reference has that segment.
pub(super) fn is_known_segment(name: &str) -> bool {
    SOLR_SEGMENTS.contains(&name) || hl7::names::segment(name).is_some()
}

/// Whether the reference lists that segment for Solr.
pub(super) fn is_solr_segment(name: &str) -> bool {
    SOLR_SEGMENTS.contains(&name)
}

/// `[A-Za-z_][A-Za-z0-9_$]{0,62}`.
fn is_identifier(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$')
}
