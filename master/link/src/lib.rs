//! The contract between the master and its workers: orders down, reports up, and the one thing they share, the table
//! of task slots.
//!
//! This crate knows neither the configuration nor HL7: settings travel as text that only `config` reads. It is the only
//! crate with `unsafe` code: the mapping in [`slots`], what a process does to itself as it starts, and one call to the
//! allocator.
//!
//! The two ends trust each other differently. A worker believes its master. The master believes nothing: a worker parses
//! what strangers send and may have been taken over, so a report is bounded in size, parsed strictly, cut to fixed
//! limits and cleaned of control characters before anyone sees it ([`Report::bound`]), and the slot table's contents can
//! neither panic nor loop a process that reads them.

pub mod codec;
mod histogram;
mod identity;
mod inherited;
mod memory;
mod order;
mod report;
mod slots;
mod socket;
#[cfg(debug_assertions)]
mod takeover;

pub use histogram::Histogram;
pub use identity::RunAs;
pub use inherited::close_inherited;
pub use memory::give_memory_back;
pub use order::{Death, Files, Order, Question, SecretValue, Selection, Start};
pub use report::{Answer, CONTACTS_MAX, Contact, PEERS_MAX, Peer, QUEUE_MAX, Report, Status, Waiting};
pub use slots::{SLOTS_MAX, SlotGuard, SlotTable, Slots};
pub use socket::{Endpoint, LinkError, MasterEnd, WorkerEnd, stdin_is_link};
#[cfg(debug_assertions)]
pub use takeover::Takeover;
