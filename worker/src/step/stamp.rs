//! The stamp: the message's metadata in its attachments. Lines on a PDF's page, in its properties and XMP; a header block
//! over a text, which may be laid out as a PDF.

use super::attachment::Attachment;
use crate::extract::Metadata;
use config::{AttachmentOutput, Channel, Stamp};
use pdf::{How, Limits, Look, Pages};

/// What came of the attachments of one message.
#[derive(Debug, Default)]
pub struct Marked {
    /// The attachments as they are delivered.
    pub attachments: Vec<Attachment>,
    /// Why some are delivered as they came.
    pub unstamped: Vec<String>,
    /// What an operator may want to know of others.
    pub notes: Vec<String>,
}

/// Stamps the attachments as the channel says. A report without its stamp beats a report that never arrives: what cannot
/// be stamped is delivered as it came, with the reason, unless the channel says otherwise.
///
/// # Errors
/// `on_stamp_failure: fail`: why an attachment cannot be stamped.
pub fn mark(found: Vec<Attachment>, channel: &Channel, metadata: &Metadata) -> Result<Marked, String> {
    let mut marked = Marked::default();
    let lines: Vec<(&str, &str)> = match channel.stamp {
        Some(_) => metadata.iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        None => Vec::new(),
    };
    for attachment in found {
        let done = match attachment.suffix {
            ".txt" => mark_text(attachment, channel, &lines),
            _ => match channel.stamp.filter(|_| !lines.is_empty()) {
                Some(stamp) => mark_pdf(attachment, stamp, &lines, &mut marked)?,
                None => attachment,
            },
        };
        marked.attachments.push(done);
    }
    Ok(marked)
}

fn mark_pdf(
    attachment: Attachment,
    stamp: Stamp,
    lines: &[(&str, &str)],
    marked: &mut Marked,
) -> Result<Attachment, String> {
    let look = if stamp.visible { Look::Visible } else { Look::Invisible };
    let pages = if stamp.all_pages { Pages::All } else { Pages::First };
    match pdf::stamp(&attachment.bytes, lines, look, pages, &Limits::default()) {
        Ok(stamped) => {
            if stamped.how == How::Rewritten {
                marked.notes.push("the PDF's cross-reference is damaged; it was rewritten whole".to_owned());
            }
            marked.notes.extend(stamped.notes);
            Ok(Attachment { bytes: stamped.bytes, ..attachment })
        }
        Err(unstamped) if stamp.must_succeed => Err(format!("cannot stamp the attachment: {unstamped}")),
        Err(unstamped) => {
            marked.unstamped.push(unstamped.to_string());
            Ok(attachment)
        }
    }
}

/// A text's header block, or the text as a PDF.
fn mark_text(attachment: Attachment, channel: &Channel, lines: &[(&str, &str)]) -> Attachment {
    if channel.attachment_output == AttachmentOutput::Pdf {
        let text = String::from_utf8_lossy(&attachment.bytes);
        return Attachment { bytes: pdf::layout(&text, "", lines), suffix: ".pdf" };
    }
    if lines.is_empty() {
        return attachment;
    }
    let mut bytes: Vec<u8> = Vec::with_capacity(attachment.bytes.len() + 256);
    for (name, value) in lines {
        // A value of several lines must not look like further entries.
        let value = value.replace(['\r', '\n'], " ");
        bytes.extend_from_slice(format!("{name}: {value}\n").as_bytes());
    }
    bytes.push(b'\n');
    bytes.extend_from_slice(&attachment.bytes);
    Attachment { bytes, ..attachment }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract;
    use crate::testing::settings;
    use hl7::message::Message;

    fn marked(lines: &str, bytes: &[u8], suffix: &'static str) -> Result<Marked, String> {
        let settings = settings(&format!("mapping: {{ patient_id: PID.1.3.1, name: PID.1.5.1 }}\n{lines}"));
        let text = "MSH|^~\\&|A|B|C|D|20260101||ORU^R01|1|P|2.5\rPID|1||4711||Żółć\r";
        let metadata = extract::extract(&Message::parse(text).unwrap(), &settings.channel).unwrap();
        mark(vec![Attachment { bytes: bytes.to_vec(), suffix }], &settings.channel, &metadata)
    }

    #[test]
    fn a_text_gets_a_header_block_only_where_the_channel_asks_for_it() {
        let lines = "attachment_format: text\nadd_metadata_to_attachment: true";
        let with = marked(lines, b"report", ".txt").unwrap().attachments.remove(0);
        assert_eq!(String::from_utf8(with.bytes).unwrap(), "patient_id: 4711\nname: Żółć\n\nreport");
        let without = marked("attachment_format: text", b"report", ".txt").unwrap().attachments.remove(0);
        assert_eq!(without.bytes, b"report");
    }

    #[test]
    fn a_text_may_become_a_pdf() {
        let lines = "attachment_format: text\nattachment_output: pdf";
        let made = marked(lines, b"report", ".txt").unwrap().attachments.remove(0);
        assert_eq!(made.suffix, ".pdf");
        assert!(made.bytes.starts_with(b"%PDF-"));
    }

    #[test]
    fn what_cannot_be_stamped_is_delivered_as_it_came_unless_the_channel_says_otherwise() {
        let broken = b"%PDF-1.4 and nothing else";
        let lines = "add_metadata_to_attachment: true";
        let marked_as_it_came = marked(lines, broken, ".pdf").unwrap();
        assert_eq!(marked_as_it_came.attachments[0].bytes, broken);
        assert_eq!(marked_as_it_came.unstamped.len(), 1);
        let fault = marked(&format!("{lines}\non_stamp_failure: fail"), broken, ".pdf").unwrap_err();
        assert!(fault.starts_with("cannot stamp the attachment: "), "{fault}");
    }
}
