//! The sending side of MLLP for `send`, `bench` and `demo`: one connection, blocking, a deadline on every wait.

use super::tls;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Start of a frame.
pub(super) const VT: u8 = 0x0B;
/// End of a frame, with the carriage return after it.
pub(super) const FS: u8 = 0x1C;
/// Carriage return.
pub(super) const CR: u8 = 0x0D;

/// An answer longer than this is not an acknowledgment.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A connection to an MLLP server.
pub(super) struct Client {
    stream: Stream,
    answers: Answers,
    timeout: Duration,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tls::Stream>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => &tls.sock,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(tls) => tls.read(buffer).map_err(tls::in_words),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.write_all(bytes),
            Stream::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()).map_err(tls::in_words),
        }
    }
}

impl Client {
    /// Connects to the first address of `to` that answers in time, over TLS where there is a connector.
    pub(super) fn connect(to: &str, tls: Option<&tls::Connector>, timeout: Duration) -> io::Result<Client> {
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in to.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    socket.set_read_timeout(Some(timeout))?;
                    socket.set_write_timeout(Some(timeout))?;
                    let stream = match tls {
                        None => Stream::Plain(socket),
                        Some(tls) => Stream::Tls(Box::new(tls.connect(socket).map_err(timed_out)?)),
                    };
                    return Ok(Client { stream, answers: Answers::default(), timeout });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Sends one message and waits for the body of the frame that answers it.
    pub(super) fn exchange(&mut self, message: &[u8]) -> io::Result<Vec<u8>> {
        self.send(message)?;
        self.answer()
    }

    /// Sends one message in a frame, in one write where the socket's buffer has room for it.
    pub(super) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.stream.socket().set_write_timeout(Some(self.timeout))?;
        self.stream.write_all(&framed(message)).map_err(timed_out)
    }

    /// The body of the next frame that comes.
    pub(super) fn answer(&mut self) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + self.timeout;
        let mut chunk = [0; 16 << 10];
        loop {
            if let Some(body) = self.answers.next() {
                return Ok(body.to_vec());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::TimedOut, "time is up"));
            }
            self.stream.socket().set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection was closed")),
                Ok(n) => self.answers.feed(&chunk[..n])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(timed_out(error)),
            }
        }
    }
}

/// A socket's time-out reads as "resource temporarily unavailable"; say what happened.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => io::Error::new(ErrorKind::TimedOut, "time is up"),
        _ => error,
    }
}

/// VT, the message, FS, CR.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(message.len() + 3);
    frame.push(VT);
    frame.extend_from_slice(message);
    frame.extend_from_slice(&[FS, CR]);
    frame
}

/// Cuts the frames of answers out of what was read. Simpler than the server's decoder, since answers come from a peer
/// that we chose: what is no frame is skipped.
#[derive(Default)]
pub(super) struct Answers {
    bytes: Vec<u8>,
    /// Before it everything has been handed out.
    taken: usize,
    /// Before it no frame ends.
    scanned: usize,
}

impl Answers {
    /// Takes what was read.
    pub(super) fn feed(&mut self, read: &[u8]) -> io::Result<()> {
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            (self.taken, self.scanned) = (0, 0);
        } else if self.taken > 64 << 10 {
            self.bytes.drain(..self.taken);
            self.scanned -= self.taken;
            self.taken = 0;
        }
        self.bytes.extend_from_slice(read);
        if self.bytes.len() - self.taken > ANSWER_BYTES_MAX {
            return Err(io::Error::new(ErrorKind::InvalidData, "over 1 MiB came without the end of a frame"));
        }
        Ok(())
    }

    /// The body of the next whole frame.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let rest = &self.bytes[self.scanned..];
        let Some(end) = rest.windows(2).position(|pair| pair == [FS, CR]) else {
            // A lone FS at the end may get its CR with the next read.
            self.scanned = self.bytes.len().saturating_sub(1).max(self.taken);
            return None;
        };
        let end = self.scanned + end;
        let start = self.taken;
        self.taken = end + 2;
        self.scanned = self.taken;
        let frame = &self.bytes[start..end];
        let body = frame.iter().position(|byte| *byte == VT).map_or(frame, |vt| &frame[vt + 1..]);
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_out_whole_however_they_are_split() {
        let stream: Vec<u8> =
            [framed(b"MSH|one\rMSA|AA|1\r"), b"\r\n".to_vec(), framed(b"MSH|two\r")].concat();
        for step in 1..=stream.len() {
            let mut answers = Answers::default();
            let mut found = Vec::new();
            for part in stream.chunks(step) {
                answers.feed(part).unwrap();
                while let Some(body) = answers.next() {
                    found.push(body.to_vec());
                }
            }
            assert_eq!(found, [b"MSH|one\rMSA|AA|1\r".to_vec(), b"MSH|two\r".to_vec()], "read by {step}");
        }
    }

    #[test]
    fn an_endless_answer_is_given_up() {
        let mut answers = Answers::default();
        let chunk = vec![b'A'; 600 << 10];
        assert!(answers.feed(&chunk).is_ok());
        assert!(answers.next().is_none());
        assert!(answers.feed(&chunk).is_err());
    }
}
