//! Supervision: the master owns the listening sockets and one worker process a channel. It never sees a message.
//!
//! ```text
//! file → config::load → Wanted → changes → Supervisor → act: listener, process, orders
//!                     signals, reports, deaths, requests ↗
//! ```
//! One thread, which blocks on nothing but its poll. [`supervisor`] decides, purely; [`server`] does.

mod audit;
pub mod control;
pub mod files;
mod listen;
mod lock;
mod notify;
mod owner;
mod server;
mod signals;
mod spawn;
mod status;
mod supervisor;
mod wanted;

pub use spawn::TITLE_PREFIX;

use std::path::PathBuf;

/// Exit status: done.
const EXIT_DONE: u8 = 0;
/// Exit status: it failed.
const EXIT_FAILED: u8 = 1;
/// Exit status: it may work later.
const EXIT_TEMPORARY: u8 = 75;
/// Exit status: the configuration is wrong.
const EXIT_CONFIGURATION: u8 = 78;

/// Checks the files of a channel's TLS; a warning, or why they cannot be used.
pub type CheckTls = fn(&config::Tls, &link::Files) -> Result<Option<String>, String>;

/// How the master runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file; read again at each reload.
    pub config_path: PathBuf,
    /// Standard error goes to the journal of systemd, and lines carry its priorities; handed on to the workers.
    pub journald: bool,
    /// Follows `log_format` (JSON?) and `debug_mode` of a configuration that comes into force: at the start, and at each
    /// reload.
    pub follow_log: fn(json: bool, debug: bool),
    /// Checks the files of a channel's TLS before a worker is given them: a warning, or why they cannot be used. The
    /// master itself knows no TLS.
    pub check_tls: CheckTls,
    /// What workers log, in the syntax of `RUST_LOG`, instead of what `debug_mode` says; their environment is empty.
    pub worker_log: Option<String>,
}

/// Runs the master until TERM: loads the file, starts a worker for each enabled channel, keeps them running. Gives the
/// exit status: 0 stopped as told, 1 a fault of our own, 75 what was needed is not there (yet), 78 the configuration is
/// wrong. Call it from the only thread of the process, with a logger in place.
pub fn run(options: Options) -> u8 {
    server::run(options)
}
