//! The reactor and its master: orders, signals, drain, room on the disk, reports.

use super::{Drained, Draining, OLDEST_OFTEN_MAX, PEERS_MAX, REPORT_MS, Turn};
use crate::clock::system_us;
use crate::connections::Connection;
use crate::room::has_room;
use crate::signals::Signal;
use hl7::mllp::Deviation;
use link::{Answer, Order, Peer, Question, Report};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A server that is never reloaded is reminded of its certificates so often.
const REPORTS_A_DAY: u64 = 86_400_000 / REPORT_MS;

impl Turn<'_> {
    pub(super) fn orders(&mut self, now_ms: u64) {
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

    pub(super) fn order(&mut self, order: Order, now_ms: u64) {
        match order {
            Order::Start(_) => log::warn!("a second start was ordered; ignored"),
            Order::Drain { timeout_ms } => self.drain(Duration::from_millis(timeout_ms), now_ms),
            Order::Files(files) => self.files(&files),
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

    pub(super) fn signals(&mut self, now_ms: u64) {
        while let Some(signal) = self.r.signals.next() {
            match signal {
                Signal::Drain => self.drain(Duration::from_secs(30), now_ms),
                Signal::Status => self.log_status(),
            }
        }
    }

    /// Stops the intake: what is committed is answered, what runs is finished, the rest stays in the journal.
    pub(super) fn drain(&mut self, timeout: Duration, now_ms: u64) {
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

    pub(super) fn drained(&self, now_ms: u64) -> Option<Drained> {
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

    pub(super) fn look_for_room(&mut self) {
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
    pub(super) fn close_for_room(&mut self, why: &str) {
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

    pub(super) fn report(&mut self, now_ms: u64) {
        self.next_report_ms = now_ms + REPORT_MS;
        self.reports += 1;
        self.look_for_room();
        if self.reports.is_multiple_of(60) {
            self.r.intake.expire();
        }
        if self.reports.is_multiple_of(REPORTS_A_DAY) {
            self.warn_of_expiry();
        }
        self.r.slots.end_long_waits();
        self.r.inbox.large_buffer.expire();
        let bytes_in = self.r.counters.bytes_in.load(Relaxed);
        if self.quiet.begins(bytes_in, || self.r.dispatcher.running() > 0) {
            link::give_memory_back();
        }
        let status = self.status();
        self.tell(&Report::Status(Box::new(status)));
        self.tell_contacts(now_ms, false);
        self.make_way(now_ms);
    }

    /// A sandbox that has become too narrow: the next worker has another. Not at once, so that whoever asked for what found
    /// it out, a retry by hand, is answered before.
    fn make_way(&mut self, now_ms: u64) {
        if std::mem::replace(&mut self.is_outdated, self.r.sandbox.watch.is_outdated()) {
            self.drain(Duration::from_secs(30), now_ms);
        }
    }

    /// Who connected or was refused, for the audit.
    pub(super) fn tell_contacts(&mut self, now_ms: u64, last: bool) {
        let due = self.contacts.take(now_ms, last);
        if !due.is_empty() {
            self.tell(&Report::Contacts(due));
        }
    }

    pub(super) fn status(&mut self) -> link::Status {
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
            sandbox: self.r.sandbox.level.clone(),
            certificate_expires: self.r.tls.as_ref().map(|tls| tls.expires_s),
            ..self.r.counters.status(&self.r.plan)
        }
    }

    pub(super) fn log_status(&mut self) {
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

    pub(super) fn peers(&self) -> Vec<Peer> {
        let peer = |c: &Connection| {
            let deviations = Deviation::ALL.iter().zip(c.session.deviations).filter(|(_, n)| *n > 0);
            Peer {
                address: c.peer.to_string(),
                connected_us: c.connected_us,
                messages: c.session.messages,
                last_message_us: c.session.last_message_us,
                framing: deviations.map(|(d, n)| (d.code().to_owned(), u64::from(n))).collect(),
                tls: c.transport.tls_version().map(str::to_owned),
                tls_name: c.transport.tls_name().map(str::to_owned),
            }
        };
        self.connections.iter().take(PEERS_MAX).map(|(_, c)| peer(c)).collect()
    }

    pub(super) fn tell(&mut self, report: &Report) {
        if let Err(error) = self.r.link.queue(report).and_then(|()| self.r.link.write_ready()) {
            log::debug!("could not report to the master: {error}");
        }
    }
}
