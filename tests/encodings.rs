//! Character sets: every encoding by its name and by MSH-18, UTF-16 in and out, bytes that do not decode; and what else
//! a header decides: versions, processing ids, acknowledgment modes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use support::messages::{adt, typed};
use support::mllp::{Acknowledgment, BatchAnswer, Peer, Reply};
use support::receiver::Receiver;
use support::{ANSWER, PATIENCE, Server, Site, wait_files, within};

/// An encoding's name, what MSH-18 calls it (where it does), a name in its bytes, and what that says.
const ENCODINGS: [(&str, &str, &[u8], &str); 27] = [
    ("UTF-8", "UNICODE UTF-8", "Müller Ж 山".as_bytes(), "Müller Ж 山"),
    ("latin-1", "8859/1", b"M\xfcller \xdf", "Müller ß"),
    ("iso-8859-1", "ISO IR100", b"M\xfcller", "Müller"),
    ("iso-8859-2", "8859/2", b"Dvo\xf8\xe1k", "Dvořák"),
    ("iso-8859-3", "8859/3", b"\xa1amrun", "Ħamrun"),
    ("iso-8859-4", "8859/4", b"\xd0imis", "Đimis"),
    ("iso-8859-5", "8859/5", b"\xb8\xd2\xd0\xdd", "Иван"),
    ("iso-8859-6", "8859/6", b"\xe3\xd1\xcd\xe5", "كرحم"),
    ("iso-8859-7", "8859/7", b"\xc5\xeb\xe5\xed\xe7", "Ελενη"),
    ("iso-8859-8", "8859/8", b"\xe0\xe1\xf8", "אבר"),
    ("iso-8859-9", "8859/9", b"\xdeahin", "Şahin"),
    ("iso-8859-15", "8859/15", b"\xa4 \xbdil", "€ œil"),
    ("cp1252", "", b"\x80 \x8cuvre", "€ Œuvre"),
    ("cp850", "", b"M\x81ller", "Müller"),
    ("cp437", "", b"M\x81ller", "Müller"),
    ("cp1250", "", b"\x8a\xe1rka", "Šárka"),
    ("cp1251", "", b"\xc8\xe2\xe0\xed", "Иван"),
    ("koi8-r", "", b"\xe9\xd7\xc1\xce", "Иван"),
    ("ascii", "ASCII", b"Mueller", "Mueller"),
    ("shift_jis", "ISO IR14", b"\xd4\xcf\xc0\xde", "ﾔﾏﾀﾞ"),
    ("sjis", "", b"\x8eR\x93c", "山田"),
    ("euc-jp", "", b"\xbb\xb3\xc5\xc4", "山田"),
    ("iso-2022-jp", "ISO IR87", b"\x1b$B;3ED\x1b(B", "山田"),
    ("gb18030", "GB 18030-2000", b"\xcd\xf5", "王"),
    ("big5", "BIG-5", b"\xa4\xfd", "王"),
    ("euc-kr", "KS X 1001", b"\xb1\xe8", "김"),
    ("utf-8-sig", "UNICODE", "Жан".as_bytes(), "Жан"),
];

/// A message with a name in PID-5.1 and a character set in MSH-18.
fn named(control_id: &str, character_set: &str, name: &[u8]) -> Vec<u8> {
    let head = format!(
        "MSH|^~\\&|A|B|C|D|20260102||ADT^A01^ADT_A01|{control_id}|P|2.5||||||{character_set}\rPID|1||P1||"
    );
    [head.as_bytes(), name, b"^Eva\r"].concat()
}

/// A channel that logs the name it reads.
fn reading(site: &Site, name: &str, port: u16, encoding: &str) -> Value {
    let mut channel = site.store_channel(name, port);
    channel["encoding"] = json!(encoding);
    channel["mapping"] = json!({"name": "PID.1.5.1", "first": "PID.1.5.2"});
    channel["mapping_ignore"] = json!(["name", "first"]);
    channel["debug_metadata"] = json!(true);
    channel
}

/// Sites with one channel for each encoding.
fn channels(encodings: &[&str]) -> (Site, Server, Vec<u16>) {
    let mut site = Site::new();
    let ports: Vec<u16> = encodings.iter().map(|_| site.port()).collect();
    let channel = |(n, encoding): (usize, &&str)| reading(&site, &format!("c{n}"), ports[n], encoding);
    let channels: Vec<Value> = encodings.iter().enumerate().map(channel).collect();
    site.configure(json!({"channels": channels}));
    let server = site.start();
    (site, server, ports)
}

/// Waits until the name of each message has been logged, and compares it.
#[track_caller]
fn assert_read(site: &Site, expected: &[(String, String, String)]) {
    let metadata = within(PATIENCE, "every name is logged", || {
        let metadata = site.logged_metadata();
        expected
            .iter()
            .all(|(id, ..)| metadata.get(id).is_some_and(|m| m.contains_key("first")))
            .then_some(metadata)
    });
    for (id, what, name) in expected {
        assert_eq!(metadata[id]["name"], format!("{name:?}"), "{what}");
        assert_eq!(metadata[id]["first"], "\"Eva\"", "{what}");
    }
}

#[test]
fn every_encoding_is_read_by_the_name_the_configuration_gives() {
    let names: Vec<&str> = ENCODINGS.iter().map(|(name, ..)| *name).collect();
    let (site, _server, ports) = channels(&names);
    let mut expected = Vec::new();
    for ((encoding, _, bytes, text), (n, port)) in ENCODINGS.iter().zip(ports.iter().enumerate()) {
        // Whatever MSH-18 says: the configuration goes before it.
        let body = named("A", "8859/13", bytes);
        let answer = Peer::connect(*port).exchange(&body);
        answer.accepts(b"A");
        expected.push((answer.message_id(), (*encoding).to_owned(), (*text).to_owned()));
        assert_eq!(wait_files(&site.path(&format!("archive/c{n}")), ".hl7", 1)[0].1, body, "{encoding}");
    }
    assert_read(&site, &expected);
}

#[test]
fn auto_reads_each_message_by_its_msh_18() {
    let (site, _server, ports) = channels(&["auto"]);
    let mut peer = Peer::connect(ports[0]);
    let of_table =
        ENCODINGS.iter().filter(|(_, table, ..)| !table.is_empty()).map(|(_, t, b, n)| (*t, *b, *n));
    let spelt: [(&str, &[u8], &str); 20] = [
        ("", "Müller".as_bytes(), "Müller"),
        ("nonsense", "Müller".as_bytes(), "Müller"),
        ("UTF-8", "Müller".as_bytes(), "Müller"),
        ("utf8", "Müller".as_bytes(), "Müller"),
        ("UNICODE UTF8", "Müller".as_bytes(), "Müller"),
        ("UNICODE_UTF-8", "Müller".as_bytes(), "Müller"),
        ("Unicode UTF-8", "Müller".as_bytes(), "Müller"),
        ("8859-1", b"M\xfcller", "Müller"),
        ("ISO-8859-1", b"M\xfcller", "Müller"),
        ("ISO8859-1", b"M\xfcller", "Müller"),
        ("ISO8859/1", b"M\xfcller", "Müller"),
        ("ISO_8859-1", b"M\xfcller", "Müller"),
        ("8859/01", b"M\xfcller", "Müller"),
        ("iso-8859-15", b"\xa4", "€"),
        ("WINDOWS-1252", b"\x80", "€"),
        ("CP1252", b"\x80", "€"),
        ("GB18030", b"\xcd\xf5", "王"),
        ("BIG5", b"\xa4\xfd", "王"),
        ("8859/1~UNICODE UTF-8", b"M\xfcller", "Müller"),
        ("UNICODE UTF-8~8859/1", "Müller".as_bytes(), "Müller"),
    ];
    let mut expected = Vec::new();
    for (n, (character_set, bytes, text)) in of_table.chain(spelt).enumerate() {
        let control_id = format!("N{n}");
        let answer = peer.exchange(&named(&control_id, character_set, bytes));
        answer.accepts(control_id.as_bytes());
        expected.push((answer.message_id(), format!("MSH-18 {character_set:?}"), text.to_owned()));
    }
    assert_read(&site, &expected);
}

#[test]
fn escapes_switch_between_the_repetitions_of_msh_18() {
    let (site, _server, ports) = channels(&["auto"]);
    let mut peer = Peer::connect(ports[0]);
    let switched: [(&str, &[u8], &str); 3] = [
        ("ASCII~ISO IR87", b"\\M2442\\;3ED\\C2842\\ x", "山田 x"),
        ("~ISO IR87", b"\\M2442\\;3ED\\C2842\\", "山田"),
        ("ASCII~8859/1", b"M\\C2D41\\\xfc\\C2842\\ller", "Müller"),
    ];
    let mut expected = Vec::new();
    for (n, (character_set, bytes, text)) in switched.into_iter().enumerate() {
        let answer = peer.exchange(&named(&format!("N{n}"), character_set, bytes));
        expected.push((answer.message_id(), format!("MSH-18 {character_set:?}"), text.to_owned()));
    }
    assert_read(&site, &expected);
}

// ---- UTF-16

/// Text in one of the wide forms.
fn wide(text: &str, form: &str) -> Vec<u8> {
    let mark = if form.contains("mark") { "\u{feff}" } else { "" };
    let text = format!("{mark}{text}");
    let (big, double) = (form.contains("be"), form.contains("32"));
    let units: Vec<u32> = if double {
        text.chars().map(u32::from).collect()
    } else {
        text.encode_utf16().map(u32::from).collect()
    };
    let bytes = |unit: u32| if big { unit.to_be_bytes().to_vec() } else { unit.to_le_bytes().to_vec() };
    let kept = |bytes: Vec<u8>| match (double, big) {
        (true, _) => bytes,
        (false, true) => bytes[2..].to_vec(),
        (false, false) => bytes[..2].to_vec(),
    };
    units.into_iter().flat_map(|unit| kept(bytes(unit))).collect()
}

/// The text of wide bytes in that form, which a mark must begin exactly where the form has one.
#[track_caller]
fn narrow(bytes: &[u8], form: &str) -> String {
    let size = if form.contains("32") { 4 } else { 2 };
    assert!(bytes.len().is_multiple_of(size), "{bytes:?}");
    let unit = |bytes: &[u8]| {
        let join = |value: u32, byte: &u8| value << 8 | u32::from(*byte);
        if form.contains("be") { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
    };
    let units: Vec<u32> = bytes.chunks(size).map(unit).collect();
    let text: String = if size == 4 {
        units.into_iter().map(|unit| char::from_u32(unit).unwrap()).collect()
    } else {
        String::from_utf16(&units.iter().map(|&unit| unit as u16).collect::<Vec<_>>()).unwrap()
    };
    let rest = text.strip_prefix('\u{feff}');
    assert_eq!(rest.is_some(), form.contains("mark"), "{form}: {text:?}");
    rest.unwrap_or(&text).to_owned()
}

/// The encoding a channel is set to, and the form of what is sent.
const WIDE: [(&str, &str); 8] = [
    ("utf-16", "16le mark"),
    ("utf-16", "16be mark"),
    ("utf-16", "16le"),
    ("utf-16-le", "16le"),
    ("utf-16-be", "16be"),
    ("utf-16-le", "16le mark"),
    ("utf-32", "32le mark"),
    ("utf-32-be", "32be"),
];

#[test]
fn a_wide_message_is_read_archived_as_sent_and_answered_in_its_own_form() {
    let (site, server, ports) = channels(&WIDE.map(|(encoding, _)| encoding));
    let mut expected = Vec::new();
    for ((encoding, form), (n, port)) in WIDE.iter().zip(ports.iter().enumerate()) {
        let text = format!(
            "MSH|^~\\&|Łódź|B|Æ|D|2026||ADT^A01|Ж{n}|P|2.5\rPID|1||P1||Müller 山田 😀^Eva\rNTE|1||{}\r",
            "x".repeat(5000)
        );
        let body = wide(&text, form);
        let mut peer = Peer::connect(*port);
        peer.send(&body);
        let Reply::Frame(answer) = peer.receive(ANSWER) else { panic!("{encoding}, {form}: no answer") };
        let answer = Acknowledgment::parse(narrow(&answer, form).as_bytes());
        answer.accepts(format!("Ж{n}").as_bytes());
        assert_eq!((answer.msh(3), answer.msh(5)), ("Æ".to_owned(), "Łódź".to_owned()));
        expected.push((answer.message_id(), format!("{encoding}, {form}"), "Müller 山田 😀".to_owned()));
        assert_eq!(
            wait_files(&site.path(&format!("archive/c{n}")), ".hl7", 1)[0].1,
            body,
            "{encoding}, {form}"
        );

        // So are its refusals and batches, and the connection stays in step.
        peer.send(&wide("MSH|^~\\&|A|B|C|D|2026||ADT^A01||P|2.5\r", form));
        let Reply::Frame(answer) = peer.receive(ANSWER) else { panic!("{encoding}, {form}: no refusal") };
        Acknowledgment::parse(narrow(&answer, form).as_bytes()).refuses("AE", "101");
        let batch: String = (0..3).map(|n| String::from_utf8(adt(&format!("B{n}"), "P1")).unwrap()).collect();
        peer.send(&wide(&format!("BHS|^~\\&|Ł\r{batch}BTS|3\r"), form));
        let Reply::Frame(answer) = peer.receive(ANSWER) else { panic!("{encoding}, {form}: no batch") };
        let answer = BatchAnswer::parse(narrow(&answer, form).as_bytes());
        assert_eq!(answer.header[4], "Ł");
        let codes: Vec<_> =
            answer.summary().into_iter().map(|(code, id, _)| format!("{code} {id}")).collect();
        assert_eq!(codes, ["AA B0", "AA B1", "AA B2"], "{encoding}, {form}");
    }
    assert_read(&site, &expected);
    for n in 0..WIDE.len() {
        server.wait_count(&format!("c{n}"), "delivered", 4);
    }
}

#[test]
fn a_wide_message_over_the_limit_is_refused_in_its_own_form() {
    let receiver = Receiver::with(json!({"encoding": "utf-16", "stream_limit": "64KiB"}));
    let mut peer = receiver.connect();
    let head = "MSH|^~\\&|A|B|C|D|2026||ADT^A01|Ж1|P|2.5\rNTE|1||";
    peer.send(&wide(&format!("{head}{}\r", "x".repeat(40_000)), "16le mark"));
    let Reply::Frame(answer) = peer.receive(ANSWER) else { panic!("no answer") };
    let answer = Acknowledgment::parse(narrow(&answer, "16le mark").as_bytes());
    answer.refuses("AR", "207");
    assert_eq!(answer.control_id(), "Ж1".as_bytes());
}

#[test]
fn a_wide_message_on_another_channel_is_refused_and_never_accepted_as_something_else() {
    for encoding in ["UTF-8", "latin-1", "ascii", "auto"] {
        let receiver = Receiver::with(json!({"encoding": encoding}));
        let mut peer = receiver.connect();
        for (_, form) in WIDE {
            let text = "MSH|^~\\&|A|B|C|D|2026||ADT^A01|1|P|2.5||||||UNICODE UTF-16\rPID|1\r";
            let answer = peer.exchange(&wide(text, form));
            answer.refuses("AR", "100");
            assert_eq!(answer.control_id(), b"", "{encoding}, {form}");
        }
        peer.exchange(&adt("GOOD", "P1")).accepts(b"GOOD");
    }
    // And bytes on a channel that is set to UTF-16.
    let receiver = Receiver::with(json!({"encoding": "utf-16"}));
    let mut peer = receiver.connect();
    peer.send(&adt("NARROW", "P1"));
    let Reply::Frame(answer) = peer.receive(ANSWER) else { panic!("no answer") };
    let text = String::from_utf8_lossy(&answer).replace('\0', "");
    assert!(text.contains("MSA|AR|"), "{text:?}");
}

#[test]
fn half_a_unit_is_never_accepted() {
    let receiver = Receiver::with(json!({"encoding": "utf-16-le"}));
    let body = wide("MSH|^~\\&|A|B|C|D|2026||ADT^A01|1|P|2.5\rPID|1\r", "16le");
    for cut in [1, 2, 3, 9] {
        let mut peer = receiver.connect();
        peer.send(&body[..body.len() - cut]);
        let Reply::Frame(answer) = peer.receive(ANSWER) else { panic!("no answer") };
        let text = String::from_utf8_lossy(&answer).replace('\0', "");
        assert!(text.contains("MSA|AR|"), "{cut} bytes short: {text:?}");
    }
}

// ---- the corpus

/// One message of the corpus as text, with what other parsers agree PID-5.1 is.
fn samples() -> Option<Vec<(String, String, Option<String>)>> {
    let folder = support::corpus()?;
    let oracle: Value = serde_json::from_slice(&fs::read(folder.join("oracle.json")).unwrap()).unwrap();
    let mut found = Vec::new();
    for (name, entry) in oracle["files"].as_object().unwrap() {
        let bytes = fs::read(folder.join(name)).unwrap();
        let message = &entry["messages"][0];
        let kind = message["type"].as_str().unwrap_or_default();
        let is_plain = entry["n_messages"] == 1
            && bytes.starts_with(b"MSH")
            && message["delimiters"].as_str().is_some_and(|d| d.len() == 5)
            && !message["control_id"].as_str().unwrap_or_default().is_empty()
            && !kind.is_empty()
            && !kind.starts_with("ACK")
            && !kind.starts_with("MCF");
        if !is_plain {
            continue;
        }
        let text = match entry["decoded_as"].as_str().unwrap() {
            "ascii" | "utf-8" => String::from_utf8(bytes).unwrap(),
            other => {
                assert!(other.starts_with("latin-1"), "{name}: {other}");
                bytes.iter().map(|&byte| char::from(byte)).collect()
            }
        };
        let value = &message["values"]["PID.1.5.1"];
        let name_of = value.as_str().filter(|text| !text.contains(['\\', '&', '"']) && !text.is_empty());
        found.push((name.clone(), text, name_of.map(str::to_owned)));
    }
    Some(found)
}

#[test]
fn the_corpus_reads_the_same_in_every_encoding_that_can_write_it() {
    let Some(samples) = samples() else { return };
    assert!(samples.len() > 250, "only {} samples", samples.len());
    let encodings =
        ["UTF-8", "latin-1", "auto", "utf-16", "utf-16-be", "utf-32", "cp1252", "iso-8859-15", "gb18030"];
    let (site, server, ports) = channels(&encodings);
    let mut checked = BTreeMap::new();
    let (mut names, mut counts) = (Vec::new(), vec![0; encodings.len()]);
    let written = |encoding: &str, text: &str| -> Option<Vec<u8>> {
        match encoding {
            "UTF-8" => Some(text.as_bytes().to_vec()),
            "latin-1" => text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect(),
            // In bytes of ASCII all are the same; beyond, MSH-18 decides, of which the corpus has its own.
            "utf-16" => Some(wide(text, "16le mark")),
            "utf-16-be" => Some(wide(text, "16be")),
            "utf-32" => Some(wide(text, "32le mark")),
            _ => text.is_ascii().then(|| text.as_bytes().to_vec()),
        }
    };
    for (n, encoding) in encodings.iter().enumerate() {
        let mut peer = Peer::connect(ports[n]);
        for (file, text, name) in &samples {
            // UTF-16 has no frame that could be told to have an end where the last segment has none.
            let text = if text.ends_with(['\r', '\n']) { text.clone() } else { format!("{text}\r") };
            let Some(body) = written(encoding, &text) else { continue };
            peer.send(&body);
            let Reply::Frame(answer) = peer.receive(ANSWER) else {
                panic!("{file} in {encoding}: no answer")
            };
            let form = match *encoding {
                "utf-16" => "16le mark",
                "utf-16-be" => "16be",
                "utf-32" => "32le mark",
                _ => "",
            };
            let answer = if form.is_empty() { answer } else { narrow(&answer, form).into_bytes() };
            let answer = Acknowledgment::parse(&answer);
            assert!(["AA", "CA"].contains(&answer.code().as_str()), "{file} in {encoding}: {answer:?}");
            counts[n] += 1;
            *checked.entry(*encoding).or_insert(0) += usize::from(name.is_some());
            names.extend(
                name.clone().map(|name| (answer.message_id(), format!("{file} in {encoding}"), name)),
            );
        }
    }
    for (n, count) in counts.iter().enumerate() {
        server.wait_count(&format!("c{n}"), "delivered", *count);
    }
    eprintln!("names compared: {checked:?}");
    let metadata = site.logged_metadata();
    for (id, what, name) in &names {
        assert_eq!(metadata[id]["name"], format!("{name:?}"), "{what}");
    }
    assert!(names.len() > 1000, "only {} names", names.len());
}

// ---- what does not decode

#[test]
fn bytes_that_do_not_decode_read_as_u_fffd_and_are_kept_as_they_came() {
    let (site, _server, ports) = channels(&["UTF-8", "ascii", "auto"]);
    let mut expected = Vec::new();
    for (n, port) in ports.iter().enumerate() {
        let body = named("A", if n == 2 { "ASCII" } else { "" }, b"M\xfcller");
        let answer = Peer::connect(*port).exchange(&body);
        answer.accepts(b"A");
        assert_eq!(wait_files(&site.path(&format!("archive/c{n}")), ".hl7", 1)[0].1, body);
        expected.push((answer.message_id(), format!("channel {n}"), "M\u{fffd}ller".to_owned()));
    }
    assert_read(&site, &expected);
}

#[test]
fn bytes_that_do_not_decode_are_refused_where_the_channel_says_so() {
    for (encoding, character_set) in [("UTF-8", ""), ("ascii", ""), ("auto", "UNICODE UTF-8"), ("cp1252", "")]
    {
        let receiver = Receiver::with(json!({"encoding": encoding, "on_undecodable": "refuse"}));
        let mut peer = receiver.connect();
        let bad: &[u8] = if encoding == "cp1252" { b"M\x81ller" } else { b"M\xfcller" };
        let answer = peer.exchange(&named("BAD", character_set, bad));
        answer.refuses("AE", "102");
        assert_eq!(answer.control_id(), b"BAD");
        let good = named("GOOD", character_set, b"Mueller");
        peer.exchange(&good).accepts(b"GOOD");
        receiver.archived(&[&good]);
    }
}

#[test]
fn the_answer_names_the_character_set_only_where_it_has_a_byte_over_7f() {
    let receiver = Receiver::with(json!({"encoding": "auto"}));
    let mut peer = receiver.connect();
    assert_eq!(peer.exchange(&named("A", "8859/1", b"M\xfcller")).msh(18), "");
    let mut body = named("@", "8859/1", b"M\xfcller");
    let at = body.iter().position(|&byte| byte == b'@').unwrap();
    body[at] = 0xe9;
    let answer = peer.exchange(&body);
    answer.accepts(b"\xe9");
    assert_eq!(answer.msh(18), "8859/1");
}

#[test]
fn show_reads_a_message_in_its_channel_s_encoding() {
    let (site, _server, ports) = channels(&["cp850", "utf-16", "auto"]);
    let bodies = [
        named("A", "", b"M\x81ller"),
        wide("MSH|^~\\&|A|B|C|D|2026||ADT^A01|A|P|2.5\rPID|1||P1||Müller^Eva\r", "16le mark"),
        named("A", "8859/1", b"M\xfcller"),
    ];
    for (n, body) in bodies.iter().enumerate() {
        let mut peer = Peer::connect(ports[n]);
        peer.send(body);
        let Reply::Frame(answer) = peer.receive(ANSWER) else { panic!("no answer") };
        let answer = if n == 1 { narrow(&answer, "16le mark").into_bytes() } else { answer };
        let shown = site.run(&["show", &Acknowledgment::parse(&answer).message_id()]).good();
        assert!(shown.stdout.contains("Müller"), "{shown:#?}");
    }
}

#[test]
fn an_encoding_nobody_knows_is_an_error_of_the_configuration() {
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"channels": [reading(&site, "c", port, "klingon")]}));
    let ran = site.run(&["check"]);
    assert_eq!(ran.code, Some(78));
    assert!(ran.said().contains("klingon"), "{ran:#?}");
    for (encoding, ..) in ENCODINGS {
        site.configure(json!({"channels": [reading(&site, "c", port, encoding)]}));
        site.run(&["check"]).good();
    }
}

// ---- what else a header decides

#[test]
fn only_the_versions_and_processing_ids_listed_are_accepted() {
    // As written in YAML: a version may look like a number there.
    let receiver =
        Receiver::with(json!({"accept_versions": [2.3, "2.5.1"], "accept_processing_ids": ["P", "T"]}));
    let mut peer = receiver.connect();
    let message = |id: &str, processing: &str, version: &str| {
        let body = String::from_utf8(adt(id, "P1")).unwrap();
        body.replace("|P|2.5\r", &format!("|{processing}|{version}\r")).into_bytes()
    };
    let kept = [message("A", "P", "2.3"), message("B", "T^A", "2.5.1^DEU"), message("C", "T", "2.3")];
    for (body, id) in kept.iter().zip(["A", "B", "C"]) {
        peer.exchange(body).accepts(id.as_bytes());
    }
    for (processing, version, error, place) in [
        ("P", "2.5", "203", "12"),
        ("P", "", "203", "12"),
        ("P", "2.3.1", "203", "12"),
        ("D", "2.3", "202", "11"),
        ("", "2.5.1", "202", "11"),
    ] {
        let answer = peer.exchange(&message("NO", processing, version));
        answer.refuses("AR", error);
        assert_eq!(answer.control_id(), b"NO");
        assert_eq!(answer.error_place(), Some(("MSH".to_owned(), place.to_owned())));
    }
    receiver.archived(&[&kept[0], &kept[1], &kept[2]]);
}

#[test]
fn msh_15_and_16_choose_the_codes() {
    let receiver = Receiver::with(json!({"message_types": {"ADT": "store"}}));
    let mut peer = receiver.connect();
    let modes = [
        ("", "", ["AA", "AE", "AR"]),
        ("NE", "", ["AA", "AE", "AR"]),
        ("NE", "NE", ["AA", "AE", "AR"]),
        ("NE", "AL", ["AA", "AE", "AR"]),
        ("AL", "", ["CA", "CE", "CR"]),
        ("AL", "NE", ["CA", "CE", "CR"]),
        ("AL", "AL", ["CA", "CE", "CR"]),
        ("ER", "NE", ["AA", "CE", "CR"]),
        ("ER", "AL", ["AA", "CE", "CR"]),
        ("SU", "NE", ["CA", "AE", "AR"]),
        ("SU", "", ["CA", "AE", "AR"]),
    ];
    for (n, (accept, application, codes)) in modes.into_iter().enumerate() {
        for version in ["2.3", "2.5"] {
            let message = |kind: &str, id: &str| {
                let body = String::from_utf8(typed(kind, id, "P1")).unwrap();
                let fields = format!("|P|{version}|||{accept}|{application}\r");
                with_fields(&body, &fields)
            };
            let id = format!("N{n}V{version}");
            let success = peer.exchange(&message("ADT^A01", &id));
            let again = peer.exchange(&message("ADT^A01", &id));
            let error = peer.exchange(&message("", &id));
            let rejection = peer.exchange(&message("ZZZ^Z01", &id));
            let found = [&success, &error, &rejection].map(Acknowledgment::code);
            assert_eq!(found, codes, "MSH-15 {accept:?}, MSH-16 {application:?}, version {version}");
            assert_eq!(again.code(), codes[0], "a duplicate");
            for answer in [success, error, rejection] {
                assert_eq!(answer.control_id(), id.as_bytes());
            }
        }
    }
    receiver.server.wait_count("adt", "delivered", 2 * modes.len() as u64);
}

fn with_fields(body: &str, fields: &str) -> Vec<u8> {
    assert!(body.contains("|P|2.5\r"));
    body.replace("|P|2.5\r", fields).into_bytes()
}
