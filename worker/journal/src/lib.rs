//! Append-only record files that survive crashes: append, flush, replay.
//!
//! A journal is a folder of segment files. One writer ([`Journal`]) appends records and flushes them a
//! batch at a time; any number of [`Reader`]s read bodies back by their [`Location`]; a [`Filler`], run by
//! a thread of the caller, keeps zero-filled room ahead of the writer and does what need not be waited
//! for. The crate keeps opaque bytes: it knows no HL7, starts no thread, opens no socket and reads no
//! clock but to pace the filler. The files are described byte by byte in `FORMAT.md`.
//!
//! Which error means what: [`JournalError::Full`] is the environment's and may pass, the handle stays
//! usable; [`JournalError::Io`] ends the handle for good, for after a failed flush the kernel reports
//! success over data it has thrown away; [`JournalError::Corrupt`] concerns the one record asked for.

mod error;
mod filler;
mod footer;
mod id;
mod meta;
mod read_only;
mod reader;
mod recall;
mod record;
mod recovery;
mod replay;
mod scan;
mod segment;
mod shared;
pub mod storage;
mod writer;

pub use error::{Damage, DamageKind, JournalError};
pub use filler::Filler;
pub use id::{IdFault, Ids, MessageId};
pub use read_only::{Found, ReadOnly, read_only};
pub use reader::{OwnedFrozen, OwnedReceived, Reader};
pub use recall::{RECENT_MAX, RECENT_US, Recent, State};
pub use record::{BODY_BYTES_MAX, KEYS_MAX, Location, PEER_BYTES_MAX, Received, Record, Tag};
pub use replay::{AgainState, ReplaySummary, Replayed};
pub use segment::SEGMENT_BYTES;
pub use storage::{FileStorage, OpenFault};
pub use writer::{Journal, Options};

#[cfg(test)]
mod simulation;
