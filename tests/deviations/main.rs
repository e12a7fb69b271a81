//! A client that speaks every deviation RECEIVING.md names under framing: each sent whole, byte by byte and split at
//! every boundary. Three laws hold in each: every message of a complete frame gets exactly one right answer, or the
//! connection a close, in bounded time; never an AA for bytes that are truncated, merged or no HL7; AA only after the
//! flush.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
#[path = "../support/mod.rs"]
mod support;

use cases::{Case, End, cases, named, short};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::mllp::{Acknowledgment, BatchAnswer, Peer, Reply, frame};
use support::parallel::each;
use support::receiver::Receiver;
use support::trace::Trace;
use support::{ANSWER, PATIENCE, files, process, within};

/// Connections at work at the same time.
const THREADS: usize = 48;
/// Between two parts of a stream, so that they are two reads of the server, as a rule.
const GAP: Duration = Duration::from_millis(2);
/// `stream_limit` here, its smallest value.
const LIMIT: usize = 64 << 10;
/// Stands in cases for an id to be put in.
const PLACEHOLDER: &str = "@@@@@@@";
/// A stream longer than this is not split at each of its boundaries but near its interesting ones.
const SHORT: usize = 1000;

/// A case and the places where its stream is split.
struct Run {
    case: Case,
    splits: Vec<usize>,
}

/// Sends a case and checks all that is answered.
fn speak(port: u16, run: &Run) {
    let Run { case, splits } = run;
    let what = format!("{} split at {:?}", case.name, &splits[..splits.len().min(3)]);
    let mut peer = Peer::connect(port);
    let mut from = 0;
    for &to in splits.iter().chain([&case.stream.len()]) {
        // Where the server closes, it may do so before everything is sent.
        if peer.send_raw(&case.stream[from..to]).is_err() {
            assert_eq!(case.end, End::Closed, "{what}: closed while it is sent");
            break;
        }
        from = to;
        if to < case.stream.len() {
            std::thread::sleep(GAP);
        }
    }
    if case.end == End::HalfClose {
        peer.half_close();
    }
    for expected in &case.answers {
        let found = summary(&what, peer.receive(ANSWER));
        let is_right = found.len() == expected.len()
            && found.iter().zip(expected).all(|(found, expected)| {
                found.1 == expected.1 && (found.0 == expected.0 || expected.0 == "refused" && found.0 != "AA")
            });
        assert!(is_right, "{what}: answered {found:?}, right is {expected:?}");
    }
    match case.end {
        // The next answer is that to the next message: none was given too many, and the connection is in step.
        End::InStep => {
            peer.send(b"MSH|^~\\&|A|B|C|D|2026|||PROBE|P|2.5\r");
            let found = summary(&what, peer.receive(ANSWER));
            assert_eq!(found, [("AE 101".to_owned(), "PROBE".to_owned())], "{what}: out of step");
        }
        End::HalfClose | End::Closed => {
            assert_eq!(peer.receive(ANSWER), Reply::Closed, "{what}: not closed");
        }
    }
}

/// Code (with its error) and MSA-2 of each acknowledgment of an answer.
#[track_caller]
fn summary(what: &str, reply: Reply) -> Vec<(String, String)> {
    let Reply::Frame(body) = reply else { panic!("{what}: no answer: {reply:?}") };
    let one = |answer: &Acknowledgment| {
        let code = answer.error().map_or_else(|| answer.code(), |error| format!("{} {error}", answer.code()));
        (code, String::from_utf8(answer.control_id()).unwrap())
    };
    if body.starts_with(b"BHS") {
        BatchAnswer::parse(&body).answers.iter().map(one).collect()
    } else {
        vec![one(&Acknowledgment::parse(&body))]
    }
}

fn receiver() -> Receiver {
    Receiver::with(json!({
        "stream_limit": LIMIT, "max_connections": 2000, "max_connections_per_address": 2000, "message_timeout": 60
    }))
}

/// Waits until the archive holds exactly these bodies, each as often as it was accepted.
#[track_caller]
fn assert_archived(receiver: &Receiver, expected: &[Vec<u8>]) {
    let folder = receiver.site.path("archive/adt");
    let end = Instant::now() + PATIENCE;
    let mut found = files(&folder, ".hl7");
    while found.len() < expected.len() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        found = files(&folder, ".hl7");
    }
    let mut count: BTreeMap<&[u8], i64> = BTreeMap::new();
    expected.iter().for_each(|body| *count.entry(body).or_default() += 1);
    found.iter().for_each(|(_, body)| *count.entry(body).or_default() -= 1);
    let wrong: Vec<_> = count.iter().filter(|(_, n)| **n != 0).take(5).collect();
    let text = |body: &[u8]| String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    let shown: Vec<_> = wrong.iter().map(|(body, n)| (text(body), **n)).collect();
    assert!(wrong.is_empty(), "not archived as sent (missing > 0, too many < 0): {shown:#?}");
}

/// Sums of the deviations that cases must have counted.
fn sums<'a>(cases: impl Iterator<Item = &'a Case>) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for (code, n) in cases.flat_map(|case| &case.deviations) {
        *sums.entry(*code).or_default() += n;
    }
    sums
}

#[test]
fn every_deviation_sent_whole_has_its_right_answer_its_counter_and_its_quarantine() {
    let receiver = receiver();
    let cases = named("W");
    each(cases.iter().map(|case| Run { case: case.clone(), splits: Vec::new() }).collect(), THREADS, |run| {
        speak(receiver.port, &run);
    });
    let bodies: Vec<Vec<u8>> = cases.iter().flat_map(|case| case.archived.clone()).collect();
    assert_archived(&receiver, &bodies);
    let expected = sums(cases.iter());
    within(PATIENCE, "the deviations are counted, each by its code", || {
        let channel = receiver.server.channel("adt");
        let counted = &channel["status"]["framing"];
        let is_right = expected.iter().all(|(code, n)| counted[*code].as_u64() == Some(*n));
        if !is_right {
            eprintln!("counted {counted}, right is {expected:?}");
        }
        is_right.then_some(())
    });
    for bytes in cases.iter().flat_map(|case| &case.quarantined) {
        receiver.quarantined(bytes);
    }
}

#[test]
fn every_deviation_byte_by_byte_and_split_at_every_boundary_has_the_same_answers() {
    let receiver = receiver();
    let mut runs = Vec::new();
    for (n, case) in cases(PLACEHOLDER).iter().enumerate() {
        let length = case.stream.len();
        let mut ways: Vec<Vec<usize>> = boundaries(&case.stream).into_iter().map(|at| vec![at]).collect();
        if length <= SHORT {
            ways.push((1..length).collect());
        }
        let named = |(way, splits)| Run { case: case.named(&format!("{n:02}S{way:04}")), splits };
        runs.extend(ways.into_iter().enumerate().map(named));
    }
    let bodies: Vec<Vec<u8>> = runs.iter().flat_map(|run| run.case.archived.clone()).collect();
    let (count, begun) = (runs.len(), Instant::now());
    let expected = sums(runs.iter().map(|run| &run.case));
    each(runs, THREADS, |run| speak(receiver.port, &run));
    eprintln!("{count} connections, {} messages, {:?}", bodies.len(), begun.elapsed());
    assert_archived(&receiver, &bodies);
    // How the reads split is irrelevant. A sender that was held up behind FS for 200 ms makes a missing CR and a pad.
    let deviates = |counted: &Value| {
        let tolerated =
            |code: &str, n: u64| if ["missing_cr", "pad"].contains(&code) { n / 10 + 5 } else { 0 };
        let counted = |code: &str| counted[code].as_u64().unwrap_or(0);
        expected
            .iter()
            .find(|(code, n)| counted(code).abs_diff(**n) > tolerated(code, **n))
            .map(|(code, _)| *code)
    };
    let end = Instant::now() + PATIENCE;
    loop {
        let counted = receiver.server.channel("adt")["status"]["framing"].clone();
        let Some(code) = deviates(&counted) else { break };
        assert!(Instant::now() < end, "{code}: counted {counted}, right is {expected:?}");
    }
}

#[test]
fn what_was_acknowledged_after_a_deviation_survives_the_worker_s_death() {
    let receiver = receiver();
    let mut bodies = Vec::new();
    for round in 0..5 {
        let cases = named(&round.to_string());
        bodies.extend(cases.iter().flat_map(|case| case.archived.clone()));
        each(cases.into_iter().map(|case| Run { case, splits: Vec::new() }).collect(), THREADS, |run| {
            speak(receiver.port, &run);
        });
        process::kill(receiver.server.worker(receiver.port));
    }
    assert_archived(&receiver, &bodies);
}

/// Where a stream is split: everywhere, or around what is not filler.
fn boundaries(stream: &[u8]) -> Vec<usize> {
    let is_filler = |at: usize| {
        stream.len() > SHORT
            && stream[at.saturating_sub(3)..(at + 3).min(stream.len())].iter().all(|&b| b == b'x')
    };
    (1..stream.len()).filter(|&at| !is_filler(at) || at % 16_384 == 0 || at % LIMIT == 8).collect()
}

#[test]
fn a_frame_cut_off_at_any_byte_gets_no_answer_when_the_connection_ends() {
    let receiver = receiver();
    let length = short("000").len();
    // Behind FS it is complete.
    each((1..=length).collect(), THREADS, |at| {
        let mut peer = Peer::connect(receiver.port);
        peer.send_raw(&frame(&short(&format!("{at:03}")))[..at]).unwrap();
        peer.half_close();
        assert_eq!(peer.receive(ANSWER), Reply::Closed, "cut off after {at} bytes");
    });
    let quarantine = receiver.site.path("state/adt/quarantine");
    for at in 2..=length {
        let bytes = &short(&format!("{at:03}"))[..at - 1];
        within(PATIENCE, "what was cut off is in quarantine", || {
            files(&quarantine, "").iter().any(|(_, content)| content == bytes).then_some(())
        });
    }
    assert_archived(&receiver, &[]);
}

#[test]
fn a_frame_that_stops_at_any_byte_is_closed_within_message_timeout_and_never_answered() {
    let receiver = Receiver::with(json!({"message_timeout": 1, "max_connections_per_address": 2000}));
    let whole = frame(&short("STOPS"));
    let without_cr = [&whole[..whole.len() - 3], b"\x1c"].concat();
    // The last: an FS that no CR stands before may be data, so that silence behind it ends nothing.
    let starts: Vec<Vec<u8>> =
        (1..whole.len() - 1).map(|at| whole[..at].to_vec()).chain([without_cr]).collect();
    each(starts, 200, |start| {
        let mut peer = Peer::connect(receiver.port);
        peer.send_raw(&start).unwrap();
        let sent = Instant::now();
        assert_eq!(peer.receive(ANSWER), Reply::Closed, "after {} bytes", start.len());
        let took = sent.elapsed();
        assert!(took >= Duration::from_millis(900), "closed {took:?} after {} bytes", start.len());
    });
    assert_archived(&receiver, &[]);
}

#[test]
fn every_aa_of_every_deviation_follows_a_flush_of_its_message() {
    if !Trace::is_possible() {
        return;
    }
    let receiver = receiver();
    let calls = ["-e", "trace=pwrite64,pwritev,write,writev,sendto,sendmsg,fdatasync,fsync"];
    let path = receiver.site.path("trace");
    let Some(trace) = Trace::attach(receiver.server.worker(receiver.port), &path, &calls) else { return };
    // One at a time: in the trace each message has its own write and its own flush then.
    let cases = named("F");
    for case in &cases {
        speak(receiver.port, &Run { case: case.clone(), splits: Vec::new() });
    }
    let ids: Vec<&String> = cases
        .iter()
        .flat_map(|c| c.answers.iter().flatten())
        .filter(|(code, _)| code == "AA")
        .map(|(_, id)| id)
        .collect();
    assert!(ids.len() > 40, "only {} messages accepted", ids.len());
    let answer = |id: &str| format!("MSA|AA|{id}");
    let strange = |id: &str| format!("MSA#AA#{id}");
    let lines = within(PATIENCE, "every AA in the trace", || {
        let lines = trace.lines();
        let told =
            |id: &str| lines.iter().any(|line| line.contains(&answer(id)) || line.contains(&strange(id)));
        ids.iter().all(|id| told(id)).then_some(lines)
    });
    for id in ids {
        let told =
            lines.iter().position(|line| line.contains(&answer(id)) || line.contains(&strange(id))).unwrap();
        let stored = lines.iter().position(|line| line.contains("/journal/") && line.contains(id.as_str()));
        let stored = stored.unwrap_or_else(|| panic!("{id} is not written to the journal"));
        let flushed = lines[stored..].iter().position(|line| is_flushed(line)).map(|at| at + stored);
        assert!(
            flushed.is_some_and(|at| at < told),
            "{id}: written at {stored}, flushed at {flushed:?}, told at {told}"
        );
    }
}

/// A flush of the journal that has ended well.
fn is_flushed(line: &str) -> bool {
    line.contains("sync")
        && line.trim_end().ends_with("= 0")
        && (line.contains("/journal/") || line.contains("resumed"))
}

#[test]
fn logs_name_code_peer_and_offset_and_at_most_one_byte() {
    let receiver = receiver();
    let mut peer = receiver.connect();
    peer.send_raw(&[b"SECRETNAME".as_slice(), &frame(&short("A"))].concat()).unwrap();
    peer.acknowledgment().accepts(b"A");
    let line = within(PATIENCE, "a line for the deviation", || {
        receiver.site.log().lines().find(|line| line.contains("junk")).map(str::to_owned)
    });
    assert!(line.contains(&peer.address().to_string()) && line.contains("byte 0"), "{line}");
    assert!(line.contains("53"), "the byte is not named: {line}");
    assert!(!receiver.site.log().contains("SECRET"), "content of a peer is in the log");
    let lines = || receiver.site.log().lines().filter(|line| line.contains(": junk at")).count();
    let before = lines();
    // A thousand of them do not make a thousand lines.
    for _ in 0..50 {
        peer.send_raw(&[b"?".as_slice(), &frame(b"x")].concat().repeat(20)).unwrap();
        for _ in 0..20 {
            peer.acknowledgment().refuses("AR", "100");
        }
    }
    assert!(lines() - before < 50, "{} lines", lines() - before);
}
