//! `generate`: what a package installs beside the binary, made from the commands' own help, so that it cannot differ
//! from it.

use super::{Cli, Fail, Outcome};
use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use std::fs;
use std::path::{Path, PathBuf};

/// Write manual pages or completion scripts, as the package does
#[derive(clap::Subcommand)]
#[command(hide = true)]
pub(super) enum Command {
    /// Write the manual pages into a folder, a page a command
    Man {
        /// Made where absent
        folder: PathBuf,
    },
    /// Write the completion script of every shell into a folder
    Completion {
        /// Made where absent
        folder: PathBuf,
    },
}

/// Carries out `generate …`.
pub(super) fn run(command: &Command) -> Outcome {
    let (Command::Man { folder } | Command::Completion { folder }) = command;
    fs::create_dir_all(folder)
        .map_err(|error| Fail::io(format!("make folder \"{}\"", folder.display()), &error))?;
    let mut cli = Cli::command();
    match command {
        Command::Man { .. } => {
            cli.build();
            pages(&cli, "hl7server", folder)
        }
        Command::Completion { .. } => Shell::value_variants().iter().try_for_each(|shell| {
            clap_complete::generate_to(*shell, &mut cli, "hl7server", folder)
                .map(drop)
                .map_err(|error| Fail::io(format!("write below \"{}\"", folder.display()), &error))
        }),
    }
}

/// The pages of subcommands are named as git's are: hl7server-failed-list.
fn pages(command: &clap::Command, name: &str, folder: &Path) -> Outcome {
    let page = clap_mangen::Man::new(command.clone())
        .section("1")
        .source(concat!("hl7server ", env!("CARGO_PKG_VERSION")))
        .manual("hl7server");
    let path = folder.join(format!("{name}.1"));
    let failed = |error: std::io::Error| Fail::io(format!("write \"{}\"", path.display()), &error);
    let mut bytes = Vec::new();
    page.render(&mut bytes).map_err(failed)?;
    fs::write(&path, bytes).map_err(failed)?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, &format!("{name}-{}", below.get_name()), folder)?;
    }
    Ok(())
}
