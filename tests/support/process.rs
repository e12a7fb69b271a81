//! Other processes, as an operator sees them: through /proc.

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs;

/// A worker, found by its title.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Its process.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Its channel.
    pub channel: String,
    /// Its channel's port.
    pub port: u16,
}

/// Every worker on this machine.
pub fn workers() -> Vec<Worker> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(worker).collect()
}

/// The worker that serves a port.
pub fn worker_of(port: u16) -> Option<u32> {
    workers().into_iter().find(|worker| worker.port == port).map(|worker| worker.pid)
}

fn worker(pid: u32) -> Option<Worker> {
    let title = title(pid)?;
    let (channel, port) = title.strip_prefix("hl7server: channel ")?.split_once(" :")?;
    if matches!(run_state(pid), None | Some('Z' | 'X')) {
        return None;
    }
    Some(Worker { pid, parent: parent(pid)?, channel: channel.to_owned(), port: port.trim().parse().ok()? })
}

/// What `ps` shows: the arguments, joined by spaces.
pub fn title(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = bytes.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
    Some(words.join(" ").trim_end().to_owned())
}

/// What `top` shows.
pub fn comm(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|comm| comm.trim_end().to_owned())
}

/// Whether the process runs: a zombie does not.
pub fn is_alive(pid: u32) -> bool {
    !matches!(run_state(pid), None | Some('Z' | 'X'))
}

/// Sends a signal; a process that is gone already is no fault.
pub fn signal(pid: u32, signal: Signal) {
    let _ = nix::sys::signal::kill(Pid::from_raw(pid as i32), signal);
}

/// Sends `SIGKILL`.
pub fn kill(pid: u32) {
    signal(pid, Signal::SIGKILL);
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid, 1)?.parse().ok()
}

fn run_state(pid: u32) -> Option<char> {
    stat(pid, 0)?.chars().next()
}

/// A word of /proc/PID/stat, counted from after the name, which may hold spaces and brackets.
pub fn stat(pid: u32, n: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(n).map(str::to_owned)
}
