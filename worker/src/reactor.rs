//! The event loop: it never blocks. One turn: wait for events, read what came, hand what is to be stored to the
//! committer in one piece, write the answers whose messages are flushed.
//!
//! It owns the sockets and applies what pure code decides: [`crate::session`] the conversation, [`crate::intake`] the
//! answer. The one thing it decides itself is who may read: nobody while the backlog or the disk is full, a peer not
//! while too many of its frames are unanswered, and at `buffer_limit` only the peer that is furthest.

use crate::awaiting::Awaiting;
use crate::batch_answers::{self, BatchAnswers, Gathering};
use crate::clock::{Clock, system_us};
use crate::committer::{Append, Intake as Stored, IntakeKind, Origin, Outcomes, Returned};
use crate::connections::{Connection, Connections, Denied, canonical};
use crate::counters::Counters;
use crate::dispatcher::{Dispatcher, Withdrawal};
use crate::failed::FailedFolder;
use crate::inbox::{Ending, Inbox, News};
use crate::intake::{Intake, Taken};
use crate::plan::Plan;
use crate::rate_limit::{RateLimit, left_out};
use crate::room::has_room;
use crate::session::{Session, State};
use crate::signals::{Signal, Signals};
use crate::transport::Transport;
use config::WorkerSettings;
use crossbeam_channel::{Sender, TrySendError};
use hl7::ack::Refusal;
use hl7::batch::{self, Batch};
use hl7::mllp::{Deviation, Event, Limits};
use journal::MessageId;
use link::{Answer, Order, Peer, Question, Report, WorkerEnd};
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const LISTENER: Token = Token(0);
const LINK: Token = Token(1);
/// The waker's token, for whoever makes it.
pub const WAKER: Token = Token(2);
const SIGNALS: Token = Token(3);
const FIRST_CONNECTION: usize = 16;

/// Bytes read from one connection before the others have their turn.
const TURN_BYTES_MAX: usize = 256 * 1024;
/// What is read at once.
const READ_BYTES: usize = 64 * 1024;
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
    /// The task slots, for the status.
    pub slots: link::Slots,
    /// `ack: processed`: messages found open at the start.
    pub in_progress: Vec<MessageId>,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// How long what runs may take now.
    pub timeout: Duration,
}

struct Turn<'r> {
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
    accept_pause_until_ms: u64,
    spare: Option<std::fs::File>,
    next_report_ms: u64,
    reports: u64,
    oldest_us: Option<i64>,
    deviations_log: RateLimit<Deviation>,
    denied_log: RateLimit<Denied>,
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
            scratch: vec![0; READ_BYTES],
            events: Vec::new(),
            draining: None,
            closed_for_room: false,
            backlog_full_since_ms: None,
            accept_pause_until_ms: 0,
            spare: std::fs::File::open("/dev/null").ok(),
            next_report_ms: 0,
            reports: 0,
            oldest_us: None,
            deviations_log: RateLimit::default(),
            denied_log: RateLimit::default(),
            r: &mut self,
        };
        turn.look_for_room();
        turn.run()
    }
}

impl Turn<'_> {
    fn run(&mut self) -> io::Result<Drained> {
        let mut events = Events::with_capacity(256);
        // Connections may have waited in the backlog since before this worker was there.
        let mut accept = true;
        loop {
            let now_ms = self.r.clock.now_ms();
            match self.r.poll.poll(&mut events, Some(self.patience(now_ms))) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
            let now_ms = self.r.clock.now_ms();
            for event in &events {
                match event.token() {
                    LISTENER => accept = true,
                    LINK => self.orders(now_ms),
                    WAKER => {}
                    SIGNALS => self.signals(now_ms),
                    Token(token) => self.connection_event(token - FIRST_CONNECTION, event),
                }
            }
            self.news(now_ms);
            if accept && now_ms >= self.accept_pause_until_ms {
                accept = self.accept(now_ms);
            }
            self.read_all(now_ms);
            self.time_passes(now_ms);
            self.hand_over();
            if now_ms >= self.next_report_ms {
                self.report(now_ms);
            }
            if let Some(drained) = self.drained(now_ms) {
                return Ok(drained);
            }
        }
    }

    /// How long the next wait may be.
    fn patience(&self, now_ms: u64) -> Duration {
        if self.readable.iter().any(|at| self.could_read(*at)) {
            return Duration::ZERO;
        }
        if !self.outgoing.is_empty() || self.draining.is_some() {
            return Duration::from_millis(5);
        }
        let deadlines = self
            .connections
            .iter()
            .filter_map(|(_, c)| [c.deadline_ms, c.lingers_until_ms].into_iter().flatten().min());
        let deadlines = deadlines.chain(self.awaiting.deadline_ms());
        let mut next = deadlines.min().unwrap_or(u64::MAX).min(self.next_report_ms);
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
        if self.backlog_full_since_ms.is_some() {
            return false;
        }
        let limit = self.r.settings.channel.bounds.buffer_limit_bytes;
        self.connections.held_bytes + self.unflushed_bytes < limit
            || (self.unflushed_bytes == 0 && self.connections.fullest().is_none_or(|fullest| fullest == at))
    }

    /// Accepts what waits; `true` when more may be waiting.
    fn accept(&mut self, now_ms: u64) -> bool {
        if self.closed_for_room {
            return true;
        }
        for _ in 0..ACCEPTS_MAX {
            let Some(accepted) = self.r.listener.as_ref().map(TcpListener::accept) else { return false };
            match accepted {
                Ok((stream, peer)) => self.connected(stream, canonical(peer), now_ms),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e) if out_of_descriptors(&e) => {
                    // The spare descriptor takes one connection off the queue, so that the loop does not turn on it.
                    self.spare = None;
                    let dropped = self.r.listener.as_ref().is_some_and(|l| l.accept().is_ok());
                    self.spare = std::fs::File::open("/dev/null").ok();
                    log::error!("no descriptor left for connections: {e}; dropped one: {dropped}");
                    self.accept_pause_until_ms = now_ms + ACCEPT_PAUSE_MS;
                    return true;
                }
                // The peer was gone before it was accepted.
                Err(e) => log::debug!("could not accept a connection: {e}"),
            }
        }
        true
    }

    fn connected(&mut self, stream: TcpStream, peer: std::net::SocketAddr, now_ms: u64) {
        let settings = Arc::clone(&self.r.settings);
        let channel = &settings.channel;
        match self.connections.admit(peer.ip(), &channel.allow, &channel.bounds, now_ms) {
            Ok(None) => {}
            Ok(Some(idle)) => self.close(idle),
            Err(denied) => {
                self.r.counters.refused_connections.fetch_add(1, Relaxed);
                if let Some(n) = self.denied_log.pass(denied, now_ms) {
                    log::warn!("{peer} was refused: {}{}", denied.text(), left_out(n));
                }
                return;
            }
        }
        let limits = Limits {
            stream_limit_bytes: channel.stream_limit_bytes,
            message_timeout_ms: channel.bounds.message_timeout.as_millis() as u64,
        };
        let registry = self.r.poll.registry();
        let inserted = self.connections.insert(|at, generation| -> io::Result<Connection> {
            let mut transport = Transport::new(stream)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            registry.register(transport.source(), Token(at + FIRST_CONNECTION), interest)?;
            Ok(Connection {
                transport,
                session: Session::new(limits, now_ms),
                generation,
                peer: peer.to_string().into(),
                address: peer.ip(),
                connected_us: system_us(),
                readable: true,
                ended: false,
                lingers_until_ms: None,
                deadline_ms: None,
                counted_bytes: 0,
            })
        });
        match inserted {
            Ok(at) => self.readable.push(at),
            Err(e) => log::debug!("{peer} was gone before it was accepted: {e}"),
        }
        self.r.counters.connections.store(self.connections.len() as u64, Relaxed);
    }

    fn connection_event(&mut self, at: usize, event: &mio::event::Event) {
        let Some(connection) = self.connections.get(at) else { return };
        if (event.is_readable() || event.is_read_closed() || event.is_error()) && !connection.readable {
            connection.readable = true;
            self.readable.push(at);
        }
        if event.is_writable() {
            self.write(at);
        }
    }

    /// One share of reading for everybody who may read.
    fn read_all(&mut self, now_ms: u64) {
        let mut later = Vec::new();
        for at in std::mem::take(&mut self.readable) {
            if self.connections.get(at).is_none_or(|c| !c.readable) {
                continue;
            }
            if self.could_read(at) {
                self.read(at, now_ms);
            }
            if self.connections.get(at).is_some_and(|c| c.readable) {
                later.push(at);
            }
        }
        self.readable.append(&mut later);
    }

    fn read(&mut self, at: usize, now_ms: u64) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut events = std::mem::take(&mut self.events);
        let idle_timeout_ms = self.idle_timeout_ms();
        let mut taken = 0;
        while taken < TURN_BYTES_MAX {
            let Some(connection) = self.connections.get(at) else { break };
            match connection.transport.read(&mut scratch) {
                Ok(0) => {
                    connection.readable = false;
                    connection.ended = true;
                    connection.session.peer_ended(now_ms, &mut events);
                }
                Ok(n) => {
                    taken += n;
                    if connection.lingers_until_ms.is_none() {
                        self.r.counters.bytes_in.fetch_add(n as u64, Relaxed);
                        connection.session.receive(&scratch[..n], now_ms, &mut events);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => connection.readable = false,
                Err(e) => {
                    connection.readable = false;
                    connection.ended = true;
                    log::debug!("{} broke off: {e}", connection.peer);
                    connection.session.peer_ended(now_ms, &mut events);
                    connection.session.close();
                }
            }
            self.apply(at, &mut events, now_ms);
            let Some(connection) = self.connections.get(at) else { break };
            connection.deadline_ms = connection.session.deadline_ms(idle_timeout_ms);
            self.connections.recount(at);
            if self.connections.get(at).is_none_or(|c| !c.readable) || !self.could_read(at) {
                break;
            }
        }
        self.scratch = scratch;
        self.events = events;
        self.write(at);
    }

    /// Does what the session found.
    fn apply(&mut self, at: usize, events: &mut Vec<Event>, now_ms: u64) {
        for event in events.drain(..) {
            match event {
                Event::Frame(body) => self.frame(at, body, now_ms),
                Event::Deviation { what, offset, byte } => self.deviation(at, what, offset, byte, now_ms),
                Event::Quarantine { what, bytes } => {
                    let id = self.r.intake.quarantine_id();
                    self.quarantine(id, what.code(), bytes);
                }
                Event::Oversize { head, back_in_step } => {
                    let answer = self.r.intake.too_large(&head);
                    if let Some(connection) = self.connections.get(at) {
                        connection.session.answer(&answer);
                        if !back_in_step {
                            connection.session.drain();
                        }
                    }
                }
                Event::Close(cause) => {
                    if let Some(connection) = self.connections.get(at) {
                        log::debug!("{} is closed: {cause:?}", connection.peer);
                        connection.session.drain();
                    }
                }
            }
        }
    }

    fn frame(&mut self, at: usize, body: Vec<u8>, now_ms: u64) {
        match batch::split_in(&body, self.r.settings.channel.encoding) {
            Batch::Single => self.message(at, body, now_ms),
            Batch::Several(messages) => {
                messages.iter().for_each(|message| self.message(at, message.to_vec(), now_ms));
            }
            Batch::Headed { file_header, batch_header, messages } => {
                let gathering = Gathering {
                    file_header: file_header.map(<[u8]>::to_vec),
                    batch_header: batch_header.map(<[u8]>::to_vec),
                    answers: Vec::with_capacity(messages.len()),
                    waiting: 0,
                };
                self.batch(at, &messages, gathering, now_ms);
            }
            Batch::TooMany { first } => {
                let answer = self.r.intake.too_large(first);
                if let Some(connection) = self.connections.get(at) {
                    connection.session.answer(&answer);
                }
            }
        }
    }

    /// One message of a frame with an answer of its own.
    fn message(&mut self, at: usize, body: Vec<u8>, now_ms: u64) {
        let bytes = body.len();
        let Some((taken, connection)) = self.take(at, body, false) else { return };
        match taken {
            Taken::Store { id, kind, answer, outcome } => {
                let number = connection.session.answer_later(&answer);
                let generation = connection.generation;
                self.store((at, generation, number), None, (id, kind, outcome), bytes, now_ms);
            }
            Taken::Answer { answer, quarantine } => {
                connection.session.answer(&answer);
                self.quarantine_some(quarantine);
            }
            Taken::Silence { quarantine } => {
                self.r.counters.inbound_acknowledgments.fetch_add(1, Relaxed);
                self.quarantine_some(Some(quarantine));
            }
        }
    }

    /// The messages of a batch, which share one answer.
    fn batch(&mut self, at: usize, messages: &[&[u8]], mut gathering: Gathering, now_ms: u64) {
        let Some(connection) = self.connections.get(at) else { return };
        let number = connection.session.answer_later(&[]);
        let key = (at, connection.generation, number);
        for message in messages {
            let Some((taken, _)) = self.take(at, message.to_vec(), true) else { return };
            match taken {
                Taken::Store { id, kind, answer, outcome } => {
                    let part = Some(gathering.answers.len() as u32);
                    gathering.answers.push(answer);
                    gathering.waiting += 1;
                    self.store(key, part, (id, kind, outcome), message.len(), now_ms);
                }
                Taken::Answer { answer, quarantine } => {
                    gathering.answers.push(answer);
                    self.quarantine_some(quarantine);
                }
                Taken::Silence { quarantine } => {
                    self.r.counters.inbound_acknowledgments.fetch_add(1, Relaxed);
                    self.quarantine_some(Some(quarantine));
                }
            }
        }
        if gathering.waiting > 0 {
            self.batches.add(key, gathering);
        } else {
            let answer = self.r.intake.batch_answer(&gathering);
            if let Some(connection) = self.connections.get(at) {
                connection.session.replace(number, &answer);
            }
        }
    }

    fn take(&mut self, at: usize, body: Vec<u8>, in_batch: bool) -> Option<(Taken, &mut Connection)> {
        let connection = self.connections.get(at)?;
        self.r.counters.received.fetch_add(1, Relaxed);
        connection.session.messages += 1;
        connection.session.last_message_us = Some(system_us());
        let awaiting = &self.awaiting;
        let (peer, address) = (&connection.peer, connection.address);
        let taken = self.r.intake.take(body, in_batch, peer, address, |id| awaiting.contains(id));
        Some((taken, connection))
    }

    fn store(
        &mut self,
        (session, generation, answer): batch_answers::Key,
        part: Option<u32>,
        (id, kind, outcome): (MessageId, IntakeKind, Option<Vec<u8>>),
        bytes: usize,
        now_ms: u64,
    ) {
        let complete_us = self.r.clock.now_us();
        let origin = Origin { session, generation, answer, part, id, complete_us, bytes };
        if let Some(start) = outcome {
            self.awaiting.add(id, origin, start, now_ms + self.answer_timeout_ms);
        }
        self.unflushed += 1;
        self.unflushed_bytes += bytes;
        self.batch.push(Stored { origin, kind });
    }

    fn quarantine_some(&mut self, quarantine: Option<(MessageId, &'static str, Vec<u8>)>) {
        if let Some((id, code, bytes)) = quarantine {
            self.quarantine(id, code, bytes);
        }
    }

    fn deviation(&mut self, at: usize, what: Deviation, offset: u64, byte: Option<u8>, now_ms: u64) {
        self.r.counters.framing(what);
        let Some(connection) = self.connections.get(at) else { return };
        if let Some(place) = Deviation::ALL.iter().position(|d| *d == what) {
            connection.session.deviations[place] = connection.session.deviations[place].saturating_add(1);
        }
        if let Some(n) = self.deviations_log.pass(what, now_ms) {
            let byte = byte.map(|b| format!(", byte {b:02X}")).unwrap_or_default();
            let code = what.code();
            log::warn!("{}: {code} at byte {offset} of the connection{byte}{}", connection.peer, left_out(n));
        }
    }

    fn quarantine(&mut self, id: MessageId, code: &'static str, bytes: Vec<u8>) {
        // Best effort: not at the cost of messages.
        if self.r.committer.try_send(Append::Quarantine(id, code, bytes)).is_err() {
            log::debug!("id={id} could not be quarantined: the committer is busy");
        }
    }

    /// Gives what this turn gathered to the committer.
    fn hand_over(&mut self) {
        if !self.batch.is_empty() {
            self.outgoing.push_back(Append::Intake(std::mem::take(&mut self.batch)));
        }
        while let Some(append) = self.outgoing.pop_front() {
            match self.r.committer.try_send(append) {
                Ok(()) => {}
                Err(TrySendError::Full(append)) => return self.outgoing.push_front(append),
                Err(TrySendError::Disconnected(_)) => unreachable!("the committer outlives the reactor"),
            }
        }
    }

    fn news(&mut self, now_ms: u64) {
        for news in self.r.inbox.take() {
            match news {
                News::Committed(origins) => {
                    let now_us = self.r.clock.now_us();
                    let wait = |o: &Origin| Duration::from_micros((now_us - o.complete_us).max(0) as u64);
                    self.r.counters.acknowledged(origins.iter().map(wait));
                    self.flushed(&origins);
                    let told = origins.iter().filter(|o| !self.awaiting.contains(o.id)).copied().collect();
                    self.tell_all(told, |_, _| None);
                }
                News::NotStored(origins) => {
                    self.r.intake.forget(&origins.iter().map(|o| o.id).collect());
                    self.flushed(&origins);
                    origins.iter().for_each(|o| drop(self.awaiting.end(o.id)));
                    self.withhold(&origins);
                    self.close_for_room("the journal could not be written");
                    self.next_report_ms = now_ms + REPORT_MS;
                }
                News::Ended(messages) => messages.into_iter().for_each(|(id, how)| self.ended(id, how)),
                News::Discarded(ids) => self.r.intake.discarded(ids),
                News::Answer(id, answer) => self.tell(&Report::Answer { id, answer }),
            }
        }
    }

    /// These are not on their way to the disk any more.
    fn flushed(&mut self, origins: &[Origin]) {
        self.unflushed -= origins.len();
        self.unflushed_bytes -= origins.iter().map(|o| o.bytes).sum::<usize>();
    }

    /// Answers these messages as prepared, or with what `other` gives, and writes what may be written then.
    fn tell_all(
        &mut self,
        origins: Vec<Origin>,
        mut other: impl FnMut(&mut Intake, &Origin) -> Option<Vec<u8>>,
    ) {
        let mut touched: Vec<usize> = Vec::new();
        for origin in &origins {
            let other = other(&mut self.r.intake, origin);
            let key = (origin.session, origin.generation, origin.answer);
            let answer = match origin.part {
                None => other,
                Some(part) => match self.batches.fill(key, part, other) {
                    Some(batch) => Some(self.r.intake.batch_answer(&batch)),
                    None => continue,
                },
            };
            let Some(connection) = self.connections.get_same(origin.session, origin.generation) else { continue };
            match answer {
                Some(answer) => connection.session.replace(origin.answer, &answer),
                None => connection.session.release(origin.answer),
            }
            if touched.last() != Some(&origin.session) {
                touched.push(origin.session);
            }
        }
        touched.into_iter().for_each(|at| self.write(at));
    }

    /// These messages could not be stored.
    fn withhold(&mut self, origins: &[Origin]) {
        for origin in origins {
            self.batches.forget((origin.session, origin.generation, origin.answer));
            if let Some(connection) = self.connections.get_same(origin.session, origin.generation) {
                connection.session.withhold(origin.answer);
            }
        }
        for origin in origins {
            self.write(origin.session);
        }
    }

    /// `ack: processed`: a message has ended, and everybody who brought it is told.
    fn ended(&mut self, id: MessageId, how: Ending) {
        let Some(waiters) = self.awaiting.end(id) else { return };
        let start = waiters.start;
        self.tell_all(waiters.origins, |intake, origin| match how {
            Ending::Done => None,
            Ending::Returned(refusal) => Some(intake.refuse_ended(&start, origin.part.is_some(), refusal, id)),
        });
    }

    /// `ack: processed`: these senders have waited for as long as they may; their messages are theirs again.
    fn give_back_late(&mut self, now_ms: u64) {
        for id in self.awaiting.due(now_ms) {
            match self.r.dispatcher.withdraw(id) {
                Withdrawal::Out { location, pending } => {
                    log::warn!(
                        "id={id} outcome=returned: not done within answer_timeout; its sender keeps it"
                    );
                    let refusal = &Refusal::INTERNAL;
                    let returned = vec![Returned { id, location, pending, refusal }];
                    let outcomes = Outcomes { returned, gone: vec![location], ..Outcomes::default() };
                    self.outgoing.push_back(Append::Outcomes(outcomes));
                }
                // Its last attempt tells how it ends; news of one that has ended is on its way.
                Withdrawal::Running | Withdrawal::Gone => {}
            }
        }
    }

    /// Writes what may be written; closes what has come to its end.
    fn write(&mut self, at: usize) {
        let now_ms = self.r.clock.now_ms();
        let idle_timeout_ms = self.idle_timeout_ms();
        let Some(connection) = self.connections.get(at) else { return };
        loop {
            let output = connection.session.output();
            if output.is_empty() {
                break;
            }
            let all = output.len();
            match connection.transport.write(output) {
                Ok(n) => {
                    connection.session.wrote(n, now_ms);
                    if n < all {
                        break;
                    }
                }
                Err(e) => {
                    log::debug!("{} broke off: {e}", connection.peer);
                    connection.ended = true;
                    connection.session.close();
                    break;
                }
            }
        }
        connection.deadline_ms = connection.session.deadline_ms(idle_timeout_ms);
        if connection.session.state() != State::Closed || connection.lingers_until_ms.is_some() {
            return;
        }
        if connection.ended {
            self.close(at);
        } else {
            connection.transport.end_writing();
            connection.lingers_until_ms = Some(now_ms + LINGER_MS);
            if !connection.readable {
                connection.readable = true;
                self.readable.push(at);
            }
        }
    }

    fn close(&mut self, at: usize) {
        if let Some(mut connection) = self.connections.remove(at) {
            self.batches.forget_session(at, connection.generation);
            // Dropping the socket takes it out of the event queue as well.
            let _ = self.r.poll.registry().deregister(connection.transport.source());
        }
        self.r.counters.connections.store(self.connections.len() as u64, Relaxed);
    }

    /// Timers of the sessions, lingering ends, the backlog's patience.
    fn time_passes(&mut self, now_ms: u64) {
        let idle_timeout_ms = self.idle_timeout_ms();
        let due = |c: &Connection| c.deadline_ms.is_some_and(|t| t <= now_ms);
        let over = |c: &Connection| c.lingers_until_ms.is_some_and(|t| t <= now_ms || c.ended);
        let late: Vec<usize> =
            self.connections.iter().filter(|(_, c)| due(c) || over(c)).map(|(at, _)| at).collect();
        for at in late {
            let mut events = std::mem::take(&mut self.events);
            let Some(connection) = self.connections.get(at) else { continue };
            if over(connection) {
                self.close(at);
            } else {
                connection.session.tick(now_ms, idle_timeout_ms, &mut events);
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

    fn idle_timeout_ms(&self) -> u64 {
        self.r.settings.channel.bounds.idle_timeout.as_millis() as u64
    }

    fn orders(&mut self, now_ms: u64) {
        loop {
            match self.r.link.read_ready() {
                Ok(orders) if orders.is_empty() => break,
                Ok(orders) => {
                    for order in orders {
                        self.order(order, now_ms);
                    }
                }
                Err(error) => {
                    if self.draining.is_none() {
                        log::warn!("the master is gone ({error}); draining");
                        self.drain(Duration::from_secs(30), now_ms);
                    }
                    return;
                }
            }
        }
        let _ = self.r.link.write_ready();
    }

    fn order(&mut self, order: Order, now_ms: u64) {
        match order {
            Order::Start(_) => log::warn!("a second start was ordered; ignored"),
            Order::Drain { timeout_ms } => self.drain(Duration::from_millis(timeout_ms), now_ms),
            Order::LogStatus => self.log_status(),
            Order::Ask { id, question: Question::Peers } => {
                let answer = Answer::Peers(self.peers());
                self.tell(&Report::Answer { id, answer });
            }
            Order::Ask { id, question } => {
                if self.r.desk.try_send((id, question)).is_err() {
                    let answer = Answer::Error("too many questions at once; ask again".to_owned());
                    self.tell(&Report::Answer { id, answer });
                }
            }
        }
    }

    fn signals(&mut self, now_ms: u64) {
        while let Some(signal) = self.r.signals.next() {
            match signal {
                Signal::Drain => self.drain(Duration::from_secs(30), now_ms),
                Signal::Status => self.log_status(),
            }
        }
    }

    /// Stops the intake: what is committed is answered, what runs is finished, the rest stays in the journal.
    fn drain(&mut self, timeout: Duration, now_ms: u64) {
        if self.draining.is_some() {
            return;
        }
        log::info!("draining, {} connections, {} waiting", self.connections.len(), self.r.dispatcher.open());
        self.draining = Some(Draining { until_ms: now_ms + timeout.as_millis() as u64, timeout });
        if let Some(mut listener) = self.r.listener.take() {
            let _ = self.r.poll.registry().deregister(&mut listener);
        }
        self.r.dispatcher.stop();
        for at in self.connections.places() {
            if let Some(connection) = self.connections.get(at) {
                connection.session.drain();
            }
            self.write(at);
        }
    }

    fn drained(&self, now_ms: u64) -> Option<Drained> {
        let draining = self.draining?;
        let idle = self.unflushed == 0 && self.batch.is_empty() && self.outgoing.is_empty();
        // Those that linger have been told everything.
        let told = self.connections.iter().all(|(_, c)| c.lingers_until_ms.is_some());
        // Answers that wait for a message nobody works on any more are not given: it is processed after the start, and
        // its sender, who sends it again, joins it there.
        let told = told || (self.awaiting.is_answer_owed() && self.r.dispatcher.running() == 0);
        let over = now_ms >= draining.until_ms;
        let left = Duration::from_millis(draining.until_ms.saturating_sub(now_ms)).min(draining.timeout);
        ((idle && told) || over).then_some(Drained { timeout: left })
    }

    fn look_for_room(&mut self) {
        if has_room(&self.r.journal_path) {
            if self.closed_for_room {
                log::info!("there is room on the disk again; reading goes on");
                self.closed_for_room = false;
                self.r.counters.closed_for_room.store(false, Relaxed);
            }
        } else {
            self.close_for_room("there is too little room on the disk");
        }
    }

    /// Peers are told nothing, so that they send again; they find the connection closed and the port silent.
    fn close_for_room(&mut self, why: &str) {
        if !self.closed_for_room {
            log::error!("{why} ({:?}); reading stops until there is room again", self.r.journal_path);
        }
        self.closed_for_room = true;
        self.r.counters.closed_for_room.store(true, Relaxed);
        for at in self.connections.places() {
            if let Some(connection) = self.connections.get(at) {
                connection.session.drain();
            }
            self.write(at);
        }
    }

    fn report(&mut self, now_ms: u64) {
        self.next_report_ms = now_ms + REPORT_MS;
        self.reports += 1;
        self.look_for_room();
        if self.reports.is_multiple_of(60) {
            self.r.intake.expire();
        }
        let status = self.status();
        self.tell(&Report::Status(Box::new(status)));
    }

    fn status(&mut self) -> link::Status {
        let open = self.r.dispatcher.open();
        if open <= OLDEST_OFTEN_MAX || self.reports.is_multiple_of(10) {
            self.oldest_us = self.r.dispatcher.oldest_us();
        }
        let age = |us: i64| (system_us() - us).max(0) as f64 / 1e6;
        link::Status {
            waiting: open as u64,
            oldest_waiting_seconds: if open == 0 { 0.0 } else { self.oldest_us.map_or(0.0, age) },
            failed_now: self.r.failed.count() as u64,
            slots_used: self.r.slots.held() as u64,
            ..self.r.counters.status(&self.r.plan)
        }
    }

    fn log_status(&mut self) {
        let s = self.status();
        log::info!(
            "connections={} received={} accepted={} refused={} duplicates={} delivered={} waiting={} oldest={:.0}s \
             failed={} journal={}",
            s.connections,
            s.received,
            s.accepted,
            s.refused.values().sum::<u64>(),
            s.duplicates,
            s.delivered,
            s.waiting,
            s.oldest_waiting_seconds,
            s.failed_now,
            s.journal_bytes,
        );
    }

    fn peers(&self) -> Vec<Peer> {
        let peer = |c: &Connection| {
            let deviations = Deviation::ALL.iter().zip(c.session.deviations).filter(|(_, n)| *n > 0);
            Peer {
                address: c.peer.to_string(),
                connected_us: c.connected_us,
                messages: c.session.messages,
                last_message_us: c.session.last_message_us,
                framing: deviations.map(|(d, n)| (d.code().to_owned(), u64::from(n))).collect(),
            }
        };
        self.connections.iter().take(PEERS_MAX).map(|(_, c)| peer(c)).collect()
    }

    fn tell(&mut self, report: &Report) {
        if let Err(error) = self.r.link.queue(report).and_then(|()| self.r.link.write_ready()) {
            log::debug!("could not report to the master: {error}");
        }
    }
}

fn out_of_descriptors(error: &io::Error) -> bool {
    let raw = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].map(rustix::io::Errno::raw_os_error);
    error.raw_os_error().is_some_and(|e| raw.contains(&e))
}
