//! The event loop: it never blocks. One turn: wait for events, read what came, hand what is to be stored to the
//! committer in one piece, write the answers whose messages are flushed.
//!
//! It owns the sockets and applies what pure code decides: [`crate::session`] the conversation, [`crate::intake`] the
//! answer. The one thing it decides itself is who may read: nobody while the backlog or the disk is full, a peer not
//! while too many of its frames are unanswered, and at `buffer_limit` only the peer that is furthest.

mod answering;
mod master;
mod reading;
mod secured;

use crate::awaiting::Awaiting;
use crate::batch_answers::BatchAnswers;
use crate::clock::Clock;
use crate::committer::{Append, Intake as Stored};
use crate::connections::{Connections, Denied};
use crate::contacts::Contacts;
use crate::counters::Counters;
use crate::dispatcher::Dispatcher;
use crate::failed::FailedFolder;
use crate::inbox::Inbox;
use crate::intake::Intake;
use crate::large_buffer::Quiet;
use crate::plan::Plan;
use crate::precedence::Precedence;
use crate::rate_limit::RateLimit;
use crate::sandbox::Sandbox;
use crate::signals::Signals;
use crate::task_slots::TaskSlots;
use crate::tls::Acceptor;
use config::WorkerSettings;
use crossbeam_channel::Sender;
use hl7::mllp::{Deviation, Event};
use journal::MessageId;
use link::{Question, WorkerEnd};
use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const LISTENER: Token = Token(0);
const LINK: Token = Token(1);
/// The waker's token, for whoever makes it.
pub const WAKER: Token = Token(2);
const SIGNALS: Token = Token(3);
const FIRST_CONNECTION: usize = 16;

/// Bytes read from one connection before the others have their turn.
const TURN_BYTES_MAX: usize = 256 * 1024;
/// What is read at once: small, so that little comes on top where reading has to stop…
const READ_BYTES: usize = 64 * 1024;
/// …but inside a frame that is large already.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Connections accepted in one turn.
const ACCEPTS_MAX: usize = 64;
/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_PAUSE_MS: u64 = 100;
/// Time between two reports to the master.
const REPORT_MS: u64 = 1_000;
/// At the limit of the backlog a peer's connection is kept that long without being read.
const BACKLOG_PATIENCE_MS: u64 = 30_000;
/// How long a closed connection is read until the peer has seen its last answer.
const LINGER_MS: u64 = 2_000;
/// Entries of one `Peers` answer.
const PEERS_MAX: usize = link::PEERS_MAX;
/// Above that many open messages the oldest is looked for every tenth report only.
const OLDEST_OFTEN_MAX: usize = 50_000;

/// What the event loop works on.
pub struct Reactor {
    /// The settings.
    pub settings: Arc<WorkerSettings>,
    /// The plan, for its step names.
    pub plan: Arc<Plan>,
    /// The worker's time.
    pub clock: Clock,
    /// The event queue.
    pub poll: Poll,
    /// News from the other threads.
    pub inbox: Arc<Inbox>,
    /// The listening socket; `None` once draining.
    pub listener: Option<TcpListener>,
    /// What TLS connections are taken by; `None` where they are plain.
    pub tls: Option<Acceptor>,
    /// The master.
    pub link: WorkerEnd,
    /// Signals.
    pub signals: Signals,
    /// Admission, duplicates, ids.
    pub intake: Intake,
    /// Where messages are stored.
    pub committer: Sender<Append>,
    /// Questions that may wait for the disk.
    pub desk: Sender<(u64, Question)>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// What waits.
    pub dispatcher: Arc<Dispatcher>,
    /// What failed.
    pub failed: Arc<FailedFolder>,
    /// The journal's folder, whose disk must have room.
    pub journal_path: PathBuf,
    /// The task slots that delivery holds.
    pub slots: Arc<TaskSlots>,
    /// `ack: processed`: messages found open at the start.
    pub in_progress: Vec<MessageId>,
    /// What closes the worker in.
    pub sandbox: Arc<Sandbox>,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// How long what runs may take now.
    pub timeout: Duration,
}

pub(crate) struct Turn<'r> {
    r: &'r mut Reactor,
    connections: Connections,
    readable: Vec<usize>,
    batch: Vec<Stored>,
    /// What the committer had no place for yet.
    outgoing: VecDeque<Append>,
    /// `ack: processed`: whose answers wait for which message to end.
    awaiting: Awaiting,
    batches: BatchAnswers,
    answer_timeout_ms: u64,
    /// Messages and bytes handed over and not flushed yet.
    unflushed: usize,
    unflushed_bytes: usize,
    scratch: Vec<u8>,
    events: Vec<Event>,
    draining: Option<Draining>,
    closed_for_room: bool,
    backlog_full_since_ms: Option<u64>,
    precedence: Precedence,
    /// Reading stands back for now: files are far behind.
    stands_back: bool,
    accept_pause_until_ms: u64,
    spare: Option<std::fs::File>,
    next_report_ms: u64,
    reports: u64,
    oldest_us: Option<i64>,
    deviations_log: RateLimit<Deviation>,
    denied_log: RateLimit<Denied>,
    tls_log: RateLimit<&'static str>,
    behind_log: RateLimit<()>,
    contacts: Contacts,
    quiet: Quiet,
    /// The sandbox was found too narrow by the last report.
    is_outdated: bool,
}

#[derive(Clone, Copy)]
struct Draining {
    until_ms: u64,
    timeout: Duration,
}

impl Reactor {
    /// Runs until drained.
    ///
    /// # Errors
    /// The event queue itself fails.
    pub fn run(mut self) -> io::Result<Drained> {
        self.begin()?.run()
    }

    /// Ready for its first turn.
    pub(crate) fn begin(&mut self) -> io::Result<Turn<'_>> {
        let registry = self.poll.registry();
        if let Some(listener) = &mut self.listener {
            registry.register(listener, LISTENER, Interest::READABLE)?;
        }
        let link = self.link.fd().as_raw_fd();
        registry.register(&mut SourceFd(&link), LINK, Interest::READABLE | Interest::WRITABLE)?;
        let signals = self.signals.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&signals), SIGNALS, Interest::READABLE)?;
        let mut turn = Turn {
            connections: Connections::default(),
            readable: Vec::new(),
            batch: Vec::new(),
            outgoing: VecDeque::new(),
            awaiting: Awaiting::of(&self.in_progress),
            batches: BatchAnswers::default(),
            answer_timeout_ms: self.settings.channel.answer_timeout.as_millis() as u64,
            unflushed: 0,
            unflushed_bytes: 0,
            scratch: vec![0; READ_BYTES_MAX],
            events: Vec::new(),
            draining: None,
            closed_for_room: false,
            backlog_full_since_ms: None,
            precedence: Precedence::new(self.settings.channel.bounds.backlog_max),
            stands_back: false,
            accept_pause_until_ms: 0,
            spare: std::fs::File::open("/dev/null").ok(),
            next_report_ms: 0,
            reports: 0,
            oldest_us: None,
            deviations_log: RateLimit::default(),
            denied_log: RateLimit::default(),
            tls_log: RateLimit::default(),
            behind_log: RateLimit::default(),
            contacts: Contacts::default(),
            quiet: Quiet::default(),
            is_outdated: false,
            r: self,
        };
        turn.look_for_room();
        Ok(turn)
    }
}

impl Turn<'_> {
    fn run(&mut self) -> io::Result<Drained> {
        let mut events = Events::with_capacity(256);
        // Connections may have waited in the backlog since before this worker was there.
        let mut accept = true;
        loop {
            let now_ms = self.r.clock.now_ms();
            let patience = self.patience(now_ms);
            if let Some(drained) = self.turn(&mut events, patience, &mut accept)? {
                return Ok(drained);
            }
        }
    }

    /// One turn, which waits for events at most that long.
    pub(crate) fn turn(
        &mut self,
        events: &mut Events,
        patience: Duration,
        accept: &mut bool,
    ) -> io::Result<Option<Drained>> {
        match self.r.poll.poll(events, Some(patience)) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            _ => {}
        }
        let now_ms = self.r.clock.now_ms();
        for event in &*events {
            match event.token() {
                LISTENER => *accept = true,
                LINK => self.orders(now_ms),
                WAKER => {}
                SIGNALS => self.signals(now_ms),
                Token(token) => self.connection_event(token - FIRST_CONNECTION, event),
            }
        }
        self.news(now_ms);
        self.stand_back(now_ms);
        if *accept && now_ms >= self.accept_pause_until_ms {
            *accept = self.accept(now_ms);
        }
        self.read_all(now_ms);
        self.time_passes(now_ms);
        self.hand_over();
        if now_ms >= self.next_report_ms {
            self.report(now_ms);
        }
        let drained = self.drained(now_ms);
        if drained.is_some() {
            self.tell_contacts(now_ms, true);
        }
        Ok(drained)
    }

    /// How long the next wait may be.
    fn patience(&self, now_ms: u64) -> Duration {
        if self.readable.iter().any(|at| self.could_read(*at)) {
            return Duration::ZERO;
        }
        let waits_for_files = self.stands_back && !self.readable.is_empty();
        if !self.outgoing.is_empty() || self.draining.is_some() || waits_for_files {
            return Duration::from_millis(5);
        }
        let mut next = self.connections.next_due_ms().min(self.next_report_ms);
        next = next.min(self.awaiting.deadline_ms().unwrap_or(u64::MAX));
        if self.accept_pause_until_ms > now_ms {
            next = next.min(self.accept_pause_until_ms);
        }
        Duration::from_millis(next.saturating_sub(now_ms).clamp(1, REPORT_MS))
    }

    fn could_read(&self, at: usize) -> bool {
        let connection = self.connections.look(at);
        connection
            .is_some_and(|c| c.lingers_until_ms.is_some() || (c.session.may_read() && self.may_read(at)))
    }

    /// Whether the channel as a whole lets that connection be read now.
    fn may_read(&self, at: usize) -> bool {
        if self.draining.is_some() || self.closed_for_room || !self.outgoing.is_empty() {
            return false;
        }
        if self.backlog_full_since_ms.is_some() || self.stands_back {
            return false;
        }
        let channel = &self.r.settings.channel;
        let limit = channel.bounds.buffer_limit_bytes;
        let held = self.connections.held_bytes;
        if held + self.unflushed_bytes < limit {
            return true;
        }
        // At the limit one goes on, so that bytes get free: by one message beyond it. Past that nobody does but the one
        // whose frame has come furthest, whether it sends or not; `message_timeout` ends one that does not.
        let only_sending = held < limit + channel.stream_limit_bytes;
        self.unflushed_bytes == 0
            && self.connections.fullest(only_sending).is_none_or(|fullest| fullest == at)
    }

    /// Timers of the sessions, lingering ends, the backlog's patience.
    fn time_passes(&mut self, now_ms: u64) {
        let idle_timeout_ms = self.idle_timeout_ms();
        for at in self.connections.take_due(now_ms) {
            let mut events = std::mem::take(&mut self.events);
            let Some(connection) = self.connections.get(at) else { continue };
            if connection.has_lingered(now_ms) {
                self.close(at);
            } else if connection.is_handshake_overdue(now_ms) {
                self.handshake_overdue(at, now_ms);
            } else {
                connection.session.tick(now_ms, idle_timeout_ms, connection.readable, &mut events);
                self.apply(at, &mut events, now_ms);
                self.write(at);
                self.connections.recount(at);
            }
            self.events = events;
        }
        self.give_back_late(now_ms);
        let backlog_full = self.r.dispatcher.open() >= self.r.settings.channel.bounds.backlog_max;
        match (backlog_full, self.backlog_full_since_ms) {
            (true, None) => {
                log::warn!("max_backlog is reached; reading stops until messages are delivered");
                self.backlog_full_since_ms = Some(now_ms);
            }
            (true, Some(since)) if now_ms - since >= BACKLOG_PATIENCE_MS => {
                // A peer that has frames waiting here unread has waited long enough; it keeps its messages.
                for at in std::mem::take(&mut self.readable) {
                    self.close(at);
                }
            }
            (true, Some(_)) => {}
            (false, Some(_)) => self.backlog_full_since_ms = None,
            (false, None) => {}
        }
    }

    /// Whether reading waits for files to be written.
    fn stand_back(&mut self, now_ms: u64) {
        let behind = self.r.dispatcher.behind();
        self.stands_back = self.precedence.is_deliverys(behind, now_ms);
        if self.stands_back && self.behind_log.pass((), now_ms).is_some() {
            let messages = behind.messages;
            log::warn!(
                "messages come in faster than their files are written; {messages} wait, and reading keeps to that"
            );
        }
    }

    fn idle_timeout_ms(&self) -> u64 {
        self.r.settings.channel.bounds.idle_timeout.as_millis() as u64
    }
}
