//! A worker's process: started, signalled, found dead, reaped.

use link::{Death, MasterEnd, RunAs};
use nix::unistd::{Group, User, getgrouplist};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// glibc's `malloc` (`mallopt`(3)): blocks from 2 MiB on are mapped and unmapped each by itself, whatever was freed before;
/// the heap's end goes back from 8 MiB on; threads share two heaps. A worker that has nothing to do gives the rest back
/// ([`link::give_memory_back`]). With less kept, each document of a MiB is worked on in memory that the system has to map
/// and clear anew.
const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_MMAP_THRESHOLD_", "2097152"), ("MALLOC_TRIM_THRESHOLD_", "8388608"), ("MALLOC_ARENA_MAX", "2")];

/// A worker is told by this beginning of its title (argv[0]), and a standard input that is a link.
pub const TITLE_PREFIX: &str = "hl7server: channel ";

/// A living worker, or one that is dead and not reaped.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

/// Who workers run as. Without privileges nothing can be changed: then they run as the master does.
pub(crate) fn identity(user: Option<&str>, group: Option<&str>) -> Result<RunAs, String> {
    let mut found = RunAs::default();
    if !nix::unistd::geteuid().is_root() {
        return Ok(found);
    }
    if let Some(name) = user {
        let user = User::from_name(name).ok().flatten().ok_or_else(|| format!("no user \"{name}\""))?;
        (found.uid, found.gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
        // Groups that share their drop folders with this user.
        let groups = CString::new(name).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
        found.groups = groups.unwrap_or_default().into_iter().map(nix::unistd::Gid::as_raw).collect();
    }
    if let Some(name) = group {
        let group = Group::from_name(name).ok().flatten().ok_or_else(|| format!("no group \"{name}\""))?;
        found.gid = Some(group.gid.as_raw());
    }
    Ok(found)
}

impl Process {
    /// Starts this very program as a worker: argv[0] is its title and its only argument, its standard input the link, its
    /// environment empty but for `TZ` and what the allocator reads.
    pub(crate) fn start(channel: &str, port: u16, identity: &RunAs) -> io::Result<(Self, MasterEnd)> {
        let (ours, theirs) = MasterEnd::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(OsString::from(format!("{TITLE_PREFIX}{channel} :{port}")));
        command.env_clear().stdin(Stdio::from(theirs)).stdout(Stdio::null());
        // A Ctrl-C at the terminal is the master's to act on.
        command.process_group(0);
        // Read by the C library alone: a large message's memory goes back to the system when the message has gone.
        command.envs(ALLOCATOR);
        if let Some(zone) = std::env::var_os("TZ") {
            command.env("TZ", zone);
        }
        identity.apply(&mut command);
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        // The pid is the child's for sure: nobody but us reaps it.
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok((Self { pid, pidfd }, ours)),
            Err(e) => {
                let mut child = child;
                child.kill()?;
                child.wait()?;
                Err(e.into())
            }
        }
    }

    /// For logs and the eyes of an operator.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Asks it to drain.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// How it died; `None` while it lives. It stays unreaped.
    pub(crate) fn death(&self) -> io::Result<Option<Death>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
        Ok(status.map(|status| death_of(status.exit_status(), status.terminating_signal())))
    }

    /// Reaps a dead one; its pid may be another's from here on.
    pub(crate) fn reap(self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if let Err(e) = waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            log::debug!("could not reap process {}: {e}", self.pid());
        }
    }

    fn signal(&self, signal: Signal) {
        // It can only be dead already.
        if let Err(e) = pidfd_send_signal(&self.pidfd, signal) {
            log::debug!("could not signal process {}: {e}", self.pid());
        }
    }
}

/// What a wait status means: exit status, or terminating signal.
pub(crate) fn death_of(status: Option<i32>, signal: Option<i32>) -> Death {
    match (status, signal) {
        (Some(code), _) => Death::Exited(code),
        (None, Some(signal)) if is_crash(signal) => Death::Crashed(signal),
        (None, _) => Death::Killed,
    }
}

/// Whether a signal tells of a fault in the process itself.
fn is_crash(signal: i32) -> bool {
    use nix::sys::signal::Signal::{
        SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ,
    };
    [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ]
        .iter()
        .any(|crash| *crash as i32 == signal)
}

/// Whether this process has one thread: a fork of one with several may find a lock held for ever.
pub(crate) fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}
