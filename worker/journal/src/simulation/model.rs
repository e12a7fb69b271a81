//! What a journal has to say after a crash, from what it was told before.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::DamageKind;
use crate::recall::State;
use crate::storage::faulty::Random;
use crate::{MessageId, ReplaySummary, Replayed};

pub(super) const STEPS: [&str; 3] = ["archive", "solr", "resend"];

/// Something that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Received,
    StepDone(usize),
    Frozen(usize),
    Again(usize, u32),
    Strike(u8),
    Ended(State),
    Retried,
}

/// What has to be, and what may be, on disk.
#[derive(Default, Clone)]
pub(super) struct Model {
    /// In the order appended. Below `flushed` all of them are promised, from `batch` on they are not written.
    pub(super) events: Vec<(MessageId, Event)>,
    pub(super) flushed: usize,
    pub(super) batch: usize,
    /// Taken back for want of room: no promise, and no lie if they turn up until the next flush.
    pub(super) ghosts: Vec<(MessageId, Event)>,
    pub(super) order: BTreeMap<MessageId, u64>,
    /// Retried by hand at some time: outside the order.
    pub(super) reopened: BTreeSet<MessageId>,
}

impl Model {
    pub(super) fn push(&mut self, id: MessageId, event: Event) {
        // Ids of this test increase with every message.
        self.order.entry(id).or_insert(id.unix_ms());
        self.events.push((id, event));
    }

    pub(super) fn flushed(&mut self) {
        self.flushed = self.events.len();
        self.batch = self.flushed;
        self.ghosts.clear();
    }

    pub(super) fn taken_back(&mut self) {
        self.ghosts.extend(self.events.drain(self.batch..));
    }

    fn of(&self, id: MessageId, promised: bool) -> impl Iterator<Item = Event> + '_ {
        let promises = self.events[..self.flushed].iter();
        let rest = self.events[self.flushed..].iter().chain(&self.ghosts);
        let events: Vec<Event> = if promised { promises.collect::<Vec<_>>() } else { rest.collect() }
            .into_iter()
            .filter(|(of, _)| *of == id)
            .map(|(_, event)| *event)
            .collect();
        events.into_iter()
    }

    /// Every state the message may be found in.
    fn states(&self, id: MessageId) -> BTreeSet<Option<u8>> {
        fn apply(state: Option<u8>, event: Event) -> Option<u8> {
            match event {
                Event::Received => Some(0),
                Event::Ended(ended) if state == Some(0) || state.is_some_and(|_| ended != State::Done) => {
                    Some(number(ended))
                }
                Event::Ended(State::Done) => state.map(|_| 1),
                Event::Retried if state.is_some_and(|state| state > 1) => Some(0),
                _ => state,
            }
        }
        let promised = self.of(id, true).fold(None, apply);
        let mut states = BTreeSet::from([promised]);
        for event in self.of(id, false) {
            let more: Vec<_> = states.iter().map(|&state| apply(state, event)).collect();
            states.extend(more);
        }
        states
    }

    pub(super) fn check(&self, found: &[(Replayed, Vec<u8>)], summary: &ReplaySummary, cut: bool, seed: u64) {
        let open: BTreeMap<_, _> =
            found.iter().map(|(message, body)| (message.id, (message, body))).collect();
        assert_eq!(open.len(), found.len(), "seed {seed}: a message handed out twice");
        for id in open.keys() {
            assert!(self.order.contains_key(id), "seed {seed}: {id} was never received");
        }
        for id in self.order.keys() {
            let states = self.states(*id);
            match open.get(id) {
                None => {
                    let recalled = summary.recent.iter().find(|recent| recent.id == *id);
                    let state = recalled.map(|recent| number(recent.state));
                    // Long gone ones may be forgotten; here none are old enough.
                    assert!(states.contains(&state), "seed {seed}: {id} is {state:?} of {states:?}");
                    assert_ne!(state, Some(0), "seed {seed}: {id} open but not handed out");
                }
                Some((message, body)) => {
                    assert!(states.contains(&Some(0)), "seed {seed}: {id} is open, not one of {states:?}");
                    assert_eq!(**body, body_of(*id), "seed {seed}: {id} has other bytes");
                    assert_eq!(message.keys, keys_of(*id), "seed {seed}");
                    self.check_steps(message, seed);
                }
            }
        }
        let places: Vec<_> = found.iter().map(|(message, _)| message.order).collect();
        assert!(places.is_sorted(), "seed {seed}: not in order");
        let order: Vec<_> = found
            .iter()
            .filter(|(message, _)| !self.reopened.contains(&message.id))
            .map(|(message, _)| self.order[&message.id])
            .collect();
        assert!(order.is_sorted(), "seed {seed}: not in the order received");
        for damage in &summary.damage {
            let torn = matches!(damage.what, DamageKind::LostUnflushed { .. });
            assert!(cut && torn, "seed {seed}: nothing was damaged, yet {damage}");
        }
    }

    fn check_steps(&self, message: &Replayed, seed: u64) {
        let id = message.id;
        let may: Vec<Event> = self.of(id, true).chain(self.of(id, false)).collect();
        for step in &message.steps_done {
            let known = may.iter().any(|event| matches!(event, Event::StepDone(of) if STEPS[*of] == step));
            assert!(known, "seed {seed}: {id} has a step done that never was");
        }
        for again in &message.again {
            let known = may.iter().any(|event| {
                matches!(event, Event::Again(of, attempt) if STEPS[*of] == again.step && *attempt == again.attempt)
            });
            assert!(known, "seed {seed}: {id} was never put off like that");
        }
        // A message opened anew begins anew.
        let promised: Vec<Event> = self.of(id, true).collect();
        let since = promised.iter().rposition(|event| matches!(event, Event::Ended(_))).unwrap_or(0);
        if self.reopened.contains(&id) && self.of(id, false).any(|event| matches!(event, Event::Ended(_))) {
            return;
        }
        for event in promised.into_iter().skip(since) {
            match event {
                Event::StepDone(step) => {
                    let done = message.steps_done.iter().any(|done| done == STEPS[step]);
                    assert!(done, "seed {seed}: {id} would repeat {}", STEPS[step]);
                }
                Event::Frozen(step) => {
                    let frozen = message.frozen.iter().any(|(name, _)| name == STEPS[step]);
                    assert!(frozen, "seed {seed}: {id} lost what was frozen");
                }
                Event::Strike(count) => {
                    // A retry forgives.
                    let forgiven = may.contains(&Event::Retried);
                    assert!(forgiven || message.strikes >= count, "seed {seed}: {id} lost a strike");
                }
                Event::Received | Event::Again(..) | Event::Ended(_) | Event::Retried => {}
            }
        }
    }

    /// After opening, what was found is what is promised.
    pub(super) fn settle(&mut self, found: &[(Replayed, Vec<u8>)], summary: &ReplaySummary) {
        let mut events = Vec::new();
        for recent in summary.recent.iter().filter(|recent| recent.state != State::Open) {
            events.push((recent.id, Event::Received));
            events.push((recent.id, Event::Ended(recent.state)));
        }
        let steps = |name: &str| STEPS.iter().position(|step| *step == name).unwrap();
        for (message, _) in found {
            let id = message.id;
            events.push((id, Event::Received));
            events.extend(message.steps_done.iter().map(|step| (id, Event::StepDone(steps(step)))));
            events.extend(message.frozen.iter().map(|(step, _)| (id, Event::Frozen(steps(step)))));
            events.extend(
                message.again.iter().map(|again| (id, Event::Again(steps(&again.step), again.attempt))),
            );
            if message.retried {
                events.push((id, Event::Retried));
            }
            if message.strikes > 0 {
                events.push((id, Event::Strike(message.strikes)));
            }
        }
        let known: BTreeSet<_> = events.iter().map(|(id, _)| *id).collect();
        self.order.retain(|id, _| known.contains(id));
        self.events = events;
        self.ghosts.clear();
        self.flushed();
    }
}

fn number(state: State) -> u8 {
    match state {
        State::Open => 0,
        State::Done => 1,
        State::Failed => 2,
        State::Discarded => 3,
        State::Returned => 4,
    }
}

pub(super) fn body_of(id: MessageId) -> Vec<u8> {
    let mut random = Random::new(id.unix_ms());
    let bytes = match random.below(200) {
        0 => 70_000,
        1..5 => 9_000,
        5..40 => 600,
        _ => random.below(120),
    };
    (0..bytes.div_ceil(8)).flat_map(|_| random.bits().to_le_bytes()).take(bytes as usize).collect()
}

pub(super) fn keys_of(id: MessageId) -> Vec<u64> {
    (0..id.unix_ms() % 3).collect()
}

pub(super) fn values_of(id: MessageId, step: usize) -> Vec<u8> {
    format!("{id} {}", STEPS[step]).into_bytes()
}
