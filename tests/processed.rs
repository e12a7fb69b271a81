//! `ack: processed`: the answer waits for the plan to end, and at every moment either the sender or the server has the
//! message, never both and never neither.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::load::{Load, assert_archived_once};
use support::messages::{self, PDF_FIELD, adt, typed};
use support::mllp::{Acknowledgment, Peer, Reply};
use support::{ANSWER, PATIENCE, Server, Site, files, process, wait_files, within};

/// Long enough for an answer that must not come to have come.
const QUIET: Duration = Duration::from_millis(700);

/// The drop folder. It is below the archive, so that a worker that starts while it is dead has it in its sandbox all the
/// same: elsewhere a fresh worker would take over when it heals, and no connection would outlive that.
const DROP: &str = "archive/doc/drop";

/// A running channel that archives messages and documents and drops documents, and answers when that is done.
struct Processed {
    site: Site,
    port: u16,
    server: Server,
    channel: Value,
}

impl Processed {
    /// With these keys on top.
    #[track_caller]
    fn with(keys: Value) -> Processed {
        Processed::prepared(keys, |_| {})
    }

    /// The same with a drop folder that is dead until [`Processed::heal`].
    #[track_caller]
    fn dead(keys: Value) -> Processed {
        let processed = Processed::prepared(keys, |site| fs::create_dir_all(site.path(DROP)).unwrap());
        processed.kill();
        processed
    }

    #[track_caller]
    fn prepared(keys: Value, prepare: impl FnOnce(&Site)) -> Processed {
        let mut site = Site::new();
        let port = site.port();
        let mut channel = site.store_channel("doc", port);
        channel["ack"] = json!("processed");
        channel["message_types"] = json!({"ADT": "store"});
        channel["attachment_field"] = json!(PDF_FIELD);
        channel["attachment_format"] = json!("pdf");
        channel["local_archive"]["attachment"] = json!(site.text("documents"));
        channel["drop_folders"] = json!({"drop": {"path": site.text(DROP)}});
        channel["retry"] = json!({"first": 0.1, "longest": 0.2, "give_up": "1h"});
        for (key, value) in keys.as_object().unwrap() {
            channel[key] = value.clone();
        }
        prepare(&site);
        site.configure(json!({"channels": [channel]}));
        let server = site.start();
        Processed { site, port, server, channel }
    }

    fn connect(&self) -> Peer {
        Peer::connect(self.port)
    }

    /// The folder goes out of the way of a file.
    fn kill(&self) {
        fs::rename(self.site.path(DROP), self.site.path("aside")).unwrap();
        fs::write(self.site.path(DROP), b"in the way").unwrap();
    }

    fn heal(&self) {
        fs::remove_file(self.site.path(DROP)).unwrap();
        fs::rename(self.site.path("aside"), self.site.path(DROP)).unwrap();
    }

    fn archived(&self) -> Vec<(PathBuf, Vec<u8>)> {
        files(&self.site.path("archive/doc"), ".hl7")
    }

    fn dropped(&self) -> Vec<(PathBuf, Vec<u8>)> {
        files(&self.site.path(DROP), ".pdf")
    }

    /// Fails unless every document and message is everywhere it belongs exactly once, at this moment.
    #[track_caller]
    fn is_once_everywhere(&self, bodies: &[&[u8]], documents: &[&[u8]]) {
        let sorted = |found: Vec<(PathBuf, Vec<u8>)>| {
            let mut found: Vec<Vec<u8>> = found.into_iter().map(|(_, bytes)| bytes).collect();
            found.sort();
            found
        };
        let right = |right: &[&[u8]]| {
            let mut right: Vec<Vec<u8>> = right.iter().map(|bytes| bytes.to_vec()).collect();
            right.sort();
            right
        };
        let archived = self.archived();
        let names: Vec<_> = archived.iter().map(|(path, _)| path.clone()).collect();
        assert!(sorted(archived) == right(bodies), "archived: {names:?}, not {} messages once", bodies.len());
        for folder in ["documents", DROP] {
            let found = files(&self.site.path(folder), ".pdf");
            let names: Vec<_> = found.iter().map(|(path, _)| path.clone()).collect();
            assert!(sorted(found) == right(documents), "{names:?}, not {} documents once", documents.len());
        }
    }

    /// Fails unless the server has nothing of what it gave back.
    #[track_caller]
    fn keeps_nothing(&self) {
        within(PATIENCE, "nothing waits", || self.site.list(&["queue", "list"]).is_empty().then_some(()));
        assert_eq!(self.site.list(&["failed", "list"]), Vec::<Value>::new());
        assert_eq!(files(&self.site.path("state/doc/failed"), ""), []);
    }
}

#[track_caller]
fn refused(answer: &Acknowledgment, control_id: &str, error: &str) {
    answer.refuses("AE", error);
    assert_eq!(answer.control_id(), control_id.as_bytes());
}

// ---- success

#[test]
fn an_aa_says_that_every_file_is_there() {
    let processed = Processed::with(json!({}));
    let mut peer = processed.connect();
    let (mut bodies, mut documents) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let (body, document) = messages::oru(&format!("D{n}"), &format!("P{}", n % 3));
        peer.exchange(&body).accepts(format!("D{n}").as_bytes());
        bodies.push(body);
        documents.push(document);
        let [bodies, documents] =
            [&bodies, &documents].map(|all| all.iter().map(Vec::as_slice).collect::<Vec<_>>());
        processed.is_once_everywhere(&bodies, &documents);
    }
    processed.keeps_nothing();
}

#[test]
fn an_answer_waits_for_a_fault_that_passes() {
    let processed = Processed::dead(json!({}));
    let (body, document) = messages::oru("D", "P1");
    let mut peer = processed.connect();
    peer.send(&body);
    peer.expect_silence(QUIET);
    processed.heal();
    peer.acknowledgment().accepts(b"D");
    processed.is_once_everywhere(&[&body], &[&document]);
}

#[test]
fn after_done_the_same_message_is_accepted_at_once() {
    let processed = Processed::with(json!({}));
    let (body, _) = messages::oru("D", "P1");
    let first = processed.connect().exchange(&body);
    processed.kill();
    let again = processed.connect().exchange(&body);
    again.accepts(b"D");
    assert_eq!(first.message_id(), again.message_id());
    assert_eq!((processed.archived().len(), processed.dropped().len()), (1, 0));
}

// ---- faults that stay

#[test]
fn a_mapping_that_finds_nothing_is_an_ae_and_nothing_is_kept() {
    let mut processed = Processed::with(json!({"mapping": {"ssn": "PID.1.19"}}));
    let (body, document) = messages::oru("D", "P1");
    let mut peer = processed.connect();
    let first = peer.exchange(&body);
    refused(&first, "D", "101");
    processed.keeps_nothing();
    assert_eq!(processed.server.count("doc", "failed_now"), 0);
    // Its sender has it, and sends it again when somebody has put the setting right.
    refused(&peer.exchange(&body), "D", "101");
    processed.channel["mapping"] = json!({"id": "PID.1.3.1"});
    processed.site.configure(json!({"channels": [processed.channel.clone()]}));
    processed.site.run(&["reload"]).good();
    processed.server.wait_ready();
    let again = processed.connect().exchange(&body);
    again.accepts(b"D");
    assert_eq!(first.message_id(), again.message_id(), "it resumes under its id");
    processed.is_once_everywhere(&[&body], &[&document]);
}

#[test]
fn a_message_without_its_document_is_an_ae_that_no_sender_repeats_for_ever() {
    let processed = Processed::with(json!({}));
    let mut peer = processed.connect();
    let without = typed("ORU^R01^ORU_R01", "D", "P1");
    let answer = peer.exchange(&without);
    assert_eq!(
        (answer.code().as_str(), answer.control_id().as_slice()),
        ("AE", b"D".as_slice()),
        "{answer:?}"
    );
    // 100 to 103 say that the message itself is at fault; of 207 a sender hears that it may pass (DELIVERY.md § Resend).
    let error = answer.error().unwrap_or_default();
    assert!(["100", "101", "102", "103"].contains(&error.as_str()), "{answer:?}");
    processed.keeps_nothing();
    // It holds back nobody of the same patient.
    let (body, _) = messages::oru("E", "P1");
    peer.exchange(&body).accepts(b"E");
}

#[test]
fn a_sender_that_asks_for_commit_codes_gets_them_for_the_outcome() {
    let processed = Processed::with(json!({"mapping": {"ssn": "PID.1.19"}}));
    let ask =
        |body: Vec<u8>| String::from_utf8(body).unwrap().replace("|P|2.5\r", "|P|2.5|||AL\r").into_bytes();
    let answer = processed.connect().exchange(&ask(messages::oru("D", "P1").0));
    assert_eq!((answer.code().as_str(), answer.error().as_deref()), ("CE", Some("101")), "{answer:?}");
}

// ---- faults that may pass

#[test]
fn a_dead_drop_folder_is_an_ae_207_in_time_and_the_message_sent_again_resumes() {
    let processed = Processed::dead(json!({"answer_timeout": 2}));
    let (body, document) = messages::oru("D", "P1");
    let mut peer = processed.connect();
    let sent = Instant::now();
    let first = peer.exchange(&body);
    let took = sent.elapsed();
    refused(&first, "D", "207");
    assert!((1900..3500).contains(&took.as_millis()), "answered after {took:?}");
    processed.keeps_nothing();
    // What was done before the fault stays done and is not repeated.
    let before = processed.archived();
    assert_eq!(before.len(), 1);
    processed.heal();
    let again = processed.connect().exchange(&body);
    again.accepts(b"D");
    assert_eq!(first.message_id(), again.message_id(), "it resumes under its id");
    assert_eq!(processed.archived(), before);
    processed.is_once_everywhere(&[&body], &[&document]);
    processed.connect().exchange(&body).accepts(b"D");
    processed.is_once_everywhere(&[&body], &[&document]);
}

#[test]
fn a_message_given_back_is_not_delivered_behind_its_sender_s_back() {
    let processed = Processed::dead(json!({"answer_timeout": 1}));
    let (body, document) = messages::oru("D", "P1");
    refused(&processed.connect().exchange(&body), "D", "207");
    within(PATIENCE, "find tells that its sender has it", || {
        let found = processed.site.list(&["find", "--control-id", "D"]);
        found.iter().any(|row| row["outcome"] == "returned").then_some(())
    });
    processed.heal();
    // Another one goes all the way meanwhile.
    let (other, other_document) = messages::oru("E", "P1");
    processed.connect().exchange(&other).accepts(b"E");
    std::thread::sleep(QUIET);
    assert_eq!(processed.dropped().len(), 1, "it is its sender's, and was dropped all the same");
    processed.connect().exchange(&body).accepts(b"D");
    processed.is_once_everywhere(&[&body, &other], &[&document, &other_document]);
}

#[test]
fn a_second_sender_of_the_same_bytes_joins_the_outcome() {
    let processed = Processed::dead(json!({}));
    let (body, document) = messages::oru("D", "P1");
    let (mut first, mut second) = (processed.connect(), processed.connect());
    first.send(&body);
    first.expect_silence(QUIET);
    second.send(&body);
    second.expect_silence(QUIET);
    processed.heal();
    let answers = [first.acknowledgment(), second.acknowledgment()];
    answers.iter().for_each(|answer| answer.accepts(b"D"));
    assert_eq!(answers[0].message_id(), answers[1].message_id());
    processed.is_once_everywhere(&[&body], &[&document]);
    processed.server.wait_count("doc", "duplicates", 1);
}

#[test]
fn a_second_sender_joins_an_ae_as_well() {
    let processed = Processed::dead(json!({"answer_timeout": 2}));
    let (body, _) = messages::oru("D", "P1");
    let (mut first, mut second) = (processed.connect(), processed.connect());
    first.send(&body);
    first.expect_silence(QUIET);
    second.send(&body);
    let joined = Instant::now();
    refused(&first.acknowledgment(), "D", "207");
    refused(&second.acknowledgment(), "D", "207");
    assert!(joined.elapsed() < Duration::from_millis(3500), "the second waited on its own");
    processed.keeps_nothing();
}

#[test]
fn a_sender_that_hung_up_and_comes_again_joins_what_it_left() {
    let processed = Processed::dead(json!({}));
    let (body, document) = messages::oru("D", "P1");
    let mut gone = processed.connect();
    gone.send(&body);
    gone.expect_silence(QUIET);
    drop(gone);
    let mut peer = processed.connect();
    peer.send(&body);
    peer.expect_silence(QUIET);
    processed.heal();
    peer.acknowledgment().accepts(b"D");
    processed.is_once_everywhere(&[&body], &[&document]);
}

// ---- deaths

#[test]
fn a_worker_killed_while_an_answer_waits_ends_the_resent_message_right_and_once() {
    let processed = Processed::dead(json!({}));
    let (body, document) = messages::oru("D", "P1");
    let mut peer = processed.connect();
    peer.send(&body);
    wait_files(&processed.site.path("documents"), ".pdf", 1);
    for _ in 0..2 {
        process::kill(processed.server.worker(processed.port));
        assert_eq!(peer.receive(ANSWER), Reply::Closed, "answered by a dead worker");
        peer = processed.connect();
        peer.send(&body);
        peer.expect_silence(QUIET);
    }
    processed.heal();
    peer.acknowledgment().accepts(b"D");
    processed.is_once_everywhere(&[&body], &[&document]);
    processed.keeps_nothing();
}

#[test]
fn a_worker_killed_after_an_ae_still_knows_what_was_done() {
    let processed = Processed::dead(json!({"answer_timeout": 1}));
    let (body, document) = messages::oru("D", "P1");
    let first = processed.connect().exchange(&body);
    refused(&first, "D", "207");
    process::kill(processed.server.worker(processed.port));
    let before = processed.archived();
    processed.heal();
    let again = processed.connect().exchange(&body);
    again.accepts(b"D");
    assert_eq!(first.message_id(), again.message_id());
    assert_eq!(processed.archived(), before);
    processed.is_once_everywhere(&[&body], &[&document]);
}

#[test]
fn a_message_whose_worker_died_and_whose_sender_never_came_again_ends_once() {
    let processed = Processed::dead(json!({"answer_timeout": 1}));
    let (body, document) = messages::oru("D", "P1");
    let mut peer = processed.connect();
    peer.send(&body);
    wait_files(&processed.site.path("documents"), ".pdf", 1);
    process::kill(processed.server.worker(processed.port));
    peer.expect_close(ANSWER);
    // Nobody waits for it any more: the server has it, or its sender who sends it again. Either way it ends once.
    std::thread::sleep(Duration::from_secs(2));
    processed.heal();
    std::thread::sleep(QUIET);
    processed.connect().exchange(&body).accepts(b"D");
    processed.is_once_everywhere(&[&body], &[&document]);
    processed.keeps_nothing();
}

#[test]
fn a_stop_while_an_answer_waits_ends_the_resent_message_right_and_once() {
    let mut processed = Processed::dead(json!({}));
    let (body, document) = messages::oru("D", "P1");
    let mut peer = processed.connect();
    peer.send(&body);
    wait_files(&processed.site.path("documents"), ".pdf", 1);
    processed.server.stop();
    // No AA for what is not done; an AE that it is its sender's again is as right as a close.
    match peer.receive(ANSWER) {
        Reply::Closed => {}
        Reply::Frame(answer) => refused(&Acknowledgment::parse(&answer), "D", "207"),
        Reply::Silence => panic!("neither answered nor closed"),
    }
    processed.heal();
    processed.server.start_again(&processed.site);
    processed.connect().exchange(&body).accepts(b"D");
    processed.is_once_everywhere(&[&body], &[&document]);
}

#[test]
fn a_worker_killed_6_times_under_load_loses_and_doubles_nothing() {
    let mut processed = Processed::with(json!({}));
    let load = Load::start(processed.port, 8);
    for round in 0..6 {
        load.wait_for_more(30);
        process::kill(processed.server.worker(processed.port));
        // A worker that keeps dying is started later and later; a fresh master starts that over.
        if round % 2 == 1 {
            processed.server.stop();
            processed.server.start_again(&processed.site);
        }
    }
    load.wait_for_more(50);
    let acknowledged = load.finish();
    eprintln!("{} messages", acknowledged.len());
    assert_archived_once(&acknowledged, &processed.site.path("archive/doc"));
    processed.keeps_nothing();
}

// ---- order and batches

#[test]
fn the_messages_of_a_patient_keep_their_order() {
    let processed = Processed::dead(json!({}));
    let mut peers: Vec<Peer> = (0..3).map(|_| processed.connect()).collect();
    for n in 0..12 {
        for (patient, peer) in peers.iter_mut().enumerate() {
            peer.send(&messages::oru(&format!("P{patient}N{n:02}"), &format!("P{patient}")).0);
        }
    }
    processed.server.wait_count("doc", "waiting", 36);
    processed.heal();
    for (patient, peer) in peers.iter_mut().enumerate() {
        for n in 0..12 {
            peer.acknowledgment().accepts(format!("P{patient}N{n:02}").as_bytes());
        }
        let written = |n: usize| {
            let name = format!("P{patient}N{n:02}.pdf");
            let (path, _) = processed.dropped().into_iter().find(|(path, _)| path.ends_with(&name)).unwrap();
            fs::metadata(path).unwrap().modified().unwrap()
        };
        let times: Vec<_> = (0..12).map(written).collect();
        assert!(times.is_sorted(), "patient {patient}: {times:?}");
    }
}

#[test]
fn a_batch_is_answered_when_its_last_message_has_ended_each_by_its_outcome() {
    let processed = Processed::dead(json!({"answer_timeout": 60}));
    let (a, a_document) = messages::oru("A", "P1");
    let without = typed("ORU^R01^ORU_R01", "B", "P2");
    let c = adt("C", "P3");
    let mut peer = processed.connect();
    let batch = [b"BHS|^~\\&|LAB\r".as_slice(), &a, &without, &c, b"BTS|3\r"].concat();
    peer.send(&batch);
    peer.expect_silence(QUIET);
    processed.heal();
    let codes = |answer: support::mllp::BatchAnswer| -> Vec<String> {
        answer.summary().into_iter().map(|(code, id, _)| format!("{code} {id}")).collect()
    };
    assert_eq!(codes(peer.batch_answer()), ["AA A", "AE B", "AA C"]);
    processed.is_once_everywhere(&[&a, &without, &c], &[&a_document]);
    processed.keeps_nothing();
    // The sender of a batch sends all of it again.
    peer.send(&batch);
    assert_eq!(codes(peer.batch_answer()), ["AA A", "AE B", "AA C"]);
    processed.is_once_everywhere(&[&a, &without, &c], &[&a_document]);
}

#[test]
fn a_batch_over_its_time_is_answered_in_time_and_resumes() {
    let processed = Processed::dead(json!({"answer_timeout": 1}));
    let documents: Vec<_> = (0..4).map(|n| messages::oru(&format!("N{n}"), &format!("P{}", n % 2))).collect();
    let bodies: Vec<&[u8]> = documents.iter().map(|(body, _)| body.as_slice()).collect();
    let mut peer = processed.connect();
    peer.send(&[b"BHS|^~\\&|LAB\r", bodies.concat().as_slice()].concat());
    let sent = Instant::now();
    for (code, _, error) in peer.batch_answer().summary() {
        assert_eq!((code.as_str(), error.as_deref()), ("AE", Some("207")));
    }
    assert!(sent.elapsed() < Duration::from_millis(2500), "answered after {:?}", sent.elapsed());
    processed.keeps_nothing();
    processed.heal();
    peer.send(&bodies.concat());
    (0..4).for_each(|n| peer.acknowledgment().accepts(format!("N{n}").as_bytes()));
    processed.is_once_everywhere(&bodies, &documents.iter().map(|(_, d)| d.as_slice()).collect::<Vec<_>>());
}

#[test]
fn a_message_that_was_acknowledged_when_received_is_never_given_back_after_a_reload() {
    let site = Processed::dead(json!({"ack": "received"}));
    let (body, _) = messages::oru("OURS", "P1");
    site.connect().exchange(&body).accepts(b"OURS");
    site.server.wait_count("doc", "waiting", 1);
    let mut channel = site.channel.clone();
    channel["ack"] = json!("processed");
    channel["answer_timeout"] = json!(1);
    site.site.configure(json!({"channels": [channel]}));
    site.site.run(&["reload"]).good();
    site.server.wait_ready();
    // Sent again it is ours still: AA, and no AE when the sender's patience would be over.
    site.connect().exchange(&body).accepts(b"OURS");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(site.site.list(&["queue", "list"]).len(), 1, "it is still to be delivered");
    site.heal();
    assert_eq!(wait_files(&site.site.path(DROP), ".pdf", 1).len(), 1);
}
