//! Torture: the promise (nothing acknowledged is lost, doubled, altered or out of order, and no half file stands under a
//! final name) kept while things are broken on purpose. Short forms run with the other tests; `TORTURE=long` (`make
//! torture`) runs the campaigns whose figures stand in README.md beside this file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each campaign uses its part of what they share")]

#[path = "../all_steps/accounts.rs"]
mod accounts;
mod below;
mod cuts;
mod deaths;
#[path = "../all_steps/hospital.rs"]
mod hospital;
mod ledger;
mod long;
mod retries;
mod senders;
mod sides;
#[path = "../support/mod.rs"]
mod support;
mod verdict;
mod ward;

use std::process::Command;
use std::time::Duration;
use support::finish;

/// The count of a campaign in its short and its long form, or what `TORTURE_NAME` says.
fn count(name: &str, short: usize, long: usize) -> usize {
    let said = std::env::var(format!("TORTURE_{name}")).ok().and_then(|text| text.parse().ok());
    said.unwrap_or(if is_long() { long } else { short })
}

/// Whether the long form was asked for.
fn is_long() -> bool {
    std::env::var_os("TORTURE").is_some_and(|form| form == "long")
}

#[test]
fn the_checker_finds_every_discrepancy_that_is_planted() {
    let mut command = Command::new(verdict::program());
    command.arg("--self-test");
    let ran = finish(command, Duration::from_secs(60));
    let said = ran.json();
    assert!(ran.code == Some(0) && said["missed"] == 0, "{ran:#?}");
    assert!(said["planted"].as_u64() > Some(30), "{said}");
}
