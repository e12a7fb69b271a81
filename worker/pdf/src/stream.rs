//! Streams: where their bytes are, and what they are decompressed.

use crate::lexer::Lexer;
use lopdf::{Dictionary, Object, Stream};
use std::ops::Range;

/// Why a stream was not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undecoded {
    /// It would go beyond what may still be decompressed.
    TooMuch,
    /// A filter that is unknown, or data that none can read.
    Unreadable,
}

/// The bytes of the stream whose dictionary ends where `lexer` is; `None` where no stream follows. A `/Length` that
/// does not end at `endstream` is not believed, as in every reader.
pub(crate) fn data(bytes: &[u8], lexer: &mut Lexer, length: Option<i64>) -> Option<Range<usize>> {
    if !lexer.take_word(b"stream") {
        return None;
    }
    let mut start = lexer.at();
    // Blanks before the line end are wrong and common.
    let blanks = bytes[start..].iter().take_while(|&&b| b == b' ' || b == b'\t').count();
    if matches!(bytes.get(start + blanks), Some(b'\r' | b'\n')) {
        start += blanks;
    }
    match (bytes.get(start), bytes.get(start + 1)) {
        (Some(b'\r'), Some(b'\n')) => start += 2,
        (Some(b'\r' | b'\n'), _) => start += 1,
        _ => {}
    }
    let said =
        length.and_then(|length| usize::try_from(length).ok()).and_then(|length| start.checked_add(length));
    if let Some(end) = said.filter(|&end| end <= bytes.len()) {
        let mut after = Lexer::new(bytes, end);
        if after.take_word(b"endstream") || after.take_word(b"endobj") {
            return Some(start..end);
        }
    }
    let found = memchr::memmem::find(&bytes[start..], b"endstream")
        .or_else(|| memchr::memmem::find(&bytes[start..], b"endobj"))
        .unwrap_or(bytes.len() - start);
    let mut end = start + found;
    if end > start && bytes[end - 1] == b'\n' {
        end -= 1;
    }
    if end > start && bytes[end - 1] == b'\r' {
        end -= 1;
    }
    Some(start..end)
}

/// The decompressed bytes; `left` is what may still be decompressed and is lessened by what was.
pub(crate) fn decode(dictionary: &Dictionary, data: &[u8], left: &mut usize) -> Result<Vec<u8>, Undecoded> {
    if !dictionary.has(b"Filter") && !dictionary.has(b"F") {
        *left = left.checked_sub(data.len()).ok_or(Undecoded::TooMuch)?;
        return Ok(data.to_vec());
    }
    let mut dict = dictionary.clone();
    full_names(&mut dict);
    without_crypt(&mut dict);
    let stream = Stream { dict, content: data.to_vec(), allows_compression: false, start_position: None };
    match stream.decompressed_content_with_limit(*left) {
        Ok(content) => {
            *left = left.saturating_sub(content.len());
            Ok(content)
        }
        Err(lopdf::Error::Decompress(lopdf::DecompressError::MemoryLimitExceeded { .. })) => {
            Err(Undecoded::TooMuch)
        }
        Err(_) => Err(Undecoded::Unreadable),
    }
}

/// Takes out a Crypt filter: what it says was done when the stream was decrypted.
fn without_crypt(dictionary: &mut Dictionary) {
    let is_crypt = |filter: &Object| filter.as_name().is_ok_and(|name| name == b"Crypt");
    match dictionary.get(b"Filter") {
        Ok(Object::Array(filters)) => {
            let Some(at) = filters.iter().position(is_crypt) else { return };
            for key in [&b"Filter"[..], b"DecodeParms"] {
                if let Ok(Object::Array(items)) = dictionary.get_mut(key)
                    && at < items.len()
                {
                    items.remove(at);
                }
            }
        }
        Ok(filter) if is_crypt(filter) => {
            dictionary.remove(b"Filter");
            dictionary.remove(b"DecodeParms");
        }
        _ => {}
    }
}

/// Filters by their short names, which belong into inline images and are written elsewhere too.
fn full_names(dictionary: &mut Dictionary) {
    fn full(object: &mut Object) {
        if let Object::Name(name) = object {
            let long: &[u8] = match &name[..] {
                b"Fl" => b"FlateDecode",
                b"LZW" => b"LZWDecode",
                b"A85" => b"ASCII85Decode",
                b"AHx" => b"ASCIIHexDecode",
                b"RL" => b"RunLengthDecode",
                _ => return,
            };
            *name = long.to_vec();
        }
    }
    match dictionary.get_mut(b"Filter") {
        Ok(Object::Array(filters)) => filters.iter_mut().for_each(full),
        Ok(filter) => full(filter),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &[u8], length: Option<i64>) -> Option<&[u8]> {
        data(text, &mut Lexer::new(text, 0), length).map(|range| &text[range])
    }

    #[test]
    fn a_length_that_is_right_is_believed_and_no_other() {
        assert_eq!(found(b"stream\r\nendstream \nendstream", Some(10)), Some(&b"endstream "[..]));
        for length in [Some(3), Some(-1), Some(99), None] {
            assert_eq!(found(b"stream\nabcdef\r\nendstream", length), Some(&b"abcdef"[..]), "{length:?}");
        }
        assert_eq!(found(b"endobj", Some(3)), None);
    }

    #[test]
    fn a_crypt_filter_is_passed_over() {
        let name = |name: &str| Object::Name(name.as_bytes().to_vec());
        for filter in [name("Crypt"), Object::Array(vec![name("Crypt"), name("AHx")])] {
            let hex = matches!(filter, Object::Array(_));
            let dictionary = Dictionary::from_iter([("Filter", filter)]);
            let content = decode(&dictionary, b"41>", &mut 100).unwrap();
            assert_eq!(content, if hex { &b"A"[..] } else { b"41>" });
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        use std::io::Write;
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 10_000_000]).unwrap();
        let data = encoder.finish().unwrap();
        let dictionary = Dictionary::from_iter([("Filter", Object::Name(b"Fl".to_vec()))]);
        assert_eq!(decode(&dictionary, &data, &mut 9_999_999), Err(Undecoded::TooMuch));
        let mut left = 10_000_001;
        assert_eq!(decode(&dictionary, &data, &mut left).unwrap().len(), 10_000_000);
        assert_eq!(left, 1);
    }
}
