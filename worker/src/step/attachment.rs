//! The attachment step: documents are taken out of the message and archived. Where and how they sit in real messages is
//! known below here only.
//!
//! `places` says where to look, `document` which values make up one PDF, `data` how bytes are written in a message,
//! `report` what a text is. The decoded bytes decide what is a PDF, not the declared type.

mod data;
mod document;
mod places;
mod report;
#[cfg(test)]
mod tests;

use super::{Attachments, Context, Progress, stage_attachments};
use crate::files::{Arrival, FileBatch};
use config::{AttachmentFormat, Channel};
use data::Reading;
use hl7::charset::Encoding;
use hl7::message::Message;
use hl7::path::FieldPath;
use std::path::Path;

/// Documents in one message; each is a file in every folder, and a message of 10 MiB has room for half a million.
const ATTACHMENTS_MAX: usize = 1000;

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
    stage_attachments(context, attachments, batch, (root, context.below, Arrival::Linked), place)
}

/// The attachments of a message: those at `attachment_field`, or the first of an OBX or Z segment. A text is always
/// one.
///
/// # Errors
/// Why there is none, for the failed message's reason.
pub fn find(message: &Message<'_>, channel: &Channel) -> Result<Vec<Attachment>, String> {
    let reading = Reading { delimiters: message.delimiters(), encoding: encoding(message, channel.encoding) };
    match (channel.attachment_format, &channel.attachment_field) {
        (AttachmentFormat::Pdf, Some(path)) => pdfs_at(message, path, reading),
        (AttachmentFormat::Pdf, None) => first_pdf(message, reading),
        (AttachmentFormat::Text, path) => text(message, path.as_ref(), reading),
    }
}

/// What the message's bytes were read by.
fn encoding(message: &Message<'_>, configured: Encoding) -> Encoding {
    if configured != Encoding::Auto {
        return configured;
    }
    let header = message.segments().first();
    let declared = header.and_then(|header| header.field(18, message.delimiters().field));
    declared.and_then(hl7::charset::declared).unwrap_or(configured)
}

fn pdfs_at(message: &Message<'_>, path: &FieldPath, reading: Reading<'_>) -> Result<Vec<Attachment>, String> {
    let parts = places::chosen(message, path).chain(places::beyond(message, path));
    let mut found = Vec::new();
    for document in document::documents(parts, reading) {
        if found.len() == ATTACHMENTS_MAX {
            return Err(format!("more than {ATTACHMENTS_MAX} PDFs at attachment_field {path}"));
        }
        let undecodable =
            || format!("the data at attachment_field {path} begins as a PDF but does not decode");
        found.push(pdf(document.decode(&reading).ok_or_else(undecodable)?));
    }
    if !found.is_empty() {
        Ok(found)
    } else if places::chosen(message, path).all(|part| part.value.is_empty()) {
        Err(format!("nothing found at attachment_field {path}"))
    } else {
        Err(format!("no PDF at attachment_field {path}: no data there decodes to %PDF-"))
    }
}

fn first_pdf(message: &Message<'_>, reading: Reading<'_>) -> Result<Vec<Attachment>, String> {
    let mut reason = "no PDF found in any OBX or Z segment";
    for document in document::documents(places::every(message), reading) {
        match document.decode(&reading) {
            Some(bytes) => return Ok(vec![pdf(bytes)]),
            None => reason = "data in an OBX or Z segment begins as a PDF but does not decode",
        }
    }
    Err(reason.to_owned())
}

fn text(
    message: &Message<'_>,
    path: Option<&FieldPath>,
    reading: Reading<'_>,
) -> Result<Vec<Attachment>, String> {
    let text = report::find(message, path, &reading).ok_or_else(|| match path {
        Some(path) => format!("no text at attachment_field {path}"),
        None => "no text found in any OBX of type TX, FT or ST".to_owned(),
    })?;
    Ok(vec![Attachment { bytes: text, suffix: ".txt" }])
}

fn pdf(bytes: Vec<u8>) -> Attachment {
    Attachment { bytes, suffix: ".pdf" }
}
