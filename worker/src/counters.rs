//! What is counted, per channel, since the worker started. Every thread counts; the reactor reports once a second.

use crate::plan::Plan;
use hl7::mllp::Deviation;
use link::{Histogram, Status};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The counters of one worker.
#[derive(Debug)]
pub struct Counters {
    /// Open connections.
    pub connections: AtomicU64,
    /// Frames that came whole.
    pub received: AtomicU64,
    /// Messages acknowledged positively and kept.
    pub accepted: AtomicU64,
    /// Messages that had come before.
    pub duplicates: AtomicU64,
    /// Acknowledgments that peers sent us; never answered.
    pub inbound_acknowledgments: AtomicU64,
    /// Connections that were not taken.
    pub refused_connections: AtomicU64,
    /// TLS connections that came to nothing, or broke off for a reason of TLS.
    pub tls_failed: AtomicU64,
    /// Bytes read from peers.
    pub bytes_in: AtomicU64,
    /// Attachments delivered without their stamp.
    pub unstamped: AtomicU64,
    /// Messages done.
    pub delivered: AtomicU64,
    /// Bytes of the journal on disk.
    pub journal_bytes: AtomicU64,
    /// The channel reads nothing for want of room.
    pub closed_for_room: AtomicBool,
    framing: [AtomicU64; Deviation::ALL.len()],
    again: Vec<AtomicU64>,
    failed: Mutex<BTreeMap<String, u64>>,
    refused: Mutex<BTreeMap<String, u64>>,
    ack_seconds: Mutex<Histogram>,
    delivery_seconds: Mutex<Histogram>,
}

impl Counters {
    /// All zero.
    pub fn new(plan: &Plan) -> Counters {
        let zero = AtomicU64::default;
        Counters {
            connections: zero(),
            received: zero(),
            accepted: zero(),
            duplicates: zero(),
            inbound_acknowledgments: zero(),
            refused_connections: zero(),
            tls_failed: zero(),
            bytes_in: zero(),
            unstamped: zero(),
            delivered: zero(),
            journal_bytes: zero(),
            closed_for_room: AtomicBool::new(false),
            framing: std::array::from_fn(|_| zero()),
            again: (0..plan.len()).map(|_| zero()).collect(),
            failed: Mutex::default(),
            refused: Mutex::default(),
            ack_seconds: Mutex::default(),
            delivery_seconds: Mutex::default(),
        }
    }

    /// A framing deviation.
    pub fn framing(&self, what: Deviation) {
        if let Some(at) = Deviation::ALL.iter().position(|d| *d == what) {
            self.framing[at].fetch_add(1, Relaxed);
        }
    }

    /// A refused message, by its error code of table HL70357.
    pub fn refused(&self, error: u16) {
        *locked(&self.refused).entry(error.to_string()).or_default() += 1;
    }

    /// A step that is tried again.
    pub fn again(&self, place: usize) {
        self.again[place].fetch_add(1, Relaxed);
    }

    /// A message that failed in a step.
    pub fn failed(&self, step: &str) {
        *locked(&self.failed).entry(step.to_owned()).or_default() += 1;
    }

    /// From a message's last byte to its acknowledgment, for all messages of one flush.
    pub fn acknowledged(&self, waits: impl Iterator<Item = Duration>) {
        let mut histogram = locked(&self.ack_seconds);
        waits.for_each(|wait| histogram.record(wait));
    }

    /// From acceptance to done.
    pub fn done(&self, waits: impl Iterator<Item = Duration>) {
        let mut histogram = locked(&self.delivery_seconds);
        waits.for_each(|wait| {
            histogram.record(wait);
            self.delivered.fetch_add(1, Relaxed);
        });
    }

    /// What the master is told; the dispatcher and the failed folder add theirs.
    pub fn status(&self, plan: &Plan) -> Status {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let framing = Deviation::ALL.iter().zip(&self.framing);
        Status {
            connections: of(&self.connections),
            received: of(&self.received),
            accepted: of(&self.accepted),
            refused: locked(&self.refused).clone(),
            duplicates: of(&self.duplicates),
            bytes_in: of(&self.bytes_in),
            framing: framing
                .filter(|(_, n)| of(n) > 0)
                .map(|(what, n)| (what.code().to_owned(), of(n)))
                .chain([
                    ("inbound_acknowledgment".to_owned(), of(&self.inbound_acknowledgments)),
                    ("connection_refused".to_owned(), of(&self.refused_connections)),
                    ("tls_failed".to_owned(), of(&self.tls_failed)),
                ])
                .filter(|(_, n)| *n > 0)
                .collect(),
            unstamped: of(&self.unstamped),
            delivered: of(&self.delivered),
            again: self.again.iter().enumerate().map(|(at, n)| (plan.name(at).to_owned(), of(n))).collect(),
            failed: locked(&self.failed).clone(),
            journal_bytes: of(&self.journal_bytes),
            ack_seconds: locked(&self.ack_seconds).clone(),
            delivery_seconds: locked(&self.delivery_seconds).clone(),
            closed_for_room: self.closed_for_room.load(Relaxed),
            ..Status::default()
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
