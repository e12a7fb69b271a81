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
            let read = self.tls.read_tls(&mut watched);
            let Watched { first, bytes, .. } = watched;
            match read {
                // Its one complaint of what is inside: a message of the handshake that will not end.
                Err(e) if e.kind() == ErrorKind::InvalidData => {
                    return Err(self.fail(TlsFault::HandshakeTooLarge));
                }
                other => other?,
            };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::{CERTIFICATE, fixture};
    use crate::transport::tls_fault;
    use hl7::mllp::wrap;
    use rustls::crypto::ring;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::collections::VecDeque;
    use std::sync::Arc;

    /// A socket whose other end takes no more than `window` bytes until it reads.
    #[derive(Default)]
    struct Socket {
        incoming: VecDeque<u8>,
        outgoing: VecDeque<u8>,
        window: usize,
        ended: bool,
    }

    impl Read for Socket {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.incoming.read(buffer)? {
                0 if !self.ended => Err(ErrorKind::WouldBlock.into()),
                n => Ok(n),
            }
        }
    }

    impl Write for Socket {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match bytes.len().min(self.window.saturating_sub(self.outgoing.len())) {
                0 => Err(ErrorKind::WouldBlock.into()),
                n => self.outgoing.write(&bytes[..n]),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Pair {
        server: Secured,
        socket: Socket,
        client: ClientConnection,
    }

    impl Pair {
        fn new(window: usize) -> Pair {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap()).unwrap();
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
            let server = Secured::new(ServerConnection::new(fixture().config).unwrap());
            Pair { server, socket: Socket { window, ..Socket::default() }, client }
        }

        /// What the client has to say goes to the server.
        fn client_speaks(&mut self) {
            while self.client.wants_write() {
                self.client.write_tls(&mut self.socket.incoming).unwrap();
            }
        }

        /// The client reads up to `most` bytes of what is on the wire; gives what was in them.
        fn client_reads(&mut self, most: usize) -> Vec<u8> {
            let wire: Vec<u8> = self.socket.outgoing.drain(..most.min(self.socket.outgoing.len())).collect();
            let (mut wire, mut found) = (&wire[..], Vec::new());
            while !wire.is_empty() {
                self.client.read_tls(&mut wire).unwrap();
                self.client.process_new_packets().unwrap();
                let _ = self.client.reader().read_to_end(&mut found);
            }
            found
        }

        fn server_reads(&mut self) -> io::Result<Vec<u8>> {
            let mut buffer = [0; 4096];
            self.server.read(&mut self.socket, &mut buffer).map(|n| buffer[..n].to_vec())
        }

        /// Until the handshake is done.
        fn connected(window: usize) -> Pair {
            let mut pair = Pair::new(window);
            while pair.client.is_handshaking() || pair.server.is_handshaking() {
                pair.client_speaks();
                assert_eq!(pair.server_reads().unwrap_err().kind(), ErrorKind::WouldBlock);
                // As when the socket has room again.
                pair.server.flush(&mut pair.socket).unwrap();
                pair.client_reads(usize::MAX);
            }
            pair
        }
    }

    #[test]
    fn answers_arrive_whole_and_in_order_whatever_the_window_and_little_is_held() {
        let answers: Vec<u8> = (0..400).flat_map(|n| wrap(&vec![b'a' + (n % 26) as u8; n])).collect();
        for window in [1, 7, 100, 5_000, 1 << 20] {
            let mut pair = Pair::connected(window);
            let (mut written, mut heard, mut turns) = (0, Vec::new(), 0);
            while heard.len() < answers.len() {
                // More is ready each time than a record holds, as in a session's output.
                let ready = &answers[written..answers.len().min(written + 64 * 1024)];
                let n = pair.server.write(&mut pair.socket, ready).unwrap();
                // What counts as written is encrypted and bounded, and the last byte never counts too early.
                assert!(n < ready.len() || !pair.server.tls.wants_write());
                assert!(n > 0 || window < 100 || ready.is_empty(), "a peer that reads seems not to");
                written += n;
                heard.extend(pair.client_reads(window.max(2)));
                assert!(written <= heard.len() + window + PENDING_BYTES_MAX);
                turns += 1;
                assert!(turns < 1_000_000, "{} of {} bytes heard", heard.len(), answers.len());
            }
            assert!(heard == answers && written == answers.len(), "window {window}");
        }
    }

    #[test]
    fn a_record_ends_with_an_answer_where_one_fits() {
        let answers = [wrap(&[b'x'; 9_000]), wrap(&[b'y'; 9_000]), wrap(b"z")].concat();
        assert_eq!(record_end(&answers), 9_003);
        assert_eq!(record_end(&answers[9_003..]), 9_003 + 4);
        assert_eq!(record_end(&wrap(&[b'x'; 40_000])), RECORD_BYTES_MAX);
        assert_eq!(record_end(b""), 0);
    }

    #[test]
    fn plain_text_is_told_by_its_first_byte() {
        for (bytes, plain) in
            [(&b"\x0bMSH|"[..], true), (b"MSH|", true), (b"\r\n", true), (b"\x16\x03\x01", false)]
        {
            let mut pair = Pair::new(1 << 20);
            pair.socket.incoming.extend(bytes);
            let error = pair.server_reads().unwrap_err();
            let found = matches!(tls_fault(&error), Some(TlsFault::PlainText(byte)) if *byte == bytes[0]);
            assert_eq!(found, plain, "{bytes:?}: {error}");
        }
    }

    #[test]
    fn a_stream_that_is_cut_off_is_an_error_and_one_that_was_ended_is_not() {
        let mut pair = Pair::connected(1 << 20);
        pair.client.writer().write_all(b"one").unwrap();
        pair.client.send_close_notify();
        pair.client_speaks();
        pair.socket.ended = true;
        assert_eq!(pair.server_reads().unwrap(), b"one");
        assert_eq!(pair.server_reads().unwrap(), b"");
        assert_eq!(pair.server.write(&mut pair.socket, b"answer").unwrap(), 6);
        pair.server.end_writing(&mut pair.socket);
        assert_eq!(pair.client_reads(usize::MAX), b"answer");
        assert_eq!(pair.client.reader().read(&mut [0; 1]).unwrap(), 0, "no close_notify came");

        let mut pair = Pair::connected(1 << 20);
        pair.client.writer().write_all(b"one").unwrap();
        pair.client_speaks();
        pair.socket.ended = true;
        assert_eq!(pair.server_reads().unwrap(), b"one");
        assert_eq!(pair.server_reads().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_byte_changed_on_the_way_ends_the_connection_and_the_peer_learns_why() {
        let mut pair = Pair::connected(1 << 20);
        pair.client.writer().write_all(b"one").unwrap();
        pair.client_speaks();
        *pair.socket.incoming.back_mut().unwrap() ^= 1;
        let error = pair.server_reads().unwrap_err();
        assert!(
            matches!(tls_fault(&error), Some(TlsFault::Protocol(rustls::Error::DecryptError))),
            "{error}"
        );
        assert!(!pair.socket.outgoing.is_empty(), "no alert");
        // What still comes is dropped, and nothing more is said.
        let alert = pair.socket.outgoing.len();
        pair.socket.incoming.extend(b"more");
        assert_eq!(pair.server_reads().unwrap(), b"more");
        assert_eq!(pair.server.write(&mut pair.socket, b"answer").unwrap(), 6);
        pair.server.end_writing(&mut pair.socket);
        assert_eq!(pair.socket.outgoing.len(), alert);
    }

    #[test]
    fn a_handshake_that_never_ends_is_cut_short() {
        let mut pair = Pair::new(1 << 20);
        // Records of a handshake message that says it is 16 MiB long.
        let record = |first: bool| {
            let mut record = vec![0x16, 3, 1, 0x20, 0];
            record.resize(record.len() + 0x2000, 0);
            if first {
                record[5..9].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
            }
            record
        };
        for n in 0..1_000 {
            pair.socket.incoming.extend(record(n == 0));
            let error = pair.server_reads().unwrap_err();
            if error.kind() != ErrorKind::WouldBlock {
                assert!(n < 2 * HANDSHAKE_BYTES_MAX / 0x2000, "after {n} records: {error}");
                assert!(tls_fault(&error).is_some(), "{error:?}");
                return;
            }
        }
        panic!("8 MiB of a handshake were taken");
    }
}
