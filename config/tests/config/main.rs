//! The crate from outside: files are written, loaded, and what comes back is looked at.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod examples;
mod habits;
mod hostile;
mod include;
mod reload;
mod seed;
mod support;
mod values;
mod wrong;
