//! A message through its plan: a delivery thread takes a job, reads each message back from the journal, carries out the
//! steps that are due, makes all their files durable together, and only then lets the journal say what is done.

use crate::clock::{self, Clock};
use crate::committer::{Append, Outcomes, Returned};
use crate::counters::Counters;
use crate::desk::label_of;
use crate::dispatcher::{Decision, Dispatcher, StepEnd, Task, TaskEnd, TaskReport};
use crate::extract::{self, Metadata};
use crate::failed::{FailedFolder, FailedMessage, Failure};
use crate::files::{FileBatch, Placed};
use crate::flags;
use crate::folders::Folders;
use crate::names::NameParts;
use crate::plan::{MAPPING, Plan, Step, StepSet};
use crate::started::Started;
use crate::step::stamp::Marked;
use crate::step::{Attachments, Context, Progress, again, archive, attachment, drop_folder};
use crate::strikes;
use config::{AckMode, WorkerSettings};
use crossbeam_channel::Sender;
use hl7::ack::Refusal;
use hl7::message::Message;
use journal::{JournalError, OwnedReceived, Reader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a thread waits for a slot before it looks whether the worker stops.
const SLOT_WAIT: Duration = Duration::from_millis(200);

/// What all delivery threads of a worker share.
pub struct Delivery {
    /// The settings.
    pub settings: Arc<WorkerSettings>,
    /// The steps.
    pub plan: Arc<Plan>,
    /// Gives out jobs.
    pub dispatcher: Arc<Dispatcher>,
    /// Reads messages back.
    pub reader: Reader,
    /// Where outcomes are recorded.
    pub committer: Sender<Append>,
    /// Messages that need a person.
    pub failed: Arc<FailedFolder>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Which messages are being processed.
    pub started: Started,
    /// The task slots of all channels.
    pub slots: link::Slots,
    /// The worker's time.
    pub clock: Clock,
    /// Threads with a job whose outcomes are not handed over yet.
    pub busy: AtomicUsize,
}

/// The step that stands for the end of a sender's patience.
const TOO_LATE: &str = "answer_timeout";

/// A task with what came of it.
struct Worked {
    task: Task,
    began_us: i64,
    label: Label,
    received: Option<OwnedReceived>,
    steps: Vec<(usize, Progress)>,
    failure: Option<(String, String)>,
    /// Its record in the journal is damaged.
    damaged: bool,
}

/// A step that failed for good.
struct FailedStep {
    step: String,
    reason: String,
    attempts: u32,
    whose: Whose,
}

/// Where the fault lies, for whoever keeps the message (`ack: processed`).
#[derive(Clone, Copy)]
enum Whose {
    /// In the message: it will fail again.
    Message,
    /// In what it is delivered to: sent again it may pass.
    Target,
    /// With us.
    Ours,
}

/// What the log says of a message.
#[derive(Default)]
struct Label {
    control_id: String,
    message_type: String,
    bytes: usize,
}

/// Steps that an earlier message of the job still has before it: for the later ones of its lane they are not tried.
#[derive(Default)]
struct Held(Vec<(u64, StepSet)>);

impl Held {
    fn hold(&mut self, key: Option<u64>, steps: StepSet) {
        if let Some(key) = key
            && !steps.is_empty()
        {
            self.0.push((key, steps));
        }
    }

    fn steps(&self, key: Option<u64>) -> StepSet {
        let of_key = self.0.iter().filter(|(k, _)| Some(*k) == key);
        of_key.fold(StepSet::EMPTY, |set, (_, steps)| set.with(*steps))
    }

    /// What is known to be left of a message before the files of the job are flushed.
    fn after(&mut self, worked: &Worked) {
        if worked.failure.is_none() {
            let staged = worked.steps.iter().filter(|(_, p)| matches!(p, Progress::Staged(_)));
            let tried = staged.fold(StepSet::EMPTY, |set, (place, _)| set.with(StepSet::one(*place)));
            self.hold(worked.task.key, worked.task.pending.without(tried));
        }
    }
}

impl Delivery {
    /// Works until the dispatcher stops.
    pub fn run(&self, thread: usize) {
        let mut folders = Folders::default();
        while let Some(tasks) = self.dispatcher.next(|| self.clock.now_us()) {
            let Some(slot) = self.slot() else {
                let back = |t: Task| (t.ticket, t.steps, TaskEnd::Steps(Vec::new()), Vec::new());
                self.dispatcher.report(tasks.into_iter().map(back).collect(), self.clock.now_us());
                continue;
            };
            if let Err(error) = self.started.begin(thread, tasks.iter().map(|t| t.id)) {
                log::warn!("could not record which messages are started: {error}");
            }
            self.busy.fetch_add(1, Relaxed);
            self.job(tasks, &mut folders);
            self.busy.fetch_sub(1, Relaxed);
            if let Err(error) = self.started.end(thread) {
                log::warn!("could not record which messages are started: {error}");
            }
            drop(slot);
        }
    }

    /// Waits until no job runs and all outcomes are handed over, at most until `deadline`; `true` when that is so.
    pub fn wait_until_idle(&self, deadline: Instant) -> bool {
        while self.dispatcher.running() > 0 || self.busy.load(Relaxed) > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    fn slot(&self) -> Option<link::SlotGuard> {
        loop {
            if let Some(slot) = self.slots.acquire(SLOT_WAIT) {
                return Some(slot);
            }
            if self.dispatcher.is_stopping() {
                return None;
            }
        }
    }

    fn job(&self, tasks: Vec<Task>, folders: &mut Folders) {
        let mut batch = FileBatch::new(folders);
        let mut worked: Vec<Worked> = Vec::with_capacity(tasks.len());
        let mut held = Held::default();
        for task in tasks {
            let done = self.work(task, &held, &mut batch);
            held.after(&done);
            worked.push(done);
        }
        let placed = batch.commit();
        self.conclude(worked, &placed);
    }

    /// Reads one message and carries its steps as far as they go before the files are flushed.
    fn work(&self, task: Task, held: &Held, batch: &mut FileBatch<'_>) -> Worked {
        let mut worked = Worked {
            began_us: self.clock.now_us(),
            label: Label::default(),
            received: None,
            steps: Vec::new(),
            failure: None,
            damaged: false,
            task,
        };
        match self.reader.read(worked.task.location) {
            Ok(received) => worked.received = Some(received),
            // Moved to another segment since the job was given out; it is offered again.
            Err(_) if self.dispatcher.location(worked.task.ticket) != Some(worked.task.location) => {
                return worked;
            }
            Err(error) => {
                match error {
                    // Gone for good; its segment is kept aside for whoever may still read something in it.
                    JournalError::Corrupt { .. } => {
                        worked.damaged = true;
                        worked.failure =
                            Some(("journal".to_owned(), format!("cannot be read back: {error}")));
                    }
                    _ => {
                        worked.steps = put_off(worked.task.steps, &format!("could not be read back: {error}"))
                    }
                }
                return worked;
            }
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| self.steps(&mut worked, held, batch)));
        if outcome.is_err() {
            let sum = self.dispatcher.strike(worked.task.ticket, strikes::CRASH);
            worked.task.strikes = sum;
            worked.steps.clear();
            if sum >= strikes::LIMIT {
                let reason = "a step panicked on this message twice. This is a bug of ours".to_owned();
                worked.failure = Some(("panic".to_owned(), reason));
            } else {
                worked.steps = put_off(worked.task.steps, "a step panicked on this message");
            }
        }
        // The bytes are read again where the message fails: a job must not hold those of all its messages.
        if let Some(received) = &mut worked.received {
            received.body = Vec::new();
        }
        worked
    }

    fn steps(&self, worked: &mut Worked, held: &Held, batch: &mut FileBatch<'_>) {
        let received = worked.received.as_ref().expect("read by the caller");
        let channel = &self.settings.channel;
        let (control_id, message_type) = label_of(&received.body, channel.encoding);
        worked.label = Label { control_id, message_type, bytes: received.body.len() };
        let time = clock::local(received.time_us, received.utc_offset_s);
        let below = channel.local_archive.as_ref().map(|a| a.format.render(&time)).unwrap_or_default();
        let mut names = NameParts {
            message_id: worked.task.id,
            time: clock::file_time(&time),
            control_id: worked.label.control_id.clone(),
            patient_id: None,
            accession_number: None,
        };
        let behind = worked.task.steps.and(held.steps(worked.task.key));
        worked.steps.extend(behind.places().map(|place| (place, Progress::Ended(StepEnd::NotTried))));
        let steps = worked.task.steps.without(behind);
        let (first, rest) = split(steps, |place| self.plan.is_before_mapping(place));
        let mut attachments = Attachments::default();
        let context = Context {
            channel,
            body: &received.body,
            message: None,
            metadata: &Metadata::default(),
            names: &names,
            below: &below,
            order: worked.task.key,
        };
        for place in first.places() {
            let progress = self.step(place, &context, &mut attachments, batch);
            worked.steps.push((place, progress));
        }
        let decoded = hl7::charset::decode(&received.body, channel.encoding);
        let message = match Message::parse(&decoded.text) {
            Ok(message) => message,
            Err(fault) => {
                worked.failure = Some((MAPPING.to_owned(), fault.to_string()));
                return;
            }
        };
        self.debug_message(worked.task.id, &message, decoded.undecodable);
        let metadata = match extract::extract(&message, channel) {
            Ok(metadata) => metadata,
            Err(reason) => {
                worked.failure = Some((MAPPING.to_owned(), reason));
                return;
            }
        };
        self.debug_metadata(worked.task.id, &metadata);
        names.patient_id = channel.patient_id_field.as_ref().and_then(|p| extract::text_at(&message, p));
        names.accession_number =
            channel.accession_number_field.as_ref().and_then(|p| extract::text_at(&message, p));
        let context = Context {
            channel,
            body: &received.body,
            message: Some(&message),
            metadata: &metadata,
            names: &names,
            below: &below,
            order: worked.task.key,
        };
        for place in rest.places() {
            let progress = self.step(place, &context, &mut attachments, batch);
            worked.steps.push((place, progress));
        }
        if let Some(marked) = attachments.marked() {
            self.log_stamps(worked.task.id, marked);
        }
    }

    fn step(
        &self,
        place: usize,
        context: &Context<'_>,
        attachments: &mut Attachments,
        batch: &mut FileBatch<'_>,
    ) -> Progress {
        match self.plan.step(place) {
            Step::Mapping => Progress::Ended(StepEnd::Over),
            Step::Archive(root) => archive::stage(context, batch, root, place),
            Step::Attachment(root) => attachment::stage(context, attachments, batch, root, place),
            Step::DropFolder { path, .. } => drop_folder::stage(context, attachments, batch, path, place),
        }
    }

    /// Everything that can be durable is: what happened goes on record, and the dispatcher is told.
    fn conclude(&self, worked: Vec<Worked>, placed: &Placed) {
        let now_us = self.clock.now_us();
        let mut outcomes = Outcomes::default();
        let mut reports: Vec<TaskReport> = Vec::with_capacity(worked.len());
        let mut held = Held::default();
        let mut done_waits = Vec::new();
        for worked in worked {
            let (ends, failure) = self.ends_of(&worked, placed, &held);
            let decisions = self.dispatcher.decide(&worked.task, &ends, now_us);
            if worked.damaged {
                outcomes.damaged.push(worked.task.location.segment);
            }
            let over = over(&ends);
            let left = worked.task.pending.without(over);
            let failure =
                failure.or_else(|| self.gave_up(&decisions)).or_else(|| self.too_late(&worked.task, left));
            if failure.is_none() {
                held.hold(worked.task.key, left);
            }
            let end = match failure {
                Some(failed) if !self.is_ours(&worked) => {
                    outcomes.returned.push(self.give_back(&worked, &failed, left, now_us));
                    TaskEnd::Gone
                }
                Some(failed) => {
                    match self.fail(&worked, &failed, over, now_us) {
                        Ok(()) => outcomes.failed.push((worked.task.id, failed.step)),
                        Err(error) => {
                            let text = crate::files::plain(&error);
                            log::error!(
                                "id={} could not be put into the failed folder: {text}",
                                worked.task.id
                            );
                            reports.push(self.not_even_failed(&worked, now_us));
                            continue;
                        }
                    }
                    TaskEnd::Gone
                }
                None if left.is_empty() => {
                    outcomes.done.push(worked.task.id);
                    done_waits.push(Duration::from_micros((now_us - worked.task.received_us).max(0) as u64));
                    self.log_end(&worked, "done", now_us);
                    TaskEnd::Steps(ends)
                }
                None => {
                    outcomes.steps.extend(over.places().map(|p| (worked.task.id, p)));
                    self.log_waits(&worked, &decisions, now_us);
                    TaskEnd::Steps(ends)
                }
            };
            for decision in &decisions {
                if let Decision::Waits(wait) = decision
                    && matches!(end, TaskEnd::Steps(_))
                {
                    self.counters.again(usize::from(wait.place));
                    outcomes.waits.push((worked.task.id, wait.clone()));
                }
            }
            if worked.task.strikes > 0 && matches!(end, TaskEnd::Steps(_)) && !left.is_empty() {
                outcomes.strikes.push((worked.task.id, worked.task.strikes));
            }
            reports.push((worked.task.ticket, worked.task.steps, end, decisions));
        }
        self.counters.done(done_waits.into_iter());
        outcomes.gone = self.dispatcher.report(reports, now_us);
        if !outcomes.is_empty() && self.committer.send(Append::Outcomes(outcomes)).is_err() {
            log::debug!("the committer has ended; what was done is done again after the start");
        }
    }

    /// How each step of a task ended, now that the files are in place or not, and the first that failed for good.
    fn ends_of(
        &self,
        worked: &Worked,
        placed: &Placed,
        held: &Held,
    ) -> (Vec<(u8, StepEnd)>, Option<FailedStep>) {
        let attempts = worked.task.attempts + 1;
        let whose = |step: &str| if step == MAPPING { Whose::Message } else { Whose::Ours };
        let early = worked.failure.clone();
        let mut failure =
            early.map(|(step, reason)| FailedStep { whose: whose(&step), step, reason, attempts });
        let mut ends = Vec::new();
        let behind = held.steps(worked.task.key);
        for (place, progress) in &worked.steps {
            let end = match progress {
                _ if behind.has(*place) => StepEnd::NotTried,
                Progress::Ended(end) => end.clone(),
                Progress::Staged(files) => match files.iter().find_map(|f| placed.of(*f).err()) {
                    Some(fault) => again(fault),
                    None => StepEnd::Over,
                },
                Progress::Failed(reason) => {
                    let step = self.plan.name(*place).to_owned();
                    let (reason, whose) = (reason.clone(), Whose::Message);
                    failure.get_or_insert(FailedStep { step, reason, attempts, whose });
                    StepEnd::NotTried
                }
            };
            ends.push((*place as u8, end));
        }
        (ends, failure)
    }

    fn gave_up(&self, decisions: &[Decision]) -> Option<FailedStep> {
        decisions.iter().find_map(|decision| match decision {
            Decision::GaveUp { place, attempts, reason } => {
                let step = self.plan.name(usize::from(*place)).to_owned();
                let (reason, attempts) = (reason.clone(), *attempts);
                Some(FailedStep { step, reason, attempts, whose: Whose::Target })
            }
            Decision::Waits(_) => None,
        })
    }

    /// Whether a message that fails is listed here, whatever its sender does: it was told AA, or a person took it over.
    fn is_ours(&self, worked: &Worked) -> bool {
        match &worked.received {
            Some(received) => flags::is_ours(received.flags),
            None => self.settings.channel.ack == AckMode::Received,
        }
    }

    /// `ack: processed`: the sender has waited for as long as it may, and is told to send again.
    fn too_late(&self, task: &Task, left: StepSet) -> Option<FailedStep> {
        let late = !left.is_empty() && self.dispatcher.is_withdrawn(task.ticket);
        late.then(|| FailedStep {
            step: TOO_LATE.to_owned(),
            reason: "not done within answer_timeout".to_owned(),
            attempts: task.attempts + 1,
            whose: Whose::Target,
        })
    }

    /// `ack: processed`: the sender keeps a message that could not be processed.
    fn give_back(&self, worked: &Worked, failed: &FailedStep, pending: StepSet, now_us: i64) -> Returned {
        let FailedStep { step, reason, .. } = failed;
        let (id, control_id, kind) = (worked.task.id, &worked.label.control_id, &worked.label.message_type);
        self.counters.failed(step);
        log::warn!(
            message_id = id.to_string().as_str(), control_id = control_id.as_str(), step = step.as_str();
            "id={id} control_id={control_id:?} type={kind} bytes={} outcome=returned step={step} wait={:.3}: {reason}; \
             its sender keeps it",
            worked.label.bytes,
            seconds(now_us - worked.task.received_us),
        );
        let refusal = match failed.whose {
            Whose::Message => &Refusal::REQUIRED_FIELD_MISSING,
            Whose::Target => &Refusal::INTERNAL,
            Whose::Ours => &Refusal::PROCESSING_FAILED,
        };
        Returned { id, location: worked.task.location, pending, refusal }
    }

    /// Puts a message into the failed folder.
    fn fail(&self, worked: &Worked, failed: &FailedStep, over: StepSet, now_us: i64) -> std::io::Result<()> {
        let FailedStep { step, reason, attempts, .. } = failed;
        let id = worked.task.id;
        // What cannot be read back stays with the journal as a damaged record; the reason says so.
        let received = self.reader.read(worked.task.location).ok();
        let workflow = flags::workflow(received.as_ref().map_or(0, |r| r.flags));
        let done = self.plan.steps_of(workflow).without(worked.task.pending).with(over);
        let steps_done = done.places().map(|p| self.plan.name(p).to_owned()).collect();
        let failure = Failure { step, reason, attempts: *attempts, steps_done };
        let message = FailedMessage::of(&self.settings.channel, id, received.as_ref(), failure);
        self.failed.keep(id, &message, &received.map(|r| r.body).unwrap_or_default())?;
        self.counters.failed(step);
        let (control_id, kind) = (&worked.label.control_id, &worked.label.message_type);
        log::error!(
            message_id = id.to_string().as_str(), control_id = control_id.as_str(), step = step.as_str();
            "id={id} control_id={control_id:?} type={kind} bytes={} outcome=failed step={step} \
             attempts={attempts} wait={:.3}: {reason}",
            worked.label.bytes,
            seconds(now_us - worked.task.received_us),
        );
        Ok(())
    }

    /// The failed folder cannot be written either (the disk is full): the message stays in the queue as it is.
    fn not_even_failed(&self, worked: &Worked, now_us: i64) -> TaskReport {
        let ends: Vec<(u8, StepEnd)> =
            worked.task.steps.places().map(|p| (p as u8, StepEnd::NotTried)).collect();
        let until_us =
            now_us + crate::retry::wait_us(&self.settings.channel.retry, worked.task.attempts + 1, 0);
        let wait = |place: usize| {
            Decision::Waits(crate::dispatcher::Wait {
                place: place as u8,
                attempt: worked.task.attempts + 1,
                until_us,
                since_us: now_us,
                reason: "the failed folder could not be written".into(),
                target_down: false,
            })
        };
        let decisions = worked.task.steps.places().map(wait).collect();
        (worked.task.ticket, worked.task.steps, TaskEnd::Steps(ends), decisions)
    }

    fn log_end(&self, worked: &Worked, outcome: &str, now_us: i64) {
        let id = worked.task.id;
        let Label { control_id, message_type, bytes } = &worked.label;
        log::info!(
            message_id = id.to_string().as_str(), control_id = control_id.as_str();
            "id={id} control_id={control_id:?} type={message_type} bytes={bytes} outcome={outcome} \
             attempts={} wait={:.3} steps={:.3}",
            worked.task.attempts + 1,
            seconds(worked.began_us - worked.task.received_us),
            seconds(now_us - worked.began_us),
        );
    }

    fn log_waits(&self, worked: &Worked, decisions: &[Decision], now_us: i64) {
        let id = worked.task.id;
        for decision in decisions {
            let Decision::Waits(wait) = decision else { continue };
            let step = self.plan.name(usize::from(wait.place));
            log::warn!(
                message_id = id.to_string().as_str(), step = step;
                "id={id} {step}: {}; trying again in {:.0} s (attempt {})",
                wait.reason,
                seconds(wait.until_us - now_us).max(0.0),
                wait.attempt,
            );
        }
    }

    fn log_stamps(&self, id: journal::MessageId, marked: &Marked) {
        for reason in &marked.unstamped {
            self.counters.unstamped.fetch_add(1, Relaxed);
            log::warn!("id={id} an attachment is delivered without its stamp: {reason}");
        }
        for note in &marked.notes {
            log::info!("id={id} {note}");
        }
    }

    fn debug_message(&self, id: journal::MessageId, message: &Message<'_>, undecodable: usize) {
        let channel = &self.settings.channel;
        if undecodable > 0 {
            let name = channel.encoding.name();
            log::warn!("id={id} has {undecodable} bytes that are not {name}; they read as U+FFFD");
        }
        if channel.debug_message {
            for segment in message.segments() {
                log::info!("id={id} {}", segment.raw);
            }
        }
        if channel.debug_values {
            for (path, value) in message.walk() {
                log::info!("id={id} {path} {value}");
            }
        }
    }

    fn debug_metadata(&self, id: journal::MessageId, metadata: &Metadata) {
        if self.settings.channel.debug_metadata {
            for (name, value) in metadata.iter() {
                log::info!("id={id} {name}={:?}", value.unwrap_or("(nothing)"));
            }
        }
    }
}

/// All steps are tried again, each for itself.
fn put_off(steps: StepSet, reason: &str) -> Vec<(usize, Progress)> {
    let again = || StepEnd::Again { reason: reason.to_owned(), target_down: false, wanted_us: None };
    steps.places().map(|place| (place, Progress::Ended(again()))).collect()
}

fn split(steps: StepSet, is_first: impl Fn(usize) -> bool) -> (StepSet, StepSet) {
    let first =
        steps.places().filter(|p| is_first(*p)).fold(StepSet::EMPTY, |set, p| set.with(StepSet::one(p)));
    (first, steps.without(first))
}

fn over(ends: &[(u8, StepEnd)]) -> StepSet {
    let over = ends.iter().filter(|(_, end)| matches!(end, StepEnd::Over));
    over.fold(StepSet::EMPTY, |set, (place, _)| set.with(StepSet::one(usize::from(*place))))
}

fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}
