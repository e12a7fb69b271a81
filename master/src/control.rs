//! The control socket, `runtime_path/control.sock`: what the command line asks of a running server.
//!
//! Requests and responses are frames of [`link::codec`]. One connection may ask several times, one request after the
//! other. [`call`] is the client; the server's side is polled by the master and never blocks it.

mod client;
mod server;

pub use client::{CallFault, call};
pub(crate) use server::{ConnectionId, Control};

use link::{Answer, Question, Status};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// The socket's name below `runtime_path`.
pub const SOCKET: &str = "control.sock";

/// A request's JSON: some thousand message ids.
const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// A response's JSON: a thousand channels with every counter and both histograms full.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// How the server and its channels are.
    Status {
        /// Only this one.
        channel: Option<String>,
    },
    /// Load the file again.
    Reload,
    /// Passed on to one channel's worker.
    Ask {
        /// The channel.
        channel: String,
        /// The question.
        question: Question,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Status`].
    Status(ServerStatus),
    /// The file was loaded and is in force.
    Reloaded {
        /// What became of each channel.
        changes: Vec<ChannelChange>,
        /// Warnings of the load, as `FILE:LINE:COLUMN: KEY.PATH: …`.
        warnings: Vec<String>,
    },
    /// The file was not loaded; everything runs as before.
    Refused {
        /// Every error, as `FILE:LINE:COLUMN: KEY.PATH: …`.
        problems: Vec<String>,
    },
    /// To [`Request::Ask`], by the worker.
    Answer(Answer),
    /// It could not be done.
    Error(String),
}

/// A channel and what a reload did with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelChange {
    /// The channel's name.
    pub channel: String,
    /// What became of it.
    pub action: ChangeAction,
}

/// What a reload did with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeAction {
    /// Its first worker starts.
    Start,
    /// Its worker drains.
    Stop,
    /// Its worker drains and the next one takes over.
    Replace,
    /// Its worker, if it has one, runs on.
    Keep,
    /// Its worker runs on, with certificates that have changed.
    Renew,
}

impl fmt::Display for ChangeAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "started",
            Self::Stop => "stopped",
            Self::Replace => "replaced",
            Self::Keep => "kept",
            Self::Renew => "kept, with its certificates as they are now",
        })
    }
}

/// How the server is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// The program's version.
    pub version: String,
    /// `config_version` of the file.
    pub config_version: Option<String>,
    /// The master's pid.
    pub pid: u32,
    /// When it started, in microseconds since 1970.
    pub started_us: i64,
    /// The channels in the order of the file, then those that are in it no more.
    pub channels: Vec<ChannelStatus>,
}

/// How a channel is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Its name.
    pub name: String,
    /// Its port; 0 where only its journal is known.
    pub port: u16,
    /// The address it listens on.
    pub listen: IpAddr,
    /// Its worker's pid.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: ChannelState,
    /// Since when, in microseconds since 1970.
    pub since_us: i64,
    /// How often its worker was started again after a death.
    pub restarts: u64,
    /// What is wrong, in a log line's wording.
    pub problem: Option<String>,
    /// The worker's last report; of a dead one, what it said last.
    pub status: Status,
}

/// Where a channel is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelState {
    /// Its port could not be bound; tried again.
    Unbound,
    /// Its worker recovers the journal.
    Starting,
    /// Its worker accepts.
    Ready,
    /// Its worker finishes what is begun.
    Draining,
    /// Its worker was killed and is not gone yet.
    Killed,
    /// Its worker died; the next one comes.
    Backoff,
    /// Its worker found its configuration wrong, or its certificates cannot be used: not again until a reload.
    Disabled,
    /// `enabled: false`.
    Off,
    /// Not in the file, but it left a journal that may hold messages.
    Removed,
}

impl ChannelState {
    /// The word that tables show.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unbound => "unbound",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Killed => "killed",
            Self::Backoff => "backoff",
            Self::Disabled => "disabled",
            Self::Off => "off",
            Self::Removed => "removed",
        }
    }
}

impl fmt::Display for ChannelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
