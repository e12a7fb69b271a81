//! Random mixtures of every deviation over the wire, against a model of the right answers that knows nothing of the
//! server: it has the whole stream before it, and reads RECEIVING.md § Framing off it. A seed that fails is printed;
//! `HL7SERVER_SEED` runs it again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::dice::Dice;
use support::mllp::{Acknowledgment, BatchAnswer, Peer, Reply};
use support::parallel::each;
use support::receiver::Receiver;
use support::{ANSWER, PATIENCE, files};

const STREAMS: usize = 600;
const THREADS: usize = 48;
const LIMIT: usize = 64 << 10;
const JUNK: usize = 4096;

// ---- the model

/// What a stream must come to.
#[derive(Debug, Default, PartialEq)]
struct Right {
    /// An answer frame each: code (with its error) and MSA-2 of every acknowledgment in it.
    answers: Vec<Vec<(String, String)>>,
    /// Bodies accepted.
    accepted: Vec<Vec<u8>>,
}

/// Reads a stream whose sender ends its side behind it.
fn right(stream: &[u8]) -> Right {
    let mut right = Right::default();
    let mut at = 0;
    loop {
        // Between frames. Where this looks, it is at the connection's start or behind a frame: junk ends in a VT.
        let rest = &stream[at..];
        let Some(&byte) = rest.first() else { return right };
        let others: [&[u8]; 6] = [b"\x16", b"GET ", b"POST", b"HEAD", b"SSH-", b"PROXY "];
        if at == 0 && others.iter().any(|other| rest.starts_with(other)) {
            return right;
        }
        if b"\r\n\0 \t\x1c".contains(&byte) {
            at += 1;
            continue;
        }
        let begin = if byte == 0x0b {
            at + 1
        } else if begins_message(rest, b"MSH") {
            at
        } else {
            let junk = rest.iter().position(|&b| b == 0x0b).unwrap_or(rest.len());
            if junk > JUNK || junk == rest.len() {
                return right;
            }
            at + junk + 1
        };
        // Inside one.
        let Some((length, taken)) = end_of_frame(&stream[begin..]) else {
            if stream.len() - begin > LIMIT {
                right.refuse("AR 207", &stream[begin..]);
            }
            return right;
        };
        right.frame(&stream[begin..begin + length]);
        at = begin + taken;
    }
}

fn begins_message(bytes: &[u8], name: &[u8]) -> bool {
    bytes.starts_with(name) && bytes.get(3).is_some_and(u8::is_ascii_punctuation)
}

/// How long the body is, and how many bytes it takes with what ends it.
fn end_of_frame(bytes: &[u8]) -> Option<(usize, usize)> {
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == 0x1c) {
        match bytes.get(at + 1) {
            Some(b'\r' | b'\n') => return Some((at, at + 2)),
            // The next frame, which begins there; or the sender's end.
            Some(0x0b) | None => return Some((at, at + 1)),
            // Data.
            Some(_) => {}
        }
    }
    None
}

impl Right {
    fn frame(&mut self, body: &[u8]) {
        let starts =
            |at: &usize| [b"MSH", b"FHS", b"BHS"].iter().any(|name| begins_message(&body[at + 1..], *name));
        let cut = (0..body.len()).rev().filter(|&at| body[at] == 0x0b).find(starts);
        let body = cut.map_or(body, |at| &body[at + 1..]);
        if body.len() > LIMIT {
            return self.refuse("AR 207", body);
        }
        let messages = messages(body);
        if begins_message(body, b"BHS") {
            let answers = messages.iter().filter_map(|message| self.message(message)).collect();
            self.answers.push(answers);
        } else if messages.is_empty() {
            self.answers.push(vec![("AR 100".to_owned(), String::new())]);
        } else {
            for message in messages {
                let answer = self.message(message);
                self.answers.extend(answer.map(|answer| vec![answer]));
            }
        }
    }

    /// Code and MSA-2; none for an acknowledgment.
    fn message(&mut self, body: &[u8]) -> Option<(String, String)> {
        let field = |n| field(body, n);
        if field(9).starts_with("ACK") {
            return None;
        }
        let code = if field(10).is_empty() || field(9).is_empty() {
            "AE 101"
        } else {
            self.accepted.push(body.to_vec());
            "AA"
        };
        Some((code.to_owned(), field(10)))
    }

    fn refuse(&mut self, code: &str, body: &[u8]) {
        self.answers.push(vec![(code.to_owned(), field(body, 10))]);
    }
}

/// MSH-n of a body that begins with MSH.
fn field(body: &[u8], n: usize) -> String {
    let header = body.split(|&byte| byte == b'\r').next().unwrap();
    let field = header.split(|&byte| byte == header[3]).nth(n - 1).unwrap_or_default();
    String::from_utf8(field.to_vec()).unwrap()
}

/// Each from its MSH to before the next, or a trailer. Bodies here have segments that end in CR.
fn messages(body: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> = (0..body.len()).filter(|&at| at == 0 || body[at - 1] == b'\r').collect();
    let first = starts.iter().position(|&at| !begins_message(&body[at..], b"BHS"));
    if !first.is_some_and(|first| begins_message(&body[starts[first]..], b"MSH")) {
        return Vec::new();
    }
    let ends = |at: usize| ["MSH", "BTS"].iter().any(|name| begins_message(&body[at..], name.as_bytes()));
    let begins = starts.iter().filter(|&&at| begins_message(&body[at..], b"MSH"));
    let end = |begin: usize| starts.iter().copied().find(|&at| at > begin && ends(at)).unwrap_or(body.len());
    begins.map(|&begin| &body[begin..end(begin)]).collect()
}

// ---- streams

/// A sender out of order: one piece behind another, each of its own kind.
fn stream(dice: &mut Dice, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut behind_frame = true;
    for n in 0..1 + dice.below(12) {
        let id = format!("{name}P{n:02}");
        let body = body(dice, &id);
        let mut begins_frame = true;
        match dice.below(20) {
            0..5 => out.extend([b"\x0b", body.as_slice(), b"\x1c\r"].concat()),
            5 => out.extend([b"\x0b", body.as_slice(), b"\x1c\n"].concat()),
            // Behind it stands a frame of its own, with its VT.
            6 => out.extend(
                [b"\x0b", body.as_slice(), b"\x1c\x0b", message(&format!("{id}N")).as_slice(), b"\x1c\r"]
                    .concat(),
            ),
            7 => out.extend(
                [b"\x0b", &body[..dice.below(body.len())], b"\x0b", message(&id).as_slice(), b"\x1c\r"]
                    .concat(),
            ),
            8 if behind_frame => out.extend([message(&id).as_slice(), b"\x1c\r"].concat()),
            9 => {
                let strange: [&[u8]; 6] = [b"\x1c", b"a\x1c\x1cb", b"\x0b", b"\0\0", b"\n", b"\x1c\x1c"];
                let note = [b"NTE|", *dice.pick(&strange), b"z\r"].concat();
                out.extend([b"\x0b", message(&id).as_slice(), &note, b"\x1c\r"].concat());
            }
            10 if dice.below(4) == 0 => {
                let filler = vec![b'x'; LIMIT + dice.below(5000)];
                out.extend([b"\x0b", message(&id).as_slice(), b"NTE|", &filler, b"\r\x1c\r"].concat());
            }
            11..13 => out.extend([b"\x0b", not_a_message(dice, &id).as_slice(), b"\x1c\r"].concat()),
            13..15 => {
                begins_frame = false;
                for _ in 0..1 + dice.below(4) {
                    out.push(*dice.pick(b"\r\n\0 \t\x1c"));
                }
            }
            15 | 16 => {
                // Junk runs up to the next VT; what begins with a letter of another protocol's name may be that.
                let junk = vec![*dice.pick(b"xyz}{7"); 1 + dice.below(30)];
                out.extend([junk.as_slice(), b"\x0b", &body, b"\x1c\r"].concat());
            }
            17 if n == 0 && dice.below(3) == 0 => {
                out.extend_from_slice(
                    dice.pick(&["GET / HTTP", "POST /", "SSH-2", "\u{16}\u{3}\u{1}"]).as_bytes(),
                );
            }
            18 if dice.below(8) == 0 => out.extend(vec![b'z'; JUNK - 1 + dice.below(3)]),
            19 if dice.below(3) == 0 => {
                // Cut off by the sender's end.
                out.push(0x0b);
                out.extend_from_slice(&body[..dice.below(body.len())]);
                return out;
            }
            _ => {
                begins_frame = false;
                let length = out.len();
                // An FS that ended a frame without its CR must not get one now.
                if length == 0 || out[length - 1] != 0x1c {
                    out.extend_from_slice(b"\r");
                }
            }
        }
        behind_frame = begins_frame;
    }
    if dice.below(6) == 0 {
        // The sender's end comes in place of its last CR.
        out.extend([b"\x0b", message(&format!("{name}LAST")).as_slice(), b"\x1c"].concat());
    }
    out
}

fn message(id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|A|B|C|D|2026||ADT^A01|{id}|P|2.5\rPID|1||P\r").into_bytes()
}

/// One message, several, or a batch.
fn body(dice: &mut Dice, id: &str) -> Vec<u8> {
    let several: Vec<u8> = (0..dice.below(4))
        .flat_map(|n| if dice.below(4) == 0 { not_taken(dice, id) } else { message(&format!("{id}M{n}")) })
        .collect();
    match dice.below(6) {
        0 => [message(id), several].concat(),
        1 => [b"BHS|^~\\&|A|B\r".as_slice(), &several, b"BTS|1\r"].concat(),
        _ => message(id),
    }
}

/// Without control id or type, or an acknowledgment.
fn not_taken(dice: &mut Dice, id: &str) -> Vec<u8> {
    let (kind, control_id) = *dice.pick(&[("ADT^A01", ""), ("", id), ("ACK^A01", id)]);
    format!("MSH|^~\\&|A|B|C|D|2026||{kind}|{control_id}|P|2.5\rMSA|AA|1\r").into_bytes()
}

fn not_a_message(dice: &mut Dice, id: &str) -> Vec<u8> {
    match dice.below(4) {
        0 => b"PID|1||P\r".to_vec(),
        1 => Vec::new(),
        2 => b"MSHA|x\r".to_vec(),
        _ => not_taken(dice, id),
    }
}

// ---- the two together

/// What one connection heard.
fn heard(peer: &mut Peer) -> Result<Vec<Vec<(String, String)>>, String> {
    let mut answers = Vec::new();
    loop {
        match peer.receive(ANSWER) {
            Reply::Frame(body) => answers.push(summary(&body)),
            Reply::Closed => return Ok(answers),
            Reply::Silence => return Err(format!("not closed; so far {answers:?}")),
        }
    }
}

fn summary(body: &[u8]) -> Vec<(String, String)> {
    let one = |answer: &Acknowledgment| {
        let code = answer.error().map_or_else(|| answer.code(), |error| format!("{} {error}", answer.code()));
        (code, String::from_utf8(answer.control_id()).unwrap())
    };
    if body.starts_with(b"BHS") {
        BatchAnswer::parse(body).answers.iter().map(one).collect()
    } else {
        vec![one(&Acknowledgment::parse(body))]
    }
}

#[test]
fn every_random_mixture_of_deviations_is_answered_as_the_model_says() {
    let receiver = Receiver::with(json!({
        "stream_limit": LIMIT, "max_connections": 2000, "max_connections_per_address": 2000
    }));
    let mut dice = Dice::thrown();
    let mut streams = Vec::new();
    for n in 0..STREAMS {
        let stream = stream(&mut dice, &format!("{n:04}"));
        let splits: Vec<usize> = (0..dice.below(6)).map(|_| dice.below(stream.len() + 1)).collect();
        streams.push((stream, splits));
    }
    let rights: Vec<Right> = streams.iter().map(|(stream, _)| right(stream)).collect();
    let answers = rights.iter().map(|right| right.answers.len()).sum::<usize>();
    let mut accepted: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    rights
        .iter()
        .flat_map(|right| &right.accepted)
        .for_each(|body| *accepted.entry(body.clone()).or_default() += 1);
    assert!(answers > STREAMS && accepted.len() > STREAMS, "the streams are too dull");
    each(streams.iter().zip(&rights).collect(), THREADS, |((stream, splits), right)| {
        let mut splits = splits.clone();
        splits.sort_unstable();
        let mut peer = Peer::connect(receiver.port);
        let mut from = 0;
        for to in splits.into_iter().chain([stream.len()]) {
            // The server may close before everything is sent.
            if peer.send_raw(&stream[from..to]).is_err() {
                break;
            }
            from = to;
            std::thread::sleep(Duration::from_millis(1));
        }
        peer.try_half_close();
        let heard = heard(&mut peer);
        assert!(
            heard.as_ref() == Ok(&right.answers),
            "seed {}\nstream {:?}\nheard {heard:?}\nright {:?}",
            dice.seed,
            String::from_utf8_lossy(stream),
            right.answers
        );
    });
    let (expected, folder) = (accepted.values().sum::<i64>() as usize, receiver.site.path("archive/adt"));
    let (mut found, end) = (files(&folder, ".hl7"), Instant::now() + PATIENCE);
    while found.len() < expected && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        found = files(&folder, ".hl7");
    }
    eprintln!("{STREAMS} streams, {answers} answer frames, {expected} messages accepted");
    found.into_iter().for_each(|(_, body)| *accepted.entry(body).or_default() -= 1);
    accepted.retain(|_, n| *n != 0);
    let wrong: Vec<_> = accepted.iter().take(5).map(|(body, n)| (String::from_utf8_lossy(body), n)).collect();
    assert!(wrong.is_empty(), "seed {}: missing > 0, too many < 0: {wrong:#?}", dice.seed);
}

#[test]
fn the_model_reads_streams_as_the_contract_does() {
    let msh = |id: &str| String::from_utf8(message(id)).unwrap();
    let told = |stream: &str| -> Vec<String> {
        let one = |(code, id): &(String, String)| format!("{code} {id}");
        right(stream.as_bytes())
            .answers
            .iter()
            .map(|frame| frame.iter().map(one).collect::<Vec<_>>().join("+"))
            .collect()
    };
    assert_eq!(told(&format!("\u{b}{}\u{1c}\r\u{b}{}\u{1c}", msh("1"), msh("2"))), ["AA 1", "AA 2"]);
    assert_eq!(told(&format!("\u{b}{}\u{b}{}\u{1c}\n", &msh("1")[..30], msh("2"))), ["AA 2"]);
    assert_eq!(told(&format!("{}\u{1c}\r\u{b}PID|\u{1c}\r", msh("1"))), ["AA 1", "AR 100 "]);
    assert_eq!(told(&format!("\u{b}BHS|^~\\&|\r{}{}BTS|2\r\u{1c}\r", msh("1"), msh("2"))), ["AA 1+AA 2"]);
    assert_eq!(
        told(&format!("x{}\u{1c}\r\u{b}{}{}\u{1c}\r", msh("0"), msh("1"), msh("2"))),
        ["AA 1", "AA 2"]
    );
    assert!(told(&format!("GET /\u{b}{}\u{1c}\r", msh("1"))).is_empty());
}
