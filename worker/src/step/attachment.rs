//! The attachment step: PDFs are taken out of the message and archived. Where and how they sit in real messages is known
//! here only.
//!
//! The decoded bytes decide what is a PDF, not the declared type: `%PDF-` within the first 1,024 of them.

use super::{Attachments, Context, Progress, stage_attachments};
use crate::files::FileBatch;
use config::Channel;
use hl7::delimiters::Delimiters;
use hl7::message::Message;
use std::borrow::Cow;
use std::path::Path;

/// A PDF's first bytes may be preceded by others, up to that many (ISO 32000-1, annex H.3, note 13).
const PDF_START_WITHIN: usize = 1024;
/// Characters looked at to see whether a part starts a PDF.
const LOOK_CHARS: usize = 4096;

/// A document taken out of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Attachment {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What its file name ends with, dot included.
    pub suffix: &'static str,
}

/// Stages the attachments in the archive.
pub fn stage(
    context: &Context<'_>,
    attachments: &mut Attachments,
    batch: &mut FileBatch<'_>,
    root: &Path,
    place: usize,
) -> Progress {
    stage_attachments(context, attachments, batch, root, context.below, place)
}

/// The attachments of a message: at `attachment_field`, or the first PDF of an OBX or Z segment.
///
/// # Errors
/// Why there is none, for the failed message's reason.
pub fn find(message: &Message<'_>, channel: &Channel) -> Result<Vec<Attachment>, String> {
    let delimiters = message.delimiters();
    let Some(path) = &channel.attachment_field else {
        return match search(message) {
            Some(bytes) => Ok(vec![Attachment { bytes, suffix: ".pdf" }]),
            None => Err("no PDF found in any OBX or Z segment".to_owned()),
        };
    };
    let fields = message.raw_all(path);
    if fields.iter().all(|field| field.is_empty()) {
        return Err(format!("nothing found at attachment_field {path}"));
    }
    let mut documents: Vec<Data<'_>> = Vec::new();
    for field in fields {
        if let Some(data) = pdf_part(field, delimiters) {
            documents.push(data);
        } else if let Some(document) = documents.last_mut()
            && let Some(data) = continuation(field, delimiters)
        {
            document.text.to_mut().push_str(&data);
        }
    }
    if documents.is_empty() {
        return Err(format!("no PDF at attachment_field {path}: no data there decodes to %PDF-"));
    }
    let decode = |document: &Data<'_>| {
        let bytes = document.encoding.decode(&document.text);
        bytes
            .map(|bytes| Attachment { bytes, suffix: ".pdf" })
            .ok_or_else(|| format!("the data at attachment_field {path} begins as a PDF but does not decode"))
    };
    documents.iter().map(decode).collect()
}

/// The first PDF of the message: every OBX-5, then every field of the Z segments.
fn search(message: &Message<'_>) -> Option<Vec<u8>> {
    let delimiters = message.delimiters();
    let separator = char::from(delimiters.field);
    let of = |wanted: fn(&str) -> bool| message.segments().iter().filter(move |s| wanted(s.name));
    let observations = of(|name| name == "OBX").filter_map(|s| s.raw.split(separator).nth(5));
    let own = of(|name| name.starts_with('Z')).flat_map(|s| s.raw.split(separator).skip(1));
    observations
        .chain(own)
        .filter_map(|field| pdf_part(field, delimiters))
        .find_map(|data| data.encoding.decode(&data.text))
}

/// How a document's bytes are written in a message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum DataEncoding {
    Base64,
    Hex,
    Plain,
}

/// Encoded data that starts a PDF.
#[derive(Clone, Debug)]
struct Data<'a> {
    text: Cow<'a, str>,
    encoding: DataEncoding,
}

/// The component of a field that starts a PDF, the last one first: an ED is `source^type^subtype^encoding^data`, bare
/// data is the only component, and real senders shift them.
fn pdf_part<'a>(field: &'a str, delimiters: &Delimiters) -> Option<Data<'a>> {
    let components = field.rsplit(char::from(delimiters.component)).filter(|c| !c.is_empty());
    for component in components {
        let text = without_escapes(component, delimiters);
        let mut end = text.len().min(LOOK_CHARS);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let encodings = [DataEncoding::Base64, DataEncoding::Hex, DataEncoding::Plain];
        let starts = |e: &DataEncoding| e.decode_start(&text[..end]).is_some_and(|b| starts_pdf(&b));
        if let Some(encoding) = encodings.into_iter().find(starts) {
            return Some(Data { text, encoding });
        }
    }
    None
}

/// The data of a field that goes on with the document before it: the last component that is base64 text.
fn continuation<'a>(field: &'a str, delimiters: &Delimiters) -> Option<Cow<'a, str>> {
    let last = field.rsplit(char::from(delimiters.component)).find(|c| !c.is_empty())?;
    let text = without_escapes(last, delimiters);
    let is_data = |b: u8| b.is_ascii_alphanumeric() || b"+/=-_ \t\r\n".contains(&b);
    text.bytes().all(is_data).then_some(text)
}

fn without_escapes<'a>(text: &'a str, delimiters: &Delimiters) -> Cow<'a, str> {
    if text.as_bytes().contains(&delimiters.escape) {
        hl7::escape::unescape(text, delimiters)
    } else {
        Cow::Borrowed(text)
    }
}

fn starts_pdf(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(PDF_START_WITHIN + 5)];
    start.windows(5).any(|w| w == b"%PDF-")
}

impl DataEncoding {
    /// All of the data; `None` where it is not of this encoding.
    fn decode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            DataEncoding::Base64 => base64(text.as_bytes()),
            DataEncoding::Hex => hex(text),
            DataEncoding::Plain => Some(text.as_bytes().to_vec()),
        }
    }

    /// The first bytes of the data, from a part of it that may end anywhere.
    fn decode_start(self, text: &str) -> Option<Vec<u8>> {
        match self {
            DataEncoding::Base64 => {
                let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
                base64(&digits[..digits.len() / 4 * 4]).or_else(|| base64(&digits))
            }
            DataEncoding::Hex => {
                let digits: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
                hex(digits.get(..digits.len() / 2 * 2)?)
            }
            DataEncoding::Plain => Some(text.as_bytes().to_vec()),
        }
    }
}

/// Base64 with or without padding and line breaks (RFC 4648), the alphabet for URLs included.
fn base64(digits: &[u8]) -> Option<Vec<u8>> {
    if !digits.iter().any(|b| matches!(b, b'-' | b'_')) {
        return base64_simd::forgiving_decode_to_vec(digits).ok();
    }
    let usual = |b: &u8| match b {
        b'-' => b'+',
        b'_' => b'/',
        other => *other,
    };
    base64_simd::forgiving_decode_to_vec(&digits.iter().map(usual).collect::<Vec<u8>>()).ok()
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() || digits.is_empty() {
        return None;
    }
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;

    const PDF: &[u8] = b"%PDF-1.4 the rest";

    fn encoded() -> String {
        base64_simd::STANDARD.encode_to_string(PDF)
    }

    fn found(lines: &str, segments: &str) -> Result<Vec<Vec<u8>>, String> {
        let settings = settings(lines);
        let text = format!("MSH|^~\\&|A|B|C|D|20260101||ORU^R01|1|P|2.5\r{segments}");
        let message = Message::parse(&text).unwrap();
        find(&message, &settings.channel).map(|found| found.into_iter().map(|a| a.bytes).collect())
    }

    fn at_field(value: &str) -> Result<Vec<Vec<u8>>, String> {
        found("attachment_field: OBX.1.5", &format!("OBX|1|ED|||{value}\r"))
    }

    #[test]
    fn a_pdf_is_found_in_every_shape_of_the_field() {
        let data = encoded();
        let unpadded = data.trim_end_matches('=');
        let wrapped = format!("{}\\X0D0A\\{}\\.br\\{}", &data[..4], &data[4..9], &data[9..]);
        let hex: String = PDF.iter().map(|b| format!("{b:02X}")).collect();
        for value in [
            format!("^application^pdf^Base64^{data}"),
            format!("^AP^PDF^Base64^{data}"),
            format!("^TEXT^^Base64^{data}"),
            format!("PDF^TEXT^^Base64^{data}"),
            format!("^^^^{data}"),
            data.clone(),
            unpadded.to_owned(),
            wrapped,
            format!("^application^pdf^Hex^{hex}"),
            format!("^application^pdf^A^{}", String::from_utf8_lossy(PDF)),
        ] {
            assert_eq!(at_field(&value), Ok(vec![PDF.to_vec()]), "{value}");
        }
    }

    #[test]
    fn the_bytes_decide_and_the_reason_says_what_is_missing() {
        let text = base64_simd::STANDARD.encode_to_string(b"no document at all");
        let fault = at_field(&format!("^application^pdf^Base64^{text}")).unwrap_err();
        assert_eq!(fault, "no PDF at attachment_field OBX.1.5: no data there decodes to %PDF-");
        assert_eq!(at_field("").unwrap_err(), "nothing found at attachment_field OBX.1.5");
        let fault = found("mapping: {}", "OBX|1|TX|||text only\r").unwrap_err();
        assert_eq!(fault, "no PDF found in any OBX or Z segment");
    }

    #[test]
    fn without_a_field_the_first_pdf_is_taken_thumbnails_passed_over() {
        let jpeg = base64_simd::STANDARD.encode_to_string(b"\xff\xd8\xff\xe0 a thumbnail");
        let segments = format!(
            "OBX|1|ED|||^image^jpeg^Base64^{jpeg}\rOBX|2|HD|||1.2.840\rOBX|3|ED|||^TX^PDF^Base64^{}\r",
            encoded()
        );
        assert_eq!(found("mapping: {}", &segments), Ok(vec![PDF.to_vec()]));
        let own = format!("ZPD|1|{}\r", encoded());
        assert_eq!(found("mapping: {}", &own), Ok(vec![PDF.to_vec()]));
    }

    #[test]
    fn with_every_obx_a_part_that_starts_no_pdf_goes_on_with_the_one_before() {
        let data = encoded();
        let (head, tail) = data.split_at(10);
        let segments = format!(
            "OBX|1|ED|||^application^pdf^Base64^{head}\rOBX|2|ED|||^application^pdf^Base64^{tail}\r\
             OBX|3|ED|||^application^pdf^Base64^{data}\r"
        );
        let found = found("attachment_field: OBX.*.5", &segments);
        assert_eq!(found, Ok(vec![PDF.to_vec(), PDF.to_vec()]));
    }
}
