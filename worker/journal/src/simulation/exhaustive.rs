//! Every call of a journal to its storage made to fail, by itself and in pairs.
//!
//! A *workload* is fixed by its number: one life of a journal, from an empty folder on. It is run once for each of
//! its calls, for each way in which that call can fail, once and from then on; then it is found again as a
//! killed process and as two power cuts leave it. In a pair the second fault is counted from the first: it
//! strikes later in the same life, or the recovery after it.
//!
//! `JOURNAL_FAULT_WORKLOADS` sets how many workloads there are (2 otherwise), `JOURNAL_DOUBLE_FAULTS` how many
//! of the pairs are run, one in so many (211 otherwise). A failing run names its workload and its plans.

use super::model::Model;
use super::run::Run;
use super::{EIO, ENOSPC, begin, open, setting};
use crate::error::JournalError;
use crate::storage::faulty::{Fault, Faulty, Operation, Plan, Random};
use crate::{Journal, Options};

const STEPS: u64 = 90;
/// How far behind the first fault the second one strikes, at most: into the recovery after it.
const APART_MAX: u64 = 24;

/// What was seen in all runs together.
#[derive(Default)]
struct Seen {
    states: u64,
    single: u64,
    double: u64,
}

fn options(workload: u64) -> Options {
    let segment_bytes = [6_000, 8_192, 16_384][(workload % 3) as usize];
    Options { segment_bytes, piece_bytes: 32 * 1024, ..Options::default() }
}

/// Opens until that succeeds, as a worker that is started again and again does; a failed start may be struck, too.
fn start(storage: &mut Faulty, model: &mut Model, mut cut: bool, workload: u64, seen: &mut Seen) -> Run {
    for attempt in 0..8 {
        match open(storage, options(workload), Some((model, cut)), workload) {
            Ok((journal, found)) => return begin(journal, &found, std::mem::take(model), 0),
            Err(JournalError::Corrupt { file, offset, what }) => {
                panic!("damage out of nothing: {file:?} at byte {offset}: {what}")
            }
            Err(_) => {
                cut = true;
                *storage = found_again(storage, workload + attempt);
                seen.states += 1;
            }
        }
    }
    panic!("it cannot be opened")
}

/// What is there after a crash, odd seeds: of the power. What has not struck yet will.
fn found_again(storage: &Faulty, seed: u64) -> Faulty {
    let left = storage.plans_left();
    let found = if seed % 2 == 1 { storage.after_power_cut(seed) } else { storage.after_kill(seed) };
    found.plans(left);
    found
}

/// Works until it is done or the journal is dead.
fn work(run: &mut Run, steps: u64, may_live_on: bool) -> bool {
    for _ in 0..steps {
        match run.step() {
            Ok(()) => {}
            Err(JournalError::Full(_)) => run.taken_back(),
            Err(JournalError::Io(_) | JournalError::Poisoned) => {
                let dead = run.journal.flush().is_err();
                assert!(dead || may_live_on, "a dead handle came back");
                return true;
            }
            // A reader met the fault, and whoever asked it ends the worker.
            Err(JournalError::Corrupt { .. }) if may_live_on => return true,
            Err(error) => panic!("{error}"),
        }
    }
    false
}

/// A workload struck as planned.
fn strike(workload: u64, plans: &[Plan], seen: &mut Seen) {
    let looks = plans.iter().any(|plan| plan.only == Some(Operation::Look));
    let mut storage = Faulty::new();
    storage.plans(plans.iter().copied());
    let mut run = start(&mut storage, &mut Model::default(), false, workload, seen);
    run.random = Random::new(workload);
    run.filler = (workload % 2 == 1).then(|| run.journal.filler());
    let broke = work(&mut run, STEPS, looks);
    let mut struck = plans.len() - storage.plans_left().len();
    for image in 0..3 {
        let mut storage = found_again(&storage, 2 * workload + image);
        let cut = broke || image % 2 == 1;
        let mut next = start(&mut storage, &mut run.model.clone(), cut, workload, seen);
        next.random = Random::new(workload + 1_000);
        next.next = run.next;
        let broke = work(&mut next, 5, looks);
        struck = struck.max(plans.len() - storage.plans_left().len());
        // The cure: whatever has not struck by now never will.
        storage.plans([]);
        let mut storage = found_again(&storage, 2 * workload + image + 1);
        start(&mut storage, &mut next.model, broke || image % 2 == 0, workload, seen);
        seen.states += 2;
    }
    match struck {
        0 => {}
        1 => seen.single += 1,
        _ => seen.double += 1,
    }
}

/// The same without a fault: how many calls it makes.
fn calls(workload: u64) -> u64 {
    let storage = Faulty::new();
    let (journal, found): (Journal<Faulty>, _) = open(&storage, options(workload), None, workload).unwrap();
    let mut run = begin(journal, &found, Model::default(), 0);
    run.random = Random::new(workload);
    run.filler = (workload % 2 == 1).then(|| run.journal.filler());
    work(&mut run, STEPS, false);
    storage.operations()
}

const FAULTS: [Fault; 4] = [Fault::Error(EIO), Fault::Error(ENOSPC), Fault::Short, Fault::Stop];

/// Every way in which a call can fail; looking takes no room.
fn plans(after: u64, only: Option<Operation>) -> impl Iterator<Item = Plan> {
    let faults = FAULTS.into_iter().filter(move |fault| only.is_none() || *fault != Fault::Error(ENOSPC));
    faults.flat_map(move |fault| [false, true].map(move |lasting| Plan { after, only, fault, lasting }))
}

/// Says which plans were on when a check fails.
struct Blame<'a>(u64, &'a [Plan]);

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("workload {} with {:?}", self.0, self.1);
        }
    }
}

fn struck(workload: u64, plans: &[Plan], seen: &mut Seen) {
    let _blame = Blame(workload, plans);
    strike(workload, plans, seen);
}

#[test]
fn every_call_may_fail_once_or_for_good() {
    let mut seen = Seen::default();
    for workload in 1..=setting("JOURNAL_FAULT_WORKLOADS", 2) {
        for after in 0..calls(workload) {
            plans(after, None).for_each(|plan| struck(workload, &[plan], &mut seen));
        }
        let mut after = 0;
        // As long as there are calls to strike.
        while seen.single > 0 && after < 400 {
            let before = seen.single;
            plans(after, Some(Operation::Look)).for_each(|plan| struck(workload, &[plan], &mut seen));
            if seen.single == before {
                break;
            }
            after += 3;
        }
    }
    eprintln!("{} fault points, {} crash states", seen.single, seen.states);
    assert!(seen.single >= 1_000, "only {} calls were struck", seen.single);
}

#[test]
fn any_two_calls_may_fail() {
    let mut seen = Seen::default();
    let one_in = setting("JOURNAL_DOUBLE_FAULTS", 211).max(1);
    let mut number = 0;
    for workload in 1..=setting("JOURNAL_FAULT_WORKLOADS", 2) {
        for after in 0..calls(workload) {
            for apart in 0..APART_MAX {
                for first in plans(after, None).filter(|plan| !plan.lasting) {
                    for second in plans(apart, None) {
                        number += 1;
                        if number % one_in == 0 {
                            struck(workload, &[first, second], &mut seen);
                        }
                    }
                }
            }
        }
    }
    eprintln!("{} double faults, {} crash states", seen.double, seen.states);
    assert!(seen.double >= 300, "only {} pairs struck", seen.double);
}
