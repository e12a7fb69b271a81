//! Crashes: random work over a storage that fails, dies, and is found again as a killed process or a power
//! cut leaves it. What replay hands out must be what was promised: everything flushed, nothing that had
//! ended, and of the rest whole messages or none.
//!
//! `JOURNAL_CRASH_STATES` sets how many crash states are visited (2,500 otherwise), `JOURNAL_CRASH_SEED` the
//! first seed. A failing run names its seed.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{DamageKind, JournalError};
use crate::recall::State;
use crate::storage::faulty::{Fault, Faulty, Operation, Plan, Random};
use crate::{Filler, Journal, Location, MessageId, Options, Received, Record, ReplaySummary, Replayed, Tag};

const STEPS: [&str; 3] = ["archive", "solr", "resend"];
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// Something that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Received,
    StepDone(usize),
    Frozen(usize),
    Again(usize, u32),
    Strike(u8),
    Ended(State),
    Retried,
}

/// What has to be, and what may be, on disk.
#[derive(Default)]
struct Model {
    /// In the order appended. Below `flushed` all of them are promised, from `batch` on they are not written.
    events: Vec<(MessageId, Event)>,
    flushed: usize,
    batch: usize,
    /// Taken back for want of room: no promise, and no lie if they turn up until the next flush.
    ghosts: Vec<(MessageId, Event)>,
    order: BTreeMap<MessageId, u64>,
    /// Retried by hand at some time: outside the order.
    reopened: BTreeSet<MessageId>,
}

impl Model {
    fn push(&mut self, id: MessageId, event: Event) {
        // Ids of this test increase with every message.
        self.order.entry(id).or_insert(id.unix_ms());
        self.events.push((id, event));
    }

    fn flushed(&mut self) {
        self.flushed = self.events.len();
        self.batch = self.flushed;
        self.ghosts.clear();
    }

    fn taken_back(&mut self) {
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

    fn check(&self, found: &[(Replayed, Vec<u8>)], summary: &ReplaySummary, cut: bool, seed: u64) {
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
    fn settle(&mut self, found: &[(Replayed, Vec<u8>)], summary: &ReplaySummary) {
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

fn body_of(id: MessageId) -> Vec<u8> {
    let mut random = Random::new(id.unix_ms());
    let bytes = match random.below(200) {
        0 => 70_000,
        1..5 => 9_000,
        5..40 => 600,
        _ => random.below(120),
    };
    (0..bytes.div_ceil(8)).flat_map(|_| random.bits().to_le_bytes()).take(bytes as usize).collect()
}

fn keys_of(id: MessageId) -> Vec<u64> {
    (0..id.unix_ms() % 3).collect()
}

fn values_of(id: MessageId, step: usize) -> Vec<u8> {
    format!("{id} {}", STEPS[step]).into_bytes()
}

/// A message as the worker would know it.
struct Known {
    id: MessageId,
    location: Location,
    events: Vec<Event>,
}

struct Run {
    seed: u64,
    random: Random,
    journal: Journal<Faulty>,
    filler: Option<Filler<Faulty>>,
    model: Model,
    open: Vec<Known>,
    failed: Vec<MessageId>,
    /// Messages whose end is appended: told to the journal once that is written.
    ending: Vec<Known>,
    /// As they were when the batch began: what a batch taken back leaves.
    before: Vec<(MessageId, Location, Vec<Event>)>,
    next: u64,
}

type Outcome = Result<(), JournalError>;
/// Messages handed out, each with the bytes read back.
type Handed = Vec<(Replayed, Vec<u8>)>;

impl Run {
    fn received(
        id: MessageId,
        keys: &[u64],
        body: &[u8],
        append: &mut dyn FnMut(&Record<'_>) -> Result<Location, JournalError>,
    ) -> Result<Location, JournalError> {
        append(&Record::Received(Received {
            id,
            time_us: id.unix_ms() as i64,
            utc_offset_s: 3600,
            peer: "10.0.0.1:5000",
            keys,
            tag: Tag { identity: [id.unix_ms() as u8; 16], content: [2; 16] },
            flags: 3,
            body,
        }))
    }

    fn append(&mut self, id: MessageId, event: Event) -> Result<Location, JournalError> {
        let (keys, body) = (keys_of(id), body_of(id));
        let location = match event {
            Event::Received => Run::received(id, &keys, &body, &mut |record| self.journal.append(record)),
            Event::StepDone(step) => self.journal.append(&Record::StepDone { id, step: STEPS[step] }),
            Event::Frozen(step) => {
                let values = values_of(id, step);
                self.journal.append(&Record::Frozen { id, step: STEPS[step], values: &values })
            }
            Event::Again(step, attempt) => {
                let step = STEPS[step];
                let record = Record::Again { id, step, attempt, until_us: 9, since_us: 1, reason: "down" };
                self.journal.append(&record)
            }
            Event::Strike(count) => self.journal.append(&Record::Strike { id, count }),
            Event::Ended(State::Done) => self.journal.append(&Record::Done { ids: &[id] }),
            Event::Ended(State::Failed) => self.journal.append(&Record::Failed { id, step: "solr" }),
            Event::Ended(State::Discarded) => self.journal.append(&Record::Discarded { id }),
            Event::Ended(State::Returned | State::Open) => self.journal.append(&Record::Returned { id }),
            Event::Retried => self.journal.append(&Record::Retried { id }),
        };
        // Also when it failed: part of it may stand in a file.
        self.model.push(id, event);
        location
    }

    fn written(&mut self) {
        for ended in std::mem::take(&mut self.ending) {
            self.journal.ended(ended.location);
        }
        self.model.batch = self.model.events.len();
        self.before =
            self.open.iter().map(|known| (known.id, known.location, known.events.clone())).collect();
    }

    fn flush(&mut self) -> Outcome {
        self.journal.flush()?;
        self.written();
        self.model.flushed();
        Ok(())
    }

    /// No room: everything is as it was when the batch began.
    fn taken_back(&mut self) {
        self.model.taken_back();
        self.ending.clear();
        self.open = std::mem::take(&mut self.before)
            .into_iter()
            .map(|(id, location, events)| Known { id, location, events })
            .collect();
        self.before =
            self.open.iter().map(|known| (known.id, known.location, known.events.clone())).collect();
        let ended: Vec<_> = self
            .model
            .events
            .iter()
            .filter(|(_, event)| *event == Event::Ended(State::Failed))
            .map(|(id, _)| *id)
            .collect();
        self.failed.retain(|id| ended.contains(id));
    }

    fn pick(&mut self) -> Option<usize> {
        (!self.open.is_empty()).then(|| self.random.below(self.open.len() as u64) as usize)
    }

    fn change(&mut self, event: Event) -> Outcome {
        let Some(index) = self.pick() else { return Ok(()) };
        self.append(self.open[index].id, event)?;
        let events = &mut self.open[index].events;
        if let Event::Strike(_) = event {
            // Of these only the last counts.
            events.retain(|event| !matches!(event, Event::Strike(_)));
        }
        events.push(event);
        Ok(())
    }

    fn end(&mut self, state: State) -> Outcome {
        let Some(index) = self.pick() else { return Ok(()) };
        let id = self.open[index].id;
        self.append(id, Event::Ended(state))?;
        let known = self.open.remove(index);
        self.ending.push(known);
        if state == State::Failed {
            self.failed.push(id);
        }
        Ok(())
    }

    fn receive(&mut self) -> Outcome {
        self.next += 1;
        let id = MessageId::new(self.next, self.random.bits());
        let location = self.append(id, Event::Received)?;
        self.open.push(Known { id, location, events: Vec::new() });
        Ok(())
    }

    /// As by hand: only what is safely failed is retried.
    fn retry(&mut self) -> Outcome {
        self.flush()?;
        let Some(id) = self.failed.pop() else { return Ok(()) };
        self.model.reopened.insert(id);
        let location = self.append(id, Event::Received)?;
        self.append(id, Event::Retried)?;
        self.open.push(Known { id, location, events: vec![Event::Retried] });
        self.flush()
    }

    /// Moves what waits in a sparse segment (or, to see more of it, in the oldest) to the end.
    fn compact(&mut self) -> Outcome {
        self.flush()?;
        let oldest = self.open.iter().map(|known| known.location.segment).min();
        let segment = match (self.journal.sparse(), oldest) {
            (Some(sparse), _) => sparse,
            (None, Some(oldest)) if oldest < self.journal.current_segment() => oldest,
            _ => return Ok(()),
        };
        let mut moved = Vec::new();
        for index in 0..self.open.len() {
            let (id, from) = (self.open[index].id, self.open[index].location);
            if from.segment != segment {
                continue;
            }
            self.model.push(id, Event::Received);
            let to = self.journal.append_moved(from)?;
            for event in self.open[index].events.clone() {
                self.append(id, event)?;
            }
            moved.push((index, from, to));
        }
        let hasty = self.random.percent(50);
        if hasty {
            self.journal.write()?;
            self.written();
        } else {
            self.flush()?;
        }
        for (index, from, to) in moved {
            self.journal.ended(from);
            self.open[index].location = to;
        }
        self.written();
        if hasty { self.retire() } else { Ok(()) }
    }

    /// Whatever goes must not be missed: what is not flushed yet is, first.
    fn retire(&mut self) -> Outcome {
        if self.journal.retire()? > 0 {
            self.written();
            self.model.flushed();
        }
        Ok(())
    }

    fn step(&mut self) -> Outcome {
        let step = self.random.below(3) as usize;
        match self.random.below(100) {
            0..30 => self.receive(),
            30..45 => self.end(State::Done),
            45..50 => self.end([State::Failed, State::Discarded, State::Returned][step]),
            50..55 => self.change(Event::StepDone(step)),
            55..60 => self.change(Event::Frozen(step)),
            60..64 => {
                let attempt = self.random.below(9) as u32;
                self.change(Event::Again(step, attempt))
            }
            64..66 => {
                let strikes = self.model.events.iter().filter_map(|(_, event)| match event {
                    Event::Strike(count) => Some(*count),
                    _ => None,
                });
                let highest = strikes.max().unwrap_or(0);
                self.change(Event::Strike(highest.saturating_add(1)))
            }
            66..68 => self.retry(),
            68..70 => self.compact(),
            70..74 => {
                self.journal.write()?;
                self.written();
                Ok(())
            }
            74..76 => {
                self.flush()?;
                self.journal.settle(6000).map(drop)
            }
            76..80 => self.retire(),
            80..88 => match &self.filler {
                Some(filler) => filler.try_step().map(drop),
                None => Ok(()),
            },
            _ => self.flush(),
        }
    }
}

/// Opens, reads everything back, checks it against the model.
fn open(
    storage: &Faulty,
    options: Options,
    model: Option<(&mut Model, bool)>,
    seed: u64,
) -> Result<(Journal<Faulty>, Handed), JournalError> {
    let mut messages = Vec::new();
    let (journal, summary) = Journal::open(storage.clone(), options, &mut |message| messages.push(message))?;
    let reader = journal.reader();
    let mut found = Vec::new();
    for message in messages {
        let received = reader.read(message.location)?;
        assert_eq!(received.id, message.id, "seed {seed}");
        for (step, location) in &message.frozen {
            let frozen = reader.frozen(*location)?;
            let step = STEPS.iter().position(|known| known == step).unwrap();
            assert_eq!((frozen.id, frozen.values), (message.id, values_of(message.id, step)), "seed {seed}");
        }
        found.push((message, received.body));
    }
    if let Some((model, cut)) = model {
        model.check(&found, &summary, cut, seed);
        model.settle(&found, &summary);
    }
    Ok((journal, found))
}

fn random_plan(random: &mut Random, within: u64) -> Option<Plan> {
    let fault = match random.below(10) {
        0 => Fault::Error(EIO),
        1 => Fault::Error(ENOSPC),
        2 => Fault::Short,
        _ => Fault::Stop,
    };
    // Rare ones by name, or hardly any run would meet them.
    let (only, within) = match random.below(8) {
        0 => (Some(Operation::Sync), within),
        1 => (Some(Operation::Write), within),
        2 => (Some(Operation::Remove), within / 6),
        3 => (Some(Operation::SyncFolder), within / 6),
        4 => (Some(Operation::Rename), within / 6),
        _ => (None, within),
    };
    let lasting = random.percent(30) && fault != Fault::Short;
    Some(Plan { after: random.below(within), only, fault, lasting })
}

/// A run of several lives of one journal, the first one struck as planned; returns how many crash states it
/// went through.
fn run(seed: u64, strike: Option<Plan>) -> u64 {
    let mut random = Random::new(seed);
    let segment_bytes = [6_000, 8_192, 16_384, 65_536][random.below(4) as usize];
    let options = Options { segment_bytes, ..Options::default() };
    let mut storage = Faulty::new();
    let mut model = Model::default();
    let mut states = 0;
    let mut cut = false;
    let mut next = 0;
    for life in 0..6 {
        // Opening may be struck as well; the next attempt meets what that left.
        if random.percent(30) {
            storage.plan(random_plan(&mut random, 12));
        }
        let opened = open(&storage, options, Some((&mut model, cut)), seed);
        let kill_seed = random.bits();
        let (journal, found) = match opened {
            Ok(opened) => opened,
            Err(JournalError::Corrupt { .. }) => panic!("seed {seed}: damage out of nothing"),
            Err(_) => {
                let power = random.percent(50);
                cut = true;
                storage =
                    if power { storage.after_power_cut(kill_seed) } else { storage.after_kill(kill_seed) };
                states += 1;
                let opened = open(&storage, options, Some((&mut model, cut)), seed);
                opened.unwrap_or_else(|error| panic!("seed {seed}: cannot open: {error}"))
            }
        };
        let filler = random.percent(50).then(|| journal.filler());
        let failed = model
            .events
            .iter()
            .filter(|(_, event)| *event == Event::Ended(State::Failed))
            .map(|(id, _)| *id)
            .collect();
        let known = |message: &Replayed| Known {
            id: message.id,
            location: message.location,
            events: model
                .events
                .iter()
                .filter(|(id, event)| *id == message.id && *event != Event::Received)
                .map(|(_, event)| *event)
                .collect(),
        };
        let open: Vec<Known> = found.iter().map(|(message, _)| known(message)).collect();
        let before = open.iter().map(|known| (known.id, known.location, known.events.clone())).collect();
        let mut run = Run {
            seed,
            random: Random::new(random.bits()),
            journal,
            filler,
            model: std::mem::take(&mut model),
            open,
            failed,
            ending: Vec::new(),
            before,
            next,
        };
        if life == 0 && strike.is_some() {
            storage.plan(strike);
        } else if random.percent(90) {
            storage.plan(random_plan(&mut random, 60));
        }
        if random.percent(15) {
            storage.set_room(Some(random.below(40_000)));
        }
        let mut broke = false;
        for _ in 0..random.below(120) {
            match run.step() {
                Ok(()) => {}
                Err(JournalError::Full(_)) => {
                    run.taken_back();
                    if run.random.percent(50) {
                        storage.set_room(None);
                    }
                }
                Err(JournalError::Io(_) | JournalError::Poisoned) => {
                    assert!(run.journal.flush().is_err(), "seed {}: a dead handle came back", run.seed);
                    broke = true;
                    break;
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        (model, next) = (run.model, run.next);
        let power = random.percent(50);
        // Either may leave gaps in what was not flushed.
        cut = power || broke;
        let kill_seed = random.bits();
        storage = if power { storage.after_power_cut(kill_seed) } else { storage.after_kill(kill_seed) };
        states += 1;
        // What opening hands out is safe: a power cut right after changes nothing.
        if random.percent(30) && open_ok(&storage, options, &mut model, cut, seed) {
            storage = storage.after_power_cut(random.bits());
            cut = false;
            states += 1;
        }
    }
    states
}

fn open_ok(storage: &Faulty, options: Options, model: &mut Model, cut: bool, seed: u64) -> bool {
    match open(storage, options, Some((model, cut)), seed) {
        Ok(_) => true,
        Err(error) => panic!("seed {seed}: cannot open: {error}"),
    }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn replay_after_any_crash_equals_the_model() {
    let wanted = setting("JOURNAL_CRASH_STATES", 2_500);
    let mut seed = setting("JOURNAL_CRASH_SEED", 1);
    let mut states = 0;
    while states < wanted {
        states += run(seed, None);
        seed += 1;
    }
}

#[test]
fn every_operation_may_fail_once_or_for_good() {
    for after in 0..60 {
        for fault in [Fault::Error(EIO), Fault::Error(ENOSPC), Fault::Short, Fault::Stop] {
            for lasting in [false, true] {
                run(1000 + after % 7, Some(Plan { after, only: None, fault, lasting }));
            }
        }
    }
}
