//! `demo`: the whole thing in a temporary folder, as an ordinary user. What it prints is what it checked: it ends with 1
//! if an acknowledgment, a file or a byte of one is missing.

use super::child::{self, Folder, Server};
use super::mllp::Client;
use super::{Fail, Outcome, output, status};
use hl7::header::Header;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Show the whole thing in a temporary folder
///
/// Starts a server with three channels, sends an admission, a laboratory result and a discharge letter with real PDFs
/// in them, and prints the acknowledgments, the files that came out and the table of channels. Needs no root and no
/// configuration file, and leaves nothing behind.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Leave the folder behind
    #[arg(long)]
    keep: bool,
}

/// Nothing of the demo takes nearly as long.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A message of the demo: what is sent, to which channel, and what must come out.
struct Sent {
    file: &'static str,
    channel: &'static str,
    message: &'static [u8],
    document: Option<&'static [u8]>,
}

const LAB_REPORT: &[u8] = include_bytes!("../../config/examples/demo/lab-report.pdf");
const DISCHARGE_LETTER: &[u8] = include_bytes!("../../config/examples/demo/discharge-letter.pdf");

const MESSAGES: [Sent; 3] = [
    Sent {
        file: "adt-a01.hl7",
        channel: "adt",
        message: include_bytes!("../../config/examples/demo/adt-a01.hl7"),
        document: None,
    },
    Sent {
        file: "oru-r01.hl7",
        channel: "lab",
        message: include_bytes!("../../config/examples/demo/oru-r01.hl7"),
        document: Some(LAB_REPORT),
    },
    Sent {
        file: "mdm-t02.hl7",
        channel: "letters",
        message: include_bytes!("../../config/examples/demo/mdm-t02.hl7"),
        document: Some(DISCHARGE_LETTER),
    },
];

/// Carries out `demo`.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let mut out = output::stdout();
    let folder = Folder::new("demo", None, arguments.keep)?;
    let mut ports = [0; MESSAGES.len()];
    let mut last = 0;
    for port in &mut ports {
        last = child::free_port(last)?;
        *port = last;
    }
    let fate = if arguments.keep { "stays" } else { "is removed at the end; --keep leaves it" };
    writeln!(out, "A server in {} (the folder {fate}).", folder.path().display())?;
    let mut server = Server::start(folder.path(), &configuration(folder.path(), ports))?;
    server.wait(TIMEOUT, "the channels did not become ready", |server| {
        let channels = server.status()?.channels;
        Ok(channels.len() == MESSAGES.len()
            && channels.iter().all(|channel| server.waiting(&channel.name).is_ok()))
    })?;

    for (sent, port) in MESSAGES.iter().zip(ports) {
        send(&mut out, sent, port)?;
    }
    for sent in &MESSAGES {
        server.wait_delivered(sent.channel, TIMEOUT)?;
    }
    // The table's counters come up once a second.
    server.wait(TIMEOUT, "the messages were not counted as delivered", |server| {
        Ok(server.status()?.channels.iter().all(|channel| channel.status.delivered == 1))
    })?;

    writeln!(out, "\nThe files that came out:\n")?;
    for root in ["archive", "attachments", "drop"] {
        tree(&mut out, &folder.path().join(root), root)?;
    }
    writeln!(out)?;
    status::table(&server.status()?, &mut out)?;
    let missing = missing(folder.path());
    let log = server.log_end();
    let ended = server.stop().map_err(|error| Fail::io("stop the server", &error))?;
    if !missing.is_empty() || !ended.success() {
        for line in missing {
            output::complain(&line);
        }
        return Err(Fail::Failed(format!("the server ended ({ended}); its log:\n{log}")));
    }
    writeln!(
        out,
        "\nEvery message was acknowledged and archived byte for byte, every PDF came out as it went in."
    )?;
    Ok(())
}

fn configuration(folder: &Path, ports: [u16; MESSAGES.len()]) -> String {
    let path = |below: &str| serde_json::Value::from(folder.join(below).to_string_lossy()).to_string();
    let [adt, lab, letters] = ports;
    let (state, run) = (path("state"), path("run"));
    let (adt_archive, lab_archive, letter_archive) =
        (path("archive/adt"), path("archive/lab"), path("archive/letters"));
    let (lab_pdfs, letter_pdfs) = (path("attachments/lab"), path("attachments/letters"));
    let (ward, practice) = (path("drop/ward"), path("drop/practice"));
    format!(
        r#"config_version: demo
state_path: {state}
runtime_path: {run}
channels:
- name: adt
  port: {adt}
  listen: 127.0.0.1
  patient_id_field: PID.1.3.1
  local_archive: {{path: {adt_archive}}}
- name: lab
  port: {lab}
  listen: 127.0.0.1
  patient_id_field: PID.1.3.1
  accession_number_field: OBR.1.18.1
  attachment_field: OBX.2.5
  attachment_format: pdf
  local_archive: {{path: {lab_archive}, attachment: {lab_pdfs}}}
  drop_folders:
    ward: {{path: {ward}}}
- name: letters
  port: {letters}
  listen: 127.0.0.1
  patient_id_field: PID.1.3.1
  # No attachment_field: the first PDF of the message is found.
  local_archive: {{path: {letter_archive}, attachment: {letter_pdfs}}}
  drop_folders:
    ward: {{path: {ward}}}
    practice: {{path: {practice}}}
"#
    )
}

/// Sends one message and prints what is answered.
fn send(out: &mut impl Write, sent: &Sent, port: u16) -> Outcome {
    let failed = |reason: String| Fail::Failed(format!("{}: {reason}", sent.file));
    let header = Header::parse(sent.message).map_err(|fault| failed(fault.to_string()))?;
    let (kind, event) = header.message_type();
    writeln!(
        out,
        "\nSent {}, {}^{}, {}, to channel {} on port {port}; answered:",
        sent.file,
        String::from_utf8_lossy(kind),
        String::from_utf8_lossy(event),
        output::size(sent.message.len() as u64),
        sent.channel
    )?;
    let answer = Client::connect(&format!("127.0.0.1:{port}"), None, TIMEOUT)
        .and_then(|mut client| client.exchange(sent.message))
        .map_err(|error| failed(output::plain(&error)))?;
    for segment in String::from_utf8_lossy(&answer).split('\r').filter(|segment| !segment.is_empty()) {
        writeln!(out, "  {}", crate::logging::escape_controls(segment))?;
    }
    match hl7::ack::read(&answer) {
        Some(ack) if ack.code == "AA" && ack.control_id == header.control_id() => Ok(()),
        _ => Err(failed("was not acknowledged".to_owned())),
    }
}

/// What should have come out and did not: each message once in its channel's archive, each document once in every
/// folder that it goes to, all byte for byte.
fn missing(folder: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    let mut expect = |below: &str, bytes: &[u8], what: &str| {
        let found = files(&folder.join(below))
            .iter()
            .filter(|file| fs::read(file).is_ok_and(|is| is == bytes))
            .count();
        if found != 1 {
            missing.push(format!("{below} holds {what} {found} times instead of once"));
        }
    };
    for sent in &MESSAGES {
        expect(&format!("archive/{}", sent.channel), sent.message, sent.file);
        let Some(document) = sent.document else { continue };
        expect(&format!("attachments/{}", sent.channel), document, "the document");
        expect("drop/ward", document, &format!("the document of {}", sent.file));
    }
    expect("drop/practice", DISCHARGE_LETTER, "the discharge letter");
    missing
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in sorted(folder) {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    entries
}

/// A folder as `tree` prints it, with the files' sizes.
fn tree(out: &mut impl Write, folder: &Path, name: &str) -> io::Result<()> {
    writeln!(out, "  {name}")?;
    branches(out, folder, "  ")
}

fn branches(out: &mut impl Write, folder: &Path, indent: &str) -> io::Result<()> {
    let entries = sorted(folder);
    for (n, entry) in entries.iter().enumerate() {
        let last = n + 1 == entries.len();
        let (twig, bar) = if last { ("└── ", "    ") } else { ("├── ", "│   ") };
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        if entry.is_dir() {
            writeln!(out, "{indent}{twig}{name}")?;
            branches(out, entry, &format!("{indent}{bar}"))?;
        } else {
            let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
            writeln!(out, "{indent}{twig}{name}  ({})", output::size(bytes))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base64 to bytes, by the letters' values.
    fn decoded(text: &str) -> Vec<u8> {
        const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bytes = Vec::new();
        let (mut word, mut bits) = (0u32, 0);
        for letter in text.trim_end_matches('=').chars() {
            word = word << 6 | u32::try_from(LETTERS.find(letter).unwrap()).unwrap();
            bits += 6;
            if bits >= 8 {
                bits -= 8;
                bytes.push((word >> bits) as u8);
            }
        }
        bytes
    }

    #[test]
    fn the_messages_carry_the_documents_beside_them() {
        for sent in &MESSAGES {
            let text = std::str::from_utf8(sent.message).unwrap();
            let found = text.split("^Base64^").nth(1).map(|rest| decoded(rest.split('|').next().unwrap()));
            assert_eq!(found.as_deref(), sent.document, "{}", sent.file);
            assert!(text.ends_with('\r') && !text.contains('\n'));
        }
    }

    #[test]
    fn a_file_too_few_or_too_many_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let put = |below: &str, bytes: &[u8]| {
            let path = folder.path().join(below);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        assert_eq!(missing(folder.path()).len(), 8);
        for sent in &MESSAGES {
            put(&format!("archive/{}/2025/a.hl7", sent.channel), sent.message);
            let Some(document) = sent.document else { continue };
            put(&format!("attachments/{}/2025/a.pdf", sent.channel), document);
            put(&format!("drop/ward/{}.pdf", sent.channel), document);
        }
        put("drop/practice/a.pdf", DISCHARGE_LETTER);
        assert_eq!(missing(folder.path()), Vec::<String>::new());
        put("drop/ward/again.pdf", LAB_REPORT);
        assert_eq!(missing(folder.path()).len(), 1);
    }

    #[test]
    fn the_configuration_is_one_that_loads() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hl7server.yaml");
        fs::write(&file, configuration(folder.path(), [20_001, 20_002, 20_003])).unwrap();
        let loaded = config::load(&file, &|_| true, config::Mode::Check).map_err(|p| p.to_string()).unwrap();
        assert_eq!(loaded.config.channels.len(), 3);
    }
}
