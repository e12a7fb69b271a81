//! What a message says of its own character set: MSH-18, by HL7 table 0211 and by what senders make of it.

use super::{Encoding, Standard, labels};
use crate::delimiters::UNUSED;
use crate::header::Header;

/// The table's codes, and common misspellings, without signs and spaces and in capitals. Numbered parts of ISO 8859
/// are found by their number.
const TABLE: [(&str, Encoding); 46] = [
    ("ASCII", Encoding::Ascii),
    ("USASCII", Encoding::Ascii),
    ("ISOIR6", Encoding::Ascii),
    ("ISOIR006", Encoding::Ascii),
    ("ISO646", Encoding::Ascii),
    ("ISOIR100", Encoding::Latin1),
    ("LATIN1", Encoding::Latin1),
    ("ISOIR101", standard(encoding_rs::ISO_8859_2)),
    ("ISOIR109", standard(encoding_rs::ISO_8859_3)),
    ("ISOIR110", standard(encoding_rs::ISO_8859_4)),
    ("ISOIR126", standard(encoding_rs::ISO_8859_7)),
    ("ISOIR127", standard(encoding_rs::ISO_8859_6)),
    ("ISOIR138", standard(encoding_rs::ISO_8859_8)),
    ("ISOIR144", standard(encoding_rs::ISO_8859_5)),
    ("ISOIR148", standard(encoding_rs::WINDOWS_1254)),
    ("ISOIR166", standard(encoding_rs::WINDOWS_874)),
    // The Japanese standards switch between ASCII and their own sets; IR14 alone is a set of single bytes, which the
    // single bytes of Shift_JIS are.
    ("ISOIR13", standard(encoding_rs::SHIFT_JIS)),
    ("ISOIR14", standard(encoding_rs::SHIFT_JIS)),
    ("JISX0201", standard(encoding_rs::SHIFT_JIS)),
    ("JISX02011976", standard(encoding_rs::SHIFT_JIS)),
    ("ISOIR87", standard(encoding_rs::ISO_2022_JP)),
    ("JISX0208", standard(encoding_rs::ISO_2022_JP)),
    ("JISX02081990", standard(encoding_rs::ISO_2022_JP)),
    ("ISOIR159", standard(encoding_rs::ISO_2022_JP)),
    ("JISX0212", standard(encoding_rs::ISO_2022_JP)),
    ("JISX02121990", standard(encoding_rs::ISO_2022_JP)),
    ("ISO2022JP", standard(encoding_rs::ISO_2022_JP)),
    ("SJIS", standard(encoding_rs::SHIFT_JIS)),
    ("GB180302000", standard(encoding_rs::GB18030)),
    ("GB18030", standard(encoding_rs::GB18030)),
    ("ISOIR58", standard(encoding_rs::GBK)),
    ("GB2312", standard(encoding_rs::GBK)),
    ("KSX1001", standard(encoding_rs::EUC_KR)),
    ("KSC5601", standard(encoding_rs::EUC_KR)),
    ("ISOIR149", standard(encoding_rs::EUC_KR)),
    ("BIG5", standard(encoding_rs::BIG5)),
    // Deprecated, and of no form; whoever reads it had a header in bytes before him.
    ("UNICODE", Encoding::Utf8),
    ("ISOIR192", Encoding::Utf8),
    ("UTF8UNICODE", Encoding::Utf8),
    ("UTF16", Encoding::Utf16),
    ("UTF16LE", Encoding::Utf16Le),
    ("UTF16BE", Encoding::Utf16Be),
    ("UTF32", Encoding::Utf32),
    ("WINDOWS1252", Encoding::Cp1252),
    ("WIN1252", Encoding::Cp1252),
    ("ANSI", Encoding::Cp1252),
];

/// The one encoding that is itself made of switches.
pub(crate) const ISO_2022_JP: Encoding = standard(encoding_rs::ISO_2022_JP);

const fn standard(encoding: &'static encoding_rs::Encoding) -> Encoding {
    Encoding::Other(Standard(encoding))
}

/// The encoding a value of MSH-18 names, in its first repetition; `None` when that is empty or unknown.
pub fn declared(msh18: &str) -> Option<Encoding> {
    let first = msh18.split(['~', '^']).next().unwrap_or_default();
    let code: String =
        first.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
    // `UNICODE UTF-8` and its like name the form behind the repertoire.
    let code = code.strip_prefix("UNICODE").filter(|form| !form.is_empty()).unwrap_or(&code);
    if let Some((_, encoding)) = TABLE.iter().find(|(known, _)| *known == code) {
        return Some(*encoding);
    }
    if let Some(part) = code.strip_prefix("ISO").unwrap_or(code).strip_prefix("8859") {
        return part_of_8859(part.trim_start_matches('0'));
    }
    labels::find(first).or_else(|| labels::find(code)).filter(|encoding| *encoding != Encoding::Auto)
}

fn part_of_8859(number: &str) -> Option<Encoding> {
    match number {
        "1" | "11987" | "11998" => Some(Encoding::Latin1),
        _ => labels::find(&format!("iso-8859-{number}")),
    }
}

/// How the text of a message is to be read.
pub(crate) struct Declared {
    /// Of what stands before the first switch; never `Auto`.
    pub(crate) encoding: Encoding,
    /// The escape character, where the message may switch between sets.
    pub(crate) escape: Option<u8>,
    /// The field separator: a switch ends with its field.
    pub(crate) field: u8,
}

impl Declared {
    /// For bytes that are no wide text. The configured encoding wins over MSH-18 but for `Auto`.
    pub(crate) fn of(bytes: &[u8], configured: Encoding) -> Declared {
        let Ok(header) = Header::parse_in(bytes, configured) else {
            let encoding = if configured == Encoding::Auto { Encoding::Utf8 } else { configured };
            return Declared { encoding, escape: (encoding == ISO_2022_JP).then_some(UNUSED), field: UNUSED };
        };
        Declared::of_header(&header, configured)
    }

    /// For a header that was read byte by byte.
    pub(crate) fn of_header(header: &Header<'_>, configured: Encoding) -> Declared {
        let encoding = resolve(header, configured);
        let delimiters = header.delimiters();
        let further = header.field(18).contains(&delimiters.repetition) && delimiters.repetition != UNUSED;
        let escape = (further || encoding == ISO_2022_JP).then_some(delimiters.escape);
        Declared { encoding, escape, field: delimiters.field }
    }
}

/// The encoding of a message whose header was read byte by byte; never `Auto`, nor wide for `Auto`: a header that
/// could be read is not in UTF-16, whatever it says.
fn resolve(header: &Header<'_>, configured: Encoding) -> Encoding {
    if configured != Encoding::Auto {
        return configured;
    }
    let msh18 = header.field(18);
    let first = msh18.split(|&b| b == header.delimiters().repetition).next().unwrap_or_default();
    let found = declared(&String::from_utf8_lossy(first));
    match found {
        None
        | Some(
            Encoding::Auto
            | Encoding::Utf16
            | Encoding::Utf16Le
            | Encoding::Utf16Be
            | Encoding::Utf32
            | Encoding::Utf32Le
            | Encoding::Utf32Be,
        ) => Encoding::Utf8,
        Some(encoding) => encoding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charset::decode;
    use proptest::prelude::*;

    fn name(msh18: &str) -> &'static str {
        declared(msh18).map_or("none", Encoding::name)
    }

    #[test]
    fn codes_of_table_0211_and_their_misspellings_are_known() {
        for (expected, values) in [
            ("ascii", &["ASCII", "ascii", "US-ASCII", "ISO IR6", "ISO-IR 6"][..]),
            (
                "latin-1",
                &[
                    "8859/1",
                    "8859-1",
                    "ISO 8859/1",
                    "ISO8859-1",
                    "ISO-8859/1",
                    "iso_8859_1",
                    "Latin1",
                    "ISO IR100",
                ],
            ),
            ("ISO-8859-2", &["8859/2", "ISO-8859-2", "ISO IR101", "8859/02"]),
            ("ISO-8859-5", &["8859/5", "ISO IR144"]),
            ("windows-1254", &["8859/9", "ISO-8859-9"]),
            ("windows-874", &["8859/11"]),
            ("ISO-8859-15", &["8859/15", "ISO 8859-15", "8859_15"]),
            ("Shift_JIS", &["ISO IR14", "ISO-IR-14", "JIS X 0201", "SHIFT_JIS", "Shift-JIS"]),
            ("ISO-2022-JP", &["ISO IR87", "ISO-IR 87", "ISO IR159", "JIS X 0208"]),
            ("gb18030", &["GB 18030-2000", "GB18030"]),
            ("EUC-KR", &["KS X 1001", "KSX1001", "KS-C-5601"]),
            ("Big5", &["BIG-5", "BIG5"]),
            (
                "utf-8",
                &[
                    "UNICODE",
                    "UNICODE UTF-8",
                    "UNICODE UTF8",
                    "UNICODE-UTF-8",
                    "UTF-8",
                    "utf8",
                    "Unicode/UTF-8",
                ],
            ),
            ("utf-16", &["UNICODE UTF-16"]),
            ("utf-32", &["UNICODE UTF-32"]),
            ("cp1252", &["WINDOWS-1252", "CP1252", "ANSI"]),
            ("latin-1", &["8859/1~ISO IR87", "8859/1^x"]),
            ("none", &["", "~ISO IR87", "ISO IR 999", "code1", "8859/12", "8859/", "CNS 11643-1992", "AUTO"]),
        ] {
            for value in values {
                assert_eq!(name(value), expected, "{value}");
            }
        }
    }

    #[test]
    fn auto_reads_each_message_as_it_says() {
        let message = |msh18: &str| {
            [b"MSH|^~\\&|A|B|C|D|2024||ADT^A01|1|P|2.5||||||", msh18.as_bytes(), b"\rPID|1||\xC3\xA9\r"]
                .concat()
        };
        for (msh18, value, undecodable) in [
            ("", "é", 0),
            ("UNICODE UTF-8", "é", 0),
            ("8859/1", "Ã©", 0),
            ("8859/5", "УЉ", 0),
            ("ASCII", "\u{FFFD}\u{FFFD}", 2),
            ("nonsense", "é", 0),
            ("UNICODE UTF-16", "é", 0),
        ] {
            let body = message(msh18);
            let decoded = decode(&body, Encoding::Auto);
            assert!(decoded.text.ends_with(&format!("PID|1||{value}\r")), "{msh18}: {}", decoded.text);
            assert_eq!(decoded.undecodable, undecodable, "{msh18}");
        }
        assert_eq!(
            decode(&message("8859/1"), Encoding::Utf8).undecodable,
            0,
            "a set encoding wins over MSH-18"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_declared_panic(text in "\\PC{0,30}", like in "(ISO|IR|8859|UNICODE|UTF|[-/ ~^0-9]){0,6}") {
            declared(&text);
            declared(&like);
        }
    }
}
