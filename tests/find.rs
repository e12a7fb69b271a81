//! Finding messages: what was delivered, failed or waits is found by what is known of it, and the index comes back when
//! it is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};
use support::messages::{adt, typed};
use support::mllp::Peer;
use support::{PATIENCE, Server, Site, process, within};

/// A channel that archives, fails what has no PV1-19, and names patients by their id.
fn channel(site: &Site, name: &str, port: u16) -> Value {
    let mut channel = site.store_channel(name, port);
    channel["patient_id_field"] = json!("PID.1.3.1");
    channel
}

fn site() -> (Site, Server, u16) {
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"channels": [channel(&site, "adt", port)]}));
    let server = site.start();
    (site, server, port)
}

/// What `find` lists, once it lists so many.
#[track_caller]
fn find(site: &Site, arguments: &[&str], wanted: usize) -> Vec<Value> {
    within(PATIENCE, &format!("find {arguments:?} lists {wanted}"), || {
        // An index that is damaged is told of until its worker has made it anew.
        let ran = site.run(&[&["find", "--json"], arguments].concat());
        let found: Vec<Value> =
            ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (ran.code == Some(0) && found.len() == wanted).then_some(found)
    })
}

#[test]
fn what_was_delivered_is_found_by_what_is_known_of_it() {
    let (site, _server, port) = site();
    let mut peer = Peer::connect(port);
    for (control_id, patient) in [("A1", "4711"), ("A2", "4711"), ("A3", "4712")] {
        peer.exchange(&adt(control_id, patient)).accepts(control_id.as_bytes());
    }
    peer.exchange(&typed("ORU^R01", "B1", "4711")).accepts(b"B1");
    find(&site, &[], 4);
    assert_eq!(find(&site, &["--control-id", "A2"], 1)[0]["outcome"], "done");
    find(&site, &["--patient-id", "4711"], 3);
    find(&site, &["--patient-id", "4711", "--type", "ORU^R01"], 1);
    find(&site, &["--since", "1h", "--until", "now", "--channel", "adt"], 4);
    find(&site, &["--until", "1h"], 0);
    find(&site, &["--outcome", "failed"], 0);
    let latest = find(&site, &["--limit", "1"], 1);
    assert_eq!(latest[0]["control_id"], "B1");
    let table = site.run(&["find", "--limit", "2"]).good();
    assert!(table.stdout.starts_with("CHANNEL") && table.stdout.contains("A3"), "{table:#?}");
    assert!(table.stderr.contains("there are more"), "{table:#?}");
    assert!(!table.stdout.contains('\u{1b}'), "colours without a terminal: {table:#?}");
}

#[test]
fn what_was_found_is_shown_from_the_archive_once_the_journal_has_let_it_go() {
    let (site, mut server, port) = site();
    Peer::connect(port).exchange(&adt("A1", "4711")).accepts(b"A1");
    let id = find(&site, &["--control-id", "A1"], 1)[0]["id"].as_str().unwrap().to_owned();
    server.stop();
    fs::remove_dir_all(site.path("state/adt/journal")).unwrap();
    let shown = site.run(&["show", &id]).good();
    assert!(shown.stdout.contains("Musterfrau"), "{shown:#?}");
    // Without the server the index answers too.
    find(&site, &["--patient-id", "4711"], 1);
}

#[test]
fn what_fails_is_found_and_what_became_of_it() {
    let mut site = Site::new();
    let port = site.port();
    let mut failing = channel(&site, "adt", port);
    failing["archive_first"] = json!(true);
    failing["mapping"] = json!({"visit": "PV1.1.19"});
    site.configure(json!({"channels": [failing]}));
    let _server = site.start();
    let mut peer = Peer::connect(port);
    for control_id in ["F1", "F2"] {
        peer.exchange(&adt(control_id, "1")).accepts(control_id.as_bytes());
    }
    let failed = find(&site, &["--outcome", "failed"], 2);
    assert_eq!(failed[0]["step"], "mapping");
    assert!(failed[0]["archived"].as_str().unwrap().ends_with("_F1.hl7"), "{failed:?}");
    site.run(&["failed", "discard", failed[0]["id"].as_str().unwrap()]).good();
    assert_eq!(find(&site, &["--outcome", "discarded"], 1)[0]["control_id"], "F1");
    find(&site, &["--outcome", "failed"], 1);
}

#[test]
fn a_lost_index_is_made_anew_from_archive_and_failed_folder() {
    let mut site = Site::new();
    let port = site.port();
    let mut strict = channel(&site, "adt", port);
    strict["mapping"] = json!({"event": "EVN.1.2", "class": "PV1.1.2"});
    site.configure(json!({"channels": [strict]}));
    let mut server = site.start();
    let mut peer = Peer::connect(port);
    for n in 0..5 {
        let control_id = format!("A{n}");
        peer.exchange(&adt(&control_id, "4711")).accepts(control_id.as_bytes());
    }
    let bad = String::from_utf8(adt("BAD", "4712")).unwrap().replace("PV1|1|I|WARD^1^2\r", "");
    peer.exchange(bad.as_bytes()).accepts(b"BAD");
    find(&site, &[], 6);
    server.stop();
    // Of a worker that was not given the time to close it there is a log beside it, which would mend it.
    let _ = fs::remove_file(site.path("state/adt/index.sqlite-wal"));
    fs::write(site.path("state/adt/index.sqlite"), "no database").unwrap();
    let ran = site.run(&["find"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("could not read index"), "{ran:#?}");
    server.start_again(&site);
    let found = find(&site, &["--patient-id", "4711"], 5);
    assert!(found.iter().all(|f| f["outcome"] == "archived"), "{found:?}");
    assert_eq!(find(&site, &["--outcome", "failed"], 1)[0]["control_id"], "BAD");
    // While it runs, too.
    fs::remove_file(site.path("state/adt/index.sqlite")).unwrap();
    Peer::connect(port).exchange(&adt("NEW", "4711")).accepts(b"NEW");
    find(&site, &["--patient-id", "4711"], 6);
}

#[test]
fn after_kill_9_nothing_that_was_delivered_is_missing() {
    let (site, server, port) = site();
    let mut peer = Peer::connect(port);
    for n in 0..200 {
        let control_id = format!("A{n}");
        peer.exchange(&adt(&control_id, "4711")).accepts(control_id.as_bytes());
        if n == 120 {
            process::kill(server.worker(port));
            peer = within(PATIENCE, "the next worker answers", || Peer::try_connect(port).ok());
        }
    }
    server.wait_count("adt", "waiting", 0);
    let found = find(&site, &["--limit", "1000"], 200);
    let mut control_ids: Vec<&str> = found.iter().map(|f| f["control_id"].as_str().unwrap()).collect();
    control_ids.sort_unstable();
    control_ids.dedup();
    assert_eq!(control_ids.len(), 200);
}

#[test]
fn an_index_that_cannot_be_written_delays_nothing() {
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"channels": [channel(&site, "adt", port)]}));
    fs::create_dir_all(site.path("state/adt/index.sqlite/full")).unwrap();
    let server = site.start();
    let mut peer = Peer::connect(port);
    let begun = Instant::now();
    for n in 0..50 {
        let control_id = format!("A{n}");
        peer.exchange(&adt(&control_id, "4711")).accepts(control_id.as_bytes());
    }
    server.wait_count("adt", "delivered", 50);
    assert!(begun.elapsed() < Duration::from_secs(20));
    within(PATIENCE, "the log says so", || site.log().contains("find may miss messages").then_some(()));
    fs::remove_dir_all(site.path("state/adt/index.sqlite")).unwrap();
    find(&site, &[], 50);
}
