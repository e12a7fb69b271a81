//! Messages are indexed in Solr whatever Solr does meanwhile, and the filter of resend asks there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::http_server::{Certificate, Reply};
use support::messages::{adt, typed};
use support::mllp::Peer;
use support::solr::{Core, PASSWORD, Solr, USER};
use support::{PATIENCE, Server, Site, wait_files, within};

/// How long a peer is down: long enough for several attempts. `HL7SERVER_TEST_OUTAGE_S=30` for the long form.
fn outage() -> Duration {
    let seconds = std::env::var("HL7SERVER_TEST_OUTAGE_S").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// A site with an indexing channel `adt` and a double of Solr.
struct Indexing {
    site: Site,
    port: u16,
    solr: Solr,
}

impl Indexing {
    #[track_caller]
    fn prepare(cores: &[&str]) -> Indexing {
        let mut site = Site::new();
        let (port, solr_port) = (site.port(), site.port());
        let solr = Solr::start(solr_port, None, cores);
        let indexing = Indexing { site, port, solr };
        indexing.configure(json!({}), json!({}));
        indexing
    }

    /// With these keys on top of those of the server of Solr and of the channel.
    fn configure(&self, server: Value, channel: Value) {
        let mut solr = json!({
            "name": "127.0.0.1", "port": self.solr.port(), "protocol": "http", "user": USER, "password": PASSWORD,
            "active_cores": ["hl7"], "timeout": 2,
        });
        let mut adt = self.site.store_channel("adt", self.port);
        adt["mapping"] = json!({"patient_id": "PID.1.3.1", "family_name": "PID.1.5.1"});
        adt["solr_segments"] = json!(["PID", "PV1"]);
        for (target, keys) in [(&mut solr, server), (&mut adt, channel)] {
            for (key, value) in keys.as_object().unwrap() {
                target[key] = value.clone();
            }
        }
        self.site.configure(json!({"store_solr": true, "solr_servers": [solr], "channels": [adt]}));
    }

    /// Sends messages of these numbers, three patients in turn; returns their ids in order.
    #[track_caller]
    fn send(&self, numbers: std::ops::Range<usize>) -> Vec<(String, String)> {
        let mut peer = Peer::connect(self.port);
        numbers
            .map(|n| {
                let (control_id, patient) = (format!("M{n:03}"), format!("P{}", n % 3));
                let answer = peer.exchange(&adt(&control_id, &patient));
                answer.accepts(control_id.as_bytes());
                (answer.message_id(), patient)
            })
            .collect()
    }

    /// Waits until exactly these messages are indexed, in the order of each patient.
    #[track_caller]
    fn indexed(&self, messages: &[(String, String)]) {
        within(PATIENCE, "all messages are indexed", || {
            (self.solr.documents("hl7").len() >= messages.len()).then_some(())
        });
        let documents = self.solr.documents("hl7");
        let ids: Vec<&String> = documents.keys().collect();
        assert_eq!(documents.len(), messages.len(), "{ids:?}");
        let mut first: BTreeMap<String, usize> = BTreeMap::new();
        for (at, (_, id)) in self.solr.state().arrivals.iter().enumerate() {
            first.entry(id.clone()).or_insert(at);
        }
        for patient in ["P0", "P1", "P2"] {
            let of_patient = messages.iter().filter(|(_, p)| p == patient);
            let places: Vec<usize> = of_patient.map(|(id, _)| first[id]).collect();
            assert!(places.is_sorted(), "{patient}: {places:?}");
        }
    }
}

/// Waits until so many messages are done, and none waits any more.
#[track_caller]
fn delivered(server: &Server, channel: &str, count: u64) {
    server.wait_count(channel, "delivered", count);
    within(PATIENCE, "nothing waits any more", || (server.count(channel, "waiting") == 0).then_some(()));
}

#[test]
fn a_message_is_indexed_over_tls_with_all_its_values_in_a_core_made_for_it() {
    let mut site = Site::new();
    let (port, solr_port) = (site.port(), site.port());
    let certificate = Certificate::make(&site.path("tls"), "solr");
    let ca_file = certificate.certificate.clone();
    let indexing = Indexing { solr: Solr::start(solr_port, Some(certificate), &[]), site, port };
    indexing.configure(json!({"protocol": "https", "ca_file": ca_file}), json!({}));
    let server = indexing.site.start();
    let sent = indexing.send(0..1);
    indexing.indexed(&sent);
    assert_eq!(indexing.solr.state().created, ["hl7"]);
    let document = &indexing.solr.documents("hl7")[&sent[0].0];
    for (field, value) in [
        ("channel_s", json!("adt")),
        ("type_s", json!("ADT^A01")),
        ("control_id_s", json!("M000")),
        ("patient_id_s", json!("P0")),
        ("family_name_s", json!("Musterfrau")),
        ("PID_5_ss", json!(["Musterfrau", "Erika"])),
        ("PV1_2_ss", json!(["I"])),
    ] {
        assert_eq!(document[field], value, "{field}");
    }
    assert!(document["peer_s"].as_str().unwrap().starts_with("127.0.0.1:"), "{document:#}");
    delivered(&server, "adt", 1);
}

#[test]
fn solr_down_delays_indexing_and_nothing_else_and_what_waited_arrives_in_order_once() {
    let mut indexing = Indexing::prepare(&["hl7"]);
    indexing.solr.down();
    let server = indexing.site.start();
    let begun = Instant::now();
    let mut sent = indexing.send(0..40);
    let archive = indexing.site.path("archive/adt");
    wait_files(&archive, ".hl7", 40);
    within(PATIENCE, "the queue says what they wait for", || {
        let queue = indexing.site.list(&["queue", "list"]);
        let refused = |entry: &&Value| {
            entry["step"] == "solr"
                && entry["reason"].as_str().is_some_and(|r| r.ends_with("connection refused"))
        };
        (queue.len() == 40 && queue.iter().any(|entry| refused(&entry))).then_some(())
    });
    within(outage() + PATIENCE, "the outage", || (begun.elapsed() > outage()).then_some(()));
    indexing.solr.up();
    sent.extend(indexing.send(40..60));
    indexing.indexed(&sent);
    delivered(&server, "adt", 60);
    assert_eq!(indexing.site.list(&["failed", "list"]), Vec::<Value>::new());
    // They went in batches, over few connections.
    let requests = indexing.solr.requests();
    let updates = requests.iter().filter(|r| r.path.ends_with("/update")).count();
    assert!(updates <= 30, "{updates} requests for 60 documents");
}

#[test]
fn solr_that_answers_nothing_holds_back_its_own_step_only() {
    let indexing = Indexing::prepare(&["hl7"]);
    let server = indexing.site.start();
    indexing.solr.state().next_updates.extend((0..4).map(|_| Reply::Silence));
    let begun = Instant::now();
    let sent = indexing.send(0..20);
    wait_files(&indexing.site.path("archive/adt"), ".hl7", 20);
    assert!(begun.elapsed() < Duration::from_secs(2), "the archive waited for solr: {:?}", begun.elapsed());
    indexing.indexed(&sent);
    delivered(&server, "adt", 20);
}

#[test]
fn a_core_that_still_loads_delays_neither_the_start_nor_the_acknowledgment() {
    let indexing = Indexing::prepare(&[]);
    indexing.solr.state().cores.insert("hl7".to_owned(), Core::Loading(15));
    let server = indexing.site.start();
    let sent = indexing.send(0..3);
    assert_eq!(indexing.solr.documents("hl7").len(), 0, "not while it loads");
    indexing.indexed(&sent);
    delivered(&server, "adt", 3);
}

#[test]
fn a_password_that_is_changed_meanwhile_fails_no_message_and_stays_secret() {
    let indexing = Indexing::prepare(&["hl7"]);
    indexing.solr.state().password = Some("Basic other".to_owned());
    let server = indexing.site.start();
    let sent = indexing.send(0..6);
    within(PATIENCE, "the queue says that the user was refused", || {
        let queue = indexing.site.list(&["queue", "list"]);
        let refused = |e: &Value| e["reason"].as_str().is_some_and(|r| r.contains("refused user"));
        queue.iter().any(refused).then_some(())
    });
    indexing.solr.state().password = None;
    indexing.indexed(&sent);
    delivered(&server, "adt", 6);
    assert_eq!(indexing.site.list(&["failed", "list"]), Vec::<Value>::new());
    let log = indexing.site.log();
    assert!(!log.contains(PASSWORD) && !log.contains("aXN0bWlh"), "the password is in the log");
}

#[test]
fn a_document_that_solr_refuses_fails_by_itself_without_a_word_of_the_patient_and_can_be_tried_again() {
    let indexing = Indexing::prepare(&["hl7"]);
    // A schema in which somebody declared this field a number, and batches that hold good and bad ones.
    indexing.solr.state().numbers.insert("patient_id_s".to_owned());
    indexing.solr.state().next_updates.push_back(Reply::of(503, "text/html", "starting"));
    let server = indexing.site.start();
    let mut peer = Peer::connect(indexing.port);
    let mut good = Vec::new();
    for n in 0..9 {
        let control_id = format!("M{n}");
        let patient = if n == 4 { "Rumpelstilzchen" } else { &format!("{n}") };
        let answer = peer.exchange(&adt(&control_id, patient));
        answer.accepts(control_id.as_bytes());
        if n != 4 {
            good.push(answer.message_id());
        }
    }
    let failed = within(PATIENCE, "one message fails", || {
        let failed = indexing.site.list(&["failed", "list"]);
        (failed.len() == 1).then(|| failed[0].clone())
    });
    assert_eq!((failed["step"].as_str(), failed["control_id"].as_str()), (Some("solr"), Some("M4")));
    assert!(failed["reason"].as_str().unwrap().contains("because of field patient_id_s (400)"), "{failed:#}");
    within(PATIENCE, "the others are indexed", || {
        let documents = indexing.solr.documents("hl7");
        good.iter().all(|id| documents.contains_key(id)).then_some(())
    });
    assert!(!indexing.site.log().contains("Rumpelstilzchen"), "a patient's data is in the log");

    indexing.solr.state().numbers.clear();
    indexing.site.run(&["failed", "retry", failed["id"].as_str().unwrap()]).good();
    within(PATIENCE, "it is indexed", || (indexing.solr.documents("hl7").len() == 9).then_some(()));
    delivered(&server, "adt", 9);
}

#[test]
fn the_filter_forwards_what_solr_says_and_waits_while_it_cannot_say() {
    let mut site = Site::new();
    let (port, target, solr_port) = (site.port(), site.port(), site.port());
    let mut solr = Solr::start(solr_port, None, &["pacs"]);
    for (accession, institution) in [("A1", "MAIN"), ("A2", "ELSEWHERE"), ("A3 OR *:*", "MAIN")] {
        let study = json!({"AccessionNumber_s": accession, "Institution_ss": [institution]});
        solr.state().documents.entry("pacs".to_owned()).or_default().insert(accession.to_owned(), study);
    }
    let mut from = site.store_channel("from", port);
    from["resend"] = json!({
        "server": "127.0.0.1", "port": target, "timeout": 2,
        "filter": {
            "source_core": "pacs", "match_source": "OBR.1.3.1", "match_field": "AccessionNumber_s",
            "search_field": "Institution_ss", "match_values": ["MAIN"],
        },
    });
    let server = json!({
        "name": "127.0.0.1", "port": solr_port, "protocol": "http", "user": USER, "password": PASSWORD, "timeout": 2,
    });
    site.configure(json!({"solr_servers": [server], "channels": [from, site.store_channel("to", target)]}));
    let running = site.start();
    let mut peer = Peer::connect(port);
    let mut order = |control_id: &str, accession: &str| {
        let mut body = typed("ORM^O01", control_id, "P1");
        body.extend_from_slice(format!("OBR|1||{accession}\r").as_bytes());
        peer.exchange(&body).accepts(control_id.as_bytes());
        body
    };
    let mut forwarded = vec![order("YES", "A1")];
    order("NO", "A2");
    order("UNKNOWN", "A4");
    order("EVERYTHING", "*:*");
    order("NOTHING", "");
    delivered(&running, "from", 5);
    solr.down();
    forwarded.push(order("LATER", "A3 OR *:*"));
    order("LATER-NO", "A2");
    within(PATIENCE, "they wait for solr", || {
        let queue = site.list(&["queue", "list"]);
        let waits =
            |e: &Value| e["step"] == "resend" && e["reason"].as_str().is_some_and(|r| r.contains("solr"));
        (queue.len() == 2 && queue.iter().any(waits)).then_some(())
    });
    solr.up();
    delivered(&running, "from", 7);
    let mut arrived: Vec<Vec<u8>> =
        wait_files(&site.path("archive/to"), ".hl7", 2).into_iter().map(|(_, body)| body).collect();
    arrived.sort();
    forwarded.sort();
    assert_eq!(arrived, forwarded);
    assert_eq!(site.list(&["failed", "list"]), Vec::<Value>::new());
}
