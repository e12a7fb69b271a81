//! `man` and `completion`: what a package installs beside the binary, made from the commands' own help, so that it
//! cannot differ from it.

use super::{Cli, Fail, Outcome, output};
use clap::CommandFactory;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Administration: these are the commands of a server.
const SECTION: &str = "8";

/// Write the manual pages into a folder, a page a command
#[derive(clap::Args)]
#[command(hide = true)]
pub(super) struct Man {
    /// Where they go; made where absent
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Print the completion of a shell
#[derive(clap::Args)]
#[command(hide = true)]
pub(super) struct Completion {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Carries out `man`.
pub(super) fn man(arguments: &Man) -> Outcome {
    let folder = &arguments.folder;
    fs::create_dir_all(folder)
        .map_err(|error| Fail::io(format!("make folder \"{}\"", folder.display()), &error))?;
    let mut command = Cli::command();
    command.build();
    pages(&command, "hl7server", folder)
}

fn pages(command: &clap::Command, name: &str, folder: &Path) -> Outcome {
    // The pages of subcommands are named as git's are: hl7server-failed-list.
    let page = clap_mangen::Man::new(command.clone())
        .section(SECTION)
        .source(concat!("hl7server ", env!("CARGO_PKG_VERSION")))
        .manual("hl7server");
    let path = folder.join(format!("{name}.{SECTION}"));
    let failed = |error: std::io::Error| Fail::io(format!("write \"{}\"", path.display()), &error);
    let mut bytes = Vec::new();
    page.render(&mut bytes).map_err(failed)?;
    fs::write(&path, bytes).map_err(failed)?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, &format!("{name}-{}", below.get_name()), folder)?;
    }
    Ok(())
}

/// Carries out `completion`.
pub(super) fn completion(arguments: &Completion) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "hl7server", &mut script);
    output::stdout().write_all(&script)?;
    Ok(())
}
