//! The stamp through a running server: every PDF that other tools find sound comes out with its metadata, its own bytes
//! in front; what cannot be stamped comes out as it came, or fails where the channel says so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use support::messages::base64;
use support::mllp::Peer;
use support::{PATIENCE, Server, Site, corpus, skip, wait_files, within};

/// A channel that stamps what it drops, and its server.
fn stamping(keys: Value) -> (Site, u16, Server) {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("lab", port);
    channel["message_types"] = json!({"*": "document"});
    channel["drop_folders"] = json!([{"path": site.text("drop")}]);
    channel["mapping"] = json!({"patient_id": "PID.1.3.1", "patient_name": "PID.1.5.1"});
    channel["add_metadata_to_attachment"] = json!(true);
    for (key, value) in keys.as_object().unwrap() {
        channel[key] = value.clone();
    }
    site.configure(json!({"channels": [channel]}));
    let server = site.start();
    (site, port, server)
}

fn oru(control_id: &str, patient: &str, pdf: &[u8]) -> Vec<u8> {
    format!(
        "MSH|^~\\&|LAB|H|S|H|20260101||ORU^R01|{control_id}|P|2.5\rPID|1||{patient}||Żółć^Ева\r\
         OBX|1|ED|PDF||^application^pdf^Base64^{}\r",
        base64(pdf)
    )
    .into_bytes()
}

fn send(port: u16, control_id: &str, patient: &str, pdf: &[u8]) {
    Peer::connect(port).exchange(&oru(control_id, patient, pdf)).accepts(control_id.as_bytes());
}

/// The corpus's PDFs by the verdict of the tools that were asked.
fn by_verdict(verdicts: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let Some(folder) = corpus() else { return BTreeMap::new() };
    let folder = folder.parent().unwrap().join("pdf");
    let oracle: Value = serde_json::from_slice(&fs::read(folder.join("oracle.json")).unwrap()).unwrap();
    let files = oracle["files"].as_object().unwrap().iter();
    let wanted = files.filter(|(_, what)| verdicts.contains(&what["verdict"].as_str().unwrap_or_default()));
    wanted.map(|(name, _)| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

#[test]
fn every_sound_pdf_is_delivered_with_its_metadata_and_its_own_bytes_in_front() {
    let documents = by_verdict(&["ok"]);
    if documents.is_empty() {
        return skip("the corpus is not here");
    }
    for visible in [true, false] {
        let (site, port, server) = stamping(json!({"visible_metadata": visible}));
        let mut sent = BTreeMap::new();
        for (n, (name, pdf)) in documents.iter().enumerate() {
            let patient = format!("P{n}");
            send(port, &format!("C{n}"), &patient, pdf);
            sent.insert(format!("C{n}.pdf"), (name, pdf, patient));
        }
        let dropped = wait_files(&site.path("drop"), ".pdf", documents.len());
        let mut stamped = 0;
        for (path, bytes) in dropped {
            let (name, original, patient) = &sent[path.file_name().unwrap().to_str().unwrap()];
            assert!(bytes.starts_with(original), "{name}: its own bytes are not in front");
            stamped += usize::from(bytes.len() > original.len());
            let text = Command::new("pdftotext").args(["-f", "1", "-l", "1"]).arg(&path).arg("-").output();
            let Ok(text) = text else {
                skip("pdftotext is not here");
                continue;
            };
            // On a page of a few points the lines wrap.
            let text: String = String::from_utf8_lossy(&text.stdout).split_whitespace().collect();
            assert!(text.contains(&format!("patient_id:{patient}")), "{name}: {text}");
            assert!(text.contains("patient_name:Żółć"), "{name}: {text}");
        }
        assert!(stamped * 100 >= documents.len() * 99, "{stamped} of {} are stamped", documents.len());
        assert_eq!(server.count("lab", "failed_now"), 0);
    }
}

#[test]
fn what_cannot_be_stamped_is_delivered_as_it_came_and_counted() {
    let documents = by_verdict(&["password_required", "zero_pages"]);
    if documents.is_empty() {
        return skip("the corpus is not here");
    }
    let (site, port, server) = stamping(json!({}));
    for (n, pdf) in documents.values().enumerate() {
        send(port, &format!("C{n}"), "P", pdf);
    }
    let dropped = wait_files(&site.path("drop"), ".pdf", documents.len());
    for (path, bytes) in dropped {
        let n: usize = path.file_stem().unwrap().to_str().unwrap()[1..].parse().unwrap();
        assert!(documents.values().nth(n) == Some(&bytes), "{path:?} is not as it came");
    }
    server.wait_count("lab", "unstamped", documents.len() as u64);
    assert!(site.log().contains("an attachment is delivered without its stamp: it needs a password"));
}

#[test]
fn on_stamp_failure_fail_lists_the_message_with_the_reason() {
    let (site, port, _server) = stamping(json!({"on_stamp_failure": "fail"}));
    send(port, "BROKEN", "P", b"%PDF-1.4 and nothing that could be a page");
    let failed = within(PATIENCE, "the message fails", || {
        Some(site.list(&["failed", "list"])).filter(|list| !list.is_empty())
    });
    let reason = failed[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("cannot stamp the attachment: "), "{reason}");
    assert!(support::files(&site.path("drop"), ".pdf").is_empty());
}

#[test]
fn try_shows_the_stamped_pdf_and_the_names_without_a_server() {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("lab", port);
    channel["message_types"] = json!({"*": "document"});
    channel["drop_folders"] = json!({"ward": {"path": site.text("drop")}});
    channel["mapping"] = json!({"patient_id": "PID.1.3.1"});
    channel["add_metadata_to_attachment"] = json!(true);
    site.configure(json!({"channels": [channel]}));
    let pdf = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/demo/lab-report.pdf")).unwrap();
    fs::write(site.path("message.hl7"), oru("C1", "4711", &pdf)).unwrap();
    let ran = site
        .run(&["try", &site.text("message.hl7"), "--channel", "lab", "--out", &site.text("looked")])
        .good();
    assert!(ran.stdout.contains("value     patient_id = 4711"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains(&format!("{}/C1.pdf (drop_folder:ward", site.text("drop"))),
        "{}",
        ran.stdout
    );
    let stamped = fs::read(site.path("looked/drop_folder_ward/C1.pdf")).unwrap();
    assert!(stamped.starts_with(&pdf) && stamped.len() > pdf.len());
    assert!(!site.path("drop").exists(), "nothing is delivered");

    fs::write(site.path("refused.hl7"), "MSH|^~\\&|A|B|C|D|1||ADT^A01||P|2.5\r").unwrap();
    let ran = site.run(&["try", &site.text("refused.hl7"), "--channel", "lab"]);
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(ran.stdout.contains("answer    AE: message control id is empty"), "{}", ran.stdout);
}
