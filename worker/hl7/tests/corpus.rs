//! Real messages of many senders against what three other parsers read in them.
//!
//! The corpus lies beside the workspace and is not part of it; without it the tests say so and pass.

#![allow(clippy::unwrap_used, reason = "a test")]

use hl7::ack::{self, Refusal};
use hl7::batch::{self, Batch};
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

/// The messages of a file, as they came.
fn messages(body: &[u8]) -> Vec<&[u8]> {
    match batch::split(body) {
        Batch::Single => vec![body],
        Batch::Headed { messages, .. } | Batch::Several(messages) => messages,
        Batch::TooMany { .. } => panic!("a file of too many messages"),
    }
}

/// The encoding the oracle read a file in.
fn encoding(entry: &Value) -> Encoding {
    let name = entry["decoded_as"].as_str().unwrap().split(' ').next().unwrap();
    Encoding::from_label(name).unwrap()
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
        let expected = entry["messages"].as_array().unwrap();
        for (body, expected) in messages(&body).into_iter().zip(expected) {
            let decoded = charset::decode(body, encoding(&entry));
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
fn batches_have_the_messages_the_oracle_counts() {
    let Some(folder) = corpus() else { return };
    let mut batches = 0;
    for (file, entry) in oracle(&folder) {
        let body = read(&folder, &file);
        let split = batch::split(&body);
        let found = messages(&body);
        assert_eq!(found.len() as u64, entry["n_messages"].as_u64().unwrap(), "{file}");
        assert_eq!(
            matches!(split, Batch::Headed { .. }),
            entry["batch_or_file_segments"] == true,
            "{file}: headers"
        );
        batches += usize::from(split != Batch::Single);
        for (message, expected) in found.iter().zip(entry["messages"].as_array().unwrap()) {
            let message = hl7::segments::skip_junk(message);
            let lines = hl7::segments::split(message, message[3]);
            let segments = lines.filter(|line| !line.trim_ascii().is_empty()).count();
            assert_eq!(segments as u64, expected["segments"].as_u64().unwrap(), "{file}: segments");
        }
        if let Batch::Headed { file_header, batch_header, messages } = split {
            let answers: Vec<Vec<u8>> = messages
                .iter()
                .map(|message| match Header::parse(message) {
                    Ok(header) => ack::accept(&header, "ID", "TIME"),
                    Err(_) => ack::refuse(None, &Refusal::NOT_HL7, "ID", "TIME"),
                })
                .collect();
            let answer = batch::answer(file_header, batch_header, &answers, "ID", "TIME");
            let Batch::Headed { messages: answered, .. } = batch::split(&answer) else { panic!("{file}") };
            for (answer, message) in answered.iter().zip(&messages) {
                let control_id = Header::parse(message).map(|header| header.control_id().to_vec());
                assert_eq!(ack::read(answer).unwrap().control_id, control_id.unwrap_or_default(), "{file}");
            }
            assert_eq!(answered.len(), messages.len(), "{file}");
        }
    }
    assert_eq!(batches, 14, "every batch or stream of the corpus");
}

#[test]
fn every_file_reads_the_same_in_every_encoding_that_can_write_it() {
    let Some(folder) = corpus() else { return };
    let labels = [
        "utf-8",
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-32",
        "utf-32-be",
        "latin-1",
        "cp1252",
        "iso-8859-15",
        "cp850",
        "cp437",
        "mac_roman",
        "shift_jis",
        "euc-jp",
        "gb18030",
        "big5",
        "euc-kr",
    ];
    let mut read_back = 0;
    for (file, entry) in oracle(&folder) {
        let body = read(&folder, &file);
        // A document's megabytes are all of base64.
        if body.len() > 100_000 {
            continue;
        }
        let text = charset::decode(&body, encoding(&entry)).text.into_owned();
        for label in labels {
            let encoding = Encoding::from_label(label).unwrap();
            // The Encoding Standard's Shift_JIS and EUC-JP write a yen sign as a backslash.
            let Some(written) = charset::encode(&text, encoding).filter(|_| !text.contains(['¥', '‾']))
            else {
                continue;
            };
            let decoded = charset::decode(&written, encoding);
            assert_eq!((decoded.text.as_ref(), decoded.undecodable), (text.as_str(), 0), "{file} in {label}");
            let parts = match batch::split_in(&written, encoding) {
                Batch::Single => vec![written.as_slice()],
                Batch::Headed { messages, .. } | Batch::Several(messages) => messages,
                Batch::TooMany { .. } => panic!("{file} in {label}"),
            };
            let expected = entry["messages"].as_array().unwrap();
            assert_eq!(parts.len(), expected.len(), "{file} in {label}");
            for (part, expected) in parts.iter().zip(expected) {
                // A file may end without a segment's end, which a wide body must not.
                let Ok(readable) = charset::transcode_start(part, encoding) else {
                    panic!("{file} in {label}")
                };
                let Ok(header) = readable.header() else { continue };
                let control_id = charset::decode(header.control_id(), Encoding::Utf8);
                if control_id.undecodable == 0 {
                    assert!(agrees(&expected["control_id"], Some(&control_id.text)), "{file} in {label}");
                }
                let answer = readable.answer(ack::accept(&header, "ID", "TIME"));
                assert!(charset::transcode_header(&answer, encoding).is_ok(), "{file} in {label}");
                read_back += 1;
            }
        }
    }
    assert!(read_back > 5000, "{read_back} messages");
}

#[test]
fn auto_reads_what_each_message_declares() {
    let Some(folder) = corpus() else { return };
    let mut agreed = 0;
    for (file, entry) in oracle(&folder) {
        let body = read(&folder, &file);
        let auto = charset::decode(&body, Encoding::Auto);
        let text = charset::decode(&body, encoding(&entry)).text;
        if body.is_ascii() {
            assert_eq!((&auto.text, auto.undecodable), (&text, 0), "{file}");
        }
        agreed += usize::from(auto.text == text);
    }
    // One is in Latin-1 and declares nothing.
    assert!(agreed >= 350, "{agreed} files");
}

#[test]
fn headers_name_type_control_id_and_version() {
    let Some(folder) = corpus() else { return };
    for (file, entry) in oracle(&folder) {
        let expected = &entry["messages"][0];
        let body = read(&folder, &file);
        let header = match Header::parse(messages(&body)[0]) {
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
