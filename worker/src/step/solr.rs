//! The Solr step: the message as a document. Documents of one job go out together.

use super::{Context, Progress};
use crate::dispatcher::StepEnd;
use crate::fault::Fault;
use crate::solr::{self, Document, Facts};

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
