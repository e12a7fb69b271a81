//! Documents through a running server: wherever a PDF sits in a message, it comes out byte for byte, and a text as text.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::messages::{base64, pdf, typed};
use support::mllp::Peer;
use support::{PATIENCE, Server, Site, files, wait_files, within};

/// A site whose channels drop what they find into `NAME`; each gets these keys.
struct Dropper {
    site: Site,
    ports: BTreeMap<&'static str, u16>,
    server: Server,
}

impl Dropper {
    #[track_caller]
    fn start(channels: &[(&'static str, Value)]) -> Dropper {
        let mut site = Site::new();
        let mut ports = BTreeMap::new();
        let configured: Vec<Value> = channels
            .iter()
            .map(|(name, keys)| {
                let port = site.port();
                ports.insert(*name, port);
                let mut channel = site.store_channel(name, port);
                channel["message_types"] = json!({"*": "document"});
                channel["drop_folders"] = json!([{"path": site.text(name)}]);
                for (key, value) in keys.as_object().unwrap() {
                    channel[key] = value.clone();
                }
                channel
            })
            .collect();
        site.configure(json!({"channels": configured}));
        let server = site.start();
        Dropper { site, ports, server }
    }

    /// Sends the messages to a channel, each under the control id it is to be known by.
    #[track_caller]
    fn send<'a>(&self, channel: &str, messages: impl IntoIterator<Item = (&'a str, &'a [u8])>) {
        let mut peer = Peer::connect(self.ports[channel]);
        for (id, body) in messages {
            let answer = peer.exchange(body);
            // CA is for those whose MSH-15 asks for it.
            assert!(["AA", "CA"].contains(&answer.code().as_str()), "{id}: {answer:?}");
            assert_eq!(answer.control_id(), id.as_bytes());
        }
    }

    /// Waits until a channel's folder has as many files, and gives them by name.
    #[track_caller]
    fn dropped(&self, channel: &str, suffix: &str, count: usize) -> BTreeMap<String, Vec<u8>> {
        let found = wait_files(&self.site.path(channel), suffix, count);
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        found.into_iter().map(|(path, bytes)| (name(path), bytes)).collect()
    }
}

/// An ORU^R01 with these segments behind its PID.
fn oru(id: &str, segments: &str) -> Vec<u8> {
    let mut message = typed("ORU^R01^ORU_R01", id, "P1");
    message.extend_from_slice(b"OBR|1||A1|REPORT\r");
    message.extend_from_slice(segments.as_bytes());
    message
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn wrapped(data: &str, blank: &str) -> String {
    let lines: Vec<&str> = (0..data.len()).step_by(76).map(|at| &data[at..data.len().min(at + 76)]).collect();
    lines.join(blank)
}

/// Each way real senders write a PDF into their segments, by name.
fn layouts(pdf: &[u8]) -> Vec<(&'static str, String)> {
    let data = base64(pdf);
    let jpeg = base64(b"\xff\xd8\xff\xe0\0\x10JFIF\0 no more than a thumbnail, but an ED all the same");
    let plain: String = String::from_utf8(pdf.to_vec()).unwrap().replace('\n', "\\X0A\\");
    let ed = |before: &str, data: &str| format!("OBX|1|ED|R^REPORT||{before}{data}||||||F\r");
    let (head, rest) = data.split_at(200);
    let (middle, tail) = rest.split_at(77);
    let row = |n: u8, kind: &str, value: &str| format!("OBX|{n}|{kind}|R^REPORT|1|{value}||||||F\r");
    let each =
        |n: u8, from: usize, to: usize| row(n, "ED", &format!("^AP^PDF^Base64^{}", base64(&pdf[from..to])));
    vec![
        ("application", ed("^application^pdf^Base64^", &data)),
        ("ap", ed("^AP^PDF^Base64^", &data)),
        ("tx", ed("^TX^PDF^Base64^", &data)),
        ("text", ed("^TEXT^^Base64^", &data)),
        ("shifted", ed("PDF^TEXT^^Base64^", &data)),
        ("component", ed("^^^^", &data)),
        ("bare", ed("", &data)),
        (
            "thumbnails",
            row(1, "ED", &format!("^image^jpeg^Base64^{jpeg}")).repeat(2) + &ed("^AP^PDF^Base64^", &data),
        ),
        ("second", row(1, "HD", "1.2.840.10008.1.2") + &ed("^AP^PDF^Base64^", &data)),
        (
            "rows",
            row(1, "ED", &format!("^AP^PDF^Base64^{head}"))
                + &row(2, "ED", &format!("^AP^PDF^Base64^{middle}"))
                + &row(3, "ED", &format!("^AP^PDF^Base64^{tail}")),
        ),
        (
            "between",
            row(1, "ED", &format!("^AP^PDF^Base64^{head}"))
                + &row(2, "ED", &format!("^image^jpeg^Base64^{jpeg}"))
                + &row(3, "TX", "NORMAL")
                + &row(4, "ED", "")
                + &row(5, "ED", &format!("^AP^PDF^Base64^{middle}{tail}"))
                + &row(6, "TX", "Signed by Dr Who"),
        ),
        ("padded", each(1, 0, 100) + &each(2, 100, 201) + &each(3, 201, pdf.len())),
        ("repetitions", ed("^AP^PDF^Base64^", &format!("{head}~{middle}~{tail}"))),
        ("spaces", ed("^AP^PDF^Base64^", &wrapped(&data, " "))),
        ("breaks", ed("^AP^PDF^Base64^", &wrapped(&data, "\\.br\\"))),
        ("bytes", ed("^AP^PDF^Base64^", &wrapped(&data, "\\X0D0A\\"))),
        ("unpadded", ed("^AP^PDF^Base64^", data.trim_end_matches('='))),
        ("url", ed("^AP^PDF^Base64^", &data.replace('+', "-").replace('/', "_"))),
        ("hex", ed("^AP^PDF^Hex^", &hex(pdf))),
        ("plain", ed("^AP^PDF^A^", &plain)),
        ("row", row(1, "TX", "The report:") + &row(2, "TX", &data)),
        ("lines", wrapped(&data, "\r").split('\r').map(|line| row(1, "TX", line)).collect()),
        ("own", format!("OBX|1|TX|||see below\rZPD|1|REPORT|{data}\r")),
    ]
}

#[test]
fn every_layout_of_a_pdf_is_dropped_byte_for_byte() {
    let dropper = Dropper::start(&[
        ("search", json!({})),
        ("every", json!({"attachment_field": "OBX.*.5", "attachment_format": "pdf"})),
    ]);
    for channel in ["search", "every"] {
        let mut messages = BTreeMap::new();
        let names: Vec<&str> = layouts(&pdf("x")).into_iter().map(|(name, _)| name).collect();
        // Each its own document: none can stand in for another.
        for name in names.into_iter().filter(|name| channel == "search" || *name != "own") {
            let pdf = pdf(&format!("{channel} {name} ?>?>?>? >>>>???? >>>>"));
            let (_, segments) = layouts(&pdf).into_iter().find(|(found, _)| *found == name).unwrap();
            messages.insert(format!("{channel}-{name}"), (oru(&format!("{channel}-{name}"), &segments), pdf));
        }
        dropper.send(channel, messages.iter().map(|(id, (body, _))| (id.as_str(), body.as_slice())));
        let found = dropper.dropped(channel, ".pdf", messages.len());
        for (id, (_, pdf)) in &messages {
            let file = found
                .get(&format!("{id}.pdf"))
                .unwrap_or_else(|| panic!("{id} is not among {:?}", found.keys()));
            assert!(file == pdf, "{id}: {}", String::from_utf8_lossy(file));
        }
        assert_eq!(found.len(), messages.len());
    }
    assert_eq!(dropper.site.list(&["failed", "list"]), Vec::<Value>::new());
}

#[test]
fn several_documents_of_a_message_are_numbered_and_a_search_takes_the_first() {
    let dropper = Dropper::start(&[("search", json!({})), ("every", json!({"attachment_field": "OBX.*.5"}))]);
    let pdfs = [pdf("first"), pdf("second"), pdf("third")];
    let second = base64(&pdfs[1]);
    let (head, tail) = second.split_at(100);
    let segments = format!(
        "OBX|1|ED|R||^AP^PDF^Base64^{}\rOBX|2|ED|R||^AP^PDF^Base64^{head}\rOBX|3|ED|R||^AP^PDF^Base64^{tail}\r\
         OBX|4|ED|R||^AP^PDF^Base64^{}\r",
        base64(&pdfs[0]),
        base64(&pdfs[2])
    );
    let body = oru("DOC", &segments);
    for channel in ["search", "every"] {
        dropper.send(channel, [("DOC", body.as_slice())]);
    }
    let numbered: BTreeMap<String, Vec<u8>> =
        (1..).zip(&pdfs).map(|(n, pdf)| (format!("DOC_{n}.pdf"), pdf.clone())).collect();
    assert!(dropper.dropped("every", ".pdf", 3) == numbered);
    assert!(
        dropper.dropped("search", ".pdf", 1) == BTreeMap::from([("DOC.pdf".to_owned(), pdfs[0].clone())])
    );
}

#[test]
fn a_text_report_is_dropped_as_plain_text() {
    let dropper = Dropper::start(&[
        ("report", json!({"attachment_format": "text"})),
        ("field", json!({"attachment_format": "text", "attachment_field": "OBX.2.5"})),
        ("latin", json!({"attachment_format": "text", "encoding": "latin-1"})),
    ]);
    let rows = "OBX|1|TX|R||REPORT\rOBX|2|FT|R||one\\.br\\two \\H\\high\\N\\ \\T\\ low~three\rOBX|3|TX|R||\r\
                OBX|4|NM|R||7|mg\rOBX|5|ST|R||Größe\r";
    let body = oru("TEXT", rows);
    for channel in ["report", "field"] {
        dropper.send(channel, [("TEXT", body.as_slice())]);
    }
    let latin: Vec<u8> = String::from_utf8(body.clone()).unwrap().chars().map(|c| c as u8).collect();
    dropper.send("latin", [("TEXT", latin.as_slice())]);
    for (channel, text) in [
        ("report", "REPORT\none\ntwo high & low\nthree\n\nGröße"),
        ("field", "one\ntwo high & low\nthree"),
        ("latin", "REPORT\none\ntwo high & low\nthree\n\nGröße"),
    ] {
        let found = dropper.dropped(channel, ".txt", 1);
        assert_eq!(String::from_utf8_lossy(&found["TEXT.txt"]), text, "{channel}");
    }
}

#[test]
fn a_message_without_a_document_fails_with_the_reason_and_is_kept() {
    let dropper = Dropper::start(&[("every", json!({"attachment_field": "OBX.*.5"})), ("search", json!({}))]);
    let body = oru("NONE", "OBX|1|ED|R||^application^pdf^Base64^bm8gZG9jdW1lbnQgYXQgYWxs\r");
    for (channel, reason) in [
        ("every", "no PDF at attachment_field OBX.*.5: no data there decodes to %PDF-"),
        ("search", "no PDF found in any OBX or Z segment"),
    ] {
        dropper.send(channel, [("NONE", body.as_slice())]);
        let failed = within(PATIENCE, "the message has failed", || {
            dropper
                .site
                .list(&["failed", "list"])
                .into_iter()
                .find(|entry| entry.to_string().contains(channel))
        });
        assert!(failed.to_string().contains(reason), "{failed:#}");
        assert!(wait_files(&dropper.site.path(&format!("state/{channel}/failed")), ".hl7", 1)[0].1 == body);
        assert_eq!(files(&dropper.site.path(channel), ""), []);
    }
    dropper.server.wait_count("every", "failed_now", 1);
}

/// An ED of the corpus: its message, where in it, and what the oracle says of it.
struct Known {
    name: String,
    body: Vec<u8>,
    occurrence: u64,
    attachment: Value,
}

/// Every ED of the corpus.
fn known() -> Option<Vec<Known>> {
    let folder = support::corpus()?;
    let oracle: Value = serde_json::from_slice(&fs::read(folder.join("oracle.json")).unwrap()).unwrap();
    let mut found = Vec::new();
    for (name, entry) in oracle["files"].as_object().unwrap() {
        let [message] = entry["messages"].as_array().unwrap().as_slice() else { continue };
        for attachment in message["attachments"].as_array().into_iter().flatten() {
            if attachment["value_type"] == "ED" {
                found.push(Known {
                    name: name.clone(),
                    body: fs::read(folder.join(name)).unwrap(),
                    occurrence: attachment["obx_occurrence"].as_u64().unwrap(),
                    attachment: attachment.clone(),
                });
            }
        }
    }
    assert!(found.len() > 40, "the corpus has shrunk");
    Some(found)
}

fn sha256(path: &Path) -> String {
    let ran = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(ran.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// A channel has one `attachment_field`: documents by the OBX they are in.
fn by_occurrence(known: Vec<Known>) -> BTreeMap<u64, Vec<Known>> {
    let mut found: BTreeMap<u64, Vec<Known>> = BTreeMap::new();
    for document in known {
        found.entry(document.occurrence).or_default().push(document);
    }
    found
}

#[test]
fn every_document_of_the_corpus_is_dropped_as_the_oracle_decoded_it() {
    let Some(mut known) = known() else { return };
    known.retain(|document| {
        document.attachment["base64_strict"] == true && document.attachment["decoded_sha256"].is_string()
    });
    let (mut pdfs, mut texts) = (0, 0);
    for (occurrence, documents) in by_occurrence(known) {
        let field = json!(format!("OBX.{occurrence}.5"));
        let keys = |format: &str| json!({"attachment_field": field, "attachment_format": format});
        let dropper = Dropper::start(&[("pdf", keys("pdf")), ("text", keys("text"))]);
        for document in documents {
            let is_pdf = document.attachment["decoded_magic"] == "pdf";
            let (channel, suffix) = if is_pdf { ("pdf", ".pdf") } else { ("text", ".txt") };
            // A control id of its own, as a name that is taken by the same bytes is left as it is.
            let id = format!("C{}", pdfs + texts);
            let body = with(&document.body, &id, None);
            dropper.send(channel, [(id.as_str(), body.as_slice())]);
            let path = dropper.site.path(channel).join(format!("{id}{suffix}"));
            let bytes = within(PATIENCE, "the document is dropped", || fs::read(&path).ok());
            assert_eq!(bytes.len() as u64, document.attachment["decoded_bytes"], "{}", document.name);
            assert_eq!(
                sha256(&path),
                document.attachment["decoded_sha256"].as_str().unwrap(),
                "{}",
                document.name
            );
            *(if is_pdf { &mut pdfs } else { &mut texts }) += 1;
        }
    }
    eprintln!("{pdfs} PDFs, {texts} texts");
    assert!(pdfs + texts >= 30);
}

#[test]
fn real_pdfs_in_the_eds_of_the_corpus_are_dropped_byte_for_byte() {
    let Some(known) = known() else { return };
    let folder = support::corpus().unwrap().join("../pdf");
    let mut pdfs = files(&folder, ".pdf");
    pdfs.retain(|(_, bytes)| {
        bytes[..bytes.len().min(1028)].windows(5).any(|window| window == b"%PDF-")
            && bytes.trim_ascii_end().ends_with(b"%%EOF")
    });
    assert!(pdfs.len() > 60, "the corpus has shrunk");
    let dropper = Dropper::start(&[("search", json!({})), ("every", json!({"attachment_field": "OBX.*.5"}))]);
    let mut sent: BTreeMap<&str, Vec<(String, Vec<u8>)>> = BTreeMap::new();
    // Every PDF once, each ED with one of them at least, by turns to the one channel and the other.
    let rounds = pdfs.len().max(known.len());
    for (n, ((_, pdf), document)) in pdfs.iter().cycle().zip(known.iter().cycle()).take(rounds).enumerate() {
        let channel = if n % 2 == 0 { "search" } else { "every" };
        let body = with(&document.body, &format!("C{n}"), Some((document.occurrence, &base64(pdf))));
        dropper.send(channel, [(format!("C{n}").as_str(), body.as_slice())]);
        sent.entry(channel).or_default().push((format!("C{n}.pdf"), pdf.clone()));
    }
    for (channel, sent) in sent {
        let found = dropper.dropped(channel, ".pdf", sent.len());
        for (name, pdf) in &sent {
            assert!(found.get(name) == Some(pdf), "{channel} {name}: {:?}", found.keys());
        }
    }
    assert_eq!(dropper.site.list(&["failed", "list"]), Vec::<Value>::new());
}

/// The message with another MSH-10, and with the data in component 5 of its n-th OBX-5.
fn with(body: &[u8], control_id: &str, document: Option<(u64, &str)>) -> Vec<u8> {
    let mut seen = 0;
    let mut message = Vec::new();
    for segment in body.split(|b| b"\r\n".contains(b)).filter(|segment| !segment.is_empty()) {
        let mut fields: Vec<Vec<u8>> = segment.split(|&b| b == b'|').map(<[u8]>::to_vec).collect();
        if fields[0].ends_with(b"MSH") {
            fields[9] = control_id.into();
        }
        seen += u64::from(fields[0] == b"OBX");
        if let Some((n, data)) = document
            && fields[0] == b"OBX"
            && seen == n
        {
            let mut components: Vec<&[u8]> = fields[5].split(|&b| b == b'^').take(4).collect();
            components.resize(4, b"");
            components.push(data.as_bytes());
            fields[5] = components.join(&b'^');
        }
        message.extend(fields.join(&b'|'));
        message.push(b'\r');
    }
    message
}
