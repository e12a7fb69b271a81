//! The dispatcher's table of open messages, and which of them may go on.

use super::breakers::Breaker;
use super::entry::{Entry, Extra, mark};
use super::gather::Gather;
use super::{
    Decision, FILES_JOB_BYTES_MAX, JOB_BYTES_MAX, NewEntry, PROBE_TICKETS, REASON_BYTES_MAX, SMALL_JOB_BYTES,
    Standing, StepEnd, Task, TaskReport, Wait,
};
use crate::order::{Lanes, Ticket};
use crate::plan::{Pool, Pools, STEPS_MAX, StepSet};
use config::Retry;
use journal::Location;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct State {
    pub(super) entries: Vec<Option<Entry>>,
    pub(super) free: Vec<Ticket>,
    pub(super) open: usize,
    /// Messages that wait for this machine's files alone.
    pub(super) for_files: usize,
    pub(super) lanes: Lanes,
    pub(super) pools: Pools,
    /// By pool: messages that may have a step to carry out there.
    pub(super) ready: Vec<VecDeque<Ticket>>,
    /// Of the first pool, where that writes files.
    pub(super) gather: Gather,
    /// Pools whose threads have not been told of what is ready, a bit each.
    pub(super) news: u32,
    /// Messages that must run alone after a worker's death, in order.
    pub(super) suspects: VecDeque<Ticket>,
    pub(super) suspect_runs: bool,
    pub(super) timers: BinaryHeap<Reverse<(i64, Ticket)>>,
    pub(super) breakers: Vec<Breaker>,
    pub(super) running: usize,
    pub(super) stopping: bool,
    pub(super) spread: u64,
}

impl State {
    /// Nothing open, for a plan with so many steps.
    pub(super) fn new(places: usize, pools: Pools) -> State {
        State {
            ready: vec![VecDeque::new(); pools.len()],
            gather: Gather::default(),
            news: 0,
            pools,
            entries: Vec::new(),
            free: Vec::new(),
            open: 0,
            for_files: 0,
            lanes: Lanes::default(),
            suspects: VecDeque::new(),
            suspect_runs: false,
            timers: BinaryHeap::new(),
            breakers: vec![Breaker::default(); places],
            running: 0,
            stopping: false,
            spread: 0x9e37_79b9_7f4a_7c15,
        }
    }

    pub(super) fn add(&mut self, new: NewEntry) {
        let mut keys = new.keys;
        keys.sort_unstable();
        keys.dedup();
        let more = keys.len() > 1;
        let mut entry = Entry {
            id: new.id,
            location: new.location,
            received_us: new.received_us,
            key: keys.first().copied().unwrap_or_default(),
            extra: (more || !new.waits.is_empty()).then(|| {
                let more_keys = keys.iter().skip(1).copied().collect();
                Box::new(Extra { more_keys, waits: new.waits, failure: None })
            }),
            pending: new.steps,
            running: StepSet::EMPTY,
            queued: 0,
            strikes: new.strikes,
            marks: mark::THERE,
        };
        if !keys.is_empty() {
            entry.set(mark::IN_ORDER);
        }
        if new.suspect {
            entry.set(mark::SUSPECT);
        }
        let ticket = match self.free.pop() {
            Some(ticket) => ticket,
            None => {
                self.entries.push(None);
                (self.entries.len() - 1) as Ticket
            }
        };
        for key in entry.keys() {
            self.lanes.join(key, ticket, self.pools.in_line(entry.pending));
        }
        for wait in entry.waits() {
            self.timers.push(Reverse((wait.until_us, ticket)));
        }
        self.open += 1;
        let suspect = entry.has(mark::SUSPECT);
        self.entries[ticket as usize] = Some(entry);
        if suspect {
            self.suspects.push_back(ticket);
        }
        self.count_files(ticket);
        self.wake(ticket);
    }

    /// Counts a message anew that may have begun or ended to wait for this machine's files alone. One whose files could
    /// not be written waits for its next attempt, or for a person.
    fn count_files(&mut self, ticket: Ticket) {
        let local = self.pools.local();
        let Some(entry) = self.entries[ticket as usize].as_mut() else { return };
        let again = |wait: &Wait| local.has(usize::from(wait.place));
        let waits = !entry.pending.and(local).is_empty() && !entry.waits().iter().any(again);
        match (entry.has(mark::FILES), waits) {
            (false, true) => {
                entry.set(mark::FILES);
                self.for_files += 1;
            }
            (true, false) => {
                entry.clear(mark::FILES);
                self.for_files -= 1;
            }
            _ => {}
        }
    }

    /// Messages that wait for this machine's files alone, those included that are being written; none while a folder is
    /// given up for now.
    pub(super) fn behind(&self) -> usize {
        let stuck = self.pools.local().places().any(|place| self.breakers[place].open.is_some());
        if stuck { 0 } else { self.for_files }
    }

    /// Those of a message's steps that may be tried now, in whichever pool.
    pub(super) fn runnable(&self, ticket: Ticket, now_us: i64, give_up_us: i64) -> StepSet {
        let Some(entry) = self.entries[ticket as usize].as_ref() else { return StepSet::EMPTY };
        if entry.has(mark::CLOSING | mark::WITHDRAWN) {
            return StepSet::EMPTY;
        }
        let mut steps = self.pools.unless_last(entry.pending);
        for key in entry.keys() {
            steps = steps.and(self.lanes.allowed(key, ticket));
        }
        steps.without(entry.running).without(self.held_back(entry, now_us, give_up_us))
    }

    /// Those that one pool may carry out now: none while one of its threads works on the message.
    fn runnable_in(&self, pool: usize, ticket: Ticket, now_us: i64, give_up_us: i64) -> StepSet {
        let Some(entry) = self.entries[ticket as usize].as_ref() else { return StepSet::EMPTY };
        let steps = self.pools[pool].steps;
        if entry.running.and(steps).is_empty() {
            self.runnable(ticket, now_us, give_up_us).and(steps)
        } else {
            StepSet::EMPTY
        }
    }

    /// Steps that wait for their time or behind a breaker.
    pub(super) fn held_back(&self, entry: &Entry, now_us: i64, give_up_us: i64) -> StepSet {
        let mut held = StepSet::EMPTY;
        for place in entry.pending.places() {
            let holds = match &self.breakers[place].open {
                Some(breaker) => {
                    let waits = breaker.probing || breaker.probe_at_us > now_us;
                    waits && !self.is_overdue(entry, place, now_us, give_up_us)
                }
                None => entry.wait_for(place).is_some_and(|wait| wait.until_us > now_us),
            };
            if holds {
                held = held.with(StepSet::one(place));
            }
        }
        held
    }

    /// Something has changed for a message: the pools that may have to do with it look at it. What concerns this
    /// machine's files comes first: the peers' pools see a message once that has been tried.
    pub(super) fn wake(&mut self, ticket: Ticket) {
        let local = self.pools.local();
        let Some(entry) = self.entries[ticket as usize].as_ref() else { return };
        if entry.has(mark::SUSPECT) || !entry.running.and(local).is_empty() {
            return;
        }
        match entry.pending.and(local).is_empty() {
            false => self.queue(0, ticket),
            true => self.wake_for_peers(ticket),
        }
    }

    fn wake_for_peers(&mut self, ticket: Ticket) {
        let local = usize::from(!self.pools.local().is_empty());
        for pool in local..self.pools.len() {
            self.queue(pool, ticket);
        }
    }

    fn queue(&mut self, pool: usize, ticket: Ticket) {
        let Pool { steps, .. } = self.pools[pool];
        let Some(entry) = self.entries[ticket as usize].as_mut() else { return };
        let needed = !entry.pending.and(steps).is_empty() && entry.running.and(steps).is_empty();
        if needed && entry.queued >> pool & 1 == 0 {
            entry.queued |= 1 << pool;
            self.ready[pool].push_back(ticket);
            self.news |= 1 << pool;
        }
    }

    /// Wakes what is due; returns when the next timer ends.
    pub(super) fn fire_timers(&mut self, now_us: i64, give_up_us: i64) -> Option<i64> {
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

    /// How long the files that are ready wait for more.
    pub(super) fn gathers_for(&self) -> Option<Duration> {
        let few = (1..self.pools[0].job_max).contains(&self.ready[0].len());
        (few && self.suspects.is_empty()).then(|| self.gather.left()).flatten()
    }

    /// A job for a thread of a pool.
    pub(super) fn take(&mut self, pool: usize, now_us: i64, give_up_us: i64) -> Option<Vec<Task>> {
        if self.suspect_runs {
            return None;
        }
        while let Some(ticket) = self.suspects.pop_front() {
            // Withdrawn since, and its ticket may be another's.
            if self.entries[ticket as usize].as_ref().is_none_or(|e| !e.has(mark::SUSPECT)) {
                continue;
            }
            // All it can do, whosever it is: a suspect is alone until it has shown that none of its steps kills.
            let steps = self.runnable(ticket, now_us, give_up_us);
            if !steps.is_empty() {
                self.suspect_runs = true;
                return Some(vec![self.start(ticket, steps, StepSet::ALL)]);
            }
            // Nothing to fear of it now; it comes back by its timer or its lane, alone no longer.
            self.entries[ticket as usize].iter_mut().for_each(|e| e.clear(mark::SUSPECT));
            self.wake(ticket);
        }
        let Pool { threads, job_max, steps: of_pool, .. } = self.pools[pool];
        let share = (self.ready[pool].len() / threads).clamp(1, job_max);
        let mut job: Vec<Task> = Vec::new();
        let mut bytes = 0;
        let mut looks = self.ready[pool].len();
        let is_local = of_pool == self.pools.local();
        let gathers = is_local && self.gather.is_on();
        let bytes_max = if is_local { FILES_JOB_BYTES_MAX } else { JOB_BYTES_MAX };
        // Small files are faster written by one thread with its two flushes than by several with two each.
        let goes_on = |messages: usize, bytes: usize| {
            messages < share || (gathers && messages < job_max && bytes < SMALL_JOB_BYTES)
        };
        while looks > 0 && goes_on(job.len(), bytes) && bytes < bytes_max {
            looks -= 1;
            let Some(ticket) = self.ready[pool].pop_front() else { break };
            // Gone since, and its ticket may be another's.
            let Some(entry) = self.entries[ticket as usize].as_mut() else { continue };
            if entry.queued >> pool & 1 == 0 {
                continue;
            }
            entry.queued &= !(1 << pool);
            let steps = self.runnable_in(pool, ticket, now_us, give_up_us);
            if steps.is_empty() {
                // Woken again by its lane, its timer or its breaker; the others need not wait for that.
                if is_local {
                    self.wake_for_peers(ticket);
                }
                continue;
            }
            let mut next = Some((ticket, steps));
            while let Some((ticket, steps)) = next {
                let task = self.start(ticket, steps, of_pool);
                bytes += task.location.length as usize;
                let room = job.len() + 1 < job_max && bytes < bytes_max;
                next = if room { self.follower(pool, &task, now_us, give_up_us) } else { None };
                job.push(task);
            }
        }
        if is_local && !job.is_empty() && self.ready[pool].is_empty() {
            self.gather.emptied();
        }
        (!job.is_empty()).then_some(job)
    }

    /// The message right behind a task in its lane may come into the same job when the task carries out all that the
    /// pool has to do for it: the job is worked in order, and a step that fails for the one is not tried for the other.
    fn follower(&self, pool: usize, task: &Task, now_us: i64, give_up_us: i64) -> Option<(Ticket, StepSet)> {
        let of_pool = self.pools[pool].steps;
        let key = task.key?;
        if task.steps != task.pending || !self.entries[task.ticket as usize].as_ref()?.has_one_key() {
            return None;
        }
        let (ticket, _) = self.lanes.behind(key, task.ticket, of_pool)?;
        let entry = self.entries[ticket as usize].as_ref()?;
        let apart = entry.has(mark::SUSPECT | mark::CLOSING | mark::WITHDRAWN) || !entry.has_one_key();
        let pending = entry.pending.and(of_pool);
        if apart
            || pending.is_empty()
            || !entry.running.and(of_pool).is_empty()
            || !pending.without(task.pending).is_empty()
            || (of_pool != self.pools.local() && !entry.pending.and(self.pools.local()).is_empty())
        {
            return None;
        }
        let held = self.held_back(entry, now_us, give_up_us);
        let steps = self.pools.unless_last(entry.pending).and(pending).without(held);
        (steps == pending).then_some((ticket, steps))
    }

    fn start(&mut self, ticket: Ticket, steps: StepSet, of_pool: StepSet) -> Task {
        for place in steps.places() {
            if let Some(breaker) = &mut self.breakers[place].open {
                breaker.probing = true;
            }
        }
        let entry = self.entries[ticket as usize].as_mut().expect("a ready ticket has its entry");
        entry.running = entry.running.with(steps);
        self.running += 1;
        Task {
            ticket,
            id: entry.id,
            location: entry.location,
            received_us: entry.received_us,
            steps,
            pending: entry.pending.and(of_pool),
            key: entry.keys().next(),
            attempts: entry.waits().iter().map(|w| w.attempt).max().unwrap_or(0),
            first_tried: entry.waits().iter().map(|w| (w.place, w.since_us)).collect(),
            strikes: entry.strikes,
        }
    }

    pub(super) fn end_task(
        &mut self,
        report: TaskReport,
        now_us: i64,
        retry: &Retry,
        gone: &mut Vec<Location>,
    ) -> Standing {
        let TaskReport { ticket, tried, ends, decisions, failure } = report;
        self.running -= 1;
        self.turn_breakers(tried, &ends, now_us, retry);
        let ended = over(&ends);
        let entry = self.entries[ticket as usize].as_mut().expect("a running task has its entry");
        entry.running = entry.running.without(tried);
        entry.pending = entry.pending.without(ended);
        if entry.has(mark::SUSPECT) {
            entry.clear(mark::SUSPECT);
            self.suspect_runs = false;
        }
        if let Some(failure) = failure {
            entry.set(mark::CLOSING);
            entry.extra.get_or_insert_default().failure.get_or_insert(failure);
        }
        self.put_off(ticket, decisions);
        self.leave_lanes(ticket, ended);
        let entry = self.entries[ticket as usize].as_mut().expect("looked at above");
        let left = entry.pending;
        if !entry.running.is_empty() {
            // Whoever works on it still has its bytes, and the last word.
            self.wake(ticket);
            return Standing::Open;
        }
        if let Some(failure) = entry.extra.as_mut().and_then(|extra| extra.failure.take()) {
            return Standing::Failed { failure, left };
        }
        if left.is_empty() {
            gone.extend(self.remove(ticket));
            return Standing::Over;
        }
        if entry.has(mark::WITHDRAWN) {
            entry.set(mark::CLOSING);
            return Standing::TooLate { left };
        }
        self.wake(ticket);
        Standing::Open
    }

    /// A message that could not be put away goes on waiting.
    pub(super) fn reopen(&mut self, ticket: Ticket, decisions: Vec<Decision>) {
        if let Some(entry) = self.entries[ticket as usize].as_mut() {
            entry.clear(mark::CLOSING | mark::WITHDRAWN);
        }
        self.put_off(ticket, decisions);
        self.wake(ticket);
    }

    fn put_off(&mut self, ticket: Ticket, decisions: Vec<Decision>) {
        let entry = self.entries[ticket as usize].as_mut().expect("the caller has it");
        let pending = entry.pending;
        let mut waits = entry.take_waits();
        waits.retain(|w| pending.has(usize::from(w.place)));
        for decision in decisions {
            let Decision::Waits(wait) = decision else { continue };
            self.timers.push(Reverse((wait.until_us, ticket)));
            waits.retain(|w| w.place != wait.place);
            waits.push(wait);
        }
        entry.set_waits(waits);
        self.count_files(ticket);
    }

    /// Steps are over for a message: whoever stood behind it for them may go on.
    pub(super) fn leave_lanes(&mut self, ticket: Ticket, ended: StepSet) {
        let mut woken = Vec::new();
        let ended = self.pools.in_line(ended);
        for key in self.entries[ticket as usize].iter().flat_map(Entry::keys) {
            self.lanes.end(key, ticket, ended, &mut woken);
        }
        for next in woken {
            self.wake(next);
        }
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Location> {
        let pending = self.entries[ticket as usize].as_ref()?.pending;
        self.leave_lanes(ticket, pending);
        let entry = self.entries[ticket as usize].take()?;
        self.free.push(ticket);
        self.open -= 1;
        self.for_files -= usize::from(entry.has(mark::FILES));
        Some(entry.location)
    }
}

impl Wait {
    pub(super) fn is_at(&self, place: usize) -> bool {
        usize::from(self.place) == place
    }
}

pub(super) fn next_spread(spread: u64) -> u64 {
    spread.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)
}

pub(super) fn over(ends: &[(u8, StepEnd)]) -> StepSet {
    ends.iter()
        .filter(|(_, end)| matches!(end, StepEnd::Over))
        .fold(StepSet::EMPTY, |set, (place, _)| set.with(StepSet::one(usize::from(*place))))
}

pub(super) fn cut(reason: &str) -> Box<str> {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].into()
}

pub(super) fn micros(d: Duration) -> i64 {
    i64::try_from(d.as_micros()).unwrap_or(i64::MAX)
}
