//! How a document's bytes are written in a message: Base64, Hex, or as they are ("A").
//!
//! Between the digits may stand blanks, line breaks and their escape sequences. A value without any, the common case,
//! is decoded in one go from where it stands.

use hl7::charset::Encoding;
use hl7::delimiters::{Delimiters, UNUSED};
use memchr::{memchr, memmem};

/// A PDF's first bytes may be preceded by others, up to that many (ISO 32000-1, annex H.3, note 13).
const START_WITHIN: usize = 1024;
/// Bytes that hold a start within [`START_WITHIN`].
const START_BYTES: usize = START_WITHIN - 1 + START.len();
const START: &[u8] = b"%PDF-";
/// Characters looked at to see what data begins with: the digits of [`START_BYTES`], wrapped generously.
const HEAD_CHARS: usize = 4096;
/// Bytes looked at to see how data ends.
const TAIL_BYTES: usize = 256;

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum DataEncoding {
    /// RFC 4648, padded or not, the alphabet for URLs included.
    Base64,
    /// Two hexadecimal digits a byte.
    Hex,
    /// The bytes themselves, escaped where they are delimiters or no text.
    Plain,
}

/// What is needed to read data: it stands in a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    /// The message's delimiters.
    pub delimiters: &'a Delimiters,
    /// The channel's encoding: plain data was decoded by it with the rest of the message.
    pub encoding: Encoding,
}

/// What data's component 4 may call its encoding (table 0299).
pub(super) fn declared(word: &str) -> Option<DataEncoding> {
    [("Base64", DataEncoding::Base64), ("Hex", DataEncoding::Hex), ("A", DataEncoding::Plain)]
        .into_iter()
        .find_map(|(name, encoding)| name.eq_ignore_ascii_case(word.trim()).then_some(encoding))
}

impl Reading<'_> {
    /// How the data is written when it starts a PDF: `%PDF-` within the first 1,024 of its bytes. Data that nothing
    /// declares as plain must begin with it, or a text that speaks of it would be a document.
    pub fn pdf(&self, text: &str, declared: Option<DataEncoding>) -> Option<DataEncoding> {
        if text.len() < START.len() {
            return None;
        }
        // What nearly all of them begin with, `%PDF-`: what follows changes nothing.
        if let [b'J', b'V', b'B', b'E', b'R', b'i', b'0'..=b'3', ..] = text.as_bytes() {
            return Some(DataEncoding::Base64);
        }
        let head = self.head(text);
        let digits = |encoding: DataEncoding, room: &mut [u8; HEAD_CHARS]| {
            starts_pdf(encoding.decode_head(&head, room)).then_some(encoding)
        };
        let plain = match declared {
            Some(DataEncoding::Plain) => starts_pdf(&head),
            _ => head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).starts_with(START),
        };
        let mut room = [0; HEAD_CHARS];
        digits(DataEncoding::Base64, &mut room)
            .or_else(|| digits(DataEncoding::Hex, &mut room))
            .or(plain.then_some(DataEncoding::Plain))
    }

    /// The first bytes of the data, up to some thousand.
    pub fn first_bytes(&self, text: &str, encoding: DataEncoding) -> Vec<u8> {
        let head = self.head(text);
        encoding.decode_head(&head, &mut [0; HEAD_CHARS]).to_vec()
    }

    /// Whether every character of the value can be part of such data.
    pub fn is_data(&self, text: &str, encoding: DataEncoding) -> bool {
        if encoding == DataEncoding::Plain {
            return !text.is_empty();
        }
        let table = encoding.digits();
        let mut worst = if text.trim_ascii().is_empty() { OTHER } else { BLANK };
        let look = |worst: u8, &byte: &u8| worst.max(table[usize::from(byte)]);
        self.runs(text.as_bytes(), &mut |run| worst = run.bytes().iter().fold(worst, look));
        worst < OTHER
    }

    /// The bytes of data in pieces. The pieces are parts of one text, or, when `each_whole`, each is a whole that was
    /// encoded by itself. `None` where they are not of this encoding.
    pub fn decode(&self, pieces: &[&str], encoding: DataEncoding, each_whole: bool) -> Option<Vec<u8>> {
        let clean = match pieces {
            [only] => self.decode_strict(only, encoding).or_else(|| {
                let has_escapes = memchr(self.delimiters.escape, only.as_bytes()).is_some();
                if has_escapes { None } else { encoding.decode_clean(only) }
            }),
            _ => None,
        };
        clean.or_else(|| match encoding {
            DataEncoding::Base64 => base64_chunks(self.digits(pieces, encoding, each_whole)?, each_whole),
            DataEncoding::Hex => hex_in_place(self.digits(pieces, encoding, each_whole)?),
            DataEncoding::Plain => Some(self.plain(pieces)),
        })
    }

    /// Base64 as an encoder makes it, decoded from where it stands. Nothing in it is an escape: no digit is one.
    fn decode_strict(&self, text: &str, encoding: DataEncoding) -> Option<Vec<u8>> {
        if encoding != DataEncoding::Base64 || BASE64_DIGITS[usize::from(self.delimiters.escape)] < OTHER {
            return None;
        }
        base64_simd::STANDARD_NO_PAD.decode_to_vec(unpadded(text)).ok()
    }

    /// The digits of all pieces, of the usual alphabet; `=` behind each piece that is a whole.
    fn digits(&self, pieces: &[&str], encoding: DataEncoding, each_whole: bool) -> Option<Vec<u8>> {
        let mut digits = Vec::with_capacity(pieces.iter().map(|piece| piece.len() + 1).sum());
        let table = encoding.digits();
        let mut worst = 0;
        for piece in pieces {
            self.runs(piece.as_bytes(), &mut |run| {
                worst = worst.max(push_digits(run.bytes(), table, &mut digits));
            });
            if each_whole && encoding == DataEncoding::Base64 {
                digits.push(b'=');
            }
        }
        (worst < OTHER).then_some(digits)
    }

    fn plain(&self, pieces: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum());
        for piece in pieces {
            self.runs(piece.as_bytes(), &mut |run| match run {
                Run::Text(text) if !text.is_ascii() => bytes.extend_from_slice(&self.as_it_came(text)),
                run => bytes.extend_from_slice(run.bytes()),
            });
        }
        bytes
    }

    /// Text as the bytes it was decoded from.
    fn as_it_came(&self, text: &[u8]) -> Vec<u8> {
        // A sender who has other units than bytes wrote a character for each byte.
        let encoding = match self.encoding {
            Encoding::Utf16 | Encoding::Utf16Le | Encoding::Utf16Be => Encoding::Latin1,
            Encoding::Utf32 | Encoding::Utf32Le | Encoding::Utf32Be => Encoding::Latin1,
            other => other,
        };
        let back = std::str::from_utf8(text).ok().and_then(|text| hl7::charset::encode(text, encoding));
        back.unwrap_or_else(|| text.to_vec())
    }

    /// The beginning of the text without leading blanks and escapes.
    fn head<'t>(&self, text: &'t str) -> std::borrow::Cow<'t, [u8]> {
        let text = text.trim_ascii_start().as_bytes();
        let head = &text[..text.len().min(HEAD_CHARS)];
        if memchr(self.delimiters.escape, head).is_none() {
            return head.into();
        }
        let mut bytes = Vec::with_capacity(head.len());
        self.runs(head, &mut |run| bytes.extend_from_slice(run.bytes()));
        bytes.trim_ascii_start().to_vec().into()
    }

    /// Gives the text run by run, its escape sequences resolved. An unknown one is text as it stands.
    fn runs(&self, text: &[u8], take: &mut dyn FnMut(Run<'_>)) {
        let mark = self.delimiters.escape;
        let mut rest = text;
        while mark != UNUSED
            && let Some(begin) = memchr(mark, rest)
        {
            let Some(length) = memchr(mark, &rest[begin + 1..]) else { break };
            let end = begin + 1 + length;
            if self.is_sequence(&rest[begin + 1..end]) {
                take(Run::Text(&rest[..begin]));
                self.resolve(&rest[begin + 1..end], take);
                rest = &rest[end + 1..];
            } else {
                // A lone mark; the next one may begin a sequence.
                take(Run::Text(&rest[..end]));
                rest = &rest[end..];
            }
        }
        take(Run::Text(rest));
    }

    fn is_sequence(&self, sequence: &[u8]) -> bool {
        match sequence {
            [b'F' | b'S' | b'T' | b'R' | b'E' | b'P'] => true,
            [b'.', name, ..] => name.is_ascii_alphabetic() && sequence.len() <= 8,
            [b'X' | b'x', digits @ ..] => {
                !digits.is_empty()
                    && digits.len().is_multiple_of(2)
                    && digits.iter().all(u8::is_ascii_hexdigit)
            }
            _ => false,
        }
    }

    fn resolve(&self, sequence: &[u8], take: &mut dyn FnMut(Run<'_>)) {
        let delimiters = self.delimiters;
        let delimiter = match sequence {
            b"F" => delimiters.field,
            b"S" => delimiters.component,
            b"T" => delimiters.subcomponent,
            b"R" => delimiters.repetition,
            b"E" => delimiters.escape,
            b"P" => delimiters.truncation.unwrap_or(UNUSED),
            [b'X' | b'x', digits @ ..] => {
                for pair in digits.chunks_exact(2) {
                    take(Run::Bytes(&[HEX[usize::from(pair[0])] << 4 | HEX[usize::from(pair[1])]]));
                }
                return;
            }
            // `\.br\` and its like are line breaks.
            _ => b'\n',
        };
        take(Run::Bytes(&[delimiter]));
    }
}

/// Appends what the table has for each byte, blanks left out; the highest of all.
fn push_digits(bytes: &[u8], table: &[u8; 256], digits: &mut Vec<u8>) -> u8 {
    let begin = digits.len();
    digits.resize(begin + bytes.len(), 0);
    let (mut end, mut worst) = (0, 0);
    let room = &mut digits[begin..];
    for &byte in bytes {
        let digit = table[usize::from(byte)];
        worst = worst.max(digit);
        room[end] = digit;
        end += usize::from(digit != BLANK);
    }
    digits.truncate(begin + end);
    worst
}

/// How much of a PDF's end bytes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// None, or something stands behind it.
    Missing,
    /// The end mark, and at most line breaks and NUL behind it.
    Marked,
    /// Its cross-reference stands where the end says it does, too: nothing before it was lost.
    Sound,
}

impl End {
    pub fn of(bytes: &[u8]) -> End {
        let tail = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let end = tail.iter().rposition(|b| !b.is_ascii_whitespace() && *b != 0).map_or(0, |last| last + 1);
        if !tail[..end].ends_with(b"%%EOF") {
            return End::Missing;
        }
        let number = memmem::rfind(tail, b"startxref").map(|at| tail[at + 9..].trim_ascii_start());
        let number = number.and_then(|text| text.split(|b| !b.is_ascii_digit()).next());
        let offset = number.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok());
        // Counted from the first byte, or from the start of the PDF where others stand before it.
        let is_right = offset.is_some_and(|offset| {
            let start = memmem::find(&bytes[..bytes.len().min(START_BYTES)], START).unwrap_or(0);
            [offset, offset.saturating_add(start)].into_iter().any(|at| is_cross_reference(bytes, at))
        });
        if is_right { End::Sound } else { End::Marked }
    }
}

/// A table begins with `xref`, a stream with the number of its object; a byte beside it is a byte lost or won.
fn is_cross_reference(bytes: &[u8], at: usize) -> bool {
    let Some(head) = bytes.get(at..).map(|rest| &rest[..rest.len().min(32)]) else { return false };
    let is_number = head.first().is_some_and(u8::is_ascii_digit)
        && !at.checked_sub(1).is_some_and(|before| bytes[before].is_ascii_digit());
    head.starts_with(b"xref") || is_number && memmem::find(head, b"obj").is_some()
}

fn starts_pdf(bytes: &[u8]) -> bool {
    memmem::find(&bytes[..bytes.len().min(START_BYTES)], START).is_some()
}

/// A part of a text: as it stands, or what an escape sequence stands for.
enum Run<'a> {
    Text(&'a [u8]),
    Bytes(&'a [u8]),
}

impl<'a> Run<'a> {
    fn bytes(&self) -> &'a [u8] {
        match self {
            Run::Text(bytes) | Run::Bytes(bytes) => bytes,
        }
    }
}

/// What a table of digits has for what may stand between them, and for what is none; all digits are ASCII.
const BLANK: u8 = 0;
const OTHER: u8 = 0xff;
/// Base64 of both alphabets, as that of the usual one; padding is kept.
const BASE64_DIGITS: [u8; 256] =
    digits(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=", b"-_", b"+/");
const HEX_DIGITS: [u8; 256] = digits(b"0123456789abcdefABCDEF", b"", b"");

const fn digits(same: &[u8], others: &[u8], stand_for: &[u8]) -> [u8; 256] {
    let mut table = [OTHER; 256];
    let mut at = 0;
    while at < same.len() {
        table[same[at] as usize] = same[at];
        at += 1;
    }
    at = 0;
    while at < others.len() {
        table[others[at] as usize] = stand_for[at];
        at += 1;
    }
    at = 0;
    while at < BLANKS.len() {
        table[BLANKS[at] as usize] = BLANK;
        at += 1;
    }
    table
}
const BLANKS: &[u8] = b" \t\r\n\x0c";

impl DataEncoding {
    /// What each byte is in such data; plain data has no digits.
    fn digits(self) -> &'static [u8; 256] {
        match self {
            DataEncoding::Base64 => &BASE64_DIGITS,
            DataEncoding::Hex | DataEncoding::Plain => &HEX_DIGITS,
        }
    }

    /// The first bytes of data, of which `head` is the beginning without escapes, up to what are no digits.
    fn decode_head<'r>(self, head: &'r [u8], room: &'r mut [u8; HEAD_CHARS]) -> &'r [u8] {
        let digits_max = match self {
            DataEncoding::Base64 => START_BYTES.div_ceil(3) * 4,
            DataEncoding::Hex => START_BYTES * 2,
            DataEncoding::Plain => return head,
        };
        let mut count = 0;
        for &byte in head {
            match self.digits()[usize::from(byte)] {
                BLANK => {}
                b'=' | OTHER => break,
                _ if count == digits_max => break,
                digit => {
                    room[count] = digit;
                    count += 1;
                }
            }
        }
        match self {
            DataEncoding::Hex => {
                for at in 0..count / 2 {
                    room[at] = HEX[usize::from(room[2 * at])] << 4 | HEX[usize::from(room[2 * at + 1])];
                }
                &room[..count / 2]
            }
            // A digit that fills no byte is left out.
            _ => {
                let count = if count % 4 == 1 { count - 1 } else { count };
                base64_simd::forgiving_decode_inplace(&mut room[..count]).map_or(&[], |bytes| bytes)
            }
        }
    }

    /// Data without escapes that has nothing in it but digits and, in Base64, blanks; `None` says nothing.
    fn decode_clean(self, text: &str) -> Option<Vec<u8>> {
        match self {
            DataEncoding::Base64 => base64_simd::forgiving_decode_to_vec(unpadded(text)).ok(),
            DataEncoding::Hex => hex(text.trim_ascii().as_bytes()),
            DataEncoding::Plain => None,
        }
    }
}

fn unpadded(text: &str) -> &[u8] {
    text.trim_end_matches(|c: char| c == '=' || c.is_ascii_whitespace()).as_bytes()
}

/// Base64 of the usual alphabet, decoded where it stands. Padding may also stand between wholes that were joined. What
/// an encoder made has no bits left over; a text cut anywhere mostly has, and is no whole when it `must_be_whole`.
fn base64_chunks(mut digits: Vec<u8>, must_be_whole: bool) -> Option<Vec<u8>> {
    let (mut at, mut decoded) = (0, 0);
    while at < digits.len() {
        let end = memchr(b'=', &digits[at..]).map_or(digits.len(), |length| at + length);
        let chunk = &mut digits[at..end];
        let bytes = if must_be_whole {
            base64_simd::STANDARD_NO_PAD.decode_inplace(chunk)
        } else {
            base64_simd::forgiving_decode_inplace(chunk)
        };
        let length = bytes.ok()?.len();
        digits.copy_within(at..at + length, decoded);
        decoded += length;
        at = end + 1;
    }
    digits.truncate(decoded);
    Some(digits)
}

/// The value of each hexadecimal digit; [`NO_DIGIT`] for every other byte.
const HEX: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit] as usize] = digit as u8;
        table[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
};
const NO_DIGIT: u8 = 0xff;

fn hex(digits: &[u8]) -> Option<Vec<u8>> {
    let pairs = digits.chunks_exact(2);
    let odd = !pairs.remainder().is_empty();
    // One look at the end costs less than one at every digit.
    let mut seen = 0;
    let byte = |pair: &[u8]| {
        let (high, low) = (HEX[usize::from(pair[0])], HEX[usize::from(pair[1])]);
        seen |= high | low;
        high << 4 | low
    };
    let bytes: Vec<u8> = pairs.map(byte).collect();
    (!odd && seen < 16).then_some(bytes)
}

fn hex_in_place(mut digits: Vec<u8>) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    for at in 0..digits.len() / 2 {
        digits[at] = HEX[usize::from(digits[2 * at])] << 4 | HEX[usize::from(digits[2 * at + 1])];
    }
    digits.truncate(digits.len() / 2);
    Some(digits)
}
