//! A body whose header and batch segments can be read byte by byte, and the way back for its answer.

use super::wide::Wide;
use super::{BYTE_ORDER_MARK, Encoding};
use crate::header::{Header, HeaderFault};
use std::borrow::Cow;

/// Read of a wide body for its header: as many bytes as are kept of an oversize message.
const START_BYTES_MAX: usize = 64 << 10;

/// A body, or the start of one, in an encoding whose delimiters are bytes.
#[derive(Clone, Debug)]
pub struct Readable<'a> {
    bytes: Cow<'a, [u8]>,
    encoding: Encoding,
    wide: Option<Wide>,
}

impl Readable<'_> {
    /// What the header is to be read from: of a body in UTF-16 or UTF-32 its start in UTF-8, of others the body itself.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The header, with the bytes of its characters told from delimiters.
    pub fn header(&self) -> Result<Header<'_>, HeaderFault> {
        Header::parse_in(&self.bytes, self.encoding)
    }

    /// An acknowledgment or batch answer written for [`header`](Self::header), in the message's own encoding: as wide
    /// as it came, in its byte order, with a byte order mark where it had one.
    pub fn answer(&self, body: Vec<u8>) -> Vec<u8> {
        match self.wide {
            Some(wide) => wide.encode(&String::from_utf8_lossy(&body)),
            None => body,
        }
    }
}

/// Makes the header of a whole body readable in the encoding the channel is set to.
///
/// A body in UTF-16 or UTF-32 has to be whole: a whole number of units that ends with a segment's end. Frames are cut
/// at bytes, and a character may look like the end of one; what it cut off is [`HeaderFault::Unreadable`].
pub fn transcode_header(body: &[u8], encoding: Encoding) -> Result<Readable<'_>, HeaderFault> {
    if let Some((wide, text)) = Wide::of(body, encoding) {
        let last = text.len().checked_sub(wide.unit_bytes).and_then(|at| wide.units(&text[at..]).next());
        let whole = matches!(last, Some(0x0A | 0x0D)) && text.len().is_multiple_of(wide.unit_bytes);
        if !whole && !text.is_empty() {
            return Err(HeaderFault::Unreadable);
        }
    }
    transcode_start(body, encoding)
}

/// The same for the start of a body that was cut on purpose, such as an oversize one.
pub fn transcode_start(body: &[u8], encoding: Encoding) -> Result<Readable<'_>, HeaderFault> {
    let Some((wide, text)) = Wide::of(body, encoding) else {
        return Ok(Readable { bytes: Cow::Borrowed(body), encoding, wide: None });
    };
    let start = &text[..text.len().min(START_BYTES_MAX) / wide.unit_bytes * wide.unit_bytes];
    let decoded = wide.decode(start).text.into_owned();
    let first = decoded.trim_start().split(['\r', '\n']).next().unwrap_or_default();
    // Nothing of a header may be lost on the way to its acknowledgment.
    if first.contains(char::REPLACEMENT_CHARACTER) || first.as_bytes().starts_with(BYTE_ORDER_MARK) {
        return Err(HeaderFault::Unreadable);
    }
    Ok(Readable { bytes: Cow::Owned(decoded.into_bytes()), encoding: Encoding::Utf8, wide: Some(wide) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ack;
    use crate::charset::{decode, encode};

    const TEXT: &str = "MSH|^~\\&|Ж|H|RIS|H2|2024||ADT^A08|Müller-1|P|2.5\rPID|1||ĀБ\r";

    #[test]
    fn wide_body_is_answered_in_its_own_form() {
        for encoding in
            [Encoding::Utf16, Encoding::Utf16Le, Encoding::Utf16Be, Encoding::Utf32, Encoding::Utf32Be]
        {
            for mark in ["", "\u{FEFF}"] {
                let body = encode(&format!("{mark}{TEXT}"), encoding).unwrap();
                let readable = transcode_header(&body, encoding).unwrap();
                let header = readable.header().unwrap();
                assert_eq!(header.control_id(), "Müller-1".as_bytes());
                let answer = readable.answer(ack::accept(&header, "ID", "TIME"));
                assert!(decode(&answer, encoding).text.ends_with("\rMSA|AA|Müller-1\r"));
                assert_eq!(
                    answer[..2] == body[..2],
                    !mark.is_empty() || body[..2] != *b"M\0" || answer[..2] == *b"M\0"
                );
            }
        }
    }

    #[test]
    fn other_bodies_are_read_and_answered_as_they_are() {
        let readable = transcode_header(TEXT.as_bytes(), Encoding::Utf8).unwrap();
        assert!(matches!(readable.bytes, Cow::Borrowed(_)));
        let answer = ack::accept(&readable.header().unwrap(), "ID", "TIME");
        assert_eq!(readable.answer(answer.clone()), answer);
    }

    #[test]
    fn wide_body_that_is_cut_off_is_unreadable() {
        let body = encode(TEXT, Encoding::Utf16Le).unwrap();
        for end in 1..body.len() {
            let cut = transcode_header(&body[..end], Encoding::Utf16Le).and_then(|r| r.header().map(drop));
            // A cut right behind a segment is a message that its sender may have meant.
            let segment_ends = body[..end].ends_with(b"\r\0") && end % 2 == 0;
            assert_eq!(cut.is_ok(), segment_ends, "{end}");
        }
        // Letters whose bytes end a frame: what came before them is half a message.
        for letter in ["\u{D1C}", "\u{B1C}", "\u{A1C}"] {
            let body = encode(&TEXT.replace('Б', letter), Encoding::Utf16Le).unwrap();
            let at = body.iter().position(|&b| b == 0x1C).unwrap();
            assert!(transcode_header(&body[..at], Encoding::Utf16Le).is_err());
        }
    }

    #[test]
    fn start_of_an_oversize_body_is_read_without_its_end() {
        let body = encode(TEXT, Encoding::Utf16Le).unwrap();
        let readable = transcode_start(&body[..body.len() - 5], Encoding::Utf16Le).unwrap();
        assert_eq!(readable.header().unwrap().control_id(), "Müller-1".as_bytes());
    }

    #[test]
    fn header_with_characters_that_are_none_is_unreadable() {
        let mut body = encode(TEXT, Encoding::Utf16Be).unwrap();
        body[18..20].copy_from_slice(b"\xD8\0");
        assert_eq!(transcode_header(&body, Encoding::Utf16Be).unwrap_err(), HeaderFault::Unreadable);
    }

    #[test]
    fn wide_body_under_another_encoding_is_unreadable() {
        for encoding in [Encoding::Utf16, Encoding::Utf16Be, Encoding::Utf32Le, Encoding::Utf32Be] {
            let body = encode(TEXT, encoding).unwrap();
            for set in [Encoding::Utf8, Encoding::Latin1, Encoding::Auto] {
                let readable = transcode_header(&body, set).unwrap();
                assert_eq!(readable.header().unwrap_err(), HeaderFault::Unreadable, "{encoding:?}");
            }
        }
        let plain = transcode_header(b"MSH|^~\\&|||||||ADT|1\r\n", Encoding::Utf16);
        assert!(
            plain.and_then(|plain| plain.header().map(drop)).is_err(),
            "plain bytes on a channel of UTF-16"
        );
    }
}
