//! `commands.md`, and every command line of the other pages.

use crate::{blocks, page, pages};
use std::collections::BTreeSet;
use std::process::Command;

/// `--help` of a command, in words.
fn help(command: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_hl7server")).args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?} --help");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands below a command.
fn commands(of: &[&str]) -> Vec<String> {
    let help = help(of);
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    list.lines()
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// Options of a command and of those below it, without those that every command has.
fn options(command: &str) -> BTreeSet<String> {
    let below = commands(&[command]);
    let mut texts = vec![help(&[command])];
    texts.extend(below.iter().map(|below| help(&[command, below.as_str()])));
    texts.iter().flat_map(|text| options_in(text)).filter(|o| o != "--config" && o != "--help").collect()
}

/// What a help text lists as an option: the first word of its line.
fn options_in(help: &str) -> Vec<String> {
    let lines = help.lines().map(str::trim_start).map(|line| line.strip_prefix("-h, ").unwrap_or(line));
    let words = lines.filter(|line| line.starts_with("--")).filter_map(|line| line.split([' ', ',']).next());
    words.map(str::to_owned).collect()
}

/// Command → the options that `docs/commands.md` lists for it.
fn documented() -> Vec<(String, BTreeSet<String>)> {
    let text = page("commands.md");
    let sections = text.split("\n## ").skip(1).map(|section| {
        let (name, rest) = section.split_once('\n').expect("a heading ends its line");
        let rows = rest
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .filter_map(|row| row.split(" | ").next());
        let options = rows.flat_map(|cell| cell.split(", ")).map(|word| word.trim_matches('`').to_owned());
        (name.to_owned(), options.filter(|word| word.starts_with("--")).collect())
    });
    sections.collect()
}

#[test]
fn every_command_and_option_stands_in_the_manual_and_no_other() {
    let documented = documented();
    let known = commands(&[]);
    for command in &known {
        let Some((_, written)) = documented.iter().find(|(name, _)| name == command) else {
            panic!("docs/commands.md has no {command}");
        };
        let there = options(command);
        for option in &there {
            assert!(written.contains(option), "docs/commands.md says nothing of {command} {option}");
        }
        for option in written {
            assert!(there.contains(option), "docs/commands.md has {option} of {command}, which is not there");
        }
    }
    for (name, _) in documented {
        assert!(known.contains(&name), "docs/commands.md has {name}, which is not there");
    }
}

/// The words of each command line in a page: on a line of its own in a console, or between backquotes.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let in_console = blocks(text).into_iter().filter(|block| block.info == "console").map(|block| block.text);
    let in_console: Vec<String> =
        in_console.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let in_text = text.split('`').skip(1).step_by(2).map(str::to_owned);
    in_console
        .iter()
        .filter_map(|line| line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")))
        .map(str::to_owned)
        .chain(in_text)
        .filter_map(|line| line.strip_prefix("hl7server ").map(str::to_owned))
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

#[test]
fn every_command_line_in_the_manual_can_be_given() {
    let documented = documented();
    let mut lines = 0;
    for name in pages() {
        for words in command_lines(&page(&name)) {
            let Some((command, rest)) = words.split_first() else { continue };
            if command.chars().any(|c| !c.is_ascii_lowercase()) {
                continue;
            }
            let found = documented.iter().find(|(name, _)| name == command);
            let (_, options) = found.unwrap_or_else(|| panic!("docs/{name}: hl7server {}", words.join(" ")));
            for word in rest.iter().filter(|word| word.starts_with("--")) {
                let option = word.split('=').next().expect("split has a first");
                assert!(
                    options.contains(option) || option == "--help" || option == "--config",
                    "docs/{name}: hl7server {} has no {option}",
                    words.join(" ")
                );
            }
            let below = commands_below(command);
            if let Some(word) = rest.first().filter(|_| !below.is_empty()) {
                let word = word.split('|').next().expect("split has a first");
                assert!(
                    below.iter().any(|below| below == word),
                    "docs/{name}: hl7server {command} has no {word}"
                );
            }
            lines += 1;
        }
    }
    assert!(lines > 40, "{lines} command lines");
}

/// Of a command that is there.
fn commands_below(command: &str) -> Vec<String> {
    commands(&[command])
}
