//! The client of the control socket.

use super::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, Request, Response, SOCKET};
use link::codec::{self, Deframer};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Why there is no response.
#[derive(Debug)]
pub enum CallFault {
    /// Nobody listens there: no server runs, or it has another `runtime_path`.
    NotRunning(PathBuf),
    /// The socket's permissions keep this user out.
    Denied(PathBuf),
    /// The server did not answer in time.
    TimedOut(Duration),
    /// The request is too long, or the response is none.
    Malformed(String),
    /// The connection broke.
    Io(io::Error),
}

impl fmt::Display for CallFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(path) => {
                write!(
                    f,
                    "no server answers at \"{}\". Is it running, with this runtime_path?",
                    path.display()
                )
            }
            Self::Denied(path) => {
                let path = path.display();
                write!(f, "could not connect to \"{path}\": permission denied. Group hl7server may")
            }
            Self::TimedOut(timeout) => write!(f, "the server did not answer in {} s", timeout.as_secs_f64()),
            Self::Malformed(what) => write!(f, "{what}"),
            Self::Io(e) => write!(f, "connection to the server broke: {e}"),
        }
    }
}

impl std::error::Error for CallFault {}

/// Asks the server below `runtime_path` and waits at most `timeout` for its response.
pub fn call(runtime_path: &Path, request: &Request, timeout: Duration) -> Result<Response, CallFault> {
    let deadline = Instant::now() + timeout;
    let path = runtime_path.join(SOCKET);
    let frame = codec::encode(request, REQUEST_BYTES_MAX).map_err(|e| CallFault::Malformed(e.to_string()))?;
    let mut stream = UnixStream::connect(&path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => CallFault::NotRunning(path),
        io::ErrorKind::PermissionDenied => CallFault::Denied(path),
        _ => CallFault::Io(e),
    })?;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(CallFault::TimedOut(timeout)) } else { Ok(left) }
    };
    let broke = |e: io::Error| match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CallFault::TimedOut(timeout),
        _ => CallFault::Io(e),
    };
    stream.set_write_timeout(Some(left()?)).map_err(CallFault::Io)?;
    stream.write_all(&frame).map_err(broke)?;
    let mut deframer = Deframer::new(RESPONSE_BYTES_MAX);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        stream.set_read_timeout(Some(left()?)).map_err(CallFault::Io)?;
        match stream.read(&mut buffer) {
            Ok(0) => return Err(CallFault::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(bytes) => deframer.push(&buffer[..bytes]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(broke(e)),
        }
        match deframer.take() {
            Ok(Some(response)) => return Ok(response),
            Ok(None) => {}
            Err(e) => return Err(CallFault::Malformed(e.to_string())),
        }
    }
}
