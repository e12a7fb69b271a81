//! Asking the running server through its control socket.

use super::{Fail, output};
use config::{Loaded, Mode};
use link::{Answer, Question, Waiting};
use master::control::{self, Request, Response};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) use master::control::{ChannelStatus, ServerStatus};

/// An answer that takes longer is not coming; reload has its own.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A reload waits for workers to drain and their successors to start.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Where the control socket is by default.
const RUNTIME_PATH: &str = "/run/hl7server";

/// Loads the configuration file for a command that looks at its state folders.
pub(super) fn load(config: &Path) -> Result<Loaded, Fail> {
    // Secrets are the running server's business; a command that reads files has no use for them.
    config::load(config, &|_| true, Mode::Check).map_err(|problems| Fail::Configuration(problems.to_string()))
}

/// Where the state folders are.
pub(super) fn state_path(config: &Path) -> Result<PathBuf, Fail> {
    Ok(load(config)?.config.service.state_path)
}

/// Where the control socket is. A file that has become wrong since the server was started must not keep anyone from
/// asking the server, so then the key is looked for by itself.
pub(super) fn runtime_path(config: &Path) -> PathBuf {
    match config::load(config, &|_| true, Mode::Check) {
        Ok(loaded) => loaded.config.service.runtime_path,
        Err(_) => {
            let text = std::fs::read_to_string(config).unwrap_or_default();
            let path = runtime_path_in(&text).unwrap_or_else(|| PathBuf::from(RUNTIME_PATH));
            output::complain(&format!(
                "\"{}\" has errors (hl7server check lists them); asking at \"{}\"",
                config.display(),
                path.display()
            ));
            path
        }
    }
}

fn runtime_path_in(text: &str) -> Option<PathBuf> {
    let value = text.lines().find_map(|line| line.trim_start().strip_prefix("runtime_path:"))?;
    let value = value.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| PathBuf::from(value))
}

fn call(runtime_path: &Path, request: &Request, timeout: Duration) -> Result<Response, Fail> {
    match control::call(runtime_path, request, timeout) {
        Ok(Response::Error(reason)) => Err(Fail::Failed(reason)),
        Ok(response) => Ok(response),
        Err(fault) => Err(Fail::Failed(fault.to_string())),
    }
}

/// The table of channels.
pub(super) fn status(runtime_path: &Path, channel: Option<&str>) -> Result<ServerStatus, Fail> {
    match call(runtime_path, &Request::Status { channel: channel.map(str::to_owned) }, ANSWER_TIMEOUT)? {
        Response::Status(status) => Ok(status),
        other => Err(unexpected(&other)),
    }
}

/// Name, port and pid of the channels that a running server serves; none where none runs.
pub(super) fn running_ports(runtime_path: &Path) -> Vec<(String, u16, u32)> {
    let Ok(status) = status(runtime_path, None) else { return Vec::new() };
    status.channels.into_iter().filter_map(|c| Some((c.name, c.port, c.pid?))).collect()
}

/// The oldest messages that wait, at most `limit`, and how many wait in all.
pub(super) fn queue(runtime_path: &Path, channel: &str, limit: u32) -> Result<(Vec<Waiting>, u64), Fail> {
    match ask(runtime_path, channel, Question::Queue { limit })? {
        Answer::Queue(waiting, total) => Ok((waiting, total)),
        other => Err(Fail::Failed(format!("{channel}: answered something else: {other:?}"))),
    }
}

/// Asks one channel's worker.
pub(super) fn ask(runtime_path: &Path, channel: &str, question: Question) -> Result<Answer, Fail> {
    match call(runtime_path, &Request::Ask { channel: channel.to_owned(), question }, ANSWER_TIMEOUT)? {
        Response::Answer(Answer::Error(reason)) => Err(Fail::Failed(format!("{channel}: {reason}"))),
        Response::Answer(answer) => Ok(answer),
        other => Err(unexpected(&other)),
    }
}

/// Makes the server load its file again.
pub(super) fn reload(runtime_path: &Path) -> Result<Response, Fail> {
    call(runtime_path, &Request::Reload, RELOAD_TIMEOUT)
}

pub(super) fn unexpected(response: &Response) -> Fail {
    Fail::Failed(format!("the server answered something else; is it of another version? {response:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_socket_is_found_in_a_broken_file() {
        let text = "service:\n  max_tasks: [\n  runtime_path: \"/run/other\" # moved\n";
        assert_eq!(runtime_path_in(text), Some(PathBuf::from("/run/other")));
        assert_eq!(runtime_path_in("channels: []"), None);
    }
}
