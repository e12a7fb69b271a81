//! The steps. Each takes a message that has been read and mapped, and either stages files or ends; none knows the
//! others, the session, or which attempt this is.

pub mod archive;
pub mod attachment;
pub mod credentials;
pub mod credentials_merge;
pub mod db_merge;
pub mod drop_folder;
pub mod insert;
pub mod lookup;
pub mod remote_drop;
pub mod resend;
pub mod solr;
pub mod stamp;

use crate::dispatcher::StepEnd;
use crate::extract::Metadata;
use crate::files::{Arrival, FileBatch, FileFault, NewFile, Staged};
use crate::names::NameParts;
use config::{Channel, Workflow};
use hl7::message::Message;
use jiff::Zoned;
use journal::MessageId;

/// What a step does its work from.
#[derive(Debug)]
pub struct Context<'a> {
    /// The settings.
    pub channel: &'a Channel,
    /// Our id of the message.
    pub id: MessageId,
    /// What is done with it.
    pub workflow: Workflow,
    /// Who sent it.
    pub peer: &'a str,
    /// Time of receipt, with its offset from UTC then.
    pub received: &'a Zoned,
    /// Steps that have been tried before, by place, with the time of the first attempt in microseconds of Unix time.
    pub first_tried: &'a [(u8, i64)],
    /// The time of this attempt, microseconds of Unix time.
    pub now_us: i64,
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

impl Context<'_> {
    /// When a step was first tried, microseconds of Unix time: what a retry repeats.
    pub fn first_tried_us(&self, place: usize) -> i64 {
        let earlier = self.first_tried.iter().find(|(p, _)| usize::from(*p) == place);
        earlier.map_or(self.now_us, |(_, us)| *us)
    }
}

/// How far a step came.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Done once these files are in place and flushed.
    Staged(Vec<Staged>),
    /// Goes out with what the job's other messages have for the same peer; the number it has among them.
    Gathered(usize),
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
    (root, below, arrival): (&std::path::Path, &str, Arrival),
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
            arrival,
            order: context.order,
        };
        match batch.stage(&file, &attachment.bytes) {
            Ok(file) => staged.push(file),
            Err(fault) => return Progress::Ended(again(&fault)),
        }
    }
    Progress::Staged(staged)
}
