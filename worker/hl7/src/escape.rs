//! Escape sequences of HL7 v2.5.1 chapter 2.7, resolved to the text they stand for.
//!
//! `\F\ \S\ \T\ \R\ \E\ \P\` are the delimiters, `\Xhh…\` bytes, `\.br\` a line break. Formatting, highlighting,
//! character set and local sequences (`\.sp\ \H\ \N\ \C..\ \M..\ \Z..\`) stay as they are, as does a lone escape
//! character.

use crate::delimiters::{Delimiters, UNUSED};
use memchr::memchr;
use std::borrow::Cow;

/// The value with its escape sequences resolved; borrowed when it has none.
///
/// The bytes of `\Xhh…\` are UTF-8 where they are valid UTF-8, else one character each by ISO 8859-1.
pub fn unescape<'a>(value: &'a str, delimiters: &Delimiters) -> Cow<'a, str> {
    let mark = delimiters.escape;
    if mark == UNUSED {
        return Cow::Borrowed(value);
    }
    let Some(first) = memchr(mark, value.as_bytes()) else { return Cow::Borrowed(value) };
    let mut text = String::with_capacity(value.len());
    text.push_str(&value[..first]);
    let mut rest = &value[first..];
    // At the head of each turn `rest` begins with the mark, an ASCII character.
    while let Some(end) = memchr(mark, &rest.as_bytes()[1..]) {
        let sequence = &rest[1..=end];
        if resolve(sequence, delimiters, &mut text) {
            rest = &rest[end + 2..];
        } else if is_known(sequence) {
            text.push_str(&rest[..end + 2]);
            rest = &rest[end + 2..];
        } else {
            // A lone mark; the next one may begin a sequence.
            text.push_str(&rest[..=end]);
            rest = &rest[end + 1..];
            continue;
        }
        match memchr(mark, rest.as_bytes()) {
            Some(next) => {
                text.push_str(&rest[..next]);
                rest = &rest[next..];
            }
            None => break,
        }
    }
    text.push_str(rest);
    Cow::Owned(text)
}

fn resolve(sequence: &str, delimiters: &Delimiters, text: &mut String) -> bool {
    let delimiter = match sequence {
        "F" => delimiters.field,
        "S" => delimiters.component,
        "T" => delimiters.subcomponent,
        "R" => delimiters.repetition,
        "E" => delimiters.escape,
        "P" => delimiters.truncation.unwrap_or(UNUSED),
        ".br" => b'\n',
        _ => return sequence.strip_prefix('X').is_some_and(|digits| push_hex(digits, text)),
    };
    if delimiter != UNUSED {
        text.push(char::from(delimiter));
    }
    delimiter != UNUSED
}

fn push_hex(digits: &str, text: &mut String) -> bool {
    let digits = digits.as_bytes();
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return false;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).map(|v| v as u8);
    let bytes: Option<Vec<u8>> =
        digits.chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect();
    let Some(bytes) = bytes else { return false };
    match std::str::from_utf8(&bytes) {
        Ok(valid) => text.push_str(valid),
        Err(_) => text.extend(bytes.iter().map(|&b| char::from(b))),
    }
    true
}

/// A sequence of the standard that is none of a value's text: its second mark is not the beginning of another.
fn is_known(sequence: &str) -> bool {
    let Some((first, tail)) = sequence.as_bytes().split_first() else { return false };
    match first {
        b'H' | b'N' => tail.is_empty(),
        b'F' | b'S' | b'T' | b'R' | b'E' | b'P' => tail.is_empty(),
        b'.' => tail.first().is_some_and(u8::is_ascii_lowercase) && tail.len() <= 8,
        b'C' | b'M' => matches!(tail.len(), 4 | 6) && tail.iter().all(u8::is_ascii_hexdigit),
        b'Z' => !tail.is_empty() && tail.len() <= 32 && tail.iter().all(u8::is_ascii_alphanumeric),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(value: &str) -> String {
        unescape(value, &Delimiters::default()).into_owned()
    }

    #[test]
    fn delimiters_come_back() {
        assert_eq!(plain(r"a\F\b\S\c\T\d\R\e\E\f"), r"a|b^c&d~e\f");
        let other = Delimiters { field: b'@', escape: b'#', truncation: Some(b'!'), ..Delimiters::default() };
        assert_eq!(unescape(r"#F#\#E##P#", &other), r"@\#!");
        assert_eq!(plain(r"\P\"), r"\P\", "no truncation character is declared");
    }

    #[test]
    fn hexadecimal_is_bytes() {
        assert_eq!(plain(r"\X21\ \X0D0a\ \XC3A9\ \XE9\"), "! \r\n é é");
        assert_eq!(plain(r"\X2\ \XGG\ \X\"), r"\X2\ \XGG\ \X\");
    }

    #[test]
    fn line_break_is_a_line_feed() {
        assert_eq!(plain(r"a\.br\b\.br\\.br\c"), "a\nb\n\nc");
    }

    #[test]
    fn other_sequences_stay() {
        let value = r"\H\loud\N\ \Z99\ \.sp2\ \C2842\ \M2442\";
        assert_eq!(plain(value), value);
        assert_eq!(plain(r"\Z99\F\"), r"\Z99\F\", "the F lies between two sequences, not in one");
    }

    #[test]
    fn lone_escape_character_is_text() {
        assert_eq!(plain(r"C:\dir\file"), r"C:\dir\file");
        assert_eq!(plain(r"C:\dir\F\x"), r"C:\dir|x");
        assert_eq!(plain(r"a\"), r"a\");
        assert_eq!(plain(r"\\"), r"\\");
        assert_eq!(plain(r"\\T\"), r"\&");
    }

    #[test]
    fn value_without_escapes_is_borrowed() {
        assert!(matches!(unescape("Müller", &Delimiters::default()), Cow::Borrowed("Müller")));
        let none = Delimiters { escape: UNUSED, ..Delimiters::default() };
        assert_eq!(unescape(r"\F\", &none), r"\F\");
    }

    proptest! {
        #[test]
        fn no_text_makes_unescape_panic(value in "(\\\\|[FSTREPXHNCMZ.brs0-9é🙂]){0,60}", other in any::<String>()) {
            unescape(&value, &Delimiters::default());
            unescape(&other, &Delimiters::default());
        }

        #[test]
        fn what_was_escaped_comes_back(text in any::<String>()) {
            let mut escaped = String::new();
            for c in text.chars() {
                match c {
                    '|' => escaped.push_str(r"\F\"),
                    '^' => escaped.push_str(r"\S\"),
                    '&' => escaped.push_str(r"\T\"),
                    '~' => escaped.push_str(r"\R\"),
                    '\\' => escaped.push_str(r"\E\"),
                    _ => escaped.push(c),
                }
            }
            prop_assert_eq!(plain(&escaped), text);
        }
    }
}
