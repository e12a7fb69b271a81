//! What a worker does once somebody has taken it over. For the tests of the sandbox alone: built without
//! `debug_assertions`, as every release is, this is not there.

use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// Longer than a connection on this machine takes.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// One thing to try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Takeover {
    /// Read a file, or list a folder.
    Read(PathBuf),
    /// Make a file.
    Write(PathBuf),
    /// Connect by TCP.
    Connect(SocketAddr),
    /// Listen on a TCP port.
    Listen(SocketAddr),
    /// Look up a name.
    Resolve(String),
    /// A system call that takes no pointer, or that finds its null pointers at fault only after its permissions.
    SystemCall {
        /// Its number.
        number: i64,
        /// Its arguments.
        arguments: [i64; 6],
    },
}

impl Takeover {
    /// Tries it: 0, or the number of the error.
    pub fn attempt(&self) -> i32 {
        let outcome = match self {
            Self::Read(path) if path.is_dir() => std::fs::read_dir(path).map(drop),
            Self::Read(path) => std::fs::read(path).map(drop),
            Self::Write(path) => std::fs::write(path, b"taken over"),
            Self::Connect(address) => TcpStream::connect_timeout(address, CONNECT_WITHIN).map(drop),
            Self::Listen(address) => std::net::TcpListener::bind(address).map(drop),
            Self::Resolve(name) => std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 1)).map(drop),
            Self::SystemCall { number, arguments } => system_call(*number, *arguments),
        };
        outcome.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0)
    }
}

fn system_call(number: i64, arguments: [i64; 6]) -> std::io::Result<()> {
    let us = std::process::id();
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the arguments are numbers and null pointers, by the contract of `SystemCall`; what such a call does to this
    // process is what the test is about.
    let given = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if std::process::id() != us {
        // A fork that should have been denied: the copy is nobody.
        std::process::abort();
    }
    if given < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
