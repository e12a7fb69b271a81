//! What a page's content leaves behind: graphics states never restored, marked content never closed.
//!
//! The stamp is drawn after the content and in the state a page starts with. One `q` before and one `Q` after it are
//! not enough where the content opens states it does not close; so its operators are counted.

use crate::lexer::{is_regular, is_space};

/// What a content leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// `q` without `Q`.
    pub(crate) states_open: usize,
    /// Places of each `Q` without `q`. Some readers ignore it, some stop there; behind a `q` of ours they would not.
    pub(crate) restores_extra: Vec<usize>,
    /// Whether anything is drawn behind one of them.
    pub(crate) goes_on: bool,
    /// `BMC` or `BDC` without `EMC`: what follows would belong to it, and be hidden where it is.
    pub(crate) marks_open: usize,
    /// `BT` without `ET`.
    pub(crate) text_open: bool,
    /// Where the last operator ends, of a content that ends within a string, a dictionary or an image.
    pub(crate) cut_at: Option<usize>,
}

impl Survey {
    /// Closes what is open, of a content that had one `q` put before it.
    pub(crate) fn closing(&self) -> String {
        let mut closing = String::new();
        if self.text_open {
            closing.push_str("ET ");
        }
        closing.push_str(&"EMC ".repeat(self.marks_open));
        closing.push_str(&"Q ".repeat(self.states_open + 1));
        closing
    }

    /// Whether the content cannot stand as it is between operators of ours.
    pub(crate) fn needs_repair(&self) -> bool {
        !self.restores_extra.is_empty() || self.cut_at.is_some()
    }

    /// Whether readers differ on what of the content they show.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.goes_on || self.cut_at.is_some()
    }

    /// The content without what would do harm between our operators.
    pub(crate) fn repaired(&self, mut content: Vec<u8>) -> Vec<u8> {
        for &at in &self.restores_extra {
            content[at] = b' ';
        }
        content.truncate(self.cut_at.unwrap_or(content.len()));
        content
    }
}

/// Counts the operators of `content`.
pub(crate) fn survey(content: &[u8]) -> Survey {
    let mut survey = Survey::default();
    let mut at = 0;
    let mut operator_end = 0;
    let mut brackets = 0usize;
    let mut whole = true;
    while let Some(&byte) = content.get(at) {
        match byte {
            b'%' => at += line(&content[at..]),
            b'(' => match string(content, at) {
                Some(end) => at = end,
                None => {
                    whole = false;
                    break;
                }
            },
            b'<' if content.get(at + 1) == Some(&b'<') => {
                brackets += 1;
                at += 2;
            }
            b'<' => match memchr::memchr(b'>', &content[at..]) {
                Some(length) => at += length + 1,
                None => {
                    whole = false;
                    break;
                }
            },
            b'>' if content.get(at + 1) == Some(&b'>') => {
                brackets = brackets.saturating_sub(1);
                at += 2;
            }
            b'[' => {
                brackets += 1;
                at += 1;
            }
            b']' => {
                brackets = brackets.saturating_sub(1);
                at += 1;
            }
            b'/' => at += 1 + word(&content[at + 1..]),
            _ if is_regular(byte) => {
                let length = word(&content[at..]);
                let token = &content[at..at + length];
                if is_operator(token) {
                    // An operator ends whatever bracket was left open before it.
                    brackets = 0;
                    survey.count(token, at);
                    if token == b"BI" {
                        match inline_image(content, at + length) {
                            Some(end) => at = end,
                            None => {
                                whole = false;
                                break;
                            }
                        }
                    } else {
                        at += length;
                    }
                    operator_end = at;
                } else {
                    at += length;
                }
            }
            _ => at += 1,
        }
    }
    if !whole || brackets > 0 {
        survey.cut_at = Some(operator_end);
    }
    survey
}

impl Survey {
    fn count(&mut self, operator: &[u8], at: usize) {
        self.goes_on |= operator != b"Q" && !self.restores_extra.is_empty();
        match operator {
            b"q" => self.states_open += 1,
            b"Q" => match self.states_open.checked_sub(1) {
                Some(open) => self.states_open = open,
                None => self.restores_extra.push(at),
            },
            b"BMC" | b"BDC" => self.marks_open += 1,
            b"EMC" => self.marks_open = self.marks_open.saturating_sub(1),
            b"BT" => self.text_open = true,
            b"ET" => self.text_open = false,
            _ => {}
        }
    }
}

fn word(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&byte| is_regular(byte)).count()
}

fn line(bytes: &[u8]) -> usize {
    memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len())
}

fn is_operator(token: &[u8]) -> bool {
    !matches!(token[0], b'0'..=b'9' | b'+' | b'-' | b'.') && !matches!(token, b"true" | b"false" | b"null")
}

fn string(content: &[u8], start: usize) -> Option<usize> {
    let mut open = 0usize;
    let mut at = start;
    loop {
        at += memchr::memchr3(b'(', b')', b'\\', content.get(at..)?)?;
        match content[at] {
            b'(' => open += 1,
            b')' => open -= 1,
            _ => at += 1,
        }
        at += 1;
        if open == 0 {
            return Some(at);
        }
    }
}

/// The end of an inline image whose dictionary starts at `start`: behind `EI` between white space, with something
/// after it that can be content.
fn inline_image(content: &[u8], start: usize) -> Option<usize> {
    let data = memchr::memmem::find_iter(content.get(start..)?, b"ID")
        .map(|at| start + at)
        .find(|&at| is_space(content[at - 1]) && content.get(at + 2).is_none_or(|&next| is_space(next)))?
        + 3;
    let found = memchr::memmem::find_iter(content.get(data..)?, b"EI").map(|at| data + at).find(|&at| {
        let after = &content[at + 2..];
        is_space(content[at - 1])
            && after.first().is_none_or(|&byte| is_space(byte))
            && after.iter().take(12).all(|&byte| is_space(byte) && byte != 0 || (b' '..=b'~').contains(&byte))
    })?;
    Some(found + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_in_balance_leaves_nothing() {
        let content = b"q 1 0 0 1 0 0 cm BT /F1 12 Tf (q \\) Q (q)) Tj <71> Tj [(Q) 3] TJ ET Q % q q\n/q gs";
        assert_eq!(survey(content), Survey::default());
        assert_eq!(survey(content).closing(), "Q ");
    }

    #[test]
    fn what_is_left_open_is_counted() {
        let found = survey(b"q q q Q /OC /x BDC BT q ET q BT");
        assert_eq!(found.closing(), "ET EMC Q Q Q Q Q ");
        assert!(!found.needs_repair());
    }

    #[test]
    fn a_restore_too_many_is_taken_out() {
        let content = b"0.1 0 0 .1 0 0 cm Q q Q Q 1 0 0 rg";
        let found = survey(content);
        assert_eq!(found.restores_extra.len(), 2);
        assert!(found.is_ambiguous() && !survey(b"q 1 w Q Q Q").is_ambiguous());
        assert_eq!(found.repaired(content.to_vec()), b"0.1 0 0 .1 0 0 cm   q Q   1 0 0 rg");
    }

    #[test]
    fn a_content_that_ends_midway_is_cut_behind_its_last_operator() {
        for end in [&b"(never closed"[..], b"<48", b"<</A 3", b"[(a) 3", b"BI /W 3 ID \x00\x01"] {
            let content = [b"q 1 w Q ", end].concat();
            let found = survey(&content);
            let kept = found.repaired(content);
            assert!(kept.starts_with(b"q 1 w Q") && kept.len() <= 10, "{end:?} {}", kept.escape_ascii());
        }
    }

    #[test]
    fn the_bytes_of_an_inline_image_are_no_operators() {
        let content = b"q BI /W 4 /H 1 /BPC 8 /CS /G ID \x01 q (\x02EI\xFF EI Q";
        assert_eq!(survey(content), Survey::default());
    }
}
