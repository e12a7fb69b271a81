//! Encodings whose text is read byte by byte or in short runs of bytes: UTF-8, ASCII, the Encoding Standard's, code
//! pages.

use super::Decoded;
use encoding_rs::{DecoderResult, Encoding};
use std::borrow::Cow;

pub(super) fn decode_utf8(bytes: &[u8]) -> Decoded<'_> {
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

pub(super) fn decode_ascii(bytes: &[u8]) -> Decoded<'_> {
    by_byte(bytes, |_| None)
}

/// An unknown page reads as ASCII; the labels name none.
pub(super) fn decode_code_page(bytes: &[u8], number: u16) -> Decoded<'_> {
    let table = oem_cp::code_table::DECODING_TABLE_CP_MAP.get(&number);
    by_byte(bytes, |byte| table?.decode_char_checked(byte))
}

/// ASCII, with the bytes over 7F by a table.
fn by_byte(bytes: &[u8], high: impl Fn(u8) -> Option<char>) -> Decoded<'_> {
    if bytes.is_ascii() {
        return decode_utf8(bytes);
    }
    let mut undecodable = 0;
    let text = bytes
        .iter()
        .map(|&byte| {
            let found = if byte.is_ascii() { Some(char::from(byte)) } else { high(byte) };
            found.unwrap_or_else(|| {
                undecodable += 1;
                char::REPLACEMENT_CHARACTER
            })
        })
        .collect();
    Decoded { text: Cow::Owned(text), undecodable }
}

pub(super) fn decode_standard<'a>(bytes: &'a [u8], encoding: &'static Encoding) -> Decoded<'a> {
    let decoded = match encoding.decode_without_bom_handling_and_without_replacement(bytes) {
        Some(text) => Decoded { text, undecodable: 0 },
        None => decode_broken(bytes, encoding),
    };
    if has_holes(encoding) { without_holes(decoded) } else { decoded }
}

fn decode_broken(bytes: &[u8], encoding: &'static Encoding) -> Decoded<'static> {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut text = String::with_capacity(bytes.len() + bytes.len() / 2 + 16);
    let mut undecodable = 0;
    let mut rest = bytes;
    loop {
        let (result, read) = decoder.decode_to_string_without_replacement(rest, &mut text, true);
        rest = &rest[read..];
        match result {
            DecoderResult::InputEmpty => return Decoded { text: Cow::Owned(text), undecodable },
            DecoderResult::OutputFull => text.reserve(rest.len() + 16),
            DecoderResult::Malformed(..) => {
                undecodable += 1;
                text.reserve(4);
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }
}

/// Windows' code pages leave bytes out. The Encoding Standard makes controls of them; a message that holds one is in
/// another encoding, and its reader should know.
fn has_holes(encoding: &'static Encoding) -> bool {
    encoding.name().starts_with("windows-")
}

fn is_hole(c: char) -> bool {
    matches!(c, '\u{80}'..='\u{9F}')
}

fn without_holes(decoded: Decoded<'_>) -> Decoded<'_> {
    let holes =
        if decoded.text.is_ascii() { 0 } else { decoded.text.chars().filter(|&c| is_hole(c)).count() };
    if holes == 0 {
        return decoded;
    }
    let replace = |c: char| if is_hole(c) { char::REPLACEMENT_CHARACTER } else { c };
    let text = decoded.text.chars().map(replace).collect();
    Decoded { text: Cow::Owned(text), undecodable: decoded.undecodable + holes }
}

pub(super) fn encode_standard(text: &str, encoding: &'static Encoding) -> Option<Vec<u8>> {
    if has_holes(encoding) && text.chars().any(is_hole) {
        return None;
    }
    // What does not fit comes out as a numeric character reference and is flagged.
    let (bytes, _, unmappable) = encoding.encode(text);
    (!unmappable).then(|| bytes.into_owned())
}

pub(super) fn encode_code_page(text: &str, number: u16) -> Option<Vec<u8>> {
    oem_cp::encode_string_checked(text, oem_cp::code_table::ENCODING_TABLE_CP_MAP.get(&number)?)
}
