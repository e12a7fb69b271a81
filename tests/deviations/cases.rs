//! What peers do, each with what must come of it.

use super::support::mllp::frame;
use super::{LIMIT, PLACEHOLDER};

/// What a peer does, and what must come of it.
#[derive(Clone)]
pub struct Case {
    /// For failures.
    pub name: &'static str,
    pub stream: Vec<u8>,
    /// In order; `AA` or code and error, with MSA-2. One entry an answer frame, several in a batch's.
    pub answers: Vec<Vec<(String, String)>>,
    pub end: End,
    /// Codes counted, each with its number.
    pub deviations: Vec<(&'static str, u64)>,
    /// Bodies that must be archived.
    pub archived: Vec<Vec<u8>>,
    /// What must be in quarantine.
    pub quarantined: Vec<Vec<u8>>,
}

/// How the stream and the connection end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// In step: the next message is answered.
    InStep,
    /// The peer ends its side; what it is owed comes first.
    HalfClose,
    /// The server closes.
    Closed,
}

/// A message of few bytes, so that its boundaries are few.
pub fn short(id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|A|B|C|D|2026||ADT^A01|{id}|P|2.5\rPID|1||P\r").into_bytes()
}

impl Case {
    pub fn new(name: &'static str, parts: &[&[u8]]) -> Case {
        Case {
            name,
            stream: parts.concat(),
            answers: Vec::new(),
            end: End::InStep,
            deviations: Vec::new(),
            archived: Vec::new(),
            quarantined: Vec::new(),
        }
    }

    pub fn accepted(mut self, id: &str, body: &[u8]) -> Case {
        self.answers.push(vec![("AA".to_owned(), id.to_owned())]);
        self.archived.push(body.to_vec());
        self
    }

    pub fn refused(mut self, code: &str, id: &str) -> Case {
        self.answers.push(vec![(code.to_owned(), id.to_owned())]);
        self
    }

    pub fn counted(mut self, code: &'static str) -> Case {
        self.deviations.push((code, 1));
        self
    }

    pub fn kept_aside(mut self, bytes: &[u8]) -> Case {
        self.quarantined.push(bytes.to_vec());
        self
    }

    pub fn ending(mut self, end: End) -> Case {
        self.end = end;
        self
    }
}

/// Every deviation, for a channel with `stream_limit` at 64 KiB. Ids are the caller's, so that no two runs of a case
/// send the same message.
pub fn cases(id: &str) -> Vec<Case> {
    let (a, b) = (format!("{id}A"), format!("{id}B"));
    let (first, second) = (short(&a), short(&b));
    let (f, s) = (frame(&first), frame(&second));
    let bare = &first[..first.len() - 1];
    let cut = &first[..first.len() / 2];
    let big = [&second[..], b"NTE|1||", &vec![b'x'; LIMIT], b"\r"].concat();
    let endless = [&second[..], b"NTE|1||", &vec![b'x'; 4 * LIMIT + 1000]].concat();
    let with = |tail: &[u8]| [&first[..], tail].concat();
    let spaced = [b"\r\n ", &first[..]].concat();
    let marked = [b"\xef\xbb\xbf", &first[..]].concat();
    let lines: Vec<u8> = first.iter().map(|&byte| if byte == b'\r' { b'\n' } else { byte }).collect();
    let pairs = String::from_utf8(first.clone()).unwrap().replace('\r', "\r\n").into_bytes();
    let strange = String::from_utf8(first.clone()).unwrap().replace('|', "#").into_bytes();
    let acknowledgment = format!("MSH|^~\\&|A|B|C|D|2026||ACK^A01|{a}|P|2.5\rMSA|AA|{a}\r").into_bytes();
    let wide: Vec<u8> =
        String::from_utf8(first.clone()).unwrap().encode_utf16().flat_map(u16::to_le_bytes).collect();
    let no_id = b"MSH|^~\\&|A|B|C|D|2026||ADT^A01||P|2.5\r".to_vec();
    let no_type = format!("MSH|^~\\&|A|B|C|D|2026|||{a}|P|2.5\r").into_bytes();
    let batch = [b"BHS|^~\\&|A|B|C|D\r".as_slice(), &first, &second, b"BTS|2\r"].concat();
    let junk_of = |count: usize| vec![b'x'; count];
    let mut all = vec![
        // Between frames.
        Case::new("two frames in one packet", &[&f, &s]).accepted(&a, &first).accepted(&b, &second),
        Case::new("pad before, between and behind frames", &[b"\r\n\0 \t", &f, b"\r\n", &s, b"\0\0\r"])
            .accepted(&a, &first)
            .accepted(&b, &second)
            .counted("pad")
            .counted("pad")
            .counted("pad"),
        Case::new("stray FS before and between frames", &[b"\x1c", &f, b"\x1c\x1c\r", &s])
            .accepted(&a, &first)
            .accepted(&b, &second)
            .counted("stray_fs")
            .counted("stray_fs")
            .counted("pad"),
        Case::new("junk before the first frame", &[b"hello", &f]).accepted(&a, &first).counted("junk"),
        Case::new("junk between frames", &[&f, b"}{", &s])
            .accepted(&a, &first)
            .accepted(&b, &second)
            .counted("junk"),
        Case::new("a message without VT behind junk is junk", &[b"x", &f[1..], &s])
            .accepted(&b, &second)
            .counted("junk"),
        Case::new("what begins like MSH and is none is junk", &[b"MSHA", &f])
            .accepted(&a, &first)
            .counted("junk"),
        Case::new("4096 bytes of junk", &[&junk_of(4096), &f]).accepted(&a, &first).counted("junk"),
        Case::new("4097 bytes of junk", &[&junk_of(4097), &f]).counted("junk").ending(End::Closed),
        Case::new("no VT at the connection's start", &[&f[1..], &s])
            .accepted(&a, &first)
            .accepted(&b, &second)
            .counted("missing_vt"),
        Case::new("no VT behind a frame", &[&f, &s[1..]])
            .accepted(&a, &first)
            .accepted(&b, &second)
            .counted("missing_vt"),
        Case::new("no VT and another separator", &[&frame(&strange)[1..]])
            .accepted(&a, &strange)
            .counted("missing_vt"),
        Case::new("nothing at all", &[]).ending(End::HalfClose),
        Case::new("only pad", &[b"\r\n"]).counted("pad").ending(End::HalfClose),
        // Inside a frame.
        Case::new("NUL and VT in a body", &[&frame(&with(b"NTE|a\0b\x0bc\r"))])
            .accepted(&a, &with(b"NTE|a\0b\x0bc\r")),
        Case::new("cut off by the next frame", &[b"\x0b", cut, &s])
            .accepted(&b, &second)
            .counted("truncated")
            .kept_aside(cut),
        Case::new("cut off twice", &[b"\x0b", &cut[..20], b"\x0b", cut, &s])
            .accepted(&b, &second)
            .counted("truncated")
            .kept_aside(&[&cut[..20], b"\x0b", cut].concat()),
        Case::new("cut off by a batch", &[b"\x0b", cut, b"\x0bBHS|^~\\&|A\r", &second, b"\x1c\r"])
            .answered_in_one(vec![("AA".to_owned(), b.clone())])
            .storing(&second)
            .counted("truncated")
            .kept_aside(cut),
        Case::new("a separator in a body", &[&frame(&with(b"NTE|a\x1cb\x1c\x1cc\r"))])
            .accepted(&a, &with(b"NTE|a\x1cb\x1c\x1cc\r"))
            .counted("embedded_fs"),
        Case::new("FS at the end of a body", &[&frame(&with(b"NTE|a\x1c"))])
            .accepted(&a, &with(b"NTE|a\x1c"))
            .counted("embedded_fs"),
        // At a frame's end.
        Case::new("no CR before the next frame", &[&f[..f.len() - 1], &s])
            .accepted(&a, &first)
            .accepted(&b, &second)
            .counted("missing_cr"),
        Case::new("no CR and silence", &[&f[..f.len() - 1]]).accepted(&a, &first).counted("missing_cr"),
        Case::new("no CR and the end", &[&f[..f.len() - 1]])
            .accepted(&a, &first)
            .counted("missing_cr")
            .ending(End::HalfClose),
        Case::new("no CR and the end, nor one behind the last segment", &[b"\x0b", bare, b"\x1c"])
            .accepted(&a, bare)
            .counted("missing_cr")
            .ending(End::HalfClose),
        Case::new("LF for CR", &[b"\x0b", &first, b"\x1c\n", &s])
            .accepted(&a, &first)
            .accepted(&b, &second)
            .counted("lf_for_cr"),
        Case::new("half closed behind a frame", &[&f]).accepted(&a, &first).ending(End::HalfClose),
        Case::new("the end inside a second frame", &[&f, b"\x0b", &second])
            .accepted(&a, &first)
            .counted("partial")
            .kept_aside(&second)
            .ending(End::HalfClose),
        // Size.
        Case::new("over the limit", &[b"\x0b", &big, b"\x1c\r", &f])
            .refused("AR 207", &b)
            .accepted(&a, &first)
            .counted("oversize"),
        Case::new("over the limit and cut off before", &[b"\x0b", cut, b"\x0b", &big, b"\x1c\r", &f])
            .refused("AR 207", &b)
            .accepted(&a, &first)
            .counted("truncated")
            .counted("oversize")
            .kept_aside(cut),
        Case::new("far over the limit", &[b"\x0b", &endless])
            .refused("AR 207", &b)
            .counted("oversize")
            .ending(End::Closed),
        Case::new("over the limit and never ended", &[b"\x0b", &big])
            .refused("AR 207", &b)
            .counted("oversize")
            .ending(End::HalfClose),
        // Segments and what is no message.
        Case::new("LF ends segments", &[&frame(&lines)]).accepted(&a, &lines),
        Case::new("CR LF ends segments", &[&frame(&pairs)]).accepted(&a, &pairs),
        Case::new("a byte order mark before MSH", &[&frame(&marked)]).accepted(&a, &marked),
        Case::new("CR LF SP before MSH", &[&frame(&spaced)]).accepted(&a, &spaced),
        Case::new("an empty frame", &[&frame(b""), &f]).refused("AR 100", "").accepted(&a, &first),
        Case::new("no MSH", &[&frame(b"PID|1||P\r"), &f])
            .refused("AR 100", "")
            .accepted(&a, &first)
            .kept_aside(b"PID|1||P\r"),
        Case::new("a frame of part of an MSH", &[&frame(b"MSH"), &frame(b"MSH|"), &f])
            .refused("AR 100", "")
            .refused_somehow()
            .accepted(&a, &first),
        Case::new("UTF-16 where UTF-8 is said", &[&frame(&wide), &s])
            .refused("AR 100", "")
            .accepted(&b, &second),
        Case::new("no control id", &[&frame(&no_id), &s]).refused("AE 101", "").accepted(&b, &second),
        Case::new("no type", &[&frame(&no_type), &s]).refused("AE 101", &a).accepted(&b, &second),
        Case::new("an inbound acknowledgment", &[&frame(&acknowledgment), &s])
            .accepted(&b, &second)
            .kept_aside(&acknowledgment),
        Case::new("two messages in a frame", &[&frame(&[&first[..], &second].concat())])
            .accepted(&a, &first)
            .accepted(&b, &second),
        Case::new("a batch", &[&frame(&batch)])
            .answered_in_one(vec![("AA".to_owned(), a.clone()), ("AA".to_owned(), b.clone())])
            .storing(&first)
            .storing(&second),
    ];
    for start in [
        "GET / HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\n",
        "HEAD / HTTP/1.1\r\n",
        "SSH-2.0-x\r\n",
        "PROXY TCP4\r\n",
    ] {
        all.push(Case::new("another protocol", &[start.as_bytes()]).counted("not_mllp").ending(End::Closed));
    }
    all.push(Case::new("TLS", &[b"\x16\x03\x01\x02\0\x01"]).counted("tls_on_plain").ending(End::Closed));
    all
}

impl Case {
    /// The same with ids of its own in place of [`PLACEHOLDER`], so that no two runs of it send the same message.
    pub fn named(&self, id: &str) -> Case {
        assert_eq!(id.len(), PLACEHOLDER.len(), "a boundary means the same in each run");
        let renamed = |bytes: &Vec<u8>| {
            let mut bytes = bytes.clone();
            for at in 0..bytes.len().saturating_sub(PLACEHOLDER.len()) {
                if bytes[at] == PLACEHOLDER.as_bytes()[0] && bytes[at..].starts_with(PLACEHOLDER.as_bytes()) {
                    bytes[at..at + id.len()].copy_from_slice(id.as_bytes());
                }
            }
            bytes
        };
        let answer = |(code, told): &(String, String)| (code.clone(), told.replace(PLACEHOLDER, id));
        Case {
            stream: renamed(&self.stream),
            answers: self.answers.iter().map(|frame| frame.iter().map(answer).collect()).collect(),
            archived: self.archived.iter().map(renamed).collect(),
            quarantined: self.quarantined.iter().map(renamed).collect(),
            ..self.clone()
        }
    }

    /// One answer frame for these messages.
    pub fn answered_in_one(mut self, answers: Vec<(String, String)>) -> Case {
        self.answers.push(answers);
        self
    }

    pub fn storing(mut self, body: &[u8]) -> Case {
        self.archived.push(body.to_vec());
        self
    }

    /// A refusal whose code the contract leaves open.
    pub fn refused_somehow(self) -> Case {
        self.refused("refused", "")
    }
}

/// Every case once, with ids of its own.
pub fn named(run: &str) -> Vec<Case> {
    let named = |(n, case): (usize, &Case)| case.named(&format!("{n:02}{run}0000"));
    cases(PLACEHOLDER).iter().enumerate().map(named).collect()
}
