//! The commands: one file each. A command prints what it was asked for on standard output and everything else on
//! standard error, and ends with one of four statuses: 0 done, 1 it failed, 2 usage, 78 configuration.

mod alerts;
mod bench;
mod check;
mod child;
mod dashboard;
mod demo;
mod failed;
mod find;
mod generate;
mod hl7_file;
mod mllp;
mod output;
mod queue;
mod reload;
mod run;
mod send;
mod server;
mod show;
mod stamp;
mod status;
mod time;
mod tls;
mod try_message;

use clap::{Parser, Subcommand};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// HL7 v2 server: receives over MLLP, keeps every message safe, carries it through its channel's steps
#[derive(Parser)]
#[command(name = "hl7server", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/hl7server/hl7server.yaml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

/// One file each; what `--help` says of a command stands at its arguments.
#[derive(Subcommand)]
enum Command {
    Run(run::Arguments),
    Check(check::Arguments),
    Reload(reload::Arguments),
    Send(send::Arguments),
    Show(show::Arguments),
    Stamp(stamp::Arguments),
    Try(try_message::Arguments),
    Status(status::Arguments),
    #[command(subcommand)]
    Queue(queue::Command),
    #[command(subcommand)]
    Failed(failed::Command),
    Dashboard(dashboard::Arguments),
    Alerts(alerts::Arguments),
    Find(find::Arguments),
    Bench(bench::Arguments),
    Demo(demo::Arguments),
    #[command(subcommand, hide = true)]
    Generate(generate::Command),
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
enum Fail {
    /// It failed, for this reason.
    Failed(String),
    /// It failed and has said so already.
    Said,
    /// The configuration keeps it from being done; the reason, one line each problem.
    Configuration(String),
    /// Whoever read standard output went away (`| head`), which is no fault.
    OutputClosed,
}

type Outcome = Result<(), Fail>;

impl Fail {
    /// `could not WHAT: why`.
    fn io(what: impl fmt::Display, error: &io::Error) -> Fail {
        Fail::Failed(format!("could not {what}: {}", output::plain(error)))
    }
}

impl From<io::Error> for Fail {
    /// For writes to standard output; other errors of input and output are worded where they happen.
    fn from(error: io::Error) -> Fail {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Fail::OutputClosed,
            _ => Fail::io("write to standard output", &error),
        }
    }
}

/// Parses the command line and carries it out.
pub(crate) fn main() -> ExitCode {
    let Cli { config, command } = Cli::parse();
    let outcome = match command {
        Command::Run(arguments) => return run::run(&config, &arguments),
        Command::Check(arguments) => check::run(&config, &arguments),
        Command::Reload(arguments) => reload::run(&config, &arguments),
        Command::Send(arguments) => send::run(&arguments),
        Command::Show(arguments) => show::run(&config, &arguments),
        Command::Stamp(arguments) => stamp::run(&arguments),
        Command::Try(arguments) => try_message::run(&config, &arguments),
        Command::Status(arguments) => status::run(&config, &arguments),
        Command::Queue(command) => queue::run(&config, &command),
        Command::Failed(command) => failed::run(&config, &command),
        Command::Dashboard(arguments) => dashboard::run(&config, &arguments),
        Command::Alerts(arguments) => alerts::run(&config, &arguments),
        Command::Find(arguments) => find::run(&config, &arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Generate(command) => generate::run(&command),
    };
    match outcome {
        Ok(()) | Err(Fail::OutputClosed) => ExitCode::SUCCESS,
        Err(Fail::Said) => ExitCode::from(1),
        Err(Fail::Failed(reason)) => {
            output::complain(&reason);
            ExitCode::from(1)
        }
        Err(Fail::Configuration(reason)) => {
            output::complain(&reason);
            ExitCode::from(78)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert!(matches!(Fail::from(io::Error::from(io::ErrorKind::BrokenPipe)), Fail::OutputClosed));
    }
}
