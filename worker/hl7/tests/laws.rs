//! The laws of receiving over random mixtures of everything a sender may do wrong.
//!
//! A small receiver is put together from this crate as the worker does it, without journal and network. What it ought
//! to answer is known from how each stream was made, not from reading it:
//!
//! 1. every message of a complete frame has exactly one answer, in order, an inbound acknowledgment none;
//! 2. nothing truncated, merged or foreign is accepted, and MSA-2 is MSH-10 byte for byte.
//!
//! The third, that an answer follows the flush, is the worker's.

#![allow(clippy::unwrap_used, reason = "a test")]

use hl7::ack::{self, Refusal};
use hl7::batch::{self, Batch};
use hl7::charset::{self, Encoding};
use hl7::header::HeaderFault;
use hl7::mllp::{Decoder, Event, Limits, VT, wrap};
use proptest::prelude::*;

const LIMITS: Limits = Limits { stream_limit_bytes: 1000, message_timeout_ms: 60_000 };

/// Acknowledgment code and control id.
type Answer = (String, Vec<u8>);

#[derive(Default)]
struct Outcome {
    /// One list for each frame that was answered.
    answers: Vec<Vec<Answer>>,
    quarantined: usize,
    closed: bool,
}

struct Receiver {
    decoder: Decoder,
    encoding: Encoding,
    outcome: Outcome,
}

impl Receiver {
    fn new(encoding: Encoding) -> Receiver {
        Receiver { decoder: Decoder::new(LIMITS), encoding, outcome: Outcome::default() }
    }

    fn feed(&mut self, bytes: &[u8], now_ms: u64) {
        let mut events = Vec::new();
        self.decoder.feed(bytes, now_ms, &mut events);
        self.take(events);
    }

    fn end(mut self) -> Outcome {
        let mut events = Vec::new();
        self.decoder.end(0, &mut events);
        self.take(events);
        self.outcome
    }

    /// The peer stays and says nothing: every wait ends by itself.
    fn silence(mut self) -> Outcome {
        for _ in 0..4 {
            let Some(deadline) = self.decoder.deadline_ms() else { return self.outcome };
            assert!(deadline <= 300_000, "a wait of {deadline} ms");
            let mut events = Vec::new();
            self.decoder.tick(deadline, &mut events);
            self.take(events);
        }
        panic!("the decoder waits on");
    }

    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            let answers = match event {
                Event::Frame(body) => self.frame(&body),
                Event::Oversize { head, .. } => {
                    let readable = charset::transcode_start(&head, self.encoding).unwrap();
                    let header = readable.header().ok();
                    vec![ack::refuse(header.as_ref(), &Refusal::TOO_LARGE, "ID", "TIME")]
                }
                Event::Quarantine { .. } => {
                    self.outcome.quarantined += 1;
                    continue;
                }
                Event::Close(_) => {
                    self.outcome.closed = true;
                    continue;
                }
                Event::Deviation { .. } => continue,
            };
            let answers: Vec<Answer> = answers
                .iter()
                .map(|answer| ack::read(answer).unwrap())
                .map(|answer| (answer.code, answer.control_id))
                .collect();
            if !answers.is_empty() {
                self.outcome.answers.push(answers);
            }
        }
    }

    fn frame(&self, body: &[u8]) -> Vec<Vec<u8>> {
        match batch::split_in(body, self.encoding) {
            Batch::Single => self.message(body).into_iter().collect(),
            Batch::Several(messages) => messages.iter().filter_map(|message| self.message(message)).collect(),
            Batch::Headed { file_header, batch_header, messages } => {
                let answers: Vec<Vec<u8>> =
                    messages.iter().filter_map(|message| self.message(message)).collect();
                let answer = batch::answer(file_header, batch_header, &answers, "ID", "TIME");
                match batch::split(&answer) {
                    Batch::Headed { messages, .. } => messages.iter().map(|part| part.to_vec()).collect(),
                    other => panic!("{other:?}"),
                }
            }
            Batch::TooMany { .. } => panic!("no stream has so many"),
        }
    }

    fn message(&self, body: &[u8]) -> Option<Vec<u8>> {
        let unreadable = |_: HeaderFault| Some(ack::refuse(None, &Refusal::NOT_HL7, "ID", "TIME"));
        let readable = match charset::transcode_header(body, self.encoding) {
            Ok(readable) => readable,
            Err(fault) => return unreadable(fault),
        };
        let header = match readable.header() {
            Ok(header) => header,
            Err(fault) => return unreadable(fault),
        };
        if header.is_acknowledgment() {
            return None;
        }
        Some(if header.control_id().is_empty() {
            ack::refuse(Some(&header), &Refusal::CONTROL_ID_MISSING, "ID", "TIME")
        } else {
            ack::accept(&header, "ID", "TIME")
        })
    }
}

/// A message of one segment more than its MSH.
fn message(control_id: &[u8]) -> Vec<u8> {
    [b"MSH|^~\\&|A|B|C|D|2024||ADT^A01|", control_id, b"|P|2.5\rPID|1||7\r"].concat()
}

/// One thing a sender does. Those that come in pairs end in a whole frame.
#[derive(Clone, Debug)]
enum Act {
    Frame(Vec<u8>),
    Pad(Vec<u8>),
    StrayFs,
    Junk(usize),
    MissingVt(Vec<u8>),
    /// The first breaks off after so many bytes.
    Truncated(Vec<u8>, usize, Vec<u8>),
    DoubledVt(Vec<u8>),
    MissingCr(Vec<u8>, Vec<u8>),
    LfForCr(Vec<u8>),
    EmbeddedFs(Vec<u8>),
    EmbeddedVt(Vec<u8>),
    Oversize(Vec<u8>),
    /// Over the limit together with what was cut off, not by itself.
    OversizeTruncated(Vec<u8>),
    LineFeeds(Vec<u8>),
    Marked(Vec<u8>),
    Acknowledgment(Vec<u8>),
    NoControlId,
    NoHl7,
    Empty,
    Utf16(Vec<u8>),
    Several(Vec<Vec<u8>>),
    Batch(Vec<Vec<u8>>),
}

/// What one act puts on the wire, and its answers frame by frame: the model.
fn carry_out(act: &Act) -> (Vec<u8>, Vec<Vec<Answer>>, usize) {
    let taken = |id: &[u8]| vec![("AA".to_owned(), id.to_vec())];
    let refused = |code: &str, id: &[u8]| vec![vec![(code.to_owned(), id.to_vec())]];
    let accepted = |bytes: Vec<u8>, id: &[u8]| (bytes, vec![taken(id)], 0);
    match act {
        Act::Frame(id) => accepted(wrap(&message(id)), id),
        Act::Pad(bytes) => (bytes.clone(), vec![], 0),
        Act::StrayFs => (vec![0x1C], vec![], 0),
        Act::Junk(length) => (vec![b'x'; *length], vec![], 0),
        Act::MissingVt(id) => accepted(wrap(&message(id))[1..].to_vec(), id),
        Act::Truncated(first, at, id) => {
            let first = wrap(&message(first));
            let at = 2 + at % (first.len() - 4);
            ([&first[..at], &wrap(&message(id))].concat(), vec![taken(id)], 1)
        }
        Act::DoubledVt(id) => accepted([&[VT], &wrap(&message(id))[..]].concat(), id),
        Act::MissingCr(first, id) => {
            let mut bytes = wrap(&message(first));
            bytes.pop();
            bytes.extend(wrap(&message(id)));
            (bytes, vec![taken(first), taken(id)], 0)
        }
        Act::LfForCr(id) => {
            let mut bytes = wrap(&message(id));
            *bytes.last_mut().unwrap() = b'\n';
            accepted(bytes, id)
        }
        Act::EmbeddedFs(id) => accepted(wrap(&[&message(id)[..], b"NTE|\x1C|\x1Cx\x1C\x1C\r"].concat()), id),
        Act::EmbeddedVt(id) => accepted(wrap(&[&message(id)[..], b"NTE|\x0B|\x0BMSH\x0B\r"].concat()), id),
        Act::Oversize(id) => {
            let body = [&message(id)[..], b"NTE|", &[b'x'; 1200], b"\r"].concat();
            (wrap(&body), refused("AR", id), 0)
        }
        Act::OversizeTruncated(id) => {
            ([b"\x0B", &[b'x'; 980][..], &wrap(&message(id))].concat(), vec![taken(id)], 1)
        }
        Act::LineFeeds(id) => {
            let body: Vec<u8> = message(id).iter().map(|&b| if b == b'\r' { b'\n' } else { b }).collect();
            accepted(wrap(&body), id)
        }
        Act::Marked(id) => accepted(wrap(&[b"\xEF\xBB\xBF\r\n ", &message(id)[..]].concat()), id),
        Act::Acknowledgment(id) => {
            (wrap(&[b"MSH|^~\\&|||||||ACK|", &id[..], b"|P|2.5\rMSA|AA|1\r"].concat()), vec![], 0)
        }
        Act::NoControlId => (wrap(&message(b"")), refused("AE", b""), 0),
        Act::NoHl7 => (wrap(b"PID|1||hello\r"), refused("AR", b""), 0),
        Act::Empty => (wrap(b""), refused("AR", b""), 0),
        Act::Utf16(id) => {
            let id: String = id.iter().map(|&b| char::from(b & 0x7F)).collect();
            let text = String::from_utf8(message(id.as_bytes())).unwrap();
            (wrap(&charset::encode(&text, Encoding::Utf16).unwrap()), refused("AR", b""), 0)
        }
        Act::Several(ids) => {
            let body: Vec<u8> = ids.iter().flat_map(|id| message(id)).collect();
            (wrap(&body), vec![ids.iter().flat_map(|id| taken(id)).collect()], 0)
        }
        Act::Batch(ids) => {
            let messages: Vec<u8> = ids.iter().flat_map(|id| message(id)).collect();
            let body = [b"FHS|^~\\&|F\rBHS|^~\\&|B\r", &messages[..], b"BTS|1\rFTS|1\r"].concat();
            (wrap(&body), vec![ids.iter().flat_map(|id| taken(id)).collect()], 0)
        }
    }
}

/// What stands between frames leaves no frame without VT a chance behind it.
fn ends_a_frame(act: &Act) -> bool {
    !matches!(act, Act::Pad(_) | Act::StrayFs | Act::Junk(_))
}

#[derive(Clone, Debug)]
enum Ending {
    /// The peer half-closes between frames.
    Clean,
    /// … inside a frame.
    Inside(Vec<u8>, usize),
    /// … behind an FS.
    BehindFs(Vec<u8>),
    /// It falls silent inside a frame.
    Silent(Vec<u8>, usize),
    /// … behind CR FS.
    SilentBehindFs(Vec<u8>),
}

fn end(
    receiver: Receiver,
    ending: &Ending,
    expected: &mut Vec<Vec<Answer>>,
    quarantined: &mut usize,
) -> Outcome {
    let mut receiver = receiver;
    let (bytes, answered) = match ending {
        Ending::Clean => (Vec::new(), None),
        Ending::Inside(id, at) | Ending::Silent(id, at) => {
            let frame = wrap(&message(id));
            let at = 2 + at % (frame.len() - 4);
            *quarantined += 1;
            (frame[..at].to_vec(), None)
        }
        Ending::BehindFs(id) | Ending::SilentBehindFs(id) => {
            let mut frame = wrap(&message(id));
            frame.pop();
            (frame, Some(id))
        }
    };
    expected.extend(answered.map(|id| vec![("AA".to_owned(), id.clone())]));
    receiver.feed(&bytes, 0);
    match ending {
        Ending::Silent(..) => {
            let outcome = receiver.silence();
            assert!(outcome.closed, "silence inside a frame closes");
            outcome
        }
        Ending::SilentBehindFs(_) => receiver.silence(),
        Ending::Clean | Ending::Inside(..) | Ending::BehindFs(_) => receiver.end(),
    }
}

fn control_id() -> impl Strategy<Value = Vec<u8>> {
    let byte = (0x21u8..).prop_filter("no delimiter", |b| !b"|^~\\&".contains(b));
    proptest::collection::vec(byte, 1..12)
}

fn act() -> impl Strategy<Value = Act> {
    let pad = proptest::sample::select(vec![b'\r', b'\n', 0, b' ', b'\t']);
    prop_oneof![
        4 => control_id().prop_map(Act::Frame),
        1 => proptest::collection::vec(pad, 1..6).prop_map(Act::Pad),
        1 => Just(Act::StrayFs),
        1 => (1usize..100).prop_map(Act::Junk),
        1 => control_id().prop_map(Act::MissingVt),
        2 => (control_id(), any::<usize>(), control_id()).prop_map(|(a, at, b)| Act::Truncated(a, at, b)),
        1 => control_id().prop_map(Act::DoubledVt),
        1 => (control_id(), control_id()).prop_map(|(a, b)| Act::MissingCr(a, b)),
        1 => control_id().prop_map(Act::LfForCr),
        1 => control_id().prop_map(Act::EmbeddedFs),
        1 => control_id().prop_map(Act::EmbeddedVt),
        1 => control_id().prop_map(Act::Oversize),
        1 => control_id().prop_map(Act::OversizeTruncated),
        1 => control_id().prop_map(Act::LineFeeds),
        1 => control_id().prop_map(Act::Marked),
        1 => control_id().prop_map(Act::Acknowledgment),
        1 => Just(Act::NoControlId),
        1 => Just(Act::NoHl7),
        1 => Just(Act::Empty),
        1 => control_id().prop_map(Act::Utf16),
        1 => proptest::collection::vec(control_id(), 2..5).prop_map(Act::Several),
        1 => proptest::collection::vec(control_id(), 1..5).prop_map(Act::Batch),
    ]
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        Just(Ending::Clean),
        (control_id(), any::<usize>()).prop_map(|(id, at)| Ending::Inside(id, at)),
        control_id().prop_map(Ending::BehindFs),
        (control_id(), any::<usize>()).prop_map(|(id, at)| Ending::Silent(id, at)),
        control_id().prop_map(Ending::SilentBehindFs),
    ]
}

/// The acts' bytes in a row with what they have coming. A frame without VT becomes one with it where it has no right
/// to be read.
fn stream_of(acts: &[Act]) -> (Vec<u8>, Vec<Vec<Answer>>, usize) {
    let (mut stream, mut answers, mut quarantined) = (Vec::new(), Vec::new(), 0);
    let mut may_lack_vt = true;
    for act in acts {
        let act = match act {
            Act::MissingVt(id) if !may_lack_vt => Act::Frame(id.clone()),
            other => other.clone(),
        };
        let (bytes, expected, cut) = carry_out(&act);
        stream.extend(bytes);
        answers.extend(expected);
        quarantined += cut;
        may_lack_vt = ends_a_frame(&act);
    }
    (stream, answers, quarantined)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_message_has_its_one_right_answer(
        acts in proptest::collection::vec(act(), 0..14),
        ending in ending(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        bytewise in any::<bool>(),
    ) {
        let (stream, mut expected, mut quarantined) = stream_of(&acts);
        let mut cuts: Vec<usize> = if bytewise {
            (0..=stream.len()).collect()
        } else {
            cuts.iter().map(|cut| cut.index(stream.len() + 1)).chain([0, stream.len()]).collect()
        };
        cuts.sort_unstable();
        let mut receiver = Receiver::new(Encoding::Utf8);
        for pair in cuts.windows(2) {
            receiver.feed(&stream[pair[0]..pair[1]], 0);
        }
        let outcome = end(receiver, &ending, &mut expected, &mut quarantined);
        prop_assert_eq!(outcome.answers, expected);
        prop_assert_eq!(outcome.quarantined, quarantined);
    }
}

#[test]
fn every_deviation_is_answered_the_same_split_at_every_boundary() {
    let id = || b"M-1".to_vec();
    let acts = [
        Act::Frame(id()),
        Act::Pad(b"\r\n\0 \t".to_vec()),
        Act::StrayFs,
        Act::Junk(20),
        Act::MissingVt(id()),
        Act::Truncated(id(), 30, b"M-2".to_vec()),
        Act::DoubledVt(id()),
        Act::MissingCr(id(), b"M-2".to_vec()),
        Act::LfForCr(id()),
        Act::EmbeddedFs(id()),
        Act::EmbeddedVt(id()),
        Act::Oversize(id()),
        Act::OversizeTruncated(id()),
        Act::LineFeeds(id()),
        Act::Marked(id()),
        Act::Acknowledgment(id()),
        Act::NoControlId,
        Act::NoHl7,
        Act::Empty,
        Act::Utf16(id()),
        Act::Several(vec![id(), b"M-2".to_vec()]),
        Act::Batch(vec![id(), b"M-2".to_vec()]),
    ];
    for act in acts {
        // A frame behind it shows that the stream is in step again.
        let (stream, expected, quarantined) = stream_of(&[act.clone(), Act::Frame(b"last".to_vec())]);
        for at in 0..=stream.len() {
            let mut receiver = Receiver::new(Encoding::Utf8);
            receiver.feed(&stream[..at], 0);
            receiver.feed(&stream[at..], 0);
            let outcome = receiver.end();
            assert_eq!(
                (outcome.answers, outcome.quarantined),
                (expected.clone(), quarantined),
                "{act:?} at {at}"
            );
        }
    }
}

#[test]
fn message_cut_anywhere_is_never_accepted() {
    let frame = wrap(&message(b"M-1"));
    // Up to the FS itself nothing is whole; the FS at the end of the stream makes it so.
    for end in 1..frame.len() - 2 {
        let mut receiver = Receiver::new(Encoding::Utf8);
        receiver.feed(&frame[..end], 0);
        let outcome = receiver.end();
        assert!(outcome.answers.is_empty(), "{end}");
    }
}

#[test]
fn letters_that_look_like_the_end_of_a_frame_make_no_half_message() {
    for letter in ["\u{D1C}", "\u{B1C}", "\u{A1C}", "\u{1C0D}", "\u{1C0B}", "\u{1C0A}"] {
        for encoding in [Encoding::Utf16Le, Encoding::Utf16Be] {
            let text = format!("MSH|^~\\&|A|B|C|D|2024||ADT^A01|7|P|2.5\rPID|1||x{letter}y\r");
            let mut receiver = Receiver::new(encoding);
            receiver.feed(&wrap(&charset::encode(&text, encoding).unwrap()), 0);
            let outcome = receiver.end();
            let codes: Vec<&str> = outcome.answers.iter().flatten().map(|(code, _)| code.as_str()).collect();
            assert!(codes == ["AA"] || !codes.contains(&"AA"), "{letter:?} in {encoding:?}: {codes:?}");
        }
    }
}
