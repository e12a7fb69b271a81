//! Escape sequences of HL7 v2.5.1 chapter 2.7: resolved to the text they stand for, or rendered.
//!
//! `\F\ \S\ \T\ \R\ \E\ \P\` are the delimiters, `\Xhh…\` bytes, `\.br\` a line break; [`unescape`] resolves these.
//! Formatting, highlighting, character set and local sequences (`\.sp\ \H\ \N\ \C..\ \M..\ \Z..\`) stay as they are
//! there, as does a lone escape character. [`render_text`] lays a report out by its formatting.

use crate::delimiters::{Delimiters, UNUSED};
use memchr::memchr;
use std::borrow::Cow;

mod render;

pub use render::render_text;

/// The value with its escape sequences resolved; borrowed when it has none.
///
/// The bytes of `\Xhh…\`, and of several in a row together, are UTF-8 where they are valid UTF-8, else one character
/// each by ISO 8859-1.
pub fn unescape<'a>(value: &'a str, delimiters: &Delimiters) -> Cow<'a, str> {
    let mark = delimiters.escape;
    if mark == UNUSED || memchr(mark, value.as_bytes()).is_none() {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len());
    for token in tokens(value, delimiters) {
        match token {
            Token::Text(part) => text.push_str(part),
            Token::Delimiter(c) => text.push(c),
            Token::Bytes(bytes) => push_bytes(&bytes, &mut text),
            Token::Command { name: ".br", .. } => text.push('\n'),
            Token::Command { raw, .. } => text.push_str(raw),
        }
    }
    Cow::Owned(text)
}

/// A piece of a value.
#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Text(&'a str),
    /// A delimiter that was escaped.
    Delimiter(char),
    /// What `\X..\` held; several in a row are one.
    Bytes(Vec<u8>),
    /// Another sequence of the standard: what stands between the marks, and the whole of it.
    Command {
        name: &'a str,
        raw: &'a str,
    },
}

/// The pieces of a value whose delimiters have an escape character.
fn tokens<'a>(value: &'a str, delimiters: &Delimiters) -> impl Iterator<Item = Token<'a>> {
    let delimiters = *delimiters;
    let mut rest = value;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some((token, length)) = sequence(rest, &delimiters) {
            rest = &rest[length..];
            return Some(token);
        }
        // A mark that begins no sequence is text; the next one may begin one. It is an ASCII character.
        let from = usize::from(rest.as_bytes()[0] == delimiters.escape);
        let end = memchr(delimiters.escape, &rest.as_bytes()[from..]).map_or(rest.len(), |at| from + at);
        let (text, later) = rest.split_at(end);
        rest = later;
        Some(Token::Text(text))
    })
}

/// The sequence that a value begins with, and its length.
fn sequence<'a>(value: &'a str, delimiters: &Delimiters) -> Option<(Token<'a>, usize)> {
    let mark = delimiters.escape;
    let inside = value.as_bytes().split_first().filter(|(first, _)| **first == mark)?.1;
    let end = memchr(mark, inside)?;
    let (name, length) = (&value[1..=end], end + 2);
    let delimiter = match name {
        "F" => delimiters.field,
        "S" => delimiters.component,
        "T" => delimiters.subcomponent,
        "R" => delimiters.repetition,
        "E" => delimiters.escape,
        "P" => delimiters.truncation.unwrap_or(UNUSED),
        _ => UNUSED,
    };
    if delimiter != UNUSED {
        return Some((Token::Delimiter(char::from(delimiter)), length));
    }
    if let Some(mut bytes) = name.strip_prefix('X').and_then(hex) {
        let mut length = length;
        while let Some((Token::Bytes(more), further)) = next_bytes(&value[length..], mark) {
            bytes.extend(more);
            length += further;
        }
        return Some((Token::Bytes(bytes), length));
    }
    is_known(name).then_some((Token::Command { name, raw: &value[..length] }, length))
}

/// Another `\X..\` behind the first.
fn next_bytes(value: &str, mark: u8) -> Option<(Token<'_>, usize)> {
    let mark = char::from(mark);
    let digits = value.strip_prefix(mark)?.strip_prefix('X')?;
    let end = digits.find(mark)?;
    Some((Token::Bytes(hex(&digits[..end])?), end + 3))
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).map(|v| v as u8);
    digits.chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect()
}

fn push_bytes(bytes: &[u8], text: &mut String) {
    match std::str::from_utf8(bytes) {
        Ok(valid) => text.push_str(valid),
        Err(_) => text.extend(bytes.iter().map(|&b| char::from(b))),
    }
}

/// A sequence of the standard that is none of a value's text: its second mark is not the beginning of another.
fn is_known(name: &str) -> bool {
    let Some((first, tail)) = name.as_bytes().split_first() else { return false };
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
        assert_eq!(plain(r"\XC3\\XA9\ \XE9\\X41\\T\"), "é éA&", "several in a row are one run of bytes");
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
