//! The world outside a worker, and what is known of every message in it: what was promised, what has been done to it, in
//! which order, and what stands on record. Whatever contradicts that is kept as a fault, since a step that panicked would
//! only be a step that panicked.

use crate::committer::{Append, IntakeKind};
use crate::dispatcher::{Dispatcher, NewEntry, StepEnd};
use crate::failed::FailedFolder;
use crate::plan::{Plan, StepSet};
use crate::step::{Context, Progress};
use journal::MessageId;
use journal::storage::faulty::Random;
use std::collections::BTreeMap;

/// How a message ended, as the journal has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Failed,
    Returned,
    Discarded,
}

/// What stands on record of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Recorded {
    over: StepSet,
    end: Option<End>,
}

#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) control_id: String,
    /// None: outside the order.
    keys: Vec<u64>,
    /// Its place in the order of acknowledgment.
    place: u64,
    steps: StepSet,
    /// The batch that it came in is flushed.
    stored: bool,
    /// Carried out, whatever is on record of it.
    over: StepSet,
    written: Recorded,
    flushed: Recorded,
    /// A step failed for good: whoever stands behind it may go on.
    leaves: bool,
    /// Retried by hand: a person took it over, and its sender need not wait for its end.
    ours: bool,
}

impl Known {
    /// Outside the order from now on, and not its sender's.
    fn is_retried(&mut self) {
        self.keys.clear();
        self.ours = true;
    }
}

/// How a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Up,
    /// One in three attempts fails.
    Unsteady,
    Down,
}

/// How the last life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// Everything written is there.
    Written,
    /// Everything flushed is there.
    Flushed,
}

#[derive(Debug)]
pub(super) struct World {
    random: Random,
    /// By place of the step.
    pub(super) moods: Vec<Mood>,
    pub(super) messages: BTreeMap<MessageId, Known>,
    places: u64,
    /// How messages end, or are opened anew, by batches that were begun: on record or not, until another is flushed.
    attempted: Vec<(MessageId, Option<End>)>,
    /// Of those that are opened anew, the ones that an operator retries: outside the order, should it come to that.
    retried: Vec<MessageId>,
    /// The process has died in the middle of a job: what follows does not happen.
    pub(super) died: bool,
    /// Steps of a job until that happens.
    pub(super) dies_after: Option<u64>,
    /// Nothing goes wrong any more but what is wrong with a message itself.
    pub(super) calm: bool,
    pub(super) fault: Option<String>,
    /// What is put on record is told.
    aloud: bool,
    pub(super) carried_out: u64,
    pub(super) repeated: u64,
}

/// What a batch is to put on record.
#[derive(Debug, Default)]
pub(super) struct Noted {
    flush: bool,
    received: Vec<(MessageId, bool)>,
    over: Vec<(MessageId, usize)>,
    ends: Vec<(MessageId, End)>,
}

impl Noted {
    /// Whether messages come in with it.
    pub(super) fn brings_messages(&self) -> bool {
        !self.received.is_empty()
    }
}

impl World {
    pub(super) fn new(seed: u64, places: usize, aloud: bool) -> World {
        World {
            random: Random::new(seed ^ 0x5eed),
            moods: vec![Mood::Up; places],
            messages: BTreeMap::new(),
            places: 0,
            attempted: Vec::new(),
            retried: Vec::new(),
            died: false,
            dies_after: None,
            calm: false,
            fault: None,
            aloud,
            carried_out: 0,
            repeated: 0,
        }
    }

    pub(super) fn wrong(&mut self, what: String) {
        self.fault.get_or_insert(what);
    }

    /// A step is carried out, or fails.
    pub(super) fn step(
        &mut self,
        place: usize,
        context: &Context<'_>,
        plan: &Plan,
        dispatcher: &Dispatcher,
    ) -> Progress {
        if let Some(left) = &mut self.dies_after {
            self.died |= *left == 0;
            *left = left.saturating_sub(1);
        }
        if self.died {
            return Progress::Ended(StepEnd::NotTried);
        }
        self.check(place, context.id, plan, dispatcher);
        let Some(message) = self.messages.get_mut(&context.id) else {
            return Progress::Ended(StepEnd::NotTried);
        };
        let dice = fate(&message.control_id, place);
        if dice.is_multiple_of(29) {
            message.leaves = true;
            return Progress::Failed("it is wrong".to_owned());
        }
        let again = |target_down, wanted_us| {
            Progress::Ended(StepEnd::Again { reason: "no".to_owned(), target_down, wanted_us })
        };
        let wanted_us = self.random.percent(20).then_some(5_000_000);
        match self.moods[place] {
            Mood::Down => return again(true, wanted_us),
            Mood::Unsteady if self.random.percent(33) => return again(self.random.percent(50), None),
            Mood::Up | Mood::Unsteady => {}
        }
        if !self.calm && dice.is_multiple_of(31) && self.random.percent(40) {
            // The second time, or the first after a crash, it fails for that, and those behind it go on in the same job.
            message.leaves = true;
            // Without the panic hook's noise.
            std::panic::resume_unwind(Box::new("a panic of a step"));
        }
        self.carried_out += 1;
        if self.aloud {
            eprintln!("           step {place} of {} is carried out", context.id);
        }
        self.repeated += u64::from(message.over.has(place));
        message.over = message.over.with(StepSet::one(place));
        if !self.calm && self.random.percent(3) {
            // It is done, and its peer's word of it was lost.
            return again(false, None);
        }
        Progress::Ended(StepEnd::Over)
    }

    fn check(&mut self, place: usize, id: MessageId, plan: &Plan, dispatcher: &Dispatcher) {
        let name = plan.name(place);
        let Some(message) = self.messages.get(&id) else {
            return self.wrong(format!("{name} of {id}, which nobody sent"));
        };
        if !message.stored {
            return self.wrong(format!("{name} of {id} before it was flushed"));
        }
        if message.written.over.has(place) {
            return self.wrong(format!("{name} of {id} once more, though it is on record as over"));
        }
        if let Some(end) = message.written.end {
            return self.wrong(format!("{name} of {id}, which is {end:?}"));
        }
        let in_line = plan.pools().in_line(StepSet::one(place));
        let before = |(_, other): &(&MessageId, &Known)| {
            other.place < message.place
                && other.stored
                && !other.leaves
                && other.written.end.is_none()
                && other.keys.iter().any(|key| message.keys.contains(key))
                && !other.steps.without(other.over).and(in_line).is_empty()
        };
        let before: Vec<MessageId> = self.messages.iter().filter(before).map(|(id, _)| *id).collect();
        if before.is_empty() {
            return;
        }
        // One that a sender has taken back stands in nobody's way, be it on record or not.
        let waiting = dispatcher.waiting(usize::MAX).0;
        if let Some(row) = waiting.iter().find(|row| before.contains(&row.id)) {
            self.wrong(format!("{name} of {id} before that of {} in front of it", row.id));
        }
    }

    /// Whether a message is over and not done.
    fn may_come_again(&self, id: MessageId) -> bool {
        self.end_of(id).is_some_and(|end| end != End::Done)
    }

    /// What a batch will say, before it is written.
    pub(super) fn note(&mut self, items: &[Append], plan: &Plan, failed: &FailedFolder) -> Noted {
        let mut noted = Noted::default();
        for item in items {
            match item {
                Append::Intake(messages) => {
                    noted.flush = true;
                    for message in messages {
                        let (new, anew) = match &message.kind {
                            IntakeKind::Known => continue,
                            IntakeKind::New(new) => (new, true),
                            // Another has come before it: it is open again, or even done.
                            IntakeKind::Again(new) if !self.may_come_again(new.id) => continue,
                            IntakeKind::Again(new) => (new, !failed.contains(new.id)),
                            IntakeKind::Resumed(new, _) => (new, false),
                        };
                        self.places += 1;
                        let control_id = control_id_of(&new.body);
                        let known = Known {
                            control_id,
                            keys: new.keys.clone(),
                            place: self.places,
                            steps: plan.steps_of(new.workflow),
                            stored: false,
                            over: StepSet::EMPTY,
                            written: Recorded::default(),
                            flushed: Recorded::default(),
                            leaves: false,
                            ours: false,
                        };
                        match self.messages.get_mut(&new.id) {
                            // In this batch already.
                            Some(_) if noted.received.iter().any(|(id, _)| *id == new.id) => continue,
                            Some(before) if before.written.end.is_some() => {
                                (before.keys, before.place) = (known.keys, known.place);
                            }
                            Some(_) => {}
                            None => drop(self.messages.insert(new.id, known)),
                        }
                        noted.received.push((new.id, anew));
                    }
                }
                Append::Outcomes(outcomes) => {
                    noted.flush |= !outcomes.failed.is_empty() || !outcomes.returned.is_empty();
                    noted.over.extend_from_slice(&outcomes.steps);
                    noted.ends.extend(outcomes.done.iter().map(|id| (*id, End::Done)));
                    noted.ends.extend(outcomes.failed.iter().map(|(id, _)| (*id, End::Failed)));
                    noted.ends.extend(outcomes.returned.iter().map(|of| (of.id, End::Returned)));
                }
                Append::Retry(ids, _) => {
                    noted.flush = true;
                    self.attempted.extend(ids.iter().map(|id| (*id, None)));
                    self.retried.extend(ids);
                }
                Append::Discard(ids, _) => {
                    noted.flush = true;
                    self.attempted.extend(ids.iter().map(|id| (*id, Some(End::Discarded))));
                }
                Append::Stop => noted.flush = true,
                Append::Quarantine(..) => {}
            }
        }
        self.attempted.extend(noted.received.iter().map(|(id, _)| (*id, None)));
        self.attempted.extend(noted.ends.iter().map(|(id, end)| (*id, Some(*end))));
        noted
    }

    /// It is written, and flushed where it said so.
    pub(super) fn recorded(&mut self, noted: Noted) {
        if self.aloud {
            eprintln!("           on record: {noted:?}");
        }
        for (id, anew) in noted.received {
            let message = self.messages.get_mut(&id).expect("noted before");
            if anew {
                (message.over, message.written, message.flushed) = Default::default();
            }
            (message.stored, message.leaves, message.ours) = (true, false, false);
            message.written.end = None;
        }
        for (id, place) in noted.over {
            let message = self.messages.get_mut(&id).expect("what is delivered was stored");
            message.written.over = message.written.over.with(StepSet::one(place));
            if !message.over.has(place) {
                self.wrong(format!("step {place} of {id} is on record as over and was never carried out"));
            }
        }
        for (id, end) in noted.ends {
            self.end(id, end);
        }
        if noted.flush {
            self.flushed();
        }
    }

    fn end(&mut self, id: MessageId, end: End) {
        let message = self.messages.get_mut(&id).expect("what ends was stored");
        if message.written.end.replace(end).is_some() {
            self.wrong(format!("{id} ended twice"));
        } else if end == End::Done {
            let missing = message.steps.without(message.over);
            message.written.over = message.steps;
            if !missing.is_empty() {
                self.wrong(format!("{id} is done without its steps {missing:?}"));
            }
        }
    }

    /// Everything written is.
    pub(super) fn flushed(&mut self) {
        self.messages.values_mut().for_each(|message| message.flushed = message.written);
        self.attempted.clear();
        self.retried.clear();
    }

    /// By hand, on record: given up, or outside the order from now on.
    pub(super) fn changed(&mut self, id: MessageId, retried: bool) {
        let Some(message) = self.messages.get_mut(&id) else {
            return self.wrong(format!("{id} was changed by hand, and nobody sent it"));
        };
        message.written.end = (!retried).then_some(End::Discarded);
        message.leaves = false;
        if retried {
            message.is_retried();
        }
        message.flushed = message.written;
    }

    /// A worker was started again: what it found is what was promised.
    pub(super) fn restarted(
        &mut self,
        found: &[NewEntry],
        promise: Promise,
        failed: &FailedFolder,
        acknowledged: impl Fn(MessageId) -> bool,
    ) {
        (self.died, self.dies_after) = (false, None);
        let found: BTreeMap<MessageId, &NewEntry> = found.iter().map(|entry| (entry.id, entry)).collect();
        let mut wrong = Vec::new();
        for id in found.keys().filter(|id| !self.messages.contains_key(id)) {
            wrong.push(format!("{id} was replayed, and nobody sent it"));
        }
        self.messages.retain(|id, message| {
            let promised = match promise {
                Promise::Written => message.written,
                Promise::Flushed => message.flushed,
            };
            let Some(entry) = found.get(id) else {
                if !message.stored {
                    if acknowledged(*id) {
                        wrong.push(format!("{id} was acknowledged and is not there"));
                    }
                    return false;
                }
                // Killed on it again and again: listed when the worker started.
                if failed.contains(*id) {
                    message.written.end = Some(End::Failed);
                }
                let attempted = self.attempted.iter().find(|(of, end)| of == id && end.is_some());
                let attempted = attempted.and_then(|(_, end)| *end);
                message.written.end = message.written.end.or(attempted);
                // Given up by hand when it died: that is on record, or it is listed still.
                let given_up = self.attempted.contains(&(*id, Some(End::Discarded)));
                match message.written.end {
                    None => wrong.push(format!("{id} is forgotten")),
                    Some(End::Failed) if failed.contains(*id) => {}
                    Some(End::Failed) if given_up => message.written.end = Some(End::Discarded),
                    Some(End::Failed) => wrong.push(format!("{id} is not listed")),
                    Some(end) if failed.contains(*id) => {
                        wrong.push(format!("{id} is {end:?}, and listed as failed"));
                    }
                    Some(_) => {}
                }
                message.flushed = message.written;
                return true;
            };
            let recorded = message.steps.without(entry.steps);
            let may_begin_anew = self.attempted.contains(&(*id, None));
            if let Some(end) = promised.end.filter(|_| !may_begin_anew) {
                wrong.push(format!("{id} was {end:?} and is back"));
            }
            if !may_begin_anew && !promised.over.without(recorded).is_empty() {
                wrong.push(format!("{id} would repeat {:?}", promised.over.without(recorded)));
            }
            if !recorded.without(message.over).is_empty() {
                wrong.push(format!(
                    "{id} has {recorded:?} on record, and only {:?} carried out",
                    message.over
                ));
            }
            message.written = Recorded { over: recorded, end: None };
            message.flushed = message.written;
            (message.stored, message.leaves) = (true, false);
            // It died before it could say that this was done.
            if entry.keys.is_empty() && self.retried.contains(id) {
                message.is_retried();
            }
            true
        });
        self.attempted.clear();
        self.retried.clear();
        wrong.into_iter().for_each(|what| self.wrong(what));
    }

    /// Whether a message is stored, and, where that is to be waited for, done.
    pub(super) fn may_be_acknowledged(&self, id: MessageId, processed: bool) -> bool {
        self.messages.get(&id).is_some_and(|message| {
            let is_over = || message.steps.without(message.over).is_empty();
            message.stored && (!processed || message.ours || is_over())
        })
    }

    pub(super) fn end_of(&self, id: MessageId) -> Option<End> {
        self.messages.get(&id)?.written.end
    }
}

/// What is wrong with a message itself, for ever: from its name.
fn fate(control_id: &str, place: usize) -> u64 {
    let seed = control_id.bytes().fold(place as u64 + 1, |sum, byte| sum.wrapping_mul(131) + u64::from(byte));
    Random::new(seed).bits() >> 8
}

fn control_id_of(body: &[u8]) -> String {
    let field = body.split(|byte| *byte == b'|').nth(9).unwrap_or_default();
    String::from_utf8_lossy(field).into_owned()
}
