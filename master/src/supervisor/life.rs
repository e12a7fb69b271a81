//! The life of one channel: its states, and what the mere passing of time does to them.

use super::event::{Action, Why, WorkerId};
use super::{BIND_RETRY, DEATH_MAX, SILENCE_MAX, SILENCE_STARTING_MAX};
use link::Death;
use std::time::Duration;

/// Where a channel is in its life.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum State {
    /// Waits for its port.
    Unbound { since: Duration, retry_at: Duration, tries: u32 },
    /// The worker recovers.
    Starting { worker: WorkerId, silent_until: Duration },
    /// The worker accepts.
    Ready { worker: WorkerId, since: Duration, silent_until: Duration },
    /// The worker finishes what is begun.
    Draining { worker: WorkerId, kill_at: Duration, then: Then },
    /// KILL was sent.
    Doomed { worker: WorkerId, complain_at: Duration, then: Then },
    /// Its worker died; the next comes later.
    Backoff { until: Duration },
    /// Its worker found the configuration wrong (78): not again until a reload.
    Disabled,
}

/// What follows a death that was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next worker, at once.
    Again,
    /// The next worker, with back-off.
    Backoff,
    /// Nothing: the channel is out of the configuration, or the server stops.
    Forget,
}

/// One channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) state: State,
    /// When it entered a state of another kind than the one before.
    pub(super) since: Duration,
    /// Deaths since it was last healthy.
    pub(super) failures: u32,
    pub(super) restarts: u64,
    pub(super) predecessor: Option<Death>,
}

impl State {
    /// The process that belongs to this state.
    pub(crate) fn worker(self) -> Option<WorkerId> {
        match self {
            Self::Starting { worker, .. }
            | Self::Ready { worker, .. }
            | Self::Draining { worker, .. }
            | Self::Doomed { worker, .. } => Some(worker),
            Self::Unbound { .. } | Self::Backoff { .. } | Self::Disabled => None,
        }
    }
}

impl Channel {
    /// The only way to another kind of state.
    pub(super) fn enter(&mut self, name: &str, state: State, now: Duration) {
        log::trace!("{name}: {:?} -> {state:?}", self.state);
        if std::mem::discriminant(&self.state) != std::mem::discriminant(&state) {
            self.since = now;
        }
        self.state = state;
    }

    /// Sends KILL.
    pub(super) fn doom(
        &mut self,
        name: &str,
        worker: WorkerId,
        then: Then,
        why: Why,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        self.enter(name, State::Doomed { worker, complain_at: now + DEATH_MAX, then }, now);
        actions.push(Action::Kill { worker, why });
    }

    /// Kills the worker if it has been silent for too long.
    pub(super) fn end_silence(&mut self, name: &str, now: Duration, actions: &mut Vec<Action>) {
        match self.state {
            State::Starting { worker, silent_until } if now >= silent_until => {
                let why = Why::Silent(SILENCE_STARTING_MAX);
                self.doom(name, worker, Then::Backoff, why, now, actions);
            }
            State::Ready { worker, silent_until, .. } if now >= silent_until => {
                self.doom(name, worker, Then::Backoff, Why::Silent(SILENCE_MAX), now, actions);
            }
            State::Unbound { .. }
            | State::Starting { .. }
            | State::Ready { .. }
            | State::Draining { .. }
            | State::Doomed { .. }
            | State::Backoff { .. }
            | State::Disabled => {}
        }
    }

    /// Adds time in which nobody could report.
    pub(super) fn forgive(&mut self, gap: Duration) {
        if let State::Starting { silent_until, .. } | State::Ready { silent_until, .. } = &mut self.state {
            *silent_until += gap;
        }
    }

    /// What is due, is done.
    pub(super) fn pass_time(&mut self, name: &str, now: Duration, actions: &mut Vec<Action>) {
        match self.state {
            State::Unbound { since, retry_at, tries } if now >= retry_at => {
                // Until the answer comes: not again in this turn.
                self.state = State::Unbound { since, retry_at: now + BIND_RETRY, tries };
                actions.push(Action::Listen { channel: name.to_owned() });
            }
            State::Draining { worker, kill_at, then } if now >= kill_at => {
                self.doom(name, worker, then, Why::Overdue, now, actions);
            }
            State::Doomed { worker, complain_at, then } if now >= complain_at => {
                self.state = State::Doomed { worker, complain_at: now + SILENCE_MAX, then };
                actions.push(Action::Undead { worker });
            }
            State::Backoff { until } if now >= until => {
                self.enter(name, State::Unbound { since: now, retry_at: now + BIND_RETRY, tries: 0 }, now);
                actions.push(Action::Listen { channel: name.to_owned() });
            }
            State::Unbound { .. }
            | State::Starting { .. }
            | State::Ready { .. }
            | State::Draining { .. }
            | State::Doomed { .. }
            | State::Backoff { .. }
            | State::Disabled => {}
        }
    }
}
