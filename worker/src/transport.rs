//! Bytes to and from one peer, over a socket that never blocks.

use mio::net::TcpStream;
use rustix::net::sockopt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

/// Silence after which the peer is asked whether it is still there, how often, and how many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 6);
/// How long sent bytes may stay unconfirmed before the connection counts as broken: as long as keep-alive takes.
const USER_TIMEOUT_MS: u32 = 120_000;

/// One peer's bytes.
#[derive(Debug)]
pub struct Transport {
    stream: TcpStream,
}

impl Transport {
    /// Over an accepted connection.
    ///
    /// # Errors
    /// A socket option cannot be set: the peer is gone already.
    pub fn new(stream: TcpStream) -> io::Result<Transport> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE.0)?;
        sockopt::set_tcp_keepintvl(&stream, KEEPALIVE.1)?;
        sockopt::set_tcp_keepcnt(&stream, KEEPALIVE.2)?;
        sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT_MS)?;
        Ok(Transport { stream })
    }

    /// What the event loop watches.
    pub fn source(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// As [`Read::read`]; `WouldBlock` where nothing is there.
    ///
    /// # Errors
    /// The connection.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// As [`Write::write`]; 0 where the peer's window is full.
    ///
    /// # Errors
    /// The connection.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                other => return other,
            }
        }
    }

    /// Nothing more will be written.
    pub fn end_writing(&self) {
        // A peer that is gone already needs not be told.
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}
