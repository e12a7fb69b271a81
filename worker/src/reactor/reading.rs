//! The reactor's reading side: connections come, bytes come, messages are handed to the committer.

use super::secured::{HANDSHAKE_MS_MAX, HANDSHAKES_MAX};
use super::{
    ACCEPT_PAUSE_MS, ACCEPTS_MAX, FIRST_CONNECTION, READ_BYTES, READ_BYTES_MAX, TURN_BYTES_MAX, Turn,
};
use crate::batch_answers::{self, Gathering};
use crate::clock::system_us;
use crate::committer::{Append, Intake as Stored, IntakeKind, Origin};
use crate::connections::{Connection, canonical};
use crate::contacts::Kind;
use crate::intake::Taken;
use crate::large_buffer;
use crate::rate_limit::left_out;
use crate::session::Session;
use crate::transport::{Transport, tls_fault};
use hl7::batch::{self, Batch};
use hl7::mllp::{Deviation, Event, Limits};
use journal::MessageId;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Interest, Token};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// What is kept of a batch's frame: enough to tell UTF-16 and UTF-32 by; a whole number of their units.
const START_BYTES: usize = 64;

impl Turn<'_> {
    /// Accepts what waits; `true` when more may be waiting.
    pub(super) fn accept(&mut self, now_ms: u64) -> bool {
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

    pub(crate) fn connected(&mut self, stream: TcpStream, peer: std::net::SocketAddr, now_ms: u64) {
        let settings = Arc::clone(&self.r.settings);
        let channel = &settings.channel;
        match self.connections.admit(peer.ip(), &channel.allow, &channel.bounds, now_ms) {
            Ok(None) => {}
            Ok(Some(idle)) => self.close(idle),
            Err(denied) => {
                self.r.counters.refused_connections.fetch_add(1, Relaxed);
                let refused = Some(denied.text());
                self.contacts.note(Kind { address: peer.ip(), refused, tls: None, name: None });
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
        let (registry, tls) = (self.r.poll.registry(), self.r.tls.as_ref());
        let inserted = self.connections.insert(|at, generation| -> io::Result<Connection> {
            let transport = Transport::new(stream, tls)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut SourceFd(&transport.fd()), Token(at + FIRST_CONNECTION), interest)?;
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
                handshake_until_ms: tls.map(|_| now_ms + HANDSHAKE_MS_MAX),
                counted_bytes: 0,
            })
        });
        match inserted {
            Ok(at) => {
                self.readable.push(at);
                if self.r.tls.is_none() {
                    self.contacts.note(Kind { address: peer.ip(), refused: None, tls: None, name: None });
                }
            }
            Err(e) => log::debug!("{peer} was gone before it was accepted: {e}"),
        }
        self.r.counters.connections.store(self.connections.len() as u64, Relaxed);
    }

    pub(super) fn connection_event(&mut self, at: usize, event: &mio::event::Event) {
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
    pub(super) fn read_all(&mut self, now_ms: u64) {
        let mut later = Vec::new();
        let mut handshakes = 0;
        for at in std::mem::take(&mut self.readable) {
            let Some(connection) = self.connections.get(at).filter(|c| c.readable) else { continue };
            handshakes += usize::from(connection.handshake_until_ms.is_some());
            let waits = connection.handshake_until_ms.is_some() && handshakes > HANDSHAKES_MAX;
            if !waits && self.could_read(at) {
                self.read(at, now_ms);
            }
            if self.connections.get(at).is_some_and(|c| c.readable) {
                later.push(at);
            }
        }
        self.readable.append(&mut later);
    }

    pub(super) fn read(&mut self, at: usize, now_ms: u64) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut events = std::mem::take(&mut self.events);
        let idle_timeout_ms = self.idle_timeout_ms();
        let mut taken = 0;
        while taken < TURN_BYTES_MAX {
            let Some(connection) = self.connections.get(at) else { break };
            let held = connection.session.buffered_bytes();
            let large = held >= READ_BYTES_MAX;
            if large
                && held < large_buffer::BYTES_MIN
                && let Some(buffer) = self.r.inbox.large_buffer.take()
            {
                connection.session.go_on_in(buffer);
            }
            let room = if large { READ_BYTES_MAX } else { READ_BYTES };
            match connection.transport.read(&mut scratch[..room]) {
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
                    // A peer whose TLS failed is still there, and is given time to read why.
                    connection.ended = tls_fault(&e).is_none();
                    connection.handshake_until_ms = None;
                    connection.session.peer_ended(now_ms, &mut events);
                    connection.session.close();
                    self.broke_off(at, &e, now_ms);
                }
            }
            self.note_handshake(at);
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
    pub(super) fn apply(&mut self, at: usize, events: &mut Vec<Event>, now_ms: u64) {
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

    pub(super) fn frame(&mut self, at: usize, body: Vec<u8>, now_ms: u64) {
        match batch::split_in(&body, self.r.settings.channel.encoding) {
            Batch::Single => self.message(at, body, now_ms),
            Batch::Several(messages) => {
                messages.iter().for_each(|message| self.message(at, message.to_vec(), now_ms));
            }
            Batch::Headed { file_header, batch_header, messages } => {
                let gathering = Gathering {
                    start: body[..body.len().min(START_BYTES)].to_vec(),
                    file_header: file_header.map(<[u8]>::to_vec),
                    batch_header: batch_header.map(<[u8]>::to_vec),
                    answers: Vec::with_capacity(messages.len()),
                    waiting: BTreeSet::new(),
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
    pub(super) fn message(&mut self, at: usize, body: Vec<u8>, now_ms: u64) {
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
    pub(super) fn batch(&mut self, at: usize, messages: &[&[u8]], mut gathering: Gathering, now_ms: u64) {
        let Some(connection) = self.connections.get(at) else { return };
        let number = connection.session.answer_later(&[]);
        let key = (at, connection.generation, number);
        for message in messages {
            let Some((taken, _)) = self.take(at, message.to_vec(), true) else { return };
            match taken {
                Taken::Store { id, kind, answer, outcome } => {
                    let part = gathering.answers.len() as u32;
                    gathering.answers.push(answer);
                    gathering.waiting.insert(part);
                    self.store(key, Some(part), (id, kind, outcome), message.len(), now_ms);
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
        if !gathering.waiting.is_empty() {
            self.batches.add(key, gathering);
        } else {
            let answer = self.r.intake.batch_answer(&gathering);
            if let Some(connection) = self.connections.get(at) {
                connection.session.replace(number, &answer);
            }
        }
    }

    pub(super) fn take(
        &mut self,
        at: usize,
        body: Vec<u8>,
        in_batch: bool,
    ) -> Option<(Taken, &mut Connection)> {
        let connection = self.connections.get(at)?;
        self.r.counters.received.fetch_add(1, Relaxed);
        connection.session.messages += 1;
        connection.session.last_message_us = Some(system_us());
        let awaiting = &self.awaiting;
        let (peer, address) = (&connection.peer, connection.address);
        let taken = self.r.intake.take(body, in_batch, peer, address, |id| awaiting.contains(id));
        Some((taken, connection))
    }

    pub(super) fn store(
        &mut self,
        (session, generation, answer): batch_answers::Key,
        part: Option<u32>,
        (id, kind, outcome): (MessageId, IntakeKind, Option<Vec<u8>>),
        bytes: usize,
        now_ms: u64,
    ) {
        let complete_us = self.r.clock.now_us();
        let stores = kind.stores();
        let origin = Origin { session, generation, answer, part, id, complete_us, bytes, stores };
        if let Some(start) = outcome {
            self.awaiting.add(id, origin, start, now_ms + self.answer_timeout_ms);
        }
        self.unflushed += 1;
        self.unflushed_bytes += bytes;
        self.batch.push(Stored { origin, kind, direct: None });
    }

    pub(super) fn quarantine_some(&mut self, quarantine: Option<(MessageId, &'static str, Vec<u8>)>) {
        if let Some((id, code, bytes)) = quarantine {
            self.quarantine(id, code, bytes);
        }
    }

    pub(super) fn deviation(
        &mut self,
        at: usize,
        what: Deviation,
        offset: u64,
        byte: Option<u8>,
        now_ms: u64,
    ) {
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

    pub(super) fn quarantine(&mut self, id: MessageId, code: &'static str, bytes: Vec<u8>) {
        // Best effort: not at the cost of messages.
        if self.r.committer.try_send(Append::Quarantine(id, code, bytes)).is_err() {
            log::debug!("id={id} could not be quarantined: the committer is busy");
        }
    }
}

fn out_of_descriptors(error: &io::Error) -> bool {
    let raw = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].map(rustix::io::Errno::raw_os_error);
    error.raw_os_error().is_some_and(|e| raw.contains(&e))
}
