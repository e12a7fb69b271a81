//! The manual is what the program does: every example in it loads, every message it quotes is what is said, every key
//! and every option stands in it, and every default is the one that holds.
//!
//! A fenced block says by its info string what it is: ```` ```yaml service ```` holds keys of the service, `channel` keys
//! of a channel, `file` a whole file. It loads without a warning; `warned` and `wrong` ones do not, and the block after
//! them holds what is said, line by line.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod facts;
mod reference;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(crate) fn manual() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

pub(crate) fn page(name: &str) -> String {
    let path = manual().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn pages() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(manual())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .collect();
    names.sort();
    names
}

/// A fenced block: what stands behind the fence, and its lines.
pub(crate) struct Block {
    pub(crate) line: usize,
    pub(crate) info: String,
    pub(crate) text: String,
}

pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (n, line) in page.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                open = true;
                blocks.push(Block { line: n + 1, info: info.to_owned(), text: String::new() });
            }
            None if open => {
                let block = blocks.last_mut().expect("opened above");
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => {}
        }
    }
    assert!(!open, "a block is not closed");
    blocks
}

#[test]
fn every_link_leads_to_a_page_and_a_heading_that_are_there() {
    let anchor = |heading: &str| -> String {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
    };
    let headings = |text: &str| -> BTreeSet<String> {
        let mut fenced = false;
        let lines = text.lines().filter(move |line| {
            fenced ^= line.starts_with("```");
            !fenced && line.starts_with('#')
        });
        lines.map(|line| anchor(line.trim_start_matches('#'))).collect()
    };
    let mut links = 0;
    for name in pages() {
        let text = page(&name);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { name.as_str() } else { file };
            assert!(manual().join(target).is_file(), "docs/{name}: no {link}");
            let there = heading.is_empty() || headings(&page(target)).contains(heading);
            assert!(there, "docs/{name}: no heading for {link}");
            links += 1;
        }
    }
    assert!(links > 50, "{links} links");
}

#[test]
fn every_page_is_in_the_index() {
    let index = page("index.md");
    for name in pages() {
        assert!(name == "index.md" || index.contains(&format!("({name})")), "docs/index.md has no {name}");
    }
}
