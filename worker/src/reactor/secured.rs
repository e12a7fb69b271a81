//! The reactor and TLS: handshakes that end well, badly, or not at all.

use super::Turn;
use crate::connections::Connection;
use crate::contacts::Kind;
use crate::rate_limit::left_out;
use crate::tls::{Acceptor, Reason, TlsFault};
use crate::transport::tls_fault;
use hl7::mllp::Deviation;
use link::Files;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

/// How long a peer may take for its handshake.
pub(super) const HANDSHAKE_MS_MAX: u64 = 10_000;
/// Peers that may go on with their handshakes in one turn: with an RSA key each costs a millisecond, and those that are
/// done with theirs are not to wait for a crowd at the door.
pub(super) const HANDSHAKES_MAX: usize = 4;

impl Turn<'_> {
    /// Lets the peer in when its handshake is done.
    pub(super) fn note_handshake(&mut self, at: usize) {
        let Some(connection) = self.connections.get(at) else { return };
        if connection.handshake_until_ms.is_none() || connection.transport.is_handshaking() {
            return;
        }
        connection.handshake_until_ms = None;
        let version = connection.transport.tls_version().unwrap_or("TLS");
        let name = connection.transport.tls_name().map(|name| format!(" as \"{}\"", name.escape_debug()));
        log::debug!("{} connected over {version}{}", connection.peer, name.unwrap_or_default());
        let name = connection.transport.tls_name().map(str::to_owned);
        self.contacts.note(Kind { address: connection.address, refused: None, tls: Some(version), name });
    }

    /// Says why a connection broke off, where that is more than that its peer went away.
    pub(super) fn broke_off(&mut self, at: usize, error: &io::Error, now_ms: u64) {
        match tls_fault(error) {
            None => {
                if let Some(connection) = self.connections.get(at) {
                    log::debug!("{} broke off: {error}", connection.peer);
                }
            }
            Some(TlsFault::PlainText(byte)) => {
                self.deviation(at, Deviation::PlainOnTls, 0, Some(*byte), now_ms);
                if let Some(Connection { address, .. }) = self.connections.look(at) {
                    let refused = Some("it speaks plain text on a TLS port");
                    self.contacts.note(Kind { address: *address, refused, tls: None, name: None });
                }
            }
            Some(fault) => self.tls_failed(at, &fault.reason(), now_ms),
        }
    }

    /// A handshake that has taken too long. Whoever has sent nothing at all may be looking whether the port is open.
    pub(super) fn handshake_overdue(&mut self, at: usize, now_ms: u64) {
        if self.connections.look(at).is_some_and(|c| c.transport.has_begun_handshake()) {
            let kind = "its handshake was not done within 10 s";
            self.tls_failed(at, &Reason { kind, detail: String::new() }, now_ms);
        }
        self.close(at);
    }

    fn tls_failed(&mut self, at: usize, reason: &Reason, now_ms: u64) {
        self.r.counters.tls_failed.fetch_add(1, Relaxed);
        let Some(Connection { peer, address, transport, .. }) = self.connections.look(at) else { return };
        self.contacts.note(Kind { address: *address, refused: Some(reason.kind), tls: None, name: None });
        if let Some(n) = self.tls_log.pass(reason.kind, now_ms) {
            let what = if transport.tls_version().is_some() { "TLS broke off" } else { "no TLS connection" };
            log::warn!("{peer}: {what}: {reason}{}", left_out(n));
        }
    }

    /// Reminds of a certificate that expires soon.
    pub(super) fn warn_of_expiry(&self) {
        if let (Some(settings), Some(tls)) = (&self.r.settings.channel.tls, &self.r.tls)
            && let Some(warning) = tls.warning(settings)
        {
            log::warn!("{warning}");
        }
    }

    /// New certificates: for connections that come from now on.
    pub(super) fn files(&mut self, files: &Files) {
        let Some(settings) = &self.r.settings.channel.tls else {
            return log::warn!("the master sent files that no setting names; ignored");
        };
        match Acceptor::new(settings, files) {
            Ok(acceptor) => {
                self.r.tls = Some(acceptor);
                log::info!("new TLS connections go by the certificates as they are now");
            }
            // The master has checked them; it would be a difference between the two of us.
            Err(problem) => log::error!("{problem}; TLS goes on with the certificates as they were"),
        }
    }
}
