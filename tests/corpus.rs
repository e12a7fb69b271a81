//! Every message of the corpus beside the repository: answered as the contract says, archived byte for byte, and read
//! as at least two other parsers read it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::mllp::{Acknowledgment, Peer, Reply, frame};
use support::{Site, wait_files};

/// A message must be answered within that time.
const ANSWER: Duration = Duration::from_secs(1);

/// One file of the corpus that holds one message.
struct Sample {
    name: String,
    path: PathBuf,
    body: Vec<u8>,
    /// What the oracle says of it.
    oracle: Value,
    is_latin1: bool,
}

/// What the contract says must become of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// AA, or CA where MSH-15 asks for it.
    Accepted,
    /// AE or AR.
    Refused,
    /// An inbound acknowledgment.
    Unanswered,
    /// MSH-2 is empty: readers do not agree whether that is a header.
    Open,
}

impl Sample {
    fn text(&self, key: &str) -> &str {
        self.oracle[key].as_str().unwrap_or_default()
    }

    fn fate(&self) -> Fate {
        let message_type = self.text("type").split(['^', '~']).next().unwrap_or_default();
        if self.oracle["delimiters"].as_str().is_some_and(|d| d.len() < 2) {
            Fate::Open
        } else if self.text("control_id").is_empty() || message_type.is_empty() {
            Fate::Refused
        } else if ["ACK", "MCF"].contains(&message_type) {
            Fate::Unanswered
        } else {
            Fate::Accepted
        }
    }

    /// The control id as the bytes of the message hold it.
    fn control_id(&self) -> Vec<u8> {
        let text = self.text("control_id");
        if self.is_latin1 { text.chars().map(|c| c as u8).collect() } else { text.as_bytes().to_vec() }
    }
}

/// The samples; batches and streams of several messages are left out, batches.rs has them.
fn samples() -> Option<Vec<Sample>> {
    let folder = support::corpus()?;
    let oracle: Value = serde_json::from_slice(&fs::read(folder.join("oracle.json")).unwrap()).unwrap();
    let files = oracle["files"].as_object().unwrap();
    let (mut found, mut left_out) = (Vec::new(), 0);
    for (name, entry) in files {
        let path = folder.join(name);
        let bytes = fs::read(&path).unwrap();
        let is_batch = entry["n_messages"] != 1 || bytes.starts_with(b"FHS") || bytes.starts_with(b"BHS");
        if is_batch {
            left_out += 1;
            continue;
        }
        // One file is a captured frame.
        let body = bytes
            .strip_prefix(b"\x0b")
            .and_then(|rest| rest.strip_suffix(b"\x1c\r"))
            .unwrap_or(&bytes)
            .to_vec();
        let is_latin1 = entry["decoded_as"].as_str().unwrap().starts_with("latin-1");
        found.push(Sample {
            name: name.clone(),
            path,
            body,
            oracle: entry["messages"][0].clone(),
            is_latin1,
        });
    }
    eprintln!("{} messages; {left_out} batches and streams left out", found.len());
    assert!(found.len() > 300, "the corpus has shrunk");
    Some(found)
}

#[test]
fn every_message_is_answered_within_a_second_and_archived_byte_for_byte() {
    let Some(samples) = samples() else { return };
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"channels": [site.store_channel("all", port)]}));
    let _server = site.start();
    let mut peer = Peer::connect(port);
    let mut accepted: BTreeMap<&[u8], &str> = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    for sample in &samples {
        let sent = Instant::now();
        peer.send(&sample.body);
        if sample.fate() == Fate::Unanswered {
            // That it got no answer shows in the next one, which is for another message.
            continue;
        }
        let answer = match peer.receive(ANSWER) {
            Reply::Frame(body) => Acknowledgment::parse(&body),
            other => panic!("{}: {other:?} after {:?}", sample.name, sent.elapsed()),
        };
        slowest = slowest.max(sent.elapsed());
        let code = answer.code();
        match sample.fate() {
            Fate::Accepted => {
                let by_mode = !mode(&sample.body).is_empty() && code == "CA";
                assert!(code == "AA" || by_mode, "{}: {answer:?}", sample.name);
                assert_eq!(answer.control_id(), sample.control_id(), "{}", sample.name);
            }
            Fate::Refused => assert!(["AE", "AR"].contains(&code.as_str()), "{}: {answer:?}", sample.name),
            Fate::Open => assert!(["AA", "AR"].contains(&code.as_str()), "{}: {answer:?}", sample.name),
            Fate::Unanswered => unreachable!("left above"),
        }
        if code.ends_with('A') {
            accepted.insert(&sample.body, &sample.name);
        }
    }
    assert_eq!(peer.receive(ANSWER), Reply::Silence, "an inbound acknowledgment was answered");
    eprintln!("slowest answer {slowest:?}");

    let archived = wait_files(&site.path("archive/all"), ".hl7", accepted.len());
    for (path, body) in &archived {
        assert!(
            accepted.remove(body.as_slice()).is_some(),
            "{} is not what was sent, or twice",
            path.display()
        );
    }
    assert!(accepted.is_empty(), "not archived: {:?}", accepted.values().collect::<Vec<_>>());
    assert_eq!(site.list(&["failed", "list"]), Vec::<Value>::new());
}

/// MSH-15, the acknowledgment mode.
fn mode(body: &[u8]) -> &[u8] {
    let start = body.windows(3).position(|window| window == b"MSH").unwrap();
    let header = body[start..].split(|byte| b"\r\n".contains(byte)).next().unwrap();
    header.split(|&byte| byte == header[3]).nth(14).unwrap_or_default()
}

#[test]
fn show_gives_every_value_that_other_parsers_agree_on() {
    let Some(samples) = samples() else { return };
    let site = Site::new();
    let mut checked = 0;
    for sample in samples.iter().filter(|sample| sample.fate() != Fate::Open) {
        let values = sample.oracle["values"].as_object().unwrap();
        let shown = shown(&site, &sample.path, sample.is_latin1, values.keys());
        for (path, value) in values {
            let Some(raw) = agreed(value) else { continue };
            let found = shown.get(path).map(String::as_str).unwrap_or_default();
            assert!(is(found, raw), "{} {path}: {found:?}, agreed is {raw}", sample.name);
            checked += 1;
        }
    }
    eprintln!("{checked} values");
    assert!(checked > 9000, "only {checked} values");
}

/// Path → value as `show` prints it.
fn shown<'a>(
    site: &Site,
    file: &Path,
    is_latin1: bool,
    paths: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, String> {
    let mut arguments = vec!["show", file.to_str().unwrap(), "--json", "--raw"];
    arguments.extend(["--encoding", if is_latin1 { "latin-1" } else { "utf-8" }]);
    for path in paths {
        arguments.extend(["--field", path]);
    }
    let ran = site.run(&arguments).good();
    let fields = ran.json()["fields"].as_array().unwrap().clone();
    let text = |field: &Value, key: &str| field[key].as_str().unwrap_or_default().to_owned();
    fields.iter().map(|field| (text(field, "path"), text(field, "value"))).collect()
}

/// The raw value that at least two parsers agree on; null is absent.
fn agreed(value: &Value) -> Option<&Value> {
    match value {
        Value::Object(entry) if entry["status"] == "agreed" => Some(&entry["raw"]),
        Value::Object(_) => None,
        bare => Some(bare),
    }
}

/// Whether the text is what the oracle has; of long values it keeps the length and both ends.
fn is(text: &str, raw: &Value) -> bool {
    match raw {
        Value::Null => text.is_empty(),
        Value::String(raw) => text == raw,
        long => {
            let part = |key: &str| long[key].as_str().unwrap();
            text.chars().count() as u64 == long["chars"].as_u64().unwrap()
                && text.starts_with(part("head"))
                && text.ends_with(part("tail"))
        }
    }
}

#[test]
fn a_mapping_gives_the_text_of_every_agreed_value() {
    let Some(mut samples) = samples() else { return };
    samples.retain(|sample| sample.fate() == Fate::Accepted);
    let mut site = Site::new();
    let ports = [site.port(), site.port()];
    let paths: Vec<String> = samples[0].oracle["values"].as_object().unwrap().keys().cloned().collect();
    let names: BTreeMap<String, &String> =
        paths.iter().map(|path| (path.replace('.', "_").to_lowercase(), path)).collect();
    let channel = |name: &str, port: u16, encoding: &str| {
        let mut channel = site.store_channel(name, port);
        channel["encoding"] = json!(encoding);
        channel["mapping"] = json!(names);
        channel["mapping_ignore"] = json!(names.keys().collect::<Vec<_>>());
        channel["debug_metadata"] = json!(true);
        channel
    };
    site.configure(
        json!({"channels": [channel("utf8", ports[0], "UTF-8"), channel("latin1", ports[1], "latin-1")]}),
    );
    let server = site.start();
    let mut peers = ports.map(Peer::connect);
    let mut sent = Vec::new();
    for sample in &samples {
        let peer = &mut peers[usize::from(sample.is_latin1)];
        peer.send_raw(&frame(&sample.body)).unwrap();
        sent.push((sample, peer.acknowledgment().message_id()));
    }
    let latin1 = samples.iter().filter(|sample| sample.is_latin1).count();
    server.wait_count("utf8", "delivered", (samples.len() - latin1) as u64);
    server.wait_count("latin1", "delivered", latin1 as u64);

    // Logged before a message counts as delivered.
    let metadata = site.logged_metadata();
    let mut checked = 0;
    for (sample, id) in &sent {
        for (name, path) in &names {
            let value = &sample.oracle["values"][path.as_str()];
            let Some(expected) = mapped(value, path, sample.text("delimiters")) else { continue };
            let found =
                metadata[id].get(name).unwrap_or_else(|| panic!("{} {path} is not logged", sample.name));
            let is_right = match &expected {
                Some(text) => *found == format!("{text:?}"),
                None => found == "\"(nothing)\"",
            };
            assert!(is_right, "{} {path}: {found}, agreed is {expected:?}", sample.name);
            checked += 1;
        }
    }
    eprintln!("{checked} values");
    assert!(checked > 9000, "only {checked} values");
}

/// What a mapping must give for a value of the oracle: its text, or nothing. `None`: the oracle does not say, or gives
/// only both ends of a long value, or a rendering that HL7 leaves to the receiver.
fn mapped(value: &Value, path: &str, delimiters: &str) -> Option<Option<String>> {
    if let Value::Object(entry) = value {
        if entry["status"] != "agreed" || entry.get("unescape_is_local_choice").is_some() {
            return None;
        }
        if let Some(text) = entry.get("unescaped").or_else(|| entry.get("first_subcomponent")) {
            return Some(Some(text.as_str()?.to_owned()));
        }
    }
    match agreed(value)? {
        Value::Null => Some(None),
        Value::String(text) if text.is_empty() => Some(None),
        // HL7's explicit null is found and empty.
        Value::String(text) if text == "\"\"" => Some(Some(String::new())),
        // The oracle marks the first subcomponent of names only; a path to any component stops there.
        Value::String(text) if path.split('.').count() == 4 => match delimiters.chars().nth(4) {
            Some(subcomponent) => Some(text.split(subcomponent).next().map(str::to_owned)),
            None => Some(Some(text.clone())),
        },
        Value::String(text) => Some(Some(text.clone())),
        _ => None,
    }
}
