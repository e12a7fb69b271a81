//! A step whose target is down is not tried by every message that needs it: its breaker is open, and one message now and
//! then makes the probe.

use super::entry::Entry;
use super::state::{State, next_spread};
use super::{PROBE_OFFER_US, PROBE_TICKETS, StepEnd};
use crate::order::Ticket;
use crate::plan::StepSet;
use config::Retry;
use std::cmp::Reverse;

#[derive(Clone, Debug, Default)]
pub(super) struct Breaker {
    pub(super) open: Option<OpenBreaker>,
}

#[derive(Clone, Debug)]
pub(super) struct OpenBreaker {
    pub(super) since_us: i64,
    pub(super) attempt: u32,
    pub(super) probe_at_us: i64,
    pub(super) probing: bool,
}

impl State {
    /// Whether a message has waited behind an open breaker for as long as it may.
    pub(super) fn is_overdue(&self, entry: &Entry, place: usize, now_us: i64, give_up_us: i64) -> bool {
        let since_us = self.breakers[place].open.as_ref().map(|b| b.since_us.max(entry.received_us));
        since_us.is_some_and(|since_us| since_us.saturating_add(give_up_us) <= now_us)
    }

    /// The time of a breaker's probe has come: the message that waits longest makes it.
    pub(super) fn probe(&mut self, place: usize, now_us: i64, give_up_us: i64) {
        match &self.breakers[place].open {
            Some(breaker) if !breaker.probing && breaker.probe_at_us <= now_us => {}
            _ => return,
        }
        // The one tried least, then the oldest: a message with a fault of its own does not keep the breaker open.
        let mut chosen: Option<((u32, i64), Ticket)> = None;
        for ticket in 0..self.entries.len() as Ticket {
            let Some(entry) = self.entries[ticket as usize].as_ref() else { continue };
            if !entry.pending.has(place) || entry.running.has(place) || self.is_queued_for(place, entry) {
                continue;
            }
            if self.is_overdue(entry, place, now_us, give_up_us) {
                // Its time is over: it makes a last attempt, whatever the others do.
                self.wake(ticket);
                continue;
            }
            let rank = (entry.wait_for(place).map_or(0, |wait| wait.attempt), entry.received_us);
            if chosen.is_none_or(|(best, _)| rank < best)
                && self.runnable(ticket, now_us, give_up_us).has(place)
            {
                chosen = Some((rank, ticket));
            }
        }
        if let Some((_, ticket)) = chosen {
            self.wake(ticket);
        }
        // Should nobody make it, it is offered again.
        self.timers.push(Reverse((now_us + PROBE_OFFER_US, probe_ticket(place))));
    }

    pub(super) fn is_queued_for(&self, place: usize, entry: &Entry) -> bool {
        let pools = (0..self.pools.len()).filter(|pool| entry.queued >> pool & 1 == 1);
        pools.into_iter().any(|pool| self.pools[pool].steps.has(place))
    }

    /// A step that reached its target closes the breaker and lets everybody in; one whose target is down opens it or
    /// puts the next probe off.
    pub(super) fn turn_breakers(
        &mut self,
        tried: StepSet,
        ends: &[(u8, StepEnd)],
        now_us: i64,
        retry: &Retry,
    ) {
        for place in tried.places() {
            let end = ends.iter().find(|(p, _)| usize::from(*p) == place).map(|(_, end)| end);
            match end {
                Some(StepEnd::Again { target_down: true, wanted_us, .. }) => {
                    let open = self.breakers[place].open.take();
                    let since_us = open.as_ref().map_or(now_us, |b| b.since_us);
                    // A peer that says when it will be back is not probed before.
                    let wanted_at_us = now_us + wanted_us.unwrap_or(0);
                    // The messages of a job all meet the same fault: that is one attempt and not a hundred.
                    let same = open.as_ref().filter(|b| !b.probing && b.probe_at_us > now_us);
                    let (attempt, at_us) = match same {
                        Some(breaker) => (breaker.attempt, breaker.probe_at_us),
                        None => {
                            let attempt = open.as_ref().map_or(0, |b| b.attempt) + 1;
                            self.spread = next_spread(self.spread);
                            (attempt, now_us + crate::retry::wait_us(retry, attempt, self.spread >> 40))
                        }
                    };
                    let probe_at_us = at_us.max(wanted_at_us);
                    if same.is_none_or(|b| b.probe_at_us != probe_at_us) {
                        self.timers.push(Reverse((probe_at_us, probe_ticket(place))));
                    }
                    self.breakers[place].open =
                        Some(OpenBreaker { since_us, attempt, probe_at_us, probing: false });
                }
                Some(StepEnd::Over | StepEnd::Again { .. }) => {
                    if self.breakers[place].open.take().is_some() {
                        self.wake_all_for(place);
                    }
                }
                // The probe told nothing of the target: another message makes it.
                Some(StepEnd::NotTried) | None => {
                    if let Some(breaker) = self.breakers[place].open.as_mut().filter(|b| b.probing) {
                        breaker.probing = false;
                        self.timers.push(Reverse((breaker.probe_at_us, probe_ticket(place))));
                    }
                }
            }
        }
    }

    /// The target is back: everybody with that step before them, however long their own wait was.
    pub(super) fn wake_all_for(&mut self, place: usize) {
        for ticket in 0..self.entries.len() as Ticket {
            let Some(entry) = &mut self.entries[ticket as usize] else { continue };
            if entry.pending.has(place) {
                if let Some(wait) = entry.wait_for_mut(place).filter(|wait| wait.target_down) {
                    wait.until_us = 0;
                }
                self.wake(ticket);
            }
        }
    }
}

/// A breaker's probe stands among the timers under a ticket that no message has.
pub(super) fn probe_ticket(place: usize) -> Ticket {
    PROBE_TICKETS - place as Ticket
}
