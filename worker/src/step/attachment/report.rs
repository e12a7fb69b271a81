//! Text reports: values of type TX, FT and ST, repetitions and segments joined by line breaks.

use super::data::{DataEncoding, Reading, declared};
use super::places::{self, Part};
use hl7::delimiters::Delimiters;
use hl7::delimiters::parts;
use hl7::message::Message;
use hl7::path::{Choice, FieldPath};
use std::borrow::Cow;

/// The text at a path, or of every OBX that holds text, in UTF-8; `None` when there is none or it is blank.
///
/// A path that names one segment takes what stands there whatever its type; one that takes every OBX, those that hold
/// text. Where none does, an ED whose data is text is the report: a file the sender put in, its bytes as they are.
pub(super) fn find<'a>(
    message: &'a Message<'a>,
    path: Option<&'a FieldPath>,
    reading: &'a Reading<'a>,
) -> Option<Vec<u8>> {
    let is_named = path.is_some_and(|path| path.occurrence() != Choice::Every || path.segment() != "OBX");
    let line = |part: Part<'a>, of_data: bool| match encapsulated(&part, reading) {
        Some(data) if of_data || is_named => reading.text(data).map(Cow::from),
        None if is_named || !of_data && holds_text(&part, path) => {
            Some(rendered(part.value, reading.delimiters).into())
        }
        _ => None,
    };
    let join = |of_data: bool| match path {
        Some(path) => joined(places::chosen(message, path).filter_map(|part| line(part, of_data))),
        None => joined(places::observations(message).filter_map(|part| line(part, of_data))),
    };
    [false, true].into_iter().map(join).find(|text| !text.trim_ascii().is_empty())
}

fn joined<'a>(lines: impl Iterator<Item = Cow<'a, [u8]>>) -> Vec<u8> {
    let mut text = Vec::new();
    for (at, line) in lines.enumerate() {
        if at > 0 {
            text.push(b'\n');
        }
        text.extend_from_slice(&line);
    }
    text
}

/// A path that takes every OBX takes those without a type too.
fn holds_text(part: &Part<'_>, path: Option<&FieldPath>) -> bool {
    part.row.is_text() || path.is_some() && part.row.value_type.is_empty()
}

/// The data of an ED, and how it is encoded.
fn encapsulated<'a>(part: &Part<'a>, reading: &Reading<'_>) -> Option<(&'a str, DataEncoding)> {
    if part.row.value_type != "ED" {
        return None;
    }
    let mut components = parts(part.value, reading.delimiters.component).skip(1);
    let encoding = components.find_map(declared)?;
    Some((components.next()?, encoding))
}

impl Reading<'_> {
    /// What decodes to text; `None` for an image or another file.
    fn text(&self, (data, encoding): (&str, DataEncoding)) -> Option<Vec<u8>> {
        let bytes = self.decode(&[data], encoding, false)?;
        let is_text = |b: &u8| *b >= b' ' || b.is_ascii_whitespace();
        (bytes.iter().all(is_text) && !bytes.starts_with(b"%PDF-")).then_some(bytes)
    }
}

fn rendered(value: &str, delimiters: &Delimiters) -> Vec<u8> {
    if value == "\"\"" {
        return Vec::new();
    }
    hl7::escape::render_text(value, delimiters).into_bytes()
}
