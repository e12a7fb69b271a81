//! A story from its seed: lives of one channel, one after another, and what happens in them.

use super::life::{Rest, Site, make};
use super::senders::Senders;
use super::world::{Mood, Promise, World};
use crate::clock::{self, Clock};
use crate::plan::Plan;
use crate::reactor::Turn;
use crate::recovery::recover_from;
use config::{AckMode, WorkerSettings};
use journal::storage::faulty::{Fault, Faulty, Operation, Plan as DiskPlan, Random};
use journal::{Journal, MessageId, Options};
use link::{Death, SlotGuard, SlotTable, Slots};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// Rounds after which a story that does not end is wrong.
const ROUNDS_MAX: u64 = 20_000;
/// The owner of slots that stands for all other channels.
const OTHERS: u32 = 4_000_000_000;

/// What happened, in numbers; the trace tells two runs apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) messages: u64,
    pub(super) answers: u64,
    /// Answers to what had been answered before.
    pub(super) answered_again: u64,
    pub(super) events: u64,
    pub(super) steps: u64,
    /// Steps carried out more than once, each with a reason: an answer lost, a crash before the record.
    pub(super) steps_repeated: u64,
    pub(super) kills: u64,
    pub(super) power_cuts: u64,
    pub(super) exits: u64,
    pub(super) drains: u64,
    pub(super) failed_starts: u64,
    pub(super) disk_faults: u64,
    pub(super) images: u64,
    trace: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Counts) {
        self.messages += other.messages;
        self.answers += other.answers;
        self.answered_again += other.answered_again;
        self.events += other.events;
        self.steps += other.steps;
        self.steps_repeated += other.steps_repeated;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.exits += other.exits;
        self.drains += other.drains;
        self.failed_starts += other.failed_starts;
        self.disk_faults += other.disk_faults;
        self.images += other.images;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events, {} messages, {} answers ({} repeated), {} steps ({} repeated), {} kills, {} power cuts, \
             {} exits on an I/O error, {} drains, {} failed starts, {} lives with a disk fault, {} images",
            self.events,
            self.messages,
            self.answers,
            self.answered_again,
            self.steps,
            self.steps_repeated,
            self.kills,
            self.power_cuts,
            self.exits,
            self.drains,
            self.failed_starts,
            self.disk_faults,
            self.images,
        )
    }
}

/// The panic of a step poisons nothing.
fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    Killed,
    PowerCut,
    /// The committer met an I/O error.
    Exited,
    Drained,
    /// Everything is done.
    Over,
}

struct Story {
    seed: u64,
    random: Random,
    settings: Arc<WorkerSettings>,
    plan: Arc<Plan>,
    world: Arc<Mutex<World>>,
    senders: Senders,
    storage: Faulty,
    options: Options,
    now: Duration,
    owner: u32,
    predecessor: Option<Death>,
    promise: Promise,
    /// What other channels hold of the task slots.
    others: Slots,
    held: Vec<SlotGuard>,
    counts: Counts,
    aloud: bool,
}

/// Tells the story of a seed.
///
/// # Panics
/// Where something is not as it was promised.
pub(super) fn tell(seed: u64, channels: &[WorkerSettings], table: &SlotTable, aloud: bool) -> Counts {
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()),
        false => tempfile::tempdir(),
    };
    let folder = folder.unwrap();
    let mut random = Random::new(seed);
    let mut settings = channels[(seed % channels.len() as u64) as usize].clone();
    settings.state_path = folder.path().to_owned();
    let state = folder.path().join(&settings.channel.name);
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("key"), [seed as u8; 16]).unwrap();
    let plan = Arc::new(Plan::of(&settings));
    let processed = settings.channel.ack == AckMode::Processed;
    let segment_bytes = [8_192, 16_384, 65_536][random.below(3) as usize];
    table.set_limit(1 + random.below(4) as u16);
    let mut story = Story {
        seed,
        world: Arc::new(Mutex::new(World::new(seed, plan.len(), aloud))),
        senders: Senders::new(4 + random.below(16) as usize, processed),
        random,
        settings: Arc::new(settings),
        plan,
        storage: Faulty::new(),
        options: Options { segment_bytes, ..Options::default() },
        now: Duration::from_secs(1),
        owner: 0,
        predecessor: None,
        promise: Promise::Written,
        others: table.slots(OTHERS),
        held: Vec::new(),
        counts: Counts::default(),
        aloud,
    };
    clock::simulated::set(Some(story.now));
    let mut events_left = 60 + story.random.below(500);
    loop {
        let ending = story.life(table, &mut events_left);
        if ending == Some(Ending::Over) {
            break;
        }
    }
    story.last_look(table);
    clock::simulated::set(None);
    let world = lock(&story.world);
    story.counts.messages = story.senders.messages();
    story.counts.answers = story.senders.answers;
    story.counts.answered_again = story.senders.again;
    (story.counts.steps, story.counts.steps_repeated) = (world.carried_out, world.repeated);
    story.counts.clone()
}

impl Story {
    fn happened(&mut self, what: impl FnOnce() -> String) {
        if self.aloud {
            eprintln!("{:>10.3} {}", self.now.as_secs_f64(), what());
        }
    }

    fn trace(&mut self, number: u64) {
        self.counts.trace = (self.counts.trace ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        clock::simulated::set(Some(self.now));
    }

    /// Stops the story where something was wrong.
    fn check(&self) {
        if let Some(fault) = &lock(&self.world).fault {
            panic!("seed {}: {fault}", self.seed);
        }
    }

    /// One life, from its start to its end; `None` where it could not start.
    fn life(&mut self, table: &SlotTable, events_left: &mut u64) -> Option<Ending> {
        self.owner += 1;
        let storm = *events_left > 0;
        if storm && self.random.percent(12) {
            let plan = self.disk_fault(25);
            self.storage.plan(Some(plan));
        }
        let clock = Clock::start();
        let storage = self.storage.clone();
        let recovered = recover_from(
            |_| Ok(storage.clone()),
            self.options,
            &self.settings,
            &self.plan,
            self.predecessor,
            &clock,
        );
        let recovered = match recovered {
            Ok(recovered) => recovered,
            Err(fault) => {
                assert!(self.storage.struck() > 0, "seed {}: cannot start: {}", self.seed, fault.reason);
                self.happened(|| format!("it could not start: {}", fault.reason));
                self.counts.failed_starts += 1;
                self.counts.disk_faults += 1;
                // What was found was not handed out.
                let power = self.random.percent(50);
                self.found_again(power, true);
                return None;
            }
        };
        let mut found = recovered.entries.clone();
        found.sort_by_key(|entry| entry.id);
        self.happened(|| format!("a worker starts with {} messages", found.len()));
        {
            let mut world = lock(&self.world);
            let acknowledged = |id| self.senders.is_acknowledged(id);
            world.restarted(&found, self.promise, &recovered.failed, acknowledged);
        }
        self.check();
        let (world, settings, plan) =
            (Arc::clone(&self.world), Arc::clone(&self.settings), Arc::clone(&self.plan));
        let site = Site {
            settings: &settings,
            plan: &plan,
            world: &world,
            storage: &storage,
            table,
            owner: self.owner,
        };
        let (mut reactor, mut rest) = make(&site, recovered, clock, &mut self.random);
        let mut turn = reactor.begin().expect("the event queue works");
        if storm && self.random.percent(60) {
            let plan = self.disk_fault(60);
            self.storage.plan(Some(plan));
        }
        let ending = self.happenings(&site, &mut turn, &mut rest, events_left);
        self.happened(|| format!("it ends: {ending:?}"));
        if ending == Ending::Over {
            assert_eq!(rest.open_in_journal(), 0, "seed {}: open in the journal and nowhere else", self.seed);
            assert_eq!(table.used_by(self.owner), 0, "seed {}: slots are held by nobody", self.seed);
        }
        self.senders.all_broken();
        rest.die();
        drop(reactor);
        table.reclaim(self.owner);
        assert_eq!(table.used_by(self.owner), 0, "seed {}: a dead worker's slots are not free", self.seed);
        let struck = self.storage.struck() > 0;
        self.counts.disk_faults += u64::from(struck);
        self.counts.kills += u64::from(ending == Ending::Killed);
        self.counts.power_cuts += u64::from(ending == Ending::PowerCut);
        self.counts.exits += u64::from(ending == Ending::Exited);
        self.counts.drains += u64::from(ending == Ending::Drained);
        self.predecessor = match ending {
            Ending::Killed => Some(Death::Killed),
            Ending::PowerCut | Ending::Over => None,
            Ending::Exited => Some(Death::Exited(75)),
            Ending::Drained => Some(Death::Stopped),
        };
        // After an I/O error the machine may go down as well.
        let power = ending == Ending::PowerCut || (ending == Ending::Exited && self.random.percent(30));
        self.found_again(power, struck);
        Some(ending)
    }

    /// The disk as the next worker finds it.
    fn found_again(&mut self, power: bool, struck: bool) {
        let seed = self.random.bits();
        self.storage = if power { self.storage.after_power_cut(seed) } else { self.storage.after_kill(seed) };
        self.promise = if power || struck { Promise::Flushed } else { Promise::Written };
    }

    fn disk_fault(&mut self, within: u64) -> DiskPlan {
        let (fault, only) = match self.random.below(10) {
            0 => (Fault::Error(EIO), None),
            1 => (Fault::Error(EIO), Some(Operation::Sync)),
            2 | 3 => (Fault::Error(ENOSPC), None),
            4 => (Fault::Short, Some(Operation::Write)),
            5 => (Fault::Error(EIO), Some(Operation::Look)),
            _ => (Fault::Stop, None),
        };
        let lasting = fault != Fault::Short && self.random.percent(25);
        DiskPlan { after: self.random.below(within), only, fault, lasting }
    }

    /// What happens until this life ends.
    fn happenings(
        &mut self,
        site: &Site<'_>,
        turn: &mut Turn<'_>,
        rest: &mut Rest,
        events_left: &mut u64,
    ) -> Ending {
        while *events_left > 0 {
            *events_left -= 1;
            self.counts.events += 1;
            if let Some(ending) = self.event(site, turn, rest) {
                return ending;
            }
            self.check();
            if self.storage.is_dead() {
                return self.end_of_power();
            }
            if rest.has_exited {
                // The other threads are a moment behind.
                rest.turn(turn);
                self.receive(true);
                self.check();
                return Ending::Exited;
            }
        }
        self.calm_down(site, turn, rest)
    }

    fn end_of_power(&mut self) -> Ending {
        if self.random.percent(50) { Ending::PowerCut } else { Ending::Killed }
    }

    /// One thing happens.
    fn event(&mut self, site: &Site<'_>, turn: &mut Turn<'_>, rest: &mut Rest) -> Option<Ending> {
        let dice = self.random.below(1000);
        self.trace(dice);
        match dice {
            0..30 => {
                let now_ms = rest.delivery.clock.now_ms();
                self.senders.connect(&mut self.random, turn, now_ms);
            }
            30..180 => self.senders.offer(&mut self.random, true),
            180..300 => self.senders.send(&mut self.random, false),
            300..380 => self.receive(false),
            380..385 => self.senders.break_one(&mut self.random),
            385..560 => drop(rest.turn(turn)),
            560..700 => {
                let most = 1 + self.random.below(6) as usize;
                let idle = rest.is_quiet();
                if !idle || self.random.percent(10) {
                    rest.commit(site, most);
                }
            }
            700..730 => rest.fill(),
            730..900 => {
                let thread = self.random.below(rest.threads() as u64) as usize;
                let did = rest.deliver(site, thread);
                self.trace(u64::from(did));
            }
            900..950 => {
                let ms = [1, 20, 500, 1_000, 5_000, 30_000][self.random.below(6) as usize];
                let ms = 1 + self.random.below(ms);
                self.pass(Duration::from_millis(ms));
            }
            950..970 => {
                let place = self.random.below(self.plan.len() as u64) as usize;
                let mood = [Mood::Up, Mood::Up, Mood::Unsteady, Mood::Down][self.random.below(4) as usize];
                self.happened(|| format!("target {place} is {mood:?}"));
                site.world().moods[place] = mood;
            }
            970..976 => {
                let room = self.random.percent(50).then(|| self.random.below(6_000));
                self.happened(|| format!("room on the disk: {room:?}"));
                self.storage.set_room(room);
            }
            976..982 => rest.by_hand(site, &mut self.random),
            982..986 => match self.random.percent(50) {
                true => drop(self.held.pop()),
                false => self.held.extend(self.others.try_acquire()),
            },
            986..990 => {
                // In the middle of a job, if there is one.
                site.world().dies_after = Some(self.random.below(6));
                for thread in 0..rest.threads() {
                    while !site.world().died && rest.deliver(site, thread) {}
                }
                site.world().dies_after = None;
                let died = site.world().died;
                return died.then(|| self.end_of_power());
            }
            990..993 => return Some(Ending::Killed),
            993..996 => return Some(Ending::PowerCut),
            996..998 => return Some(self.drain(site, turn, rest)),
            _ => self.look_at_image(),
        }
        None
    }

    fn receive(&mut self, all: bool) {
        let acknowledged = {
            let mut world = lock(&self.world);
            self.senders.receive(&mut self.random, all, &mut world)
        };
        if !acknowledged.is_empty() {
            self.happened(|| format!("acknowledged: {acknowledged:?}"));
            if self.random.percent(4) {
                self.look_at_image();
            }
        }
        self.trace(acknowledged.len() as u64);
    }

    /// Were the power cut now: everything acknowledged is on the disk.
    fn look_at_image(&mut self) {
        if self.storage.is_dead() {
            return;
        }
        self.counts.images += 1;
        let image = self.storage.after_power_cut(self.random.bits());
        let mut open = Vec::new();
        let opened = Journal::open(image, self.options, &mut |message| open.push(message.id));
        let (_, summary) =
            opened.unwrap_or_else(|e| panic!("seed {}: an image does not open: {e}", self.seed));
        let is_there = |id: &MessageId| open.contains(id) || summary.recent.iter().any(|of| of.id == *id);
        let world = lock(&self.world);
        let lost =
            world.messages.keys().filter(|id| self.senders.is_acknowledged(**id)).find(|id| !is_there(id));
        assert_eq!(lost, None, "seed {}: acknowledged, and lost were the power cut now", self.seed);
    }

    /// The master replaces this worker by another.
    fn drain(&mut self, site: &Site<'_>, turn: &mut Turn<'_>, rest: &mut Rest) -> Ending {
        rest.order_drain();
        let mut is_drained = false;
        for _ in 0..200 {
            is_drained |= rest.turn(turn);
            self.receive(true);
            rest.commit(site, 3);
            for thread in 0..rest.threads() {
                rest.deliver(site, thread);
            }
            self.check();
            if rest.has_exited || self.storage.is_dead() {
                return if self.storage.is_dead() { self.end_of_power() } else { Ending::Exited };
            }
            if is_drained && rest.are_threads_idle() {
                // With room, all of it is on record before it stops.
                (0..3).for_each(|_| rest.commit(site, usize::MAX));
                rest.stop();
                while !rest.has_stopped && !rest.has_exited && !self.storage.is_dead() {
                    rest.commit(site, usize::MAX);
                }
                return if rest.has_stopped { Ending::Drained } else { self.end_of_power() };
            }
            self.pass(Duration::from_millis(200));
        }
        // The master's patience is over.
        Ending::Killed
    }

    /// The trouble is over: everything comes to its end.
    fn calm_down(&mut self, site: &Site<'_>, turn: &mut Turn<'_>, rest: &mut Rest) -> Ending {
        self.storage.plan(None);
        self.storage.set_room(None);
        self.held.clear();
        {
            let mut world = site.world();
            world.calm = true;
            world.moods.fill(Mood::Up);
        }
        for _ in 0..ROUNDS_MAX {
            self.counts.events += 1;
            self.senders.connect(&mut self.random, turn, rest.delivery.clock.now_ms());
            self.senders.offer(&mut self.random, false);
            self.senders.send(&mut self.random, true);
            rest.turn(turn);
            rest.commit(site, usize::MAX);
            rest.fill();
            rest.turn(turn);
            self.receive(true);
            let mut worked = false;
            for thread in 0..rest.threads() {
                worked |= rest.deliver(site, thread);
            }
            self.check();
            if rest.has_exited {
                return Ending::Exited;
            }
            if rest.is_all_done(&self.senders) {
                return Ending::Over;
            }
            self.pass(Duration::from_millis(if worked { 1 } else { 300 }));
        }
        panic!(
            "seed {}: it never ends; jobs: {}, all answered: {}, waiting: {:?}",
            self.seed,
            rest.jobs(),
            self.senders.are_done(),
            rest.delivery.dispatcher.waiting(3)
        );
    }

    /// At the very end: another start finds nothing, and every acknowledged message has its end.
    fn last_look(&mut self, table: &SlotTable) {
        assert_eq!(table.used_by(self.owner), 0, "seed {}: slots are held by nobody", self.seed);
        self.promise = Promise::Flushed;
        let (storage, clock) = (self.storage.clone(), Clock::start());
        let recovered = recover_from(|_| Ok(storage), self.options, &self.settings, &self.plan, None, &clock);
        let recovered =
            recovered.unwrap_or_else(|fault| panic!("seed {}: cannot start: {}", self.seed, fault.reason));
        {
            let mut world = lock(&self.world);
            let acknowledged = |id| self.senders.is_acknowledged(id);
            world.restarted(&recovered.entries, self.promise, &recovered.failed, acknowledged);
            if recovered.entries.is_empty() {
                self.senders.check_ends(&mut world);
            }
        }
        self.check();
    }
}
