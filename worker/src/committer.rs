//! The sole writer of the journal. It gathers what queued while it was flushing, appends all of it, flushes once, and
//! only then lets the reactor acknowledge and the dispatcher deliver.
//!
//! A write that found no room is nobody's loss: the peers of that batch get no answer, and what delivery reported is
//! kept here until there is room. A failed write or flush of any other kind ends the worker (exit 75): after it the
//! system may report success over data that it has thrown away, so only a fresh start from the disk can be trusted.

use crate::counters::Counters;
use crate::dispatcher::{Dispatcher, NewEntry, Wait};
use crate::failed::{FailedFolder, FailedMessage};
use crate::flags;
use crate::inbox::{Ending, Inbox, News};
use crate::plan::{Plan, StepSet};
use crate::quarantine::Quarantine;
use crate::returned::{ReturnedFolder, ReturnedMessage};
use config::Workflow;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use hl7::ack::Refusal;
use journal::{FileStorage, Journal, JournalError, Location, MessageId, Received, Record, Tag};
use link::Answer;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Bytes after which a batch takes in no more.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// How long outcomes wait for others before they are written without a flush.
const IDLE: Duration = Duration::from_secs(1);
/// Time between two looks for messages to move forward.
const BETWEEN_MOVES: Duration = Duration::from_millis(100);
/// Messages remembered as not stored; the reactor needs a moment until it hears of them.
const LOST_MAX: usize = 100_000;
/// What the journal of a channel that rests may take up.
const IDLE_BYTES_MAX: u64 = 1 << 20;
/// Messages moved forward from a nearly empty segment in one go.
const MOVES_MAX: usize = 256;
/// The worker's exit status where a fresh start may help.
const EXIT_TEMPORARY: i32 = 75;

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
}

/// One message of the intake.
#[derive(Debug)]
pub struct Intake {
    /// Whose answer waits for it.
    pub origin: Origin,
    /// What is to be stored.
    pub kind: IntakeKind,
}

/// What the intake wants stored.
#[derive(Debug)]
pub enum IntakeKind {
    /// A new message.
    New(Box<NewMessage>),
    /// One that is stored already, perhaps in this very batch: its answer waits for that flush.
    Known,
    /// One that failed or was discarded before, sent again: it is queued again.
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

/// What is appended.
#[derive(Debug)]
pub enum Append {
    /// The messages of one turn of the event loop.
    Intake(Vec<Intake>),
    /// What delivery reports.
    Outcomes(Outcomes),
    /// Failed messages to be tried again, for a question of the master.
    Retry(u64, Vec<MessageId>),
    /// Failed messages to be given up.
    Discard(u64, Vec<MessageId>),
    /// Bytes for the quarantine, with the deviation's code.
    Quarantine(MessageId, &'static str, Vec<u8>),
    /// Write what is here and end.
    Stop,
}

/// The committer's thread.
pub struct Committer {
    /// The journal, which nobody else writes.
    pub journal: Journal<FileStorage>,
    /// What is to be appended.
    pub queue: Receiver<Append>,
    /// Where the reactor learns what is flushed.
    pub inbox: Arc<Inbox>,
    /// What is flushed is delivered.
    pub dispatcher: Arc<Dispatcher>,
    /// The plan.
    pub plan: Arc<Plan>,
    /// Failed messages.
    pub failed: Arc<FailedFolder>,
    /// Messages that their senders keep.
    pub returned: Arc<ReturnedFolder>,
    /// `ack: processed`: senders wait to hear how their messages ended.
    pub tells_endings: bool,
    /// Bytes that are no message.
    pub quarantine: Quarantine,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// When messages were last moved forward.
    pub moved_at: Instant,
    /// Messages that could not be stored: one that came again before the reactor heard of it is not known either.
    pub lost: HashSet<MessageId>,
}

/// One batch on its way to the disk.
#[derive(Default)]
struct Batch {
    needs_flush: bool,
    stop: bool,
    origins: Vec<Origin>,
    not_stored: Vec<Origin>,
    accepted: u64,
    entries: Vec<NewEntry>,
    gone: Vec<Location>,
    /// Files of the failed folder that go once the journal says so.
    unfail: Vec<MessageId>,
    discarded: Vec<MessageId>,
    /// Messages that have come again and are not their senders' any more.
    unreturn: Vec<MessageId>,
    /// How messages ended whose senders wait to hear that.
    ended: Vec<(MessageId, Ending)>,
    answers: Vec<(u64, Answer)>,
}

impl Committer {
    /// Works until told to stop.
    pub fn run(mut self) {
        let mut kept: Vec<Append> = Vec::new();
        loop {
            let mut items = std::mem::take(&mut kept);
            match self.queue.recv_timeout(IDLE) {
                Ok(item) => items.push(item),
                Err(RecvTimeoutError::Timeout) => self.settle(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let mut bytes = items.iter().map(size_of_item).sum::<usize>();
            while bytes < BATCH_BYTES_MAX
                && let Ok(item) = self.queue.try_recv()
            {
                bytes += size_of_item(&item);
                items.push(item);
            }
            match self.commit(&items) {
                Ok(batch) => {
                    let stop = batch.stop;
                    self.publish(batch);
                    if stop {
                        return;
                    }
                }
                Err(error) => kept = self.not_stored(error, items),
            }
            self.counters.journal_bytes.store(self.journal.bytes(), Relaxed);
        }
    }

    /// Appends everything, then flushes once where anything asks for it.
    fn commit(&mut self, items: &[Append]) -> Result<Batch, JournalError> {
        let mut batch = Batch::default();
        for item in items {
            match item {
                Append::Intake(messages) => {
                    for message in messages {
                        self.intake(message, &mut batch)?;
                    }
                }
                Append::Outcomes(outcomes) => self.outcomes(outcomes, &mut batch)?,
                Append::Retry(question, ids) => self.retry(*question, ids, &mut batch)?,
                Append::Discard(question, ids) => self.discard(*question, ids, &mut batch)?,
                Append::Quarantine(id, code, bytes) => self.quarantine.keep(*id, code, bytes),
                Append::Stop => {
                    batch.stop = true;
                    batch.needs_flush = true;
                }
            }
        }
        if batch.needs_flush {
            self.journal.flush()?
        } else {
            self.journal.write()?
        };
        Ok(batch)
    }

    fn intake(&mut self, intake: &Intake, batch: &mut Batch) -> Result<(), JournalError> {
        batch.needs_flush = true;
        match &intake.kind {
            IntakeKind::Known if self.lost.contains(&intake.origin.id) => {
                batch.not_stored.push(intake.origin);
                return Ok(());
            }
            _ => batch.origins.push(intake.origin),
        }
        match &intake.kind {
            IntakeKind::Known => {}
            IntakeKind::New(message) => self.append_new(message, batch)?,
            IntakeKind::Again(message) => {
                self.append_new(message, batch)?;
                batch.unfail.push(message.id);
            }
            IntakeKind::Resumed(message, steps_done) => {
                self.append_new(message, batch)?;
                let entry = batch.entries.last_mut().expect("appended above");
                for step in steps_done {
                    self.journal.append(&Record::StepDone { id: message.id, step })?;
                    if let Some(place) = self.plan.place(step) {
                        entry.steps = entry.steps.without(StepSet::one(place));
                    }
                }
                if entry.steps.is_empty() {
                    self.journal.append(&Record::Done { ids: &[message.id] })?;
                }
                batch.unreturn.push(message.id);
            }
        }
        Ok(())
    }

    fn append_new(&mut self, message: &NewMessage, batch: &mut Batch) -> Result<(), JournalError> {
        batch.accepted += 1;
        let location = self.journal.append(&Record::Received(Received {
            id: message.id,
            time_us: message.received_us,
            utc_offset_s: message.utc_offset_s,
            peer: &message.peer,
            keys: &message.keys,
            tag: message.tag,
            flags: flags::of(message.workflow),
            body: &message.body,
        }))?;
        let steps = self.plan.steps_of(message.workflow);
        batch.entries.push(NewEntry {
            id: message.id,
            location,
            received_us: message.received_us,
            keys: message.keys.clone(),
            steps,
            strikes: 0,
            suspect: false,
            waits: Vec::new(),
        });
        Ok(())
    }

    fn outcomes(&mut self, outcomes: &Outcomes, batch: &mut Batch) -> Result<(), JournalError> {
        for (id, place) in &outcomes.steps {
            self.journal.append(&Record::StepDone { id: *id, step: self.plan.name(*place) })?;
        }
        for (id, wait) in &outcomes.waits {
            self.append_wait(*id, wait)?;
        }
        for (id, count) in &outcomes.strikes {
            self.journal.append(&Record::Strike { id: *id, count: *count })?;
        }
        for segment in &outcomes.damaged {
            self.journal.put_aside(*segment);
        }
        for (id, step) in &outcomes.failed {
            self.journal.append(&Record::Failed { id: *id, step })?;
            batch.needs_flush = true;
        }
        for returned in &outcomes.returned {
            self.give_back(returned);
            self.journal.append(&Record::Returned { id: returned.id })?;
            batch.needs_flush = true;
            batch.ended.push((returned.id, Ending::Returned(returned.refusal)));
        }
        if !outcomes.done.is_empty() {
            self.journal.append(&Record::Done { ids: &outcomes.done })?;
            if self.tells_endings {
                batch.ended.extend(outcomes.done.iter().map(|id| (*id, Ending::Done)));
            }
        }
        batch.gone.extend_from_slice(&outcomes.gone);
        Ok(())
    }

    /// Remembers what was done of a message that its sender keeps. Where that cannot be written, the same bytes sent
    /// again after a restart repeat their steps, which are made for that.
    fn give_back(&self, returned: &Returned) {
        let kept =
            self.journal.reader().read(returned.location).map_err(|e| e.to_string()).and_then(|message| {
                let done = self.plan.steps_of(flags::workflow(message.flags)).without(returned.pending);
                let memory = ReturnedMessage {
                    received_us: message.time_us,
                    utc_offset_s: message.utc_offset_s,
                    steps_done: done.places().map(|p| self.plan.name(p).to_owned()).collect(),
                };
                self.returned.keep(returned.id, memory).map_err(|e| crate::files::plain(&e))
            });
        if let Err(error) = kept {
            log::warn!(
                "id={} is its sender's again; its steps could not be remembered: {error}",
                returned.id
            );
        }
    }

    fn append_wait(&mut self, id: MessageId, wait: &Wait) -> Result<Location, JournalError> {
        self.journal.append(&Record::Again {
            id,
            step: self.plan.name(usize::from(wait.place)),
            attempt: wait.attempt,
            until_us: wait.until_us,
            since_us: wait.since_us,
            reason: &wait.reason,
        })
    }

    /// A retry by hand: the message is appended anew with the steps it has done, since its first segment may be gone.
    fn retry(&mut self, question: u64, ids: &[MessageId], batch: &mut Batch) -> Result<(), JournalError> {
        let (mut count, mut problems) = (0, Vec::new());
        for id in ids {
            match self.failed.read(*id) {
                Ok((message, body)) => match self.append_retried(*id, &message, &body)? {
                    Some(entry) => {
                        batch.entries.push(entry);
                        batch.unfail.push(*id);
                        count += 1;
                    }
                    None => problems.push(format!("{id}: its file in the failed folder is damaged")),
                },
                Err(problem) => problems.push(format!("{id}: {problem}")),
            }
        }
        batch.needs_flush = true;
        batch.answers.push((question, Answer::Changed { count, problems }));
        Ok(())
    }

    fn append_retried(
        &mut self,
        id: MessageId,
        message: &FailedMessage,
        body: &[u8],
    ) -> Result<Option<NewEntry>, JournalError> {
        let Some(tag) = message.tag() else { return Ok(None) };
        let location = self.journal.append(&Record::Received(Received {
            id,
            time_us: message.received_us,
            utc_offset_s: message.utc_offset_s,
            peer: &message.peer,
            // Outside the order: what came after it has gone its way.
            keys: &[],
            tag,
            flags: message.flags,
            body,
        }))?;
        self.journal.append(&Record::Retried { id })?;
        let mut steps = self.plan.steps_of(flags::workflow(message.flags));
        for step in &message.steps_done {
            self.journal.append(&Record::StepDone { id, step })?;
            if let Some(place) = self.plan.place(step) {
                steps = steps.without(StepSet::one(place));
            }
        }
        if steps.is_empty() {
            self.journal.append(&Record::Done { ids: &[id] })?;
        }
        Ok(Some(NewEntry {
            id,
            location,
            received_us: message.received_us,
            keys: Vec::new(),
            steps,
            strikes: 0,
            suspect: false,
            waits: Vec::new(),
        }))
    }

    fn discard(&mut self, question: u64, ids: &[MessageId], batch: &mut Batch) -> Result<(), JournalError> {
        let (mut count, mut problems) = (0, Vec::new());
        for id in ids {
            if self.failed.contains(*id) {
                self.journal.append(&Record::Discarded { id: *id })?;
                batch.unfail.push(*id);
                batch.discarded.push(*id);
                count += 1;
            } else {
                problems.push(format!("{id}: no failed message has this id"));
            }
        }
        batch.needs_flush = true;
        batch.answers.push((question, Answer::Changed { count, problems }));
        Ok(())
    }

    /// The batch is on disk: everybody who waited for that is told.
    fn publish(&mut self, mut batch: Batch) {
        let finished: Vec<NewEntry> = batch.entries.extract_if(.., |e| e.steps.is_empty()).collect();
        batch.gone.extend(finished.iter().map(|entry| entry.location));
        for id in batch.unfail {
            if let Err(error) = self.failed.remove(id) {
                log::warn!(
                    "could not take id={id} out of the failed folder: {}",
                    crate::files::plain(&error)
                );
            }
        }
        if !batch.origins.is_empty() {
            self.counters.accepted.fetch_add(batch.accepted, Relaxed);
            self.inbox.push(News::Committed(batch.origins));
        }
        if !batch.not_stored.is_empty() {
            self.inbox.push(News::NotStored(batch.not_stored));
        }
        if !batch.entries.is_empty() {
            self.dispatcher.add(batch.entries);
        }
        batch.unreturn.iter().for_each(|id| self.returned.forget(*id));
        if self.tells_endings {
            batch.ended.extend(finished.iter().map(|entry| (entry.id, Ending::Done)));
        }
        if !batch.ended.is_empty() {
            self.inbox.push(News::Ended(batch.ended));
        }
        if !batch.discarded.is_empty() {
            self.inbox.push(News::Discarded(batch.discarded));
        }
        for (question, answer) in batch.answers {
            self.inbox.push(News::Answer(question, answer));
        }
        if !batch.gone.is_empty() {
            batch.gone.into_iter().for_each(|location| self.journal.ended(location));
            self.tidy();
        }
    }

    /// Segments with nothing open in them go; the last open messages of a nearly empty one are moved forward.
    fn tidy(&mut self) {
        let tidied = self.journal.retire().and_then(|_| self.move_forward());
        self.unless_full(tidied);
    }

    /// Tidying up may wait for room; any other fault is the journal's end.
    fn unless_full<T>(&self, tidied: Result<T, JournalError>) {
        match tidied {
            Ok(_) | Err(JournalError::Full(_)) => {}
            Err(error) => self.end_on(&error, "could not tidy up the journal"),
        }
    }

    fn move_forward(&mut self) -> Result<(), JournalError> {
        // Looking for what is open in it takes as long as there is much open.
        if self.moved_at.elapsed() < BETWEEN_MOVES {
            return Ok(());
        }
        let Some(segment) = self.journal.sparse() else { return Ok(()) };
        self.moved_at = Instant::now();
        let mut entries = self.dispatcher.in_segment(segment);
        entries.truncate(MOVES_MAX);
        let reader = self.journal.reader();
        let mut moved = Vec::new();
        for entry in entries {
            let flags = match reader.read(entry.location) {
                Ok(received) => received.flags,
                // Delivery meets the same fault and deals with it.
                Err(error) => {
                    log::warn!("id={} stays where it is: {error}", entry.id);
                    continue;
                }
            };
            let workflow = flags::workflow(flags);
            let to = self.journal.append_moved(entry.location)?;
            if entry.keys.is_empty() {
                self.journal.append(&Record::Retried { id: entry.id })?;
            }
            for place in self.plan.steps_of(workflow).without(entry.steps).places() {
                self.journal.append(&Record::StepDone { id: entry.id, step: self.plan.name(place) })?;
            }
            for wait in &entry.waits {
                self.append_wait(entry.id, wait)?;
            }
            if entry.strikes > 0 {
                self.journal.append(&Record::Strike { id: entry.id, count: entry.strikes })?;
            }
            moved.push((entry.id, entry.location, to));
        }
        if moved.is_empty() {
            return Ok(());
        }
        self.journal.flush()?;
        for (id, from, to) in moved {
            let old = if self.dispatcher.moved(id, from, to) { from } else { to };
            self.journal.ended(old);
        }
        self.journal.retire().map(|_| ())
    }

    /// Nobody is answered. Returns what must not get lost: all but the intake.
    fn not_stored(&mut self, error: JournalError, items: Vec<Append>) -> Vec<Append> {
        let JournalError::Full(cause) = &error else { self.end_on(&error, "could not write the journal") };
        let cause = crate::files::plain(cause);
        log::warn!("could not write the journal: {cause}; nothing of this batch is acknowledged");
        let mut kept = Vec::new();
        for item in items {
            match item {
                Append::Intake(messages) => {
                    if self.lost.len() > LOST_MAX {
                        self.lost.clear();
                    }
                    self.lost.extend(messages.iter().map(|m| m.origin.id));
                    self.inbox.push(News::NotStored(messages.iter().map(|m| m.origin).collect()));
                }
                Append::Retry(question, _) | Append::Discard(question, _) => {
                    let problem = format!("could not write the journal: {cause}");
                    self.inbox.push(News::Answer(question, Answer::Error(problem)));
                }
                Append::Quarantine(..) => {}
                Append::Outcomes(_) | Append::Stop => kept.push(item),
            }
        }
        kept
    }

    /// An idle channel gives back what it does not need of the disk.
    fn settle(&mut self) {
        let settled = self.journal.settle(IDLE_BYTES_MAX);
        self.unless_full(settled);
    }

    fn end_on(&self, error: &JournalError, what: &str) -> ! {
        log::error!("{what}: {error}; the worker starts afresh");
        std::process::exit(EXIT_TEMPORARY);
    }
}

fn size_of_item(item: &Append) -> usize {
    match item {
        Append::Intake(messages) => messages.iter().map(|m| m.origin.bytes + 128).sum(),
        Append::Outcomes(_) | Append::Retry(..) | Append::Discard(..) | Append::Stop => 128,
        Append::Quarantine(_, _, bytes) => bytes.len(),
    }
}
