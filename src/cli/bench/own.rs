//! The server that `bench` starts, in a folder of its own. What stands in its folders at the end is counted against what
//! it acknowledged.

use super::super::child::{self, Folder, Server};
use super::super::output;
use super::channels::{Purpose, Wanted};
use super::load::{self, Outcome, Shape};
use super::process;
use super::report::Figures;
use super::template::{Kind, Template};
use super::{Fail, first_acknowledgment};
use rustix::fs::syncfs;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The control id number of the first message; measured ones begin at zero. Each start takes the one below.
const FIRST_MESSAGE: u64 = 9_999_999_999_999;
/// A backlog that takes longer to deliver is an error.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(600);
/// A server that takes longer to be ready is an error.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A running server and what was sent to it.
pub(super) struct Own {
    // Before the folder, so that the server has stopped when its folder goes away.
    server: Server,
    folder: Folder,
    configuration: String,
    channels: Vec<Channel>,
    /// The number of the next message, since control ids must not repeat from figure to figure.
    next: u64,
    /// The number of the first message of the next start.
    next_first: u64,
    start_to_first_ack: Duration,
}

struct Channel {
    purpose: Purpose,
    port: u16,
    /// Messages acknowledged so far.
    acknowledged: u64,
}

impl Own {
    /// Starts it in a new folder below `parent`.
    pub(super) fn start(parent: Option<&Path>, keep: bool, wanted: &Wanted) -> Result<Own, Fail> {
        let folder = Folder::new("bench", parent, keep)?;
        let mut channels: Vec<Channel> = Vec::new();
        for purpose in &wanted.purposes {
            let port = child::free_port(channels.last().map_or(0, |channel| channel.port))?;
            channels.push(Channel { purpose: *purpose, port, acknowledged: 0 });
        }
        let ports: Vec<u16> = channels.iter().map(|channel| channel.port).collect();
        let configuration = wanted.configuration(folder.path(), &ports);
        let start = Instant::now();
        let server = Server::start(folder.path(), &configuration)?;
        let mut own = Own {
            server,
            folder,
            configuration,
            channels,
            next: 0,
            next_first: FIRST_MESSAGE,
            start_to_first_ack: Duration::ZERO,
        };
        own.start_to_first_ack = own.first_acknowledgment(0, start)?;
        let names: Vec<String> = own.channels.iter().map(|channel| channel.purpose.name()).collect();
        own.server.wait(READY_TIMEOUT, "the channels did not become ready", |server| {
            names.iter().try_fold(true, |ready, name| Ok(ready & (server.waiting(name)? == 0)))
        })?;
        Ok(own)
    }

    /// Stops it and starts it again over what it has. Returns how long it takes from there to an AA of that channel.
    pub(super) fn restart_to(&mut self, purpose: Purpose) -> Result<Duration, Fail> {
        self.server.stop().map_err(|error| Fail::io("stop the server", &error))?;
        let start = Instant::now();
        self.server = Server::start(self.folder.path(), &self.configuration)?;
        self.first_acknowledgment(self.place(purpose), start)
    }

    fn first_acknowledgment(&mut self, place: usize, start: Instant) -> Result<Duration, Fail> {
        let first = Template::of(Kind::Adt, 750, super::run_number()).frame(self.next_first);
        self.next_first -= 1;
        let took = first_acknowledgment(self.address(place), &first[1..first.len() - 2], start).map_err(
            |error| {
                let log = self.server.log_end();
                Fail::Failed(format!(
                    "no first acknowledgment: {}; the server's log:\n{log}",
                    output::plain(&error)
                ))
            },
        )?;
        self.channels[place].acknowledged += 1;
        Ok(took)
    }

    /// How long the first start took to the first AA.
    pub(super) fn start_to_first_ack(&self) -> Duration {
        self.start_to_first_ack
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn place(&self, purpose: Purpose) -> usize {
        let mut channels = self.channels.iter();
        channels
            .position(|channel| channel.purpose == purpose)
            .expect("only channels that were wanted are asked for")
    }

    fn address(&self, place: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.channels[place].port))
    }

    /// Where that channel listens.
    pub(super) fn to(&self, purpose: Purpose) -> SocketAddr {
        self.address(self.place(purpose))
    }

    /// The number of a message that has not been sent; `count` are taken.
    pub(super) fn numbers(&mut self, count: u64) -> u64 {
        let first = self.next;
        self.next += count;
        first
    }

    /// What was sent past [`Own::measure`] counts too.
    pub(super) fn count(&mut self, purpose: Purpose, acknowledged: u64) {
        let place = self.place(purpose);
        self.channels[place].acknowledged += acknowledged;
    }

    /// Lets what earlier figures wrote reach the disk, so that the next is not charged with it.
    pub(super) fn settle(&self) {
        if let Ok(folder) = File::open(self.folder.path()) {
            let _ = syncfs(folder);
        }
    }

    /// Messages of a channel that are accepted and not yet ended.
    pub(super) fn waiting(&self, purpose: Purpose) -> Result<u64, Fail> {
        self.server.waiting(&purpose.name())
    }

    /// Waits until nothing of the channel waits.
    pub(super) fn wait_delivered(&mut self, purpose: Purpose) -> Result<(), Fail> {
        self.server.wait_delivered(&purpose.name(), DELIVERY_TIMEOUT)
    }

    /// Sends the load, waits until all of it is delivered, and counts the files.
    pub(super) fn measure(
        &mut self,
        work: &'static str,
        purpose: Purpose,
        template: &Template,
        shape: &Shape,
    ) -> Result<Figures, Fail> {
        let address = self.to(purpose);
        let cpu = self.cpu();
        let start = Instant::now();
        let outcome = self.send(address, template, shape)?;
        let backlog = self.waiting(purpose)?;
        self.wait_delivered(purpose)?;
        let delivered_after = start.elapsed();
        let cpu = self.cpu().saturating_sub(cpu);
        self.next += outcome.sent;
        self.count(purpose, outcome.acknowledged);

        let mut figures = Figures::of(work, template, shape, &outcome);
        figures.archived_per_s = Some(outcome.acknowledged as f64 / delivered_after.as_secs_f64());
        figures.backlog_at_end = Some(backlog);
        figures.server_cpu_us = Some(cpu.as_secs_f64() * 1e6 / outcome.acknowledged.max(1) as f64);
        figures.files_missing = self.missing(purpose);
        Ok(figures)
    }

    fn send(&self, to: SocketAddr, template: &Template, shape: &Shape) -> Result<Outcome, Fail> {
        load::run(to, template, shape, self.next).map_err(|error| {
            let log = self.server.log_end();
            let error = output::plain(&error);
            Fail::Failed(format!("could not go on sending to {to}: {error}; the server's log:\n{log}"))
        })
    }

    /// What one channel's folders lack (or have too much) of one file for each message that it acknowledged.
    pub(super) fn missing(&self, purpose: Purpose) -> u64 {
        let expected = self.channels[self.place(purpose)].acknowledged;
        let folders = purpose.folders().into_iter().map(|folder| self.folder.path().join(folder));
        folders.map(|folder| expected.abs_diff(files_below(&folder))).sum()
    }

    /// Processor time that master and workers have used.
    pub(super) fn cpu(&self) -> Duration {
        self.processes().into_iter().map(process::cpu_of).sum()
    }

    /// Master and workers.
    pub(super) fn processes(&self) -> Vec<u32> {
        [vec![self.server.pid()], self.server.workers()].concat()
    }

    pub(super) fn master(&self) -> u32 {
        self.server.pid()
    }

    pub(super) fn workers(&self) -> Vec<u32> {
        self.server.workers()
    }
}

/// Files at any depth; links are not followed.
fn files_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files_below(&entry.path()),
        Ok(kind) if kind.is_file() => 1,
        _ => 0,
    };
    entries.flatten().map(count).sum()
}

/// The kind of file system and whether it has a journal, since that decides what a flush costs.
pub(super) fn file_system(folder: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
        .filter(|(_, point, _)| folder.starts_with(PathBuf::from(point)))
        .max_by_key(|(_, point, _)| point.len());
    let Some((device, _, kind)) = mount else { return "unknown".to_owned() };
    if !matches!(kind, "ext3" | "ext4") {
        return kind.to_owned();
    }
    let device =
        fs::canonicalize(device).ok().and_then(|device| Some(device.file_name()?.to_str()?.to_owned()));
    let journals = fs::read_dir("/proc/fs/jbd2").into_iter().flatten().flatten();
    let journaled = device.is_some_and(|device| {
        let mut names = journals.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.any(|name| name.strip_prefix(&device).is_some_and(|rest| rest.starts_with('-')))
    });
    format!("{kind} {} a journal", if journaled { "with" } else { "without" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("2025/05")).unwrap();
        fs::write(folder.path().join("2025/05/a"), "").unwrap();
        fs::write(folder.path().join("b"), "").unwrap();
        assert_eq!(files_below(folder.path()), 2);
        assert_eq!(files_below(&folder.path().join("absent")), 0);
    }
}
