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
