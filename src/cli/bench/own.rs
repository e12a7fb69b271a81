//! The server that `bench` starts: one channel that archives ADTs, one that archives ORUs, takes their PDFs out and
//! drops them. What stands in its folders at the end is counted against what it acknowledged.

use super::super::child::{self, Folder, Server};
use super::super::output;
use super::load::Shape;
use super::report::{Figures, Report};
use super::template::{Kind, Template};
use super::{Fail, first_acknowledgment, load};
use rustix::fs::syncfs;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The first message's control id number; measured ones begin at zero.
const FIRST_MESSAGE: u64 = 9_999_999_999_999;
/// A backlog that takes longer to deliver is an error.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) struct Own {
    // Before the folder, so that the server has stopped when its folder goes away.
    server: Server,
    folder: Folder,
    ports: [u16; 2],
    /// The number of the next message, since control ids must not repeat from figure to figure.
    next: u64,
    /// Messages acknowledged so far by each channel.
    acknowledged: [u64; 2],
    start_to_first_ack: Duration,
    idle_worker_private_bytes: Option<u64>,
    file_system: String,
}

impl Own {
    /// Starts it. `message_bytes` is the largest message to come.
    pub(super) fn start(
        parent: Option<&Path>,
        keep: bool,
        shape: &Shape,
        message_bytes: usize,
    ) -> Result<Own, Fail> {
        let folder = Folder::new("bench", parent, keep)?;
        let adt_port = child::free_port(0)?;
        let oru_port = child::free_port(adt_port)?;
        let configuration =
            configuration(folder.path(), adt_port, oru_port, shape.connections, message_bytes);
        let start = Instant::now();
        let server = Server::start(folder.path(), &configuration)?;
        let first = Template::of(Kind::Adt, 750, super::run_number()).frame(FIRST_MESSAGE);
        let address = SocketAddr::from(([127, 0, 0, 1], adt_port));
        let start_to_first_ack =
            first_acknowledgment(address, &first[1..first.len() - 2], start).map_err(|error| {
                Fail::Failed(format!(
                    "no first acknowledgment: {}; the server's log:\n{}",
                    output::plain(&error),
                    server.log_end()
                ))
            })?;
        let file_system = file_system(folder.path());
        let mut own = Own {
            server,
            folder,
            ports: [adt_port, oru_port],
            next: 0,
            acknowledged: [1, 0],
            start_to_first_ack,
            idle_worker_private_bytes: None,
            file_system,
        };
        own.server.wait(Duration::from_secs(20), "the channels did not become ready", |server| {
            Ok(server.waiting("oru")? == 0 && server.waiting("adt")? == 0)
        })?;
        // The worker that has never had a message is the idle one: the smaller of the two.
        own.idle_worker_private_bytes = own.server.workers().into_iter().filter_map(private_bytes).min();
        Ok(own)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets what earlier figures wrote reach the disk, so that the next is not charged with it.
    pub(super) fn settle(&self) {
        if let Ok(folder) = File::open(self.folder.path()) {
            let _ = syncfs(folder);
        }
    }

    /// Sends the load, waits until all of it is delivered, and counts the files.
    pub(super) fn measure(
        &mut self,
        work: &'static str,
        kind: Kind,
        template: &Template,
        shape: &Shape,
    ) -> Result<Figures, Fail> {
        let (place, channel) = match kind {
            Kind::Adt => (0, "adt"),
            Kind::Oru => (1, "oru"),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports[place]));
        let cpu = self.cpu();
        let start = Instant::now();
        let outcome = load(address, template, shape, self.next).map_err(|fail| self.with_log(fail))?;
        let backlog = self.server.waiting(channel)?;
        self.server.wait_delivered(channel, DELIVERY_TIMEOUT)?;
        let delivered_after = start.elapsed();
        let cpu = self.cpu().saturating_sub(cpu);
        self.next += outcome.sent;
        self.acknowledged[place] += outcome.acknowledged;

        let mut figures = Figures::of(work, template, shape, &outcome);
        figures.archived_per_s = Some(outcome.acknowledged as f64 / delivered_after.as_secs_f64());
        figures.backlog_at_end = Some(backlog);
        figures.server_cpu_us = Some(cpu.as_secs_f64() * 1e6 / outcome.acknowledged.max(1) as f64);
        figures.files_missing = self.missing(place);
        Ok(figures)
    }

    fn with_log(&self, fail: Fail) -> Fail {
        match fail {
            Fail::Failed(reason) => {
                Fail::Failed(format!("{reason}; the server's log:\n{}", self.server.log_end()))
            }
            other => other,
        }
    }

    /// What one channel's folders lack (or have too much) of one file for each message that it acknowledged.
    fn missing(&self, place: usize) -> u64 {
        let folders: &[&str] =
            if place == 0 { &["archive/adt"] } else { &["archive/oru", "attachments", "drop"] };
        let expected = self.acknowledged[place];
        folders.iter().map(|folder| expected.abs_diff(files_below(&self.folder.path().join(folder)))).sum()
    }

    pub(super) fn describe(&self, report: &mut Report) {
        report.start_to_first_ack_ms = Some(self.start_to_first_ack.as_secs_f64() * 1e3);
        report.idle_worker_private_kib = self.idle_worker_private_bytes.map(|bytes| bytes / 1024);
        report.file_system = Some(self.file_system.clone());
    }

    /// Processor time that master and workers have used.
    fn cpu(&self) -> Duration {
        let mut pids = self.server.workers();
        pids.push(self.server.pid());
        pids.into_iter().map(cpu_of).sum()
    }
}

fn configuration(
    folder: &Path,
    adt_port: u16,
    oru_port: u16,
    connections: usize,
    message_bytes: usize,
) -> String {
    let path = |below: &str| serde_json::Value::from(folder.join(below).to_string_lossy()).to_string();
    let connections = connections + 16;
    // A message may be a little larger than the template says, never smaller than the least limit.
    let stream_limit = (message_bytes + 4096).max(10 << 20);
    format!(
        "state_path: {state}\n\
         runtime_path: {run}\n\
         channels:\n\
         - name: adt\n  \
           port: {adt_port}\n  \
           listen: 127.0.0.1\n  \
           stream_limit: {stream_limit}\n  \
           max_connections: {connections}\n  \
           max_connections_per_address: {connections}\n  \
           message_types: {{\"ADT^A01\": store}}\n  \
           local_archive: {{path: {adt}}}\n\
         - name: oru\n  \
           port: {oru_port}\n  \
           listen: 127.0.0.1\n  \
           stream_limit: {stream_limit}\n  \
           max_connections: {connections}\n  \
           max_connections_per_address: {connections}\n  \
           attachment_field: OBX.1.5\n  \
           attachment_format: pdf\n  \
           local_archive: {{path: {oru}, attachment: {attachments}}}\n  \
           drop_folders: {{pickup: {{path: {drop}}}}}\n",
        state = path("state"),
        run = path("run"),
        adt = path("archive/adt"),
        oru = path("archive/oru"),
        attachments = path("attachments"),
        drop = path("drop"),
    )
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

/// Memory that only this process has.
fn private_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let private = text.lines().filter(|line| line.starts_with("Private_")).filter_map(kib);
    Some(private.sum::<u64>() * 1024)
}

fn cpu_of(pid: u32) -> Duration {
    /// The kernel tells times in hundredths of a second whatever its own tick.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the title and may hold anything but ends with the last parenthesis.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    TICK * ticks
}

/// The kind of file system and whether it has a journal, since that decides what a flush costs.
fn file_system(folder: &Path) -> String {
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

    #[test]
    fn a_process_is_measured() {
        let own = std::process::id();
        assert!(private_bytes(own).unwrap() > 10_000);
        let start = Instant::now();
        while cpu_of(own).is_zero() {
            assert!(start.elapsed() < Duration::from_secs(20));
        }
        assert_eq!(cpu_of(0), Duration::ZERO);
    }

    #[test]
    fn the_configuration_is_one_that_loads() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hl7server.yaml");
        fs::write(&file, configuration(folder.path(), 20_001, 20_002, 256, 1 << 20)).unwrap();
        let loaded = config::load(&file, &|_| true, config::Mode::Check).map_err(|p| p.to_string()).unwrap();
        assert_eq!(loaded.config.channels.len(), 2);
    }
}
