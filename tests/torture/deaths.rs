//! Process death: `kill -9` of worker, master or both, at random under load and in the middle of what is delicate.

use crate::senders::{LONGEST, Senders};
use crate::support::dice::Dice;
use crate::support::{PATIENCE, process, wait, within};
use crate::verdict::drained;
use crate::ward::Ward;
use crate::{count, is_long};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Kills that one server and its folders live through.
const KILLS_A_WARD: usize = 50;
/// A worker that keeps dying is started later and later; a fresh master starts that over.
const DEATHS_A_MASTER: usize = 3;

/// In the middle of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Load,
    Reload,
    Rotation,
    Replay,
    Drain,
}

/// In turn. A rotation takes 64 MiB of messages.
const MOMENTS: [Moment; 12] = [
    Moment::Load,
    Moment::Reload,
    Moment::Replay,
    Moment::Drain,
    Moment::Rotation,
    Moment::Load,
    Moment::Replay,
    Moment::Drain,
    Moment::Load,
    Moment::Reload,
    Moment::Replay,
    Moment::Drain,
];

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Worker,
    Master,
    WorkerThenMaster,
    MasterThenWorker,
}

const VICTIMS: [Victim; 4] =
    [Victim::Worker, Victim::Master, Victim::WorkerThenMaster, Victim::MasterThenWorker];

/// What was done, for the table.
type Done = BTreeMap<(Moment, Victim), usize>;

#[test]
fn killed_in_the_middle_of_anything_it_loses_doubles_alters_and_reorders_nothing() {
    let kills = count("KILLS", 8, 1000);
    let mut dice = Dice::thrown();
    let begun = Instant::now();
    let (mut done, mut acknowledged, mut left) = (Done::new(), 0, kills);
    while left > 0 {
        let now = left.min(KILLS_A_WARD);
        acknowledged += one_ward(now, &mut dice, &mut done);
        left -= now;
        if is_long() {
            eprintln!("{} of {kills} kills, {acknowledged} acknowledged", kills - left);
        }
    }
    for ((moment, victim), times) in &done {
        eprintln!("{moment:?} {victim:?}: {times}");
    }
    eprintln!(
        "TORTURE deaths: {kills} kills, {acknowledged} acknowledged, none lost, {} s, seed {}",
        begun.elapsed().as_secs(),
        dice.seed
    );
}

/// Returns how many messages were acknowledged.
fn one_ward(kills: usize, dice: &mut Dice, done: &mut Done) -> u64 {
    let mut ward = Ward::start();
    let senders = Senders::start(&ward.ledger, &ward.streams());
    let mut deaths = 0;
    for n in 0..kills {
        senders.wait_for_more(20 + dice.below(80));
        let moment = MOMENTS[n % MOMENTS.len()];
        let mut victim = *dice.pick(&VICTIMS);
        deaths += 1;
        if deaths > DEATHS_A_MASTER || (moment == Moment::Drain && victim == Victim::Worker) {
            victim = Victim::WorkerThenMaster;
        }
        if victim != Victim::Worker {
            deaths = 0;
        }
        ward.strike(moment, victim, dice);
        *done.entry((moment, victim)).or_default() += 1;
    }
    senders.wait_for_more(50);
    senders.finish();
    drained(&ward.site, LONGEST);
    ward.checker().balances().number("acknowledged")
}

impl Ward {
    #[track_caller]
    fn strike(&mut self, moment: Moment, victim: Victim, dice: &mut Dice) {
        let channel = dice.below(2);
        match moment {
            Moment::Load => {
                pause(dice, 3_000);
                self.kill(victim, channel);
            }
            Moment::Reload => {
                self.change(1 + dice.below(8));
                let mut reload = self.site.spawn(self.site.command(&["reload"]));
                pause(dice, 120_000);
                self.kill(victim, channel);
                wait(&mut reload, PATIENCE).expect("the command ends whatever becomes of the server");
            }
            Moment::Rotation => {
                let senders = Senders::start(&self.ledger, &[self.big_stream()]);
                let journal = self.site.path("state/big/journal");
                let before = segments(&journal);
                within(PATIENCE, "a journal segment comes or goes", || {
                    (segments(&journal) != before).then_some(())
                });
                pause(dice, 2_000);
                self.kill(victim, 2);
                self.up(victim);
                senders.finish();
                return;
            }
            Moment::Replay => {
                // Twice: what is replayed was left by one that died before.
                self.kill(Victim::WorkerThenMaster, channel);
                self.server.launch_again(&self.site);
                let port = self.ports[channel];
                within(PATIENCE, "the next worker", || process::worker_of(port).map(|_| ()));
                pause(dice, 40_000);
                self.kill(victim, channel);
            }
            Moment::Drain => {
                self.server.signal(Signal::SIGTERM);
                pause(dice, 60_000);
                self.kill(victim, channel);
            }
        }
        self.up(victim);
    }

    /// Kills, where it lives.
    fn kill(&mut self, victim: Victim, channel: usize) {
        let worker = process::worker_of(self.ports[channel]);
        let kill_worker = || worker.map_or((), process::kill);
        match victim {
            Victim::Worker => kill_worker(),
            Victim::Master => self.server.kill(),
            Victim::WorkerThenMaster => {
                kill_worker();
                self.server.kill();
            }
            Victim::MasterThenWorker => {
                self.server.kill();
                kill_worker();
            }
        }
    }

    /// Everything runs again.
    #[track_caller]
    fn up(&mut self, victim: Victim) {
        if victim != Victim::Worker {
            self.server.start_again(&self.site);
        }
        self.server.wait_ready();
    }
}

/// A random time below `most_us`.
fn pause(dice: &mut Dice, most_us: usize) {
    std::thread::sleep(Duration::from_micros(dice.below(most_us) as u64));
}

/// The names of a journal's segments.
fn segments(journal: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(journal).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with(".seg") || name.ends_with(".tmp"));
    names.sort();
    names
}
