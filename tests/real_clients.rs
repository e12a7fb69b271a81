//! Clients that others wrote deliver to the server. tests/support/install fetches them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::load::assert_archived_once;
use support::messages::adt;
use support::mllp::{Acknowledgment, frame};
use support::{Ran, Server, Site, finish, process, skip, wait_files};

const COUNT: usize = 1000;
const LIMIT: Duration = Duration::from_secs(120);

/// Something tests/support/install puts into `.tools`. In CI its absence is a failure.
fn tool(path: &str) -> Option<PathBuf> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools").join(path);
    if tool.exists() {
        return Some(tool);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing: run tests/support/install", tool.display());
    skip(&format!("{} is missing: run tests/support/install", tool.display()));
    None
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clients").join(name)
}

/// Whether a client sends the CR after the last segment.
#[derive(Clone, Copy, PartialEq)]
enum LastCr {
    Sent,
    Stripped,
}

/// A running channel and the messages to deliver, by control id, as the client sends them.
fn prepared(last_cr: LastCr) -> (Site, Server, u16, BTreeMap<String, Vec<u8>>) {
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"channels": [site.store_channel("adt", port)]}));
    let server = site.start();
    let message = |n: usize| {
        let control_id = format!("M{n:04}");
        let mut body = adt(&control_id, &format!("P{}", n % 50));
        if last_cr == LastCr::Stripped {
            body.pop();
        }
        (control_id, body)
    };
    (site, server, port, (0..COUNT).map(message).collect())
}

#[track_caller]
fn run(command: Command) -> Ran {
    finish(command, LIMIT).good()
}

/// Fails unless every message got its own AA, in order.
#[track_caller]
fn assert_acknowledged(answers: &[Vec<u8>], messages: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(answers.len(), messages.len());
    for (answer, control_id) in answers.iter().zip(messages.keys()) {
        Acknowledgment::parse(answer).accepts(control_id.as_bytes());
    }
}

#[test]
fn mllp_send_of_pypi_hl7_delivers_1000_messages() {
    let Some(mllp_send) = tool("venv/bin/mllp_send") else { return };
    let (site, _server, port, messages) = prepared(LastCr::Stripped);
    let file = site.path("messages.mllp");
    fs::write(&file, messages.values().flat_map(|body| frame(body)).collect::<Vec<u8>>()).unwrap();
    let mut command = Command::new(mllp_send);
    command.args(["--port", &port.to_string(), "--file"]).arg(&file).arg("127.0.0.1");
    let ran = run(command);
    // It prints each answer in its envelope, and a line feed.
    let answers: Vec<Vec<u8>> = ran
        .stdout
        .split_terminator("\u{1c}\r\n")
        .map(|answer| {
            answer.strip_prefix('\u{b}').unwrap_or_else(|| panic!("{answer:?}")).as_bytes().to_vec()
        })
        .collect();
    assert_acknowledged(&answers, &messages);
    assert_archived_once(&messages, &site.path("archive/adt"));
}

#[test]
fn the_client_class_of_pypi_hl7_delivers_1000_messages() {
    let Some(python) = tool("venv/bin/python") else { return };
    let mut command = Command::new(python);
    command.arg(script("pypi_hl7.py"));
    delivered_by(command, LastCr::Sent);
}

#[test]
fn npm_node_hl7_client_delivers_1000_messages() {
    let Some(modules) = tool("node/node_modules/node-hl7-client") else { return };
    let mut command = Command::new("node");
    command.arg(script("node_hl7_client.js")).env("NODE_PATH", modules.parent().unwrap());
    delivered_by(command, LastCr::Stripped);
}

#[test]
fn npm_simple_hl7_delivers_over_one_connection_and_through_restarts() {
    let Some(command) = node("simple-hl7", "simple_hl7.js") else { return };
    delivered_through_restarts(command, &[], 300);
}

#[test]
fn npm_simple_hl7_delivers_over_a_connection_for_each_message() {
    let Some(command) = node("simple-hl7", "simple_hl7.js") else { return };
    delivered_through_restarts(command, &["each"], 300);
}

#[test]
fn npm_medplum_hl7_delivers_one_at_a_time_and_through_restarts() {
    let Some(command) = node("@medplum/hl7", "medplum_hl7.js") else { return };
    delivered_through_restarts(command, &["1"], COUNT);
}

#[test]
fn npm_medplum_hl7_delivers_pipelined_and_through_restarts() {
    let Some(command) = node("@medplum/hl7", "medplum_hl7.js") else { return };
    delivered_through_restarts(command, &["8"], 300);
}

/// A script of ours that uses a package from npm.
fn node(package: &str, name: &str) -> Option<Command> {
    tool(&format!("node/node_modules/{package}"))?;
    let mut command = Command::new("node");
    command.arg(script(name)).env("NODE_PATH", tool("node/node_modules")?);
    Some(command)
}

/// Runs a script that takes a port, a file of messages and its own arguments, prints what it sent with each answer, and
/// sends again what was not answered. Meanwhile the worker is killed, and the server stopped and started.
#[track_caller]
fn delivered_through_restarts(mut command: Command, arguments: &[&str], count: usize) {
    let (site, mut server, port, messages) = prepared(LastCr::Sent);
    let file = site.path("messages.json");
    let lines: Vec<String> =
        messages.values().take(count).map(|body| json!(String::from_utf8_lossy(body)).to_string()).collect();
    fs::write(&file, lines.join("\n")).unwrap();
    command.arg(port.to_string()).arg(&file).args(arguments);
    let client = std::thread::spawn(move || finish(command, LIMIT));
    let archive = site.path("archive/adt");
    // The client is in the middle of its work each time.
    let reach = |share: usize| {
        let found = wait_files(&archive, ".hl7", count * share / 5).len();
        assert!(
            found < count && !client.is_finished(),
            "the client is too fast: {found} of {count} delivered"
        );
    };
    reach(1);
    process::kill(server.worker(port));
    reach(2);
    server.stop();
    server.start_again(&site);
    reach(3);
    process::kill(server.worker(port));
    let ran = client.join().unwrap().good();
    let mut sent = BTreeMap::new();
    for line in ran.stdout.lines() {
        let pair: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        let text = |key: &str| pair[key].as_str().unwrap().to_owned();
        let answer = Acknowledgment::parse(format!("{}\r", text("answer").trim_end()).as_bytes());
        let control_id = String::from_utf8(answer.control_id()).unwrap();
        answer.accepts(control_id.as_bytes());
        assert!(text("sent").contains(&format!("|{control_id}|")), "the answer to another message: {line}");
        assert!(sent.insert(control_id, text("sent").into_bytes()).is_none(), "answered twice: {line}");
    }
    assert!(sent.keys().eq(messages.keys().take(count)), "{} of {count} messages were answered", sent.len());
    assert_archived_once(&sent, &site.path("archive/adt"));
}

/// Runs a script that takes a port and a file of messages, JSON strings one a line, and prints each answer likewise.
#[track_caller]
fn delivered_by(mut command: Command, last_cr: LastCr) {
    let (site, _server, port, messages) = prepared(last_cr);
    let file = site.path("messages.json");
    let lines: Vec<String> =
        messages.values().map(|body| json!(String::from_utf8_lossy(body)).to_string()).collect();
    fs::write(&file, lines.join("\n")).unwrap();
    command.arg(port.to_string()).arg(&file);
    let ran = run(command);
    let answers: Vec<Vec<u8>> = ran
        .stdout
        .lines()
        .map(|line| match serde_json::from_str(line) {
            Ok(Value::String(answer)) => format!("{}\r", answer.trim_end()).into_bytes(),
            other => panic!("{line:?}: {other:?}"),
        })
        .collect();
    assert_acknowledged(&answers, &messages);
    assert_archived_once(&messages, &site.path("archive/adt"));
}
