//! What a worker tells the master. The master parses all of it as hostile: see [`Report::bound`].

use crate::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Entries of one [`Answer::Queue`]. With the text limits below its JSON stays under the 1 MiB of a report.
pub const QUEUE_MAX: usize = 500;
/// Entries of one [`Answer::Peers`].
pub const PEERS_MAX: usize = 500;
/// Entries of a map of counters: framing deviations, refusal codes and steps of one channel are far fewer.
const COUNTERS_MAX: usize = 64;
/// Entries of one [`Report::Contacts`].
pub const CONTACTS_MAX: usize = 64;
/// Bytes of a counter's name.
const NAME_BYTES_MAX: usize = 64;
/// Bytes of a text that is shown.
const TEXT_BYTES_MAX: usize = 256;
/// Problems of one [`Answer::Changed`].
const PROBLEMS_MAX: usize = 100;

/// From a worker to the master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// Recovery is over and the worker accepts.
    Ready {
        /// The worker's pid as it sees it; the master logs a difference and believes its own.
        pid: u32,
        /// Messages found open in the journal.
        waiting: u64,
    },
    /// The counters, once a second; at the same time the sign of life.
    Status(Box<Status>),
    /// To an [`Order::Ask`](crate::Order::Ask).
    Answer {
        /// The order's id.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// Who connected, or was refused, since the last of these; for the audit.
    Contacts(Vec<Contact>),
    /// Why the worker is about to exit 75 or 78.
    CannotStart {
        /// In a log line's wording.
        reason: String,
    },
}

/// What is counted, per channel, since the worker started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Open connections.
    pub connections: u64,
    /// Frames that came whole.
    pub received: u64,
    /// Messages acknowledged positively and kept.
    pub accepted: u64,
    /// Messages refused, by error code (HL70357).
    pub refused: BTreeMap<String, u64>,
    /// Messages that had come before.
    pub duplicates: u64,
    /// Bytes read from peers.
    pub bytes_in: u64,
    /// Framing deviations, by their code.
    pub framing: BTreeMap<String, u64>,
    /// Messages done.
    pub delivered: u64,
    /// Tries that ended `again`, by step.
    pub again: BTreeMap<String, u64>,
    /// Messages that failed, by step.
    pub failed: BTreeMap<String, u64>,
    /// Messages now in the failed folder.
    pub failed_now: u64,
    /// Steps that a filter skipped, by step.
    pub skipped: BTreeMap<String, u64>,
    /// Messages accepted and not yet ended.
    pub waiting: u64,
    /// Age of the oldest of them.
    pub oldest_waiting_seconds: f64,
    /// Bytes of the journal on disk.
    pub journal_bytes: u64,
    /// Task slots held.
    pub slots_used: u64,
    /// Attachments delivered without their stamp.
    pub unstamped: u64,
    /// From a message's last byte to its acknowledgment.
    pub ack_seconds: Histogram,
    /// From acceptance to done.
    pub delivery_seconds: Histogram,
    /// When the certificate that the channel shows its peers expires, in seconds since 1970; `None` without TLS.
    pub certificate_expires: Option<i64>,
    /// The channel reads nothing at the moment, for want of room on the disk.
    pub closed_for_room: bool,
    /// What closes the worker in: the level of its sandbox that this kernel gives.
    pub sandbox: String,
}

/// Connections of one kind from one address, which may be many.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Contact {
    /// Its address, without a port.
    pub peer: String,
    /// Why they were refused; `None` where they were taken.
    pub refused: Option<String>,
    /// The version of TLS; `None` for plain text.
    pub tls: Option<String>,
    /// The name in the certificate that it showed.
    pub name: Option<String>,
    /// So many, since they were last told of.
    pub count: u64,
}

/// The answer to a [`Question`](crate::Question).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The oldest that wait, and how many wait in all.
    Queue(Vec<Waiting>, u64),
    /// A retry or discard was carried out.
    Changed {
        /// So many messages.
        count: u64,
        /// Why others were not.
        problems: Vec<String>,
    },
    /// Who is connected.
    Peers(Vec<Peer>),
    /// What a takeover came to: 0, or the number of the error.
    #[cfg(debug_assertions)]
    TakenOver(i32),
    /// It could not be answered.
    Error(String),
}

/// A message that waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// Message id.
    pub id: String,
    /// MSH-10, as text.
    pub control_id: String,
    /// MSH-9, as `ADT^A01`.
    pub message_type: String,
    /// When it came, in microseconds since 1970.
    pub received_us: i64,
    /// The step it waits in; empty before the first.
    pub step: String,
    /// Tries of that step so far.
    pub attempt: u32,
    /// When the step is tried again, in microseconds since 1970; `None` where it only waits its turn.
    pub until_us: Option<i64>,
    /// Why the last try did not do; empty without one.
    pub reason: String,
}

/// A connected peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Address and port.
    pub address: String,
    /// Since when, in microseconds since 1970.
    pub connected_us: i64,
    /// Messages it sent.
    pub messages: u64,
    /// When the last of them came.
    pub last_message_us: Option<i64>,
    /// Its framing deviations, by their code.
    pub framing: BTreeMap<String, u64>,
    /// The version of TLS it speaks; `None` for plain text, and until the handshake is done.
    #[serde(default)]
    pub tls: Option<String>,
    /// The name in the certificate that it showed.
    #[serde(default)]
    pub tls_name: Option<String>,
}

impl Report {
    /// Cuts everything to its limit and takes control characters out of every text. Both ends do it: the worker so that
    /// its report fits, the master because it believes nothing.
    pub fn bound(&mut self) {
        match self {
            Self::Ready { .. } => {}
            Self::Status(status) => status.bound(),
            Self::Answer { answer, .. } => answer.bound(),
            Self::Contacts(contacts) => {
                contacts.truncate(CONTACTS_MAX);
                contacts.iter_mut().for_each(Contact::bound);
            }
            Self::CannotStart { reason } => clean(reason, TEXT_BYTES_MAX),
        }
    }
}

impl Status {
    fn bound(&mut self) {
        for counters in
            [&mut self.refused, &mut self.framing, &mut self.again, &mut self.failed, &mut self.skipped]
        {
            bound_counters(counters);
        }
        if !self.oldest_waiting_seconds.is_finite() || self.oldest_waiting_seconds < 0.0 {
            self.oldest_waiting_seconds = 0.0;
        }
        clean(&mut self.sandbox, TEXT_BYTES_MAX);
    }
}

impl Answer {
    fn bound(&mut self) {
        match self {
            Self::Queue(waiting, _) => {
                waiting.truncate(QUEUE_MAX);
                for message in waiting {
                    clean(&mut message.id, NAME_BYTES_MAX);
                    clean(&mut message.control_id, TEXT_BYTES_MAX);
                    clean(&mut message.message_type, NAME_BYTES_MAX);
                    clean(&mut message.step, NAME_BYTES_MAX);
                    clean(&mut message.reason, TEXT_BYTES_MAX);
                }
            }
            Self::Changed { problems, .. } => {
                problems.truncate(PROBLEMS_MAX);
                problems.iter_mut().for_each(|problem| clean(problem, TEXT_BYTES_MAX));
            }
            Self::Peers(peers) => {
                peers.truncate(PEERS_MAX);
                for peer in peers {
                    clean(&mut peer.address, NAME_BYTES_MAX);
                    bound_counters(&mut peer.framing);
                    for text in peer.tls.iter_mut().chain(&mut peer.tls_name) {
                        clean(text, NAME_BYTES_MAX);
                    }
                }
            }
            #[cfg(debug_assertions)]
            Self::TakenOver(_) => {}
            Self::Error(reason) => clean(reason, TEXT_BYTES_MAX),
        }
    }
}

impl Contact {
    fn bound(&mut self) {
        let Self { peer, refused, tls, name, count: _ } = self;
        clean(peer, NAME_BYTES_MAX);
        for text in [refused, tls, name].into_iter().flatten() {
            clean(text, TEXT_BYTES_MAX);
        }
    }
}

fn bound_counters(counters: &mut BTreeMap<String, u64>) {
    let fits = |name: &String| name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
    if counters.len() > COUNTERS_MAX || !counters.keys().all(fits) {
        *counters =
            std::mem::take(counters).into_iter().filter(|(name, _)| fits(name)).take(COUNTERS_MAX).collect();
    }
}

/// Replaces control characters (C0, DEL, C1) and cuts to `bytes_max`.
fn clean(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let end = text.floor_char_boundary(bytes_max - "…".len());
        text.truncate(end);
        text.push('…');
    }
    if text.chars().any(char::is_control) {
        *text = text.replace(char::is_control, "?");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn a_hostile_report_is_cut_and_cleaned() {
        let mut status = Status { oldest_waiting_seconds: f64::NAN, ..Status::default() };
        status.framing.insert("x\u{1b}[2J".to_owned(), 1);
        status.framing.insert("x".repeat(1000), 1);
        status.again = (0..1000).map(|n| (n.to_string(), n)).collect();
        let mut report = Report::Status(Box::new(status));
        report.bound();
        let Report::Status(status) = report else { unreachable!() };
        assert!(status.framing.is_empty());
        assert_eq!(status.again.len(), COUNTERS_MAX);
        assert_eq!(status.oldest_waiting_seconds, 0.0);

        let mut report = Report::CannotStart { reason: "a\nb\u{85}\u{7f}".to_owned() + &"é".repeat(500) };
        report.bound();
        let Report::CannotStart { reason } = report else { unreachable!() };
        assert!(reason.starts_with("a?b??é") && reason.ends_with('…') && reason.len() <= TEXT_BYTES_MAX);
    }

    #[test]
    fn the_longest_answers_fit_a_report() {
        let text = "\"".repeat(TEXT_BYTES_MAX * 2);
        let waiting = Waiting {
            id: text.clone(),
            control_id: text.clone(),
            message_type: text.clone(),
            received_us: i64::MIN,
            step: text.clone(),
            attempt: u32::MAX,
            until_us: Some(i64::MIN),
            reason: text.clone(),
        };
        let peer = Peer {
            address: text.clone(),
            connected_us: i64::MIN,
            messages: u64::MAX,
            tls: Some(text.clone()),
            tls_name: Some(text),
            ..Peer::default()
        };
        for answer in [Answer::Queue(vec![waiting; 10_000], 1), Answer::Peers(vec![peer; 10_000])] {
            let mut report = Report::Answer { id: 1, answer };
            report.bound();
            assert!(codec::encode(&report, 1 << 20).is_ok());
        }
    }
}
