//! `reload`: what the unit's ExecReload runs. It waits, so that `systemctl reload` fails when the file is bad.

use super::{Fail, Outcome, output, server};
use master::control::{ChangeAction, ChannelChange, Response};
use std::io::Write;
use std::path::Path;

/// Make the running server load its configuration file again
///
/// Prints what changed. When the file is bad it prints every problem in it, and the server runs on as before. Only
/// channels whose own settings changed are touched, and no connection is refused meanwhile.
#[derive(clap::Args)]
pub(super) struct Arguments {}

/// Carries out `reload`.
pub(super) fn run(config: &Path, _arguments: &Arguments) -> Outcome {
    let mut out = output::stdout();
    match server::reload(&server::runtime_path(config))? {
        Response::Reloaded { changes, warnings } => {
            for warning in warnings {
                output::complain(&warning);
            }
            let is_change = |change: &&ChannelChange| change.action != ChangeAction::Keep;
            for change in changes.iter().filter(is_change) {
                writeln!(out, "{}: {}", change.channel, change.action)?;
            }
            match changes.iter().filter(|change| !is_change(change)).count() {
                0 => {}
                1 => writeln!(out, "1 channel kept")?,
                kept => writeln!(out, "{kept} channels kept")?,
            }
            Ok(())
        }
        Response::Refused { problems } => Err(Fail::Configuration(problems.join("\n"))),
        other => Err(server::unexpected(&other)),
    }
}
