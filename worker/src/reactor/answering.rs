//! The reactor's answering side: what is flushed or has ended is told to the peers.

use super::{LINGER_MS, REPORT_MS, Turn};
use crate::committer::{Append, Origin, Outcomes, Returned, Stores};
use crate::connections::{Connection, Connections};
use crate::direct_answer::DirectAnswer;
use crate::dispatcher::Withdrawal;
use crate::inbox::{Ending, News};
use crate::intake::Intake;
use crate::session::State;
use config::AckMode;
use crossbeam_channel::TrySendError;
use hl7::ack::Refusal;
use journal::MessageId;
use link::Report;
use mio::unix::SourceFd;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// When a message whose time is over is looked at again, where it could not be withdrawn.
const LOOK_AGAIN_MS: u64 = 500;

impl Turn<'_> {
    /// Gives what this turn gathered to the committer.
    pub(super) fn hand_over(&mut self) {
        if !self.batch.is_empty() {
            // With `ack: processed` the flush is not what a sender waits for.
            if self.r.settings.channel.ack == AckMode::Received
                && let [stored] = &mut self.batch[..]
            {
                stored.direct = direct_answer(&self.connections, &stored.origin);
            }
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

    pub(super) fn news(&mut self, now_ms: u64) {
        for news in self.r.inbox.take() {
            match news {
                News::Committed(origins, sent) => {
                    let now_us = self.r.clock.now_us();
                    let wait = |o: &Origin| Duration::from_micros((now_us - o.complete_us).max(0) as u64);
                    self.r.counters.acknowledged(origins.iter().map(wait));
                    self.flushed(&origins);
                    if sent > 0
                        && let [origin] = &origins[..]
                        && let Some(connection) = self.connections.get_same(origin.session, origin.generation)
                    {
                        connection.session.sent(origin.answer, sent);
                    }
                    let told = origins.iter().filter(|o| !self.awaiting.contains(o.id)).copied().collect();
                    self.tell_all(told, |_, _| None);
                }
                News::NotStored(origins) => {
                    self.flushed(&origins);
                    self.not_stored(&origins);
                    self.close_for_room("the journal could not be written");
                    self.next_report_ms = now_ms + REPORT_MS;
                }
                News::Ended(messages) => messages.into_iter().for_each(|(id, how)| self.ended(id, how)),
                News::Answer(id, answer) => self.tell(&Report::Answer { id, answer }),
            }
        }
    }

    /// These are not on their way to the disk any more.
    pub(super) fn flushed(&mut self, origins: &[Origin]) {
        self.unflushed -= origins.len();
        self.unflushed_bytes -= origins.iter().map(|o| o.bytes).sum::<usize>();
    }

    /// Answers these messages as prepared, or with what `other` gives, and writes what may be written then.
    pub(super) fn tell_all(
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
            let Some(connection) = self.connections.get_same(origin.session, origin.generation) else {
                continue;
            };
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

    /// These messages could not be stored: who brought them gets no answer. What was stored before stays known.
    fn not_stored(&mut self, origins: &[Origin]) {
        let new = origins.iter().filter(|origin| origin.stores == Stores::New);
        self.r.intake.forget(&new.map(|origin| origin.id).collect());
        for origin in origins {
            if origin.stores == Stores::Nothing {
                self.awaiting.leave(origin.id, origin);
                self.withhold(origin);
            } else {
                self.withhold(origin);
                let joined = self.awaiting.end(origin.id).map(|waiters| waiters.origins).unwrap_or_default();
                joined.iter().for_each(|origin| self.withhold(origin));
            }
        }
    }

    fn withhold(&mut self, origin: &Origin) {
        self.batches.forget((origin.session, origin.generation, origin.answer));
        if let Some(connection) = self.connections.get_same(origin.session, origin.generation) {
            connection.session.withhold(origin.answer);
            self.write(origin.session);
        }
    }

    /// `ack: processed`: a message has ended, and everybody who brought it is told.
    pub(super) fn ended(&mut self, id: MessageId, how: Ending) {
        let Some(waiters) = self.awaiting.end(id) else { return };
        let start = waiters.start;
        self.tell_all(waiters.origins, |intake, origin| match how {
            Ending::Done => None,
            Ending::Returned(refusal) => {
                Some(intake.refuse_ended(&start, origin.part.is_some(), refusal, id))
            }
        });
    }

    /// `ack: processed`: these senders have waited for as long as they may; their messages are theirs again.
    pub(super) fn give_back_late(&mut self, now_ms: u64) {
        for id in self.awaiting.due(now_ms) {
            match self.r.dispatcher.withdraw(id) {
                Withdrawal::Out { location, pending } => {
                    log::warn!(
                        "id={id} outcome=returned: not done within answer_timeout; its sender keeps it"
                    );
                    let refusal = &Refusal::INTERNAL;
                    let returned = vec![Returned { id, location, pending, refusal }];
                    let outcomes = Outcomes { returned, gone: vec![location], ..Outcomes::default() };
                    self.outgoing.push_back(Append::Outcomes(Box::new(outcomes)));
                }
                // Its last attempt tells how it ends; one that is gone is not flushed yet, or news of it is on its way.
                Withdrawal::Running | Withdrawal::Gone => self.awaiting.postpone(id, now_ms + LOOK_AGAIN_MS),
            }
        }
    }

    /// Writes what may be written; closes what has come to its end.
    pub(super) fn write(&mut self, at: usize) {
        let now_ms = self.r.clock.now_ms();
        let idle_timeout_ms = self.idle_timeout_ms();
        let Some(connection) = self.connections.get(at) else { return };
        if let Err(e) = write_out(connection, now_ms) {
            log::debug!("{} broke off: {e}", connection.peer);
            connection.ended = true;
            connection.session.close();
        }
        connection.deadline_ms = connection.session.deadline_ms(idle_timeout_ms);
        if connection.session.state() == State::Closed && connection.lingers_until_ms.is_none() {
            if connection.ended {
                return self.close(at);
            }
            connection.transport.end_writing();
            connection.lingers_until_ms = Some(now_ms + LINGER_MS);
            if !connection.readable {
                connection.readable = true;
                self.readable.push(at);
            }
        }
        self.connections.watch(at);
    }

    pub(super) fn close(&mut self, at: usize) {
        if let Some(connection) = self.connections.remove(at) {
            self.batches.forget_session(at, connection.generation);
            // Dropping the socket takes it out of the event queue as well.
            let _ = self.r.poll.registry().deregister(&mut SourceFd(&connection.transport.fd()));
        }
        self.r.counters.connections.store(self.connections.len() as u64, Relaxed);
    }
}

/// The answer to a message that is handed over alone, where it is the next thing that its peer is to hear, whatever else
/// comes meanwhile. Not over TLS, whose state is the event loop's.
fn direct_answer(connections: &Connections, origin: &Origin) -> Option<DirectAnswer> {
    let connection = connections.look(origin.session).filter(|c| c.generation == origin.generation)?;
    if origin.part.is_some() {
        return None;
    }
    let frame = connection.session.only_answer(origin.answer)?;
    Some(DirectAnswer::new(connection.transport.plain()?, frame.to_vec()))
}

/// Writes what is ready until all of it is with the system, or the peer takes no more.
fn write_out(connection: &mut Connection, now_ms: u64) -> io::Result<()> {
    connection.transport.flush()?;
    loop {
        let output = connection.session.output();
        if output.is_empty() {
            return Ok(());
        }
        let all = output.len();
        let n = connection.transport.write(output)?;
        connection.session.wrote(n, now_ms);
        if n < all {
            return Ok(());
        }
    }
}
