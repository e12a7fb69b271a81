//! `run`: the master, in the foreground.

use config::{LogFormat, Mode};
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
    // The master loads the file itself, and again at each reload; how it logs is decided here, once. A file that does
    // not load is the master's to complain of.
    if let Ok(loaded) = config::load(config, &|_| true, Mode::Check) {
        let service = &loaded.config.service;
        crate::logging::adopt(service.log_format == LogFormat::Json, service.debug_mode);
    }
    let options = master::Options { config_path: config.to_path_buf(), journald };
    ExitCode::from(master::run(options))
}
