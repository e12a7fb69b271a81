//! The life of every worker, decided here and carried out elsewhere: events and the time in, actions out. PURE: knows no
//! system call, no pid, no wall clock. Time is a duration since some fixed moment and never goes back.
//!
//! ```text
//! Unbound ──Listening──▶ Starting ──Ready──▶ Ready
//!    ▲                    │  │  │             │ │ │
//!    │                    │  │  └─ reload, stop ┼─┴──▶ Draining ──deadline──▶ Doomed (KILL was sent)
//!    │                    │  └── silent, breach ┴───────────────────────────▶    │
//!    │               died ▼                     ▼ died    ▼ died                 ▼ died
//!    │                   Gone ◀─────────────────┴─────────┴──────────────────────┘
//!    ├── replaced ────────┤
//!    ├── 0.1 s … 60 s ── Backoff ◀── died by itself, or killed for silence or breach
//!    └── reload ──────── Disabled ◀── exit 78
//!                        (forgotten) ◀── taken out, or the server stops
//! ```
//! Gone is the moment of a death, not a state that lasts. A channel starts through Unbound each time; where its listener
//! stands already, that takes no time.

mod event;
mod life;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub(crate) use event::{Action, Change, Event, Why, WorkerId};
use life::Channel;
pub(crate) use life::{State, Then};
use link::Death;
use std::collections::BTreeMap;
use std::time::Duration;

/// First back-off after a death; doubles.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest back-off, of deaths and of ports.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A worker that was ready for that long starts over at the first back-off.
const HEALTHY: Duration = Duration::from_secs(60);
/// A ready worker that reports nothing for that long is killed: its event loop stalls.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The same while it starts: recovering a backlog of 60 GB from a disk of 100 MB/s takes that long, and a worker killed in
/// its recovery would never end it.
const SILENCE_STARTING_MAX: Duration = Duration::from_secs(600);
/// Ticks come once a second at least; a longer gap is no fault of the workers.
const TICK_MAX: Duration = Duration::from_secs(5);
/// A worker that has closed its link is about to exit; after that long it is killed. One that an operator told to drain,
/// by TERM, gives its running steps 30 s after its event loop has ended.
const MUTE_MAX: Duration = Duration::from_secs(35);
/// What a drain gets beyond the time the worker was told.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);
/// How long a killed worker may take to die before it is complained of, and for how long a stop waits for it.
const DEATH_MAX: Duration = Duration::from_secs(5);
/// Ports are tried that often at first: the last master's workers may still hold them.
const BIND_RETRY: Duration = Duration::from_millis(250);
/// For so long; then with back-off.
const BIND_RETRY_FAST: Duration = Duration::from_secs(10);
const BIND_BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// A storm of HUPs is one reload: it comes when there was none for so long…
const HANGUP_QUIET: Duration = Duration::from_millis(100);
/// …and at the latest then.
const HANGUP_MAX: Duration = Duration::from_secs(1);

/// How a channel is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) state: State,
    /// When that state, as a kind, began.
    pub(crate) since: Duration,
    /// Restarts of its worker after a death.
    pub(crate) restarts: u64,
}

/// All channels.
#[derive(Debug)]
pub(crate) struct Supervisor {
    channels: BTreeMap<String, Channel>,
    last_worker: WorkerId,
    last_tick: Option<Duration>,
    stop_timeout: Duration,
    /// First HUP not yet acted on, and when it will be.
    hangup: Option<(Duration, Duration)>,
    stopping: Option<Stopping>,
}

/// The server's own end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stopping {
    /// The workers drain; each is killed at its deadline. Leave at the latest then.
    Draining {
        until: Duration,
    },
    /// The workers were killed. Leave at the latest then.
    AtOnce {
        until: Duration,
    },
    Left,
}

impl Supervisor {
    pub(crate) fn new() -> Self {
        Self {
            channels: BTreeMap::new(),
            last_worker: 0,
            last_tick: None,
            stop_timeout: Duration::ZERO,
            hangup: None,
            stopping: None,
        }
    }

    /// Decides. The actions are carried out in their order; what comes of them comes back as events.
    pub(crate) fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Reload { changes, stop_timeout } => self.reload(changes, stop_timeout, now, &mut actions),
            Event::Listening { channel } => self.listening(&channel, now, &mut actions),
            Event::NotListening { channel } => self.not_listening(&channel, now),
            Event::NotSpawned { worker } => self.gone(worker, None, now, &mut actions),
            Event::Died { worker, death } => self.gone(worker, Some(death), now, &mut actions),
            Event::Ready { worker } => self.ready(worker, now),
            Event::Report { worker } => self.heard(worker, now),
            Event::Mute { worker } => self.mute(worker, now),
            Event::Breach { worker } => self.breach(worker, now, &mut actions),
            Event::Hangup => self.hang_up(now),
            Event::Stop => self.stop(now, &mut actions),
            Event::Tick => self.tick(now, &mut actions),
        }
        self.pass_time(now, &mut actions);
        actions
    }

    /// When a `Tick` is wanted.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let channels = self.channels.values().filter_map(|channel| match channel.state {
            State::Unbound { retry_at: at, .. }
            | State::Starting { silent_until: at, .. }
            | State::Ready { silent_until: at, .. }
            | State::Draining { kill_at: at, .. }
            | State::Doomed { complain_at: at, .. }
            | State::Backoff { until: at } => Some(at),
            State::Disabled => None,
        });
        let stop = match self.stopping {
            Some(Stopping::Draining { until } | Stopping::AtOnce { until }) => Some(until),
            Some(Stopping::Left) | None => None,
        };
        channels.chain(self.hangup.map(|(_, due)| due)).chain(stop).min()
    }

    /// How a channel is.
    pub(crate) fn view(&self, channel: &str) -> Option<View> {
        let channel = self.channels.get(channel)?;
        Some(View { state: channel.state, since: channel.since, restarts: channel.restarts })
    }

    /// The channels that are not forgotten.
    pub(crate) fn channels(&self) -> impl Iterator<Item = (&str, State)> {
        self.channels.iter().map(|(name, channel)| (name.as_str(), channel.state))
    }

    /// Whether TERM was received.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    fn reload(
        &mut self,
        changes: Vec<(String, Change)>,
        stop_timeout: Duration,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        if self.stopping.is_some() {
            return;
        }
        self.stop_timeout = stop_timeout;
        for (name, change) in changes {
            match change {
                Change::Start | Change::Replace => self.start(&name, now, actions),
                Change::Stop => self.end(&name, Then::Forget, now, actions),
                Change::Keep => self.keep(&name, now, actions),
            }
        }
    }

    /// A new channel, or new settings for one: the worker it has, if any, gives way.
    fn start(&mut self, name: &str, now: Duration, actions: &mut Vec<Action>) {
        match self.channels.get_mut(name) {
            None => {
                let state = State::Unbound { since: now, retry_at: now, tries: 0 };
                let channel = Channel { state, since: now, failures: 0, restarts: 0, predecessor: None };
                self.channels.insert(name.to_owned(), channel);
            }
            Some(channel) => {
                // Whatever was wrong, the new settings may be right.
                channel.failures = 0;
                match channel.state {
                    State::Unbound { .. } | State::Backoff { .. } | State::Disabled => {
                        channel.enter(name, State::Unbound { since: now, retry_at: now, tries: 0 }, now);
                    }
                    State::Starting { .. }
                    | State::Ready { .. }
                    | State::Draining { .. }
                    | State::Doomed { .. } => self.end(name, Then::Again, now, actions),
                }
            }
        }
    }

    /// A channel whose settings are as before. What waits for a reload has got it.
    fn keep(&mut self, name: &str, now: Duration, actions: &mut Vec<Action>) {
        let Some(channel) = self.channels.get_mut(name) else { return self.start(name, now, actions) };
        match channel.state {
            State::Disabled | State::Unbound { .. } => self.start(name, now, actions),
            State::Draining { then: Then::Forget, .. } | State::Doomed { then: Then::Forget, .. } => {
                self.end(name, Then::Again, now, actions);
            }
            State::Starting { .. }
            | State::Ready { .. }
            | State::Draining { .. }
            | State::Doomed { .. }
            | State::Backoff { .. } => {}
        }
    }

    /// Ends the channel's worker; `then` says what follows. An end that is under way goes on, to the new purpose.
    fn end(&mut self, name: &str, then: Then, now: Duration, actions: &mut Vec<Action>) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let kill_at = now + self.stop_timeout + DRAIN_MARGIN;
        match channel.state {
            State::Starting { worker, .. } => {
                actions.push(Action::Terminate { worker });
                channel.enter(name, State::Draining { worker, kill_at, then }, now);
            }
            State::Ready { worker, .. } => {
                actions.push(Action::Drain { worker, timeout: self.stop_timeout });
                channel.enter(name, State::Draining { worker, kill_at, then }, now);
            }
            State::Draining { worker, kill_at: before, .. } => {
                channel.enter(name, State::Draining { worker, kill_at: before.min(kill_at), then }, now);
            }
            State::Doomed { worker, complain_at, .. } => {
                channel.enter(name, State::Doomed { worker, complain_at, then }, now);
            }
            State::Unbound { .. } | State::Backoff { .. } | State::Disabled => {
                debug_assert_eq!(then, Then::Forget, "a channel without a worker is started, not ended");
                self.forget(name, actions);
            }
        }
    }

    fn forget(&mut self, name: &str, actions: &mut Vec<Action>) {
        self.channels.remove(name);
        actions.push(Action::Forget { channel: name.to_owned() });
    }

    fn listening(&mut self, name: &str, now: Duration, actions: &mut Vec<Action>) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let State::Unbound { .. } = channel.state else { return };
        // 2^32 workers at the shortest back-off take 13 years: no number comes twice in one life of the table.
        self.last_worker = self.last_worker.checked_add(1).unwrap_or(1);
        let worker = self.last_worker;
        channel.enter(name, State::Starting { worker, silent_until: now + SILENCE_STARTING_MAX }, now);
        let predecessor = channel.predecessor;
        actions.push(Action::Spawn { channel: name.to_owned(), worker, predecessor });
    }

    fn not_listening(&mut self, name: &str, now: Duration) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let State::Unbound { since, tries, .. } = channel.state else { return };
        let (wait, tries) = if now < since + BIND_RETRY_FAST {
            (BIND_RETRY, 0)
        } else {
            (backoff(BIND_BACKOFF_FIRST, tries), tries + 1)
        };
        channel.enter(name, State::Unbound { since, retry_at: now + wait, tries }, now);
    }

    fn ready(&mut self, worker: WorkerId, now: Duration) {
        let Some((name, channel)) = self.of(worker) else { return };
        if let State::Starting { .. } = channel.state {
            channel.enter(&name, State::Ready { worker, since: now, silent_until: now + SILENCE_MAX }, now);
        }
    }

    fn heard(&mut self, worker: WorkerId, now: Duration) {
        let Some((_, channel)) = self.of(worker) else { return };
        match &mut channel.state {
            State::Starting { silent_until, .. } => *silent_until = now + SILENCE_STARTING_MAX,
            State::Ready { silent_until, .. } => *silent_until = now + SILENCE_MAX,
            State::Draining { .. } | State::Doomed { .. } => {}
            State::Unbound { .. } | State::Backoff { .. } | State::Disabled => {}
        }
    }

    fn mute(&mut self, worker: WorkerId, now: Duration) {
        let Some((_, channel)) = self.of(worker) else { return };
        match &mut channel.state {
            State::Starting { silent_until, .. } | State::Ready { silent_until, .. } => {
                *silent_until = now + MUTE_MAX;
            }
            // These have a deadline.
            State::Draining { .. } | State::Doomed { .. } => {}
            State::Unbound { .. } | State::Backoff { .. } | State::Disabled => {}
        }
    }

    fn breach(&mut self, worker: WorkerId, now: Duration, actions: &mut Vec<Action>) {
        let Some((name, channel)) = self.of(worker) else { return };
        let then = match channel.state {
            State::Starting { .. } | State::Ready { .. } => Then::Backoff,
            State::Draining { then, .. } => then,
            State::Doomed { .. } => return,
            State::Unbound { .. } | State::Backoff { .. } | State::Disabled => return,
        };
        channel.doom(&name, worker, then, Why::Breach, now, actions);
    }

    /// A worker is no more, or (without a death) never was.
    fn gone(&mut self, worker: WorkerId, death: Option<Death>, now: Duration, actions: &mut Vec<Action>) {
        let Some((name, channel)) = self.of(worker) else { return };
        let then = match channel.state {
            State::Ready { since, .. } => {
                if now.saturating_sub(since) >= HEALTHY {
                    channel.failures = 0;
                }
                Then::Backoff
            }
            State::Starting { .. } => Then::Backoff,
            State::Draining { then, .. } | State::Doomed { then, .. } => then,
            State::Unbound { .. } | State::Backoff { .. } | State::Disabled => return,
        };
        let ordered = then != Then::Backoff;
        match death {
            // Never alive: what is known of the one before still holds.
            None => {}
            Some(Death::Crashed(signal)) => channel.predecessor = Some(Death::Crashed(signal)),
            Some(Death::Exited(_) | Death::Killed | Death::Stopped) if ordered => {
                channel.predecessor = Some(Death::Stopped);
            }
            Some(death) => channel.predecessor = Some(death),
        }
        match then {
            Then::Forget => self.forget(&name, actions),
            Then::Again => channel.enter(&name, State::Unbound { since: now, retry_at: now, tries: 0 }, now),
            Then::Backoff if death == Some(Death::Exited(EXIT_CONFIGURATION)) => {
                channel.enter(&name, State::Disabled, now);
            }
            Then::Backoff => {
                let until = now + backoff(BACKOFF_FIRST, channel.failures);
                channel.failures = channel.failures.saturating_add(1);
                channel.restarts += 1;
                channel.enter(&name, State::Backoff { until }, now);
            }
        }
    }

    fn hang_up(&mut self, now: Duration) {
        let first = self.hangup.map_or(now, |(first, _)| first);
        self.hangup = Some((first, (now + HANGUP_QUIET).min(first + HANGUP_MAX)));
    }

    fn stop(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let names: Vec<String> = self.channels.keys().cloned().collect();
        self.hangup = None;
        match self.stopping {
            None => {
                let until = now + self.stop_timeout + DRAIN_MARGIN + DEATH_MAX;
                self.stopping = Some(Stopping::Draining { until });
                for name in names {
                    self.end(&name, Then::Forget, now, actions);
                }
            }
            Some(Stopping::Draining { .. }) => {
                self.stopping = Some(Stopping::AtOnce { until: now + DEATH_MAX });
                for (name, channel) in &mut self.channels {
                    if let State::Draining { worker, .. } = channel.state {
                        channel.doom(name, worker, Then::Forget, Why::AtOnce, now, actions);
                    }
                }
            }
            Some(Stopping::AtOnce { .. } | Stopping::Left) => {}
        }
    }

    /// Looks for silent workers; only here, since at any other event reports of others may still wait to be read.
    fn tick(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let gap = now.saturating_sub(self.last_tick.replace(now).unwrap_or(now));
        for (name, channel) in &mut self.channels {
            if gap > TICK_MAX {
                // The master itself stood still (stopped, frozen), and the workers likely with it.
                channel.forgive(gap);
            }
            channel.end_silence(name, now, actions);
        }
    }

    fn pass_time(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for (name, channel) in &mut self.channels {
            channel.pass_time(name, now, actions);
        }
        if self.hangup.is_some_and(|(_, due)| now >= due) {
            self.hangup = None;
            actions.push(Action::Load);
        }
        let leave = match self.stopping {
            Some(Stopping::Draining { until } | Stopping::AtOnce { until }) => {
                self.channels.is_empty() || now >= until
            }
            Some(Stopping::Left) | None => false,
        };
        if leave {
            self.stopping = Some(Stopping::Left);
            actions.push(Action::Exit);
        }
    }

    /// The channel that a worker is the present one of.
    fn of(&mut self, worker: WorkerId) -> Option<(String, &mut Channel)> {
        let found = self.channels.iter_mut().find(|(_, channel)| channel.state.worker() == Some(worker));
        found.map(|(name, channel)| (name.clone(), channel))
    }
}

/// The exit status of a worker that finds its configuration wrong.
const EXIT_CONFIGURATION: i32 = 78;

/// `first`, doubled `times`, at most [`BACKOFF_MAX`].
fn backoff(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1u32.checked_shl(times).unwrap_or(u32::MAX)).min(BACKOFF_MAX)
}
