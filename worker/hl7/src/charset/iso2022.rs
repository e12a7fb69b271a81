//! Switches between character sets inside a message, by ISO 2022.
//!
//! A message whose MSH-18 has several repetitions begins in the first of them and switches to others by HL7's escape
//! sequences `\Cxxyy\` and `\Mxxyyzz\`, whose bytes are those behind the ESC of ISO 2022, or by ISO 2022's own
//! sequences, as Japanese systems send them. A switch lasts to the next one or to the end of its field.
//!
//! Two sets are in force at a time: one for bytes up to 7F and one for those over it. The message's own encoding holds
//! for whichever was not switched.

use super::declared::Declared;
use super::{Decoded, Encoding, Standard, decode_plain};
use crate::delimiters::UNUSED;
use encoding_rs::{BIG5, EUC_JP, EUC_KR, GB18030, GBK, SHIFT_JIS};
use memchr::memchr2;
use std::borrow::Cow;

pub(crate) const ESC: u8 = 0x1B;
/// How far the end of a run of pairs is looked for: further than any name goes.
const RUN_BYTES_MAX: usize = 256;

/// A set for the bytes from 21 to 7E.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Low {
    Own,
    Katakana,
    /// Pairs of bytes, here by EUC-JP's lead for them.
    Kanji {
        supplement: bool,
    },
    /// Pairs of bytes of a set that the Encoding Standard keeps over 7F.
    Pairs(&'static encoding_rs::Encoding),
}

/// A set for the bytes from A0 to FF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum High {
    Own,
    Katakana,
    Latin1,
    Of(&'static encoding_rs::Encoding),
}

#[derive(Clone, Copy, Debug)]
enum Switch {
    Low(Low),
    High(High),
}

/// The set that the bytes behind an ESC name.
fn switch_of(sequence: &[u8]) -> Option<Switch> {
    use encoding_rs::{
        ISO_8859_2, ISO_8859_3, ISO_8859_4, ISO_8859_5, ISO_8859_6, ISO_8859_7, ISO_8859_8, ISO_8859_15,
        WINDOWS_874, WINDOWS_1254,
    };
    Some(match sequence {
        // The Roman letters of JIS X 0201 differ in two signs, one of which is HL7's escape character: read as ASCII.
        b"(B" | b"(J" => Switch::Low(Low::Own),
        b"(I" => Switch::Low(Low::Katakana),
        b"$@" | b"$B" | b"$(@" | b"$(B" => Switch::Low(Low::Kanji { supplement: false }),
        b"$(D" => Switch::Low(Low::Kanji { supplement: true }),
        b"$A" | b"$(A" => Switch::Low(Low::Pairs(GBK)),
        b"$(C" => Switch::Low(Low::Pairs(EUC_KR)),
        b")I" => Switch::High(High::Katakana),
        b"$)A" => Switch::High(High::Of(GBK)),
        b"$)B" => Switch::High(High::Of(EUC_JP)),
        b"$)C" => Switch::High(High::Of(EUC_KR)),
        b"-A" => Switch::High(High::Latin1),
        b"-B" => Switch::High(High::Of(ISO_8859_2)),
        b"-C" => Switch::High(High::Of(ISO_8859_3)),
        b"-D" => Switch::High(High::Of(ISO_8859_4)),
        b"-F" => Switch::High(High::Of(ISO_8859_7)),
        b"-G" => Switch::High(High::Of(ISO_8859_6)),
        b"-H" => Switch::High(High::Of(ISO_8859_8)),
        b"-L" => Switch::High(High::Of(ISO_8859_5)),
        b"-M" => Switch::High(High::Of(WINDOWS_1254)),
        b"-T" => Switch::High(High::Of(WINDOWS_874)),
        b"-b" => Switch::High(High::Of(ISO_8859_15)),
        _ => return None,
    })
}

/// A switch at the beginning of bytes, with its length.
fn switch_at(bytes: &[u8], escape: u8) -> Option<(Switch, usize)> {
    match *bytes {
        [ESC, ref rest @ ..] => {
            [3, 2].into_iter().find_map(|length| Some((switch_of(rest.get(..length)?)?, length + 1)))
        }
        [first, b'C' | b'M', ref rest @ ..] if first == escape && escape != UNUSED => {
            let length = rest.iter().take(7).position(|&b| b == escape)?;
            let digits = rest.get(..length).filter(|digits| digits.len().is_multiple_of(2))?;
            let mut sequence = [0; 3];
            for (byte, pair) in sequence.iter_mut().zip(digits.chunks_exact(2)) {
                let pair = std::str::from_utf8(pair).ok()?;
                *byte = u8::from_str_radix(pair, 16).ok()?;
            }
            Some((switch_of(&sequence[..digits.len() / 2])?, length + 3))
        }
        _ => None,
    }
}

/// May there be a switch at all?
pub(super) fn has_switch(bytes: &[u8], escape: u8) -> bool {
    let begins = |at: usize| switch_at(&bytes[at..], escape).is_some();
    memchr::memchr_iter(ESC, bytes).any(begins)
        || escape != UNUSED && memchr::memchr_iter(escape, bytes).any(begins)
}

/// Reads bytes that switch; the switches leave the text.
pub(super) fn decode(bytes: &[u8], own: Encoding, declared: &Declared) -> Decoded<'static> {
    let own = if own == super::declared::ISO_2022_JP { Encoding::Ascii } else { own };
    let escape = declared.escape.unwrap_or(UNUSED);
    let mut out = Text { text: String::with_capacity(bytes.len() + 16), undecodable: 0 };
    let (mut low, mut high) = (Low::Own, High::Own);
    let mut rest = bytes;
    while let Some(&first) = rest.first() {
        if let Some((switch, length)) = switch_at(rest, escape) {
            match switch {
                Switch::Low(set) => low = set,
                Switch::High(set) => high = set,
            }
            rest = &rest[length..];
            continue;
        }
        if first == ESC {
            out.push_undecodable();
            rest = &rest[1..];
            continue;
        }
        if matches!(first, b'\r' | b'\n') || separates(rest, low, declared.field) {
            (low, high) = (Low::Own, High::Own);
            out.text.push(char::from(first));
            rest = &rest[1..];
            continue;
        }
        let length = out.push_some(rest, low, high, own, escape);
        rest = &rest[length..];
    }
    Decoded { text: Cow::Owned(out.text), undecodable: out.undecodable }
}

/// Do bytes begin with a field separator? Where pairs are in force it may be half of a character of the vendors' rows,
/// as long as the pairs end further on: a sender has to switch back before its field ends, and some do not.
fn separates(rest: &[u8], low: Low, field: u8) -> bool {
    let pairs = matches!(low, Low::Kanji { .. } | Low::Pairs(_));
    let ahead = &rest[..rest.len().min(RUN_BYTES_MAX)];
    let run_goes_on =
        || memchr::memchr(ESC, ahead).is_some_and(|at| at % 2 == 0 && ahead.get(at + 1) == Some(&b'('));
    rest[0] == field && field != UNUSED && !(pairs && run_goes_on())
}

struct Text {
    text: String,
    undecodable: usize,
}

impl Text {
    /// Reads what stands first by the sets in force and gives its length. It is no switch.
    fn push_some(&mut self, rest: &[u8], low: Low, high: High, own: Encoding, escape: u8) -> usize {
        if low == Low::Own && high == High::Own {
            let length = own_run(rest, escape);
            self.push(decode_plain(&rest[..length], own));
            return length;
        }
        let first = rest[0];
        let pair = |range: std::ops::RangeInclusive<u8>| match *rest {
            [a, b, ..] if range.contains(&a) && range.contains(&b) => Some([a | 0x80, b | 0x80]),
            _ => None,
        };
        if first < 0x80 {
            match (low, pair(0x21..=0x7E)) {
                (Low::Katakana, _) if (0x21..0x60).contains(&first) => self.push_katakana(first),
                (Low::Kanji { supplement: false }, Some([a, b])) => return self.push_pair(EUC_JP, &[a, b]),
                (Low::Kanji { supplement: true }, Some([a, b])) => {
                    return self.push_pair(EUC_JP, &[0x8F, a, b]);
                }
                (Low::Pairs(encoding), Some([a, b])) => return self.push_pair(encoding, &[a, b]),
                _ => self.text.push(char::from(first)),
            }
            return 1;
        }
        match (high, pair(0xA1..=0xFE)) {
            (High::Own, _) => {
                let length = rest.iter().take_while(|&&b| b >= 0x80).count();
                self.push(decode_plain(&rest[..length], own));
                return length;
            }
            (High::Katakana, _) if (0xA1..0xE0).contains(&first) => self.push_katakana(first & 0x7F),
            (High::Latin1, _) => self.text.push(char::from(first)),
            (High::Of(encoding), Some([a, b])) if !encoding.is_single_byte() => {
                return self.push_pair(encoding, &[a, b]);
            }
            (High::Of(encoding), _) if encoding.is_single_byte() => {
                self.push(super::single::decode_standard(&[first], encoding));
            }
            _ => self.push_undecodable(),
        }
        1
    }

    fn push(&mut self, decoded: Decoded<'_>) {
        self.text.push_str(&decoded.text);
        self.undecodable += decoded.undecodable;
    }

    fn push_pair(&mut self, encoding: &'static encoding_rs::Encoding, bytes: &[u8]) -> usize {
        match encoding.decode_without_bom_handling_and_without_replacement(bytes) {
            Some(text) => self.text.push_str(&text),
            None => self.push_undecodable(),
        }
        2
    }

    /// `byte` is from 21 to 5F.
    fn push_katakana(&mut self, byte: u8) {
        let c = char::from_u32(0xFF61 + u32::from(byte) - 0x21);
        self.text.push(c.unwrap_or(char::REPLACEMENT_CHARACTER));
    }

    fn push_undecodable(&mut self) {
        self.text.push(char::REPLACEMENT_CHARACTER);
        self.undecodable += 1;
    }
}

/// How far the message's own encoding goes: to the next switch or ESC; at least one byte.
fn own_run(rest: &[u8], escape: u8) -> usize {
    let mut from = 1;
    while let Some(at) = memchr2(ESC, escape, &rest[from..]) {
        let at = from + at;
        if rest[at] == ESC || switch_at(&rest[at..], escape).is_some() {
            return at;
        }
        from = at + 1;
    }
    rest.len()
}

/// The MSH with the bytes of each character that has several, or that a switch made another, as 80: what is left that
/// looks like a delimiter is one. `None` when nothing is hidden. `escape` as [`Declared`] says.
pub(crate) fn mask(msh: &[u8], encoding: Encoding, escape: Option<u8>, field: u8) -> Option<Vec<u8>> {
    if msh.is_ascii() && !escape.is_some_and(|escape| has_switch(msh, escape)) {
        return None;
    }
    let mut out = msh.to_vec();
    let mut low = Low::Own;
    let mut at = 0;
    while at < msh.len() {
        let rest = &msh[at..];
        if let Some((switch, length)) = escape.and_then(|escape| switch_at(rest, escape)) {
            if let Switch::Low(set) = switch {
                low = set;
            }
            at += length;
            continue;
        }
        if separates(rest, low, field) {
            low = Low::Own;
        }
        let hidden = match (low, rest) {
            (Low::Kanji { .. } | Low::Pairs(_), [0x21..=0x7E, 0x21..=0x7E, ..]) => 2,
            (Low::Katakana, [0x21..0x60, ..]) => 1,
            (_, [0x80..=0xFF, ..]) => character_bytes(rest, encoding),
            _ => 0,
        };
        out[at..at + hidden].fill(0x80);
        at += hidden.max(1);
    }
    (out != msh).then_some(out)
}

/// Bytes of the character that begins with one over 7F, in the encodings whose later bytes may be ASCII; of others 0.
fn character_bytes(bytes: &[u8], encoding: Encoding) -> usize {
    let Encoding::Other(Standard(encoding)) = encoding else { return 0 };
    let pairs = [SHIFT_JIS, BIG5, GBK, GB18030, EUC_KR].contains(&encoding);
    let is_lead = |lead| match lead {
        0x80 | 0xFF => false,
        0xA0..=0xDF => encoding != SHIFT_JIS,
        _ => true,
    };
    match *bytes {
        [lead, 0x30..=0x39, 0x81..=0xFE, 0x30..=0x39, ..] if encoding == GB18030 && is_lead(lead) => 4,
        [lead, trail, ..] if pairs && is_lead(lead) && (0x40..=0xFE).contains(&trail) && trail != 0x7F => 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use crate::charset::{Encoding, decode};
    use crate::header::Header;
    use proptest::prelude::*;

    fn body(msh18: &str, pid: &[u8]) -> Vec<u8> {
        [b"MSH|^~\\&|A|B|C|D|2024||ADT^A01|1|P|2.5||||||", msh18.as_bytes(), b"\rPID|1|", pid, b"|end\r"]
            .concat()
    }

    fn read(msh18: &str, pid: &[u8], encoding: Encoding) -> (String, usize) {
        let body = body(msh18, pid);
        let decoded = decode(&body, encoding);
        let value = decoded.text.split("PID|1|").nth(1).unwrap().strip_suffix("|end\r").unwrap();
        (value.to_owned(), decoded.undecodable)
    }

    #[test]
    fn switches_are_carried_out_where_further_sets_are_declared() {
        for (pid, text) in [
            // Both kanji hold bytes that look like delimiters: 7C and 5C.
            (&b"a\x1B$BF|K\\\x1B(Bb"[..], "a日本b"),
            (br"a\M2442\F|K\\C2842\b", "a日本b"),
            (br"\M242844\0!\C284A\", "丂"),
            (b"\x1B$(D0!\x1B(B", "丂"),
            (b"\x1B(I16\x1B(J", "ｱｶ"),
            (b"\\C2949\\\xB1", "ｱ"),
            (b"\\C2D4C\\\xB6\xE3", "Жу"),
            (b"\\C2D46\\\xD9\\C2D41\\\xE9", "Ωé"),
            (b"\\M242943\\\xC7\xD1", "한"),
            (b"\x1B$)A\xD6\xD0", "中"),
            (b"\x1B$AVP\x1B(B", "中"),
            (b"\x1B$BF|\x1B(B \xE9", "日 é"),
        ] {
            assert_eq!(
                read("8859/1~ISO IR87", pid, Encoding::Auto),
                (text.to_owned(), 0),
                "{}",
                pid.escape_ascii()
            );
            assert_eq!(read("~ISO IR87", pid, Encoding::Latin1).0, text, "a set encoding switches too");
        }
    }

    #[test]
    fn switch_ends_with_its_field() {
        let (text, undecodable) = read("8859/1~8859/5", b"\\C2D4C\\\xB6|\xE9", Encoding::Auto);
        assert_eq!((text.as_str(), undecodable), ("Ж|é", 0));
        let (text, _) = read("~ISO IR87", b"\x1B$BF||K\\", Encoding::Auto);
        assert_eq!(text, "日|K\\");
    }

    #[test]
    fn sequences_stay_where_no_further_set_is_declared() {
        let pid = br"\M2442\F|\C2842\";
        assert_eq!(read("8859/1", pid, Encoding::Auto).0.as_bytes(), pid);
        assert_eq!(read("", pid, Encoding::Utf8).0.as_bytes(), pid);
        assert_eq!(
            read("8859/1~8859/2", br"\C99\ \CZZZZ\ \M2499\ \.br\", Encoding::Auto).0,
            r"\C99\ \CZZZZ\ \M2499\ \.br\"
        );
    }

    #[test]
    fn places_that_do_not_decode_are_counted() {
        assert_eq!(read("~ISO IR87", b"\x1B$B\x7E\x7E\x1B(B", Encoding::Latin1), ("\u{FFFD}".to_owned(), 1));
        assert_eq!(read("~8859/6", b"\\C2D47\\\xA1\xC7", Encoding::Latin1), ("\u{FFFD}ا".to_owned(), 1));
    }

    #[test]
    fn japanese_header_is_read_past_kanji_that_look_like_delimiters() {
        let jis = b"MSH|^~\\&|\x1B$BF|K\\\x1B(B|H|\x1B$B%]\x1B(B|H2|2024||ADT^A08|M-1|P|2.5||||||~ISO IR87\r";
        let header = Header::parse_in(jis, Encoding::Auto).unwrap();
        assert_eq!(header.field(3), b"\x1B$BF|K\\\x1B(B");
        assert_eq!((header.control_id(), header.component(9, 2)), (&b"M-1"[..], &b"A08"[..]));
        let sjis = b"MSH|^~\\&|\x83|^\x83^|H|\x83\\|H2|2024||ADT^A08|M\x83|1|P|2.5\r";
        let header = Header::parse_in(sjis, Encoding::from_label("shift_jis").unwrap()).unwrap();
        assert_eq!(header.field(3), b"\x83|^\x83^");
        assert_eq!((header.component(3, 1), header.component(3, 2)), (&b"\x83|"[..], &b"\x83^"[..]));
        assert_eq!(header.control_id(), b"M\x83|1");
        let answer = crate::ack::accept(&header, "ID", "TIME");
        assert!(answer.ends_with(b"\rMSA|AA|M\x83|1\r"));
        let gb = b"MSH|^~\\&|\x81~\x952\x826|H|C|D|2024||ADT|7|P|2.5\r";
        let header = Header::parse_in(gb, Encoding::from_label("gb18030").unwrap()).unwrap();
        assert_eq!((header.field(3), header.control_id()), (&b"\x81~\x952\x826"[..], &b"7"[..]));
    }

    proptest! {
        #[test]
        fn fields_of_any_characters_are_told_apart(
            fields in proptest::collection::vec("([a-z0-9 ]|[\u{30A1}-\u{30FE}]|[\u{4E00}-\u{9FA0}]){0,6}", 9..20),
        ) {
            for label in ["shift_jis", "euc-jp", "iso-2022-jp", "gbk", "gb18030", "big5", "utf-8"] {
                let encoding = Encoding::from_label(label).unwrap();
                let write = |text: &str| crate::charset::encode(text, encoding);
                // Not every character is in every encoding.
                let known = |field: &String| field.chars().filter(|c| write(&c.to_string()).is_some()).collect();
                let fields: Vec<Vec<u8>> =
                    fields.iter().map(known).map(|field: String| write(&field).unwrap()).collect();
                let body = [b"MSH|^~\\&|", &fields.join(&b'|')[..], b"\r"].concat();
                let header = Header::parse_in(&body, encoding).unwrap();
                for (field, n) in fields.iter().zip(3..) {
                    prop_assert_eq!(header.field(n), &field[..], "{}: MSH-{}", label, n);
                    prop_assert_eq!(header.component(n, 1), &field[..], "{}: MSH-{}", label, n);
                }
            }
        }

        #[test]
        fn no_bytes_make_decode_or_header_panic(
            pid in proptest::collection::vec(
                prop_oneof![
                    Just(b"\x1B$B".to_vec()), Just(b"\x1B(B".to_vec()), Just(b"\\M242844\\".to_vec()),
                    Just(b"\\C2D4C\\".to_vec()), Just(b"\x1B(I".to_vec()), Just(b"\x1B".to_vec()),
                    proptest::collection::vec(any::<u8>(), 0..6),
                ],
                0..12,
            ),
        ) {
            let body = body("8859/1~ISO IR87", &pid.concat());
            for label in ["auto", "utf-8", "shift_jis", "iso-2022-jp", "gb18030", "ascii"] {
                let encoding = Encoding::from_label(label).unwrap();
                let decoded = decode(&body, encoding);
                if let Ok(header) = Header::parse_in(&body, encoding) {
                    prop_assert_eq!(&crate::charset::decode_behind(&header, &body, encoding), &decoded);
                }
                prop_assert!(decoded.undecodable <= decoded.text.matches(char::REPLACEMENT_CHARACTER).count());
                let msh = [&b"MSH|^~\\&|"[..], &pid.concat(), b"|B|C|D|2024||ADT^A01|1|P|2.5||||||~ISO IR87"].concat();
                if let Ok(header) = Header::parse_in(&msh, encoding) {
                    for n in 0..30 {
                        prop_assert!(header.component(n, 1).len() <= header.field(n).len());
                    }
                }
            }
        }
    }
}
