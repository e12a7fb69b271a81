//! The crate from outside: files are written, loaded, and what comes back is looked at.

mod examples;
mod habits;
mod hostile;
mod include;
mod reload;
mod seed;
mod support;
mod values;
mod wrong;
