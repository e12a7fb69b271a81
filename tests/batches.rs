//! FHS/BHS batches and several messages in a frame: each message is its own, the answer to a batch is one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::fs;
use support::messages::{adt, typed};
use support::mllp::{Acknowledgment, BatchAnswer, Reply, frame};
use support::receiver::Receiver;
use support::trace::Trace;
use support::{ANSWER, PATIENCE, process, within};

const FHS: &[u8] = b"FHS|^~\\&|LAB|WARD|SERVER|HOSPITAL|20260102\r";
const BHS: &[u8] = b"BHS|^~\\&|LAB^1|WARD|SERVER|HOSPITAL|20260102||name|comment|BATCH7\r";

fn accepted(id: &str) -> (String, String, Option<String>) {
    ("AA".to_owned(), id.to_owned(), None)
}

fn refused(code: &str, id: &str, error: &str) -> (String, String, Option<String>) {
    (code.to_owned(), id.to_owned(), Some(error.to_owned()))
}

#[test]
fn a_batch_is_answered_by_one_batch_and_each_message_is_archived_as_its_own_bytes() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let messages = [adt("A", "P1"), typed("ORU^R01", "B", "P2"), adt("C", "P1")];
    let [a, b, c] = &messages;
    peer.send(&[FHS, BHS, a, b, c, b"BTS|3|comment\rFTS|1\r"].concat());
    let answer = peer.batch_answer();
    assert_eq!(answer.summary(), [accepted("A"), accepted("B"), accepted("C")]);
    // Sender and receiver have changed places; BHS-12 is the batch's own control id, BHS-11 the answer's.
    let header = &answer.header;
    let places: Vec<&str> = [1, 2, 3, 4, 5, 11].iter().map(|&n| header[n].as_str()).collect();
    assert_eq!(places, ["^~\\&", "SERVER", "HOSPITAL", "LAB^1", "WARD", "BATCH7"]);
    assert!(!header[10].is_empty(), "{header:?}");
    let mut ids: Vec<String> = answer.answers.iter().map(Acknowledgment::message_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each message has an id of its own");
    receiver.archived(&[a, b, c]);
    receiver.server.wait_count("adt", "received", 3);
}

#[test]
fn a_file_of_two_batches_is_answered_by_one() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let (a, b) = (adt("A", "P1"), adt("B", "P1"));
    peer.send(&[FHS, BHS, &a, b"BTS|1\r", BHS, &b, b"BTS|1\rFTS|2\r"].concat());
    assert_eq!(peer.batch_answer().summary(), [accepted("A"), accepted("B")]);
    peer.exchange(&adt("NEXT", "P1")).accepts(b"NEXT");
    receiver.archived(&[&a, &b, &adt("NEXT", "P1")]);
}

#[test]
fn batches_come_without_trailers_with_line_feeds_and_with_other_delimiters() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let (a, b) = (adt("A", "P1"), adt("B", "P1"));
    peer.send(&[BHS, &a, &b].concat());
    assert_eq!(peer.batch_answer().summary(), [accepted("A"), accepted("B")]);

    let lines = |body: &[u8]| String::from_utf8(body.to_vec()).unwrap().replace('\r', "\n").into_bytes();
    let (c, d) = (lines(&adt("C", "P1")), lines(&adt("D", "P1")));
    peer.send(&[&lines(BHS), c.as_slice(), &d, b"BTS|2\n"].concat());
    assert_eq!(peer.batch_answer().summary(), [accepted("C"), accepted("D")]);

    let other = |body: &[u8]| String::from_utf8(body.to_vec()).unwrap().replace('|', "#").into_bytes();
    let e = other(&adt("E", "P1"));
    peer.send(&[&other(BHS), e.as_slice(), b"BTS#1\r"].concat());
    let answer = peer.batch_answer();
    assert_eq!(answer.summary(), [accepted("E")]);
    assert_eq!(answer.header[2], "SERVER");
    receiver.archived(&[&a, &b, &c, &d, &e]);
}

#[test]
fn several_messages_in_a_frame_get_a_frame_each_in_order() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let messages: Vec<Vec<u8>> = (0..100).map(|n| adt(&format!("N{n}"), "P1")).collect();
    peer.send(&messages.concat());
    for n in 0..100 {
        peer.acknowledgment().accepts(format!("N{n}").as_bytes());
    }
    peer.exchange(&adt("NEXT", "P1")).accepts(b"NEXT");
    let mut expected: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let next = adt("NEXT", "P1");
    expected.push(&next);
    receiver.archived(&expected);
}

#[test]
fn the_answers_to_one_frame_go_out_in_one_write_behind_one_flush() {
    if !Trace::is_possible() {
        return;
    }
    let receiver = Receiver::start();
    receiver.connect().exchange(&adt("WARM", "P1")).accepts(b"WARM");
    receiver.server.wait_count("adt", "delivered", 1);
    let calls = ["-e", "trace=write,writev,sendto,sendmsg,fdatasync", "-e", "status=successful"];
    let path = receiver.site.path("trace");
    let Some(trace) = Trace::attach(receiver.server.worker(receiver.port), &path, &calls) else { return };
    for (name, header) in [("S", b"".as_slice()), ("H", BHS)] {
        let messages: Vec<Vec<u8>> = (0..12).map(|n| adt(&format!("{name}{n:02}"), "P1")).collect();
        let mut peer = receiver.connect();
        peer.send(&[header, &messages.concat()].concat());
        if header.is_empty() {
            (0..12).for_each(|_| drop(peer.acknowledgment()));
        } else {
            assert_eq!(peer.batch_answer().answers.len(), 12);
        }
        let told = |line: &str| (0..12).all(|n| line.contains(&format!("MSA|AA|{name}{n:02}")));
        let lines = within(PATIENCE, "one write with every answer", || {
            let lines = trace.lines();
            lines.iter().any(|line| told(line)).then_some(lines)
        });
        let stored = lines.iter().position(|line| line.contains(&format!("{name}00"))).unwrap();
        let told = lines.iter().position(|line| told(line)).unwrap();
        let flushes =
            lines[stored..told].iter().filter(|l| l.contains("sync") && l.trim_end().ends_with("= 0"));
        assert!(flushes.count() <= 1, "{:#?}", &lines[stored..=told]);
    }
}

#[test]
fn an_acknowledgment_inside_a_batch_gets_no_answer_and_the_others_do() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let acknowledgment = [typed("ACK^A01^ACK", "ACK1", "P1").as_slice(), b"MSA|AA|X1\r"].concat();
    let (a, b) = (adt("A", "P1"), adt("B", "P1"));
    peer.send(&[BHS, &a, &acknowledgment, &b, b"BTS|3\r"].concat());
    assert_eq!(peer.batch_answer().summary(), [accepted("A"), accepted("B")]);
    receiver.quarantined(&acknowledgment);

    let (c, d) = (adt("C", "P1"), adt("D", "P1"));
    peer.send(&[c.as_slice(), &acknowledgment, &d].concat());
    peer.acknowledgment().accepts(b"C");
    peer.acknowledgment().accepts(b"D");
    peer.exchange(&adt("E", "P1")).accepts(b"E");
    receiver.archived(&[&a, &b, &c, &d, &adt("E", "P1")]);
}

#[test]
fn a_bad_message_inside_a_batch_is_refused_in_its_place_and_the_others_are_kept() {
    let receiver = Receiver::with(json!({"message_types": {"ORU": "store"}}));
    let mut peer = receiver.connect();
    let (a, b) = (adt("A", "P1"), typed("ORU^R01", "B", "P1"));
    let broken = b"MSH\xff\xfe\rPID|1\r".as_slice();
    let parts = [
        a.as_slice(),
        &adt("", "P1"),
        &typed("", "NOTYPE", "P1"),
        &typed("ZZZ^Z01", "TYPE", "P1"),
        &typed("ADT^A99", "EVENT", "P1"),
        &b,
    ];
    peer.send(&[BHS, &parts.concat(), b"BTS|6\r"].concat());
    let right = [
        accepted("A"),
        refused("AE", "", "101"),
        refused("AE", "NOTYPE", "101"),
        refused("AR", "TYPE", "200"),
        refused("AR", "EVENT", "201"),
        accepted("B"),
    ];
    assert_eq!(peer.batch_answer().summary(), right);
    // The same without a header.
    peer.send(&parts.concat().repeat(1));
    let told: Vec<_> = (0..6).map(|_| peer.acknowledgment()).map(|a| (a.code(), a.error())).collect();
    assert_eq!(told, right.map(|(code, _, error)| (code, error)));
    // A header over nothing that is a message.
    peer.exchange(&[BHS, broken].concat()).refuses("AR", "100");
    peer.exchange(&[BHS, b"PID|1||P1\r".as_slice(), b"BTS|1\r"].concat()).refuses("AR", "100");
    peer.exchange(&b).accepts(b"B");
    receiver.archived(&[&a, &b]);
}

#[test]
fn an_empty_batch_is_answered_by_an_empty_one() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    for parts in [&[BHS, b"BTS|0\r"][..], &[FHS, BHS, b"BTS|0\rFTS|1\r"], &[FHS, b"FTS|0\r"], &[BHS]] {
        peer.send(&parts.concat());
        assert_eq!(peer.batch_answer().summary(), []);
    }
    peer.exchange(&adt("NEXT", "P1")).accepts(b"NEXT");
    receiver.archived(&[&adt("NEXT", "P1")]);
}

#[test]
fn a_message_twice_in_a_batch_and_a_batch_twice_are_acknowledged_and_kept_once() {
    let receiver = Receiver::start();
    let (a, b) = (adt("A", "P1"), adt("B", "P1"));
    let batch = [BHS, &a, &b, &a, b"BTS|3\r"].concat();
    let right = [accepted("A"), accepted("B"), accepted("A")];
    let mut peer = receiver.connect();
    peer.send(&batch);
    let first = peer.batch_answer();
    assert_eq!(first.summary(), right);
    let ids: Vec<String> = first.answers.iter().map(Acknowledgment::message_id).collect();
    assert_eq!(ids[0], ids[2], "the same message is found under one id");
    // On another connection, both times at once.
    let mut others = [receiver.connect(), receiver.connect()];
    others.iter_mut().for_each(|peer| peer.send(&batch));
    for peer in &mut others {
        assert_eq!(peer.batch_answer().summary(), right);
    }
    receiver.archived(&[&a, &b]);
    receiver.server.wait_count("adt", "duplicates", 7);
}

#[test]
fn messages_that_share_a_control_id_are_each_known_when_their_batch_comes_again() {
    let receiver = Receiver::start();
    let (a, b) = (adt("1", "P1"), adt("1", "P2"));
    let mut peer = receiver.connect();
    for _ in 0..3 {
        peer.send(&[BHS, &a, &b, b"BTS|2\r"].concat());
        assert_eq!(peer.batch_answer().summary(), [accepted("1"), accepted("1")]);
    }
    receiver.server.wait_count("adt", "delivered", 2);
    // A third delivery would have come by now, or comes before this one.
    peer.exchange(&adt("LAST", "P1")).accepts(b"LAST");
    peer.exchange(&adt("LAST", "P2")).accepts(b"LAST");
    receiver.server.wait_count("adt", "delivered", 4);
    receiver.archived(&[&a, &b, &adt("LAST", "P1"), &adt("LAST", "P2")]);
}

#[test]
fn an_answer_of_megabytes_reaches_a_sender_that_reads() {
    let receiver = Receiver::with(json!({"message_types": {"ORU": "store"}}));
    // More than a socket of the system holds, and far more than the 256 KiB that a peer may leave unread: this peer
    // leaves nothing unread. The messages are refused, so that no disk has a part in it.
    let name = "N".repeat(700);
    let message = |n: usize| format!("MSH|^~\\&|{name}|B|C|D|2026||ZZZ^Z01|{n:05}|P|2.5\r");
    let messages: String = (0..9000).map(message).collect();
    let mut peer = receiver.connect();
    peer.send(format!("BHS|^~\\&|A|B\r{messages}BTS|9000\r").as_bytes());
    let Reply::Frame(body) = peer.receive(PATIENCE) else { panic!("no answer") };
    assert!(body.len() > 6 << 20, "only {} bytes", body.len());
    let answer = BatchAnswer::parse(&body);
    let right: Vec<_> = (0..9000).map(|n| refused("AR", &format!("{n:05}"), "200")).collect();
    assert!(answer.summary() == right, "not every message is refused in its place");

    // And so are as many without a header.
    let mut peer = receiver.connect();
    peer.send(messages.as_bytes());
    for n in 0..9000 {
        let answer = peer.acknowledgment();
        answer.refuses("AR", "200");
        assert_eq!(answer.control_id(), format!("{n:05}").as_bytes());
    }
}

#[test]
fn more_messages_in_a_frame_than_can_be_taken_are_refused_as_too_large() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let short = |n: usize| format!("MSH|^~\\&|A|B|C|D|2026||ADT^A01|{n}|P|2.5\r");
    let many: String = (0..20_000).map(short).collect();
    let answer = peer.exchange(many.as_bytes());
    answer.refuses("AR", "207");
    peer.exchange(&adt("NEXT", "P1")).accepts(b"NEXT");
    receiver.archived(&[&adt("NEXT", "P1")]);
}

#[test]
fn a_batch_over_the_limit_is_refused_whole_and_the_connection_stays_in_step() {
    let receiver = Receiver::with(json!({"stream_limit": "64KiB"}));
    let mut peer = receiver.connect();
    let messages: Vec<Vec<u8>> = (0..600).map(|n| adt(&format!("N{n}"), "P1")).collect();
    let batch = [BHS, &messages.concat(), b"BTS|600\r"].concat();
    assert!(batch.len() > 64 << 10);
    let answer = peer.exchange(&batch);
    answer.refuses("AR", "207");
    peer.exchange(&adt("NEXT", "P1")).accepts(b"NEXT");
    receiver.archived(&[&adt("NEXT", "P1")]);
}

#[test]
fn a_batch_survives_its_worker_s_death_whole() {
    let receiver = Receiver::start();
    let mut sent = Vec::new();
    for round in 0..5 {
        let messages: Vec<Vec<u8>> =
            (0..40).map(|n| adt(&format!("R{round}N{n}"), &format!("P{n}"))).collect();
        let mut peer = receiver.connect();
        peer.send(&[BHS, &messages.concat(), b"BTS|40\r"].concat());
        assert_eq!(peer.batch_answer().answers.len(), 40);
        process::kill(receiver.server.worker(receiver.port));
        sent.extend(messages);
    }
    receiver.archived(&sent.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

#[test]
fn every_batch_and_stream_of_the_corpus_is_taken_apart_as_the_oracle_says() {
    let Some(folder) = support::corpus() else { return };
    let oracle: Value = serde_json::from_slice(&fs::read(folder.join("oracle.json")).unwrap()).unwrap();
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let (mut batches, mut streams, mut kept) = (0, 0, Vec::new());
    for (name, entry) in oracle["files"].as_object().unwrap() {
        if !name.starts_with("batch_or_stream") {
            continue;
        }
        let body = fs::read(folder.join(name)).unwrap();
        let expected = entry["messages"].as_array().unwrap();
        assert_eq!(expected.len() as u64, entry["n_messages"].as_u64().unwrap());
        peer.send_raw(&frame(&body)).unwrap();
        let answers = if body.starts_with(b"MSH") {
            streams += 1;
            expected.iter().map(|_| peer.acknowledgment()).collect()
        } else {
            batches += 1;
            peer.batch_answer().answers
        };
        assert_eq!(answers.len(), expected.len(), "{name}");
        let parts = parts(&body);
        assert_eq!(parts.len(), expected.len(), "{name}");
        for ((answer, expected), part) in answers.iter().zip(expected).zip(parts) {
            let control_id = expected["control_id"].as_str().unwrap_or_default();
            assert_eq!(answer.control_id(), control_id.as_bytes(), "{name}");
            if control_id.is_empty() {
                assert!(["AE", "AR"].contains(&answer.code().as_str()), "{name}: {answer:?}");
            } else {
                assert!(["AA", "CA"].contains(&answer.code().as_str()), "{name}: {answer:?}");
                kept.push(part);
            }
        }
    }
    assert_eq!(peer.receive(ANSWER / 10), Reply::Silence, "an answer too many");
    assert!(batches >= 7 && streams >= 6, "{batches} batches, {streams} streams");
    receiver.archived(&kept.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

/// The messages of a file, each from its MSH to before the next header or trailer.
fn parts(body: &[u8]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut is_inside = false;
    for line in body.split_inclusive(|&byte| byte == b'\r' || byte == b'\n') {
        match line.get(..4) {
            Some(b"MSH|") => {
                is_inside = true;
                parts.push(Vec::new());
            }
            Some(b"FHS|" | b"BHS|" | b"BTS|" | b"FTS|") => is_inside = false,
            _ => {}
        }
        if is_inside {
            parts.last_mut().unwrap().extend_from_slice(line);
        }
    }
    parts
}
