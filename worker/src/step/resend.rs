//! The resend step: the message, its bytes as they came, to another MLLP receiver.

use super::{Context, Progress};
use crate::dispatcher::StepEnd;
use crate::fault::Fault;
use crate::resend::ResendClient;
use hl7::charset;

/// Sends the message on where `wanted`, the filter's verdict, says so; without a filter that is `Ok(true)`.
pub fn run(context: &Context<'_>, wanted: Result<bool, Fault>, client: &mut ResendClient) -> Progress {
    match wanted {
        Ok(true) => {}
        Ok(false) => return Progress::Ended(StepEnd::Over),
        Err(fault) => return fault.into(),
    }
    let encoding = context.channel.encoding;
    let readable = charset::transcode_start(context.body, encoding);
    let header = match &readable {
        Ok(readable) => readable.header(),
        Err(fault) => return Progress::Failed(fault.to_string()),
    };
    let sent = match header {
        Ok(header) => client.send(context.body, header.control_id(), encoding),
        Err(fault) => return Progress::Failed(fault.to_string()),
    };
    if context.channel.debug_message
        && let Some(answer) = client.last_answer()
    {
        let answer = charset::decode(answer, encoding).text;
        log::info!("id={} {} answered {answer:?}", context.names.message_id, client.peer());
    }
    match sent {
        Ok(()) => Progress::Ended(StepEnd::Over),
        Err(fault) => fault.into(),
    }
}
