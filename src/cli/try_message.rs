//! `try`: what a channel would do with a message, without doing it.

use super::{Fail, Outcome, hl7_file, output};
use config::Mode;
use config::secret::Secrets;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Show what a channel would do with a message, without doing it
///
/// Prints the answer, the mapped values, the files that would be written and what peers would be sent. Nothing is sent and nothing is written but
/// what --out asks for. Ends with 1 when the message would be refused or would fail.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The file with the message
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The channel
    #[arg(long, value_name = "NAME")]
    channel: String,
    /// Write the files into this folder, to look at them
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Carries out `try`.
pub(super) fn run(config: &Path, arguments: &Arguments) -> Outcome {
    let secrets = Secrets::of_process();
    let loaded = config::load(config, &|name| secrets.is_known(name), Mode::Check)
        .map_err(|problems| Fail::Configuration(problems.to_string()))?;
    let channel = loaded.config.channel(&arguments.channel).ok_or_else(|| {
        Fail::Configuration(format!("\"{}\" has no channel \"{}\"", config.display(), arguments.channel))
    })?;
    let bytes = hl7_file::read(&arguments.file)?;
    let body = hl7_file::frames(&bytes).into_iter().next().unwrap_or_default();
    let trial = worker::trial::run(&loaded.config.worker_settings(channel), &body);
    if let Some(folder) = &arguments.out {
        std::fs::create_dir_all(folder)
            .map_err(|error| Fail::io(format_args!("make folder \"{}\"", folder.display()), &error))?;
        for file in &trial.files {
            let Some(name) = file.path.file_name() else { continue };
            // One folder a step: an archive and a drop folder may use the same name.
            let path = folder.join(file.step.replace(['/', ':'], "_"));
            std::fs::create_dir_all(&path)
                .and_then(|()| std::fs::write(path.join(name), &file.bytes))
                .map_err(|error| Fail::io(format_args!("write \"{}\"", path.join(name).display()), &error))?;
        }
    }
    let mut out = output::stdout();
    if arguments.json {
        json(&mut out, &trial)?
    } else {
        text(&mut out, &trial)?
    }
    if trial.refusal.is_some() || !trial.problems.is_empty() { Err(Fail::Said) } else { Ok(()) }
}

fn text(out: &mut impl Write, trial: &worker::trial::Trial) -> std::io::Result<()> {
    match (trial.code, trial.refusal) {
        (None, _) => writeln!(out, "no answer: it is an acknowledgment itself")?,
        (Some(code), Some(why)) => writeln!(out, "answer    {code}: {why}")?,
        (Some(code), None) => writeln!(out, "answer    {code}")?,
    }
    if let Some(workflow) = trial.workflow {
        writeln!(out, "workflow  {}", workflow.name())?;
    }
    if trial.undecodable > 0 {
        writeln!(out, "encoding  {} bytes do not decode", trial.undecodable)?;
    }
    for (name, value) in &trial.metadata {
        let value = value.as_deref().unwrap_or("(nothing)");
        writeln!(out, "value     {name} = {}", crate::logging::escape_controls(value))?;
    }
    for file in &trial.files {
        let size = output::size(file.bytes.len() as u64);
        writeln!(out, "file      {} ({}, {size})", file.path.display(), file.step)?;
    }
    for call in &trial.sent {
        let text = crate::logging::escape_controls(&call.text);
        writeln!(out, "sends     to {} ({}): {text}", call.to, call.step)?;
    }
    for note in &trial.notes {
        writeln!(out, "note      {note}")?;
    }
    for problem in &trial.problems {
        writeln!(out, "fails     {}", crate::logging::escape_controls(problem))?;
    }
    Ok(())
}

fn json(out: &mut impl Write, trial: &worker::trial::Trial) -> std::io::Result<()> {
    let files: Vec<_> = trial
        .files
        .iter()
        .map(|f| serde_json::json!({"step": f.step, "path": f.path, "bytes": f.bytes.len()}))
        .collect();
    let metadata: Vec<_> = trial
        .metadata
        .iter()
        .map(|(name, value)| serde_json::json!({"name": name, "value": value}))
        .collect();
    let sent: Vec<_> =
        trial.sent.iter().map(|c| serde_json::json!({"step": c.step, "to": c.to, "text": c.text})).collect();
    let all = serde_json::json!({
        "code": trial.code,
        "refusal": trial.refusal,
        "workflow": trial.workflow.map(|w| w.name()),
        "undecodable": trial.undecodable,
        "metadata": metadata,
        "files": files,
        "sent": sent,
        "notes": trial.notes,
        "problems": trial.problems,
    });
    writeln!(out, "{all}")
}
