//! Reading the acknowledgments that other servers send.

use crate::delimiters::{self, Delimiters};
use crate::segments;

/// An acknowledgment that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgment {
    /// MSA-1, as it came but for what is no ASCII letter.
    pub code: String,
    /// MSA-2: the control id of the message it answers, byte for byte.
    pub control_id: Vec<u8>,
    /// MSA-3, or the text of the first ERR; bytes that are no UTF-8 replaced.
    pub text: Option<String>,
    /// The first ERR's code, where it is a number.
    pub error: Option<u16>,
}

/// Reads an acknowledgment: a message with an MSA. Its MSH may be shorter than a message's that is to be answered.
pub fn read(body: &[u8]) -> Option<Acknowledgment> {
    let body = segments::skip_junk(body);
    let delimiters = Delimiters::read(body).ok()?;
    let named = |name: &[u8; 3]| {
        segments::split(body, delimiters.field)
            .find(|segment| segment.starts_with(name) && segment.get(3) == Some(&delimiters.field))
    };
    let msa = named(b"MSA")?;
    let field = |segment, n: usize| part(segment, delimiters.field, n + 1);
    let code: String =
        field(msa, 1).iter().filter(|b| b.is_ascii_alphabetic()).map(|&b| char::from(b)).collect();
    if code.is_empty() {
        return None;
    }
    let mut text = plain_text(field(msa, 3));
    let mut error = None;
    if let Some(err) = named(b"ERR") {
        let new = part(field(err, 3), delimiters.repetition, 1);
        let old = part(part(field(err, 1), delimiters.repetition, 1), delimiters.component, 4);
        let (coded, delimiter) =
            if new.is_empty() { (old, delimiters.subcomponent) } else { (new, delimiters.component) };
        error = std::str::from_utf8(part(coded, delimiter, 1)).ok().and_then(|n| n.trim().parse().ok());
        text = text.or_else(|| plain_text(field(err, 8))).or_else(|| plain_text(part(coded, delimiter, 2)));
    }
    Some(Acknowledgment { code, control_id: field(msa, 2).to_vec(), text, error })
}

fn part(value: &[u8], delimiter: u8, n: usize) -> &[u8] {
    delimiters::part(value, delimiter, n).map_or(&[], |range| &value[range])
}

fn plain_text(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}
