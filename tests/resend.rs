//! Messages sent on to another HL7 server: to this one, to servers that others wrote, to peers that misbehave.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use support::certificates::{Ca, Good, Key};
use support::messages::{PDF_FIELD, adt, oru};
use support::mllp::Peer;
use support::peer::{Foreign, Receives, answer, answer_to, control_id, meanwhile};
use support::{PATIENCE, Server, Site, files, process, wait_files, within};

/// A running channel `adt` that archives and sends on to a port of ours.
struct Forwarder {
    site: Site,
    port: u16,
    to: u16,
    server: Server,
}

impl Forwarder {
    #[track_caller]
    fn start(resend: Value) -> Forwarder {
        Forwarder::with(resend, |_, _| {})
    }

    #[track_caller]
    fn with(resend: Value, change: impl FnOnce(&mut Site, &mut Value)) -> Forwarder {
        let mut site = Site::new();
        let (port, to) = (site.port(), site.port());
        let mut channel = site.store_channel("adt", port);
        channel["resend"] = json!({"server": "127.0.0.1", "port": to, "timeout": 1});
        for (key, value) in resend.as_object().unwrap() {
            channel["resend"][key] = value.clone();
        }
        let mut config = json!({"channels": [channel]});
        change(&mut site, &mut config);
        if config["channels"].as_array().unwrap().len() > 1 {
            config["channels"][1]["port"] = json!(to);
        }
        site.configure(config);
        let server = site.start();
        Forwarder { site, port, to, server }
    }

    /// Sends messages of five patients by turns; returns them in order.
    #[track_caller]
    fn send(&self, count: usize) -> Vec<Vec<u8>> {
        let messages: Vec<Vec<u8>> =
            (0..count).map(|n| adt(&format!("M{n:04}"), &format!("P{}", n % 5))).collect();
        let mut peer = Peer::connect(self.port);
        for body in &messages {
            peer.exchange(body).accepts(control_id(body).as_bytes());
        }
        messages
    }

    /// Waits until nothing waits any more.
    #[track_caller]
    fn drained(&self) {
        within(PATIENCE, "nothing waits any more", || self.site.is_drained().then_some(()));
    }

    /// The reason why the only message that waits does so.
    #[track_caller]
    fn waits_for(&self) -> String {
        within(PATIENCE, "a message waits for resend", || {
            let queue = self.site.list(&["queue", "list"]);
            let entry = queue.iter().find(|entry| entry["step"] == "resend")?;
            entry["reason"].as_str().filter(|reason| !reason.is_empty()).map(str::to_owned)
        })
    }
}

/// Each message came, those of a patient in order; once each where `once`.
#[track_caller]
fn assert_came(bodies: &[Vec<u8>], sent: &[Vec<u8>], once: bool) {
    let mut first: Vec<&Vec<u8>> = Vec::new();
    let mut seen = BTreeSet::new();
    for body in bodies {
        if seen.insert(body) {
            first.push(body);
        } else {
            assert!(!once, "{} came twice", control_id(body));
        }
    }
    assert_eq!(first.len(), sent.len(), "all of them, and no others");
    let by_patient = |bodies: &[&Vec<u8>]| -> BTreeMap<String, Vec<String>> {
        let mut of = BTreeMap::<String, Vec<String>>::new();
        for body in bodies {
            let patient = String::from_utf8_lossy(body).split("PID|1||").nth(1).unwrap()[..2].to_owned();
            of.entry(patient).or_default().push(control_id(body));
        }
        of
    };
    assert_eq!(by_patient(&first), by_patient(&sent.iter().collect::<Vec<_>>()), "in order");
}

#[test]
fn the_product_itself_takes_what_is_resent_byte_for_byte_through_kills() {
    let forwarder = Forwarder::with(json!({}), |site, config| {
        let channel = site.store_channel("ris", 0);
        config["channels"].as_array_mut().unwrap().push(channel);
    });
    let mut sent = forwarder.send(60);
    process::kill(forwarder.server.worker(forwarder.to));
    let more: Vec<Vec<u8>> = (100..160).map(|n| adt(&format!("M{n:04}"), &format!("P{}", n % 5))).collect();
    let mut peer = Peer::connect(forwarder.port);
    for (n, body) in more.iter().enumerate() {
        peer.exchange(body).accepts(control_id(body).as_bytes());
        if n == 20 {
            process::kill(forwarder.server.worker(forwarder.to));
        }
    }
    sent.extend(more);
    // File names begin with the time of receipt, and what comes twice is known to be a duplicate there.
    let archived = wait_files(&forwarder.site.path("archive/ris"), ".hl7", sent.len());
    forwarder.drained();
    let bodies: Vec<Vec<u8>> = archived.into_iter().map(|(_, body)| body).collect();
    assert_came(&bodies, &sent, true);
}

#[test]
fn over_tls_both_sides_show_who_they_are() {
    // The name that is expected, and the CA that the peer's certificate must be of.
    for (name, right_ca, said) in [
        ("ris.example.org", true, None),
        ("pacs.example.org", true, Some("TLS: certificate verify failed: hostname mismatch")),
        ("ris.example.org", false, Some("TLS: certificate verify failed: ")),
    ] {
        let forwarder = Forwarder::with(json!({}), |site, config| {
            let ca = Ca::new(&site.path("pki"), "Test CA");
            let other = Ca::new(&site.path("pki"), "Other CA");
            let theirs = ca.server("ris.example.org", Key::Ecdsa, Good::Days(9));
            let ours = ca.client("hl7server", None, Key::Rsa, Good::Days(9));
            let mut channel = site.store_channel("ris", 0);
            channel["tls"] =
                json!({"certificate": theirs.certificate, "key": theirs.key, "client_ca": ca.certificate()});
            config["channels"].as_array_mut().unwrap().push(channel);
            let trusted = if right_ca { &ca } else { &other };
            config["channels"][0]["resend"]["tls"] = json!({
                "ca_file": trusted.certificate(), "certificate": ours.certificate, "key": ours.key,
                "verify_name": name,
            });
            config["channels"][0]["resend"]["timeout"] = json!(5);
        });
        let sent = forwarder.send(10);
        match said {
            None => {
                let archived = wait_files(&forwarder.site.path("archive/ris"), ".hl7", 10);
                forwarder.drained();
                let bodies: Vec<Vec<u8>> = archived.into_iter().map(|(_, body)| body).collect();
                assert_came(&bodies, &sent, true);
            }
            Some(said) => {
                let reason = forwarder.waits_for();
                assert!(reason.contains(said), "{reason}");
                assert!(files(&forwarder.site.path("archive/ris"), ".hl7").is_empty());
            }
        }
    }
}

/// What a server of somebody else's wrote down, a string of JSON a line.
fn noted(path: &Path) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let complete = text.lines().filter_map(|line| serde_json::from_str::<String>(line).ok());
    complete.map(|body| format!("{}\r", body.trim_end()).into_bytes()).collect()
}

/// Sends through a server that `start` starts, which is killed and started again in between.
#[track_caller]
fn through_another_server(start: impl Fn(&Forwarder, &Path) -> Option<Foreign>) {
    let forwarder = Forwarder::start(json!({"timeout": 5}));
    let notes = forwarder.site.path("notes");
    let Some(foreign) = start(&forwarder, &notes) else { return };
    let mut sent = forwarder.send(40);
    within(PATIENCE, "half of them resent", || (noted(&notes).len() >= 20).then_some(()));
    drop(foreign);
    let more: Vec<Vec<u8>> = (100..140).map(|n| adt(&format!("M{n:04}"), &format!("P{}", n % 5))).collect();
    let mut peer = Peer::connect(forwarder.port);
    for body in &more {
        peer.exchange(body).accepts(control_id(body).as_bytes());
    }
    sent.extend(more);
    let _foreign = start(&forwarder, &notes);
    forwarder.drained();
    let bodies = noted(&notes);
    assert_came(&bodies, &sent, false);
    // The message under way at the kill, and what the server itself takes twice before it is found out.
    assert!(bodies.len() <= sent.len() + 3, "{} for {} messages", bodies.len(), sent.len());
}

#[test]
fn the_server_of_pypi_hl7_takes_them() {
    through_another_server(|f, notes| {
        Foreign::python("pypi_hl7.py", f.to, &[notes], &f.site.path("peer.log"))
    });
}

#[test]
fn npm_node_hl7_server_takes_them() {
    through_another_server(|f, notes| {
        Foreign::node("node-hl7-server", "node_hl7_server.js", f.to, &[notes], &f.site.path("peer.log"))
    });
}

#[test]
fn one_connection_carries_all_while_the_peer_is_sound() {
    let forwarder = Forwarder::start(json!({}));
    let peer = Receives::start(forwarder.to, Box::new(|body| answer("AA", body)));
    let sent = forwarder.send(100);
    forwarder.drained();
    assert_came(&peer.bodies(), &sent, true);
    assert_eq!(peer.connections(), 1);
}

#[test]
fn a_peer_that_is_not_there_holds_back_resend_alone() {
    let forwarder = Forwarder::start(json!({}));
    let sent = forwarder.send(20);
    wait_files(&forwarder.site.path("archive/adt"), ".hl7", 20);
    let expected =
        format!("could not connect to resend peer \"127.0.0.1:{}\": connection refused", forwarder.to);
    assert_eq!(forwarder.waits_for(), expected);
    let peer = Receives::start(forwarder.to, Box::new(|body| answer("AA", body)));
    forwarder.drained();
    assert_came(&peer.bodies(), &sent, true);
}

#[test]
fn a_peer_that_hangs_holds_back_resend_alone() {
    let forwarder = Forwarder::start(json!({}));
    let peer = Receives::start(forwarder.to, Box::new(|_| Vec::new()));
    let begun = Instant::now();
    let sent = forwarder.send(50);
    wait_files(&forwarder.site.path("archive/adt"), ".hl7", 50);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let reason = forwarder.waits_for();
    assert!(reason.starts_with("no answer from resend peer "), "{reason}");
    drop(peer);
    let peer = Receives::start(forwarder.to, Box::new(|body| answer("AA", body)));
    forwarder.drained();
    assert_came(&peer.bodies(), &sent, true);
}

#[test]
fn odd_answers_are_sent_again_for_until_a_sound_one_comes() {
    // Each message meets all of these in turn: late, another's, garbage, half, AE, and then AA.
    let forwarder = Forwarder::start(json!({"timeout": 0.5}));
    let mut tries = BTreeMap::<String, usize>::new();
    let peer = Receives::start(
        forwarder.to,
        Box::new(move |body| {
            let tried = tries.entry(control_id(body)).or_default();
            *tried += 1;
            match tried {
                1 => {
                    std::thread::sleep(Duration::from_millis(700));
                    answer("AA", body)
                }
                2 => answer_to("AA", "somebody-else's"),
                3 => b"\x0bgarbage\x1c\r".to_vec(),
                4 => answer("AA", body)[..40].to_vec(),
                5 => answer("AE", body),
                _ => answer("AA", body),
            }
        }),
    );
    let sent = forwarder.send(2);
    forwarder.drained();
    let bodies = peer.bodies();
    assert_came(&bodies, &sent, false);
    assert_eq!(bodies.len(), 12, "each of them six times");
    assert!(forwarder.site.list(&["failed", "list"]).is_empty());
}

#[test]
fn a_rejected_message_is_listed_as_failed_without_what_the_peer_says_of_the_patient() {
    let forwarder = Forwarder::start(json!({}));
    let _peer = Receives::start(
        forwarder.to,
        Box::new(|body| {
            let text = format!(
                "MSH|^~\\&|B|B|A|A|2026||ACK|X|P|2.5\rMSA|{}|{}|Musterfrau is unknown\rERR||PID^1^5|{}^Musterfrau\r",
                if control_id(body) == "M0000" { "AR" } else { "AE" },
                control_id(body),
                if control_id(body) == "M0000" { "204" } else { "102" },
            );
            support::mllp::frame(text.as_bytes())
        }),
    );
    forwarder.send(2);
    let failed = within(PATIENCE, "both fail", || {
        let failed = forwarder.site.list(&["failed", "list"]);
        (failed.len() == 2).then_some(failed)
    });
    let mut reasons: Vec<&str> = failed.iter().filter_map(|f| f["reason"].as_str()).collect();
    reasons.sort_unstable();
    let peer = format!("resend peer \"127.0.0.1:{}\"", forwarder.to);
    assert_eq!(
        reasons,
        [format!("{peer} answered AE with error 102"), format!("{peer} answered AR with error 204")]
    );
    let log = fs::read_to_string(forwarder.site.log_path()).unwrap();
    assert!(!log.contains("Musterfrau"), "a patient in the log");
}

#[test]
fn after_processing_waits_for_every_other_step() {
    for after in [true, false] {
        let forwarder = Forwarder::with(json!({"after_processing": after}), |site, config| {
            let channel = &mut config["channels"][0];
            channel["message_types"] = json!({"*": "document"});
            channel["attachment_field"] = json!(PDF_FIELD);
            channel["drop_folders"] = json!({"ward": {"path": site.text("ward/drop")}});
            // A file where the folder's parent should be: it cannot be made.
            fs::write(site.path("ward"), b"").unwrap();
        });
        let peer = Receives::start(forwarder.to, Box::new(|body| answer("AA", body)));
        let (body, _) = oru("DOC1", "P1");
        Peer::connect(forwarder.port).exchange(&body).accepts(b"DOC1");
        wait_files(&forwarder.site.path("archive/adt"), ".hl7", 1);
        if after {
            meanwhile();
            assert_eq!(peer.bodies().len(), 0, "sent on before the drop was done");
        } else {
            peer.wait(1);
        }
        assert!(files(&forwarder.site.path("ward"), ".pdf").is_empty());
        fs::remove_file(forwarder.site.path("ward")).unwrap();
        wait_files(&forwarder.site.path("ward/drop"), ".pdf", 1);
        assert_eq!(peer.wait(1), [body]);
        forwarder.drained();
        assert_eq!(peer.bodies().len(), 1);
    }
}
