//! The steps. Each takes a message that has been read and mapped, and either stages files or ends; none knows the
//! others, the session, or which attempt this is.

pub mod archive;
pub mod attachment;
pub mod drop_folder;
pub mod stamp;

use crate::dispatcher::StepEnd;
use crate::extract::Metadata;
use crate::files::{FileBatch, FileFault, NewFile, Staged};
use crate::names::NameParts;
use config::Channel;
use hl7::message::Message;

/// What a step does its work from.
#[derive(Debug)]
pub struct Context<'a> {
    /// The settings.
    pub channel: &'a Channel,
    /// The message's bytes as they came.
    pub body: &'a [u8],
    /// The message, read; `None` before the mapping.
    pub message: Option<&'a Message<'a>>,
    /// Its metadata.
    pub metadata: &'a Metadata,
    /// What its files are named from.
    pub names: &'a NameParts,
    /// The folder below an archive's root, from the time of receipt.
    pub below: &'a str,
    /// Its order key: its files stand behind those of an earlier message with the same key.
    pub order: Option<u64>,
}

/// How far a step came.
#[derive(Debug)]
pub enum Progress {
    /// Done once these files are in place and flushed.
    Staged(Vec<Staged>),
    /// It ended.
    Ended(StepEnd),
    /// A fault that stays, with its reason: the message fails.
    Failed(String),
}

/// A file's fault as a step's end.
pub fn again(fault: &FileFault) -> StepEnd {
    StepEnd::Again { reason: fault.reason.clone(), target_down: fault.folder_down, wanted_us: None }
}

/// The attachments of one message, taken out and stamped when the first step asks for them.
#[derive(Debug, Default)]
pub struct Attachments(Option<Result<stamp::Marked, String>>);

impl Attachments {
    /// What was made of them, if a step asked.
    pub fn marked(&self) -> Option<&stamp::Marked> {
        self.0.as_ref()?.as_ref().ok()
    }

    /// All of them, or why there are none.
    pub fn of(&mut self, context: &Context<'_>) -> Result<&[attachment::Attachment], String> {
        let find = || match context.message {
            Some(message) => {
                let found = attachment::find(message, context.channel)?;
                stamp::mark(found, context.channel, context.metadata)
            }
            None => Err("the message was not read".to_owned()),
        };
        let found = self.0.get_or_insert_with(find);
        found.as_ref().map(|marked| marked.attachments.as_slice()).map_err(|reason| reason.clone())
    }
}

/// Where a step writes one file an attachment.
fn stage_attachments(
    context: &Context<'_>,
    attachments: &mut Attachments,
    batch: &mut FileBatch<'_>,
    root: &std::path::Path,
    below: &str,
    place: usize,
) -> Progress {
    let found = match attachments.of(context) {
        Ok(found) => found,
        Err(reason) => return Progress::Failed(reason),
    };
    let mut staged = Vec::new();
    for (at, attachment) in found.iter().enumerate() {
        let number = (found.len() > 1).then_some(at + 1);
        let file = NewFile {
            root,
            below,
            stem: &context.names.attachment_stem(number),
            suffix: attachment.suffix,
            id: context.names.message_id,
            part: (place, at),
            order: context.order,
        };
        match batch.stage(&file, &attachment.bytes) {
            Ok(file) => staged.push(file),
            Err(fault) => return Progress::Ended(again(&fault)),
        }
    }
    Progress::Staged(staged)
}
