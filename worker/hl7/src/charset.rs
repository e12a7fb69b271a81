//! Character encodings: the labels a configuration may name, bytes to text and back.
//!
//! Labels are those of WHATWG's Encoding Standard and of Python's codecs, in any case, with `-`, `_` or space between
//! their parts. Where both know a label and differ, Python's meaning holds, since that is what the files this server
//! takes over were written for: `iso-8859-1` and `latin-1` are ISO 8859-1, not windows-1252, and `ascii` ends at 7F.

//!
//! All of them are supersets of ASCII in the bytes that delimit an HL7 message, but for UTF-16 and UTF-32. Frames are
//! cut at bytes; such a body therefore comes whole only while no two bytes of it look like an end of frame (FS and CR,
//! LF or VT), which takes letters of Lepcha, Malayalam, Gurmukhi or Oriya. What such a letter cuts off does not end
//! with a segment's end, and [`transcode_header`] refuses it, so that half a message is never acknowledged. The
//! envelope itself is VT and FS CR of one byte each; a sender that writes it in two bytes each is not understood.

mod declared;
mod iso2022;
mod labels;
mod readable;
mod single;
mod wide;

pub use declared::declared;
pub use readable::{Readable, transcode_header, transcode_start};

pub(crate) use declared::Declared;
#[cfg(test)]
pub(crate) use declared::ISO_2022_JP;
pub(crate) use iso2022::{ESC, mask};
pub(crate) use wide::{looks_wide, outline};

use crate::header::Header;
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

impl Encoding {
    /// The encoding a label names; `None` when nobody knows it.
    pub fn from_label(label: &str) -> Option<Encoding> {
        labels::find(label)
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
            Encoding::CodePage(number) => labels::name_of_code_page(number),
            Encoding::Other(Standard(encoding)) => encoding.name(),
        }
    }

    /// Whether messages in it can be read: all of them can.
    pub fn is_built(self) -> bool {
        true
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

pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads bytes as text, passing over a byte order mark; what does not decode becomes U+FFFD.
///
/// [`Encoding::Auto`] reads a message by its own MSH-18, and as UTF-8 where that says nothing known. Where MSH-18 has
/// further repetitions, the switches between character sets (`\C..\ \M..\` and ISO 2022's own) are carried out and
/// do not stand in the text.
pub fn decode(bytes: &[u8], encoding: Encoding) -> Decoded<'_> {
    if let Some((wide, text)) = wide::Wide::of(bytes, encoding) {
        return wide.decode(text);
    }
    decode_declared(bytes, &Declared::of(bytes, encoding))
}

/// As [`decode`], for a message whose header was read, by [`Readable::header`] in the same encoding: it is not read again.
pub fn decode_behind<'a>(header: &Header<'_>, bytes: &'a [u8], encoding: Encoding) -> Decoded<'a> {
    if let Some((wide, text)) = wide::Wide::of(bytes, encoding) {
        return wide.decode(text);
    }
    decode_declared(bytes, &Declared::of_header(header, encoding))
}

fn decode_declared<'a>(bytes: &'a [u8], declared: &Declared) -> Decoded<'a> {
    // Senders put UTF-8's mark before bodies of any ASCII-like encoding.
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    match declared.escape {
        Some(escape) if iso2022::has_switch(bytes, escape) => {
            iso2022::decode(bytes, declared.encoding, declared)
        }
        _ => decode_plain(bytes, declared.encoding),
    }
}

/// Reads bytes of one encoding that is neither wide nor `Auto`.
fn decode_plain(bytes: &[u8], encoding: Encoding) -> Decoded<'_> {
    match encoding {
        Encoding::Latin1 => Decoded { text: encoding_rs::mem::decode_latin1(bytes), undecodable: 0 },
        Encoding::Ascii => single::decode_ascii(bytes),
        Encoding::Cp1252 => single::decode_standard(bytes, encoding_rs::WINDOWS_1252),
        Encoding::CodePage(number) => single::decode_code_page(bytes, number),
        Encoding::Other(Standard(encoding)) => single::decode_standard(bytes, encoding),
        Encoding::Utf8
        | Encoding::Auto
        | Encoding::Utf16
        | Encoding::Utf16Le
        | Encoding::Utf16Be
        | Encoding::Utf32
        | Encoding::Utf32Le
        | Encoding::Utf32Be => single::decode_utf8(bytes),
    }
}

/// Writes text as bytes; `None` when it holds a character the encoding lacks. UTF-16 and UTF-32 without an order in
/// their name are written little-endian behind a byte order mark. `Auto` writes UTF-8.
pub fn encode(text: &str, encoding: Encoding) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Utf8 | Encoding::Auto => Some(text.as_bytes().to_vec()),
        Encoding::Ascii => text.is_ascii().then(|| text.as_bytes().to_vec()),
        Encoding::Latin1 => text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect(),
        Encoding::Cp1252 => single::encode_standard(text, encoding_rs::WINDOWS_1252),
        Encoding::CodePage(number) => single::encode_code_page(text, number),
        Encoding::Other(Standard(encoding)) => single::encode_standard(text, encoding),
        Encoding::Utf16
        | Encoding::Utf16Le
        | Encoding::Utf16Be
        | Encoding::Utf32
        | Encoding::Utf32Le
        | Encoding::Utf32Be => wide::encode(text, encoding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    }
}
