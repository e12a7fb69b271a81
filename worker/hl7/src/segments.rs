//! Where one segment ends and the next begins.
//!
//! With at least one CR in the body CR ends a segment and CR LF counts as one; a lone LF is data there, unless a
//! segment name and the field separator follow it. Without any CR, LF ends a segment. Runs of them count as one, so
//! there are no empty segments.

use memchr::memchr;
use std::ops::Range;

/// The segments of a body in order, without their ends.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    body: &'a [u8],
    at: usize,
    has_cr: bool,
    /// The first CR at or behind `at`, once it was looked for; the body's length where there is none.
    cr: usize,
    field: u8,
}

/// Splits a body into segments; `field` is the message's field separator.
pub fn split(body: &[u8], field: u8) -> Segments<'_> {
    let cr = memchr(b'\r', body);
    Segments { body, at: 0, has_cr: cr.is_some(), cr: cr.unwrap_or(body.len()), field }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.next_range().map(|range| &self.body[range])
    }
}

impl Segments<'_> {
    /// Where the next segment lies in the body. Its neighbours are ASCII, so that in a text it is a text.
    pub(crate) fn next_range(&mut self) -> Option<Range<usize>> {
        let start = self.at + self.body[self.at..].iter().position(|&b| b != b'\r' && b != b'\n')?;
        let end = self.end_of(start);
        self.at = end;
        Some(start..start + trim_lf(&self.body[start..end]).len())
    }

    fn end_of(&mut self, start: usize) -> usize {
        let found = |byte, from: usize, to: usize| memchr(byte, &self.body[from..to]).map(|at| from + at);
        if !self.has_cr {
            return found(b'\n', start, self.body.len()).unwrap_or(self.body.len());
        }
        if self.cr < start {
            self.cr = found(b'\r', start, self.body.len()).unwrap_or(self.body.len());
        }
        let mut lf = found(b'\n', start, self.cr);
        while let Some(at) = lf {
            if begins_segment(&self.body[at + 1..], self.field) {
                return at;
            }
            lf = found(b'\n', at + 1, self.cr);
        }
        self.cr
    }
}

/// What stands before the MSH and is no part of it: byte order mark, CR, LF and spaces. For reading only: journal,
/// archive and resend keep the bytes as they came.
pub fn skip_junk(body: &[u8]) -> &[u8] {
    let mut rest = body;
    loop {
        rest = match rest {
            [b'\r' | b'\n' | b' ', tail @ ..] | [0xEF, 0xBB, 0xBF, tail @ ..] => tail,
            _ => return rest,
        };
    }
}

/// A line feed before the CR that ends a segment belongs to that end.
fn trim_lf(segment: &[u8]) -> &[u8] {
    let end = segment.iter().rposition(|&b| b != b'\n').map_or(0, |last| last + 1);
    &segment[..end]
}

fn begins_segment(bytes: &[u8], field: u8) -> bool {
    bytes.len() > 3 && bytes[3] == field && is_name(&bytes[..3])
}

/// `[A-Z][A-Z0-9]{2}`
pub(crate) fn is_name(name: &[u8]) -> bool {
    name.len() == 3
        && name[0].is_ascii_uppercase()
        && name[1..].iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(body: &str) -> Vec<&str> {
        split(body.as_bytes(), b'|').map(|s| std::str::from_utf8(s).unwrap()).collect()
    }

    #[test]
    fn cr_and_crlf_and_lf_alone_end_segments() {
        for body in ["MSH|1\rPID|2\r", "MSH|1\r\nPID|2\r\n", "MSH|1\nPID|2\n", "MSH|1\nPID|2"] {
            assert_eq!(lines(body), ["MSH|1", "PID|2"], "{body:?}");
        }
    }

    #[test]
    fn lone_lf_beside_cr_is_data_unless_a_segment_follows() {
        assert_eq!(lines("MSH|1\rNTE|a\nb\rPID|2"), ["MSH|1", "NTE|a\nb", "PID|2"]);
        assert_eq!(lines("MSH|1\rNTE|a\nPID|2"), ["MSH|1", "NTE|a", "PID|2"]);
        assert_eq!(lines("MSH|1\rNTE|a\nPID^2"), ["MSH|1", "NTE|a\nPID^2"]);
    }

    #[test]
    fn segments_end_alike_however_far_the_next_cr_is() {
        let lines_of_lf = "PID|1\n".repeat(5);
        assert_eq!(
            lines(&format!("MSH|1\r{lines_of_lf}")),
            ["MSH|1", "PID|1", "PID|1", "PID|1", "PID|1", "PID|1"]
        );
        let body = format!("{lines_of_lf}NTE|x\n\r\n{lines_of_lf}");
        assert_eq!(lines(&body).len(), 11);
        assert_eq!(lines(&body)[5..7], ["NTE|x", "PID|1"]);
    }

    #[test]
    fn runs_count_as_one_end() {
        assert_eq!(lines("\r\nMSH|1\r\r\n\n\rPID|2\n\r\nOBX|3\n\n"), ["MSH|1", "PID|2", "OBX|3"]);
        assert_eq!(lines("MSH|1\n\n\nPID|2"), ["MSH|1", "PID|2"]);
        assert_eq!(lines("\r\n\r"), [""; 0]);
    }

    #[test]
    fn byte_order_mark_and_white_space_before_msh_are_passed_over() {
        assert_eq!(skip_junk(b"\xEF\xBB\xBF\r\n MSH|"), b"MSH|");
        assert_eq!(skip_junk(b"\r\xEF\xBB\xBFMSH|"), b"MSH|");
        assert_eq!(skip_junk(b"\tMSH|"), b"\tMSH|");
    }
}
