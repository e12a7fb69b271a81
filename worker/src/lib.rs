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
mod connections;
mod counters;
mod delivery;
mod desk;
#[allow(dead_code, reason = "the steps that use it come next")]
mod dfapi;
mod dispatcher;
mod duplicates;
mod extract;
mod failed;
#[allow(dead_code, reason = "the steps that use it come next")]
mod fault;
mod files;
mod flags;
mod folders;
#[allow(dead_code, reason = "the steps that use it come next")]
mod http;
mod inbox;
mod intake;
#[allow(dead_code, reason = "the steps that use it come next")]
mod merges;
mod names;
mod order;
mod order_key;
mod peers;
pub mod plan;
mod quarantine;
mod rate_limit;
mod reactor;
mod recovery;
mod retry;
mod returned;
mod room;
mod session;
mod signals;
#[allow(dead_code, unused_imports, reason = "the steps that use it come next")]
mod solr;
mod start;
mod started;
mod step;
mod strikes;
#[allow(dead_code, reason = "the steps that use it come next")]
mod task;
#[cfg(test)]
mod testing;
mod transport;
pub mod trial;

pub use failed::FailedMessage;
pub use start::{InitLog, run};
