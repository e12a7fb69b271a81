//! Tables that list what the program has: workflows, departures from the protocol.

use crate::page;
use config::{Workflow, WorkflowTable};
use hl7::mllp::Deviation;
use std::collections::BTreeSet;

/// What stands between backquotes in a cell.
fn words(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows below a heading, cell by cell.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let below = page.split(heading).nth(1).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = below.split("\n## ").next().expect("split has a first");
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")).skip(1);
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn the_table_of_workflows_is_the_one_that_holds() {
    let rows = rows(&page("channels.md"), "\n## Workflows\n");
    let mut written = BTreeSet::new();
    for row in &rows {
        let Some(workflow) = Workflow::ALL.iter().find(|(name, _)| row[1] == format!("`{name}`")) else {
            continue;
        };
        written.extend(words(&row[0]).into_iter().map(|message_type| (message_type, workflow.0)));
    }
    let table = WorkflowTable::standard();
    let there: BTreeSet<(String, &str)> = table
        .by_type
        .iter()
        .map(|(message_type, workflow)| (message_type.clone(), workflow.name()))
        .collect();
    assert_eq!(written, there);
}

#[test]
fn every_departure_from_the_protocol_stands_in_the_table() {
    let rows = rows(&page("receiving.md"), "\n## What senders do\n");
    let written: BTreeSet<String> = rows.iter().flat_map(|row| words(&row[0])).collect();
    let there: BTreeSet<String> = Deviation::ALL.iter().map(|what| what.code().to_owned()).collect();
    assert_eq!(written, there);
}

/// Names of figures as the program's source has them: `hl7server_NAME`, or the NAME of a family over all channels.
fn figures_of_the_program() -> BTreeSet<String> {
    let source = include_str!("../../src/cli/dashboard/metrics.rs");
    let code = source.split("#[cfg(test)]").next().expect("split has a first");
    let mut names = BTreeSet::new();
    for call in ["out.counter(", "out.gauge(", "out.number(", "out.labelled(", "out.histogram("] {
        for rest in code.split(call).skip(1) {
            let name = rest.split('"').nth(1).expect("the name comes first");
            names.insert(format!("hl7server_{name}"));
        }
    }
    let whole = code
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|text| text.starts_with("hl7server_") && !text.contains('{'));
    names.extend(whole.map(str::to_owned));
    names
}

#[test]
fn every_figure_for_prometheus_stands_in_the_table() {
    let rows = rows(&page("monitoring.md"), "\n## Prometheus\n");
    let written: BTreeSet<String> = rows.iter().flat_map(|row| words(&row[0])).collect();
    assert_eq!(written, figures_of_the_program());
}

#[test]
fn every_state_of_a_channel_is_explained() {
    let pages = page("monitoring.md") + &page("when-a-channel-is-down.md");
    for state in
        ["unbound", "starting", "ready", "draining", "killed", "backoff", "disabled", "off", "removed"]
    {
        assert!(pages.contains(&format!("`{state}`")), "{state}");
    }
}
