//! A byte stream to a peer, plain or TLS, whose every wait ends at a deadline.
//!
//! The socket never blocks and waits are spent in `poll`: a socket's own timeouts bound one system call each, and a peer
//! that sends a byte a second would hold a thread inside one TLS record for ever.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// A connection.
#[derive(Debug)]
pub enum PeerStream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS, shaken hands.
    Tls(Box<native_tls::TlsStream<TcpStream>>),
}

impl PeerStream {
    /// Without TLS.
    ///
    /// # Errors
    /// The system's.
    pub fn plain(stream: TcpStream) -> io::Result<PeerStream> {
        stream.set_nonblocking(true)?;
        Ok(PeerStream::Plain(stream))
    }

    /// Reads what there is, once there is something. Zero bytes: the peer sends no more.
    ///
    /// # Errors
    /// `TimedOut` at the deadline; otherwise the connection's.
    pub fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            match self.try_read(buffer) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => wait(self.tcp(), PollFlags::IN, deadline)?,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// `TimedOut` at the deadline; otherwise the connection's.
    pub fn write_all(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                PeerStream::Plain(stream) => stream.write(bytes),
                PeerStream::Tls(stream) => stream.write(bytes),
            };
            match written {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => wait(self.tcp(), PollFlags::OUT, deadline)?,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether nothing came since the last read: no byte, no end, no error.
    pub fn is_quiet(&mut self) -> bool {
        matches!(self.try_read(&mut [0; 1]), Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            PeerStream::Plain(stream) => stream.read(buffer),
            PeerStream::Tls(stream) => stream.read(buffer),
        }
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            PeerStream::Plain(stream) => stream,
            PeerStream::Tls(stream) => stream.get_ref(),
        }
    }
}

/// Waits until a socket is ready.
///
/// # Errors
/// `TimedOut` at the deadline; otherwise the system's.
pub fn wait(stream: &TcpStream, what: PollFlags, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(stream, what)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;

    fn pair() -> (PeerStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (PeerStream::plain(ours).unwrap(), listener.accept().unwrap().0)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(100)
    }

    #[test]
    fn a_silent_peer_ends_a_read_at_the_deadline() {
        let (mut ours, _theirs) = pair();
        assert_eq!(ours.read(&mut [0; 9], soon()).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_peer_that_reads_nothing_ends_a_write_at_the_deadline() {
        let (mut ours, _theirs) = pair();
        let much = vec![0; 64 << 20];
        assert_eq!(ours.write_all(&much, soon()).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn bytes_and_an_end_both_break_the_quiet() {
        let (mut ours, mut theirs) = pair();
        assert!(ours.is_quiet());
        theirs.write_all(b"x").unwrap();
        wait(ours.tcp(), PollFlags::IN, Instant::now() + Duration::from_secs(5)).unwrap();
        assert!(!ours.is_quiet() && ours.is_quiet());
        drop(theirs);
        wait(ours.tcp(), PollFlags::IN, Instant::now() + Duration::from_secs(5)).unwrap();
        assert!(!ours.is_quiet());
    }
}
