//! Acknowledgments: the ones this server sends, and reading those it is sent.
//!
//! An acknowledgment copies from the header it answers what the sender needs to find its message again, byte for byte.
//! Whatever text it adds comes from a fixed catalogue: nothing of a patient ever stands in an answer.

use crate::delimiters::{self, Delimiters, UNUSED};
use crate::header::Header;
use crate::segments;

/// Sent as the application's name where the inbound message names none, and in answers to what has no header.
const APPLICATION: &[u8] = b"HL7SERVER";
/// Version of answers to messages that name none.
const VERSION: &[u8] = b"2.5";
/// Longest text of a refusal, the length of MSA-3.
const TEXT_MAX: usize = 80;

/// Acknowledgment code, MSA-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Accepted.
    AA,
    /// Error: something in the message is wrong.
    AE,
    /// Rejected: the message is none of this channel's.
    AR,
}

impl Code {
    /// The code as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::AA => "AA",
            Code::AE => "AE",
            Code::AR => "AR",
        }
    }
}

/// Why a message is refused. The constants are the whole catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `AE` or `AR`.
    pub code: Code,
    /// Error code of HL7 table 0357.
    pub error: u16,
    /// Segment at fault.
    pub segment: &'static str,
    /// Field at fault, where it is one.
    pub field: Option<u16>,
    /// Plain ASCII, at most 80 characters.
    pub text: &'static str,
}

impl Refusal {
    /// The body is no HL7 message: no MSH, or one that cannot be read.
    pub const NOT_HL7: Refusal = Refusal::of(Code::AR, 100, None, "no readable MSH segment");
    /// MSH-10 is empty.
    pub const CONTROL_ID_MISSING: Refusal =
        Refusal::of(Code::AE, 101, Some(10), "message control id is empty");
    /// MSH-9 is empty.
    pub const TYPE_MISSING: Refusal = Refusal::of(Code::AE, 101, Some(9), "message type is empty");
    /// The channel's encoding cannot decode the message, and it is set to refuse such.
    pub const UNDECODABLE: Refusal =
        Refusal::of(Code::AE, 102, None, "bytes that the character set does not have");
    /// No workflow for the message type.
    pub const TYPE_UNKNOWN: Refusal = Refusal::of(Code::AR, 200, Some(9), "message type not accepted here");
    /// The message type has workflows, but none for this trigger event.
    pub const EVENT_UNKNOWN: Refusal = Refusal::of(Code::AR, 201, Some(9), "trigger event not accepted here");
    /// MSH-11 is not among those accepted.
    pub const PROCESSING_ID: Refusal =
        Refusal::of(Code::AR, 202, Some(11), "processing id not accepted here");
    /// MSH-12 is not among those accepted.
    pub const VERSION: Refusal = Refusal::of(Code::AR, 203, Some(12), "version not accepted here");
    /// The message is larger than `stream_limit`.
    pub const TOO_LARGE: Refusal = Refusal::of(Code::AR, 207, None, "message larger than accepted here");

    const fn of(code: Code, error: u16, field: Option<u16>, text: &'static str) -> Refusal {
        assert!(text.len() <= TEXT_MAX && text.is_ascii());
        Refusal { code, error, segment: "MSH", field, text }
    }
}

/// The body of an AA. `id` is its own control id, at most 20 characters; `time` the local time, `YYYYMMDDHHMMSS`.
/// The body ends with a CR and is not framed yet.
pub fn accept(header: &Header<'_>, id: &str, time: &str) -> Vec<u8> {
    write(Some(header), Code::AA, None, id, time)
}

/// The body of a refusal; without a header, in the standard's delimiters and with MSA-2 empty.
pub fn refuse(header: Option<&Header<'_>>, refusal: &Refusal, id: &str, time: &str) -> Vec<u8> {
    write(header, refusal.code, Some(refusal), id, time)
}

fn write(
    header: Option<&Header<'_>>,
    code: Code,
    refusal: Option<&Refusal>,
    id: &str,
    time: &str,
) -> Vec<u8> {
    let inbound = Inbound::of(header);
    let separator = inbound.delimiters.field;
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"MSH");
    let message_type = inbound.message_type();
    let fields: [&[u8]; 11] = [
        inbound.encoding_characters,
        if inbound.field(5).is_empty() { APPLICATION } else { inbound.field(5) },
        inbound.field(6),
        inbound.field(3),
        inbound.field(4),
        time.as_bytes(),
        b"",
        &message_type,
        id.as_bytes(),
        inbound.field(11),
        if inbound.field(12).is_empty() { VERSION } else { inbound.field(12) },
    ];
    for field in fields {
        out.push(separator);
        out.extend_from_slice(field);
    }
    let msh_end = out.len();
    out.extend_from_slice(b"\rMSA");
    out.push(separator);
    out.extend_from_slice(code.as_str().as_bytes());
    out.push(separator);
    out.extend_from_slice(inbound.field(10));
    if let Some(refusal) = refusal {
        out.push(separator);
        inbound.push_text(refusal.text, &mut out);
        out.extend_from_slice(b"\rERR");
        out.push(separator);
        inbound.push_error(refusal, &mut out);
    }
    out.push(b'\r');
    // The sender's character set is named only where it matters.
    if !inbound.field(18).is_empty() && !out.is_ascii() {
        let mut character_set = vec![separator; 6];
        character_set.extend_from_slice(inbound.field(18));
        out.splice(msh_end..msh_end, character_set);
    }
    out
}

/// What is answered: a header, or nothing that could be read.
struct Inbound<'h, 'a> {
    header: Option<&'h Header<'a>>,
    delimiters: Delimiters,
    encoding_characters: &'a [u8],
}

impl<'h, 'a> Inbound<'h, 'a> {
    fn of(header: Option<&'h Header<'a>>) -> Inbound<'h, 'a> {
        let mut delimiters = header.map(|header| *header.delimiters()).unwrap_or_default();
        let declared = header.map_or(&[][..], |header| header.field(2));
        let encoding_characters = if declared.is_empty() { b"^~\\&" } else { declared };
        if delimiters.component == UNUSED {
            delimiters.component = b'^';
        }
        if delimiters.subcomponent == UNUSED {
            delimiters.subcomponent = b'&';
        }
        Inbound { header, delimiters, encoding_characters }
    }

    fn field(&self, n: u16) -> &'a [u8] {
        self.header.map_or(&[], |header| header.field(n))
    }

    /// Major and minor number of MSH-12; of 2.5 where it says nothing that can be read.
    fn version(&self) -> (u16, u16) {
        let version = self.header.map_or(&[][..], |header| header.component(12, 1));
        let mut numbers =
            version.split(|&b| b == b'.').map(|n| std::str::from_utf8(n).ok()?.trim().parse().ok());
        match (numbers.next().flatten(), numbers.next()) {
            (Some(major), None) => (major, 0),
            (Some(major), Some(Some(minor))) => (major, minor),
            _ => (2, 5),
        }
    }

    fn message_type(&self) -> Vec<u8> {
        let event = self.header.map_or(&[][..], |header| header.message_type().1);
        let mut out = b"ACK".to_vec();
        let version = self.version();
        if event.is_empty() || version < (2, 3) {
            return out;
        }
        out.push(self.delimiters.component);
        out.extend_from_slice(event);
        if version >= (2, 4) {
            out.push(self.delimiters.component);
            out.extend_from_slice(b"ACK");
        }
        out
    }

    /// ERR-1 up to HL7 2.4; ERR-2 to ERR-8 later.
    fn push_error(&self, refusal: &Refusal, out: &mut Vec<u8>) {
        let Delimiters { field, component, subcomponent, .. } = self.delimiters;
        let number = refusal.error.to_string();
        let mut place = refusal.segment.as_bytes().to_vec();
        place.extend_from_slice(&[component, b'1']);
        if let Some(n) = refusal.field {
            place.push(component);
            place.extend_from_slice(n.to_string().as_bytes());
        }
        if self.version() < (2, 5) {
            out.extend_from_slice(&place);
            if refusal.field.is_none() {
                out.push(component);
            }
            out.push(component);
            out.extend_from_slice(number.as_bytes());
            out.push(subcomponent);
            self.push_text(refusal.text, out);
            out.push(subcomponent);
            out.extend_from_slice(b"HL70357");
            return;
        }
        out.push(field);
        out.extend_from_slice(&place);
        out.push(field);
        out.extend_from_slice(number.as_bytes());
        out.push(component);
        self.push_text(refusal.text, out);
        out.push(component);
        out.extend_from_slice(b"HL70357");
        out.extend_from_slice(&[field, b'E', field, field, field, field]);
        self.push_text(refusal.text, out);
    }

    /// The catalogue's texts are letters, digits and spaces but for a sign or two, which may be a sender's delimiter.
    fn push_text(&self, text: &str, out: &mut Vec<u8>) {
        out.extend(text.bytes().map(|b| if b.is_ascii_punctuation() { b' ' } else { b }));
    }
}

/// An acknowledgment that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgment {
    /// MSA-1, as it came but for what is no ASCII letter.
    pub code: String,
    /// MSA-2: the control id of the message it answers, byte for byte.
    pub control_id: Vec<u8>,
    /// MSA-3, or the text of the first ERR; bytes that are no UTF-8 replaced.
    pub text: Option<String>,
    /// The first ERR's code, where it is a number.
    pub error: Option<u16>,
}

/// Reads an acknowledgment: a message with an MSA. Its MSH may be shorter than a message's that is to be answered.
pub fn read(body: &[u8]) -> Option<Acknowledgment> {
    let body = segments::skip_junk(body);
    let delimiters = Delimiters::read(body).ok()?;
    let named = |name: &[u8; 3]| {
        segments::split(body, delimiters.field)
            .find(|segment| segment.starts_with(name) && segment.get(3) == Some(&delimiters.field))
    };
    let msa = named(b"MSA")?;
    let field = |segment, n: usize| part(segment, delimiters.field, n + 1);
    let code: String =
        field(msa, 1).iter().filter(|b| b.is_ascii_alphabetic()).map(|&b| char::from(b)).collect();
    if code.is_empty() {
        return None;
    }
    let mut text = plain_text(field(msa, 3));
    let mut error = None;
    if let Some(err) = named(b"ERR") {
        let new = part(field(err, 3), delimiters.repetition, 1);
        let old = part(part(field(err, 1), delimiters.repetition, 1), delimiters.component, 4);
        let (coded, delimiter) =
            if new.is_empty() { (old, delimiters.subcomponent) } else { (new, delimiters.component) };
        error = std::str::from_utf8(part(coded, delimiter, 1)).ok().and_then(|n| n.trim().parse().ok());
        text = text.or_else(|| plain_text(field(err, 8))).or_else(|| plain_text(part(coded, delimiter, 2)));
    }
    Some(Acknowledgment { code, control_id: field(msa, 2).to_vec(), text, error })
}

fn part(value: &[u8], delimiter: u8, n: usize) -> &[u8] {
    delimiters::part(value, delimiter, n).map_or(&[], |range| &value[range])
}

fn plain_text(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIME: &str = "20240102030405";
    const ID: &str = "01HZ0000000000000000";

    fn inbound(version: &str) -> Vec<u8> {
        format!("MSH|^~\\&|LAB^1|H1|RIS^2|H2|20240101||ADT^A08^ADT_A01|M~1|P|{version}\rPID|1").into_bytes()
    }

    fn accepted(body: &[u8]) -> String {
        String::from_utf8(accept(&Header::parse(body).unwrap(), ID, TIME)).unwrap()
    }

    fn refused(body: &[u8], refusal: &Refusal) -> String {
        String::from_utf8(refuse(Header::parse(body).ok().as_ref(), refusal, ID, TIME)).unwrap()
    }

    #[test]
    fn sender_and_receiver_change_places_as_whole_fields() {
        let expected = "MSH|^~\\&|RIS^2|H2|LAB^1|H1|20240102030405||ACK^A08^ACK|01HZ0000000000000000|P|2.5.1\r\
                        MSA|AA|M~1\r";
        assert_eq!(accepted(&inbound("2.5.1")), expected);
    }

    #[test]
    fn message_type_follows_the_version() {
        for (version, expected) in [
            ("2.1", "|ACK|"),
            ("2.2", "|ACK|"),
            ("2.3", "|ACK^A08|"),
            ("2.3.1", "|ACK^A08|"),
            ("2.4", "|ACK^A08^ACK|"),
            ("2.5", "|ACK^A08^ACK|"),
            ("2.8.2", "|ACK^A08^ACK|"),
            ("2.5^DEU", "|ACK^A08^ACK|"),
            ("", "|ACK^A08^ACK|"),
        ] {
            assert!(accepted(&inbound(version)).contains(expected), "{version}");
        }
        let without = b"MSH|^~\\&|||||||ADT|1|P|2.5\r";
        assert!(accepted(without).contains("||ACK|01HZ"));
    }

    #[test]
    fn empty_receiver_and_version_are_filled_in() {
        let answer = accepted(b"MSH|^~\\&|||||||ADT^A01|1||\r");
        assert_eq!(
            answer,
            "MSH|^~\\&|HL7SERVER||||20240102030405||ACK^A01^ACK|01HZ0000000000000000||2.5\rMSA|AA|1\r"
        );
    }

    #[test]
    fn inbound_delimiters_are_used() {
        let answer = refused(b"MSH@~&#\\@A@B@C@D@2024@@ADT~A01@1@P@2.5\r", &Refusal::CONTROL_ID_MISSING);
        assert!(answer.starts_with("MSH@~&#\\@C@D@A@B@"));
        assert!(answer.contains("@ACK~A01~ACK@"));
        assert!(
            answer
                .contains("\rERR@@MSH~1~10@101~message control id is empty~HL70357@E@@@@message control id")
        );
    }

    #[test]
    fn refusal_before_2_5_has_the_old_err() {
        let answer = refused(&inbound("2.4"), &Refusal::TYPE_UNKNOWN);
        let expected = "\rMSA|AR|M~1|message type not accepted here\r\
                        ERR|MSH^1^9^200&message type not accepted here&HL70357\r";
        assert!(answer.ends_with(expected), "{answer}");
        let answer = refused(&inbound("2.3"), &Refusal::TOO_LARGE);
        assert!(answer.contains("\rERR|MSH^1^^207&"), "{answer}");
    }

    #[test]
    fn refusal_from_2_5_has_the_new_err() {
        let answer = refused(&inbound("2.5"), &Refusal::VERSION);
        let expected = "\rMSA|AR|M~1|version not accepted here\r\
                        ERR||MSH^1^12|203^version not accepted here^HL70357|E||||version not accepted here\r";
        assert!(answer.ends_with(expected), "{answer}");
    }

    #[test]
    fn what_has_no_header_is_refused_without_a_control_id() {
        let answer = refused(b"hello", &Refusal::NOT_HL7);
        let expected = "MSH|^~\\&|HL7SERVER||||20240102030405||ACK|01HZ0000000000000000||2.5\r\
                        MSA|AR||no readable MSH segment\r\
                        ERR||MSH^1|100^no readable MSH segment^HL70357|E||||no readable MSH segment\r";
        assert_eq!(answer, expected);
    }

    #[test]
    fn character_set_is_named_only_with_bytes_over_7f() {
        let body = b"MSH|^~\\&|A|B|C|D|2024||ADT^A01|M\xFC1|P|2.3||||||8859/1\r";
        let answer = accept(&Header::parse(body).unwrap(), ID, TIME);
        let expected = b"|P|2.3||||||8859/1\rMSA|AA|M\xFC1\r";
        assert!(answer.ends_with(expected), "{}", answer.escape_ascii());
        assert_eq!(Header::parse(&answer).unwrap().field(18), b"8859/1");
        let body = b"MSH|^~\\&|A|B|C|D|2024||ADT^A01|M1|P|2.3||||||8859/1\r";
        let answer = accept(&Header::parse(body).unwrap(), ID, TIME);
        assert!(answer.ends_with(b"|P|2.3\rMSA|AA|M1\r"));
    }

    #[test]
    fn own_acknowledgments_read_back() {
        for version in ["2.2", "2.3", "2.5.1"] {
            let answer = refused(&inbound(version), &Refusal::TYPE_MISSING);
            let read = read(answer.as_bytes()).unwrap();
            assert_eq!(read.code, "AE");
            assert_eq!(read.control_id, b"M~1");
            assert_eq!(read.text.as_deref(), Some("message type is empty"));
            assert_eq!(read.error, Some(101));
        }
        let read = read(accepted(&inbound("2.5")).as_bytes()).unwrap();
        assert_eq!((read.code.as_str(), read.text, read.error), ("AA", None, None));
    }

    #[test]
    fn short_foreign_acknowledgments_are_read() {
        let found = read(b"\nMSH|^~\\&|X\nMSA|CA|77\n").unwrap();
        assert_eq!((found.code.as_str(), &found.control_id[..]), ("CA", &b"77"[..]));
        assert_eq!(read(b"MSH|^~\\&|X\rPID|1"), None);
        assert_eq!(read(b"MSH|^~\\&|X\rMSA||1"), None);
        assert_eq!(read(b"nonsense"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_an_acknowledgment_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            for prefix in [&b""[..], b"MSH|^~\\&|||||||", b"MSH|^~\\&|\rMSA|", b"MSH|^~\\&|\rMSA|AE|1\rERR|"] {
                let body = [prefix, &tail].concat();
                read(&body);
                if let Ok(header) = Header::parse(&body) {
                    let answer = accept(&header, ID, TIME);
                    prop_assert_eq!(Header::parse(&answer).unwrap().control_id(), ID.as_bytes());
                    refuse(Some(&header), &Refusal::TOO_LARGE, ID, TIME);
                }
            }
        }
    }
}
