//! Bytes to and from one peer, plain or over TLS, over a socket that never blocks.

mod secured;

use crate::tls::{Acceptor, TlsFault};
use mio::net::TcpStream;
use rustix::net::sockopt;
use rustls::ServerConnection;
use secured::Secured;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Silence after which the peer is asked whether it is still there, how often, and how many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 6);
/// How long sent bytes may stay unconfirmed before the connection counts as broken: as long as keep-alive takes.
const USER_TIMEOUT_MS: u32 = 120_000;

/// One peer's bytes.
#[derive(Debug)]
pub struct Transport {
    stream: Arc<TcpStream>,
    tls: Option<Box<Secured>>,
}

impl Transport {
    /// Over an accepted connection.
    ///
    /// # Errors
    /// A socket option cannot be set: the peer is gone already.
    pub fn new(stream: TcpStream, tls: Option<&Acceptor>) -> io::Result<Transport> {
        // A simulation's peers are at the other end of a pair of sockets that knows nothing of TCP.
        if !cfg!(test) || stream.peer_addr().is_ok() {
            stream.set_nodelay(true)?;
            sockopt::set_socket_keepalive(&stream, true)?;
            sockopt::set_tcp_keepidle(&stream, KEEPALIVE.0)?;
            sockopt::set_tcp_keepintvl(&stream, KEEPALIVE.1)?;
            sockopt::set_tcp_keepcnt(&stream, KEEPALIVE.2)?;
            sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT_MS)?;
        }
        let tls = tls.map(|tls| ServerConnection::new(Arc::clone(&tls.config)));
        let tls = tls.transpose().map_err(io::Error::other)?;
        Ok(Transport { stream: Arc::new(stream), tls: tls.map(|tls| Box::new(Secured::new(tls))) })
    }

    /// What the event loop watches.
    pub fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// The connection itself, where nothing lies between it and the session.
    pub fn plain(&self) -> Option<Arc<TcpStream>> {
        self.tls.is_none().then(|| Arc::clone(&self.stream))
    }

    /// Whether the peer is not known yet: nothing of MLLP comes before its handshake is done.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether a byte of a handshake has come.
    pub fn has_begun_handshake(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_begun())
    }

    /// The version of TLS, once the handshake is done; `None` in plain text.
    pub fn tls_version(&self) -> Option<&'static str> {
        self.tls.as_ref()?.version()
    }

    /// What the peer is called in the certificate it showed.
    pub fn tls_name(&self) -> Option<&str> {
        self.tls.as_ref()?.name()
    }

    /// As [`Read::read`]; `WouldBlock` where nothing is there. After an error that is a [`TlsFault`] the peer is still
    /// there: what it sends is read as it is, to be dropped, until it has seen why.
    ///
    /// # Errors
    /// The connection.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(tls) = &mut self.tls {
            return tls.read(&mut &*self.stream, buffer);
        }
        loop {
            match (&*self.stream).read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// As [`Write::write`]; fewer than all where the peer's window is full. The next call begins with those that are left.
    ///
    /// # Errors
    /// The connection.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(tls) = &mut self.tls {
            return tls.write(&mut &*self.stream, bytes);
        }
        loop {
            match (&*self.stream).write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                other => return other,
            }
        }
    }

    /// Writes what TLS has of its own to say, or could not write before.
    ///
    /// # Errors
    /// The connection.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.flush(&mut &*self.stream).map(drop),
            None => Ok(()),
        }
    }

    /// Nothing more will be written.
    pub fn end_writing(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.end_writing(&mut &*self.stream);
        }
        // A peer that is gone already needs not be told.
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

/// The fault of TLS that an error of a [`Transport`] is, if it is one.
pub fn tls_fault(error: &io::Error) -> Option<&TlsFault> {
    error.get_ref()?.downcast_ref()
}
