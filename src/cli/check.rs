//! `check`: everything that is wrong with the configuration file, and what its channels will do.

mod probe;
mod systemd;

use super::{Fail, Outcome, output};
use config::secret::Secrets;
use config::{Loaded, Mode, Problem};
use std::io::{self, Write};
use std::path::Path;
use worker::plan::Plan;

/// Check the configuration file and print every problem in it
///
/// Ends with 78 when the server would not start with the file, or a channel in it would not.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Print the workflows and steps of each channel as they will run
    #[arg(long)]
    plan: bool,
    /// Look whether ports, folders, databases, Solr, SFTP and the other peers are there, as the service's user
    #[arg(long)]
    probe: bool,
    /// Print the systemd drop-in that this file needs: folders that are written to, secrets
    #[arg(long, conflicts_with_all = ["plan", "probe", "json"])]
    systemd: bool,
    /// Print one JSON object
    #[arg(long, conflicts_with = "plan")]
    json: bool,
}

/// Carries out `check`.
pub(super) fn run(config: &Path, arguments: &Arguments) -> Outcome {
    let secrets = Secrets::of_process();
    let mut out = output::stdout();
    match config::load(config, &|name| secrets.is_known(name), Mode::Check) {
        Ok(loaded) if arguments.systemd => {
            for problem in &loaded.warnings {
                output::complain(&line(problem));
            }
            systemd::print(&mut out, config, &loaded)?;
            verdict(&certificates(&loaded))
        }
        Ok(loaded) => {
            let certificates = certificates(&loaded);
            let looked = if arguments.probe { Some(probe::look(&loaded)?) } else { None };
            if arguments.json {
                print_json(&mut out, &loaded.warnings, Some(&loaded), &certificates, looked.as_deref())?;
            } else {
                print(&mut out, &loaded, &certificates)?;
                print_left_behind(&mut out, &loaded)?;
            }
            if arguments.plan {
                print_plans(&mut out, &loaded)?;
            }
            if let Some(looked) = looked.as_ref().filter(|_| !arguments.json) {
                probe::print(&mut out, looked)?;
            }
            verdict(&certificates)?;
            looked.map_or(Ok(()), |looked| probe::verdict(&looked))
        }
        Err(problems) => {
            if arguments.json {
                print_json(&mut out, &problems.0, None, &[], None)?;
            } else {
                for problem in &problems.0 {
                    writeln!(out, "{}", line(problem))?;
                }
            }
            let errors = problems.errors().count();
            Err(Fail::Configuration(format!(
                "{errors} {} in \"{}\"",
                noun(errors, "error"),
                config.display()
            )))
        }
    }
}

/// Something about the certificates of a channel.
struct Certificates {
    channel: String,
    what: String,
    severity: config::Severity,
}

/// What there is to say of the certificates of all enabled channels. One that cannot be read is a warning: whoever runs
/// `check` need not be whom the server runs as. A disabled channel may be waiting for its certificates.
fn certificates(loaded: &Loaded) -> Vec<Certificates> {
    let mut found = Vec::new();
    for channel in loaded.config.channels.iter().filter(|channel| channel.enabled) {
        let Some(tls) = &channel.tls else { continue };
        let mut say =
            |what, severity| found.push(Certificates { channel: channel.name.clone(), what, severity });
        match master::files::of_tls(tls) {
            Err(unread) => unread.into_iter().for_each(|what| say(what, config::Severity::Warning)),
            Ok((files, warnings)) => {
                warnings.into_iter().for_each(|what| say(what, config::Severity::Warning));
                match worker::tls::check(tls, &files) {
                    Ok(None) => {}
                    Ok(Some(warning)) => say(warning, config::Severity::Warning),
                    Err(what) => say(what, config::Severity::Error),
                }
            }
        }
    }
    found
}

/// A channel whose certificates cannot be used does not start: that is an error to whoever relies on it.
fn verdict(certificates: &[Certificates]) -> Outcome {
    let unusable = certificates.iter().find(|found| found.severity == config::Severity::Error);
    if let Some(found) = unusable {
        let channel = &found.channel;
        return Err(Fail::Configuration(format!(
            "does not start with its certificates as they are: {channel}"
        )));
    }
    Ok(())
}

/// Channels that do not run any more, with messages that wait.
fn print_left_behind(out: &mut impl Write, loaded: &Loaded) -> io::Result<()> {
    let Ok(folders) = std::fs::read_dir(&loaded.config.service.state_path) else { return Ok(()) };
    let mut names: Vec<String> =
        folders.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    for name in names {
        if loaded.config.channel(&name).is_some_and(|channel| channel.enabled) {
            continue;
        }
        let path = loaded.config.service.state_path.join(&name).join("journal");
        let mut waiting = 0;
        let Ok(journal) = journal::read_only(&path) else { continue };
        match journal.messages(&mut |_| waiting += 1) {
            Ok(()) if waiting == 0 => {}
            Ok(()) => writeln!(
                out,
                "{name}: {waiting} {} in \"{}\"; delivered when the channel is in the file again, and enabled",
                if waiting == 1 { "message waits" } else { "messages wait" },
                path.display()
            )?,
            Err(error) => writeln!(out, "{name}: could not read \"{}\": {error}", path.display())?,
        }
    }
    Ok(())
}

fn print(out: &mut impl Write, loaded: &Loaded, certificates: &[Certificates]) -> io::Result<()> {
    for problem in &loaded.warnings {
        writeln!(out, "{}", line(problem))?;
    }
    for Certificates { channel, what, severity } in certificates {
        let prefix = if *severity == config::Severity::Error { "" } else { "warning: " };
        writeln!(out, "{prefix}{channel}: {what}")?;
    }
    let channels = &loaded.config.channels;
    let enabled = channels.iter().filter(|channel| channel.enabled).count();
    let version = loaded.config.service.config_version.as_deref();
    let version = version.map(|version| format!(", version {version}")).unwrap_or_default();
    writeln!(
        out,
        "{} {}{version}: {} {}, {enabled} enabled",
        loaded.files.len(),
        noun(loaded.files.len(), "file"),
        channels.len(),
        noun(channels.len(), "channel"),
    )
}

fn print_plans(out: &mut impl Write, loaded: &Loaded) -> io::Result<()> {
    for channel in &loaded.config.channels {
        let state = if channel.enabled { "" } else { ", disabled" };
        let tls = if channel.tls.is_some() { ", over TLS" } else { "" };
        writeln!(out, "\n{}: {} port {}{tls}{state}", channel.name, channel.listen, channel.port)?;
        let plan = Plan::of(&loaded.config.worker_settings(channel)).to_string();
        for line in plan.lines() {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(())
}

fn print_json(
    out: &mut impl Write,
    problems: &[Problem],
    loaded: Option<&Loaded>,
    certificates: &[Certificates],
    looked: Option<&[probe::Looked]>,
) -> io::Result<()> {
    let mut object = serde_json::json!({
        "loads": loaded.is_some(),
        "problems": problems.iter().map(object).collect::<Vec<_>>(),
        "certificates": certificates
            .iter()
            .map(|found| {
                let severity = severity(found.severity);
                serde_json::json!({ "channel": found.channel, "what": found.what, "severity": severity })
            })
            .collect::<Vec<_>>(),
        "config_version": loaded.and_then(|loaded| loaded.config.service.config_version.as_deref()),
        "channels": loaded.map(|loaded| loaded.config.channels.iter().map(channel).collect::<Vec<_>>()),
    });
    if let Some(looked) = looked {
        object["probes"] = probe::objects(looked);
    }
    writeln!(out, "{object}")
}

fn object(problem: &Problem) -> serde_json::Value {
    serde_json::json!({
        "file": problem.file.display().to_string(),
        "line": problem.line,
        "column": problem.column,
        "key_path": problem.key_path,
        "what": problem.what,
        "hint": problem.hint,
        "severity": severity(problem.severity),
    })
}

fn channel(channel: &config::Channel) -> serde_json::Value {
    serde_json::json!({ "name": channel.name, "port": channel.port, "enabled": channel.enabled })
}

/// An error stands as it is: it is what people look for. The others say what they are.
fn line(problem: &Problem) -> String {
    match problem.severity {
        config::Severity::Error => problem.to_string(),
        config::Severity::Warning | config::Severity::Note => {
            format!("{}: {problem}", severity(problem.severity))
        }
    }
}

fn severity(severity: config::Severity) -> &'static str {
    match severity {
        config::Severity::Error => "error",
        config::Severity::Warning => "warning",
        config::Severity::Note => "note",
    }
}

fn noun(count: usize, one: &str) -> String {
    if count == 1 { one.to_owned() } else { format!("{one}s") }
}
