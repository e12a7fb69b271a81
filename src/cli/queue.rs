//! `queue`: what waits, why, and until when.

use super::output::{self, Align, Table, grouped, local_time};
use super::{Fail, Outcome, failed, server, show};
use journal::{MessageId, OwnedReceived, Replayed};
use std::io::Write;
use std::path::Path;

/// Messages that wait
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the messages that wait, the oldest first
    List(List),
    /// Print why a message waits, and its fields
    Show(ShowOne),
}

/// Arguments of `queue list`.
#[derive(clap::Args)]
pub(super) struct List {
    /// This channel only
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// At most so many of each channel
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Print one JSON object a message
    #[arg(long)]
    json: bool,
}

/// Arguments of `queue show`.
#[derive(clap::Args)]
pub(super) struct ShowOne {
    /// The message's id
    #[arg(value_name = "MESSAGE-ID")]
    id: MessageId,
    /// Print JSON objects
    #[arg(long)]
    json: bool,
}

/// Carries out `queue …`.
pub(super) fn run(config: &Path, command: &Command) -> Outcome {
    match command {
        Command::List(arguments) => list(config, arguments),
        Command::Show(arguments) => show_one(config, arguments),
    }
}

fn list(config: &Path, arguments: &List) -> Outcome {
    let runtime_path = server::runtime_path(config);
    let channels = match &arguments.channel {
        Some(name) => vec![name.clone()],
        None => {
            let running = server::status(&runtime_path, None)?.channels;
            running.into_iter().filter(|channel| channel.pid.is_some()).map(|channel| channel.name).collect()
        }
    };
    let mut out = output::stdout();
    let mut table = Table::new(&[
        ("CHANNEL", Align::Left),
        ("MESSAGE ID", Align::Left),
        ("CONTROL ID", Align::Left),
        ("TYPE", Align::Left),
        ("RECEIVED", Align::Left),
        ("STEP", Align::Left),
        ("ATTEMPT", Align::Right),
        ("AGAIN AT", Align::Left),
        ("REASON", Align::Left),
    ]);
    let mut hidden = Vec::new();
    for channel in &channels {
        let (waiting, total) = server::queue(&runtime_path, channel, arguments.limit)?;
        if total > waiting.len() as u64 {
            hidden.push(format!("{channel}: {} messages wait, {} are listed", grouped(total), waiting.len()));
        }
        for message in waiting {
            if arguments.json {
                let mut object = serde_json::json!(message);
                object["channel"] = channel.as_str().into();
                writeln!(out, "{object}")?;
                continue;
            }
            table.row(vec![
                channel.clone(),
                message.id,
                message.control_id,
                message.message_type,
                local_time(message.received_us),
                message.step,
                message.attempt.to_string(),
                message.until_us.map_or_else(|| "-".to_owned(), local_time),
                message.reason,
            ]);
        }
    }
    if !arguments.json {
        table.print(&mut out)?;
    }
    for line in hidden {
        output::complain(&line);
    }
    Ok(())
}

/// Reads the journals, so that it works while the server is down, and for a channel that is in the file no more.
fn show_one(config: &Path, arguments: &ShowOne) -> Outcome {
    let loaded = server::load(config)?;
    let state_path = &loaded.config.service.state_path;
    for channel in failed::channels(state_path)? {
        let found = match find(&state_path.join(&channel).join("journal"), arguments.id) {
            Ok(found) => found,
            Err(reason) => {
                output::complain(&format!("{channel}: could not read the journal: {reason}"));
                continue;
            }
        };
        let Some((waiting, message)) = found else { continue };
        let encoding = loaded.config.channel(&channel).map(|channel| channel.encoding);
        print_record(&channel, &waiting, &message, arguments.json)?;
        let how = show::How { json: arguments.json, ..show::How::default() };
        return show::print(&mut output::stdout(), &message.body, encoding, &how);
    }
    Err(Fail::Failed(format!("no message that waits has the id {}", arguments.id)))
}

/// The message, if it is open in this journal.
fn find(journal: &Path, id: MessageId) -> Result<Option<(Replayed, OwnedReceived)>, String> {
    if !journal.is_dir() {
        return Ok(None);
    }
    let journal = journal::read_only(journal).map_err(|error| output::plain(&error))?;
    let mut found = None;
    let mut look = |message: Replayed| {
        if message.id == id {
            found = Some(message);
        }
    };
    journal.messages(&mut look).map_err(|error| error.to_string())?;
    let Some(waiting) = found else { return Ok(None) };
    let message = journal.read(waiting.location).map_err(|error| error.to_string())?;
    // Delivered, and its segment retired, between one look and the other.
    Ok(message.map(|message| (waiting, message)))
}

fn print_record(channel: &str, waiting: &Replayed, message: &OwnedReceived, json: bool) -> Outcome {
    let mut out = output::stdout();
    if json {
        let steps: Vec<_> = waiting
            .again
            .iter()
            .map(|again| {
                serde_json::json!({
                    "step": again.step,
                    "attempt": again.attempt,
                    "since_us": again.since_us,
                    "until_us": again.until_us,
                    "reason": again.reason,
                })
            })
            .collect();
        let record = serde_json::json!({
            "id": waiting.id.to_string(),
            "channel": channel,
            "received_us": waiting.time_us,
            "peer": message.peer,
            "steps_done": waiting.steps_done,
            "waits": steps,
        });
        writeln!(out, "{record}")?;
        return Ok(());
    }
    let lines = [
        ("channel", channel.to_owned()),
        ("message id", waiting.id.to_string()),
        ("received", local_time(waiting.time_us)),
        ("from", message.peer.clone()),
        (
            "steps done",
            if waiting.steps_done.is_empty() { "-".to_owned() } else { waiting.steps_done.join(", ") },
        ),
    ];
    for (name, value) in lines {
        writeln!(out, "{name:<12} {}", crate::logging::escape_controls(&value))?;
    }
    for again in &waiting.again {
        let text = format!(
            "{}, since {}, attempt {}, again at {}: {}",
            again.step,
            local_time(again.since_us),
            again.attempt,
            local_time(again.until_us),
            again.reason
        );
        writeln!(out, "{:<12} {}", "waits for", crate::logging::escape_controls(&text))?;
    }
    writeln!(out)?;
    Ok(())
}
