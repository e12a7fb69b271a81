//! TLS over a socket that never blocks.
//!
//! rustls keeps what is on its way; the bounds are here: [`HANDSHAKE_BYTES_MAX`] before the peer is known, one record
//! of what was read and not taken, [`PENDING_BYTES_MAX`] of what is encrypted and not with the system.

use crate::tls::{TlsFault, shown_name};
use rustls::ServerConnection;
use std::io::{self, ErrorKind, Read, Write};

/// A handshake with a chain of four RSA-4096 certificates takes some 8 KiB.
const HANDSHAKE_BYTES_MAX: usize = 128 * 1024;
/// Bytes encrypted ahead of the socket.
const PENDING_BYTES_MAX: usize = 32 * 1024;
/// What one record holds.
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// First byte of a record that may begin a connection: a handshake, or an alert from a peer that gives up at once.
const RECORD_TYPES: [u8; 2] = [0x16, 0x15];
/// From here on a first byte is that of a greeting of SSL 2: old TLS, and not MLLP.
const OLD_GREETING: u8 = 0x80;

/// TLS with one peer.
#[derive(Debug)]
pub(super) struct Secured {
    tls: ServerConnection,
    handshake_bytes: usize,
    /// Bytes at the front of what is to be written that are encrypted already, but not all with the system.
    taken: usize,
    /// The protocol has failed: what the peer still sends is read as it is, and dropped.
    failed: bool,
    name: Option<String>,
}

impl Secured {
    pub(super) fn new(mut tls: ServerConnection) -> Secured {
        tls.set_buffer_limit(Some(PENDING_BYTES_MAX));
        Secured { tls, handshake_bytes: 0, taken: 0, failed: false, name: None }
    }

    /// What the peer is called in the certificate it showed.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// `TLSv1_3`, once the handshake is done.
    pub(super) fn version(&self) -> Option<&'static str> {
        let version = self.tls.protocol_version().filter(|_| !self.tls.is_handshaking())?;
        Some(version.as_str().unwrap_or("TLS"))
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether a byte of a handshake has come.
    pub(super) fn has_begun(&self) -> bool {
        self.handshake_bytes > 0
    }

    pub(super) fn read(&mut self, stream: &mut (impl Read + Write), buffer: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return stream.read(buffer);
        }
        loop {
            match self.tls.reader().read(buffer) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                    return Err(io::Error::new(e.kind(), "ended without a close_notify"));
                }
                other => return other,
            }
            let handshaking = self.tls.is_handshaking();
            let mut watched = Watched { stream, first: None, bytes: 0 };
            self.tls.read_tls(&mut watched)?;
            let Watched { first, bytes, .. } = watched;
            if let Some(first) = first.filter(|_| handshaking && self.handshake_bytes == 0)
                && !RECORD_TYPES.contains(&first)
                && first < OLD_GREETING
            {
                return Err(self.fail(TlsFault::PlainText(first)));
            }
            if handshaking {
                self.handshake_bytes += bytes;
            }
            let outcome = self.tls.process_new_packets();
            // Also where it failed: the alert says why. A peer that takes nothing learns nothing.
            let flushed = self.flush(stream);
            outcome.map_err(|e| self.fail(TlsFault::Protocol(e)))?;
            flushed?;
            if self.tls.is_handshaking() && self.handshake_bytes > HANDSHAKE_BYTES_MAX {
                return Err(self.fail(TlsFault::HandshakeTooLarge));
            }
            if handshaking && !self.tls.is_handshaking() {
                self.name = self.tls.peer_certificates().and_then(<[_]>::first).and_then(shown_name);
            }
        }
    }

    fn fail(&mut self, fault: TlsFault) -> io::Error {
        self.failed = true;
        io::Error::other(fault)
    }

    /// How many of `bytes` are with the system now. The next call must begin with those that are not. Nothing goes to a
    /// peer whose TLS has failed: it is dropped.
    pub(super) fn write(&mut self, stream: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
        if self.failed {
            return Ok(bytes.len());
        }
        let mut written = 0;
        loop {
            if self.taken == 0 {
                let record = &bytes[written..written + record_end(&bytes[written..])];
                self.taken = self.tls.writer().write(record)?;
            }
            let sent = self.flush(stream)?;
            if self.tls.wants_write() {
                // Some of it is on its way, which shows that the peer reads. The last byte counts when all of it is.
                let moved = sent.min(self.taken.saturating_sub(1));
                self.taken -= moved;
                return Ok(written + moved);
            }
            written += std::mem::take(&mut self.taken);
            if written >= bytes.len() {
                return Ok(written);
            }
        }
    }

    /// Hands what is encrypted to the system; gives how many bytes it took. What is left goes when there is room.
    pub(super) fn flush(&mut self, stream: &mut impl Write) -> io::Result<usize> {
        let mut sent = 0;
        while self.tls.wants_write() {
            match self.tls.write_tls(stream) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(sent)
    }

    /// Tells the peer that nothing more comes, so that it knows that nothing was cut off.
    pub(super) fn end_writing(&mut self, stream: &mut impl Write) {
        if !self.failed {
            self.tls.send_close_notify();
            // A peer that is gone already needs not be told.
            let _ = self.flush(stream);
        }
    }
}

/// Bytes of `bytes` that go into one record: as many answers as fit, none of them split, where one fits at all. Peers
/// that take one read for one answer get one.
fn record_end(bytes: &[u8]) -> usize {
    if bytes.len() <= RECORD_BYTES_MAX {
        return bytes.len();
    }
    let fits = &bytes[..RECORD_BYTES_MAX];
    let end = fits.windows(2).rposition(|pair| pair == [hl7::mllp::FS, hl7::mllp::CR]);
    end.map_or(RECORD_BYTES_MAX, |at| at + 2)
}

/// Sees the first byte of a read, and how many there are.
struct Watched<'s, S> {
    stream: &'s mut S,
    first: Option<u8>,
    bytes: usize,
}

impl<S: Read> Read for Watched<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = loop {
            match self.stream.read(buffer) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.first = buffer[..n].first().copied();
        self.bytes = n;
        Ok(n)
    }
}
