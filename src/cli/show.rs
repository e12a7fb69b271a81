//! `show`: a message's fields as `PATH  value`, with their HL7 names.

use super::{Fail, Outcome, failed, hl7_file, output, server};
use hl7::charset::{self, Encoding};
use hl7::message::Message;
use hl7::path::FieldPath;
use std::io::Write;
use std::path::{Path, PathBuf};
use worker::find_index::{self, Query};

/// Print the fields of a message with their HL7 names
///
/// Values are printed as they stand, escape sequences included; attachments as their size and kind. A message id is
/// looked for in the journals, among the failed messages and in the archives of every channel.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// A file (- for standard input), or a message id
    #[arg(value_name = "FILE|MESSAGE-ID")]
    what: PathBuf,
    /// Print only what is at this field path (PID.1.5.1, OBX.*.5); may be given several times
    #[arg(long = "field", value_name = "PATH", value_parser = field_path)]
    fields: Vec<FieldPath>,
    /// With --field: print the value alone, an attachment whole
    #[arg(long, requires = "fields")]
    raw: bool,
    /// Encoding of the message [default: the channel's, or UTF-8 where the bytes are that, else cp1252]
    #[arg(long, value_name = "NAME", value_parser = encoding)]
    encoding: Option<Encoding>,
    /// Print one JSON object a message
    #[arg(long)]
    json: bool,
}

/// How a message is printed.
#[derive(Default)]
pub(super) struct How<'a> {
    pub(super) fields: &'a [FieldPath],
    pub(super) raw: bool,
    pub(super) json: bool,
}

/// Carries out `show`.
pub(super) fn run(config: &Path, arguments: &Arguments) -> Outcome {
    let (bytes, found_encoding) = find(config, &arguments.what)?;
    let encoding = arguments.encoding.or(found_encoding);
    let how = How { fields: &arguments.fields, raw: arguments.raw, json: arguments.json };
    print(&mut output::stdout(), &bytes, encoding, &how)
}

/// Prints each message in `bytes`.
pub(super) fn print(out: &mut impl Write, bytes: &[u8], encoding: Option<Encoding>, how: &How) -> Outcome {
    let mut several = false;
    for frame in hl7_file::frames(bytes) {
        for message in hl7_file::messages(&frame) {
            if several && !how.json && !how.raw {
                writeln!(out)?;
            }
            several = true;
            print_message(out, message, encoding, how)?;
        }
    }
    if several { Ok(()) } else { Err(Fail::Failed("there is no message in it".to_owned())) }
}

fn print_message(out: &mut impl Write, bytes: &[u8], encoding: Option<Encoding>, how: &How) -> Outcome {
    let decoded = charset::decode(bytes, encoding.unwrap_or_else(|| likely_encoding(bytes)));
    if decoded.undecodable > 0 {
        output::complain(&format!("{} places cannot be decoded, shown as U+FFFD", decoded.undecodable));
    }
    let message = Message::parse(&decoded.text)
        .map_err(|fault| Fail::Failed(format!("this is no HL7 message: {fault}")))?;
    let values: Vec<(FieldPath, &str)> = if how.fields.is_empty() {
        message.walk().collect()
    } else {
        let all = |path: &FieldPath| {
            message.raw_all(path).into_iter().map(|value| (*path, value)).collect::<Vec<_>>()
        };
        how.fields.iter().flat_map(all).collect()
    };
    if how.json {
        print_json(out, &values, how.raw)?;
    } else if how.raw {
        for (_, value) in values {
            writeln!(out, "{}", crate::logging::escape_controls(value))?;
        }
    } else {
        print_text(out, &values, message.delimiters().component)?;
    }
    Ok(())
}

fn print_text(out: &mut impl Write, values: &[(FieldPath, &str)], component: u8) -> std::io::Result<()> {
    let width = values.iter().map(|(path, _)| path.to_string().len()).max().unwrap_or(0);
    for (path, value) in values {
        let name = hl7::names::field(path.segment(), path.field()).unwrap_or_default();
        let value = without_attachments(value, component);
        let value = crate::logging::escape_controls(&value);
        let line = format!("{:<width$}  {value:<32}  {name}", path.to_string());
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn print_json(out: &mut impl Write, values: &[(FieldPath, &str)], raw: bool) -> std::io::Result<()> {
    let fields: Vec<serde_json::Value> = values
        .iter()
        .map(|(path, value)| {
            let name = hl7::names::field(path.segment(), path.field());
            match Attachment::in_value(value).filter(|_| !raw) {
                Some(found) => serde_json::json!({
                    "path": path.to_string(),
                    "name": name,
                    "attachment": { "type": found.kind, "bytes": found.bytes },
                }),
                None => serde_json::json!({ "path": path.to_string(), "name": name, "value": value }),
            }
        })
        .collect();
    writeln!(out, "{}", serde_json::json!({ "fields": fields }))
}

/// The message, and the encoding of the channel it came by.
fn find(config: &Path, what: &Path) -> Result<(Vec<u8>, Option<Encoding>), Fail> {
    let id = what.to_str().and_then(|text| text.parse::<journal::MessageId>().ok());
    let Some(id) = id.filter(|_| !what.exists()) else { return Ok((hl7_file::read(what)?, None)) };
    let loaded = server::load(config)?;
    let state_path = &loaded.config.service.state_path;
    let channels = failed::channels(state_path)?;
    let encoding = |channel: &str| loaded.config.channel(channel).map(|channel| channel.encoding);
    // The indexes know at once whose message it is; a message that is on its way is in the journals only.
    for channel in &channels {
        if let Some(bytes) = in_archive(state_path, channel, id)? {
            return Ok((bytes, encoding(channel)));
        }
    }
    for channel in &channels {
        if let Some(bytes) = in_channel(state_path, channel, id)? {
            return Ok((bytes, encoding(channel)));
        }
    }
    Err(Fail::Failed(format!(
        "no journal or index below \"{}\" knows where message {id} is; was it archived?",
        state_path.display()
    )))
}

/// Where the index says that the message was archived. An archive that is gone or was moved is no fault: the journal
/// may still have it.
fn in_archive(state_path: &Path, channel: &str, id: journal::MessageId) -> Result<Option<Vec<u8>>, Fail> {
    let query = Query { id: Some(id.to_string()), limit: 1, ..Query::default() };
    let file = match find_index::search(state_path, channel, &query) {
        Ok(search) => search.and_then(|search| search.found.into_iter().next()?.archived),
        Err(fault) => {
            output::complain(&format!("{channel}: {fault}"));
            None
        }
    };
    file.filter(|file| file.exists()).map(|file| hl7_file::read(&file)).transpose()
}

/// Looks in a channel's journal without taking its lock, then among its failed messages.
fn in_channel(state_path: &Path, channel: &str, id: journal::MessageId) -> Result<Option<Vec<u8>>, Fail> {
    let folder = state_path.join(channel).join("journal");
    if folder.is_dir() {
        let found = match journal::read_only(&folder) {
            Ok(journal) => journal.find(id).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match found {
            Ok(Some(found)) => return Ok(Some(found.message.body)),
            Ok(None) => {}
            Err(reason) => output::complain(&format!("{channel}: could not read the journal: {reason}")),
        }
    }
    let file = failed::folder(state_path, channel).join(format!("{id}.hl7"));
    if file.exists() { hl7_file::read(&file).map(Some) } else { Ok(None) }
}

/// Most senders write UTF-8; of the rest cp1252 reads every western one.
fn likely_encoding(bytes: &[u8]) -> Encoding {
    if std::str::from_utf8(bytes).is_ok() { Encoding::Utf8 } else { Encoding::Cp1252 }
}

fn field_path(text: &str) -> Result<FieldPath, String> {
    text.parse().map_err(|fault: hl7::path::PathFault| fault.to_string())
}

fn encoding(text: &str) -> Result<Encoding, String> {
    Encoding::from_label(text)
        .filter(|encoding| encoding.is_built())
        .ok_or_else(|| "not an encoding that is known here".to_owned())
}

/// The value with each attachment in it as its size and kind. A field's value is looked at component by component.
fn without_attachments(value: &str, component: u8) -> String {
    let separator = char::from(component);
    let short = |part: &str| match Attachment::in_value(part) {
        Some(found) => format!("[{}, {} bytes]", found.kind, found.bytes),
        None => part.to_owned(),
    };
    value.split(separator).map(short).collect::<Vec<_>>().join(&separator.to_string())
}

/// Something encoded that stands in a value.
#[derive(Debug, PartialEq, Eq)]
struct Attachment {
    kind: &'static str,
    bytes: u64,
}

impl Attachment {
    /// Shorter values are shown, whatever they are.
    const LETTERS_MIN: usize = 200;

    /// By what decodes, not by what is declared: senders declare much.
    fn in_value(value: &str) -> Option<Attachment> {
        if value.len() < Attachment::LETTERS_MIN {
            return None;
        }
        let mut letters = Vec::with_capacity(value.len());
        let mut rest = value.as_bytes();
        while let [first, after @ ..] = rest {
            rest = after;
            match first {
                b' ' | b'\t' | b'\r' | b'\n' => {}
                // Line breaks as HL7 writes them: \.br\ and \X0D\.
                b'\\' => {
                    let end = after.iter().take(10).position(|byte| *byte == b'\\')?;
                    rest = &after[end + 1..];
                }
                _ => letters.push(*first),
            }
        }
        let padding = letters.iter().rev().take_while(|letter| **letter == b'=').count();
        let letters = &letters[..letters.len() - padding.min(2)];
        if letters.len() < Attachment::LETTERS_MIN {
            return None;
        }
        if let Some(head) = decode(letters, 4, |letter| char::from(letter).to_digit(16)) {
            let kind = kind_of(&head);
            if kind != "data" {
                return Some(Attachment { kind, bytes: letters.len() as u64 / 2 });
            }
        }
        let head = decode(letters, 6, base64_digit)?;
        Some(Attachment { kind: kind_of(&head), bytes: letters.len() as u64 * 3 / 4 })
    }
}

/// The first bytes behind letters of `bits` bits each; `None` where a letter anywhere is none of them.
fn decode(letters: &[u8], bits: u32, digit: impl Fn(u8) -> Option<u32>) -> Option<Vec<u8>> {
    const HEAD: usize = 16;
    let mut head = Vec::with_capacity(HEAD);
    let (mut word, mut held) = (0u32, 0);
    for letter in letters {
        let value = digit(*letter)?;
        if head.len() == HEAD {
            continue;
        }
        word = word << bits | value;
        held += bits;
        if held >= 8 {
            held -= 8;
            head.push((word >> held) as u8);
        }
    }
    Some(head)
}

fn base64_digit(letter: u8) -> Option<u32> {
    let value = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    };
    Some(value.into())
}

fn kind_of(head: &[u8]) -> &'static str {
    const KINDS: [(&[u8], &str); 10] = [
        (b"%PDF-", "PDF"),
        (b"\xFF\xD8\xFF", "JPEG"),
        (b"\x89PNG", "PNG"),
        (b"GIF8", "GIF"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"{\\rtf", "RTF"),
        (b"PK\x03\x04", "ZIP"),
        (b"\xD0\xCF\x11\xE0", "OLE"),
        (b"<?xml", "XML"),
    ];
    KINDS.iter().find(|(mark, _)| head.starts_with(mark)).map_or("data", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORU: &[u8] = include_bytes!("../../config/examples/demo/oru-r01.hl7");

    fn shown(bytes: &[u8], how: &How) -> String {
        let mut out = Vec::new();
        print(&mut out, bytes, None, how).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_have_their_names_and_attachments_their_size() {
        let text = shown(ORU, &How::default());
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        assert!(line("PID.1.5.1 ").contains("Vanterpool"), "{text}");
        assert!(line("PID.1.5.1 ").ends_with("Patient Name"), "{text}");
        assert!(line("OBX.2.5.5 ").contains("[PDF, 18372 bytes]"), "{text}");
        assert!(text.lines().all(|line| line.len() < 200));
    }

    #[test]
    fn json_never_holds_an_attachment() {
        let text = shown(ORU, &How { json: true, ..How::default() });
        assert!(text.len() < 10_000);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let found =
            value["fields"].as_array().unwrap().iter().find(|field| field["path"] == "OBX.2.5.5").unwrap();
        assert_eq!(found["attachment"], serde_json::json!({ "type": "PDF", "bytes": 18_372 }));
    }

    #[test]
    fn a_path_gives_its_value_as_it_stands() {
        let fields = ["MSH.1.9", "OBR.1.4.2", "OBX.*.2"].map(|path| path.parse().unwrap());
        let text = shown(ORU, &How { fields: &fields, raw: true, json: false });
        assert_eq!(text, "ORU^R01^ORU_R01\nCBC panel \\T\\ CRP\nNM\nED\nNM\n");
    }

    #[test]
    fn a_hostile_value_moves_no_cursor() {
        let text = shown(b"MSH|^~\\&|A\x1b[2J\rPID|1\r", &How::default());
        assert!(!text.contains('\u{1b}') && text.contains("\\x{1b}[2J"));
    }

    #[test]
    fn an_attachment_is_known_by_what_decodes() {
        let hex: String =
            b"%PDF-1.4 hello ".iter().cycle().take(300).map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(Attachment::in_value(&hex), Some(Attachment { kind: "PDF", bytes: 300 }));
        let wrapped = "JVBERi0xLjQK".repeat(20).replace("QKJ", "QK\\.br\\J");
        assert_eq!(Attachment::in_value(&wrapped), Some(Attachment { kind: "PDF", bytes: 180 }));
        assert_eq!(Attachment::in_value(&"A long sentence, of words. ".repeat(20)), None);
        assert_eq!(Attachment::in_value("JVBERi0xLjQK"), None);
    }
}
