//! `find`: messages by what is known of them, from the indexes that the workers keep. Reads files only: the server need
//! not run.

use super::output::{self, Align, Table, local_time};
use super::{Fail, Outcome, failed, server, time};
use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use worker::find_index::{self, Found, Query};

/// Find messages by control id, patient id, accession number, type, time or outcome
///
/// All that is given must hold. A message is found once it has been delivered, has failed, or waits for another attempt;
/// how long it stays is the archive's retention_days. `show MESSAGE-ID` prints what was found.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// MSH-10, as the sender wrote it
    #[arg(long, value_name = "ID")]
    control_id: Option<String>,
    /// The patient's id: at patient_id_field, else the mapping patient_id, else PID-3
    #[arg(long, value_name = "ID")]
    patient_id: Option<String>,
    /// The accession number: at accession_number_field, else the mapping accession_number
    #[arg(long, value_name = "NUMBER")]
    accession: Option<String>,
    /// MSH-9, as ADT^A01
    #[arg(long = "type", value_name = "TYPE")]
    message_type: Option<String>,
    /// done, failed, waiting, returned, discarded, or archived (known from the archive alone)
    #[arg(long)]
    outcome: Option<find_index::Outcome>,
    /// Received then or later: 2026-01-31, 2026-01-31T14:05, 14:05, today, 3h (ago)
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<i64>,
    /// Received before then
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    until: Option<i64>,
    /// This channel only
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// At most so many, the latest received
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Print one JSON object a message
    #[arg(long)]
    json: bool,
}

/// Carries out `find`.
pub(super) fn run(config: &Path, arguments: &Arguments) -> Outcome {
    let state_path = server::state_path(config)?;
    let channels = match &arguments.channel {
        Some(name) => vec![name.clone()],
        None => failed::channels(&state_path)?,
    };
    let limit = arguments.limit as usize;
    let query = Query {
        id: None,
        control_id: arguments.control_id.clone(),
        patient_id: arguments.patient_id.clone(),
        accession_number: arguments.accession.clone(),
        message_type: arguments.message_type.clone(),
        outcome: arguments.outcome,
        since_us: arguments.since,
        until_us: arguments.until,
        limit,
    };
    let mut rows: Vec<(String, Found)> = Vec::new();
    let (mut searched, mut more, mut unreadable) = (0, false, false);
    for channel in channels {
        match find_index::search(&state_path, &channel, &query) {
            Ok(None) => {}
            Ok(Some(search)) => {
                searched += 1;
                more |= search.more;
                if search.incomplete {
                    output::complain(&format!("{channel}: its index is being completed; there may be more"));
                }
                rows.extend(search.found.into_iter().map(|found| (channel.clone(), found)));
            }
            // The other channels' messages are worth having.
            Err(fault) => {
                unreadable = true;
                output::complain(&format!("{channel}: {fault}"));
            }
        }
    }
    let rows = latest(rows, limit, &mut more);
    print(&rows, arguments.json)?;
    if more {
        output::complain(&format!("there are more; these are the latest {limit} (--limit)"));
    }
    match (unreadable, searched, &arguments.channel) {
        (true, ..) => Err(Fail::Said),
        (false, 0, Some(name)) => Err(Fail::Failed(format!("there is no index of a channel \"{name}\""))),
        _ => Ok(()),
    }
}

/// The latest of all channels, in the order in which they came. Channels that share an archive may both know a file of
/// it once an index was made anew: the one that knows the message wins.
fn latest(mut rows: Vec<(String, Found)>, limit: usize, more: &mut bool) -> Vec<(String, Found)> {
    let named: HashSet<_> =
        rows.iter().filter(|(_, f)| f.id.is_some()).filter_map(|(_, f)| f.archived.clone()).collect();
    rows.retain(|(_, found)| {
        found.id.is_some() || found.archived.as_ref().is_none_or(|a| !named.contains(a))
    });
    rows.sort_by(|a, b| (b.1.received_us, &b.1.id).cmp(&(a.1.received_us, &a.1.id)));
    *more |= rows.len() > limit;
    rows.truncate(limit);
    rows.reverse();
    rows
}

fn print(rows: &[(String, Found)], json: bool) -> Outcome {
    let mut out = output::stdout();
    if json {
        for (channel, found) in rows {
            writeln!(out, "{}", object(channel, found))?;
        }
        return Ok(());
    }
    let dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let mut table = Table::new(&[
        ("CHANNEL", Align::Left),
        ("MESSAGE ID", Align::Left),
        ("CONTROL ID", Align::Left),
        ("TYPE", Align::Left),
        ("PATIENT", Align::Left),
        ("ACCESSION", Align::Left),
        ("RECEIVED", Align::Left),
        ("OUTCOME", Align::Left),
        ("ARCHIVED AS", Align::Left),
    ]);
    for (channel, found) in rows {
        let outcome = match &found.step {
            Some(step) => format!("{} ({step})", found.outcome),
            None => found.outcome.to_string(),
        };
        table.row(vec![
            channel.clone(),
            dash(&found.id),
            found.control_id.clone(),
            found.message_type.clone(),
            dash(&found.patient_id),
            dash(&found.accession_number),
            local_time(found.received_us),
            outcome,
            found.archived.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string()),
        ]);
    }
    table.print(&mut out)?;
    Ok(())
}

fn object(channel: &str, found: &Found) -> serde_json::Value {
    serde_json::json!({
        "channel": channel,
        "id": found.id,
        "control_id": found.control_id,
        "message_type": found.message_type,
        "patient_id": found.patient_id,
        "accession_number": found.accession_number,
        "received_us": found.received_us,
        "outcome": found.outcome.name(),
        "step": found.step,
        "archived": found.archived.as_ref().map(|path| path.display().to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(id: Option<&str>, received_us: i64, archived: &str) -> (String, Found) {
        let found = Found {
            id: id.map(str::to_owned),
            received_us,
            control_id: "C".to_owned(),
            message_type: "ADT^A01".to_owned(),
            patient_id: None,
            accession_number: None,
            outcome: find_index::Outcome::Done,
            step: None,
            archived: Some(archived.into()),
        };
        ("c".to_owned(), found)
    }

    #[test]
    fn the_latest_of_all_channels_in_the_order_they_came() {
        let rows = vec![found(Some("B"), 2, "/b"), found(Some("A"), 1, "/a"), found(Some("C"), 3, "/c")];
        let mut more = false;
        let rows = latest(rows, 2, &mut more);
        assert!(more);
        assert_eq!(rows.iter().map(|(_, f)| f.received_us).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_file_known_by_its_message_is_not_listed_twice() {
        let rows = vec![found(Some("B"), 2, "/b"), found(None, 2, "/b"), found(None, 1, "/a")];
        assert_eq!(latest(rows, 9, &mut false).len(), 2);
    }
}
