//! The way to a server: a socket whose waits and bytes are bounded, the pre-login, TLS inside of it.
//!
//! A TDS server negotiates encryption in its pre-login, and the TLS handshake then travels in pre-login packets; after
//! it the records go as they are. We do both and give tiberius a stream of which the encrypted part is over: the
//! pre-login that it sends is answered here, by a server that knows no encryption, and never leaves the house.

use super::prelogin::{self, Encryption, HEADER_BYTES};
use crate::fault::Fault;
use crate::target::Target;
use native_tls::{HandshakeError, Protocol, TlsConnector, TlsStream};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What one call may still take, and what its socket failed with.
#[derive(Debug)]
pub(super) struct Allowance {
    deadline: Instant,
    bytes: u64,
    /// tiberius passes only a text on.
    failed: Option<io::Error>,
}

impl Allowance {
    /// That much from now on.
    pub(super) fn start(time: Duration, bytes: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { deadline: Instant::now() + time, bytes, failed: None }))
    }

    /// The next call begins.
    pub(super) fn renew(this: &Mutex<Self>, time: Duration, bytes: u64) {
        *lock(this) = Self { deadline: Instant::now() + time, bytes, failed: None };
    }

    /// What the socket failed with first.
    pub(super) fn failed(this: &Mutex<Self>) -> Option<io::Error> {
        lock(this).failed.take()
    }

    /// The time left, never zero: a socket takes that as no bound at all.
    fn left(this: &Mutex<Self>) -> io::Result<Duration> {
        let left = lock(this).deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(left.max(Duration::from_millis(1)))
        }
    }

    fn spend(this: &Mutex<Self>, bytes: usize) -> io::Result<()> {
        let mut this = lock(this);
        match this.bytes.checked_sub(bytes as u64) {
            Some(left) => this.bytes = left,
            None => return Err(io::Error::other("its answer has no end")),
        }
        Ok(())
    }

    /// Keeps a socket's error, the first of a call, and hands on one of its kind.
    fn note(this: &Mutex<Self>, error: io::Error) -> io::Error {
        let handed_on = match error.kind() {
            // TLS takes this as "ask again" and tiberius as "somebody will wake you": it is a socket's time-out.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::ErrorKind::TimedOut.into(),
            kind => io::Error::new(kind, error.to_string()),
        };
        lock(this).failed.get_or_insert(error);
        handed_on
    }
}

/// A plain value: a panic while it was locked leaves nothing half done.
fn lock(allowance: &Mutex<Allowance>) -> MutexGuard<'_, Allowance> {
    allowance.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A blocking socket none of whose waits outlasts the call.
#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    allowance: Arc<Mutex<Allowance>>,
}

impl Socket {
    fn read_bounded(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // Set before each read: a server that sends a byte now and then is no less late.
        self.stream.set_read_timeout(Some(Allowance::left(&self.allowance)?))?;
        let count = self.stream.read(into)?;
        Allowance::spend(&self.allowance, count)?;
        match count {
            // Nobody asks for nothing; tiberius' words for an end would be its own.
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }

    fn write_bounded(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(Allowance::left(&self.allowance)?))?;
        self.stream.write(bytes)
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.read_bounded(into).map_err(|error| Allowance::note(&self.allowance, error))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_bounded(bytes).map_err(|error| Allowance::note(&self.allowance, error))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket while TLS is agreed on in pre-login packets, and afterwards.
#[derive(Debug)]
struct Wrapping {
    socket: Socket,
    /// `false` once the handshake is over.
    wrapped: bool,
    /// What is left of the packet being read.
    unread: usize,
    /// Records of one flight, which leave together.
    unsent: Vec<u8>,
}

impl Read for Wrapping {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.wrapped {
            return self.socket.read(into);
        }
        self.flush()?;
        while self.unread == 0 {
            let mut header = [0; HEADER_BYTES];
            self.socket.read_exact(&mut header)?;
            self.unread = prelogin::payload_bytes(header, &[prelogin::PRELOGIN, prelogin::ANSWER])?;
        }
        let most = into.len().min(self.unread);
        let count = self.socket.read(&mut into[..most])?;
        self.unread -= count;
        Ok(count)
    }
}

impl Write for Wrapping {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.wrapped {
            return self.socket.write(bytes);
        }
        self.unsent.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let unsent = std::mem::take(&mut self.unsent);
        if unsent.is_empty() { Ok(()) } else { self.socket.write_all(&prelogin::packets(&unsent)) }
    }
}

#[derive(Debug)]
enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Wrapping>>),
}

/// What tiberius reads and writes.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    /// Bytes of tiberius' own pre-login so far; `None` once it is whole.
    own: Option<Vec<u8>>,
    /// What is left of the answer to it.
    answer: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.answer.is_empty() {
            let count = into.len().min(self.answer.len());
            into[..count].copy_from_slice(&self.answer[..count]);
            self.answer.drain(..count);
            return Ok(count);
        }
        match &mut self.stream {
            Stream::Plain(socket) => socket.read(into),
            Stream::Tls(tls) => tls.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(own) = &mut self.own {
            own.extend_from_slice(bytes);
            if prelogin::is_whole(own) {
                self.own = None;
            }
            return Ok(bytes.len());
        }
        match &mut self.stream {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

/// Why there is no way.
#[derive(Debug)]
pub(super) enum Refused {
    /// TLS was asked for, and the server has none.
    WithoutTls,
    /// The server wants TLS, which is switched off here.
    OnlyTls,
    /// The handshake failed.
    Tls(native_tls::Error),
    /// The socket failed.
    Io(io::Error),
    /// The server does not speak TDS.
    Nonsense(&'static str),
    /// It did not come to that.
    Before(Fault),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Refused::Nonsense("no pre-login"),
            _ => Refused::Io(error),
        }
    }
}

/// Connects and agrees on encryption; with `tls` nothing but a handshake and what is encrypted leaves after it.
pub(super) fn open(target: &Target, tls: bool, allowance: &Arc<Mutex<Allowance>>) -> Result<Wire, Refused> {
    let stream = target.connect_tcp().map_err(Refused::Before)?;
    let mut socket = Socket { stream, allowance: Arc::clone(allowance) };
    let wanted = if tls { Encryption::On } else { Encryption::NotSupported };
    socket.write_all(&prelogin::packets(&prelogin::request(wanted)))?;
    let answered = prelogin::encryption(&read_packet(&mut socket)?).map_err(Refused::Nonsense)?;
    let stream = match (tls, answered) {
        (false, Encryption::Off | Encryption::NotSupported) => Stream::Plain(socket),
        (false, Encryption::On | Encryption::Required) => return Err(Refused::OnlyTls),
        (true, Encryption::Off | Encryption::NotSupported) => return Err(Refused::WithoutTls),
        (true, Encryption::On | Encryption::Required) => {
            // Only now: it reads the system's CAs, which a server that is down is not worth. TDS 7 has no place for
            // what TLS 1.3 sends after its handshake.
            let connector = target.tls_connector_up_to(Some(Protocol::Tlsv12)).map_err(Refused::Before)?;
            Stream::Tls(Box::new(handshake(&connector, &target.server, socket)?))
        }
    };
    Ok(Wire { stream, own: Some(Vec::new()), answer: prelogin::answer_without_encryption() })
}

fn read_packet(socket: &mut Socket) -> Result<Vec<u8>, Refused> {
    let mut header = [0; HEADER_BYTES];
    socket.read_exact(&mut header)?;
    // A pre-login's answer is some 40 bytes: one packet, and at most 64 KiB whatever its header says.
    let mut payload = vec![0; prelogin::payload_bytes(header, &[prelogin::ANSWER])?];
    socket.read_exact(&mut payload)?;
    Ok(payload)
}

fn handshake(connector: &TlsConnector, host: &str, socket: Socket) -> Result<TlsStream<Wrapping>, Refused> {
    let wrapping = Wrapping { socket, wrapped: true, unread: 0, unsent: Vec::new() };
    let mut tls = match connector.connect(host, wrapping) {
        Ok(tls) => tls,
        Err(HandshakeError::Failure(error)) => return Err(Refused::Tls(error)),
        Err(HandshakeError::WouldBlock(_)) => return Err(Refused::Io(io::ErrorKind::TimedOut.into())),
    };
    tls.get_mut().flush()?;
    tls.get_mut().wrapped = false;
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let allowance = Allowance::start(Duration::from_millis(80), 10);
        (Socket { stream, allowance }, listener.accept().unwrap().0)
    }

    #[test]
    fn a_read_without_an_answer_ends_at_the_deadline() {
        let (mut socket, _peer) = pair();
        let began = Instant::now();
        assert_eq!(socket.read(&mut [0; 4]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        // Past the deadline nothing waits at all.
        assert_eq!(socket.read(&mut [0; 4]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(socket.write(b"x").unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(Allowance::failed(&socket.allowance).is_some());
    }

    #[test]
    fn more_bytes_than_allowed_are_an_error_until_the_next_call() {
        let (mut socket, mut peer) = pair();
        peer.write_all(&[7; 24]).unwrap();
        Allowance::renew(&socket.allowance, Duration::from_secs(5), 10);
        assert_eq!(socket.read(&mut [0; 8]).unwrap(), 8);
        assert!(socket.read(&mut [0; 8]).unwrap_err().to_string().contains("no end"));
        Allowance::renew(&socket.allowance, Duration::from_secs(5), 10);
        assert_eq!(socket.read(&mut [0; 8]).unwrap(), 8);
    }
}
