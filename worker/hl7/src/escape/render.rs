//! Formatted text (FT, TX, ST) as plain text, one `\n` a line.
//!
//! Of the formatting commands those that make lines and leading spaces are carried out. Word wrap (`\.fi\ \.nf\`) and
//! centring (`\.ce\`) need a width, which plain text has not: the first is left out, the second begins a line.

use super::{Token, push_bytes, tokens};
use crate::delimiters::{Delimiters, UNUSED};

/// Widest indent and longest skip: a command may ask for any number.
const SPACES_MAX: i32 = 200;
/// Most lines one command may add.
const LINES_MAX: i32 = 100;

/// One value as plain text: escapes resolved, formatting carried out, highlighting and character set switches left out.
/// A CR, LF or CR LF in it begins a line. Local sequences and unknown commands stay as they are. Spaces at the end of
/// a line are kept.
pub fn render_text(value: &str, delimiters: &Delimiters) -> String {
    let mut page = Page { text: String::with_capacity(value.len()), ..Page::default() };
    if delimiters.escape == UNUSED {
        page.push_text(value);
        return page.text;
    }
    let mut bytes_text = String::new();
    for token in tokens(value, delimiters) {
        match token {
            Token::Text(text) => page.push_text(text),
            Token::Delimiter(c) => page.push(c),
            Token::Bytes(bytes) => {
                bytes_text.clear();
                push_bytes(&bytes, &mut bytes_text);
                page.push_text(&bytes_text);
            }
            Token::Command { name, raw } => {
                if !page.command(name) {
                    page.push_text(raw);
                }
            }
        }
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
    /// Spaces before each line.
    indent: i32,
    /// Those before the next line alone.
    indent_once: Option<i32>,
    /// Something stands on the line already.
    begun: bool,
    after_cr: bool,
}

impl Page {
    fn push_text(&mut self, text: &str) {
        text.chars().for_each(|c| self.push(c));
    }

    fn push(&mut self, c: char) {
        let after_cr = std::mem::replace(&mut self.after_cr, c == '\r');
        match c {
            '\n' if after_cr => {}
            '\r' | '\n' => self.end_line(),
            _ => {
                self.begin_line();
                self.text.push(c);
            }
        }
    }

    fn begin_line(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            let spaces = self.indent_once.take().unwrap_or(self.indent);
            self.push_spaces(spaces);
        }
    }

    fn end_line(&mut self) {
        self.text.push('\n');
        self.begun = false;
        self.indent_once = None;
    }

    fn push_spaces(&mut self, count: i32) {
        self.text.extend(std::iter::repeat_n(' ', usize::try_from(count).unwrap_or(0)));
    }

    /// Carries a sequence out; false for one that is no formatting.
    fn command(&mut self, name: &str) -> bool {
        let Some(command) = name.strip_prefix('.') else {
            // Highlighting, and switches of the character set that were not declared.
            return !name.starts_with('Z');
        };
        let Some((verb, number)) = command.split_at_checked(2) else { return false };
        let Some(number) = Number::of(number) else { return false };
        self.after_cr = false;
        match verb {
            "br" => self.end_line(),
            "sp" => (0..number.count().clamp(1, LINES_MAX)).for_each(|_| self.end_line()),
            // The next line is the one to be centred; on an empty line nothing has to end.
            "ce" if self.begun => self.end_line(),
            "ce" | "fi" | "nf" => {}
            "sk" => {
                self.begin_line();
                self.push_spaces(number.count().clamp(1, SPACES_MAX));
            }
            "in" => self.indent = number.applied_to(self.indent),
            "ti" => self.indent_once = Some(number.applied_to(self.indent)),
            _ => return false,
        }
        true
    }
}

/// A command's number: with a sign it adds to what was set, without one it replaces it.
#[derive(Clone, Copy)]
struct Number {
    value: i32,
    signed: bool,
}

impl Number {
    fn of(text: &str) -> Option<Number> {
        let text = text.trim();
        let signed = text.starts_with(['+', '-']);
        let value = if text.is_empty() { 0 } else { text.parse().ok()? };
        Some(Number { value, signed })
    }

    fn count(self) -> i32 {
        self.value
    }

    fn applied_to(self, current: i32) -> i32 {
        let value = if self.signed { current.saturating_add(self.value) } else { self.value };
        value.clamp(0, SPACES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rendered(value: &str) -> String {
        render_text(value, &Delimiters::default())
    }

    #[test]
    fn line_commands_make_lines() {
        for (value, text) in [
            (r"a\.br\b\.br\\.br\c", "a\nb\n\nc"),
            (r"a\.sp\b", "a\nb"),
            (r"a\.sp3\b", "a\n\n\nb"),
            (r"a\.sp+2\b", "a\n\nb"),
            (r"a\.ce\TITLE\.br\b", "a\nTITLE\nb"),
            (r"\.ce\TITLE", "TITLE"),
            (r"\.fi\a\.nf\b", "ab"),
            (r"a\.sp99999\b", &format!("a{}b", "\n".repeat(100))),
        ] {
            assert_eq!(rendered(value), text, "{value}");
        }
    }

    #[test]
    fn spaces_come_from_indents_and_skips() {
        for (value, text) in [
            (r"\.in+4\a\.br\b\.in-4\\.br\c", "    a\n    b\nc"),
            (r"\.in2\a\.br\\.in2\b", "  a\n  b"),
            (r"\.in+2\\.ti+3\a\.br\b", "     a\n  b"),
            (r"\.ti-5\a", "a"),
            (r"\.in-5\a", "a"),
            (r"a\.sk5\b\.sk\c", "a     b c"),
            (r"a\.in+2\b\.br\c", "ab\n  c"),
            (r"\.in4\a\.br\\.br\b", "    a\n\n    b"),
            (r"a\.sk 3\b", "a   b"),
        ] {
            assert_eq!(rendered(value), text, "{value}");
        }
    }

    #[test]
    fn what_plain_text_cannot_show_is_left_out() {
        assert_eq!(rendered(r"\H\loud\N\ \C2842\x\M2442\"), "loud x");
    }

    #[test]
    fn escapes_are_resolved_and_unknown_sequences_stay() {
        assert_eq!(
            rendered(r"a\T\b \X41\\X42\ \Z01\ \.xy\ \.spx\ \.a\ \.sé\ C:\dir"),
            r"a&b AB \Z01\ \.xy\ \.spx\ \.a\ \.sé\ C:\dir"
        );
        let none = Delimiters { escape: UNUSED, ..Delimiters::default() };
        assert_eq!(render_text("a\\.br\\b\rc", &none), "a\\.br\\b\nc");
    }

    #[test]
    fn line_ends_of_every_kind_are_line_feeds() {
        assert_eq!(rendered("a\r\nb\rc\nd\\X0D0A\\e\\X0D\\\\X0A\\f\\X0D\\\\.br\\g"), "a\nb\nc\nd\ne\nf\n\ng");
    }

    proptest! {
        #[test]
        fn no_text_makes_render_panic(
            value in r"(\\|\.(br|sp|in|ti|sk|ce|fi|nf|[a-zé]{0,2})[+-]?[0-9]{0,5}\\|[XHNCMZé🙂 0-9\r\n]){0,60}",
        ) {
            rendered(&value);
        }

        #[test]
        fn text_without_commands_is_what_unescape_gives(value in r"([a-zé ]|\\[FSTRE]\\|\\X41\\|\\\.br\\){0,30}") {
            prop_assert_eq!(rendered(&value), crate::escape::unescape(&value, &Delimiters::default()));
        }
    }
}
