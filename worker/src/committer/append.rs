//! What the other threads want of the committer.

use crate::direct_answer::DirectAnswer;
use crate::dispatcher::Wait;
use crate::plan::StepSet;
use config::Workflow;
use crossbeam_channel::Sender;
use hl7::ack::Refusal;
use journal::{Location, MessageId, Tag};
use std::sync::Arc;

/// Whose answer waits: a session and the place of the answer in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The session's place in the reactor's table.
    pub session: usize,
    /// Tells it from an earlier session in the same place.
    pub generation: u64,
    /// The answer.
    pub answer: u64,
    /// The message's place in a batch whose messages share one answer.
    pub part: Option<u32>,
    /// The message, to be forgotten where it could not be stored.
    pub id: MessageId,
    /// When the frame was complete, microseconds of the worker's time.
    pub complete_us: i64,
    /// Bytes of the message, which count against `buffer_limit` until it is flushed.
    pub bytes: usize,
    /// What is stored for it.
    pub stores: Stores,
}

/// What is stored for a message of the intake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stores {
    /// A message that was not here before.
    New,
    /// One that was, and had ended.
    Anew,
    /// Nothing: it is here.
    Nothing,
}

/// One message of the intake.
#[derive(Debug)]
pub struct Intake {
    /// Whose answer waits for it.
    pub origin: Origin,
    /// What is to be stored.
    pub kind: IntakeKind,
    /// Its answer, where it may go out before the reactor hears of the flush.
    pub direct: Option<DirectAnswer>,
}

/// What the intake wants stored.
#[derive(Debug)]
pub enum IntakeKind {
    /// A new message.
    New(Box<NewMessage>),
    /// One that is stored already, perhaps in this very batch: its answer waits for that flush.
    Known,
    /// One that failed before, or was given up, sent again: it is queued again, unless that was done meanwhile.
    Again(Box<NewMessage>),
    /// One that its sender kept, sent again: it goes on behind these steps.
    Resumed(Box<NewMessage>, Vec<String>),
}

/// A message to store.
#[derive(Debug)]
pub struct NewMessage {
    /// Our id for it.
    pub id: MessageId,
    /// Time of receipt, microseconds of Unix time.
    pub received_us: i64,
    /// Offset of local time from UTC, seconds.
    pub utc_offset_s: i32,
    /// Who sent it.
    pub peer: Arc<str>,
    /// Order keys.
    pub keys: Vec<u64>,
    /// What duplicates of it are known by.
    pub tag: Tag,
    /// What is done with it.
    pub workflow: Workflow,
    /// Its bytes as they came.
    pub body: Vec<u8>,
}

/// What delivery reports of a job.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Messages with nothing left to do.
    pub done: Vec<MessageId>,
    /// Steps done of messages that have others left, by place.
    pub steps: Vec<(MessageId, usize)>,
    /// Steps that wait for another attempt.
    pub waits: Vec<(MessageId, Wait)>,
    /// Messages that failed, with the step; their files are in the failed folder.
    pub failed: Vec<(MessageId, String)>,
    /// Segments with a record that cannot be read back.
    pub damaged: Vec<u32>,
    /// `ack: processed`: messages whose senders keep them.
    pub returned: Vec<Returned>,
    /// Messages with the strikes they have now.
    pub strikes: Vec<(MessageId, u8)>,
    /// Records that no message needs any more.
    pub gone: Vec<Location>,
}

/// A message that its sender keeps: it is answered with a refusal once that is on record.
#[derive(Clone, Debug)]
pub struct Returned {
    /// Its id.
    pub id: MessageId,
    /// Where its bytes are.
    pub location: Location,
    /// Steps it still had before it.
    pub pending: StepSet,
    /// What its sender is told.
    pub refusal: &'static Refusal,
}

impl IntakeKind {
    /// What is stored for it.
    pub fn stores(&self) -> Stores {
        match self {
            IntakeKind::New(_) => Stores::New,
            IntakeKind::Again(_) | IntakeKind::Resumed(..) => Stores::Anew,
            IntakeKind::Known => Stores::Nothing,
        }
    }
}

impl Outcomes {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
            && self.steps.is_empty()
            && self.waits.is_empty()
            && self.failed.is_empty()
            && self.returned.is_empty()
            && self.strikes.is_empty()
            && self.gone.is_empty()
    }
}

/// What a retry or discard by hand came to.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    /// So many messages.
    pub count: u64,
    /// Why others were not.
    pub problems: Vec<String>,
}

/// What is appended.
#[derive(Debug)]
pub enum Append {
    /// The messages of one turn of the event loop.
    Intake(Vec<Intake>),
    /// What delivery reports. Boxed: a place in the queue is as large as the largest of these.
    Outcomes(Box<Outcomes>),
    /// Failed messages to be tried again, and who is told what came of it.
    Retry(Vec<MessageId>, Sender<Changed>),
    /// Failed messages to be given up.
    Discard(Vec<MessageId>, Sender<Changed>),
    /// Bytes for the quarantine, with the deviation's code.
    Quarantine(MessageId, &'static str, Vec<u8>),
    /// Write what is here and end.
    Stop,
}
