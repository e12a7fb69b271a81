//! `failed`: messages whose delivery has ended without being done. Listing reads the state folders, so that it works
//! while the server is down; what changes something goes through the running server.

use super::output::{self, Align, Table, local_time};
use super::{Fail, Outcome, server, show};
use link::{Answer, Question, Selection};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Messages that failed
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the failed messages, the oldest first
    List(List),
    /// Print why a message failed, and its fields
    Show(ShowOne),
    /// Deliver failed messages again, from the step that failed
    Retry(Selected),
    /// Give failed messages up for good and remove them
    Discard(Selected),
}

/// Arguments of `failed list`.
#[derive(clap::Args)]
pub(super) struct List {
    /// Of this channel only
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Only those that failed in this step
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Print one JSON object a message
    #[arg(long)]
    json: bool,
}

/// Arguments of `failed show`.
#[derive(clap::Args)]
pub(super) struct ShowOne {
    /// The message's id
    #[arg(value_name = "MESSAGE-ID")]
    id: String,
    /// Print JSON objects
    #[arg(long)]
    json: bool,
}

/// Arguments of `failed retry` and `failed discard`.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "all"]))]
pub(super) struct Selected {
    /// The messages' ids
    #[arg(value_name = "MESSAGE-ID")]
    ids: Vec<String>,
    /// Every failed message
    #[arg(long)]
    all: bool,
    /// Of this channel only
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Only those that failed in this step
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
}

/// What stands in `failed/ID.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) channel: String,
    pub(super) control_id: String,
    pub(super) message_type: String,
    pub(super) received_us: i64,
    pub(super) failed_us: i64,
    pub(super) step: String,
    pub(super) reason: String,
    pub(super) attempts: u32,
    #[serde(default)]
    pub(super) steps_done: Vec<String>,
}

/// Carries out `failed …`.
pub(super) fn run(config: &Path, command: &Command) -> Outcome {
    match command {
        Command::List(arguments) => list(config, arguments),
        Command::Show(arguments) => show_one(config, arguments),
        Command::Retry(selected) => change(config, selected, Question::Retry, "delivered again"),
        Command::Discard(selected) => change(config, selected, Question::Discard, "discarded"),
    }
}

fn list(config: &Path, arguments: &List) -> Outcome {
    let state_path = server::load(config)?.config.service.state_path;
    let mut records = Vec::new();
    for channel in channels(&state_path)? {
        if arguments.channel.as_ref().is_none_or(|wanted| *wanted == channel) {
            records.extend(records_of(&state_path, &channel)?);
        }
    }
    records.retain(|record| arguments.step.as_ref().is_none_or(|step| *step == record.step));
    records.sort_by(|a, b| (a.failed_us, &a.id).cmp(&(b.failed_us, &b.id)));
    let mut out = output::stdout();
    if arguments.json {
        for record in &records {
            writeln!(out, "{}", serde_json::json!(record))?;
        }
        return Ok(());
    }
    let mut table = Table::new(&[
        ("CHANNEL", Align::Left),
        ("MESSAGE ID", Align::Left),
        ("CONTROL ID", Align::Left),
        ("TYPE", Align::Left),
        ("RECEIVED", Align::Left),
        ("FAILED", Align::Left),
        ("STEP", Align::Left),
        ("ATTEMPTS", Align::Right),
        ("REASON", Align::Left),
    ]);
    for record in records {
        table.row(vec![
            record.channel,
            record.id,
            record.control_id,
            record.message_type,
            local_time(record.received_us),
            local_time(record.failed_us),
            record.step,
            record.attempts.to_string(),
            record.reason,
        ]);
    }
    table.print(&mut out)?;
    Ok(())
}

fn show_one(config: &Path, arguments: &ShowOne) -> Outcome {
    let loaded = server::load(config)?;
    let state_path = &loaded.config.service.state_path;
    let channel = channel_of(state_path, &arguments.id)?;
    let record = read(&folder(state_path, &channel).join(format!("{}.json", arguments.id)))?;
    let message_file = folder(state_path, &channel).join(format!("{}.hl7", arguments.id));
    let message = fs::read(&message_file)
        .map_err(|error| Fail::io(format!("read \"{}\"", message_file.display()), &error))?;
    let encoding = loaded.config.channel(&channel).map(|channel| channel.encoding);
    let mut out = output::stdout();
    if arguments.json {
        writeln!(out, "{}", serde_json::json!(record))?;
    } else {
        let lines = [
            ("channel", record.channel.clone()),
            ("message id", record.id.clone()),
            ("control id", record.control_id.clone()),
            ("type", record.message_type.clone()),
            ("received", local_time(record.received_us)),
            ("failed", local_time(record.failed_us)),
            ("step", record.step.clone()),
            ("attempts", record.attempts.to_string()),
            ("reason", record.reason.clone()),
            ("steps done", record.steps_done.join(", ")),
        ];
        for (name, value) in lines {
            writeln!(out, "{name:<12} {}", crate::logging::escape_controls(&value))?;
        }
        writeln!(out)?;
    }
    show::print(&mut out, &message, encoding, &show::How { json: arguments.json, ..show::How::default() })
}

/// Retries or discards: the ids go to the channels that have them, `--all` to every running channel.
fn change(config: &Path, selected: &Selected, question: fn(Selection) -> Question, done: &str) -> Outcome {
    let runtime_path = server::runtime_path(config);
    let mut asked: BTreeMap<String, Selection> = BTreeMap::new();
    let selection = |ids| Selection { ids, all: selected.all, step: selected.step.clone() };
    match (&selected.channel, selected.all) {
        (Some(channel), _) => drop(asked.insert(channel.clone(), selection(selected.ids.clone()))),
        (None, true) => {
            let running = server::status(&runtime_path, None)?.channels;
            for channel in running.into_iter().filter(|channel| channel.pid.is_some()) {
                asked.insert(channel.name, selection(Vec::new()));
            }
        }
        (None, false) => {
            let state_path = server::load(config)?.config.service.state_path;
            for id in &selected.ids {
                let channel = channel_of(&state_path, id)?;
                asked.entry(channel).or_insert_with(|| selection(Vec::new())).ids.push(id.clone());
            }
        }
    }
    let mut out = output::stdout();
    let (mut total, mut wrong) = (0, false);
    for (channel, selection) in asked {
        match server::ask(&runtime_path, &channel, question(selection)) {
            Ok(Answer::Changed { count, problems }) => {
                total += count;
                wrong |= !problems.is_empty();
                problems.iter().for_each(|problem| output::complain(&format!("{channel}: {problem}")));
            }
            Ok(other) => return Err(Fail::Failed(format!("{channel}: answered something else: {other:?}"))),
            Err(Fail::Failed(reason)) => {
                wrong = true;
                output::complain(&reason);
            }
            Err(other) => return Err(other),
        }
    }
    writeln!(out, "{total} {} {done}", if total == 1 { "message" } else { "messages" })?;
    if wrong { Err(Fail::Said) } else { Ok(()) }
}

/// The folder of a channel's failed messages.
pub(super) fn folder(state_path: &Path, channel: &str) -> PathBuf {
    state_path.join(channel).join("failed")
}

/// Channels that have a state folder, those that the configuration no longer names included: their messages stay.
pub(super) fn channels(state_path: &Path) -> Result<Vec<String>, Fail> {
    let entries = match fs::read_dir(state_path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Fail::io(format!("read \"{}\"", state_path.display()), &error));
        }
    };
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let mut names: Vec<String> = entries
        .flatten()
        .filter(is_folder)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

fn records_of(state_path: &Path, channel: &str) -> Result<Vec<Record>, Fail> {
    let folder = folder(state_path, channel);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Fail::io(format!("read \"{}\"", folder.display()), &error)),
    };
    let mut records = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || !name.ends_with(".json") {
            continue;
        }
        match read(&path) {
            Ok(record) => records.push(record),
            // Retried or discarded between the listing and here.
            Err(_) if !path.exists() => {}
            Err(Fail::Failed(reason)) => output::complain(&reason),
            Err(other) => return Err(other),
        }
    }
    Ok(records)
}

fn read(path: &Path) -> Result<Record, Fail> {
    let text = fs::read(path).map_err(|error| Fail::io(format!("read \"{}\"", path.display()), &error))?;
    serde_json::from_slice(&text)
        .map_err(|error| Fail::Failed(format!("cannot understand \"{}\": {error}", path.display())))
}

/// The channel that lists the message as failed.
fn channel_of(state_path: &Path, id: &str) -> Result<String, Fail> {
    // The id goes into a path.
    let id: journal::MessageId =
        id.parse().map_err(|_| Fail::Failed(format!("\"{id}\" is no message id")))?;
    channels(state_path)?
        .into_iter()
        .find(|channel| folder(state_path, channel).join(format!("{id}.json")).exists())
        .ok_or_else(|| Fail::Failed(format!("no failed message has the id {id}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_messages_are_found_without_the_server_or_its_configuration() {
        let state = tempfile::tempdir().unwrap();
        let id = journal::MessageId::new(1_747_044_930_000, 7).to_string();
        let folder = folder(state.path(), "gone");
        fs::create_dir_all(&folder).unwrap();
        let record = serde_json::json!({
            "id": id, "channel": "gone", "control_id": "A\u{1b}", "message_type": "ADT^A01", "received_us": 1,
            "failed_us": 2, "step": "archive", "reason": "no room", "attempts": 3, "steps_done": ["lookup"],
        });
        fs::write(folder.join(format!("{id}.json")), record.to_string()).unwrap();
        fs::write(folder.join(".half.json"), "{").unwrap();
        assert_eq!(channels(state.path()).unwrap(), ["gone"]);
        let records = records_of(state.path(), "gone").unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].steps_done, ["lookup"]);
        assert_eq!(channel_of(state.path(), &id).unwrap(), "gone");
    }

    #[test]
    fn an_id_that_leads_out_of_the_folder_is_none() {
        let state = tempfile::tempdir().unwrap();
        assert!(channel_of(state.path(), "../../../etc/passwd").is_err());
        assert!(channels(&state.path().join("absent")).unwrap().is_empty());
    }
}
