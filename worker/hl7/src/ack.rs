//! Acknowledgments: the ones this server sends, and reading those it is sent.
//!
//! An acknowledgment copies from the header it answers what the sender needs to find its message again, byte for byte.
//! Whatever text it adds comes from a fixed catalogue: nothing of a patient ever stands in an answer.

mod read;
mod refusal;

pub use read::{Acknowledgment, read};
pub use refusal::Refusal;

use crate::delimiters::{Delimiters, UNUSED};
use crate::header::Header;
use std::borrow::Cow;

/// Sent as the application's name where the inbound message names none, and in answers to what has no header.
const APPLICATION: &[u8] = b"HL7SERVER";
/// Version of answers to messages that name none.
const VERSION: &[u8] = b"2.5";

/// Acknowledgment code, MSA-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Accepted.
    AA,
    /// Error: something in the message is wrong.
    AE,
    /// Rejected: the message is none of this channel's.
    AR,
    /// Commit accepted: AA where the sender asked for enhanced mode.
    CA,
    /// Commit error: AE there.
    CE,
    /// Commit rejected: AR there.
    CR,
}

impl Code {
    /// The code as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::AA => "AA",
            Code::AE => "AE",
            Code::AR => "AR",
            Code::CA => "CA",
            Code::CE => "CE",
            Code::CR => "CR",
        }
    }

    /// The message was taken: AA or CA.
    pub fn is_accept(self) -> bool {
        matches!(self, Code::AA | Code::CA)
    }

    /// The code of the same meaning in enhanced mode.
    fn of_commit(self) -> Code {
        match self {
            Code::AA | Code::CA => Code::CA,
            Code::AE | Code::CE => Code::CE,
            Code::AR | Code::CR => Code::CR,
        }
    }
}

/// Which codes a sender wants, by its MSH-15 and MSH-16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// AA, AE, AR.
    Original,
    /// Commit codes, for one outcome or both; the other keeps its original code, so that every message has an answer.
    Enhanced {
        /// CA in place of AA.
        on_success: bool,
        /// CE and CR in place of AE and AR.
        on_error: bool,
    },
}

impl Mode {
    /// The code this mode gives a message that deserves `code`.
    pub fn apply(self, code: Code) -> Code {
        match self {
            Mode::Enhanced { on_success, on_error }
                if if code.is_accept() { on_success } else { on_error } =>
            {
                code.of_commit()
            }
            Mode::Original | Mode::Enhanced { .. } => code,
        }
    }
}

/// The mode a header asks for. MSH-15 alone decides: `AL`, `ER` and `SU` want commit codes. Empty, `NE` and what no
/// table lists are the original mode; so is an MSH-15 that is empty beside an MSH-16, which wants application codes.
pub fn mode(header: &Header<'_>) -> Mode {
    let wanted = header.component(15, 1).trim_ascii().to_ascii_uppercase();
    match wanted.as_slice() {
        b"AL" => Mode::Enhanced { on_success: true, on_error: true },
        b"ER" => Mode::Enhanced { on_success: false, on_error: true },
        b"SU" => Mode::Enhanced { on_success: true, on_error: false },
        _ => Mode::Original,
    }
}

/// The body of an AA, or of a CA where the header asks for it. `id` is its own control id, at most 20 characters; `time` the local time, `YYYYMMDDHHMMSS`.
/// The body ends with a CR and is not framed yet.
pub fn accept(header: &Header<'_>, id: &str, time: &str) -> Vec<u8> {
    write(Some(header), Code::AA, None, id, time)
}

/// The body of a refusal, in the mode the header asks for; without a header, in the standard's delimiters and with
/// MSA-2 empty.
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
    let component = [inbound.delimiters.component];
    let message_type = inbound.message_type(&component);
    let fields: [&[u8]; 8] = [
        &inbound.encoding_characters,
        if inbound.field(5).is_empty() { APPLICATION } else { inbound.field(5) },
        inbound.field(6),
        inbound.field(3),
        inbound.field(4),
        time.as_bytes(),
        b"",
        b"ACK",
    ];
    for field in fields {
        out.push(separator);
        out.extend_from_slice(field);
    }
    message_type.iter().for_each(|part| out.extend_from_slice(part));
    let version = if inbound.field(12).is_empty() { VERSION } else { inbound.field(12) };
    for field in [id.as_bytes(), inbound.field(11), version] {
        out.push(separator);
        out.extend_from_slice(field);
    }
    let msh_end = out.len();
    out.extend_from_slice(b"\rMSA");
    out.push(separator);
    let code = header.map_or(code, |header| mode(header).apply(code));
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
    let matters = !out.is_ascii() || header.is_some_and(Header::is_masked);
    if matters && !inbound.field(18).is_empty() {
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
    encoding_characters: Cow<'a, [u8]>,
}

impl<'h, 'a> Inbound<'h, 'a> {
    fn of(header: Option<&'h Header<'a>>) -> Inbound<'h, 'a> {
        let delimiters = header.map(|header| *header.delimiters()).unwrap_or_default().completed();
        let declared = header.map_or(&[][..], |header| header.field(2));
        let encoding_characters = if declared.is_empty() {
            Cow::Owned(delimiters.encoding_characters().to_vec())
        } else {
            Cow::Borrowed(declared)
        };
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

    /// What stands behind `ACK` in MSH-9: the event from 2.3 on, the structure from 2.4 on.
    fn message_type<'t>(&self, component: &'t [u8]) -> [&'t [u8]; 4]
    where
        'a: 't,
    {
        let event = self.header.map_or(&[][..], |header| header.message_type().1);
        if event.is_empty() {
            return [b""; 4];
        }
        match self.version() {
            (0..=1, _) | (2, ..=2) => [b""; 4],
            (2, 3) => [component, event, b"", b""],
            (2, 4..) | (3.., _) => [component, event, component, b"ACK"],
        }
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

    /// A sign of the catalogue's texts may be a sender's delimiter.
    fn push_text(&self, text: &str, out: &mut Vec<u8>) {
        let Delimiters { field, component, repetition, escape, subcomponent, truncation } = self.delimiters;
        let used = [field, component, repetition, escape, subcomponent, truncation.unwrap_or(UNUSED)];
        out.extend(text.bytes().map(|b| if used.contains(&b) { b' ' } else { b }));
    }
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
    fn separator_that_is_a_standard_delimiter_keeps_the_answer_readable() {
        for (separator, start) in
            [("^", "MSH^|~\\&^"), ("~", "MSH~^|\\&~"), ("\\", "MSH\\^~|&\\"), ("&", "MSH&^~\\|&")]
        {
            let body =
                b"MSH||||||||ADT|7||2.4\r".map(|b| if b == b'|' { separator.as_bytes()[0] } else { b });
            let answer = refused(&body, &Refusal::TYPE_UNKNOWN);
            assert!(answer.starts_with(start), "{answer}");
            let header = Header::parse(answer.as_bytes()).unwrap();
            assert_eq!(
                (header.control_id(), header.component(9, 1)),
                (ID.as_bytes(), &b"ACK"[..]),
                "{answer}"
            );
            let found = read(answer.as_bytes()).unwrap();
            assert_eq!((found.control_id, found.error), (b"7".to_vec(), Some(200)), "{answer}");
        }
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
    fn mode_follows_msh_15() {
        // MSH-15, MSH-16, then the codes of a success, an error and a rejection.
        for (accept_type, application_type, codes) in [
            ("", "", ["AA", "AE", "AR"]),
            ("NE", "", ["AA", "AE", "AR"]),
            ("NE", "NE", ["AA", "AE", "AR"]),
            ("NE", "AL", ["AA", "AE", "AR"]),
            ("", "AL", ["AA", "AE", "AR"]),
            ("AL", "", ["CA", "CE", "CR"]),
            ("AL", "NE", ["CA", "CE", "CR"]),
            ("al ", "NE", ["CA", "CE", "CR"]),
            ("ER", "NE", ["AA", "CE", "CR"]),
            ("SU", "AL", ["CA", "AE", "AR"]),
            ("XX", "YY", ["AA", "AE", "AR"]),
        ] {
            let body =
                format!("MSH|^~\\&|A|B|C|D|2024||ADT^A01|M1|P|2.5|||{accept_type}|{application_type}\rPID|1");
            let body = body.as_bytes();
            let answers = [
                accepted(body),
                refused(body, &Refusal::CONTROL_ID_MISSING),
                refused(body, &Refusal::TYPE_UNKNOWN),
            ];
            for (answer, code) in answers.iter().zip(codes) {
                assert!(
                    answer.contains(&format!("\rMSA|{code}|M1")),
                    "{accept_type}/{application_type}: {answer}"
                );
            }
        }
    }

    #[test]
    fn catalogue_s_signs_stay_unless_they_are_delimiters() {
        let answer = refused(b"MSH|^~\\&|||||||ADT|1||2.5\r", &Refusal::INTERNAL);
        assert!(answer.contains("|could not be processed in time, send again\r"), "{answer}");
        let answer = refused(b"MSH,^~\\&,,,,,,,ADT,1,,2.5\r", &Refusal::INTERNAL);
        assert!(answer.contains(",could not be processed in time  send again\r"), "{answer}");
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
