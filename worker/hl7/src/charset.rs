//! Character encodings: the labels a configuration may name, bytes to text and back.
//!
//! Labels are those of WHATWG's Encoding Standard and of Python's codecs, in any case, with `-`, `_` or space between
//! their parts. Where both know a label and differ, Python's meaning holds, since that is what the files this server
//! takes over were written for: `iso-8859-1` and `latin-1` are ISO 8859-1, not windows-1252, and `ascii` ends at 7F.

use encoding_rs::WINDOWS_1252;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;

/// An encoding a channel can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As each message says in MSH-18.
    Auto,
    /// UTF-8, with or without a byte order mark.
    Utf8,
    /// ISO 8859-1: each byte is the character of its number.
    Latin1,
    /// Windows code page 1252; five of its bytes are not in use.
    Cp1252,
    /// ASCII: bytes over 7F do not decode.
    Ascii,
    /// UTF-16, as its byte order mark says, little-endian without one.
    Utf16,
    /// UTF-16, little-endian.
    Utf16Le,
    /// UTF-16, big-endian.
    Utf16Be,
    /// UTF-32, as its byte order mark says, little-endian without one.
    Utf32,
    /// UTF-32, little-endian.
    Utf32Le,
    /// UTF-32, big-endian.
    Utf32Be,
    /// An IBM code page by its number.
    CodePage(u16),
    /// Another encoding of the Encoding Standard.
    Other(Standard),
}

/// An encoding of the Encoding Standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Standard(&'static encoding_rs::Encoding);

/// IBM code pages that hospitals' older systems speak and the Encoding Standard lacks, with the names `name` gives.
const CODE_PAGES: [(u16, &str); 16] = [
    (437, "cp437"),
    (720, "cp720"),
    (737, "cp737"),
    (775, "cp775"),
    (850, "cp850"),
    (852, "cp852"),
    (855, "cp855"),
    (857, "cp857"),
    (858, "cp858"),
    (860, "cp860"),
    (861, "cp861"),
    (862, "cp862"),
    (863, "cp863"),
    (864, "cp864"),
    (865, "cp865"),
    (869, "cp869"),
];

/// Python's names that the Encoding Standard lacks or gives another meaning, normalised.
const PYTHON_NAMES: [(&str, Encoding); 69] = [
    ("auto", Encoding::Auto),
    ("utf8", Encoding::Utf8),
    ("utf_8", Encoding::Utf8),
    ("u8", Encoding::Utf8),
    ("utf", Encoding::Utf8),
    ("cp65001", Encoding::Utf8),
    ("utf_8_sig", Encoding::Utf8),
    ("utf8_sig", Encoding::Utf8),
    ("latin_1", Encoding::Latin1),
    ("latin1", Encoding::Latin1),
    ("latin", Encoding::Latin1),
    ("l1", Encoding::Latin1),
    ("8859", Encoding::Latin1),
    ("iso8859", Encoding::Latin1),
    ("iso8859_1", Encoding::Latin1),
    ("iso88591", Encoding::Latin1),
    ("iso_8859_1", Encoding::Latin1),
    ("iso_8859_1_1987", Encoding::Latin1),
    ("iso_8859_1:1987", Encoding::Latin1),
    ("iso_ir_100", Encoding::Latin1),
    ("csisolatin1", Encoding::Latin1),
    ("cp819", Encoding::Latin1),
    ("ibm819", Encoding::Latin1),
    ("ascii", Encoding::Ascii),
    ("us_ascii", Encoding::Ascii),
    ("646", Encoding::Ascii),
    ("ansi_x3.4_1968", Encoding::Ascii),
    ("ansi_x3_4_1968", Encoding::Ascii),
    ("ansi_x3.4_1986", Encoding::Ascii),
    ("iso646_us", Encoding::Ascii),
    ("iso_646.irv_1991", Encoding::Ascii),
    ("iso_ir_6", Encoding::Ascii),
    ("cp367", Encoding::Ascii),
    ("ibm367", Encoding::Ascii),
    ("csascii", Encoding::Ascii),
    ("us", Encoding::Ascii),
    ("cp1252", Encoding::Cp1252),
    ("1252", Encoding::Cp1252),
    ("windows_1252", Encoding::Cp1252),
    ("x_cp1252", Encoding::Cp1252),
    ("utf_16", Encoding::Utf16),
    ("utf16", Encoding::Utf16),
    ("u16", Encoding::Utf16),
    ("utf_16_le", Encoding::Utf16Le),
    ("utf_16le", Encoding::Utf16Le),
    ("utf_16_be", Encoding::Utf16Be),
    ("utf_16be", Encoding::Utf16Be),
    ("utf_32", Encoding::Utf32),
    ("utf32", Encoding::Utf32),
    ("utf_32_le", Encoding::Utf32Le),
    ("utf_32le", Encoding::Utf32Le),
    ("utf_32_be", Encoding::Utf32Be),
    ("utf_32be", Encoding::Utf32Be),
    ("cp874", Encoding::Other(Standard(encoding_rs::WINDOWS_874))),
    ("cp932", Encoding::Other(Standard(encoding_rs::SHIFT_JIS))),
    ("cp936", Encoding::Other(Standard(encoding_rs::GBK))),
    ("cp949", Encoding::Other(Standard(encoding_rs::EUC_KR))),
    ("uhc", Encoding::Other(Standard(encoding_rs::EUC_KR))),
    ("cp950", Encoding::Other(Standard(encoding_rs::BIG5))),
    ("eucjp", Encoding::Other(Standard(encoding_rs::EUC_JP))),
    ("euckr", Encoding::Other(Standard(encoding_rs::EUC_KR))),
    ("iso2022_jp", Encoding::Other(Standard(encoding_rs::ISO_2022_JP))),
    ("latin7", Encoding::Other(Standard(encoding_rs::ISO_8859_13))),
    ("latin8", Encoding::Other(Standard(encoding_rs::ISO_8859_14))),
    ("latin9", Encoding::Other(Standard(encoding_rs::ISO_8859_15))),
    ("latin10", Encoding::Other(Standard(encoding_rs::ISO_8859_16))),
    ("mac_roman", Encoding::Other(Standard(encoding_rs::MACINTOSH))),
    ("mac_cyrillic", Encoding::Other(Standard(encoding_rs::X_MAC_CYRILLIC))),
    ("maccyrillic", Encoding::Other(Standard(encoding_rs::X_MAC_CYRILLIC))),
];

impl Encoding {
    /// The encoding a label names; `None` when nobody knows it.
    pub fn from_label(label: &str) -> Option<Encoding> {
        let name: String = label
            .trim()
            .chars()
            .map(|c| if matches!(c, '-' | ' ') { '_' } else { c.to_ascii_lowercase() })
            .collect();
        if let Some((_, known)) = PYTHON_NAMES.iter().find(|(python, _)| *python == name) {
            return Some(*known);
        }
        let digits = name.trim_start_matches("cp").trim_start_matches("ibm").trim_start_matches('_');
        if let Ok(number) = digits.parse::<u16>() {
            if let Some((page, _)) = CODE_PAGES.iter().find(|(page, _)| *page == number) {
                return Some(Encoding::CodePage(*page));
            }
            // Python's aliases of Windows' pages are their bare numbers.
            if digits == name {
                return Standard::for_label(&format!("cp{digits}"));
            }
        }
        // The Standard's labels write now one, now the other.
        Standard::for_label(&name)
            .or_else(|| Standard::for_label(&name.replace('_', "-")))
            .or_else(|| Standard::for_label(&name.replacen("iso_8859_", "iso-8859-", 1)))
    }

    /// The name to show and to store; [`from_label`](Self::from_label) reads it back.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Auto => "auto",
            Encoding::Utf8 => "utf-8",
            Encoding::Latin1 => "latin-1",
            Encoding::Cp1252 => "cp1252",
            Encoding::Ascii => "ascii",
            Encoding::Utf16 => "utf-16",
            Encoding::Utf16Le => "utf-16-le",
            Encoding::Utf16Be => "utf-16-be",
            Encoding::Utf32 => "utf-32",
            Encoding::Utf32Le => "utf-32-le",
            Encoding::Utf32Be => "utf-32-be",
            Encoding::CodePage(number) => {
                CODE_PAGES.iter().find(|(page, _)| *page == number).map_or("unknown", |(_, name)| name)
            }
            Encoding::Other(Standard(encoding)) => encoding.name(),
        }
    }

    /// Whether messages in it can be read yet.
    pub fn is_built(self) -> bool {
        matches!(self, Encoding::Utf8 | Encoding::Latin1 | Encoding::Cp1252 | Encoding::Ascii)
    }
}

impl Standard {
    fn for_label(label: &str) -> Option<Encoding> {
        let found = encoding_rs::Encoding::for_label_no_replacement(label.as_bytes())?;
        if found == encoding_rs::UTF_8 {
            return Some(Encoding::Utf8);
        }
        if found == encoding_rs::X_USER_DEFINED {
            return None;
        }
        // Left are labels of windows-1252 that no Python codec claims.
        Some(if found == WINDOWS_1252 { Encoding::Cp1252 } else { Encoding::Other(Standard(found)) })
    }
}

impl Serialize for Encoding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Encoding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Encoding, D::Error> {
        let label = String::deserialize(deserializer)?;
        Encoding::from_label(&label)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown encoding {label:?}")))
    }
}

/// Bytes read as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The text; borrowed where the bytes are it already.
    pub text: Cow<'a, str>,
    /// How many places of the bytes did not decode and stand as U+FFFD.
    pub undecodable: usize,
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads bytes as text, passing over a byte order mark; what does not decode becomes U+FFFD.
///
/// An encoding that is not built reads as UTF-8.
pub fn decode(bytes: &[u8], encoding: Encoding) -> Decoded<'_> {
    // Senders put UTF-8's mark before bodies of any ASCII-like encoding.
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    match encoding {
        Encoding::Latin1 => Decoded { text: encoding_rs::mem::decode_latin1(bytes), undecodable: 0 },
        Encoding::Ascii => decode_ascii(bytes),
        Encoding::Cp1252 => decode_cp1252(bytes),
        Encoding::Utf8
        | Encoding::Auto
        | Encoding::Utf16
        | Encoding::Utf16Le
        | Encoding::Utf16Be
        | Encoding::Utf32
        | Encoding::Utf32Le
        | Encoding::Utf32Be
        | Encoding::CodePage(_)
        | Encoding::Other(_) => decode_utf8(bytes),
    }
}

fn decode_utf8(bytes: &[u8]) -> Decoded<'_> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Decoded { text: Cow::Borrowed(text), undecodable: 0 },
        Err(_) => {
            let mut text = String::with_capacity(bytes.len() + 16);
            let mut undecodable = 0;
            for chunk in bytes.utf8_chunks() {
                text.push_str(chunk.valid());
                if !chunk.invalid().is_empty() {
                    text.push(char::REPLACEMENT_CHARACTER);
                    undecodable += 1;
                }
            }
            Decoded { text: Cow::Owned(text), undecodable }
        }
    }
}

fn decode_ascii(bytes: &[u8]) -> Decoded<'_> {
    if bytes.is_ascii() {
        return decode_utf8(bytes);
    }
    let replace = |&b: &u8| if b.is_ascii() { char::from(b) } else { char::REPLACEMENT_CHARACTER };
    let undecodable = bytes.iter().filter(|b| !b.is_ascii()).count();
    Decoded { text: Cow::Owned(bytes.iter().map(replace).collect()), undecodable }
}

/// Bytes that code page 1252 leaves out. The Encoding Standard makes controls of them; a message that holds one is in
/// another encoding, and its reader should know.
fn is_unused_in_cp1252(number: u32) -> bool {
    matches!(number, 0x81 | 0x8D | 0x8F | 0x90 | 0x9D)
}

fn decode_cp1252(bytes: &[u8]) -> Decoded<'_> {
    let (text, _) = WINDOWS_1252.decode_without_bom_handling(bytes);
    let undecodable = bytes.iter().filter(|&&b| is_unused_in_cp1252(b.into())).count();
    if undecodable == 0 {
        return Decoded { text, undecodable };
    }
    let replace = |c: char| if is_unused_in_cp1252(c.into()) { char::REPLACEMENT_CHARACTER } else { c };
    Decoded { text: Cow::Owned(text.chars().map(replace).collect()), undecodable }
}

/// Writes text as bytes; `None` when it holds a character the encoding lacks, or the encoding is not built.
pub fn encode(text: &str, encoding: Encoding) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Utf8 => Some(text.as_bytes().to_vec()),
        Encoding::Ascii => text.is_ascii().then(|| text.as_bytes().to_vec()),
        Encoding::Latin1 => text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect(),
        Encoding::Cp1252 => {
            if text.chars().any(|c| is_unused_in_cp1252(c.into())) {
                return None;
            }
            // What does not fit comes out as a numeric character reference and is flagged.
            let (bytes, _, unmappable) = WINDOWS_1252.encode(text);
            (!unmappable).then(|| bytes.into_owned())
        }
        Encoding::Auto
        | Encoding::Utf16
        | Encoding::Utf16Le
        | Encoding::Utf16Be
        | Encoding::Utf32
        | Encoding::Utf32Le
        | Encoding::Utf32Be
        | Encoding::CodePage(_)
        | Encoding::Other(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(label: &str) -> &'static str {
        Encoding::from_label(label).map_or("none", Encoding::name)
    }

    #[test]
    fn labels_of_python_and_whatwg_are_known() {
        for (name, labels) in [
            ("utf-8", &["UTF-8", "utf8", "utf_8", "U8", "utf-8-sig", "unicode-1-1-utf-8"][..]),
            ("latin-1", &["latin-1", "latin1", "L1", "iso-8859-1", "ISO_8859-1", "iso8859-1", "8859"]),
            ("cp1252", &["cp1252", "windows-1252", "1252", "Windows 1252"]),
            ("ascii", &["ascii", "US-ASCII", "646"]),
            ("utf-16", &["utf-16", "UTF16", "utf_16"]),
            ("utf-16-le", &["utf-16-le", "UTF-16LE"]),
            ("utf-32", &["utf-32"]),
            ("cp850", &["cp850", "850", "IBM850", "ibm-850"]),
            ("cp437", &["cp437", "IBM437"]),
            ("IBM866", &["cp866", "866", "ibm866"]),
            ("windows-1251", &["cp1251", "1251", "windows-1251"]),
            ("ISO-8859-2", &["iso-8859-2", "latin2", "iso8859_2", "iso_8859_2", "L2"]),
            ("ISO-8859-15", &["iso-8859-15", "iso8859_15", "latin9", "l9", "iso_8859_15"]),
            ("windows-1254", &["iso8859-9", "latin5"]),
            ("KOI8-R", &["koi8_r", "koi8-r"]),
            ("GBK", &["gbk", "gb2312", "cp936"]),
            ("gb18030", &["gb18030"]),
            ("Shift_JIS", &["shift_jis", "sjis", "cp932", "shift-jis"]),
            ("EUC-KR", &["euc_kr", "euckr", "cp949"]),
            ("Big5", &["big5", "cp950"]),
            ("macintosh", &["mac_roman", "macintosh"]),
            ("auto", &["auto"]),
            ("none", &["klingon", "", "replacement", "x-user-defined", "cp", "99999999"]),
        ] {
            for label in labels {
                assert_eq!(named(label), name, "{label}");
            }
        }
    }

    #[test]
    fn every_name_reads_back_to_itself() {
        let others =
            ["cp1250", "cp1251", "koi8-u", "euc-jp", "gb18030", "big5", "iso-8859-8-i", "iso-8859-16"];
        let all = PYTHON_NAMES.iter().map(|(_, encoding)| *encoding);
        let all = all.chain(CODE_PAGES.iter().map(|(page, _)| Encoding::CodePage(*page)));
        for encoding in all.chain(others.iter().map(|label| Encoding::from_label(label).unwrap())) {
            assert_eq!(Encoding::from_label(encoding.name()), Some(encoding), "{}", encoding.name());
            let json = serde_json::to_string(&encoding).unwrap();
            assert_eq!(serde_json::from_str::<Encoding>(&json).unwrap(), encoding);
        }
    }

    #[test]
    fn latin_1_is_iso_8859_1_and_not_windows_1252() {
        let decoded = decode(b"M\xFCller \x80", Encoding::Latin1);
        assert_eq!((decoded.text.as_ref(), decoded.undecodable), ("Müller \u{80}", 0));
        let decoded = decode(b"M\xFCller \x80", Encoding::Cp1252);
        assert_eq!((decoded.text.as_ref(), decoded.undecodable), ("Müller €", 0));
    }

    #[test]
    fn bytes_that_do_not_decode_are_replaced_and_counted() {
        for (encoding, bytes, text) in [
            (Encoding::Ascii, &b"M\xFC\xFCl"[..], "M\u{FFFD}\u{FFFD}l"),
            (Encoding::Utf8, b"M\xFCller\xE9", "M\u{FFFD}ller\u{FFFD}"),
            (Encoding::Cp1252, b"a\x81\x9D\x80", "a\u{FFFD}\u{FFFD}€"),
        ] {
            let decoded = decode(bytes, encoding);
            assert_eq!((decoded.text.as_ref(), decoded.undecodable), (text, 2), "{encoding:?}");
        }
    }

    #[test]
    fn byte_order_mark_is_passed_over() {
        for encoding in [Encoding::Utf8, Encoding::Latin1, Encoding::Cp1252, Encoding::Ascii] {
            let decoded = decode(b"\xEF\xBB\xBFMSH", encoding);
            assert_eq!((decoded.text, decoded.undecodable), (Cow::Borrowed("MSH"), 0));
        }
    }

    #[test]
    fn characters_an_encoding_lacks_are_not_written() {
        assert_eq!(encode("Ж", Encoding::Latin1), None);
        assert_eq!(encode("Ж", Encoding::Cp1252), None);
        assert_eq!(encode("\u{81}", Encoding::Cp1252), None);
        assert_eq!(encode("é", Encoding::Ascii), None);
        assert_eq!(encode("é", Encoding::Latin1), Some(vec![0xE9]));
        assert_eq!(encode("€", Encoding::Cp1252), Some(vec![0x80]));
        assert_eq!(encode("€", Encoding::Utf8), Some("€".as_bytes().to_vec()));
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assume!(!bytes.starts_with(BYTE_ORDER_MARK));
            for encoding in [Encoding::Utf8, Encoding::Latin1, Encoding::Cp1252, Encoding::Ascii] {
                let decoded = decode(&bytes, encoding);
                if decoded.undecodable == 0 {
                    prop_assert_eq!(encode(&decoded.text, encoding), Some(bytes.clone()));
                } else {
                    prop_assert!(decoded.text.contains(char::REPLACEMENT_CHARACTER));
                }
            }
        }

        #[test]
        fn no_label_makes_from_label_panic(label in "\\PC{0,30}") {
            Encoding::from_label(&label);
        }
    }
}
