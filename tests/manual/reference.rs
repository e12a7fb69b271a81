//! `configuration.md`: keys, defaults, examples, and the examples of the other pages.

use crate::{blocks, page, pages};
use config::{Config, Mode, Severity};
use std::collections::BTreeSet;

const RAW: &str = include_str!("../../config/src/raw.rs");

/// Heading of `docs/configuration.md` → the section of `config/src/raw.rs` whose keys stand in its table, and what a key
/// stands in where its default is tried.
const SECTIONS: [(&str, &str, Wrap); 18] = [
    ("The service", "Service", Wrap::Service),
    ("`solr_servers`", "Solr", Wrap::In("service", "solr_servers:\n- ", &["active: true"])),
    ("`dfapi`", "Dfapi", Wrap::In("service", "dfapi: ", &["name: localhost"])),
    ("`alerts`", "Alert", Wrap::Nowhere),
    ("A channel", "Channel", Wrap::Channel),
    ("`tls`", "Tls", Wrap::Nowhere),
    ("`retry`", "Retry", Wrap::In("channel", "retry: ", &[])),
    ("`retention_days`", "Retention", Wrap::Nowhere),
    (
        "`custom_regex`",
        "CustomRegex",
        Wrap::In("channel", "mapping: {a: PID.1.3}\ncustom_regex:\n  a: ", &["pattern: x"]),
    ),
    ("`local_archive`", "LocalArchive", Wrap::In("channel", "local_archive: ", &["path: /a"])),
    (
        "`drop_folders`",
        "DropFolder",
        Wrap::In("channel", "drop_folders:\n- ", &["remote: true", "path: /a", "server: s", "user: u"]),
    ),
    (
        "`db_insert`",
        "DbInsert",
        Wrap::In(
            "channel",
            "db_metadata: {}\ndb_insert: ",
            &["driver: MariaDB", "username: u", "database: d", "table: t"],
        ),
    ),
    (
        "`db_metadata`",
        "DbColumn",
        Wrap::In(
            "channel",
            "mapping: {a: PID.1.3}\ndb_insert: {driver: SQLite, database: /d, table: t}\ndb_metadata:\n  a: ",
            &["field_name: A", "field_type: Text"],
        ),
    ),
    ("`db_mapping`", "Lookup", Wrap::Nowhere),
    ("`mobile`", "Mobile", Wrap::Nowhere),
    ("`resend`", "Resend", Wrap::In("channel", "resend: ", &["server: s", "port: 1"])),
    ("`filter`", "ResendFilter", Wrap::Nowhere),
    ("`tls` of resend", "ClientTls", Wrap::Nowhere),
];

#[derive(Clone, Copy)]
enum Wrap {
    Service,
    Channel,
    /// Of service or channel; what comes before the section's braces; keys that it needs.
    In(&'static str, &'static str, &'static [&'static str]),
    Nowhere,
}

/// The whole file that a block is part of.
fn whole(kind: &str, keys: &str) -> String {
    let has = |key: &str| keys.lines().any(|line| line.starts_with(&format!("{key}:")));
    match kind {
        "file" => keys.to_owned(),
        "service" if has("channels") => keys.to_owned(),
        "service" => format!("{keys}channels:\n- {{name: a, port: 20001}}\n"),
        "channel" => {
            let mut text = "channels:\n- x-none: 0\n".to_owned();
            for line in keys.lines() {
                text.push_str(&format!("  {line}\n"));
            }
            for (key, value) in [("name", "a"), ("port", "20001")] {
                if !has(key) {
                    text.push_str(&format!("  {key}: {value}\n"));
                }
            }
            text
        }
        _ => panic!("{kind:?} is no kind of block"),
    }
}

/// What is said of a file, place and all, and what it is where it loads.
fn load(text: &str) -> (Option<Config>, Vec<(Severity, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hl7server.yaml");
    std::fs::write(&path, text).unwrap();
    let known = |name: &str| !name.starts_with("NO_SUCH");
    let (config, problems) = match config::load(&path, &known, Mode::Check) {
        Ok(loaded) => (Some(loaded.config), loaded.warnings),
        Err(problems) => (None, problems.0),
    };
    let said = problems.iter().map(|problem| {
        let line = problem.to_string().replace(&format!("{}/", folder.path().display()), "");
        (problem.severity, line)
    });
    (config, said.collect())
}

/// A line as the manual has it: of a whole file with its place, of a part without, and without the channel.
fn as_quoted(kind: &str, line: &str) -> String {
    let line = line.strip_prefix("hl7server.yaml:").unwrap_or(line);
    if kind == "file" {
        return line.to_owned();
    }
    let (_place, rest) = line.split_once(": ").unwrap_or(("", line));
    rest.strip_prefix("channels[1].").unwrap_or(rest).to_owned()
}

#[test]
fn every_example_loads_and_every_message_is_what_is_said() {
    let (mut examples, mut messages) = (0, 0);
    let mut wrong = String::new();
    for name in pages() {
        let text = page(&name);
        let blocks = blocks(&text);
        for (n, block) in blocks.iter().enumerate() {
            let words: Vec<&str> = block.info.split_whitespace().collect();
            let (kind, expected) = match words.as_slice() {
                ["yaml", kind] => (*kind, ""),
                ["yaml", kind, expected @ ("wrong" | "warned")] => (*kind, *expected),
                _ => continue,
            };
            let (config, said) = load(&whole(kind, &block.text));
            let place = format!("docs/{name}:{}", block.line);
            let only = match expected {
                "wrong" => vec![Severity::Error],
                "warned" => vec![Severity::Warning, Severity::Note],
                _ => vec![Severity::Error, Severity::Warning],
            };
            let said: Vec<String> = said
                .iter()
                .filter(|(severity, _)| only.contains(severity))
                .map(|(severity, line)| match severity {
                    Severity::Error => as_quoted(kind, line),
                    Severity::Warning => format!("warning: {}", as_quoted(kind, line)),
                    Severity::Note => format!("note: {}", as_quoted(kind, line)),
                })
                .collect();
            let quoted: Vec<&str> = match expected {
                "" => Vec::new(),
                _ => blocks[n + 1].text.lines().collect(),
            };
            if said != quoted || config.is_none() != (expected == "wrong") {
                wrong.push_str(&format!("\n{place} says\n{}\n", said.join("\n")));
            }
            examples += 1;
            messages += quoted.len();
        }
    }
    assert_eq!(wrong, "");
    assert!(examples > 60 && messages > 100, "{examples} examples, {messages} messages");
}

/// Name of a section → its keys, as `config/src/raw.rs` declares them.
fn sections() -> Vec<(String, BTreeSet<String>)> {
    let mut sections = Vec::new();
    for part in RAW.split("section! {").skip(1) {
        let body = part.split_once("\n}\n").expect("a section ends at the margin").0;
        let mut lines =
            body.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("///"));
        let name = lines.next().and_then(|line| line.split_once(',')).expect("NAME, \"…\" {").0.to_owned();
        let keys = lines.filter(|line| line.contains(": ")).map(|line| {
            let left = line.split_once(": ").expect("filtered").0;
            match left.split_once(" = \"") {
                Some((_, key)) => key.trim_end_matches('"').to_owned(),
                None => left.split(" | ").next().unwrap_or(left).to_owned(),
            }
        });
        sections.push((name, keys.collect()));
    }
    sections
}

/// The section that a heading of the reference begins; `None`: one without keys.
fn section_of(heading: &str) -> Option<&'static str> {
    let heading = heading.trim_start_matches('#').trim();
    let found = SECTIONS
        .iter()
        .find(|(name, ..)| *name == heading || (*name == "A channel" && heading.starts_with("A channel")));
    found.map(|(_, section, _)| *section)
}

/// A row of a table of keys.
struct Row {
    section: &'static str,
    key: String,
    default: String,
}

fn rows() -> Vec<Row> {
    let text = page("configuration.md");
    let mut section = "";
    let mut in_keys = false;
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            section = section_of(heading).unwrap_or_default();
        }
        in_keys = line.starts_with("| key | type | default |") || (in_keys && line.starts_with('|'));
        let cells: Vec<&str> = line.split(" | ").collect();
        if !in_keys || !line.starts_with("| `") || cells.len() < 4 {
            continue;
        }
        assert_ne!(section, "", "a table of keys below an unknown heading: {line}");
        let keys = cells[0].split("(or").next().expect("split has a first");
        for key in keys.trim_start_matches("| ").split(", ") {
            let key = key.trim().trim_matches('`').to_owned();
            rows.push(Row { section, key, default: cells[2].to_owned() });
        }
    }
    rows
}

#[test]
fn every_key_stands_in_the_reference_and_no_other() {
    let rows = rows();
    for (section, keys) in sections() {
        let written: BTreeSet<String> =
            rows.iter().filter(|row| row.section == section).map(|row| row.key.clone()).collect();
        assert_eq!(written, keys, "the keys of {section}");
    }
}

#[test]
fn every_key_stands_in_an_example_below_its_table() {
    let text = page("configuration.md");
    let mut set: BTreeSet<(&str, String)> = BTreeSet::new();
    for block in blocks(&text).iter().filter(|b| b.info.starts_with("yaml ") && !b.info.ends_with("wrong")) {
        let heading = text.lines().take(block.line).filter(|line| line.starts_with("##")).last();
        let Some(section) = heading.and_then(section_of) else { continue };
        let words = block.text.split([' ', '{', '\n', ',']);
        set.extend(words.filter_map(|word| word.strip_suffix(':')).map(|key| (section, key.to_owned())));
    }
    for (section, keys) in sections() {
        for key in keys {
            // A section of its own has its example there.
            let has_section = section_of(&format!("`{key}`")).is_some() || key == "channels";
            let shown = set.contains(&(section.as_str(), key.clone()));
            assert!(shown || has_section, "{key} of {section} stands in no example below its table");
        }
    }
}

#[test]
fn every_default_is_the_one_that_holds() {
    let mut tried = 0;
    for row in rows() {
        let Some(value) = row.default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) else {
            let known = ["none", "required"].iter().any(|word| row.default.starts_with(word));
            assert!(known, "{} of {}: {}", row.key, row.section, row.default);
            continue;
        };
        let wrap =
            SECTIONS.iter().find(|(_, section, _)| *section == row.section).expect("from the same table").2;
        let (without, with) = match wrap {
            Wrap::Service => (whole("service", ""), whole("service", &format!("{}: {value}\n", row.key))),
            Wrap::Channel => (whole("channel", ""), whole("channel", &format!("{}: {value}\n", row.key))),
            Wrap::In(kind, before, needs) => {
                let rest: Vec<&str> = needs
                    .iter()
                    .copied()
                    .filter(|need| !need.starts_with(&format!("{}:", row.key)))
                    .collect();
                let rest = rest.join(", ");
                let comma = if rest.is_empty() { "" } else { ", " };
                (
                    whole(kind, &format!("{before}{{{rest}}}\n")),
                    whole(kind, &format!("{before}{{{rest}{comma}{}: {value}}}\n", row.key)),
                )
            }
            Wrap::Nowhere => panic!("{} of {}: nowhere to try a default", row.key, row.section),
        };
        let (without, with) = ((without.clone(), load(&without)), (with.clone(), load(&with)));
        assert!(without.1.0.is_some(), "{}: {:?}", without.0, without.1.1);
        assert_eq!(with.1.0, without.1.0, "{} of {}: {:?} in:\n{}", row.key, row.section, with.1.1, with.0);
        tried += 1;
    }
    assert!(tried > 50, "{tried} defaults");
}
