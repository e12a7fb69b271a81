//! The merge in the database: the rows of each patient merged away become the surviving patient's.

use super::{Context, Progress, insert};
use crate::dispatcher::StepEnd;
use crate::merges::merges;
use db::{Client, Table, Value};

/// The ids of each pair as their column has them: surviving, prior.
///
/// # Errors
/// The message does not say who becomes whom, or an id does not fit the column.
pub fn pairs(context: &Context<'_>, table: &Table) -> Result<Vec<(Value, Value)>, String> {
    let message = context.message.ok_or("the message was not read")?;
    let merges = merges(message, context.channel)?;
    merges.iter().map(|merge| table.merge_values(&merge.surviving, &merge.prior)).collect()
}

/// What would be sent for a message: statements with their parameters.
///
/// # Errors
/// As [`pairs`].
pub fn trial(context: &Context<'_>, table: &Table) -> Result<Vec<(String, Vec<String>)>, String> {
    let message = context.message.ok_or("the message was not read")?;
    let merges = merges(message, context.channel)?;
    merges.iter().map(|merge| table.trial_merge(&merge.surviving, &merge.prior)).collect()
}

/// Carries out all pairs of a message in one transaction.
pub fn run(context: &Context<'_>, client: &mut Client) -> Progress {
    let pairs = match pairs(context, client.table()) {
        Ok(pairs) => pairs,
        Err(reason) => return Progress::Failed(reason),
    };
    match client.merge(&pairs) {
        Ok(rows) => {
            let table = &client.table().name();
            log::info!(
                "id={} db_merge: {rows} rows of table {table:?} changed, {} pairs",
                context.id,
                pairs.len()
            );
            Progress::Ended(StepEnd::Over)
        }
        Err(fault) => insert::ended(fault),
    }
}
