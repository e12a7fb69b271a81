//! What the master tells a worker.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// From the master to a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// The first order. Two descriptors come with it, in this order: the listener, the slot table.
    Start(Start),
    /// Stop accepting, finish what is begun, flush, exit 0. Said once; TERM means the same.
    Drain {
        /// After that long the master kills.
        timeout_ms: u64,
    },
    /// These files have other contents than those that came with the start, or with the last order of this kind; the
    /// settings are the same. New connections go by them, those that are there stay as they are.
    Files(Files),
    /// Write a status line into the log.
    LogStatus,
    /// Answer with [`Report::Answer`](crate::Report::Answer) and this id.
    Ask {
        /// Chosen by the master.
        id: u64,
        /// What is asked.
        question: Question,
    },
}

/// All that a worker starts from: it reads no file and has an empty environment (but for `TZ`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// `config::WorkerSettings` as JSON.
    pub settings: String,
    /// The values of the secrets that the settings name, and no others.
    pub secrets: BTreeMap<String, SecretValue>,
    /// The contents of the files that the settings name and that a worker cannot open for itself.
    pub files: Files,
    /// The worker's owner number in the slot table; never that of another worker of this master.
    pub slot_owner: u32,
    /// Standard error goes to the journal of systemd: lines carry its priority prefix (`<6>`).
    pub journald: bool,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// How the channel's last worker ended; `None` where this master has had none. Tells whose fault the messages are
    /// that are found started.
    pub predecessor: Option<Death>,
}

/// Certificates, keys: path as in the settings → contents. Contents, and no open descriptors: the master has checked them
/// together, and what a worker gets cannot change between the check and the use. Keys are among them, so all of them are
/// handled as secrets.
pub type Files = BTreeMap<PathBuf, SecretValue>;

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Death {
    /// By its own exit, with this status.
    Exited(i32),
    /// By a crash signal (SEGV, BUS, ILL, FPE, ABRT, SYS, TRAP, XCPU, XFSZ) with this number: a message may be at fault.
    Crashed(i32),
    /// By KILL, or another signal that names no fault, from outside: out of memory, an operator, or the master after
    /// 30 s without a report.
    Killed,
    /// By the master's will: it drained, or was killed when the time for that was over. No message is at fault.
    Stopped,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Crashed(signal) => write!(f, "crash by signal {signal}"),
            Self::Killed => write!(f, "killed"),
            Self::Stopped => write!(f, "stopped"),
        }
    }
}

/// A secret on its way to the worker that uses it. `Debug` hides it; it has no `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretValue(String);

impl SecretValue {
    /// Wraps a value.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(hidden)")
    }
}

/// What the command line asks of one worker, passed on by the master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// The messages that wait, oldest first.
    Queue {
        /// At most so many; [`QUEUE_MAX`](crate::QUEUE_MAX) bounds it.
        limit: u32,
    },
    /// Try failed messages again.
    Retry(Selection),
    /// Give failed messages up for good.
    Discard(Selection),
    /// Who is connected.
    Peers,
    /// Be taken over; see [`Takeover`](crate::Takeover).
    #[cfg(debug_assertions)]
    Takeover(crate::Takeover),
}

/// Which failed messages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Message ids.
    pub ids: Vec<String>,
    /// Every one, instead of `ids`.
    pub all: bool,
    /// Only those that failed in this step.
    pub step: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows_in_debug() {
        let start = Start {
            settings: String::new(),
            secrets: [("DB".to_owned(), SecretValue::new("hunter2".to_owned()))].into(),
            files: [("/key.pem".into(), SecretValue::new("hunter2".to_owned()))].into(),
            slot_owner: 1,
            journald: false,
            log_level: "info".to_owned(),
            predecessor: Some(Death::Crashed(11)),
        };
        assert!(!format!("{start:?}").contains("hunter2"));
        let text = serde_json::to_string(&Order::Start(start.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), Order::Start(start));
    }
}
