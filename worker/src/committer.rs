//! The sole writer of the journal. It gathers what queued while it was flushing, appends all of it, flushes once, and
//! only then lets the reactor acknowledge and the dispatcher deliver.
//!
//! A write that found no room is nobody's loss: the peers of that batch get no answer, and what delivery reported is
//! kept here until there is room. A failed write or flush of any other kind ends the worker (exit 75): after it the
//! system may report success over data that it has thrown away, so only a fresh start from the disk can be trusted.

mod append;
mod upkeep;

pub use append::{Append, Changed, Intake, IntakeKind, NewMessage, Origin, Outcomes, Returned, Stores};

use crate::counters::Counters;
use crate::direct_answer::DirectAnswer;
use crate::dispatcher::{Dispatcher, NewEntry, Wait};
use crate::failed::{FailedFolder, FailedMessage};
use crate::find_index::{self, Outcome};
use crate::flags;
use crate::given_up::GivenUp;
use crate::inbox::{Ending, Inbox, News};
use crate::plan::{Plan, StepSet};
use crate::quarantine::Quarantine;
use crate::returned::{ReturnedFolder, ReturnedMessage};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use journal::storage::Storage;
use journal::{FileStorage, Journal, JournalError, Location, MessageId, Received, Record};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Bytes after which a batch takes in no more.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// How long outcomes wait for others before they are written without a flush.
const IDLE: Duration = Duration::from_secs(1);
/// Messages remembered as not stored; the reactor needs a moment until it hears of them.
const LOST_MAX: usize = 100_000;
/// The worker's exit status where a fresh start may help.
const EXIT_TEMPORARY: i32 = 75;

/// The committer's thread.
pub struct Committer<S: Storage = FileStorage> {
    /// The journal, which nobody else writes.
    pub journal: Journal<S>,
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
    /// Messages that begin anew when they are sent again.
    pub given_up: Arc<GivenUp>,
    /// `ack: processed`: senders wait to hear how their messages ended.
    pub tells_endings: bool,
    /// Where messages are looked up later.
    pub index: find_index::Sender,
    /// Bytes that are no message.
    pub quarantine: Quarantine,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// When messages were last moved forward.
    pub moved_at: Instant,
    /// Messages that could not be stored: one that came again before the reactor heard of it is not known either.
    pub lost: HashSet<MessageId>,
    /// How the process ends where its journal does.
    pub exit: fn(i32) -> !,
}

/// What became of a batch.
pub(crate) struct Turned {
    /// It is on record; otherwise there was no room for it.
    #[cfg(test)]
    pub(crate) is_stored: bool,
    /// What of it is to be tried again.
    pub(crate) kept: Vec<Append>,
    /// It said to stop.
    pub(crate) stops: bool,
}

/// One batch on its way to the disk.
#[derive(Default)]
struct Batch {
    needs_flush: bool,
    stop: bool,
    origins: Vec<Origin>,
    /// Bytes that the only one of `origins` was answered with already.
    sent: usize,
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
    /// Failed messages that are on record as such now.
    failed: Vec<MessageId>,
    changed: Vec<(Sender<Changed>, Changed)>,
}

impl Batch {
    /// Whether a message is opened by this batch.
    fn opens(&self, id: MessageId) -> bool {
        self.entries.iter().any(|entry| entry.id == id)
    }

    /// Whether a message is opened anew, or given up, by this batch.
    fn changes(&self, id: MessageId) -> bool {
        self.opens(id) || self.discarded.contains(&id)
    }
}

impl<S: Storage> Committer<S> {
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
            let turned = self.turn(items);
            if turned.stops {
                return;
            }
            kept = turned.kept;
        }
    }

    /// One batch.
    pub(crate) fn turn(&mut self, items: Vec<Append>) -> Turned {
        let turned = match self.commit(&items) {
            Ok(mut batch) => {
                let stops = batch.stop;
                batch.sent = answer_directly(&batch, &items);
                self.publish(batch);
                self.keep_buffers(items);
                Turned {
                    #[cfg(test)]
                    is_stored: true,
                    kept: Vec::new(),
                    stops,
                }
            }
            Err(error) => {
                // What could not be said is done again after the start; a stop does not wait for room.
                let stops = items.iter().any(|item| matches!(item, Append::Stop));
                Turned {
                    #[cfg(test)]
                    is_stored: false,
                    kept: self.not_stored(error, items),
                    stops,
                }
            }
        };
        self.counters.journal_bytes.store(self.journal.bytes(), Relaxed);
        turned
    }

    /// What large messages were received in serves the next ones.
    fn keep_buffers(&self, items: Vec<Append>) {
        for item in items {
            let Append::Intake(messages) = item else { continue };
            for message in messages {
                match message.kind {
                    IntakeKind::Known => {}
                    IntakeKind::New(message)
                    | IntakeKind::Again(message)
                    | IntakeKind::Resumed(message, _) => {
                        self.inbox.large_buffer.keep(message.body);
                    }
                }
            }
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
                Append::Retry(ids, told) => {
                    let changed = self.retry(ids, &mut batch)?;
                    batch.changed.push((told.clone(), changed));
                }
                Append::Discard(ids, told) => {
                    let changed = self.discard(ids, &mut batch)?;
                    batch.changed.push((told.clone(), changed));
                }
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
            IntakeKind::New(message) => {
                self.append_new(message, (message.received_us, message.utc_offset_s), batch)?;
            }
            // In this batch already: the flush they wait for is the same.
            IntakeKind::Again(message) | IntakeKind::Resumed(message, _) if batch.opens(message.id) => {}
            // An earlier batch has opened it since the event loop looked: so it is stored.
            IntakeKind::Again(message) if !self.may_come_again(message.id) => {}
            IntakeKind::Again(message) => {
                // Given up by this very batch, and begun anew all the same.
                batch.discarded.retain(|id| *id != message.id);
                // It goes on where it failed, under the names it had.
                let before =
                    self.failed.contains(message.id).then(|| self.failed.read(message.id).ok()).flatten();
                match before {
                    Some((failed, _)) => {
                        let times = (failed.received_us, failed.utc_offset_s);
                        self.append_again(message, times, &failed.steps_done, batch)?;
                    }
                    None => {
                        self.append_again(message, (message.received_us, message.utc_offset_s), &[], batch)?
                    }
                }
                batch.unfail.push(message.id);
            }
            IntakeKind::Resumed(message, steps_done) => {
                self.append_again(message, (message.received_us, message.utc_offset_s), steps_done, batch)?;
                batch.unreturn.push(message.id);
            }
        }
        Ok(())
    }

    /// Whether a message that comes again is opened anew; others are open already, or done.
    fn may_come_again(&self, id: MessageId) -> bool {
        self.failed.contains(id) || self.given_up.contains(id)
    }

    /// A message that has come again, with what was done of it before.
    fn append_again(
        &mut self,
        message: &NewMessage,
        times: (i64, i32),
        steps_done: &[String],
        batch: &mut Batch,
    ) -> Result<(), JournalError> {
        self.append_new(message, times, batch)?;
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
        Ok(())
    }

    fn append_new(
        &mut self,
        message: &NewMessage,
        (received_us, utc_offset_s): (i64, i32),
        batch: &mut Batch,
    ) -> Result<(), JournalError> {
        batch.accepted += 1;
        let flags = flags::of(message.workflow);
        // Without waiting for the end the answer is AA, and the message is ours from then on.
        let flags = if self.tells_endings { flags } else { flags::ours(flags) };
        let location = self.journal.append(&Record::Received(Received {
            id: message.id,
            time_us: received_us,
            utc_offset_s,
            peer: &message.peer,
            keys: &message.keys,
            tag: message.tag,
            flags,
            body: &message.body,
        }))?;
        let steps = self.plan.steps_of(message.workflow);
        batch.entries.push(NewEntry {
            id: message.id,
            location,
            received_us,
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
            batch.failed.push(*id);
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
    fn retry(&mut self, ids: &[MessageId], batch: &mut Batch) -> Result<Changed, JournalError> {
        let mut changed = Changed::default();
        for id in ids {
            if !self.failed.contains(*id) || batch.changes(*id) {
                changed.problems.push(format!("{id}: no failed message has this id"));
                continue;
            }
            match self.failed.read(*id) {
                Ok((message, body)) => match self.append_retried(*id, &message, &body)? {
                    Some(entry) => {
                        batch.entries.push(entry);
                        batch.unfail.push(*id);
                        changed.count += 1;
                    }
                    None => changed.problems.push(format!("{id}: its file in the failed folder is damaged")),
                },
                Err(problem) => changed.problems.push(format!("{id}: {problem}")),
            }
        }
        batch.needs_flush = true;
        Ok(changed)
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
            flags: flags::ours(message.flags),
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

    fn discard(&mut self, ids: &[MessageId], batch: &mut Batch) -> Result<Changed, JournalError> {
        let mut changed = Changed::default();
        for id in ids {
            if self.failed.contains(*id) && !batch.changes(*id) {
                self.journal.append(&Record::Discarded { id: *id })?;
                batch.unfail.push(*id);
                batch.discarded.push(*id);
                changed.count += 1;
            } else {
                changed.problems.push(format!("{id}: no failed message has this id"));
            }
        }
        batch.needs_flush = true;
        Ok(changed)
    }

    /// The batch is on disk: everybody who waited for that is told.
    fn publish(&mut self, mut batch: Batch) {
        let finished: Vec<NewEntry> = batch.entries.extract_if(.., |e| e.steps.is_empty()).collect();
        // Before they are delivered, which is noted too.
        self.index.becomes(&batch.unfail, Outcome::Waiting);
        self.index.becomes(&batch.unreturn, Outcome::Waiting);
        self.index.becomes(&batch.discarded, Outcome::Discarded);
        // Delivery has said so already of those that it gave back, and not of those that only waited.
        let returned = batch.ended.iter().filter(|(_, how)| matches!(how, Ending::Returned(_)));
        self.index.becomes(&returned.map(|(id, _)| *id).collect::<Vec<_>>(), Outcome::Returned);
        self.index.becomes(&finished.iter().map(|entry| entry.id).collect::<Vec<_>>(), Outcome::Done);
        batch.gone.extend(finished.iter().map(|entry| entry.location));
        if !batch.origins.is_empty() {
            self.counters.accepted.fetch_add(batch.accepted, Relaxed);
            self.inbox.push(News::Committed(batch.origins, batch.sent));
            // Whoever answers may share this processor: first the answers, then what is left to do here.
            std::thread::yield_now();
        }
        if !batch.not_stored.is_empty() {
            self.inbox.push(News::NotStored(batch.not_stored));
        }
        if !batch.entries.is_empty() {
            self.dispatcher.add(batch.entries);
        }
        self.given_up.remove(&batch.unfail);
        self.given_up.add(batch.discarded);
        self.failed.list_as_failed(&batch.failed);
        if let Err(error) = self.failed.remove(&batch.unfail) {
            log::warn!("could not take messages out of the failed folder: {}", crate::files::plain(&error));
        }
        batch.unreturn.iter().for_each(|id| self.returned.forget(*id));
        if self.tells_endings {
            batch.ended.extend(finished.iter().map(|entry| (entry.id, Ending::Done)));
        }
        if !batch.ended.is_empty() {
            // What was done of it could not be remembered.
            let is_forgotten = |id: &MessageId| self.returned.get(*id).is_none();
            let returned = batch.ended.iter().filter(|(_, how)| matches!(how, Ending::Returned(_)));
            self.given_up.add(returned.map(|(id, _)| *id).filter(is_forgotten));
            self.inbox.push(News::Ended(batch.ended));
        }
        for (told, changed) in batch.changed {
            // The desk may have stopped waiting.
            let _ = told.send(changed);
        }
        if !batch.gone.is_empty() {
            batch.gone.into_iter().for_each(|location| self.journal.ended(location));
            self.tidy();
        }
    }

    /// Nobody is answered. Returns what must not get lost: all but the intake.
    fn not_stored(&mut self, error: JournalError, items: Vec<Append>) -> Vec<Append> {
        let JournalError::Full(cause) = &error else { self.end_on(&error, "could not write the journal") };
        let cause = crate::files::plain(cause);
        if items.iter().any(|item| matches!(item, Append::Intake(_))) {
            log::warn!("could not write the journal: {cause}; nothing of this batch is acknowledged");
        }
        let mut kept = Vec::new();
        for item in items {
            match item {
                Append::Intake(messages) => {
                    if self.lost.len() > LOST_MAX {
                        self.lost.clear();
                    }
                    let new = messages.iter().filter(|m| m.origin.stores == Stores::New);
                    self.lost.extend(new.map(|m| m.origin.id));
                    self.inbox.push(News::NotStored(messages.iter().map(|m| m.origin).collect()));
                }
                Append::Retry(_, told) | Append::Discard(_, told) => {
                    let problems = vec![format!("could not write the journal: {cause}")];
                    let _ = told.send(Changed { count: 0, problems });
                }
                Append::Quarantine(..) => {}
                Append::Outcomes(_) | Append::Stop => kept.push(item),
            }
        }
        kept
    }

    fn end_on(&self, error: &JournalError, what: &str) -> ! {
        log::error!("{what}: {error}; the worker starts afresh");
        (self.exit)(EXIT_TEMPORARY)
    }
}

/// Answers the message of a batch that has but one, where the reactor allows that; returns the bytes sent.
fn answer_directly(batch: &Batch, items: &[Append]) -> usize {
    let [origin] = &batch.origins[..] else { return 0 };
    let intake =
        items.iter().filter_map(|item| if let Append::Intake(intake) = item { Some(intake) } else { None });
    let its = intake.flatten().find(|intake| intake.origin == *origin);
    its.and_then(|intake| intake.direct.as_ref()).map_or(0, DirectAnswer::send)
}

fn size_of_item(item: &Append) -> usize {
    match item {
        Append::Intake(messages) => messages.iter().map(|m| m.origin.bytes + 128).sum(),
        Append::Outcomes(_) | Append::Retry(..) | Append::Discard(..) | Append::Stop => 128,
        Append::Quarantine(_, _, bytes) => bytes.len(),
    }
}

#[cfg(test)]
mod tests;
