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

use crate::order::{Lanes, Ticket};
use crate::plan::{Plan, STEPS_MAX, StepSet};
use crate::retry::{Verdict, verdict};
use config::Retry;
use journal::{Location, MessageId};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

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

#[derive(Debug)]
struct State {
    entries: Vec<Option<Entry>>,
    free: Vec<Ticket>,
    open: usize,
    lanes: Lanes,
    ready: VecDeque<Ticket>,
    /// Messages that must run alone after a worker's death, in order.
    suspects: VecDeque<Ticket>,
    suspect_runs: bool,
    timers: BinaryHeap<Reverse<(i64, Ticket)>>,
    breakers: Vec<Breaker>,
    running: usize,
    stopping: bool,
    spread: u64,
}

/// 88 bytes a message with one order key.
#[derive(Debug)]
struct Entry {
    id: MessageId,
    location: Location,
    received_us: i64,
    keys: Keys,
    pending: StepSet,
    waits: Box<[Wait]>,
    strikes: u8,
    state: EntryState,
    suspect: bool,
    withdrawn: bool,
}

#[derive(Debug)]
enum Keys {
    None,
    One(u64),
    Many(Box<[u64]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryState {
    Idle,
    Ready,
    Running,
}

#[derive(Clone, Debug, Default)]
struct Breaker {
    open: Option<OpenBreaker>,
}

#[derive(Clone, Debug)]
struct OpenBreaker {
    since_us: i64,
    attempt: u32,
    probe_at_us: i64,
    probing: bool,
}

impl Dispatcher {
    /// An empty one for a plan; `threads` ask it for jobs.
    pub fn new(plan: &Plan, retry: Retry, threads: usize) -> Dispatcher {
        Dispatcher::with_places(plan.len(), retry, threads)
    }

    fn with_places(places: usize, retry: Retry, threads: usize) -> Dispatcher {
        Dispatcher {
            state: Mutex::new(State {
                entries: Vec::new(),
                free: Vec::new(),
                open: 0,
                lanes: Lanes::default(),
                ready: VecDeque::new(),
                suspects: VecDeque::new(),
                suspect_runs: false,
                timers: BinaryHeap::new(),
                breakers: vec![Breaker::default(); places],
                running: 0,
                stopping: false,
                spread: 0x9e37_79b9_7f4a_7c15,
            }),
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
            let earlier = entry.waits.iter().find(|w| w.place == *place);
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
            let wait = e.waits.iter().min_by_key(|w| w.until_us).cloned();
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
    pub fn in_segment(&self, segment: u32) -> Vec<NewEntry> {
        let state = self.lock();
        let idle = |e: &&Entry| e.location.segment == segment && e.state != EntryState::Running;
        state.entries.iter().flatten().filter(idle).map(copy_of).collect()
    }

    /// A message's bytes stand elsewhere now. `false`: it is gone meanwhile, or somebody works on it and it stays.
    pub fn moved(&self, id: MessageId, from: Location, to: Location) -> bool {
        let mut state = self.lock();
        let entry = state
            .entries
            .iter_mut()
            .flatten()
            .find(|e| e.id == id && e.location == from && e.state != EntryState::Running);
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

impl State {
    fn add(&mut self, new: NewEntry) {
        let entry = Entry {
            id: new.id,
            location: new.location,
            received_us: new.received_us,
            keys: match new.keys.as_slice() {
                [] => Keys::None,
                [one] => Keys::One(*one),
                many => {
                    let mut many = many.to_vec();
                    many.sort_unstable();
                    many.dedup();
                    Keys::Many(many.into())
                }
            },
            pending: new.steps,
            waits: new.waits.into(),
            strikes: new.strikes,
            state: EntryState::Idle,
            suspect: new.suspect,
            withdrawn: false,
        };
        let ticket = match self.free.pop() {
            Some(ticket) => ticket,
            None => {
                self.entries.push(None);
                (self.entries.len() - 1) as Ticket
            }
        };
        for key in entry.keys.slice() {
            self.lanes.join(*key, ticket, entry.pending);
        }
        for wait in entry.waits.iter() {
            self.timers.push(Reverse((wait.until_us, ticket)));
        }
        self.open += 1;
        let suspect = entry.suspect;
        self.entries[ticket as usize] = Some(entry);
        if suspect {
            self.suspects.push_back(ticket);
        }
        self.wake(ticket);
    }

    /// Those of an entry's steps that may be tried now.
    fn runnable(&self, ticket: Ticket, now_us: i64, give_up_us: i64) -> StepSet {
        let Some(entry) = self.entries[ticket as usize].as_ref() else { return StepSet::EMPTY };
        let mut steps = entry.pending;
        for key in entry.keys.slice() {
            steps = steps.and(self.lanes.allowed(*key, ticket));
        }
        steps.without(self.held_back(entry, now_us, give_up_us))
    }

    /// Steps that wait for their time or behind a breaker.
    fn held_back(&self, entry: &Entry, now_us: i64, give_up_us: i64) -> StepSet {
        let mut held = StepSet::EMPTY;
        for place in entry.pending.places() {
            let holds = match &self.breakers[place].open {
                Some(breaker) => {
                    let since_us = breaker.since_us.max(entry.received_us);
                    let overdue = since_us.saturating_add(give_up_us) <= now_us;
                    !overdue && (breaker.probing || breaker.probe_at_us > now_us)
                }
                None => entry.wait_for(place).is_some_and(|wait| wait.until_us > now_us),
            };
            if holds {
                held = held.with(StepSet::one(place));
            }
        }
        held
    }

    fn wake(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries[ticket as usize].as_mut()
            && entry.state == EntryState::Idle
            && !entry.suspect
        {
            entry.state = EntryState::Ready;
            self.ready.push_back(ticket);
        }
    }

    /// Wakes what is due; returns when the next timer ends.
    fn fire_timers(&mut self, now_us: i64, give_up_us: i64) -> Option<i64> {
        while let Some(Reverse((at_us, ticket))) = self.timers.peek().copied() {
            if at_us > now_us {
                return Some(at_us);
            }
            self.timers.pop();
            match PROBE_TICKETS.checked_sub(ticket) {
                Some(place) if (place as usize) < STEPS_MAX => self.probe(place as usize, now_us, give_up_us),
                _ => self.wake(ticket),
            }
        }
        None
    }

    /// The time of a breaker's probe has come: the message that waits longest makes it.
    fn probe(&mut self, place: usize, now_us: i64, give_up_us: i64) {
        match &self.breakers[place].open {
            Some(breaker) if !breaker.probing && breaker.probe_at_us <= now_us => {}
            _ => return,
        }
        let candidates = (0..self.entries.len() as Ticket).filter(|ticket| {
            let entry = self.entries[*ticket as usize].as_ref();
            entry.is_some_and(|e| e.state == EntryState::Idle && e.pending.has(place))
        });
        let runnable = candidates.filter(|t| self.runnable(*t, now_us, give_up_us).has(place));
        let oldest = runnable.min_by_key(|t| self.entries[*t as usize].as_ref().map(|e| e.received_us));
        if let Some(ticket) = oldest {
            self.wake(ticket);
        }
        // Should nobody make it, it is offered again.
        self.timers.push(Reverse((now_us + PROBE_OFFER_US, probe_ticket(place))));
    }

    fn take(&mut self, now_us: i64, share: usize, give_up_us: i64) -> Option<Vec<Task>> {
        if self.suspect_runs {
            return None;
        }
        while let Some(ticket) = self.suspects.pop_front() {
            // Withdrawn since, and its ticket may be another's.
            if self.entries[ticket as usize].as_ref().is_none_or(|e| !e.suspect) {
                continue;
            }
            let steps = self.runnable(ticket, now_us, give_up_us);
            if !steps.is_empty() {
                self.suspect_runs = true;
                return Some(vec![self.start(ticket, steps)]);
            }
            // Nothing to fear of it now; it comes back by its timer or its lane, alone no longer.
            self.entries[ticket as usize].iter_mut().for_each(|e| e.suspect = false);
            self.wake(ticket);
        }
        let mut job: Vec<Task> = Vec::new();
        let mut bytes = 0;
        let mut looks = self.ready.len();
        while looks > 0 && job.len() < share && bytes < JOB_BYTES_MAX {
            looks -= 1;
            let Some(ticket) = self.ready.pop_front() else { break };
            // It may have gone into a job already, behind the message before it in its lane.
            if self.entries[ticket as usize].as_ref().is_none_or(|e| e.state != EntryState::Ready) {
                continue;
            }
            let steps = self.runnable(ticket, now_us, give_up_us);
            if steps.is_empty() {
                // Woken again by its lane, its timer or its breaker.
                self.entries[ticket as usize].iter_mut().for_each(|e| e.state = EntryState::Idle);
                continue;
            }
            let mut next = Some((ticket, steps));
            while let Some((ticket, steps)) = next {
                let task = self.start(ticket, steps);
                bytes += task.location.length as usize;
                let room = job.len() + 1 < JOB_MESSAGES_MAX && bytes < JOB_BYTES_MAX;
                next = if room { self.follower(&task, now_us, give_up_us) } else { None };
                job.push(task);
            }
        }
        (!job.is_empty()).then_some(job)
    }

    /// The message right behind a task in its lane may come into the same job when the task carries out all that is
    /// before it: the job is worked in order, and a step that fails for the one is not tried for the other.
    fn follower(&self, task: &Task, now_us: i64, give_up_us: i64) -> Option<(Ticket, StepSet)> {
        let key = task.key?;
        if task.steps != task.pending || self.entries[task.ticket as usize].as_ref()?.keys.slice().len() != 1
        {
            return None;
        }
        let (ticket, pending) = self.lanes.behind(key, task.ticket)?;
        let entry = self.entries[ticket as usize].as_ref()?;
        let apart = entry.state == EntryState::Running || entry.suspect || entry.keys.slice().len() != 1;
        if apart || !pending.without(task.pending).is_empty() {
            return None;
        }
        let steps = pending.without(self.held_back(entry, now_us, give_up_us));
        (steps == pending).then_some((ticket, steps))
    }

    fn start(&mut self, ticket: Ticket, steps: StepSet) -> Task {
        for place in steps.places() {
            if let Some(breaker) = &mut self.breakers[place].open {
                breaker.probing = true;
            }
        }
        let entry = self.entries[ticket as usize].as_mut().expect("a ready ticket has its entry");
        entry.state = EntryState::Running;
        self.running += 1;
        Task {
            ticket,
            id: entry.id,
            location: entry.location,
            received_us: entry.received_us,
            steps,
            pending: entry.pending,
            key: entry.keys.slice().first().copied(),
            attempts: entry.waits.iter().map(|w| w.attempt).max().unwrap_or(0),
            strikes: entry.strikes,
        }
    }

    fn end_task(
        &mut self,
        (ticket, tried, end, decisions): TaskReport,
        now_us: i64,
        retry: &Retry,
        gone: &mut Vec<Location>,
    ) {
        self.running -= 1;
        let entry = self.entries[ticket as usize].as_mut().expect("a running task has its entry");
        entry.state = EntryState::Idle;
        if std::mem::take(&mut entry.suspect) {
            self.suspect_runs = false;
        }
        let (ended, ends) = match &end {
            TaskEnd::Gone => (entry.pending, &[][..]),
            TaskEnd::Steps(ends) => (over(ends), ends.as_slice()),
        };
        self.turn_breakers(tried, ends, now_us, retry);
        let entry = self.entries[ticket as usize].as_mut().expect("a running task has its entry");
        entry.pending = entry.pending.without(ended);
        let pending = entry.pending;
        let mut waits = std::mem::take(&mut entry.waits).into_vec();
        waits.retain(|w| pending.has(usize::from(w.place)));
        for decision in decisions {
            let Decision::Waits(wait) = decision else { continue };
            self.timers.push(Reverse((wait.until_us, ticket)));
            waits.retain(|w| w.place != wait.place);
            waits.push(wait);
        }
        entry.waits = waits.into();
        self.leave_lanes(ticket, ended);
        if pending.is_empty() {
            gone.extend(self.remove(ticket));
        } else {
            self.wake(ticket);
        }
    }

    /// Steps are over for a message: whoever stood behind it for them may go on.
    fn leave_lanes(&mut self, ticket: Ticket, ended: StepSet) {
        let mut woken = Vec::new();
        for key in self.entries[ticket as usize].iter().flat_map(|e| e.keys.slice()) {
            self.lanes.end(*key, ticket, ended, &mut woken);
        }
        for next in woken {
            self.wake(next);
        }
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Location> {
        let pending = self.entries[ticket as usize].as_ref()?.pending;
        self.leave_lanes(ticket, pending);
        let entry = self.entries[ticket as usize].take()?;
        self.free.push(ticket);
        self.open -= 1;
        Some(entry.location)
    }

    /// A step that reached its target closes the breaker and lets everybody in; one whose target is down opens it or
    /// puts the next probe off.
    fn turn_breakers(&mut self, tried: StepSet, ends: &[(u8, StepEnd)], now_us: i64, retry: &Retry) {
        for place in tried.places() {
            let end = ends.iter().find(|(p, _)| usize::from(*p) == place).map(|(_, end)| end);
            match end {
                Some(StepEnd::Again { target_down: true, .. }) => {
                    let open = self.breakers[place].open.take();
                    let attempt = open.as_ref().map_or(0, |b| b.attempt) + 1;
                    let since_us = open.map_or(now_us, |b| b.since_us);
                    self.spread = next_spread(self.spread);
                    let probe_at_us = now_us + crate::retry::wait_us(retry, attempt, self.spread >> 40);
                    self.breakers[place].open =
                        Some(OpenBreaker { since_us, attempt, probe_at_us, probing: false });
                    self.timers.push(Reverse((probe_at_us, probe_ticket(place))));
                }
                Some(StepEnd::Over | StepEnd::Again { .. }) => {
                    if self.breakers[place].open.take().is_some() {
                        self.wake_all_for(place);
                    }
                }
                // The probe told nothing of the target: another message makes it.
                Some(StepEnd::NotTried) | None => {
                    if let Some(breaker) = &mut self.breakers[place].open {
                        breaker.probing = false;
                        self.timers.push(Reverse((breaker.probe_at_us, probe_ticket(place))));
                    }
                }
            }
        }
    }

    /// The target is back: everybody with that step before them, however long their own wait was.
    fn wake_all_for(&mut self, place: usize) {
        for ticket in 0..self.entries.len() as Ticket {
            let Some(entry) = &mut self.entries[ticket as usize] else { continue };
            if entry.pending.has(place) {
                if let Some(wait) = entry.waits.iter_mut().find(|w| w.is_at(place)) {
                    wait.until_us = 0;
                }
                self.wake(ticket);
            }
        }
    }
}

impl Wait {
    fn is_at(&self, place: usize) -> bool {
        usize::from(self.place) == place
    }
}

impl Entry {
    fn wait_for(&self, place: usize) -> Option<&Wait> {
        self.waits.iter().find(|w| w.is_at(place))
    }
}

impl Keys {
    fn slice(&self) -> &[u64] {
        match self {
            Keys::None => &[],
            Keys::One(key) => std::slice::from_ref(key),
            Keys::Many(keys) => keys,
        }
    }
}

fn next_spread(spread: u64) -> u64 {
    spread.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)
}

/// A breaker's probe stands among the timers under a ticket that no message has.
fn probe_ticket(place: usize) -> Ticket {
    PROBE_TICKETS - place as Ticket
}

fn over(ends: &[(u8, StepEnd)]) -> StepSet {
    ends.iter()
        .filter(|(_, end)| matches!(end, StepEnd::Over))
        .fold(StepSet::EMPTY, |set, (place, _)| set.with(StepSet::one(usize::from(*place))))
}

fn copy_of(e: &Entry) -> NewEntry {
    NewEntry {
        id: e.id,
        location: e.location,
        received_us: e.received_us,
        keys: e.keys.slice().to_vec(),
        steps: e.pending,
        strikes: e.strikes,
        suspect: e.suspect,
        waits: e.waits.to_vec(),
    }
}

fn cut(reason: &str) -> Box<str> {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].into()
}

fn micros(d: Duration) -> i64 {
    i64::try_from(d.as_micros()).unwrap_or(i64::MAX)
}

/// Waits until nothing runs any more, at most until `deadline`; `true` when nothing does.
pub fn wait_until_idle(dispatcher: &Dispatcher, deadline: Instant) -> bool {
    while dispatcher.running() > 0 {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const PLACES: u8 = 3;

    fn dispatcher() -> Dispatcher {
        let retry = Retry {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            give_up: Duration::from_secs(3600),
        };
        Dispatcher::with_places(usize::from(PLACES), retry, 2)
    }

    fn entry(n: u64, keys: &[u64], steps: StepSet) -> NewEntry {
        NewEntry {
            id: MessageId::new(n, 0),
            location: Location { segment: 1, offset: n as u32, length: 100 },
            received_us: n as i64,
            keys: keys.to_vec(),
            steps,
            strikes: 0,
            suspect: false,
            waits: Vec::new(),
        }
    }

    fn all() -> StepSet {
        (0..usize::from(PLACES)).fold(StepSet::EMPTY, |s, p| s.with(StepSet::one(p)))
    }

    fn try_next(d: &Dispatcher, now_us: i64) -> Option<Vec<Task>> {
        let mut state = d.lock();
        let give_up_us = micros(d.retry.give_up);
        state.fire_timers(now_us, give_up_us);
        let share = (state.ready.len() / d.threads).clamp(1, JOB_MESSAGES_MAX);
        state.take(now_us, share, give_up_us)
    }

    fn report(d: &Dispatcher, task: &Task, ends: Vec<(u8, StepEnd)>, now_us: i64) -> Vec<Location> {
        let decisions = d.decide(task, &ends, now_us);
        d.report(vec![(task.ticket, task.steps, TaskEnd::Steps(ends), decisions)], now_us)
    }

    fn down() -> StepEnd {
        StepEnd::Again { reason: "down".into(), target_down: true, wanted_us: None }
    }

    #[test]
    fn while_a_target_is_down_one_message_probes_it_and_the_other_steps_go_on() {
        let d = dispatcher();
        d.add((1..=3).map(|n| entry(n, &[n], all())));
        let mut now_us = 0;
        let first = try_next(&d, now_us).unwrap();
        assert_eq!(first.len(), 1);
        let ends = vec![(0, StepEnd::Over), (1, down()), (2, StepEnd::Over)];
        report(&d, &first[0], ends, now_us);
        for _ in 0..2 {
            let job = try_next(&d, now_us).unwrap();
            assert!(!job[0].steps.has(1), "the dead target is not tried by others");
            let ends = job[0].steps.places().map(|p| (p as u8, StepEnd::Over)).collect();
            report(&d, &job[0], ends, now_us);
        }
        assert!(try_next(&d, now_us).is_none());
        now_us += 1_000_000;
        let probe = try_next(&d, now_us).unwrap();
        assert_eq!((probe.len(), probe[0].id), (1, MessageId::new(1, 0)));
        assert!(try_next(&d, now_us).is_none(), "one probe at a time");
        report(&d, &probe[0], vec![(1, StepEnd::Over)], now_us);
        assert_eq!(d.open(), 2);
        let mut gone = 0;
        while let Some(job) = try_next(&d, now_us) {
            for task in job {
                gone += report(&d, &task, vec![(1, StepEnd::Over)], now_us).len();
            }
        }
        assert_eq!((gone, d.open()), (2, 0));
    }

    #[test]
    fn a_probe_that_told_nothing_of_the_target_is_made_again() {
        let d = dispatcher();
        d.add([entry(1, &[1], StepSet::one(1)), entry(2, &[2], StepSet::one(1))]);
        let job = try_next(&d, 0).unwrap();
        report(&d, &job[0], vec![(1, down())], 0);
        let probe = try_next(&d, 1_000_000).unwrap();
        // The message failed for a reason of its own before it reached the target.
        d.report(vec![(probe[0].ticket, probe[0].steps, TaskEnd::Gone, Vec::new())], 1_000_000);
        let probe = try_next(&d, 1_000_000).expect("the next message probes");
        report(&d, &probe[0], vec![(1, StepEnd::Over)], 1_000_000);
        assert_eq!(d.open(), 0);
    }

    #[test]
    fn suspects_run_alone_before_everybody_else() {
        let d = dispatcher();
        let suspect = |n| NewEntry { suspect: true, strikes: 2, ..entry(n, &[n], all()) };
        d.add([suspect(1), suspect(2), entry(3, &[3], all())]);
        for n in 1..=2 {
            let job = try_next(&d, 0).unwrap();
            assert_eq!(job.iter().map(|t| t.id).collect::<Vec<_>>(), [MessageId::new(n, 0)]);
            assert!(try_next(&d, 0).is_none(), "nothing runs beside a suspect");
            report(&d, &job[0], job[0].steps.places().map(|p| (p as u8, StepEnd::Over)).collect(), 0);
        }
        assert_eq!(try_next(&d, 0).unwrap()[0].id, MessageId::new(3, 0));
    }

    #[test]
    fn messages_of_one_patient_share_a_job_in_their_order() {
        let d = dispatcher();
        d.add((1..=5).map(|n| entry(n, &[7], all())));
        let job = try_next(&d, 0).unwrap();
        let ids: Vec<MessageId> = job.iter().map(|t| t.id).collect();
        assert_eq!(ids, (1..=5).map(|n| MessageId::new(n, 0)).collect::<Vec<_>>());
        assert!(try_next(&d, 0).is_none());
    }

    #[test]
    fn a_message_that_waited_behind_a_dead_target_for_too_long_gives_up_with_its_next_attempt() {
        let d = dispatcher();
        d.add([entry(1, &[1], StepSet::one(1)), entry(2, &[2], StepSet::one(1))]);
        let mut now_us = 0;
        let mut gave_up = 0;
        for _ in 0..500 {
            while let Some(job) = try_next(&d, now_us) {
                for task in job {
                    let ends = vec![(1, down())];
                    let decisions = d.decide(&task, &ends, now_us);
                    let over = decisions.iter().any(|d| matches!(d, Decision::GaveUp { .. }));
                    gave_up += usize::from(over);
                    let end = if over { TaskEnd::Gone } else { TaskEnd::Steps(ends) };
                    d.report(vec![(task.ticket, task.steps, end, decisions)], now_us);
                }
            }
            now_us += 60_000_000;
        }
        assert_eq!((gave_up, d.open()), (2, 0));
    }

    /// Random messages, keys, outcomes and times: order per key and step, nothing lost, nothing twice.
    #[test]
    fn random_days_keep_the_order_and_lose_nothing() {
        for seed in 0..300_u64 {
            random_day(seed);
        }
    }

    fn random_day(seed: u64) {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let d = dispatcher();
        let mut now_us = 1_000;
        let mut added = 0_u64;
        let mut lines: HashMap<(u64, usize), Vec<MessageId>> = HashMap::new();
        let mut running: Vec<Vec<Task>> = Vec::new();
        let mut keys_of: HashMap<MessageId, Vec<u64>> = HashMap::new();
        let mut gone = 0;
        let total = 60;
        for turn in 0.. {
            assert!(turn < 100_000, "seed {seed}: {} messages never end", d.open());
            if added < total && random(3) == 0 {
                added += 1;
                let mut keys: Vec<u64> = (0..=random(8) / 7).map(|_| random(5)).collect();
                keys.sort_unstable();
                keys.dedup();
                let mut steps = StepSet::EMPTY;
                while steps.is_empty() {
                    steps = (0..3).filter(|_| random(2) == 0).fold(steps, |s, p| s.with(StepSet::one(p)));
                }
                let new = entry(added, &keys, steps);
                for (key, place) in keys.iter().flat_map(|k| steps.places().map(move |p| (*k, p))) {
                    lines.entry((key, place)).or_default().push(new.id);
                }
                keys_of.insert(new.id, keys);
                d.add([new]);
            }
            if let Some(job) = try_next(&d, now_us) {
                running.push(job);
            }
            if !running.is_empty() && random(2) == 0 {
                let job = running.swap_remove(random(running.len() as u64) as usize);
                let mut held: Vec<(Option<u64>, StepSet)> = Vec::new();
                for task in &job {
                    let behind = held.iter().filter(|(k, _)| *k == task.key);
                    let behind = behind.fold(StepSet::EMPTY, |s, (_, t)| s.with(*t));
                    let mut ends = Vec::new();
                    for place in task.steps.places() {
                        let end = match random(6) {
                            _ if behind.has(place) => StepEnd::NotTried,
                            0 => down(),
                            1 => StepEnd::Again { reason: "x".into(), target_down: false, wanted_us: None },
                            _ => StepEnd::Over,
                        };
                        if end == StepEnd::Over {
                            for key in &keys_of[&task.id] {
                                let line = lines.get_mut(&(*key, place)).unwrap();
                                assert_eq!(line[0], task.id, "seed {seed}: out of order in step {place}");
                                line.remove(0);
                            }
                        }
                        ends.push((place as u8, end));
                    }
                    held.push((task.key, task.pending.without(over(&ends))));
                    gone += report(&d, task, ends, now_us).len();
                }
            }
            now_us += random(400_000) as i64;
            if added == total && d.open() == 0 {
                break;
            }
        }
        assert_eq!(gone, total as usize);
        assert!(lines.values().all(Vec::is_empty));
        assert_eq!(d.running(), 0);
    }
}
