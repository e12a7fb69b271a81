//! The hl7server binary: chooses a role and hands over.
//!
//! A worker is this same binary, started by the master under the title `hl7server: channel NAME :PORT` with the link
//! as its standard input; it takes no arguments. Everything else is a command of [`cli`].

mod cli;
mod logging;

use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    if started_as_worker() { ExitCode::from(worker::run(logging::init_worker)) } else { cli::main() }
}

/// Both marks of a worker: its title, and its link. A title alone can be anybody's, who would then wait for orders.
fn started_as_worker() -> bool {
    let title = std::env::args_os().next().unwrap_or_default();
    title.as_bytes().starts_with(master::TITLE_PREFIX.as_bytes()) && link::stdin_is_link()
}
