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
//! Steps that share delivery threads are a *pool*: those that write files of this machine, and each peer's own. A
//! message may be worked on in several pools at once, in each by one thread; who ends last says what becomes of it.
//!
//! A step whose target is down (a dead folder, an unreachable peer) opens its *breaker*: one message probes the target
//! at a time, the others wait without a thread, a slot or an attempt.

mod breakers;
mod entry;
mod gather;
mod state;

use crate::order::Ticket;
use crate::plan::{Plan, Pools, StepSet};
use crate::precedence::Behind;
use crate::retry::{Verdict, verdict};
use config::Retry;
use entry::{Entry, copy_of};
use journal::{Location, MessageId};
use state::{State, cut, micros, next_spread};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Bytes after which a job takes no further message.
const JOB_BYTES_MAX: usize = 1 << 20;
/// Likewise of a job that writes files: it holds one message at a time, and all of them share its flushes.
const FILES_JOB_BYTES_MAX: usize = 8 << 20;
/// Messages up to so many bytes are not shared out among the threads that write files.
const SMALL_JOB_BYTES: usize = 64 << 10;
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
    /// The steps of the pool still before it, these included.
    pub pending: StepSet,
    /// Its first order key: a step that fails for an earlier task of the job with this key is not carried out.
    pub key: Option<u64>,
    /// Attempts so far, over all steps.
    pub attempts: u32,
    /// Steps that have been tried before, by place, with the time of the first attempt.
    pub first_tried: Vec<(u8, i64)>,
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
pub struct TaskReport {
    /// The entry.
    pub ticket: Ticket,
    /// The steps it was given.
    pub tried: StepSet,
    /// How they ended, by place; one that is missing was not tried.
    pub ends: Vec<(u8, StepEnd)>,
    /// What [`Dispatcher::decide`] said of them.
    pub decisions: Vec<Decision>,
    /// A step failed for good, and with it the message.
    pub failure: Option<FailedStep>,
}

/// A step that failed for good.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedStep {
    /// Its name.
    pub step: String,
    /// Why.
    pub reason: String,
    /// Attempts made.
    pub attempts: u32,
    /// Where the fault lies.
    pub whose: Whose,
}

/// Where a fault lies, for whoever keeps the message (`ack: processed`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// In the message: it will fail again.
    Message,
    /// In what it is delivered to: sent again it may pass.
    Target,
    /// With us.
    Ours,
}

/// How a message stands after a report.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Steps are left, or others still work on it.
    Open,
    /// Nothing is left: the caller records it as done.
    Over,
    /// It failed, and nobody else works on it: the caller puts it away, then calls [`Dispatcher::remove`], or
    /// [`Dispatcher::reopen`] where it could not.
    Failed {
        /// The first step that failed.
        failure: FailedStep,
        /// Steps not over.
        left: StepSet,
    },
    /// Its sender waits no longer (`ack: processed`); the caller gives it back like a failed one.
    TooLate {
        /// Steps not over.
        left: StepSet,
    },
}

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
    /// Messages that wait for this machine's files alone, likewise.
    behind: AtomicUsize,
    /// Jobs given to that pool.
    file_jobs: AtomicU64,
    /// By pool.
    due: Vec<Condvar>,
    retry: Retry,
}

impl Dispatcher {
    /// An empty one for a plan. `gathers`: nobody waits for delivery, and a moment's delay of it spares the disk.
    pub fn new(plan: &Plan, retry: Retry, gathers: bool) -> Dispatcher {
        let dispatcher = Dispatcher::with_pools(plan.len(), plan.pools().clone(), retry);
        if gathers && !plan.pools().local().is_empty() {
            dispatcher.lock().gather.begin();
        }
        dispatcher
    }

    fn with_pools(places: usize, pools: Pools, retry: Retry) -> Dispatcher {
        Dispatcher {
            due: (0..pools.len()).map(|_| Condvar::new()).collect(),
            state: Mutex::new(State::new(places, pools)),
            open: AtomicUsize::new(0),
            behind: AtomicUsize::new(0),
            file_jobs: AtomicU64::new(0),
            retry,
        }
    }

    /// Takes in messages in the order in which they were acknowledged.
    pub fn add(&self, entries: impl IntoIterator<Item = NewEntry>) {
        let mut state = self.lock();
        for entry in entries {
            state.add(entry);
        }
        self.publish(&mut state);
    }

    /// Waits for work for a thread of a pool; `None` once [`Dispatcher::stop`] was called. `now` gives microseconds of
    /// Unix time.
    pub fn next(&self, pool: usize, now: impl Fn() -> i64) -> Option<Vec<Task>> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            let now_us = now();
            if pool == 0
                && let Some(left) = state.gathers_for()
            {
                // One thread sleeps for all.
                state.gather.is_watched = true;
                state = self.due[pool].wait_timeout(state, left).unwrap_or_else(|e| e.into_inner()).0;
                state.gather.is_watched = false;
                continue;
            }
            let (job, next_timer) = self.look(&mut state, pool, now_us);
            if let Some(job) = job {
                return Some(job);
            }
            state = match next_timer {
                Some(at_us) => {
                    let wait = Duration::from_micros((at_us - now_us).clamp(1_000, 60_000_000) as u64);
                    self.due[pool].wait_timeout(state, wait).unwrap_or_else(|e| e.into_inner()).0
                }
                None => self.due[pool].wait(state).unwrap_or_else(|e| e.into_inner()),
            };
        }
    }

    /// A job for a thread of a pool, if there is one now; else when the next timer ends.
    fn look(&self, state: &mut State, pool: usize, now_us: i64) -> (Option<Vec<Task>>, Option<i64>) {
        let give_up_us = micros(self.retry.give_up);
        let next_timer = state.fire_timers(now_us, give_up_us);
        let job = state.take(pool, now_us, give_up_us);
        if pool == 0 && job.is_some() {
            self.file_jobs.fetch_add(1, Relaxed);
        }
        // What is left of this pool's wakes one more of its threads.
        let left = !state.ready[pool].is_empty();
        state.news = state.news & !(1 << pool) | (u32::from(job.is_some() && left) << pool);
        self.publish(state);
        (job, next_timer)
    }

    /// As [`Dispatcher::next`], without waiting.
    #[cfg(test)]
    pub(crate) fn try_next(&self, pool: usize, now_us: i64) -> Option<Vec<Task>> {
        let mut state = self.lock();
        let waits = pool == 0 && state.gathers_for().is_some();
        if state.stopping || waits { None } else { self.look(&mut state, pool, now_us).0 }
    }

    /// Tells the threads of what has become ready.
    fn publish(&self, state: &mut State) {
        self.open.store(state.open, Relaxed);
        self.behind.store(state.behind(), Relaxed);
        let news = std::mem::take(&mut state.news);
        for (pool, due) in self.due.iter().enumerate() {
            match state.ready[pool].len() {
                _ if !state.suspects.is_empty() => due.notify_one(),
                _ if news >> pool & 1 == 0 => {}
                _ if pool == 0 && state.gather.is_watched && state.gathers_for().is_some() => {}
                1 => due.notify_one(),
                _ => due.notify_all(),
            }
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

    /// Takes the report of a job and says how each of its messages stands now, and which places of the journal no message
    /// needs any more.
    pub fn report(&self, reports: Vec<TaskReport>, now_us: i64) -> (Vec<Standing>, Vec<Location>) {
        let mut gone = Vec::new();
        let mut state = self.lock();
        let all = state.suspect_runs;
        let end = |report| state.end_task(report, now_us, &self.retry, &mut gone);
        let standings = reports.into_iter().map(end).collect();
        // A timer may have been set that ends before those that the threads sleep for.
        let timers = !state.timers.is_empty();
        self.publish(&mut state);
        drop(state);
        for due in &self.due {
            match (all, timers) {
                (true, _) => due.notify_all(),
                (false, true) => due.notify_one(),
                (false, false) => {}
            }
        }
        (standings, gone)
    }

    /// A message has been put away: failed, or given back to its sender. Returns where its bytes were.
    pub fn remove(&self, ticket: Ticket) -> Option<Location> {
        let mut state = self.lock();
        let location = state.remove(ticket);
        self.publish(&mut state);
        location
    }

    /// A message that could not be put away waits as these decisions say.
    pub fn reopen(&self, ticket: Ticket, decisions: Vec<Decision>) {
        let mut state = self.lock();
        state.reopen(ticket, decisions);
        self.publish(&mut state);
        drop(state);
        self.due.iter().for_each(Condvar::notify_one);
    }

    /// No further job is given out.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.due.iter().for_each(Condvar::notify_all);
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

    /// Messages that only wait until this machine's files are written: for no peer, no retry and no earlier message.
    pub fn behind(&self) -> Behind {
        Behind { messages: self.behind.load(Relaxed), jobs: self.file_jobs.load(Relaxed) }
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
        let idle = |e: &Entry| e.location.segment == segment && !e.is_busy();
        let entries =
            state.entries.iter().enumerate().filter_map(|(at, e)| Some((at as Ticket, e.as_ref()?)));
        entries.filter(|(_, e)| idle(e)).take(limit).map(|(at, e)| (at, copy_of(e))).collect()
    }

    /// A message's bytes stand elsewhere now. `false`: it is gone meanwhile, or somebody works on it and it stays.
    pub fn moved(&self, ticket: Ticket, id: MessageId, from: Location, to: Location) -> bool {
        let mut state = self.lock();
        let entry = state.entries.get_mut(ticket as usize).and_then(Option::as_mut);
        let entry = entry.filter(|e| e.id == id && e.location == from && !e.is_busy());
        entry.map(|e| e.location = to).is_some()
    }

    /// Takes a message out whose sender waits no longer (`ack: processed`).
    pub fn withdraw(&self, id: MessageId) -> Withdrawal {
        let mut state = self.lock();
        let found = state.entries.iter().position(|e| e.as_ref().is_some_and(|e| e.id == id));
        let Some(ticket) = found else { return Withdrawal::Gone };
        let entry = state.entries[ticket].as_mut().expect("found above");
        if entry.is_busy() {
            entry.withdraw();
            return Withdrawal::Running;
        }
        let (location, pending) = (entry.location, entry.pending);
        state.remove(ticket as Ticket);
        self.publish(&mut state);
        Withdrawal::Out { location, pending }
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
