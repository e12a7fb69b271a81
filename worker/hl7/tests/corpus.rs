//! Real messages of many senders against what three other parsers read in them.
//!
//! The corpus lies beside the workspace and is not part of it; without it the tests say so and pass.

#![allow(clippy::unwrap_used, reason = "a test")]

use hl7::charset::{self, Encoding};
use hl7::header::{Header, HeaderFault};
use hl7::message::Message;
use hl7::mllp::{self, Decoder, Event, Limits};
use hl7::path::FieldPath;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

fn corpus() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/hl7");
    if folder.join("oracle.json").is_file() {
        return Some(folder);
    }
    eprintln!("skipped: no corpus at {}", folder.display());
    None
}

fn oracle(folder: &Path) -> serde_json::Map<String, Value> {
    let oracle: Value = serde_json::from_slice(&fs::read(folder.join("oracle.json")).unwrap()).unwrap();
    oracle["files"].as_object().unwrap().clone()
}

/// A file's bytes; one was stored with its envelope.
fn read(folder: &Path, file: &str) -> Vec<u8> {
    mllp::unwrap(&fs::read(folder.join(file)).unwrap()).to_vec()
}

/// The messages of a file, each from its MSH, without batch segments; several only where it is a batch.
fn messages(body: &[u8]) -> Vec<Vec<u8>> {
    let start = hl7::segments::skip_junk(body);
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for segment in hl7::segments::split(start, start[3]) {
        match &segment[..3.min(segment.len())] {
            b"FHS" | b"BHS" | b"BTS" | b"FTS" => {}
            name => {
                if name == b"MSH" {
                    messages.push(Vec::new());
                }
                let message = messages.last_mut().unwrap();
                message.extend_from_slice(segment);
                message.push(b'\r');
            }
        }
    }
    messages
}

/// Does a value equal the oracle's: a text, null for absent or empty, or a long text by its hash?
fn agrees(expected: &Value, found: Option<&str>) -> bool {
    let found = found.unwrap_or_default();
    match expected {
        Value::Null => found.is_empty(),
        Value::String(text) => found == text,
        Value::Object(hashed) => {
            let hash: String =
                Sha256::digest(found.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            hashed["sha256_utf8"] == hash.as_str()
        }
        other => panic!("oracle value {other}"),
    }
}

#[test]
fn agreed_values_are_what_field_paths_read() {
    let Some(folder) = corpus() else { return };
    let (mut raw_values, mut texts, mut wrong) = (0, 0, Vec::new());
    for (file, entry) in oracle(&folder) {
        let body = read(&folder, &file);
        let latin = entry["decoded_as"].as_str().unwrap().starts_with("latin");
        let encoding = if latin { Encoding::Latin1 } else { Encoding::Utf8 };
        let expected = entry["messages"].as_array().unwrap();
        // One message is read as it came, a batch in parts.
        let bodies = if expected.len() == 1 && entry["batch_or_file_segments"].is_null() {
            vec![body.clone()]
        } else {
            messages(&body)
        };
        assert_eq!(bodies.len(), expected.len(), "{file}: messages");
        for (body, expected) in bodies.iter().zip(expected) {
            let decoded = charset::decode(body, encoding);
            assert_eq!(decoded.undecodable, 0, "{file}");
            let message = Message::parse(&decoded.text).unwrap();
            for (path, value) in expected["values"].as_object().unwrap() {
                let (raw, detail) = match value {
                    Value::Object(detail) => (&detail["raw"], Some(detail)),
                    bare => (bare, None),
                };
                if detail.is_some_and(|detail| detail["status"] == "disputed") {
                    continue;
                }
                let field_path: FieldPath = path.parse().unwrap();
                let found = message.raw(&field_path);
                raw_values += 1;
                if !agrees(raw, found) {
                    wrong.push(format!("{file} {path}: raw {found:?}, not {raw}"));
                }
                let Some(detail) = detail else { continue };
                if detail.contains_key("unescape_is_local_choice") {
                    continue;
                }
                let text = message.text(&field_path);
                for key in ["unescaped", "first_subcomponent"] {
                    if let Some(expected) = detail.get(key) {
                        texts += 1;
                        if !agrees(expected, text.as_deref()) {
                            wrong.push(format!("{file} {path}: text {text:?}, not {expected}"));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(raw_values > 10_000 && texts > 30, "the oracle was read: {raw_values} values, {texts} texts");
}

#[test]
fn headers_name_type_control_id_and_version() {
    let Some(folder) = corpus() else { return };
    for (file, entry) in oracle(&folder) {
        let expected = &entry["messages"][0];
        let body = messages(&read(&folder, &file)).swap_remove(0);
        let header = match Header::parse(&body) {
            Ok(header) => header,
            Err(fault) => {
                assert_eq!(fault, HeaderFault::Short, "{file}");
                assert!(expected["type"].is_null() && expected["control_id"].is_null(), "{file}");
                continue;
            }
        };
        for (found, key) in
            [(header.field(9), "type"), (header.control_id(), "control_id"), (header.field(12), "version")]
        {
            assert!(agrees(&expected[key], std::str::from_utf8(found).ok()), "{file}: {key}");
        }
    }
}

#[test]
fn walked_paths_read_back_their_values() {
    let Some(folder) = corpus() else { return };
    for file in oracle(&folder).keys() {
        let body = read(&folder, file);
        let decoded = charset::decode(&body, Encoding::Latin1);
        let Ok(message) = Message::parse(&decoded.text) else { continue };
        for (path, value) in message.walk().chain(message.walk_repetitions()) {
            assert_eq!(message.raw(&path), Some(value), "{file} {path}");
        }
    }
}

#[test]
fn every_file_comes_through_a_frame_as_it_is() {
    let Some(folder) = corpus() else { return };
    let limits = Limits { stream_limit_bytes: 10 << 20, message_timeout_ms: 0 };
    let mut decoder = Decoder::new(limits);
    for file in oracle(&folder).keys() {
        let body = read(&folder, file);
        let mut events = Vec::new();
        for chunk in mllp::wrap(&body).chunks(1000) {
            decoder.feed(chunk, 0, &mut events);
        }
        assert_eq!(events, [Event::Frame(body)], "{file}");
    }
}
