//! The credentials step: the credential task of a message, to dfapi; the drop folders take the same bytes.

use super::{Context, Progress};
use crate::dfapi::DfapiClient;
use crate::dispatcher::StepEnd;
use crate::extract::type_and_event;
use crate::task::{self, Head};

/// The credential task of a message.
///
/// # Errors
/// The message was not read, or the pattern of `mobile` gave up on a value.
pub fn task_bytes(context: &Context<'_>) -> Result<Vec<u8>, String> {
    let message = context.message.ok_or("the message was not read")?;
    let (_, event) = type_and_event(message);
    let channel = context.channel;
    task::credentials(
        &Head { id: context.id, event: &event, channel: &channel.name, received: context.received },
        &channel.credentials_metadata,
        &channel.book_metadata,
        channel.mobile.as_ref(),
        context.metadata,
    )
}

/// Sends the task.
pub fn run(context: &Context<'_>, client: &mut DfapiClient) -> Progress {
    let task = match task_bytes(context) {
        Ok(task) => task,
        Err(reason) => return Progress::Failed(reason),
    };
    match client.credentials(&context.id.to_string(), &task) {
        Ok(()) => Progress::Ended(StepEnd::Over),
        Err(fault) => fault.into(),
    }
}
