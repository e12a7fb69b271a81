//! The Solr step: the message as a document. Documents of one job go out together. The filter of resend asks here too.

use super::{Context, Progress};
use crate::dispatcher::StepEnd;
use crate::fault::Fault;
use crate::solr::{self, Document, Facts, SolrClient};
use config::ResendFilter;

/// The document of a message.
///
/// # Errors
/// The message was not read.
pub fn document(context: &Context<'_>) -> Result<Document, String> {
    let message = context.message.ok_or("the message was not read")?;
    Ok(solr::document(&Facts {
        id: context.id,
        channel: &context.channel.name,
        control_id: &context.names.control_id,
        received: context.received,
        peer: context.peer,
        message,
        metadata: context.metadata,
        segments: &context.channel.solr_segments,
    }))
}

/// What became of a document.
pub fn progress(result: Result<(), Fault>) -> Progress {
    result.map_or_else(Progress::from, |()| Progress::Ended(StepEnd::Over))
}

/// What the filter of resend says of a message.
///
/// # Errors
/// It could not be looked up; never taken for a no.
pub fn forwards(
    context: &Context<'_>,
    filter: &ResendFilter,
    client: &mut SolrClient,
) -> Result<bool, Fault> {
    let message = context.message.ok_or_else(|| Fault::Failed("the message was not read".to_owned()))?;
    let value = message.text(&filter.match_source).filter(|value| !value.is_empty());
    if value.is_none() {
        log::info!("id={} is not forwarded: nothing at match_source {}", context.id, filter.match_source);
    }
    client.filter_says(filter, value.as_deref())
}
