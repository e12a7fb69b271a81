//! UTF-16 and UTF-32: encodings in which a delimiter is more than a byte.

use super::{BYTE_ORDER_MARK, Decoded, Encoding};
use std::borrow::Cow;

const MARK: char = '\u{FEFF}';

/// How the units of a body are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wide {
    /// 2 or 4.
    pub(super) unit_bytes: usize,
    big_endian: bool,
    /// A byte order mark stands before the text.
    marked: bool,
}

impl Wide {
    /// The form of a body and its text without the mark; `None` for all other encodings.
    ///
    /// A mark that is there decides the order, even against the encoding's name. Where neither tells, the first unit
    /// does: a message begins with an ASCII character, whose zero bytes stand where the order puts them.
    pub(super) fn of(bytes: &[u8], encoding: Encoding) -> Option<(Wide, &[u8])> {
        let (unit_bytes, order) = match encoding {
            Encoding::Utf16 => (2, None),
            Encoding::Utf16Le => (2, Some(false)),
            Encoding::Utf16Be => (2, Some(true)),
            Encoding::Utf32 => (4, None),
            Encoding::Utf32Le => (4, Some(false)),
            Encoding::Utf32Be => (4, Some(true)),
            _ => return None,
        };
        for big_endian in [false, true] {
            let wide = Wide { unit_bytes, big_endian, marked: true };
            if wide.units(bytes).next() == Some(MARK.into()) && bytes.len() >= unit_bytes {
                return Some((wide, &bytes[unit_bytes..]));
            }
        }
        let big_endian = order.unwrap_or_else(|| bytes.first() == Some(&0));
        Some((Wide { unit_bytes, big_endian, marked: false }, bytes))
    }

    /// The units of a text. Bytes at the end that are none are left out.
    pub(super) fn units(self, bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
        bytes.chunks_exact(self.unit_bytes).map(move |unit| {
            let join = |value: u32, byte: &u8| value << 8 | u32::from(*byte);
            if self.big_endian { unit.iter().fold(0, join) } else { unit.iter().rev().fold(0, join) }
        })
    }

    pub(super) fn decode(self, bytes: &[u8]) -> Decoded<'static> {
        let mut undecodable = 0;
        let mut text = String::with_capacity(bytes.len() / self.unit_bytes + 16);
        let mut push = |c: Option<char>| {
            undecodable += usize::from(c.is_none());
            text.push(c.unwrap_or(char::REPLACEMENT_CHARACTER));
        };
        if self.unit_bytes == 2 {
            // The units are below 2^16, being made of two bytes.
            let units = self.units(bytes).map(|unit| unit as u16);
            char::decode_utf16(units).for_each(|c| push(c.ok()));
        } else {
            self.units(bytes).for_each(|unit| push(char::from_u32(unit)));
        }
        if !bytes.len().is_multiple_of(self.unit_bytes) {
            push(None);
        }
        Decoded { text: Cow::Owned(text), undecodable }
    }

    /// Text in this form, its mark included.
    pub(super) fn encode(self, text: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity((text.len() + 1) * self.unit_bytes);
        let mark = self.marked.then_some(MARK);
        for c in mark.into_iter().chain(text.chars()) {
            if self.unit_bytes == 2 {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.extend(if self.big_endian { unit.to_be_bytes() } else { unit.to_le_bytes() });
                }
            } else {
                let unit = u32::from(c);
                out.extend(if self.big_endian { unit.to_be_bytes() } else { unit.to_le_bytes() });
            }
        }
        out
    }
}

pub(super) fn encode(text: &str, encoding: Encoding) -> Option<Vec<u8>> {
    let (wide, _) = Wide::of(&[], encoding)?;
    let marked = matches!(encoding, Encoding::Utf16 | Encoding::Utf32);
    // A text that brings its mark along keeps that one.
    Some(
        Wide { marked, ..wide }
            .encode(text.strip_prefix(if marked { "\u{FEFF}" } else { "" }).unwrap_or(text)),
    )
}

/// A body's units as one byte each, what is not ASCII as 80, a byte order mark as a space; and how many bytes a unit
/// has. `None` when the encoding is not wide: such a body is its own outline.
pub(crate) fn outline(body: &[u8], encoding: Encoding) -> Option<(Vec<u8>, usize)> {
    let (wide, _) = Wide::of(body, encoding)?;
    let ascii = |unit: u32| match unit {
        0..0x80 => unit as u8,
        0xFEFF => b' ',
        _ => 0x80,
    };
    Some((wide.units(body).map(ascii).collect(), wide.unit_bytes))
}

/// Do bytes look like a wide message? For bodies whose encoding is said to be another.
pub(crate) fn looks_wide(body: &[u8]) -> bool {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let marked = body.starts_with(b"\xFF\xFE") || body.starts_with(b"\xFE\xFF");
    let begins = |first: u8| matches!(first, b'M' | b'F' | b'B' | b'\r' | b'\n' | b' ');
    marked
        || match *body {
            [0, 0, 0, last, ..] => begins(last),
            [0, last, 0, ..] => begins(last),
            [first, 0, _, 0, ..] => begins(first),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charset::{decode, encode};
    use proptest::prelude::*;

    const ALL: [Encoding; 6] = [
        Encoding::Utf16,
        Encoding::Utf16Le,
        Encoding::Utf16Be,
        Encoding::Utf32,
        Encoding::Utf32Le,
        Encoding::Utf32Be,
    ];

    #[test]
    fn order_is_the_mark_s_then_the_name_s_then_the_first_unit_s() {
        for (encoding, bytes) in [
            (Encoding::Utf16, &b"\xFF\xFEM\0S\0"[..]),
            (Encoding::Utf16, b"\xFE\xFF\0M\0S"),
            (Encoding::Utf16, b"M\0S\0"),
            (Encoding::Utf16, b"\0M\0S"),
            (Encoding::Utf16Le, b"M\0S\0"),
            (Encoding::Utf16Le, b"\xFE\xFF\0M\0S"),
            (Encoding::Utf16Be, b"\0M\0S"),
            (Encoding::Utf32, b"\xFF\xFE\0\0M\0\0\0S\0\0\0"),
            (Encoding::Utf32, b"\0\0\0M\0\0\0S"),
            (Encoding::Utf32Be, b"\0\0\xFE\xFF\0\0\0M\0\0\0S"),
        ] {
            let decoded = decode(bytes, encoding);
            assert_eq!((decoded.text.as_ref(), decoded.undecodable), ("MS", 0), "{encoding:?} {bytes:?}");
        }
    }

    #[test]
    fn units_that_are_no_characters_are_counted() {
        let decoded = decode(b"M\0\0\xD8S\0\x41", Encoding::Utf16Le);
        assert_eq!((decoded.text.as_ref(), decoded.undecodable), ("M\u{FFFD}S\u{FFFD}", 2));
        let decoded = decode(b"\0\0\0M\0\x11\0\0\0\0\xD8\0\0", Encoding::Utf32Be);
        assert_eq!((decoded.text.as_ref(), decoded.undecodable), ("M\u{FFFD}\u{FFFD}\u{FFFD}", 3));
        assert_eq!(decode(b"", Encoding::Utf16), Decoded { text: "".into(), undecodable: 0 });
    }

    #[test]
    fn encodings_without_an_order_are_written_with_a_mark() {
        assert_eq!(encode("M", Encoding::Utf16), Some(b"\xFF\xFEM\0".to_vec()));
        assert_eq!(encode("\u{FEFF}M", Encoding::Utf16), Some(b"\xFF\xFEM\0".to_vec()));
        assert_eq!(encode("M", Encoding::Utf16Be), Some(b"\0M".to_vec()));
        assert_eq!(encode("𝄞", Encoding::Utf16Be), Some(b"\xD8\x34\xDD\x1E".to_vec()));
        assert_eq!(encode("M", Encoding::Utf32), Some(b"\xFF\xFE\0\0M\0\0\0".to_vec()));
    }

    #[test]
    fn wide_bodies_are_told_from_others() {
        for encoding in ALL {
            assert!(looks_wide(&encode("MSH|^~\\&", encoding).unwrap()), "{encoding:?}");
        }
        for other in
            [&b"MSH|^~\\&"[..], b"", b"M", b"PID|", b"\0\0\0", b"\0\0\0\0", b"M\0", b"\xEF\xBB\xBFMSH|"]
        {
            assert!(!looks_wide(other), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn text_comes_back(text in "[^\u{0}\u{FEFF}]{0,40}", first in "[A-Z]") {
            let text = first + &text;
            for encoding in ALL {
                let bytes = encode(&text, encoding).unwrap();
                prop_assert_eq!(decode(&bytes, encoding), Decoded { text: text.as_str().into(), undecodable: 0 });
            }
        }

        #[test]
        fn no_bytes_make_decode_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            for encoding in ALL {
                let decoded = decode(&bytes, encoding);
                prop_assert!(decoded.undecodable <= decoded.text.matches(char::REPLACEMENT_CHARACTER).count());
                outline(&bytes, encoding);
            }
            looks_wide(&bytes);
        }
    }
}
