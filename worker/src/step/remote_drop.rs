//! The remote drop step: the attachments into one folder of an SFTP server.

use super::{Attachments, Context, Progress};
use crate::dispatcher::StepEnd;
use crate::sftp::SftpClient;

/// Puts every attachment into the client's folder. After a fault those that are there already are found by a retry.
pub fn run(context: &Context<'_>, attachments: &mut Attachments, client: &mut SftpClient) -> Progress {
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
