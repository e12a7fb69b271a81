//! The master as a process, with real signals and sockets. This program is the master, too, and its workers: small ones
//! that do as the channel's name says (see `worker`).

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod cases;
mod fixture;
mod worker;

use std::process::ExitCode;

type Case = (&'static str, fn());

fn main() -> ExitCode {
    let mut args = std::env::args();
    let title = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    if title.starts_with(master::TITLE_PREFIX) {
        return ExitCode::from(worker::run());
    }
    if let [role, config] = &args[..]
        && role == "master"
    {
        fixture::log_to_stderr();
        return ExitCode::from(master::run(master::Options {
            config_path: config.into(),
            journald: false,
            follow_log: |_, _| {},
            check_tls: |_, _| Ok(None),
            worker_log: None,
        }));
    }
    run_cases(&args)
}

/// What cargo test and cargo-nextest ask of a test program: `--list`, `--ignored`, `--exact NAME`, or a part of a name.
fn run_cases(args: &[String]) -> ExitCode {
    let flag = |name: &str| args.iter().any(|arg| arg == name);
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-') && *arg != "terse").collect();
    let chosen = |name: &str| {
        !flag("--ignored")
            && (filters.is_empty()
                || filters
                    .iter()
                    .any(|f| if flag("--exact") { name == *f } else { name.contains(f.as_str()) }))
    };
    let cases: Vec<&Case> = cases::ALL.iter().filter(|(name, _)| chosen(name)).collect();
    if flag("--list") {
        cases.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", cases.len());
    let mut failed = 0;
    for (name, case) in &cases {
        let passed = std::panic::catch_unwind(case).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let passed = cases.len() - failed;
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
