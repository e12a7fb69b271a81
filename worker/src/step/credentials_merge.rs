//! The merge step of dfapi: each pair of the message is a call, in the order of the message.

use super::{Context, Progress};
use crate::dfapi::DfapiClient;
use crate::dispatcher::StepEnd;
use crate::extract::type_and_event;
use crate::merges::merges;
use crate::task::{self, Head};

/// The calls of a message: idempotency key and task.
///
/// # Errors
/// The message does not say who becomes whom.
pub fn tasks(context: &Context<'_>) -> Result<Vec<(String, Vec<u8>)>, String> {
    let message = context.message.ok_or("the message was not read")?;
    let (_, event) = type_and_event(message);
    let channel = context.channel;
    let head = Head { id: context.id, event: &event, channel: &channel.name, received: context.received };
    let mut tasks = Vec::new();
    for (n, merge) in merges(message, channel)?.iter().enumerate() {
        // One key for several pairs would make the second a repetition of the first.
        let key = if n == 0 { context.id.to_string() } else { format!("{}-{}", context.id, n + 1) };
        let own;
        let metadata = if merge.is_first() {
            context.metadata
        } else {
            own = merge.metadata(message, channel)?;
            &own
        };
        let patient = &channel.credentials_metadata;
        tasks.push((key, task::merge(&head, &merge.prior, &merge.surviving, patient, metadata)));
    }
    Ok(tasks)
}

/// Makes the calls. A retry makes those again that went through: their keys tell.
pub fn run(context: &Context<'_>, client: &mut DfapiClient) -> Progress {
    let tasks = match tasks(context) {
        Ok(tasks) => tasks,
        Err(reason) => return Progress::Failed(reason),
    };
    for (key, task) in tasks {
        if let Err(fault) = client.merge(&key, &task) {
            return fault.into();
        }
    }
    Progress::Ended(StepEnd::Over)
}
