//! `<<` merge keys, as PyYAML flattens them.
//!
//! Merged keys come first, in the order of the merged tables, and a table's own key overrides the merged value without
//! changing its position; of several tables in a list the earlier wins. The order matters: metadata are stamped and
//! logged in the order of `mapping`.

use super::{Entry, Kind, Node};
use crate::problem::{Report, Spot};
use std::collections::HashMap;

/// Flattens every `<<` below a node. It moves nodes and copies none: an alias was already counted where it stands.
pub(crate) fn merge_keys(node: &mut Node, spot: &Spot, report: &mut Report) {
    match &mut node.kind {
        Kind::List(items) => {
            for (n, item) in items.iter_mut().enumerate() {
                let spot = spot.item(n, item.place);
                merge_keys(item, &spot, report);
            }
        }
        Kind::Table(entries) => {
            for entry in entries.iter_mut() {
                let spot = spot.key(&entry.key, entry.place);
                merge_keys(&mut entry.value, &spot, report);
            }
            if entries.iter().any(is_merge) {
                let flat = flatten(std::mem::take(entries), spot, report);
                *entries = flat;
            }
        }
        Kind::Null | Kind::Scalar(_) | Kind::Include(_) => {}
    }
}

fn is_merge(entry: &Entry) -> bool {
    entry.plain && entry.key == "<<"
}

fn flatten(entries: Vec<Entry>, spot: &Spot, report: &mut Report) -> Vec<Entry> {
    let (merges, own): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(is_merge);
    let mut sources: Vec<Entry> = Vec::new();
    for merge in merges {
        let spot = spot.key("<<", merge.value.place);
        match merge.value.kind {
            Kind::Table(entries) => sources.extend(entries),
            Kind::List(items) => {
                // PyYAML lays the last of the list down first, so that the first overrides.
                for item in items.into_iter().rev() {
                    match item.kind {
                        Kind::Table(entries) => sources.extend(entries),
                        _ => report.error(&spot, format!("{} in a merge list", item.describe()), WANTED),
                    }
                }
            }
            Kind::Null => {}
            other => {
                let node = Node { place: spot.place, kind: other };
                report.error(&spot, format!("cannot merge {}", node.describe()), WANTED);
            }
        }
    }
    let mut flat: Vec<Entry> = Vec::with_capacity(sources.len() + own.len());
    let mut position: HashMap<String, usize> = HashMap::new();
    for entry in sources.into_iter().chain(own) {
        match position.get(&entry.key) {
            Some(&at) => flat[at] = entry,
            None => {
                position.insert(entry.key.clone(), flat.len());
                flat.push(entry);
            }
        }
    }
    flat
}

const WANTED: &str = "<< takes a table of keys, or a list of them: <<: *anchor";
