//! One connection of a load: what is to be sent over it, and what is not answered yet.

use super::super::mllp::Answers;
use super::super::tls;
use super::template::Template;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Up to this size whole frames are gathered in one buffer; larger tails are sent from where they are.
const COPIED_TAIL_BYTES_MAX: usize = 16 << 10;
/// A handshake that takes longer is not coming.
const HANDSHAKE_MAX: Duration = Duration::from_secs(20);

pub(super) struct Peer {
    stream: Stream,
    pub(super) answers: Answers,
    /// What is to be sent, of which so much is written.
    out: Vec<u8>,
    written: usize,
    /// After `out`: the template's tail from there.
    tail: Option<usize>,
    /// Messages not answered yet: number, and when it was due or sent.
    pub(super) open: VecDeque<(u64, Instant)>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tls::Stream>),
}

impl Peer {
    /// Connects, and shakes hands where there is a connector; from then on nothing blocks.
    pub(super) fn connect(to: SocketAddr, tls: Option<&tls::Connector>) -> io::Result<Peer> {
        let socket = TcpStream::connect(to)?;
        socket.set_nodelay(true)?;
        let stream = match tls {
            None => Stream::Plain(socket),
            Some(tls) => {
                socket.set_read_timeout(Some(HANDSHAKE_MAX))?;
                Stream::Tls(Box::new(tls.connect(socket)?))
            }
        };
        let peer = Peer {
            stream,
            answers: Answers::default(),
            out: Vec::new(),
            written: 0,
            tail: None,
            open: VecDeque::new(),
        };
        peer.socket().set_nonblocking(true)?;
        Ok(peer)
    }

    pub(super) fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => &tls.sock,
        }
    }

    /// Puts message `number` behind what is to be sent. Not while a tail is.
    pub(super) fn make(&mut self, template: &Template, number: u64, at: Instant) {
        debug_assert!(self.tail.is_none(), "a tail would be overtaken");
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        template.append_head(number, &mut self.out);
        if template.tail.len() <= COPIED_TAIL_BYTES_MAX {
            self.out.extend_from_slice(&template.tail);
        } else {
            self.tail = Some(0);
        }
        self.open.push_back((number, at));
    }

    /// A large message is still being sent.
    pub(super) fn has_tail(&self) -> bool {
        self.tail.is_some()
    }

    /// What is made and not written, but for a tail.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.out.len() - self.written
    }

    pub(super) fn is_sent(&self) -> bool {
        self.unsent_bytes() == 0 && self.tail.is_none()
    }

    /// Reads once; over TLS that also sends what the last write left behind. Zero bytes: the server has closed.
    pub(super) fn read(&mut self, chunk: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            let read = match &mut self.stream {
                Stream::Plain(socket) => socket.read(chunk),
                Stream::Tls(tls) => tls.read(chunk),
            };
            match read {
                Ok(read) => return Ok(Some(read)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes once. False when the socket takes no more.
    pub(super) fn write(&mut self, template: &Template) -> io::Result<bool> {
        let tail = &template.tail[self.tail.unwrap_or(template.tail.len())..];
        let parts = [IoSlice::new(&self.out[self.written..]), IoSlice::new(tail)];
        let written = match &mut self.stream {
            Stream::Plain(socket) => socket.write_vectored(&parts),
            Stream::Tls(tls) => tls.write_vectored(&parts),
        };
        let written = match written {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        let of_out = written.min(self.out.len() - self.written);
        self.written += of_out;
        if let Some(at) = self.tail {
            let at = at + written - of_out;
            self.tail = (at < template.tail.len()).then_some(at);
        }
        Ok(true)
    }
}
