//! One channel, one process: it receives, journals, acknowledges and delivers.
//!
//! ```text
//! accept:  reactor → transport → session → intake (admission) → committer → journal ─┐ flushed
//!                                  peer ← transport ← session ← reactor ─────────────┘
//! deliver: dispatcher → [task slot] → delivery → extract → step, step, step → done | again at | failed
//! ```
//! Threads: the reactor (this one, never blocks), the committer (sole writer of the journal), the delivery threads
//! of each pool (blocking is fine there), the journal's filler, and a desk for questions that may wait for the disk.

mod admission;
mod awaiting;
mod batch_answers;
mod clock;
mod committer;
mod connect;
mod connections;
mod contacts;
#[cfg(test)]
mod cost;
mod counters;
mod delivery;
mod desk;
mod dfapi;
mod direct_answer;
mod dispatcher;
mod duplicates;
mod extract;
mod failed;
mod fault;
mod files;
pub mod find_index;
mod flags;
mod folders;
mod given_up;
mod http;
mod inbox;
mod intake;
mod large_buffer;
mod merges;
mod names;
mod order;
mod order_key;
mod peer_stream;
mod peers;
pub mod plan;
mod precedence;
pub mod probe;
mod quarantine;
mod rate_limit;
mod reactor;
mod recovery;
mod resend;
mod retention;
mod retry;
mod returned;
mod room;
mod sandbox;
mod session;
mod sftp;
mod signals;
#[cfg(test)]
mod simulation;
mod solr;
mod start;
mod started;
mod step;
mod strikes;
mod task;
mod task_slots;
#[cfg(test)]
mod testing;
pub mod tls;
mod tls_client;
mod transport;
pub mod trial;

pub use failed::FailedMessage;
pub use start::{InitLog, run};
