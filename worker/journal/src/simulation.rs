//! Crashes: random work over a storage that fails, dies, and is found again as a killed process or a power
//! cut leaves it. What replay hands out must be what was promised: everything flushed, nothing that had
//! ended, and of the rest whole messages or none.
//!
//! `JOURNAL_CRASH_STATES` sets how many crash states are visited (2,500 otherwise), `JOURNAL_CRASH_SEED` the
//! first seed. A failing run names its seed. `exhaustive` is the same with every single call made to fail.

mod exhaustive;
mod model;
mod run;

use model::{Event, Model, STEPS, values_of};
use run::{Known, Run};

use crate::error::JournalError;
use crate::recall::State;
use crate::storage::faulty::{Fault, Faulty, Operation, Plan, Random};
use crate::{Journal, Options, Replayed};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// Messages handed out, each with the bytes read back.
type Handed = Vec<(Replayed, Vec<u8>)>;

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

/// A life as it begins, with what was handed out.
fn begin(journal: Journal<Faulty>, found: &Handed, model: Model, next: u64) -> Run {
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
    Run {
        seed: 0,
        random: Random::new(0),
        journal,
        filler: None,
        model,
        open,
        failed,
        ending: Vec::new(),
        before,
        next,
    }
}

/// A run of several lives of one journal; returns how many crash states it went through.
fn run(seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let segment_bytes = [6_000, 8_192, 16_384, 65_536][random.below(4) as usize];
    let options = Options { segment_bytes, piece_bytes: 32 * 1024, ..Options::default() };
    let mut storage = Faulty::new();
    let mut model = Model::default();
    let mut states = 0;
    let mut cut = false;
    let mut next = 0;
    for _ in 0..6 {
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
        let mut run = Run {
            seed,
            random: Random::new(random.bits()),
            filler,
            ..begin(journal, &found, std::mem::take(&mut model), next)
        };
        if random.percent(90) {
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
    let first = setting("JOURNAL_CRASH_SEED", 1);
    let (mut states, mut seed) = (0, first);
    while states < wanted {
        states += run(seed);
        seed += 1;
    }
    eprintln!("{states} crash states, seeds {first} to {}", seed - 1);
}
