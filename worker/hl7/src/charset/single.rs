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
    by_byte(bytes, |byte| table?.decode_char_checked(byte).filter(|&c| !is_hole(c)))
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

/// Windows' code pages and IBM's leave bytes out. Their tables make controls of them; a message that holds one is in
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
    if text.chars().any(is_hole) {
        return None;
    }
    oem_cp::encode_string_checked(text, oem_cp::code_table::ENCODING_TABLE_CP_MAP.get(&number)?)
}

#[cfg(test)]
mod tests {
    use crate::charset::{Encoding, decode, encode};

    /// What Python's codecs write.
    const SAMPLES: [(&str, &str, &[u8]); 26] = [
        ("shift_jis", "ポ日本ｱ", b"\x83|\x93\xfa\x96{\xb1"),
        ("euc_jp", "日本ｱ", b"\xc6\xfc\xcb\xdc\x8e\xb1"),
        ("euc_kr", "한글", b"\xc7\xd1\xb1\xdb"),
        ("gbk", "中文", b"\xd6\xd0\xce\xc4"),
        ("gb18030", "中𠀀", b"\xd6\xd0\x952\x826"),
        ("big5", "許功", b"\xb3\\\xa5\\"),
        ("iso2022_jp", "日本", b"\x1b$BF|K\\\x1b(B"),
        ("koi8_r", "Жук", b"\xf6\xd5\xcb"),
        ("cp850", "Müller", b"M\x81ller"),
        ("cp437", "Müller", b"M\x81ller"),
        ("cp852", "Łódź", b"\x9d\xa2d\xab"),
        ("cp857", "ğış", b"\xa7\x8d\x9f"),
        ("cp866", "Жук", b"\x86\xe3\xaa"),
        ("cp1250", "Łódź", b"\xa3\xf3d\x9f"),
        ("cp1251", "Жук", b"\xc6\xf3\xea"),
        ("cp1253", "Ωμ", b"\xd9\xec"),
        ("cp1254", "ğış", b"\xf0\xfd\xfe"),
        ("cp1255", "שלום", b"\xf9\xec\xe5\xed"),
        ("cp1256", "سلام", b"\xd3\xe1\xc7\xe3"),
        ("cp1257", "ąžų", b"\xe0\xfe\xf8"),
        ("cp1258", "Đơ", b"\xd0\xf5"),
        ("cp874", "ไทย", b"\xe4\xb7\xc2"),
        ("iso8859_2", "Łódź", b"\xa3\xf3d\xbc"),
        ("iso8859_5", "Жук", b"\xb6\xe3\xda"),
        ("iso8859_15", "€", b"\xa4"),
        ("mac_roman", "é", b"\x8e"),
    ];

    #[test]
    fn samples_of_every_family_read_and_write_as_python_has_them() {
        for (label, text, bytes) in SAMPLES {
            let encoding = Encoding::from_label(label).unwrap();
            let decoded = decode(bytes, encoding);
            assert_eq!((decoded.text.as_ref(), decoded.undecodable), (text, 0), "{label}");
            assert_eq!(encode(text, encoding).as_deref(), Some(bytes), "{label}");
            assert_eq!(encode("\u{1F642}\u{2FF0}", encoding).is_some(), label == "gb18030", "{label}");
        }
    }

    #[test]
    fn every_place_that_does_not_decode_is_counted() {
        for (label, bytes, text) in [
            ("shift_jis", &b"a\x81\x20b\xFF"[..], "a\u{FFFD} b\u{FFFD}"),
            ("euc_kr", b"\xFF\xC7\xD1\xFF", "\u{FFFD}한\u{FFFD}"),
            ("gb18030", b"a\xFF\x80", "a\u{FFFD}€"),
            ("big5", b"\xA5", "\u{FFFD}"),
            ("iso8859_8", b"\xA1\xE0\xFF", "\u{FFFD}א\u{FFFD}"),
            ("cp857", b"\xD5\x8D\xE7", "\u{FFFD}ı\u{FFFD}"),
            ("cp864", b"\x9B", "\u{FFFD}"),
            ("cp1251", b"\x98\xC6\x98", "\u{FFFD}Ж\u{FFFD}"),
            ("cp1255", b"\xFF\xE5", "\u{FFFD}ו"),
            ("iso2022_jp", b"\xE9\x1B$BF|\x1B(B\x1Bx", "\u{FFFD}日\u{FFFD}x"),
        ] {
            let decoded = decode(bytes, Encoding::from_label(label).unwrap());
            assert_eq!(decoded.text, text, "{label}");
            assert_eq!(decoded.undecodable, text.matches('\u{FFFD}').count(), "{label}");
        }
    }
}
