//! Which open message is due, and which delivery thread gets it.
//!
//! The dispatcher keeps one small entry an open message, never its bytes. Delivery threads ask it for a job, carry it
//! out and report; the committer adds what has been flushed. It decides nothing about attempts (see [`crate::retry`])
//! and touches no file.
//!
//! ```text
//! Committed → Running → gone (done, failed) | Waiting(until, attempt) → Running …
//! ```
//!
//! A step whose target is down (a dead folder, an unreachable peer) opens its *breaker*: one message probes the target
//! at a time, the others wait without a thread, a slot or an attempt.

mod state;

use crate::order::Ticket;
use crate::plan::{Plan, StepSet};
use crate::retry::{Verdict, verdict};
use config::Retry;
use journal::{Location, MessageId};
use state::{Entry, EntryState, State, copy_of, cut, micros, next_spread};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Most messages of one job. Their files are flushed together.
const JOB_MESSAGES_MAX: usize = 64;
/// Bytes after which a job takes no further message.
const JOB_BYTES_MAX: usize = 1 << 20;
/// The ticket of the first step's probe; those of the others count down from it.
const PROBE_TICKETS: Ticket = Ticket::MAX;
/// How long a probe that nobody makes waits for the next offer.
const PROBE_OFFER_US: i64 = 1_000_000;
/// Longest reason kept of a step that is tried again, in bytes.
const REASON_BYTES_MAX: usize = 300;

/// What the dispatcher is told of a message that has been flushed, or found open at the start.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Its id.
    pub id: MessageId,
    /// Where its bytes are.
    pub location: Location,
    /// Time of receipt, microseconds of Unix time.
    pub received_us: i64,
    /// Order keys; none for a message outside the order (retried by hand).
    pub keys: Vec<u64>,
    /// Steps still before it.
    pub steps: StepSet,
    /// What it cost workers so far, see [`crate::strikes`].
    pub strikes: u8,
    /// It was being processed when a worker died: it runs alone.
    pub suspect: bool,
    /// Steps that wait for another attempt.
    pub waits: Vec<Wait>,
}

/// A step that waits for another attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    /// Place of the step in the plan.
    pub place: u8,
    /// Attempts so far.
    pub attempt: u32,
    /// When it is due, microseconds of Unix time.
    pub until_us: i64,
    /// When it was first tried.
    pub since_us: i64,
    /// Why it is tried again.
    pub reason: Box<str>,
    /// The target was down: once it is back the step need not wait out its time.
    pub target_down: bool,
}

/// One message of a job.
#[derive(Clone, Debug)]
pub struct Task {
    /// The entry.
    pub ticket: Ticket,
    /// Its id.
    pub id: MessageId,
    /// Where its bytes are.
    pub location: Location,
    /// Time of receipt, microseconds of Unix time.
    pub received_us: i64,
    /// The steps to carry out now.
    pub steps: StepSet,
    /// The steps still before it, these included.
    pub pending: StepSet,
    /// Its first order key: a step that fails for an earlier task of the job with this key is not carried out.
    pub key: Option<u64>,
    /// Attempts so far, over all steps.
    pub attempts: u32,
    /// Strikes so far.
    pub strikes: u8,
}

/// How one step of a task ended.
#[derive(Clone, Debug, PartialEq)]
pub enum StepEnd {
    /// Done or skipped: never again.
    Over,
    /// A fault that may pass.
    Again {
        /// For the log and `queue list`.
        reason: String,
        /// The target itself is down: others need not try.
        target_down: bool,
        /// The wait the peer asks for, microseconds.
        wanted_us: Option<i64>,
    },
    /// Not tried (an earlier message of the job was not done with this step).
    NotTried,
}

/// What a delivery thread reports of a task.
#[derive(Clone, Debug)]
pub enum TaskEnd {
    /// Each step by its place.
    Steps(Vec<(u8, StepEnd)>),
    /// The message has failed (and is on record as failed), or needs nothing more.
    Gone,
}

/// A task's end: the ticket, the steps it was given, how they ended, and what [`Dispatcher::decide`] said of them.
pub type TaskReport = (Ticket, StepSet, TaskEnd, Vec<Decision>);

/// What the report of a step means, for the journal and the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The step waits; the journal gets an `again` record of it.
    Waits(Wait),
    /// `retry.give_up` is over: the caller fails the message with this reason.
    GaveUp {
        /// Place of the step.
        place: u8,
        /// Attempts made.
        attempts: u32,
        /// Reason of the last.
        reason: String,
    },
}

/// What [`Dispatcher::withdraw`] found.
#[derive(Clone, Debug, PartialEq)]
pub enum Withdrawal {
    /// It waited, and is not delivered any more.
    Out {
        /// Where its bytes are.
        location: Location,
        /// The steps it still had before it.
        pending: StepSet,
    },
    /// Somebody works on it: this attempt is its last.
    Running,
    /// It has ended already.
    Gone,
}

/// What waits, for `queue list`.
#[derive(Clone, Debug)]
pub struct WaitingRow {
    /// Its id.
    pub id: MessageId,
    /// Where its bytes are.
    pub location: Location,
    /// Time of receipt.
    pub received_us: i64,
    /// The step it waits for: the one that is tried again, else the first before it.
    pub place: Option<u8>,
    /// Attempts, due time and reason where the step is tried again.
    pub wait: Option<Wait>,
}

/// The dispatcher.
#[derive(Debug)]
pub struct Dispatcher {
    state: Mutex<State>,
    /// The number in `state`, to be read without its lock.
    open: AtomicUsize,
    due: Condvar,
    retry: Retry,
    threads: usize,
}

impl Dispatcher {
    /// An empty one for a plan; `threads` ask it for jobs.
    pub fn new(plan: &Plan, retry: Retry, threads: usize) -> Dispatcher {
        Dispatcher::with_places(plan.len(), retry, threads)
    }

    fn with_places(places: usize, retry: Retry, threads: usize) -> Dispatcher {
        Dispatcher {
            state: Mutex::new(State::new(places)),
            open: AtomicUsize::new(0),
            due: Condvar::new(),
            retry,
            threads: threads.max(1),
        }
    }

    /// Takes in messages in the order in which they were acknowledged.
    pub fn add(&self, entries: impl IntoIterator<Item = NewEntry>) {
        let mut state = self.lock();
        let before = state.ready.len();
        for entry in entries {
            state.add(entry);
        }
        self.open.store(state.open, Relaxed);
        let news = state.ready.len().saturating_sub(before);
        let suspects = !state.suspects.is_empty();
        drop(state);
        match news {
            0 if !suspects => {}
            0 | 1 => self.due.notify_one(),
            _ => self.due.notify_all(),
        }
    }

    /// Waits for work; `None` once [`Dispatcher::stop`] was called. `now` gives microseconds of Unix time.
    pub fn next(&self, now: impl Fn() -> i64) -> Option<Vec<Task>> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            let now_us = now();
            let give_up_us = micros(self.retry.give_up);
            let next_timer = state.fire_timers(now_us, give_up_us);
            let share = (state.ready.len() / self.threads).clamp(1, JOB_MESSAGES_MAX);
            if let Some(job) = state.take(now_us, share, give_up_us) {
                if !state.ready.is_empty() {
                    self.due.notify_one();
                }
                return Some(job);
            }
            state = match next_timer {
                Some(at_us) => {
                    let wait = Duration::from_micros((at_us - now_us).clamp(1_000, 60_000_000) as u64);
                    self.due.wait_timeout(state, wait).unwrap_or_else(|e| e.into_inner()).0
                }
                None => self.due.wait(state).unwrap_or_else(|e| e.into_inner()),
            };
        }
    }

    /// Decides on the steps that ended in `again`, before they are recorded: each waits, or has been tried for too long.
    pub fn decide(&self, task: &Task, ends: &[(u8, StepEnd)], now_us: i64) -> Vec<Decision> {
        let mut state = self.lock();
        let state = &mut *state;
        let mut decisions = Vec::new();
        for (place, end) in ends {
            let StepEnd::Again { reason, wanted_us, target_down } = end else { continue };
            let entry = state.entries[task.ticket as usize].as_ref().expect("a running task has its entry");
            let earlier = entry.waits().iter().find(|w| w.place == *place);
            let attempt = earlier.map_or(0, |w| w.attempt) + 1;
            // A message that waited behind an open breaker has been waiting since then, tried or not.
            let breaker = target_down.then(|| state.breakers[usize::from(*place)].open.as_ref()).flatten();
            let parked_us = breaker.map(|b| b.since_us.max(entry.received_us));
            let since_us = [earlier.map(|w| w.since_us), parked_us, Some(now_us)]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(now_us);
            state.spread = next_spread(state.spread);
            match verdict(&self.retry, attempt, since_us, now_us, *wanted_us, state.spread >> 40) {
                Verdict::At(until_us) => decisions.push(Decision::Waits(Wait {
                    place: *place,
                    attempt,
                    until_us,
                    since_us,
                    reason: cut(reason),
                    target_down: *target_down,
                })),
                Verdict::GiveUp => decisions.push(Decision::GaveUp {
                    place: *place,
                    attempts: attempt,
                    reason: reason.clone(),
                }),
            }
        }
        decisions
    }

    /// Takes the report of a job; the journal has been told already. Returns the places of journal records that no
    /// message needs any more.
    pub fn report(&self, reports: Vec<TaskReport>, now_us: i64) -> Vec<Location> {
        let mut gone = Vec::new();
        let mut state = self.lock();
        let all = state.suspect_runs;
        for report in reports {
            state.end_task(report, now_us, &self.retry, &mut gone);
        }
        self.open.store(state.open, Relaxed);
        let more = !state.ready.is_empty() || !state.timers.is_empty() || !state.suspects.is_empty();
        drop(state);
        if all {
            self.due.notify_all();
        } else if more {
            self.due.notify_one();
        }
        gone
    }

    /// No further job is given out.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.due.notify_all();
    }

    /// Whether [`Dispatcher::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Where a message's bytes are now.
    pub fn location(&self, ticket: Ticket) -> Option<Location> {
        self.lock().entries[ticket as usize].as_ref().map(|e| e.location)
    }

    /// Messages not yet delivered.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Tasks given out and not reported.
    pub fn running(&self) -> usize {
        self.lock().running
    }

    /// Time of receipt of the message that waits longest. Looks at every entry.
    pub fn oldest_us(&self) -> Option<i64> {
        self.lock().entries.iter().flatten().map(|e| e.received_us).min()
    }

    /// The first `limit` waiting messages by time of receipt, and how many there are.
    pub fn waiting(&self, limit: usize) -> (Vec<WaitingRow>, usize) {
        let state = self.lock();
        let mut rows: Vec<&Entry> = state.entries.iter().flatten().collect();
        let total = rows.len();
        rows.sort_by_key(|e| (e.received_us, e.id));
        let row = |e: &&Entry| {
            let wait = e.waits().iter().min_by_key(|w| w.until_us).cloned();
            WaitingRow {
                id: e.id,
                location: e.location,
                received_us: e.received_us,
                place: wait.as_ref().map(|w| w.place).or_else(|| e.pending.places().next().map(|p| p as u8)),
                wait,
            }
        };
        (rows.iter().take(limit).map(row).collect(), total)
    }

    /// The open messages whose bytes are in that segment and that nobody is working on, so that the committer can move
    /// them forward.
    pub fn in_segment(&self, segment: u32, limit: usize) -> Vec<(Ticket, NewEntry)> {
        let state = self.lock();
        let idle = |e: &Entry| e.location.segment == segment && e.state != EntryState::Running;
        let entries =
            state.entries.iter().enumerate().filter_map(|(at, e)| Some((at as Ticket, e.as_ref()?)));
        entries.filter(|(_, e)| idle(e)).take(limit).map(|(at, e)| (at, copy_of(e))).collect()
    }

    /// A message's bytes stand elsewhere now. `false`: it is gone meanwhile, or somebody works on it and it stays.
    pub fn moved(&self, ticket: Ticket, id: MessageId, from: Location, to: Location) -> bool {
        let mut state = self.lock();
        let entry = state.entries.get_mut(ticket as usize).and_then(Option::as_mut);
        let entry = entry.filter(|e| e.id == id && e.location == from && e.state != EntryState::Running);
        entry.map(|e| e.location = to).is_some()
    }

    /// Takes a message out whose sender waits no longer (`ack: processed`).
    pub fn withdraw(&self, id: MessageId) -> Withdrawal {
        let mut state = self.lock();
        let found = state.entries.iter().position(|e| e.as_ref().is_some_and(|e| e.id == id));
        let Some(ticket) = found else { return Withdrawal::Gone };
        let entry = state.entries[ticket].as_mut().expect("found above");
        if entry.state == EntryState::Running {
            entry.withdrawn = true;
            return Withdrawal::Running;
        }
        let (location, pending) = (entry.location, entry.pending);
        state.remove(ticket as Ticket);
        self.open.store(state.open, Relaxed);
        drop(state);
        self.due.notify_one();
        Withdrawal::Out { location, pending }
    }

    /// Whether a running message's sender waits no longer.
    pub fn is_withdrawn(&self, ticket: Ticket) -> bool {
        self.lock().entries[ticket as usize].as_ref().is_some_and(|e| e.withdrawn)
    }

    /// Writes a strike onto a running message and returns the new sum.
    pub fn strike(&self, ticket: Ticket, weight: u8) -> u8 {
        let mut state = self.lock();
        let entry = state.entries[ticket as usize].as_mut().expect("a running task has its entry");
        entry.strikes = entry.strikes.saturating_add(weight);
        entry.strikes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside leaves numbers, not half-made structures: the lock is taken all the same.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests;
