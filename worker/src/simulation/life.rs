//! One life of a worker: its threads' production code, put together as the start does it, and a scheduler in the place of
//! the threads. Each call is a piece of work that a thread does without asking the others; between two of them anything
//! may happen.

use super::senders::Senders;
use super::world::World;
use crate::clock::{self, Clock};
use crate::committer::{Append, Committer};
use crate::counters::Counters;
use crate::delivery::{Delivery, Worked};
use crate::dispatcher::{Dispatcher, Task};
use crate::files::Placed;
use crate::folders::Folders;
use crate::inbox::Inbox;
use crate::intake::{Intake, NotDone};
use crate::peers::Peers;
use crate::plan::Plan;
use crate::quarantine::Quarantine;
use crate::reactor::{Reactor, Turn, WAKER};
use crate::recovery::Recovered;
use crate::sandbox::Sandbox;
use crate::signals::Signals;
use crate::task_slots::TaskSlots;
use config::{AckMode, WorkerSettings};
use crossbeam_channel::{Receiver, bounded};
use journal::Filler;
use journal::storage::faulty::{Faulty, Random};
use link::{MasterEnd, Order, SlotTable, WorkerEnd};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Appends that fit between the reactor and the committer.
const QUEUED_MAX: usize = 4;

/// The committer has ended the process.
struct Exited;

/// A delivery thread and how far it is.
struct Thread {
    pool: usize,
    at_peer: bool,
    job: Job,
}

enum Job {
    None,
    /// Waits for a slot.
    Offered(Vec<Task>),
    Begun(Vec<Task>),
    CarriedOut(Vec<Worked>, Placed),
}

/// What all lives of a channel have in common.
pub(super) struct Site<'s> {
    pub(super) settings: &'s Arc<WorkerSettings>,
    pub(super) plan: &'s Arc<Plan>,
    pub(super) world: &'s Arc<Mutex<World>>,
    pub(super) storage: &'s Faulty,
    pub(super) table: &'s SlotTable,
    pub(super) owner: u32,
}

impl Site<'_> {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of it but the event loop.
pub(super) struct Rest {
    committer: Committer<Faulty>,
    pub(super) delivery: Delivery<Faulty>,
    appends: Receiver<Append>,
    /// Taken from the channel, and not by the committer yet.
    queue: VecDeque<Append>,
    filler: Option<Filler<Faulty>>,
    threads: Vec<Thread>,
    master: MasterEnd,
    pub(super) has_exited: bool,
    pub(super) has_stopped: bool,
}

/// Puts a worker together.
pub(super) fn make(
    site: &Site<'_>,
    recovered: Recovered<Faulty>,
    clock: Clock,
    random: &mut Random,
) -> (Reactor, Rest) {
    let Recovered { journal, entries, not_ours, recent, failed, returned, given_up, started, tag_key, paths } =
        recovered;
    let (settings, plan) = (Arc::clone(site.settings), Arc::clone(site.plan));
    let poll = mio::Poll::new().expect("an event queue is to be had");
    let waker = mio::Waker::new(poll.registry(), WAKER).expect("a waker is to be had");
    let inbox = Arc::new(Inbox::new(waker));
    let counters = Arc::new(Counters::new(&plan));
    let processed = settings.channel.ack == AckMode::Processed;
    let dispatcher = Arc::new(Dispatcher::new(&plan, settings.channel.retry, !processed));
    dispatcher.add(entries);
    let (appends, queue) = bounded(QUEUED_MAX);
    let (questions, _) = bounded(1);
    let threads = plan.pools().iter().enumerate().flat_map(|(at, pool)| {
        let at_peer = !pool.steps.without(plan.pools().local()).is_empty();
        (0..pool.threads).map(move |_| Thread { pool: at, at_peer, job: Job::None })
    });
    let threads: Vec<Thread> = threads.collect();
    let slots = Arc::new(TaskSlots::new(site.table.slots(site.owner), threads.len()));
    let sandbox = Arc::new(Sandbox::none());
    let (master, worker) = MasterEnd::pair().expect("a link is to be had");
    let outside = {
        let (world, plan) = (Arc::clone(site.world), Arc::clone(&plan));
        let dispatcher = Arc::clone(&dispatcher);
        Box::new(move |place: usize, context: &crate::step::Context<'_>| {
            let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
            world.step(place, context, &plan, &dispatcher)
        })
    };
    let rest = Rest {
        filler: random.percent(70).then(|| journal.filler()),
        delivery: Delivery {
            settings: Arc::clone(&settings),
            secrets: BTreeMap::new(),
            database: None,
            plan: Arc::clone(&plan),
            dispatcher: Arc::clone(&dispatcher),
            reader: journal.reader(),
            committer: appends.clone(),
            failed: Arc::clone(&failed),
            index: Default::default(),
            counters: Arc::clone(&counters),
            started,
            slots: Arc::clone(&slots),
            clock,
            busy: Default::default(),
            sandbox: Arc::clone(&sandbox),
            outside: Some(outside),
        },
        committer: Committer {
            journal,
            queue: queue.clone(),
            inbox: Arc::clone(&inbox),
            dispatcher: Arc::clone(&dispatcher),
            plan: Arc::clone(&plan),
            failed: Arc::clone(&failed),
            returned: Arc::clone(&returned),
            given_up: Arc::clone(&given_up),
            tells_endings: processed,
            index: Default::default(),
            quarantine: Quarantine::open(paths.quarantine).expect("the folder is there"),
            counters: Arc::clone(&counters),
            moved_at: clock::instant(),
            lost: HashSet::new(),
            exit: |_| resume_unwind(Box::new(Exited)),
        },
        appends: queue,
        queue: VecDeque::new(),
        threads,
        master,
        has_exited: false,
        has_stopped: false,
    };
    let reactor = Reactor {
        settings: Arc::clone(&settings),
        plan: Arc::clone(&plan),
        clock,
        poll,
        inbox,
        listener: None,
        tls: None,
        link: WorkerEnd::from_socket(worker),
        signals: Signals::block().expect("a signal descriptor is to be had"),
        intake: Intake::new(
            settings,
            Arc::clone(&counters),
            NotDone { failed: Arc::clone(&failed), returned, given_up },
            recent,
            tag_key,
            random.bits(),
        ),
        committer: appends,
        desk: questions,
        counters,
        dispatcher,
        failed,
        journal_path: paths.failed,
        slots,
        in_progress: if processed { not_ours } else { Vec::new() },
        sandbox,
    };
    (reactor, rest)
}

impl Rest {
    /// The event loop turns once; true when it is drained.
    pub(super) fn turn(&mut self, turn: &mut Turn<'_>) -> bool {
        let mut events = mio::Events::with_capacity(64);
        let drained = turn.turn(&mut events, Duration::ZERO, &mut false).expect("the event queue works");
        // What it reports, as the master reads it.
        let _ = self.master.read_ready();
        drained.is_some()
    }

    pub(super) fn order_drain(&mut self) {
        let order = Order::Drain { timeout_ms: 30_000 };
        self.master.queue(&order).and_then(|()| self.master.write_ready()).expect("the link is there");
    }

    fn gather(&mut self) {
        self.queue.extend(self.appends.try_iter());
    }

    /// By hand: messages of the failed folder are tried again, or given up.
    pub(super) fn by_hand(&mut self, site: &Site<'_>, random: &mut Random) {
        let failed = self.delivery.failed.list();
        if failed.is_empty() || self.has_stopped {
            return;
        }
        let id = failed[random.below(failed.len() as u64) as usize];
        let retry = random.percent(70);
        let (told, hear) = bounded(1);
        let item = if retry { Append::Retry(vec![id], told) } else { Append::Discard(vec![id], told) };
        // At the end of what waits, in a batch of its own: whether it was done is only said of all of it. On a full disk
        // outcomes come back to the queue again and again.
        for _ in 0..QUEUED_MAX {
            if !self.is_quiet() && !self.has_exited && !self.is_dead(site) {
                self.commit(site, usize::MAX);
            }
        }
        if !self.is_quiet() || self.has_exited || self.is_dead(site) {
            return;
        }
        self.queue.push_back(item);
        self.commit(site, usize::MAX);
        if hear.try_recv().is_ok_and(|changed| changed.count == 1) {
            site.world().changed(id, retry);
        }
    }

    fn is_dead(&self, site: &Site<'_>) -> bool {
        site.storage.is_dead()
    }

    /// Nothing waits for the committer.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.gather();
        self.queue.is_empty()
    }

    /// The committer's thread stops when it comes to that.
    pub(super) fn stop(&mut self) {
        self.gather();
        self.queue.push_back(Append::Stop);
    }

    /// One batch of at most so many items.
    pub(super) fn commit(&mut self, site: &Site<'_>, most: usize) {
        self.gather();
        let failed = Arc::clone(&self.delivery.failed);
        let items: Vec<Append> = self.queue.drain(..self.queue.len().min(most)).collect();
        let noted = site.world().note(&items, site.plan, &failed);
        let counters = Arc::clone(&self.delivery.counters);
        let accepted = || counters.accepted.load(std::sync::atomic::Ordering::Relaxed);
        let before = accepted();
        let idle = items.is_empty();
        let done = catch_unwind(AssertUnwindSafe(|| {
            if idle {
                self.committer.settle();
                return None;
            }
            Some(self.committer.turn(items))
        }));
        match done {
            Ok(None) => {}
            Ok(Some(turned)) => {
                self.has_stopped |= turned.stops;
                if turned.is_stored {
                    site.world().recorded(noted);
                }
                turned.kept.into_iter().rev().for_each(|item| self.queue.push_front(item));
            }
            Err(payload) if payload.is::<Exited>() => {
                self.has_exited = true;
                // What failed came after the flush, and senders may hear of it.
                if noted.brings_messages() && accepted() > before {
                    site.world().recorded(noted);
                }
            }
            Err(payload) => resume_unwind(payload),
        }
    }

    /// The journal's filler does a piece of its work.
    pub(super) fn fill(&self) {
        if let Some(filler) = &self.filler {
            // Where the journal is dead the committer meets it.
            let _ = filler.try_step();
        }
    }

    pub(super) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// A delivery thread goes one step further; false when there was nothing to do.
    pub(super) fn deliver(&mut self, site: &Site<'_>, thread: usize) -> bool {
        self.gather();
        let Thread { pool, at_peer, job } = &mut self.threads[thread];
        let (pool, at_peer) = (*pool, *at_peer);
        let delivery = &self.delivery;
        let next = match std::mem::replace(job, Job::None) {
            Job::None => match delivery.dispatcher.try_next(pool, delivery.clock.now_us()) {
                Some(tasks) => Job::Offered(tasks),
                None => return false,
            },
            Job::Offered(tasks) if delivery.slots.take(thread, at_peer, Duration::ZERO) => {
                delivery.begin(thread, &tasks);
                Job::Begun(tasks)
            }
            Job::Offered(tasks) if delivery.dispatcher.is_stopping() => {
                delivery.refuse(&tasks);
                Job::None
            }
            Job::Offered(tasks) => {
                self.threads[thread].job = Job::Offered(tasks);
                return false;
            }
            Job::Begun(tasks) => {
                let mut folders = Folders::default();
                let mut peers = Peers::new(&delivery.settings, &delivery.secrets, None);
                let (worked, placed) = delivery.carry_out(tasks, &mut folders, &mut peers);
                Job::CarriedOut(worked, placed)
            }
            Job::CarriedOut(worked, placed) => {
                if site.world().died {
                    // It never comes to that.
                    self.threads[thread].job = Job::CarriedOut(worked, placed);
                    return false;
                }
                delivery.conclude(worked, &placed);
                delivery.end(thread);
                Job::None
            }
        };
        self.threads[thread].job = next;
        self.check_jobs(site);
        true
    }

    /// No step of a message is in two hands, and no more slots are held than jobs have begun.
    fn check_jobs(&self, site: &Site<'_>) {
        let mut in_hand = HashSet::new();
        let mut begun = 0;
        for Thread { job, .. } in &self.threads {
            begun += usize::from(matches!(job, Job::Begun(_) | Job::CarriedOut(..)));
            let (Job::Offered(tasks) | Job::Begun(tasks)) = job else { continue };
            for (id, place) in tasks.iter().flat_map(|task| task.steps.places().map(move |p| (task.id, p))) {
                if !in_hand.insert((id, place)) {
                    site.world().wrong(format!("step {place} of {id} is in two hands"));
                }
            }
        }
        // By its own count; the table is looked through where a life ends.
        let held = self.delivery.slots.held();
        if held > begun {
            site.world().wrong(format!("{held} slots are held by {begun} jobs"));
        }
        if held > usize::from(site.table.limit()) {
            site.world().wrong(format!("{held} slots are held of {}", site.table.limit()));
        }
    }

    /// What the delivery threads do, for a story that does not end.
    pub(super) fn jobs(&self) -> String {
        let job = |thread: &Thread| match &thread.job {
            Job::None => "none".to_owned(),
            Job::Offered(tasks) => format!("{tasks:?} without a slot"),
            Job::Begun(tasks) => format!("{tasks:?}"),
            Job::CarriedOut(..) => "carried out".to_owned(),
        };
        let jobs: Vec<String> = self.threads.iter().map(job).collect();
        jobs.join(", ")
    }

    pub(super) fn are_threads_idle(&self) -> bool {
        self.threads.iter().all(|thread| matches!(thread.job, Job::None))
    }

    /// Nothing waits, anywhere.
    pub(super) fn is_all_done(&mut self, senders: &Senders) -> bool {
        self.is_quiet()
            && self.are_threads_idle()
            && self.delivery.dispatcher.open() == 0
            && senders.are_done()
    }

    pub(super) fn open_in_journal(&self) -> u64 {
        self.committer.journal.messages_open()
    }

    /// As a process dies: what it holds of the shared table stays held.
    pub(super) fn die(self) {
        std::mem::forget(Arc::clone(&self.delivery.slots));
    }
}
