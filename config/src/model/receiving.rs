//! How a channel receives: bounds, peers, answers, and which workflow a message takes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// `on_undecodable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnUndecodable {
    /// Accepted; undecodable bytes read as U+FFFD.
    #[default]
    Accept,
    /// Answered AE 102.
    Refuse,
}

/// `ack`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AckMode {
    /// AA once the message is flushed.
    #[default]
    Received,
    /// AA once every step is done.
    Processed,
}

/// `duplicates`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Duplicates {
    /// Acknowledged again, not processed again.
    #[default]
    Suppress,
    /// Processed again.
    Process,
}

/// What is done with a message, besides the common steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Workflow {
    /// A credential task for the patient.
    Credentials,
    /// Attachments are taken out and delivered.
    Document,
    /// Two patients become one.
    PatientMerge,
    /// Only the common steps.
    Store,
}

/// Message type (`ADT^A01`) → workflow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkflowTable {
    /// By `TYPE^EVENT`, or `TYPE` alone for every event of a type.
    pub by_type: BTreeMap<String, Workflow>,
    /// `"*"`: every other type.
    pub any: Option<Workflow>,
}

/// What bounds connections, buffers and the backlog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Connections at the same time.
    pub connections_max: usize,
    /// Connections of one address at the same time.
    pub connections_per_address_max: usize,
    /// No byte between frames for that long closes; zero never does.
    pub idle_timeout: Duration,
    /// No byte inside a frame for that long closes.
    pub message_timeout: Duration,
    /// All receive buffers of the worker together, in bytes.
    pub buffer_limit_bytes: usize,
    /// Accepted messages not yet delivered.
    pub backlog_max: usize,
}

/// An address and its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The network's address.
    pub address: IpAddr,
    /// Bits of it that count.
    pub prefix: u8,
}

/// MLLP over TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tls {
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM key.
    pub key: PathBuf,
    /// CA of client certificates, which are then mandatory.
    pub client_ca: Option<PathBuf>,
    /// Accepted CN or SAN of client certificates; empty for any.
    pub client_names: Vec<String>,
}

/// How a step that may pass later is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// First wait.
    pub first: Duration,
    /// Longest wait; waits double up to it.
    pub longest: Duration,
    /// After that long the step has failed.
    pub give_up: Duration,
}
