//! The remote drop step: the attachments, or the credential task, into one folder of an SFTP server.

use super::drop_folder::TASK_SUFFIX;
use super::{Attachments, Context, Progress, credentials};
use crate::dispatcher::StepEnd;
use crate::sftp::SftpClient;
use config::Workflow;

/// Puts the files into the client's folder. After a fault those that are there already are found by a retry.
pub fn run(context: &Context<'_>, attachments: &mut Attachments, client: &mut SftpClient) -> Progress {
    if context.workflow == Workflow::Credentials {
        return put_task(context, client);
    }
    let found = match attachments.of(context) {
        Ok(found) => found,
        Err(reason) => return Progress::Failed(reason),
    };
    for (at, attachment) in found.iter().enumerate() {
        let number = (found.len() > 1).then_some(at + 1);
        let stem = context.names.attachment_stem(number);
        let id = context.names.message_id;
        match client.put("", &stem, attachment.suffix, id, &attachment.bytes) {
            Ok(put) if put.was_there => log::debug!("id={id} attachment {} was there already", at + 1),
            Ok(_) => {}
            Err(fault) => return fault.into(),
        }
    }
    Progress::Ended(StepEnd::Over)
}

fn put_task(context: &Context<'_>, client: &mut SftpClient) -> Progress {
    let task = match credentials::task_bytes(context) {
        Ok(task) => task,
        Err(reason) => return Progress::Failed(reason),
    };
    let names = context.names;
    match client.put("", &names.task_stem(), TASK_SUFFIX, names.message_id, &task) {
        Ok(_) => Progress::Ended(StepEnd::Over),
        Err(fault) => fault.into(),
    }
}
