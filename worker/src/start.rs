//! A worker's life: it takes its orders over the link, opens its journal, starts its threads, runs the event loop, and
//! drains.

use crate::clock::{self, Clock};
use crate::committer::{Append, Committer};
use crate::counters::Counters;
use crate::delivery::Delivery;
use crate::desk::Desk;
use crate::dispatcher::Dispatcher;
use crate::find_index::{self, Indexer};
use crate::inbox::Inbox;
use crate::intake::{Intake, NotDone};
use crate::plan::Plan;
use crate::precedence;
use crate::quarantine::Quarantine;
use crate::reactor::{Drained, Reactor, WAKER};
use crate::recovery::{self, Recovered};
use crate::retention::Retention;
use crate::sandbox::{self, Sandbox};
use crate::signals::Signals;
use crate::task_slots::TaskSlots;
use crate::tls::Acceptor;
use config::{AckMode, LogFormat, WorkerSettings};
use crossbeam_channel::bounded;
use journal::MessageId;
use link::{Report, SlotTable, Start, WorkerEnd};
use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How the binary starts logging in a worker: channel, filter (the syntax of `RUST_LOG`), JSON, to the journal of
/// systemd.
pub type InitLog = fn(&str, &str, bool, bool);

/// Drained; nothing is wrong.
const EXIT_DONE: u8 = 0;
/// A fresh start may help.
const EXIT_TEMPORARY: u8 = 75;
/// Only another configuration helps.
const EXIT_CONFIGURATION: u8 = 78;
/// How long the master may take to say what to do.
const ORDERS_WITHIN: Duration = Duration::from_secs(30);
/// How long the master may take to hear why the worker cannot start.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);
/// Appends waiting for the committer, each what a whole turn of the event loop or a job has for it; more than that stop
/// the reading. The queue's memory is touched when it is made, at each start and by each worker.
const QUEUED_MAX: usize = 1024;
/// How long a drained worker waits for the index to be written.
const INDEX_WITHIN: Duration = Duration::from_secs(3);
/// Questions waiting at the desk.
const QUESTIONS_MAX: usize = 16;

/// Why a worker cannot start.
#[derive(Debug)]
pub(crate) struct StartFault {
    /// For the log and the master.
    pub(crate) reason: String,
    /// Exit status.
    pub(crate) status: u8,
}

impl StartFault {
    /// A fault that a fresh start may not meet again.
    pub(crate) fn temporary(reason: String) -> StartFault {
        StartFault { reason, status: EXIT_TEMPORARY }
    }
}

impl From<io::Error> for StartFault {
    fn from(error: io::Error) -> Self {
        StartFault::temporary(crate::files::plain(&error))
    }
}

/// Runs a worker whose link is its standard input; returns its exit status.
pub fn run(init_log: InitLog) -> u8 {
    // Asked for at once; where the master is gone already, the link says so.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    let not_sealed = sandbox::seal();
    let (mut link, start, descriptors) = match take_orders() {
        Ok(orders) => orders,
        Err(reason) => {
            init_log("", "", false, false);
            log::error!("a worker could not take its orders: {reason}");
            return EXIT_TEMPORARY;
        }
    };
    let settings: WorkerSettings = match serde_json::from_str(&start.settings) {
        Ok(settings) => settings,
        Err(error) => {
            init_log("", &start.log_level, false, start.journald);
            log::error!("the settings cannot be read: {error}");
            return EXIT_CONFIGURATION;
        }
    };
    let json = settings.log_format == LogFormat::Json;
    init_log(&settings.channel.name, &start.log_level, json, start.journald);
    log_panics();
    not_sealed.iter().for_each(|problem| log::warn!("{problem}"));
    if let Ok(name) = CString::new(format!("hl7:{}", settings.channel.name)) {
        let _ = rustix::thread::set_name(&name);
    }
    let drained = match Worker::prepare(Arc::new(settings), &start, descriptors) {
        Ok(worker) => {
            let sandbox = Arc::clone(&worker.delivery.sandbox);
            let ended = catch_unwind(AssertUnwindSafe(|| worker.run(link)));
            if matches!(ended, Ok(Ok(()))) && sandbox.watch.is_outdated() {
                return EXIT_TEMPORARY;
            }
            ended
        }
        Err(fault) => {
            log::error!("{}", fault.reason);
            let _ = link.send(&Report::CannotStart { reason: fault.reason }, LAST_WORDS_WITHIN);
            return fault.status;
        }
    };
    match drained {
        Ok(Ok(())) => EXIT_DONE,
        Ok(Err(error)) => {
            log::error!("the event loop failed: {error}; the worker starts afresh");
            EXIT_TEMPORARY
        }
        Err(_) => std::process::abort(),
    }
}

/// The channel's database; made before the sandbox closes, since it reads the CA bundle.
fn database(settings: &WorkerSettings, start: &Start) -> Option<db::Database> {
    let insert = settings.channel.db_insert.as_ref()?;
    let password = insert.password.as_ref().and_then(|name| start.secrets.get(name.as_str()));
    db::Database::new(&settings.channel, password.map(link::SecretValue::expose))
}

fn take_orders() -> Result<(WorkerEnd, Start, Vec<OwnedFd>), String> {
    let mut link = WorkerEnd::from_stdin().map_err(|e| e.to_string())?;
    let (start, descriptors) = link.recv_start(ORDERS_WITHIN).map_err(|e| e.to_string())?;
    Ok((link, start, descriptors))
}

/// Where a panic happened, and nothing of its text: that may quote a message.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        log::error!("a bug of ours: panic at {place} in thread {:?}", thread.name().unwrap_or("?"));
    }));
}

/// All that is there before the event loop runs.
struct Worker {
    reactor: ReactorParts,
    committer: Committer,
    desk: Desk,
    delivery: Arc<Delivery>,
    filler: journal::Filler,
    waiting: u64,
}

/// The event loop without its link.
struct ReactorParts {
    listener: TcpListener,
    tls: Option<Acceptor>,
    poll: mio::Poll,
    inbox: Arc<Inbox>,
    signals: Signals,
    intake: Intake,
    appends: crossbeam_channel::Sender<Append>,
    questions: crossbeam_channel::Sender<(u64, link::Question)>,
    counters: Arc<Counters>,
    recovered: recovery::Paths,
    in_progress: Vec<MessageId>,
    sandbox: Arc<Sandbox>,
}

impl Worker {
    fn prepare(
        settings: Arc<WorkerSettings>,
        start: &Start,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Worker, StartFault> {
        let [listener, table]: [OwnedFd; 2] = descriptors.try_into().map_err(|_| {
            StartFault::temporary("the master did not hand over listener and slots".to_owned())
        })?;
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        let tls = settings.channel.tls.as_ref().map(|tls| Acceptor::new(tls, &start.files)).transpose();
        let tls = tls.map_err(|reason| StartFault { reason, status: EXIT_CONFIGURATION })?;
        let slots = SlotTable::attach(table)?.slots(start.slot_owner);
        let signals = Signals::block()?;
        let clock = Clock::start();
        let plan = Arc::new(Plan::of(&settings));
        let opening = sandbox::open(&settings);
        let recovered = recovery::recover(&settings, &plan, start.predecessor, &clock)?;
        let Recovered {
            journal,
            entries,
            not_ours,
            recent,
            failed,
            returned,
            given_up,
            started,
            tag_key,
            paths,
        } = recovered;
        let quarantine = Quarantine::open(paths.quarantine.clone())?;
        // No thread but those that open folders has been started so far: each would stay outside.
        let threads = plan.pools().iter().map(|pool| pool.threads).sum();
        let sandbox = Arc::new(sandbox::enter(&settings, threads, opening));
        let poll = mio::Poll::new()?;
        let inbox = Arc::new(Inbox::new(mio::Waker::new(poll.registry(), WAKER)?));
        let counters = Arc::new(Counters::new(&plan));
        let processed = settings.channel.ack == AckMode::Processed;
        let dispatcher = Arc::new(Dispatcher::new(&plan, settings.channel.retry, !processed));
        let waiting = entries.len() as u64;
        let in_progress = if processed { not_ours } else { Vec::new() };
        let index = Indexer {
            channel: settings.channel.clone(),
            path: find_index::path(&settings.state_path, &settings.channel.name),
            open: Some(entries.iter().map(|entry| entry.id).collect()),
            failed: Arc::clone(&failed),
        }
        .start()?;
        dispatcher.add(entries);
        let (appends, queue) = bounded(QUEUED_MAX);
        let (questions, asked) = bounded(QUESTIONS_MAX);
        let reader = journal.reader();
        let random = getrandom::u64().map_err(|e| StartFault::temporary(e.to_string()))?;
        let (inbox2, failed2) = (Arc::clone(&inbox), Arc::clone(&failed));
        Ok(Worker {
            waiting,
            filler: journal.filler(),
            delivery: Arc::new(Delivery {
                settings: Arc::clone(&settings),
                secrets: start.secrets.clone(),
                database: database(&settings, start),
                plan: Arc::clone(&plan),
                dispatcher: Arc::clone(&dispatcher),
                reader: reader.clone(),
                committer: appends.clone(),
                failed: Arc::clone(&failed),
                index: index.clone(),
                counters: Arc::clone(&counters),
                started,
                slots: Arc::new(TaskSlots::new(slots, plan.pools().iter().map(|p| p.threads).sum())),
                clock,
                busy: AtomicUsize::new(0),
                sandbox: Arc::clone(&sandbox),
                #[cfg(test)]
                outside: None,
            }),
            desk: Desk {
                questions: asked,
                inbox: Arc::clone(&inbox),
                committer: appends.clone(),
                dispatcher: Arc::clone(&dispatcher),
                failed: Arc::clone(&failed),
                encoding: settings.channel.encoding,
                plan: Arc::clone(&plan),
                reader,
            },
            committer: Committer {
                journal,
                queue,
                inbox: inbox2,
                dispatcher,
                plan,
                failed: failed2,
                returned: Arc::clone(&returned),
                given_up: Arc::clone(&given_up),
                index,
                tells_endings: processed,
                quarantine,
                counters: Arc::clone(&counters),
                moved_at: clock::instant(),
                lost: HashSet::new(),
                exit: std::process::exit,
            },
            reactor: ReactorParts {
                listener,
                tls,
                poll,
                inbox,
                signals,
                intake: Intake::new(
                    settings,
                    Arc::clone(&counters),
                    NotDone { failed, returned, given_up },
                    recent,
                    tag_key,
                    random,
                ),
                appends,
                questions,
                counters,
                recovered: paths,
                in_progress,
                sandbox,
            },
        })
    }

    /// Runs until drained.
    fn run(self, mut link: WorkerEnd) -> io::Result<()> {
        let Worker { reactor: parts, committer, desk, delivery, filler, waiting } = self;
        let dispatcher = Arc::clone(&delivery.dispatcher);
        let committing = spawn_vital("committer", || committer.run())?;
        spawn_vital("filler", move || fill(&filler))?;
        spawn_vital("desk", || desk.run())?;
        let sandbox = Arc::clone(&delivery.sandbox);
        spawn_vital("sandbox", move || sandbox.watch.run())?;
        let pools = delivery.plan.pools().iter().enumerate();
        let threads = pools.flat_map(|(at, pool)| (0..pool.threads).map(move |_| (at, pool.name.clone())));
        for (thread, (pool, name)) in threads.enumerate() {
            let delivery = Arc::clone(&delivery);
            spawn_vital(&name, move || {
                // With `ack: processed` senders wait for delivery as well.
                if delivery.settings.channel.ack == AckMode::Received {
                    precedence::stand_back();
                }
                delivery.run(pool, thread);
            })?;
        }
        Retention {
            channel: delivery.settings.channel.clone(),
            state: delivery.settings.state_path.join(&delivery.settings.channel.name),
            failed: Arc::clone(&delivery.failed),
            committer: delivery.committer.clone(),
        }
        .start()?;
        link.queue(&Report::Ready { pid: std::process::id(), waiting }).map_err(io::Error::other)?;
        let appends = parts.appends.clone();
        let reactor = Reactor {
            settings: Arc::clone(&delivery.settings),
            plan: Arc::clone(&delivery.plan),
            clock: delivery.clock,
            poll: parts.poll,
            inbox: parts.inbox,
            listener: Some(mio::net::TcpListener::from_std(parts.listener)),
            tls: parts.tls,
            link,
            signals: parts.signals,
            intake: parts.intake,
            committer: parts.appends,
            desk: parts.questions,
            counters: parts.counters,
            dispatcher: Arc::clone(&dispatcher),
            failed: Arc::clone(&delivery.failed),
            journal_path: parts.recovered.journal,
            slots: Arc::clone(&delivery.slots),
            in_progress: parts.in_progress,
            sandbox: parts.sandbox,
        };
        let Drained { timeout } = reactor.run()?;
        if !delivery.wait_until_idle(Instant::now() + timeout) {
            log::warn!(
                "{} messages were still being delivered; they go on after the start",
                dispatcher.running()
            );
        }
        if appends.send(Append::Stop).is_ok() {
            let _ = committing.join();
        }
        delivery.index.stop(INDEX_WITHIN);
        log::info!("drained, {} waiting", dispatcher.open());
        Ok(())
    }
}

/// Works ahead of the journal's writer, until the journal is closed.
fn fill(filler: &journal::Filler) {
    loop {
        match filler.step() {
            Ok(true) => {}
            Ok(false) => return,
            // The journal is dead; the committer meets it at its next call and says what follows.
            Err(error) => return log::error!("the journal's filler ended: {error}"),
        }
    }
}

/// A thread without which the worker is none: its panic ends the process.
fn spawn_vital(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            std::process::abort();
        }
    })
}
