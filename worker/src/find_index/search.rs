//! Looking messages up, without the worker: read-only, and bounded in what it reads.

use super::store::LAYOUT;
use super::{cut, path};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Row};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How a message ended, or that it did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every step is done.
    Done,
    /// Listed as failed.
    Failed,
    /// A step is tried again later.
    Waiting,
    /// `ack: processed`: its sender keeps it.
    Returned,
    /// It failed and was given up by hand, or by `retention_days`.
    Discarded,
    /// Found in the archive when the index was made anew; how it ended is not known.
    Archived,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 6] = [
        Outcome::Done,
        Outcome::Failed,
        Outcome::Waiting,
        Outcome::Returned,
        Outcome::Discarded,
        Outcome::Archived,
    ];

    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Failed => "failed",
            Outcome::Waiting => "waiting",
            Outcome::Returned => "returned",
            Outcome::Discarded => "discarded",
            Outcome::Archived => "archived",
        }
    }

    /// As it is stored. Never changed: indexes outlive versions.
    pub(super) fn number(self) -> i64 {
        match self {
            Outcome::Done => 0,
            Outcome::Failed => 1,
            Outcome::Waiting => 2,
            Outcome::Returned => 3,
            Outcome::Discarded => 4,
            Outcome::Archived => 5,
        }
    }

    fn of(number: i64) -> Outcome {
        Outcome::ALL.into_iter().find(|outcome| outcome.number() == number).unwrap_or(Outcome::Archived)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Outcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Outcome, String> {
        let known = || Outcome::ALL.map(Outcome::name).join(", ");
        Outcome::ALL
            .into_iter()
            .find(|outcome| outcome.name() == text)
            .ok_or_else(|| format!("known are {}", known()))
    }
}

/// What is looked for: all that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Our id.
    pub id: Option<String>,
    /// MSH-10.
    pub control_id: Option<String>,
    /// The patient id that the channel is set to know.
    pub patient_id: Option<String>,
    /// Likewise the accession number.
    pub accession_number: Option<String>,
    /// MSH-9 as `ADT^A01`.
    pub message_type: Option<String>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Received then or later, microseconds of Unix time.
    pub since_us: Option<i64>,
    /// Received before then.
    pub until_us: Option<i64>,
    /// At most so many, the latest received.
    pub limit: usize,
}

/// A message of the index.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Our id; not known of what was found in the archive.
    pub id: Option<String>,
    /// Time of receipt, microseconds of Unix time.
    pub received_us: i64,
    /// MSH-10.
    pub control_id: String,
    /// MSH-9.
    pub message_type: String,
    /// Patient id.
    pub patient_id: Option<String>,
    /// Accession number.
    pub accession_number: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// The step it failed in, or waits for.
    pub step: Option<String>,
    /// Its archived file.
    pub archived: Option<PathBuf>,
}

/// What a search of one channel found.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// The messages, the latest received first.
    pub found: Vec<Found>,
    /// There are more.
    pub more: bool,
    /// The index is being completed from the archive: there may be more than it knows.
    pub incomplete: bool,
}

/// Why an index cannot be searched.
#[derive(Debug)]
pub struct SearchFault(String);

impl fmt::Display for SearchFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SearchFault {}

/// Searches one channel's index; `None` where it has none.
///
/// # Errors
/// The index cannot be read.
pub fn search(state_path: &Path, channel: &str, query: &Query) -> Result<Option<Search>, SearchFault> {
    let path = path(state_path, channel);
    if !path.exists() {
        return Ok(None);
    }
    let fault = |error: rusqlite::Error| {
        SearchFault(format!(
            "could not read index \"{}\": {error}. It may be removed: the channel's worker makes it anew",
            path.display()
        ))
    };
    let connection = open(&path).map_err(fault)?;
    match connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(fault)? {
        LAYOUT => run(&connection, query).map(Some).map_err(fault),
        // The worker is just making it.
        0i64 => Ok(Some(Search { incomplete: true, ..Search::default() })),
        other => Err(SearchFault(format!("index \"{}\" is of another version ({other})", path.display()))),
    }
}

/// The worker keeps the index in write-ahead mode, whose side files a reader without the right to write can use but
/// not make: where they are not there, nobody writes, and the file is taken as it stands.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                uri.push(char::from(*byte))
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    let wal = path.with_file_name(format!("{}-wal", super::FILE));
    let looks = |connection: Connection| {
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
        Ok(connection)
    };
    match Connection::open_with_flags(&uri, flags).and_then(looks) {
        Err(_) if !wal.exists() => {
            Connection::open_with_flags(format!("{uri}?immutable=1"), flags).and_then(looks)
        }
        other => other,
    }
}

/// Of a key's rows that many are counted, to see which of the keys given has the fewest.
const PROBED: usize = 1_000;

fn run(connection: &Connection, query: &Query) -> rusqlite::Result<Search> {
    let mut filters: Vec<(&str, Value)> = Vec::new();
    let text = |value: &String| Value::Text(cut(value).to_owned());
    filters.extend(query.id.as_ref().map(|id| ("id", Value::Text(id.to_ascii_uppercase()))));
    filters.extend(query.control_id.as_ref().map(|v| ("control_id", text(v))));
    filters.extend(query.accession_number.as_ref().map(|v| ("accession_number", text(v))));
    filters.extend(query.patient_id.as_ref().map(|v| ("patient_id", text(v))));
    filters.extend(query.outcome.map(|outcome| ("outcome", Value::Integer(outcome.number()))));
    filters.extend(query.message_type.as_ref().map(|v| ("message_type", text(v))));
    let lead = lead(connection, &filters)?;
    // A plus keeps SQLite from using that column's index: it has no statistics to choose by, we have just counted.
    let mut wheres: Vec<String> = filters
        .iter()
        .enumerate()
        .map(|(n, (column, _))| {
            let plus = if Some(n) == lead { "" } else { "+" };
            // The index on outcomes leaves out what is done, and is used only where the text says that it may be.
            let partial = if *column == "outcome" && Some(n) == lead { " AND outcome <> 0" } else { "" };
            format!("{plus}{column} = ?{partial}")
        })
        .collect();
    let mut values: Vec<Value> = filters.into_iter().map(|(_, value)| value).collect();
    for (time, comparison) in [(query.since_us, ">="), (query.until_us, "<")] {
        if let Some(us) = time {
            wheres.push(format!("received_us {comparison} ?"));
            values.push(Value::Integer(us));
        }
    }
    let wheres = if wheres.is_empty() { String::new() } else { format!("WHERE {}", wheres.join(" AND ")) };
    values.push(Value::Integer(i64::try_from(query.limit.saturating_add(1)).unwrap_or(i64::MAX)));
    let sql = format!(
        "SELECT id, received_us, control_id, message_type, patient_id, accession_number, outcome, step, root.path, file \
         FROM message LEFT JOIN root ON root.seq = message.root {wheres} ORDER BY received_us DESC LIMIT ?"
    );
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(rusqlite::params_from_iter(values), found)?;
    let mut found = rows.collect::<rusqlite::Result<Vec<Found>>>()?;
    let more = found.len() > query.limit;
    found.truncate(query.limit);
    let incomplete = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM meta WHERE name = 'sweep_since_us')",
        [],
        |row| row.get(0),
    )?;
    Ok(Search { found, more, incomplete })
}

/// Which of the filters has the fewest rows, as far as they are counted; `None` to go by time.
fn lead(connection: &Connection, filters: &[(&str, Value)]) -> rusqlite::Result<Option<usize>> {
    let mut fewest = (PROBED, None);
    for (n, (column, value)) in filters.iter().enumerate() {
        let partial = match (*column, value) {
            // Nearly everything is done: no index holds it, and none is needed.
            ("outcome", Value::Integer(0)) => continue,
            ("outcome", _) => " AND outcome <> 0",
            _ => "",
        };
        let sql = format!(
            "SELECT count(*) FROM (SELECT 1 FROM message WHERE {column} = ?{partial} LIMIT {PROBED})"
        );
        let rows: i64 = connection.query_row(&sql, [value], |row| row.get(0))?;
        let rows = usize::try_from(rows).unwrap_or(PROBED);
        // Where all of them have many, any does: the latest are soon together.
        if rows < fewest.0 || fewest.1.is_none() {
            fewest = (rows, Some(n));
        }
    }
    Ok(fewest.1)
}

fn found(row: &Row<'_>) -> rusqlite::Result<Found> {
    let (root, file): (Option<String>, Option<String>) = (row.get(8)?, row.get(9)?);
    Ok(Found {
        id: row.get(0)?,
        received_us: row.get(1)?,
        control_id: row.get(2)?,
        message_type: row.get(3)?,
        patient_id: row.get(4)?,
        accession_number: row.get(5)?,
        outcome: Outcome::of(row.get(6)?),
        step: row.get(7)?,
        archived: root.zip(file).map(|(root, file)| Path::new(&root).join(file)),
    })
}
