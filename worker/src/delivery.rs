//! A message through its plan: a delivery thread takes a job, reads each message back from the journal, carries out the
//! steps that are due, makes all their files durable together, and only then lets the journal say what is done.

mod ending;

use crate::clock::{self, Clock};
use crate::committer::{Append, Outcomes};
use crate::counters::Counters;
use crate::desk::label_behind;
use crate::dispatcher::{Decision, Dispatcher, FailedStep, Standing, StepEnd, Task, TaskReport, Whose};
use crate::extract::{self, Metadata};
use crate::failed::FailedFolder;
use crate::files::{FileBatch, Placed};
use crate::find_index::{self, Entry, Keys, Outcome};
use crate::flags;
use crate::folders::Folders;
use crate::names::NameParts;
use crate::peers::{Gathered, Peers};
use crate::plan::{MAPPING, Plan, Step, StepSet};
use crate::sandbox::Sandbox;
use crate::started::Started;
use crate::step::{Attachments, Context, Progress, again, archive, attachment, drop_folder};
use crate::strikes;
use crate::task_slots::TaskSlots;
use config::WorkerSettings;
use crossbeam_channel::Sender;
use hl7::charset;
use hl7::message::Message;
use journal::storage::Storage;
use journal::{FileStorage, JournalError, OwnedReceived, Reader};
use link::SecretValue;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a thread waits for a slot before it looks whether the worker stops.
const SLOT_WAIT: Duration = Duration::from_millis(200);

/// What all delivery threads of a worker share.
pub struct Delivery<S: Storage = FileStorage> {
    /// The settings.
    pub settings: Arc<WorkerSettings>,
    /// The values of the secrets that the settings name.
    pub secrets: BTreeMap<String, SecretValue>,
    /// The database, where the channel has one.
    pub database: Option<db::Database>,
    /// The steps.
    pub plan: Arc<Plan>,
    /// Gives out jobs.
    pub dispatcher: Arc<Dispatcher>,
    /// Reads messages back.
    pub reader: Reader<S>,
    /// Where outcomes are recorded.
    pub committer: Sender<Append>,
    /// Messages that need a person.
    pub failed: Arc<FailedFolder>,
    /// Where messages are looked up later.
    pub index: find_index::Sender,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Which messages are being processed.
    pub started: Started,
    /// The task slots that the threads hold.
    pub slots: Arc<TaskSlots>,
    /// The worker's time.
    pub clock: Clock,
    /// Threads with a job whose outcomes are not handed over yet.
    pub busy: AtomicUsize,
    /// What closes the worker in, and may have become too narrow.
    pub sandbox: Arc<Sandbox>,
    /// A simulation's answer to a step, in the place of the step.
    #[cfg(test)]
    pub outside: Option<Box<Outside>>,
}

/// How a step ends, of which message.
#[cfg(test)]
pub(crate) type Outside = dyn Fn(usize, &Context<'_>) -> Progress + Send + Sync;

/// The step that stands for the end of a sender's patience.
const TOO_LATE: &str = "answer_timeout";

/// A task with what came of it.
pub(crate) struct Worked {
    task: Task,
    began_us: i64,
    label: Label,
    keys: Keys,
    received: Option<OwnedReceived>,
    steps: Vec<(usize, Progress)>,
    failure: Option<FailedStep>,
    /// Its record in the journal is damaged.
    damaged: bool,
}

/// What a job's steps write to and send with.
struct Job<'j, 'p> {
    batch: FileBatch<'j>,
    gathered: Gathered,
    /// Steps whose targets turned out to be down: for the rest of the job they are not tried.
    down: StepSet,
    peers: &'j mut Peers<'p>,
}

impl Worked {
    fn fail(&mut self, step: &str, reason: String, whose: Whose) {
        let (step, attempts) = (step.to_owned(), self.task.attempts + 1);
        self.failure = Some(FailedStep { step, reason, attempts, whose });
    }
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
            let on_its_way = |p: &Progress| matches!(p, Progress::Staged(_) | Progress::Gathered(_));
            let over = |p: &Progress| on_its_way(p) || matches!(p, Progress::Ended(StepEnd::Over));
            let tried = worked
                .steps
                .iter()
                .filter(|(_, p)| over(p))
                .fold(StepSet::EMPTY, |set, (place, _)| set.with(StepSet::one(*place)));
            self.hold(worked.task.key, worked.task.pending.without(tried));
        }
    }
}

impl<S: Storage> Delivery<S> {
    /// Works for a pool until the dispatcher stops; `thread` is this thread's number among all of them.
    pub fn run(&self, pool: usize, thread: usize) {
        let mut folders = Folders::default();
        let mut peers = Peers::new(&self.settings, &self.secrets, self.database.as_ref());
        // One of the pool's threads is enough.
        if self.first_of_pool(pool, thread) {
            self.plan.pools()[pool].steps.places().for_each(|place| peers.look_at(self.plan.step(place)));
        }
        let pools = self.plan.pools();
        let at_peer = !pools[pool].steps.without(pools.local()).is_empty();
        while let Some(tasks) = self.dispatcher.next(pool, || self.clock.now_us()) {
            if !self.takes_slot(thread, at_peer) {
                self.refuse(&tasks);
                continue;
            }
            self.begin(thread, &tasks);
            let (worked, placed) = self.carry_out(tasks, &mut folders, &mut peers);
            self.conclude(worked, &placed);
            self.end(thread);
        }
    }

    /// A job for which there was no slot before the worker stops.
    pub(crate) fn refuse(&self, tasks: &[Task]) {
        let reports = tasks.iter().map(|task| report(task, Vec::new())).collect();
        self.dispatcher.report(reports, self.clock.now_us());
    }

    /// A thread that has a slot begins with its job.
    pub(crate) fn begin(&self, thread: usize, tasks: &[Task]) {
        if let Err(error) = self.started.begin(thread, tasks.iter().map(|t| t.id)) {
            log::warn!("could not record which messages are started: {error}");
        }
        self.busy.fetch_add(1, Relaxed);
    }

    /// Its outcomes are handed over.
    pub(crate) fn end(&self, thread: usize) {
        self.busy.fetch_sub(1, Relaxed);
        if let Err(error) = self.started.end(thread) {
            log::warn!("could not record which messages are started: {error}");
        }
        self.slots.give_back(thread);
    }

    fn first_of_pool(&self, pool: usize, thread: usize) -> bool {
        self.plan.pools().iter().take(pool).map(|p| p.threads).sum::<usize>() == thread
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

    /// Waits for a slot; `false` when the dispatcher stops first.
    fn takes_slot(&self, thread: usize, at_peer: bool) -> bool {
        while !self.slots.take(thread, at_peer, SLOT_WAIT) {
            if self.dispatcher.is_stopping() {
                return false;
            }
        }
        true
    }

    /// Everything that a job's messages are to have done to them, up to what is durable of it.
    pub(crate) fn carry_out(
        &self,
        tasks: Vec<Task>,
        folders: &mut Folders,
        peers: &mut Peers<'_>,
    ) -> (Vec<Worked>, Placed) {
        let mut job = Job {
            batch: FileBatch::new(folders),
            gathered: Gathered::default(),
            down: StepSet::EMPTY,
            peers,
        };
        let mut worked: Vec<Worked> = Vec::with_capacity(tasks.len());
        let mut held = Held::default();
        for task in tasks {
            let done = self.work(task, &held, &mut job);
            held.after(&done);
            worked.push(done);
        }
        let Job { batch, gathered, peers, .. } = job;
        self.send(gathered, peers, &mut worked);
        let placed = batch.commit();
        (worked, placed)
    }

    /// What the steps of a job gathered for their peers goes out together.
    fn send(&self, gathered: Gathered, peers: &mut Peers<'_>, worked: &mut [Worked]) {
        if gathered.is_empty() {
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| peers.send(gathered)));
        for worked in worked {
            for (_, progress) in &mut worked.steps {
                let Progress::Gathered(at) = progress else { continue };
                *progress = match &outcome {
                    Ok(sent) => sent.of(*at),
                    Err(_) => Progress::Ended(later("a step panicked. This is a bug of ours")),
                };
            }
        }
    }

    /// Reads one message and carries its steps as far as they go before the files are flushed.
    fn work(&self, task: Task, held: &Held, job: &mut Job<'_, '_>) -> Worked {
        let mut worked = Worked {
            began_us: self.clock.now_us(),
            label: Label::default(),
            keys: Keys::default(),
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
                        worked.fail("journal", format!("cannot be read back: {error}"), Whose::Ours);
                    }
                    _ => {
                        worked.steps = put_off(worked.task.steps, &format!("could not be read back: {error}"))
                    }
                }
                return worked;
            }
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| self.steps(&mut worked, held, job)));
        if outcome.is_err() {
            let sum = self.dispatcher.strike(worked.task.ticket, strikes::CRASH);
            worked.task.strikes = sum;
            // What was over before is over: a message sent on is not sent on again.
            worked.steps.retain(|(_, progress)| matches!(progress, Progress::Ended(StepEnd::Over)));
            let over =
                worked.steps.iter().fold(StepSet::EMPTY, |set, (place, _)| set.with(StepSet::one(*place)));
            if sum >= strikes::LIMIT {
                let reason = "a step panicked on this message twice. This is a bug of ours".to_owned();
                worked.fail("panic", reason, Whose::Ours);
            } else {
                let rest = worked.task.steps.without(over);
                worked.steps.extend(put_off(rest, "a step panicked on this message"));
            }
        }
        // The bytes are read again where the message fails: a job must not hold those of all its messages.
        if let Some(received) = &mut worked.received {
            received.body = Vec::new();
        }
        worked
    }

    fn steps(&self, worked: &mut Worked, held: &Held, job: &mut Job<'_, '_>) {
        let received = worked.received.take().expect("read by the caller");
        self.steps_of(worked, &received, held, job);
        worked.received = Some(received);
    }

    fn steps_of(&self, worked: &mut Worked, received: &OwnedReceived, held: &Held, job: &mut Job<'_, '_>) {
        let channel = &self.settings.channel;
        let readable = charset::transcode_start(&received.body, channel.encoding);
        let header = readable.as_ref().ok().and_then(|readable| readable.header().ok());
        let (control_id, message_type) = header.as_ref().map(label_behind).unwrap_or_default();
        worked.label = Label { control_id, message_type, bytes: received.body.len() };
        let time = clock::local(received.time_us, received.utc_offset_s);
        let below = channel.local_archive.as_ref().map(|a| a.format.render(&time)).unwrap_or_default();
        let names = NameParts {
            message_id: worked.task.id,
            time: clock::file_time(&time),
            control_id: worked.label.control_id.clone(),
            patient_id: None,
            accession_number: None,
        };
        let behind = worked.task.steps.and(held.steps(worked.task.key).with(job.down));
        worked.steps.extend(behind.places().map(|place| (place, Progress::Ended(StepEnd::NotTried))));
        let steps = worked.task.steps.without(behind);
        let (first, rest) = split(steps, |place| self.plan.is_before_mapping(place));
        let workflow = flags::workflow(received.flags);
        let begun = self.plan.steps_of(workflow).places().next().is_some_and(|place| steps.has(place));
        let mut attachments = Attachments::default();
        let context = Context {
            channel,
            id: worked.task.id,
            workflow,
            peer: &received.peer,
            received: &time,
            first_tried: &worked.task.first_tried,
            now_us: worked.began_us,
            body: &received.body,
            message: None,
            metadata: &Metadata::default(),
            names: &names,
            below: &below,
            order: worked.task.key,
        };
        for place in first.places() {
            let progress = self.step(place, &context, &mut attachments, job);
            worked.steps.push((place, progress));
        }
        if rest.is_empty() && !begun {
            return;
        }
        let decoded = match &header {
            Some(header) => charset::decode_behind(header, &received.body, channel.encoding),
            None => charset::decode(&received.body, channel.encoding),
        };
        let message = match Message::parse(&decoded.text) {
            Ok(message) => message,
            Err(fault) => return worked.fail(MAPPING, fault.to_string(), Whose::Message),
        };
        if begun {
            self.debug_message(worked.task.id, &message, decoded.undecodable);
        }
        let metadata = match extract::extract(&message, channel) {
            Ok(metadata) => metadata,
            Err(reason) => return worked.fail(MAPPING, reason, Whose::Message),
        };
        if begun {
            self.debug_metadata(worked.task.id, &metadata);
        }
        worked.keys = Keys::of(&message, channel, &metadata);
        let text_at = |path: &Option<_>| path.as_ref().and_then(|p| extract::text_at(&message, p));
        let names = NameParts {
            patient_id: text_at(&channel.patient_id_field),
            accession_number: text_at(&channel.accession_number_field),
            ..names.clone()
        };
        let context = Context { message: Some(&message), metadata: &metadata, names: &names, ..context };
        for place in rest.places() {
            let progress = self.step(place, &context, &mut attachments, job);
            if let Progress::Ended(StepEnd::Again { target_down: true, .. }) = &progress {
                job.down = job.down.with(StepSet::one(place));
            }
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
        job: &mut Job<'_, '_>,
    ) -> Progress {
        #[cfg(test)]
        if let Some(outside) = &self.outside {
            return outside(place, context);
        }
        let (completed, with_lookups);
        let mut context = context;
        if self.plan.looks_up(place, context.workflow) {
            completed = match job.peers.looked_up(context) {
                Ok(metadata) => metadata,
                Err(progress) => return progress,
            };
            with_lookups = Context { metadata: &completed, ..*context };
            context = &with_lookups;
        }
        match self.plan.step(place) {
            Step::Mapping => Progress::Ended(StepEnd::Over),
            Step::Archive(root) => archive::stage(context, &mut job.batch, root, place),
            Step::Attachment(root) => attachment::stage(context, attachments, &mut job.batch, root, place),
            Step::DropFolder { path, .. } => {
                drop_folder::stage(context, attachments, &mut job.batch, path, place)
            }
            step => job.peers.step(step, place, context, attachments, &mut job.gathered),
        }
    }

    /// Everything that can be durable is: what happened goes on record, and the dispatcher is told.
    pub(crate) fn conclude(&self, worked: Vec<Worked>, placed: &Placed) {
        let now_us = self.clock.now_us();
        let mut outcomes = Outcomes::default();
        let mut reports: Vec<TaskReport> = Vec::with_capacity(worked.len());
        let mut held = Held::default();
        for worked in &worked {
            let (ends, failure) = self.ends_of(worked, placed, &held);
            let decisions = self.dispatcher.decide(&worked.task, &ends, now_us);
            if worked.damaged {
                outcomes.damaged.push(worked.task.location.segment);
            }
            let failure = failure.or_else(|| self.gave_up(&decisions));
            if failure.is_none() {
                held.hold(worked.task.key, worked.task.pending.without(over(&ends)));
            }
            reports.push(TaskReport { ends, decisions, failure, ..report(&worked.task, Vec::new()) });
        }
        let told: Vec<(StepSet, Vec<Decision>)> =
            reports.iter().map(|r| (over(&r.ends), r.decisions.clone())).collect();
        let (standings, gone) = self.dispatcher.report(reports, now_us);
        outcomes.gone = gone;
        let mut noted = Vec::with_capacity(worked.len());
        for ((worked, (over, decisions)), standing) in worked.into_iter().zip(told).zip(standings) {
            let attempts = worked.task.attempts;
            let (outcome, step) = match standing {
                Standing::Open => {
                    self.goes_on(&worked, over, &decisions, &mut outcomes, now_us);
                    (Outcome::Waiting, None)
                }
                Standing::Over => {
                    self.done(&worked, &mut outcomes, now_us);
                    (Outcome::Done, None)
                }
                Standing::Failed { failure, left } => {
                    (self.put_away(&worked, &failure, left, &mut outcomes, now_us), Some(failure.step))
                }
                Standing::TooLate { left } => {
                    let failure = too_late(&worked);
                    (self.put_away(&worked, &failure, left, &mut outcomes, now_us), Some(failure.step))
                }
            };
            let entry = self.entry(worked, placed, outcome, step);
            // That it still waits is told once.
            if outcome != Outcome::Waiting || entry.archived.is_some() || attempts == 0 {
                noted.push(entry);
            }
        }
        self.index.note(noted);
        if !outcomes.is_empty() && self.committer.send(Append::Outcomes(Box::new(outcomes))).is_err() {
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
        let mut failure = worked.failure.clone();
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
                Progress::Gathered(_) => unreachable!("what was gathered has been sent"),
            };
            ends.push((*place as u8, end));
        }
        (ends, failure)
    }

    /// What the index is told of a message.
    fn entry(&self, worked: Worked, placed: &Placed, outcome: Outcome, step: Option<String>) -> Entry {
        let archived =
            worked.steps.iter().find_map(|(place, progress)| match (self.plan.step(*place), progress) {
                (Step::Archive(_), Progress::Staged(files)) => placed.of(*files.first()?).ok(),
                _ => None,
            });
        Entry {
            id: Some(worked.task.id),
            received_us: worked.received.as_ref().map_or(worked.task.received_us, |r| r.time_us),
            outcome,
            step,
            archived: archived.map(Path::to_owned),
            control_id: worked.label.control_id,
            message_type: worked.label.message_type,
            keys: worked.keys,
        }
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
}

/// All steps are tried again, each for itself.
fn put_off(steps: StepSet, reason: &str) -> Vec<(usize, Progress)> {
    steps.places().map(|place| (place, Progress::Ended(later(reason)))).collect()
}

fn later(reason: &str) -> StepEnd {
    StepEnd::Again { reason: reason.to_owned(), target_down: false, wanted_us: None }
}

/// The report of a task; without an end nothing of it was tried.
fn report(task: &Task, ends: Vec<(u8, StepEnd)>) -> TaskReport {
    TaskReport { ticket: task.ticket, tried: task.steps, ends, decisions: Vec::new(), failure: None }
}

/// `ack: processed`: the sender has waited for as long as it may, and is told to send again.
fn too_late(worked: &Worked) -> FailedStep {
    FailedStep {
        step: TOO_LATE.to_owned(),
        reason: "not done within answer_timeout".to_owned(),
        attempts: worked.task.attempts + 1,
        whose: Whose::Target,
    }
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
