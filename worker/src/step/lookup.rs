//! The look-ups of `db_mapping`: what a step's metadata gains from the database before the step is carried out.

use super::{Context, Progress, insert};
use crate::extract::Metadata;
use db::Client;

/// The message's metadata with what the channel looks up.
///
/// # Errors
/// How the step that wanted it ends: again, or failed where there is no row or more than one value.
pub fn complete(context: &Context<'_>, client: &mut Client) -> Result<Metadata, Progress> {
    let mut metadata = context.metadata.clone();
    for (place, lookup) in context.channel.db_mapping.iter().enumerate() {
        let wanted = context.metadata.get(&lookup.matches);
        match client.lookup(place, wanted) {
            Ok(value) => metadata.push(&lookup.name, value),
            Err(fault) => return Err(insert::ended(fault)),
        }
    }
    Ok(metadata)
}
