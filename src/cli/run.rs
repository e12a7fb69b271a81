//! `run`: the master, in the foreground.

use std::path::Path;
use std::process::ExitCode;

/// Run the server in the foreground
///
/// Logs to standard error, with the journal's priorities when systemd started it. HUP loads the configuration again,
/// TERM and INT drain and end (a second one at once), USR1 writes a status line for each channel into the log.
#[derive(clap::Args)]
pub(super) struct Arguments {}

/// Carries out `run`.
pub(super) fn run(config: &Path, _arguments: &Arguments) -> ExitCode {
    let journald = crate::logging::init();
    let options = master::Options {
        config_path: config.to_path_buf(),
        journald,
        follow_log: crate::logging::adopt,
        check_tls: worker::tls::check,
        worker_log: std::env::var("RUST_LOG").ok(),
    };
    ExitCode::from(master::run(options))
}
