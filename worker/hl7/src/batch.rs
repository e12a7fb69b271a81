//! Several messages in one frame: batches with their FHS and BHS, and messages that merely follow one another.
//!
//! A frame that begins with FHS or BHS is a batch, whatever its trailers count: its messages are what lies between one
//! MSH and the next MSH, FHS, BHS, BTS or FTS. Several batches of a file count as one, answered under the first BHS.
//! A frame that begins with MSH and holds further ones is several messages. What stands in a batch outside its
//! messages, such as an NTE before the first MSH, belongs to none of them and is read by nobody.
//!
//! A name is recognised only where a segment begins and a separator follows, so that an `MSH|` inside a value is text.

use crate::charset::{self, Encoding};
use crate::delimiters::{self, Delimiters, is_separator};
use crate::segments;
use memchr::{memchr, memchr2};
use std::ops::Range;

/// Messages of one frame. All of them are journaled by one flush and answered in one write, which has to end.
pub const MESSAGES_MAX: usize = 10_000;

/// Sent as the application's name where the batch names no receiver.
const APPLICATION: &[u8] = b"HL7SERVER";

/// What a frame's body holds. Every part is a slice of it, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Batch<'a> {
    /// One message, or nothing that can be told apart: the whole body is to be read as one.
    Single,
    /// A batch or a file of batches; without messages it is an empty one.
    Headed {
        /// The FHS, with its end.
        file_header: Option<&'a [u8]>,
        /// The first BHS, with its end.
        batch_header: Option<&'a [u8]>,
        /// Each from its MSH.
        messages: Vec<&'a [u8]>,
    },
    /// Messages without a header over them, at least two.
    Several(Vec<&'a [u8]>),
    /// More than [`MESSAGES_MAX`] messages: none of them can be taken.
    TooMany {
        /// The first message, whose header the refusal answers.
        first: &'a [u8],
    },
}

/// Takes a body of any encoding but UTF-16 and UTF-32 apart.
pub fn split(body: &[u8]) -> Batch<'_> {
    build(body, body, 1)
}

/// As [`split`], for the encoding the channel is set to.
pub fn split_in(body: &[u8], encoding: Encoding) -> Batch<'_> {
    match charset::outline(body, encoding) {
        None => split(body),
        Some((outline, unit_bytes)) => build(body, &outline, unit_bytes),
    }
}

/// `outline` has one byte for every unit of the body.
fn build<'a>(body: &'a [u8], outline: &[u8], unit_bytes: usize) -> Batch<'a> {
    let mut parts = Vec::new();
    let mut messages = 0;
    let mut strays = false;
    for part in Parts::new(outline) {
        // A body that begins with anything else is no batch, whatever it holds further on.
        if parts.is_empty() && matches!(part.kind, Kind::Trailer | Kind::Stray) {
            return Batch::Single;
        }
        strays |= part.kind == Kind::Stray;
        messages += usize::from(part.kind == Kind::Message);
        if messages > MESSAGES_MAX {
            break;
        }
        parts.push(part);
    }
    let slice = |part: &Part| &body[part.range.start * unit_bytes..part.range.end * unit_bytes];
    let of = |kind| parts.iter().filter(move |part| part.kind == kind).map(slice);
    let headed = parts.first().is_some_and(|part| part.kind != Kind::Message);
    match (headed, messages) {
        (_, count) if count > MESSAGES_MAX => match of(Kind::Message).next() {
            Some(first) => Batch::TooMany { first },
            None => Batch::Single,
        },
        // Segments under a header that belong to no message: there is an MSH missing.
        (true, 0) if strays => Batch::Single,
        (true, _) => Batch::Headed {
            file_header: of(Kind::FileHeader).next(),
            batch_header: of(Kind::BatchHeader).next(),
            messages: of(Kind::Message).collect(),
        },
        (false, 0 | 1) => Batch::Single,
        (false, _) => Batch::Several(of(Kind::Message).collect()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    FileHeader,
    BatchHeader,
    Message,
    Trailer,
    /// Anything else outside a message.
    Stray,
}

#[derive(Debug)]
struct Part {
    kind: Kind,
    range: Range<usize>,
}

/// The parts of a body in order: each header, each message with all its segments, each trailer.
struct Parts<'a> {
    body: &'a [u8],
    at: usize,
    has_cr: bool,
    /// The separator last declared.
    separator: u8,
}

impl<'a> Parts<'a> {
    fn new(body: &'a [u8]) -> Parts<'a> {
        let at = body.len() - segments::skip_junk(body).len();
        Parts { body, at, has_cr: memchr(b'\r', body).is_some(), separator: b'|' }
    }

    /// Where the segment that begins at `at` ends, its CR or LF included.
    fn end_of_segment(&self, at: usize) -> usize {
        let mut from = at;
        while let Some(found) = memchr2(b'\r', b'\n', &self.body[from..]) {
            let end = from + found + 1;
            let run = |byte: fn(&u8) -> bool| self.body[end..].iter().take_while(|b| byte(b)).count();
            if self.body[end - 1] == b'\r' || !self.has_cr {
                return end + run(|b| matches!(b, b'\r' | b'\n'));
            }
            // A lone LF beside CRs ends a segment where another begins, and where a message does in any delimiters: half
            // of two merged messages must not pass for one.
            let end = end + run(|b| *b == b'\n');
            let (kind, name_at) = self.kind(end);
            let message = matches!(kind, Kind::Message | Kind::FileHeader | Kind::BatchHeader);
            if message || self.begins_segment(end) || self.body.get(end) == Some(&b'\r') {
                return end;
            }
            from = name_at;
        }
        self.body.len()
    }

    fn begins_segment(&self, at: usize) -> bool {
        let rest = &self.body[at..];
        rest.len() > 3 && rest[3] == self.separator && segments::is_name(&rest[..3])
    }

    /// What the segment at `at` is, and where its name stands.
    fn kind(&self, at: usize) -> (Kind, usize) {
        let segment = skip_blanks(&self.body[at..]);
        let name_at = self.body.len() - segment.len();
        let separated = segment.get(3).is_some_and(|&b| is_separator(b));
        let ended = segment.get(3).is_none_or(|&b| b == b'\r' || b == b'\n');
        let kind = match segment.get(..3) {
            Some(b"MSH") if separated => Kind::Message,
            Some(b"FHS") if separated => Kind::FileHeader,
            Some(b"BHS") if separated => Kind::BatchHeader,
            Some(b"BTS" | b"FTS") if separated || ended => Kind::Trailer,
            _ => Kind::Stray,
        };
        (kind, name_at)
    }
}

/// What may stand before an MSH on its line. Line ends are left: each is passed once, however many there are.
fn skip_blanks(line: &[u8]) -> &[u8] {
    let mut rest = line;
    while let [b' ', tail @ ..] | [0xEF, 0xBB, 0xBF, tail @ ..] = rest {
        rest = tail;
    }
    rest
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        if segments::skip_junk(&self.body[self.at..]).is_empty() {
            return None;
        }
        let (kind, start) = self.kind(self.at);
        if kind != Kind::Stray {
            self.separator =
                self.body.get(start + 3).copied().filter(|&b| is_separator(b)).unwrap_or(self.separator);
        }
        self.at = self.end_of_segment(start);
        // Of a message all segments are one part, of segments outside messages too.
        while matches!(kind, Kind::Message | Kind::Stray)
            && self.at < self.body.len()
            && self.kind(self.at).0 == Kind::Stray
        {
            self.at = self.end_of_segment(self.at);
        }
        Some(Part { kind, range: start..self.at })
    }
}

/// The body that answers a batch: a BHS with sender and receiver of its header changed over, the `answers` (bodies of
/// acknowledgments, each with its end) and a BTS with their number.
///
/// `id` is the answer's own batch control id; the header's stands in BHS-12. Where there is no BHS the FHS is answered.
pub fn answer(
    file_header: Option<&[u8]>,
    batch_header: Option<&[u8]>,
    answers: &[Vec<u8>],
    id: &str,
    time: &str,
) -> Vec<u8> {
    let header = Header::read(batch_header.or(file_header).unwrap_or_default());
    let separator = header.delimiters.field;
    let application = Some(header.field(5)).filter(|name| !name.is_empty()).unwrap_or(APPLICATION);
    let encoding_characters = header.encoding_characters();
    let fields: [&[u8]; 11] = [
        &encoding_characters,
        application,
        header.field(6),
        header.field(3),
        header.field(4),
        time.as_bytes(),
        b"",
        b"",
        b"",
        id.as_bytes(),
        header.field(11),
    ];
    let length: usize = answers.iter().map(Vec::len).sum();
    let mut out = Vec::with_capacity(length + 256);
    out.extend_from_slice(b"BHS");
    for field in fields {
        out.push(separator);
        out.extend_from_slice(field);
    }
    out.push(b'\r');
    for answer in answers {
        out.extend_from_slice(answer);
    }
    out.extend_from_slice(b"BTS");
    out.push(separator);
    out.extend_from_slice(answers.len().to_string().as_bytes());
    out.push(b'\r');
    out
}

/// An FHS or BHS. Its fields are those of an MSH up to the time, then name and comment, then the control id.
struct Header<'a> {
    segment: &'a [u8],
    delimiters: Delimiters,
}

impl<'a> Header<'a> {
    fn read(segment: &'a [u8]) -> Header<'a> {
        let segment = segment.trim_ascii_end();
        match Delimiters::declared_by(segment) {
            Ok(delimiters) => Header { segment, delimiters },
            Err(_) => Header { segment: b"", delimiters: Delimiters::default() },
        }
    }

    /// Up to a lone LF, which may stand in a field: copied before a separator it would begin a message in the answer.
    fn field(&self, n: usize) -> &'a [u8] {
        let field = delimiters::part(self.segment, self.delimiters.field, n)
            .map_or(&[][..], |range| &self.segment[range]);
        &field[..memchr2(b'\r', b'\n', field).unwrap_or(field.len())]
    }

    fn encoding_characters(&self) -> Vec<u8> {
        match self.field(2) {
            [] => self.delimiters.completed().encoding_characters().to_vec(),
            declared => declared.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MSH: &str = "MSH|^~\\&|A|B|C|D|2024||ADT^A01|1|P|2.5\r";

    fn parts(body: &str) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match split(body.as_bytes()) {
            Batch::Single => vec!["single".to_owned()],
            Batch::Headed { file_header, batch_header, messages } => {
                file_header.into_iter().chain(batch_header).chain(messages).map(text).collect()
            }
            Batch::Several(messages) => messages.into_iter().map(text).collect(),
            Batch::TooMany { first } => vec!["too many".to_owned(), text(first)],
        }
    }

    #[test]
    fn one_message_is_left_whole() {
        for body in [
            MSH.to_owned(),
            format!("\u{FEFF}\r\n {MSH}PID|1\r"),
            format!("{MSH}OBX|1|TX|||MSH|^~\\&|in a value\r"),
            format!("{MSH}NTE|1||text\nMSH and more\r"),
            format!("{MSH}BTS|1\r"),
            format!("PID|1\r{MSH}{MSH}"),
            "hello".to_owned(),
            String::new(),
            "FHS".to_owned(),
            "FHS|^~\\&\rPID|1\r".to_owned(),
        ] {
            assert_eq!(parts(&body), ["single"], "{body:?}");
        }
    }

    #[test]
    fn batch_is_cut_at_its_headers_messages_and_trailers() {
        let body = format!("FHS|^~\\&|F\rBHS|^~\\&|B\r{MSH}PID|1\r{MSH}BTS|2\rFTS|1\r");
        assert_eq!(parts(&body), ["FHS|^~\\&|F\r", "BHS|^~\\&|B\r", &format!("{MSH}PID|1\r"), MSH]);
    }

    #[test]
    fn several_batches_of_a_file_are_one_list() {
        let body = format!("FHS|^~\\&|F\rBHS|^~\\&|1\r{MSH}BTS|1\rBHS|^~\\&|2\r{MSH}{MSH}BTS\rFTS\r");
        assert_eq!(parts(&body), ["FHS|^~\\&|F\r", "BHS|^~\\&|1\r", MSH, MSH, MSH]);
    }

    #[test]
    fn batch_without_messages_is_empty() {
        let body = b"BHS|^~\\&|B\rBTS|0\r";
        let expected =
            Batch::Headed { file_header: None, batch_header: Some(&body[..11]), messages: Vec::new() };
        assert_eq!(split(body), expected);
    }

    #[test]
    fn messages_that_follow_one_another_are_several() {
        let other = "MSH#!~\\&#A#B#C#D#2024##ADT!A01#2#P#2.5\r";
        assert_eq!(parts(&format!("{MSH}PID|1\r{other}PID#1\r{MSH}")).len(), 3);
        assert_eq!(parts(&format!("{MSH}\r\n\u{FEFF} {MSH}")), [format!("{MSH}\r\n"), MSH.to_owned()]);
        let lines = MSH.replace('\r', "\n");
        assert_eq!(parts(&format!("{lines}PID|1\n{lines}")), [format!("{lines}PID|1\n"), lines]);
    }

    #[test]
    fn message_behind_a_lone_line_feed_is_another() {
        let body = format!("{MSH}PID|1\n{MSH}");
        assert_eq!(parts(&body), [format!("{MSH}PID|1\n"), MSH.to_owned()]);
        let body = format!("{MSH}PID|1\n MSH#^~\\&#A\r");
        assert_eq!(parts(&body), [format!("{MSH}PID|1\n"), "MSH#^~\\&#A\r".to_owned()]);
    }

    #[test]
    fn what_belongs_to_no_message_is_left_out() {
        let body = format!("BHS|^~\\&\rNTE|x\r{MSH}BTS|1\rNTE|y\rFTS|1\r");
        assert_eq!(parts(&body), ["BHS|^~\\&\r", MSH]);
        let body = format!("BHS|^~\\&\r{MSH}NTE|x\n \rBTS|1\rNTE|y");
        assert_eq!(parts(&body), ["BHS|^~\\&\r", &format!("{MSH}NTE|x\n \r")]);
    }

    #[test]
    fn more_messages_than_can_be_taken_are_told() {
        let body = MSH.repeat(MESSAGES_MAX);
        assert_eq!(parts(&body).len(), MESSAGES_MAX);
        assert_eq!(parts(&format!("BHS|^~\\&\r{body}{MSH}")), ["too many", MSH]);
    }

    #[test]
    fn blank_lines_of_any_length_cost_linear_time() {
        for filler in ["\r ", "\n ", "\n", "\r\u{FEFF}", "\n \r", "\nMSH", "\rBTS"] {
            let body = format!("{MSH}PID|1\r{}\r{MSH}", filler.repeat(300_000));
            let begun = std::time::Instant::now();
            assert!(matches!(split(body.as_bytes()), Batch::Several(_)), "{filler:?}");
            assert!(begun.elapsed().as_secs() < 5, "{filler:?}: {:?}", begun.elapsed());
        }
    }

    #[test]
    fn utf_16_is_cut_between_its_units() {
        let text = format!("\u{FEFF}BHS|^~\\&|Ж\r{MSH}OBX|1|||ഀMSH|\r{MSH}BTS|2\r");
        for encoding in [Encoding::Utf16Le, Encoding::Utf16Be, Encoding::Utf32Be, Encoding::Utf32Le] {
            let body = charset::encode(&text, encoding).unwrap();
            let Batch::Headed { messages, batch_header, .. } = split_in(&body, encoding) else { panic!() };
            assert_eq!(charset::decode(messages[0], encoding).text, format!("{MSH}OBX|1|||ഀMSH|\r"));
            assert_eq!(charset::decode(messages[1], encoding).text, MSH);
            assert_eq!(charset::decode(batch_header.unwrap(), encoding).text, "BHS|^~\\&|Ж\r");
            assert_eq!(split(&body), Batch::Single);
        }
    }

    #[test]
    fn answer_is_one_batch_under_the_header_s_names() {
        let answers = [b"MSH|1\rMSA|AA|1\r".to_vec(), b"MSH|2\rMSA|AE|2\r".to_vec()];
        let header = b"BHS|^~\\&|S^1|SF|R|RF|2024||batch name|comment|B-7\r\n";
        let found = answer(Some(b"FHS|^~\\&|X\r"), Some(header), &answers, "ID", "TIME");
        let expected = "BHS|^~\\&|R|RF|S^1|SF|TIME||||ID|B-7\rMSH|1\rMSA|AA|1\rMSH|2\rMSA|AE|2\rBTS|2\r";
        assert_eq!(String::from_utf8(found).unwrap(), expected);
    }

    #[test]
    fn answer_takes_the_file_s_header_or_the_standard_s_delimiters() {
        let found = answer(Some(b"FHS#!~\\&#S\r"), None, &[], "ID", "TIME");
        assert_eq!(String::from_utf8(found).unwrap(), "BHS#!~\\&#HL7SERVER##S##TIME####ID#\rBTS#0\r");
        let found = answer(None, Some(b"BHS"), &[], "ID", "TIME");
        assert_eq!(String::from_utf8(found).unwrap(), "BHS|^~\\&|HL7SERVER||||TIME||||ID|\rBTS|0\r");
    }

    #[test]
    fn lone_line_feed_in_a_header_begins_no_segment_of_the_answer() {
        for header in ["FHS|*\\\nMSH\r", "FHS|^~\\&|a\nBHS|b\nMSH|c\nFHS|d\nMSH\r"] {
            let found = answer(Some(header.as_bytes()), None, &[MSH.as_bytes().to_vec()], "ID", "TIME");
            assert!(!found.contains(&b'\n'), "{header:?}");
            assert_eq!(parts(std::str::from_utf8(&found).unwrap()).len(), 2, "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn messages_put_together_come_apart_again(
            tails in proptest::collection::vec("(PID\\|[a-zA-Z ~^]{0,9}\r){0,3}", 2..9),
            headed in any::<bool>(),
        ) {
            let messages: Vec<String> = tails.iter().map(|tail| format!("{MSH}{tail}")).collect();
            let mut body = messages.concat();
            if headed {
                body = format!("BHS|^~\\&|A\r{body}BTS|9\r");
            }
            let found = parts(&body);
            prop_assert_eq!(&found[usize::from(headed)..], &messages[..]);
        }

        #[test]
        fn no_bytes_make_split_panic(
            body in "((MSH|BHS|FHS|BTS|FTS|PID)[|^]?|[\r\n |^&~x]|\u{FEFF}){0,40}",
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            for body in [body.as_bytes(), &bytes] {
                for encoding in [Encoding::Utf8, Encoding::Utf16, Encoding::Utf32] {
                    if let Batch::Several(messages) = split_in(body, encoding) {
                        prop_assert!(messages.len() > 1);
                    }
                }
            }
        }
    }
}
