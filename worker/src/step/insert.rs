//! The insert: one row of a message's metadata.

use super::{Context, Progress};
use crate::dispatcher::StepEnd;
use db::{Client, Fault, Inserted, Row, Source, Table};
use jiff::Timestamp;

/// The row of a message.
///
/// # Errors
/// The column and what is wrong with its value.
pub fn row(context: &Context<'_>, place: usize, table: &Table) -> Result<Row, String> {
    from_source(context, place, table, |source| table.row(source))
}

/// What would be sent for a message: statements with their parameters.
///
/// # Errors
/// As [`row`].
pub fn trial(
    context: &Context<'_>,
    place: usize,
    table: &Table,
) -> Result<Vec<(String, Vec<String>)>, String> {
    from_source(context, place, table, |source| table.trial(source))
}

fn from_source<T>(
    context: &Context<'_>,
    place: usize,
    table: &Table,
    make: impl FnOnce(&Source<'_>) -> Result<T, String>,
) -> Result<T, String> {
    let first = Timestamp::from_microsecond(context.first_tried_us(place)).unwrap_or(Timestamp::UNIX_EPOCH);
    make(&Source {
        id: &context.id.to_string(),
        value: &|name| context.metadata.get(name),
        now: table.zone().to_datetime(first),
    })
}

/// Inserts the row of a message.
pub fn run(context: &Context<'_>, place: usize, client: &mut Client) -> Progress {
    match row(context, place, client.table()) {
        Ok(row) => progress(client.insert(&row)),
        Err(reason) => Progress::Failed(reason),
    }
}

/// An insert as a step's progress. A row that was there already is one that an earlier attempt inserted.
pub fn progress(done: Result<Inserted, Fault>) -> Progress {
    match done {
        Ok(Inserted::New | Inserted::AlreadyThere) => Progress::Ended(StepEnd::Over),
        Err(fault) => ended(fault),
    }
}

/// A database's fault as a step's progress.
pub fn ended(fault: Fault) -> Progress {
    match fault {
        Fault::Again { reason, target_down, wanted_us } => {
            Progress::Ended(StepEnd::Again { reason, target_down, wanted_us })
        }
        Fault::Duplicate(reason) | Fault::Failed(reason) => Progress::Failed(reason),
    }
}
