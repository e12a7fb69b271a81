//! The master at work: one thread, one wait, and everything else without blocking.
//!
//! [`Server::turn`] polls the signals, the control socket and the links; what it finds becomes events for the
//! [`Supervisor`], whose actions are carried out in `act`. `workers` reads reports and deaths, `requests` answers the
//! control socket and reloads.

mod act;
mod requests;
mod workers;

use crate::audit::{Audit, Budget, Caller, Entry};
use crate::control::Control;
use crate::listen::Listeners;
use crate::lock::{LockFault, StateLock};
use crate::notify::Notify;
use crate::signals::{Signals, Told};
use crate::spawn::{self, is_single_threaded};
use crate::supervisor::{Action, Event, Supervisor, WorkerId};
use crate::wanted::Wanted;
use crate::{EXIT_CONFIGURATION, EXIT_DONE, EXIT_FAILED, EXIT_TEMPORARY, Options};
use link::{RunAs, SlotTable, Status};
use requests::Ask;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use workers::Worker;

/// For so long a start waits for the lock: after a master died, the one that follows it may come at once.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(100);
/// How often the slot table is swept and systemd told how many channels are ready.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Everything the master has.
struct Server {
    options: Options,
    wanted: Wanted,
    identity: RunAs,
    supervisor: Supervisor,
    listeners: Listeners,
    slots: SlotTable,
    workers: BTreeMap<WorkerId, Worker>,
    notes: BTreeMap<String, Note>,
    /// Channels that are not in the file but left a journal.
    left_behind: Vec<String>,
    asks: BTreeMap<u64, Ask>,
    last_ask: u64,
    signals: Signals,
    control: Control,
    audit: Audit,
    notify: Notify,
    /// Held for the whole life.
    lock: StateLock,
    /// The zero of the supervisor's time.
    epoch: Instant,
    started_us: i64,
    housekeeping_at: Duration,
    alive_at: Duration,
    leave: bool,
}

/// What is remembered of a channel beyond the life of one worker.
#[derive(Debug, Default)]
struct Note {
    problem: Option<String>,
    status: Status,
    audited: Budget,
}

/// Runs the master until it is told to stop; gives its exit status.
pub(crate) fn run(options: Options) -> u8 {
    match Server::start(options) {
        Ok(Some(mut server)) => server.serve(),
        Ok(None) => EXIT_DONE,
        Err(StartFault { status, lines }) => {
            for line in lines {
                log::error!("{line}");
            }
            status
        }
    }
}

/// Why the server does not start.
struct StartFault {
    status: u8,
    lines: Vec<String>,
}

impl StartFault {
    fn new(status: u8, line: String) -> Self {
        Self { status, lines: vec![line] }
    }
}

impl Server {
    /// `None` when it was told to stop before it had started.
    fn start(options: Options) -> Result<Option<Self>, StartFault> {
        let temporary = |what: &str, e: io::Error| {
            StartFault::new(EXIT_TEMPORARY, format!("could not {what}: {e}; the server does not start"))
        };
        if !is_single_threaded() {
            return Err(StartFault::new(EXIT_FAILED, "the master has more than one thread".to_owned()));
        }
        let signals = Signals::open().map_err(|e| temporary("take signals", e))?;
        raise_descriptor_limit();
        hide_memory();
        let wanted = Wanted::load(&options.config_path, options.check_tls)
            .map_err(|lines| StartFault { status: EXIT_CONFIGURATION, lines })?;
        wanted.follow_log(options.follow_log);
        let service = &wanted.config.service;
        let identity = spawn::identity(service.user.as_deref(), service.group.as_deref())
            .map_err(|e| StartFault::new(EXIT_CONFIGURATION, e))?;
        let Some(lock) = wait_for_lock(&service.state_path, &signals)? else { return Ok(None) };
        let control = Control::open(&service.runtime_path)
            .map_err(|e| StartFault::new(EXIT_TEMPORARY, format!("{e}; the server does not start")))?;
        let slots =
            SlotTable::create(service.max_tasks).map_err(|e| temporary("make the table of task slots", e))?;
        let started_us = now_us();
        if identity.is_nobody_else() && nix::unistd::geteuid().is_root() {
            log::warn!(
                "the workers run as root, like the server itself: set user and group, or start it as another user"
            );
        }
        let mut audit = Audit::below(&service.state_path);
        audit.write(&Entry::Started { version: env!("CARGO_PKG_VERSION"), config: &options.config_path });
        let mut server = Self {
            options,
            wanted,
            identity,
            supervisor: Supervisor::new(),
            listeners: Listeners::default(),
            slots,
            workers: BTreeMap::new(),
            notes: BTreeMap::new(),
            left_behind: Vec::new(),
            asks: BTreeMap::new(),
            last_ask: 0,
            signals,
            control,
            audit,
            notify: Notify::open(),
            lock,
            epoch: Instant::now(),
            started_us,
            housekeeping_at: Duration::ZERO,
            alive_at: Duration::ZERO,
            leave: false,
        };
        let changes = server.wanted.changes_from(None);
        log::info!(
            "hl7server {} started: {} channels from \"{}\"{}",
            env!("CARGO_PKG_VERSION"),
            changes.len(),
            server.options.config_path.display(),
            requests::version_of(&server.wanted)
        );
        for (channel, problems) in &server.wanted.unusable {
            problems.iter().for_each(|problem| log::error!("{channel}: not started: {problem}"));
        }
        server.put_in_force(changes);
        server.control.let_group_in();
        server.notify.ready();
        Ok(Some(server))
    }

    fn serve(&mut self) -> u8 {
        while !self.leave {
            self.turn();
        }
        if self.workers.is_empty() {
            log::info!("hl7server stopped");
            EXIT_DONE
        } else {
            log::error!("hl7server stopped; {} workers would not die", self.workers.len());
            EXIT_FAILED
        }
    }

    fn turn(&mut self) {
        let ready_links = self.wait();
        self.signals.take().into_iter().for_each(|told| self.told(told));
        // Reports are read before time passes: a worker is not silent because the master slept.
        for worker in ready_links {
            self.attend(worker);
        }
        let now = self.now();
        let pids: Vec<u32> = self.workers.values().map(Worker::pid).collect();
        for (connection, request) in self.control.turn(now, |pid| pids.contains(&pid)) {
            self.answer(connection, request);
        }
        for (pid, uid) in self.control.take_denied() {
            self.audit.write(&Entry::Denied { by: &Caller::of(pid, uid), why: "it is a worker" });
        }
        self.apply(Event::Tick);
        self.give_up_asks();
        self.keep_house();
    }

    /// Sleeps until something is to be done; gives the workers whose links have something.
    fn wait(&self) -> Vec<WorkerId> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.control.interest().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        let links_at = fds.len();
        let linked: Vec<_> =
            self.workers.iter().filter_map(|(id, worker)| Some((*id, worker.link.as_ref()?))).collect();
        fds.extend(linked.iter().map(|(_, link)| {
            let write = if link.wants_write() { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::from_borrowed_fd(link.fd(), PollFlags::IN | write)
        }));
        let now = self.now();
        let due = [
            Some(self.housekeeping_at),
            self.notify.watchdog_interval().map(|_| self.alive_at),
            self.supervisor.deadline(),
            self.control.deadline(),
            self.ask_deadline(),
        ];
        let due = due.into_iter().flatten().min().unwrap_or(now);
        let timeout =
            Timespec::try_from(due.saturating_sub(now)).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => log::error!("could not poll: {e}"),
        }
        let links = linked.iter().zip(&fds[links_at..]);
        links.filter(|(_, fd)| !fd.revents().is_empty()).map(|((id, _), _)| *id).collect()
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::Reload => self.apply(Event::Hangup),
            Told::Stop => self.stop(),
            Told::LogStatus => self.log_status(),
            Told::ChildEnded => self.reap(),
        }
    }

    fn stop(&mut self) {
        if self.supervisor.is_stopping() {
            log::warn!("told to stop again: ending at once");
        } else {
            log::info!("stopping: workers drain for at most {:?}", self.wanted.config.service.stop_timeout);
            self.notify.stopping();
            self.audit.write(&Entry::Stopping);
            // From here on a new connection is refused, not left waiting for nobody.
            self.listeners.keep_only(|_| false);
        }
        self.apply(Event::Stop);
    }

    /// Lets the supervisor decide, and carries it out, until nothing follows from it.
    fn apply(&mut self, event: Event) {
        let actions = self.supervisor.handle(event, self.now());
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            if let Some(event) = self.act(action) {
                actions.extend(self.supervisor.handle(event, self.now()));
            }
        }
    }

    fn keep_house(&mut self) {
        let now = self.now();
        if let Some(interval) = self.notify.watchdog_interval()
            && now >= self.alive_at
        {
            self.notify.alive();
            self.alive_at = now + interval;
        }
        if now < self.housekeeping_at {
            return;
        }
        self.housekeeping_at = now + HOUSEKEEPING;
        let living: Vec<WorkerId> = self.workers.keys().copied().collect();
        let swept = self.slots.sweep(&living);
        if swept > 0 {
            log::error!("{swept} task slots belonged to no worker: taken back");
        }
        if self.slots.limit() != self.wanted.config.service.max_tasks {
            log::error!("the limit in the table of task slots was changed by a worker: put right");
            self.slots.set_limit(self.wanted.config.service.max_tasks);
        }
        self.notify.status(requests::summary(&self.supervisor));
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }
}

/// Waits for the lock on the state folder; `None` when told to stop meanwhile.
fn wait_for_lock(state_path: &Path, signals: &Signals) -> Result<Option<StateLock>, StartFault> {
    let begun = Instant::now();
    loop {
        match StateLock::take(state_path) {
            Ok(lock) => return Ok(Some(lock)),
            Err(LockFault::Io(e)) => {
                let line =
                    format!("could not lock \"{}\": {e}; the server does not start", state_path.display());
                return Err(StartFault::new(EXIT_TEMPORARY, line));
            }
            Err(LockFault::Held) if begun.elapsed() >= LOCK_PATIENCE => {
                let path = state_path.display();
                let line = format!(
                    "\"{path}\" is in use by another hl7server; this one does not start. \
                     Stop the other, or give this one its own state_path"
                );
                return Err(StartFault::new(EXIT_TEMPORARY, line));
            }
            Err(LockFault::Held) => {}
        }
        let pause = Timespec::try_from(LOCK_RETRY).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&pause));
        if signals.take().contains(&Told::Stop) {
            return Ok(None);
        }
    }
}

/// Three descriptors a channel: the soft limit of 1,024 would end at 340 of them.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(e) = raised {
        log::warn!("could not raise the limit of open descriptors: {e}");
    }
}

/// The secrets of all channels are here: no other process of this user looks in, and there is no core of it.
fn hide_memory() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(e) =
        setrlimit(Resource::Core, none).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
    {
        log::warn!("could not keep other processes from looking into this one: {e}");
    }
}

/// The wall clock, for people only.
fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
