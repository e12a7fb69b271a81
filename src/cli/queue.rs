//! `queue`: what waits, why, and until when.

use super::output::{self, Align, Table, grouped, local_time};
use super::{Outcome, server};
use std::io::Write;
use std::path::Path;

/// Messages that wait
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the messages that wait, the oldest first
    List(List),
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

/// Carries out `queue …`.
pub(super) fn run(config: &Path, command: &Command) -> Outcome {
    let Command::List(arguments) = command;
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
