//! What is accepted, refused, answered and how, over a real connection.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::messages::{adt, typed};
use support::mllp::{Acknowledgment, Peer, Reply, frame};
use support::receiver::Receiver;
use support::{ANSWER, PATIENCE, files, wait_files, within};

/// Long enough for an answer that must not come to have come.
const QUIET: Duration = Duration::from_millis(700);

// ---- duplicates

#[test]
fn the_same_message_again_is_acknowledged_and_processed_once() {
    let receiver = Receiver::start();
    for _ in 0..3 {
        receiver.connect().exchange(&adt("SAME", "P1")).accepts(b"SAME");
    }
    receiver.connect().exchange(&adt("OTHER", "P1")).accepts(b"OTHER");
    receiver.archived(&[&adt("SAME", "P1"), &adt("OTHER", "P1")]);
    receiver.server.wait_count("adt", "duplicates", 2);
}

#[test]
fn a_duplicate_is_known_after_a_restart() {
    let mut receiver = Receiver::start();
    receiver.connect().exchange(&adt("SAME", "P1")).accepts(b"SAME");
    receiver.archived(&[&adt("SAME", "P1")]);
    receiver.server.stop();
    receiver.server.start_again(&receiver.site);
    receiver.connect().exchange(&adt("SAME", "P1")).accepts(b"SAME");
    receiver.connect().exchange(&adt("OTHER", "P1")).accepts(b"OTHER");
    receiver.archived(&[&adt("SAME", "P1"), &adt("OTHER", "P1")]);
}

#[test]
fn the_same_control_id_with_other_content_is_another_message() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    peer.exchange(&adt("ID", "P1")).accepts(b"ID");
    peer.exchange(&adt("ID", "P2")).accepts(b"ID");
    receiver.archived(&[&adt("ID", "P1"), &adt("ID", "P2")]);
}

#[test]
fn duplicates_are_processed_where_the_channel_says_so() {
    let receiver = Receiver::with(json!({"duplicates": "process"}));
    let mut peer = receiver.connect();
    peer.exchange(&adt("SAME", "P1")).accepts(b"SAME");
    peer.exchange(&adt("SAME", "P1")).accepts(b"SAME");
    receiver.archived(&[&adt("SAME", "P1"), &adt("SAME", "P1")]);
}

// ---- refusals

#[test]
fn a_type_no_workflow_takes_is_refused() {
    let receiver = Receiver::with(json!({"message_types": null}));
    let mut peer = receiver.connect();
    peer.exchange(&typed("ZZZ^Z99", "A", "P1")).refuses("AR", "200");
    peer.exchange(&typed("ADT^A99", "B", "P1")).refuses("AR", "201");
    peer.exchange(&typed("ADT^A01", "C", "P1")).accepts(b"C");
    receiver.archived(&[&typed("ADT^A01", "C", "P1")]);
}

#[test]
fn a_message_without_control_id_or_type_is_an_error_that_names_the_field() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let answer = peer.exchange(&adt("", "P1"));
    answer.refuses("AE", "101");
    assert_eq!(answer.error_place(), Some(("MSH".to_owned(), "10".to_owned())));
    assert_eq!(answer.control_id(), b"");
    let answer = peer.exchange(&typed("", "X", "P1"));
    answer.refuses("AE", "101");
    assert_eq!(answer.error_place(), Some(("MSH".to_owned(), "9".to_owned())));
    assert_eq!(answer.control_id(), b"X");
    let old = replaced(&typed("", "Y", "P1"), "|P|2.5\r", "|P|2.3\r");
    let answer = peer.exchange(&old);
    answer.refuses("AE", "101");
    assert_eq!(answer.error_place(), Some(("MSH".to_owned(), "9".to_owned())));
    peer.exchange(&adt("GOOD", "P1")).accepts(b"GOOD");
    receiver.archived(&[&adt("GOOD", "P1")]);
}

#[test]
fn what_is_no_message_is_refused_and_quarantined() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    for body in [b"PID|1||P1\r".as_slice(), b"MS", b"", b"\xff\xfe\0garbage", b"MSH", b"MSHA"] {
        let answer = peer.exchange(body);
        answer.refuses("AR", "100");
        assert_eq!(answer.control_id(), b"");
    }
    receiver.quarantined(b"PID|1||P1\r");
    peer.exchange(&adt("GOOD", "P1")).accepts(b"GOOD");
    receiver.archived(&[&adt("GOOD", "P1")]);
}

#[test]
fn an_inbound_acknowledgment_gets_silence() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    for message_type in ["ACK", "ACK^A01^ACK", "MCF"] {
        let body = [typed(message_type, "ACK1", "P1").as_slice(), b"MSA|AA|X1\r"].concat();
        peer.send(&body);
        peer.expect_silence(QUIET);
        receiver.quarantined(&body);
    }
    // A query response has an MSA too and is an ordinary message.
    let response = [typed("RSP^K22", "RSP1", "P1").as_slice(), b"MSA|AA|X1\r"].concat();
    peer.exchange(&response).accepts(b"RSP1");
    receiver.archived(&[&response]);
}

// ---- acknowledgment

#[test]
fn the_acknowledgment_turns_sender_and_receiver_round() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let answer = peer.exchange(&adt("A", "P1"));
    let fields: Vec<String> = [3, 4, 5, 6, 11, 12].iter().map(|&n| answer.msh(n)).collect();
    assert_eq!(fields, ["SERVER", "HOSPITAL", "LAB", "WARD", "P", "2.5"]);
    let time = answer.msh(7);
    assert!(time.len() == 14 && time.bytes().all(|b| b.is_ascii_digit()), "MSH-7 {time:?}");

    let body = replaced(&adt("B", "P1"), "|LAB|WARD|SERVER|HOSPITAL|", "|a^b&c^ISO|~x||y|");
    let answer = peer.exchange(&replaced(&body, "|P|2.5\r", "|P^T|\r"));
    let fields: Vec<String> = [3, 4, 5, 6, 11, 12].iter().map(|&n| answer.msh(n)).collect();
    assert_eq!(fields, ["HL7SERVER", "y", "a^b&c^ISO", "~x", "P^T", "2.5"]);
}

#[test]
fn the_acknowledgments_type_follows_the_version() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let versions = [
        ("2.1", "ACK"),
        ("2.2", "ACK"),
        ("2.3", "ACK^A01"),
        ("2.3.1", "ACK^A01"),
        ("2.4", "ACK^A01^ACK"),
        ("2.5.1", "ACK^A01^ACK"),
        ("2.8", "ACK^A01^ACK"),
    ];
    for (version, expected) in versions {
        let body = replaced(&adt(&format!("V{version}"), "P1"), "|P|2.5\r", &format!("|P|{version}\r"));
        assert_eq!(peer.exchange(&body).msh(9), expected, "version {version}");
    }
    assert_eq!(peer.exchange(&typed("ORU", "NOEVENT", "P1")).msh(9), "ACK");
}

#[test]
fn the_control_id_comes_back_byte_for_byte() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let ids: [&[u8]; 6] = [
        b"MSG00001",
        b" 7 ",
        b"a\\T\\b^c&d~e",
        b"\xe9\xfc\xff",
        b"0123456789012345678901234567890123456789012345678901234567890123456789",
        b"../../etc/passwd",
    ];
    for id in ids {
        let plain = adt("@", "P1");
        let at = plain.iter().position(|&byte| byte == b'@').unwrap();
        let body = [&plain[..at], id, &plain[at + 1..]].concat();
        peer.exchange(&body).accepts(id);
    }
    let escaped = receiver.site.path("archive/adt");
    let found = wait_files(&escaped, ".hl7", ids.len());
    assert_eq!(found.len(), ids.len());
    assert!(files(receiver.site.path("archive").parent().unwrap(), "passwd").is_empty());
}

#[test]
fn the_acknowledgment_uses_the_senders_delimiters() {
    let receiver = Receiver::start();
    let body =
        b"MSH$%~\\&$LAB$WARD$SERVER$HOSPITAL$20260102030405$$ADT%A01%ADT_A01$DOLLAR$P$2.4\rPID$1$$P1\r";
    let answer = receiver.connect().exchange(body);
    answer.accepts(b"DOLLAR");
    assert_eq!(
        (answer.msh(1).as_str(), answer.msh(2).as_str(), answer.msh(9).as_str()),
        ("$", "%~\\&", "ACK%A01%ACK")
    );
}

#[test]
fn a_message_is_found_by_its_acknowledgments_control_id() {
    let receiver = Receiver::start();
    let answer = receiver.connect().exchange(&adt("FIND", "P1"));
    let id = answer.message_id();
    let shown = receiver.site.run(&["show", &id]).good();
    assert!(shown.stdout.contains("Musterfrau"), "{shown:#?}");
}

#[test]
fn every_message_id_is_new() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let mut ids: Vec<String> =
        (0..50).map(|n| peer.exchange(&adt(&format!("N{n}"), "P1")).message_id()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 50);
}

// ---- segments and character sets

#[test]
fn segments_may_end_in_a_line_feed_and_a_byte_order_mark_may_stand_first() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let lines = String::from_utf8(adt("LF", "P1")).unwrap().replace('\r', "\n").into_bytes();
    let pairs = String::from_utf8(adt("CRLF", "P1")).unwrap().replace('\r', "\r\n").into_bytes();
    let marked = [b"\xef\xbb\xbf".as_slice(), &adt("BOM", "P1")].concat();
    let spaced = [b"\r\n ".as_slice(), &adt("SPACE", "P1")].concat();
    peer.exchange(&lines).accepts(b"LF");
    peer.exchange(&pairs).accepts(b"CRLF");
    peer.exchange(&marked).accepts(b"BOM");
    peer.exchange(&spaced).accepts(b"SPACE");
    receiver.archived(&[&lines, &pairs, &marked, &spaced]);
}

#[test]
fn a_latin_1_message_is_archived_as_sent_and_shown_as_text() {
    let receiver = Receiver::with(json!({"encoding": "latin-1", "mapping": {"name": "PID.1.5.1"}}));
    let body = latin1("LATIN");
    let answer = receiver.connect().exchange(&body);
    answer.accepts(b"LATIN");
    receiver.archived(&[&body]);
    let shown = receiver.site.run(&["show", &answer.message_id()]).good();
    assert!(shown.stdout.contains("Müller"), "{shown:#?}");
}

#[test]
fn bytes_that_do_not_decode_are_accepted_and_archived_as_sent() {
    let receiver = Receiver::start();
    let body = latin1("BYTES");
    receiver.connect().exchange(&body).accepts(b"BYTES");
    receiver.archived(&[&body]);
}

// ---- bounds

#[test]
fn an_idle_connection_is_closed_where_the_channel_says_so() {
    let receiver = Receiver::with(json!({"idle_timeout": 1}));
    let mut peer = receiver.connect();
    peer.exchange(&adt("A", "P1")).accepts(b"A");
    let started = Instant::now();
    peer.expect_close(ANSWER);
    assert!(started.elapsed() >= Duration::from_millis(900), "closed after {:?}", started.elapsed());
}

#[test]
fn one_address_gets_no_more_than_its_connections() {
    let receiver = Receiver::with(json!({"max_connections_per_address": 2}));
    let (mut first, mut second) = (receiver.connect(), receiver.connect());
    first.exchange(&adt("A", "P1")).accepts(b"A");
    second.exchange(&adt("B", "P1")).accepts(b"B");
    receiver.connect().expect_close(ANSWER);
    drop(second);
    within(PATIENCE, "room again after one has left", || {
        let mut third = Peer::try_connect(receiver.port).ok()?;
        third.send_raw(&frame(&adt("C", "P1"))).ok()?;
        match third.receive(ANSWER) {
            Reply::Frame(answer) => {
                Acknowledgment::parse(&answer).accepts(b"C");
                Some(())
            }
            Reply::Closed | Reply::Silence => None,
        }
    });
    first.exchange(&adt("D", "P1")).accepts(b"D");
}

#[test]
fn a_sender_that_reads_no_answers_is_closed_and_harms_nobody() {
    let receiver = Receiver::start();
    let mut deaf = receiver.connect();
    let packet: Vec<u8> = (0..64).flat_map(|n| frame(&typed("ZZZ", &format!("{n:0>900}"), "P1"))).collect();
    deaf.send_raw(&packet).unwrap();
    receiver.connect().exchange(&adt("OTHER", "P1")).accepts(b"OTHER");
}

fn latin1(control_id: &str) -> Vec<u8> {
    let mut body = replaced(&adt(control_id, "P1"), "Musterfrau", "M@ller");
    let at = body.iter().position(|&byte| byte == b'@').unwrap();
    body[at] = 0xfc;
    body
}

#[track_caller]
fn replaced(body: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(text.contains(from), "{from:?} is not in {text:?}");
    text.replace(from, to).into_bytes()
}
