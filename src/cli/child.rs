//! A server of our own for `demo` and `bench`: this same binary as a child process, in a folder that goes away with it.

use super::Fail;
use super::server::{self, ServerStatus};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Ports that are tried, below those that the kernel gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..29_000;
/// After this long a server that was told to stop is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A new, empty folder that is removed at the end.
pub(super) struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    /// Below `parent`, or where temporary files go.
    pub(super) fn new(name: &str, parent: Option<&Path>, keep: bool) -> Result<Folder, Fail> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        // The path of a control socket may have 107 bytes, and a relative one would not be the child's.
        let parent = parent
            .canonicalize()
            .map_err(|error| Fail::io(format!("use \"{}\"", parent.display()), &error))?;
        for n in 0..1000 {
            let path = parent.join(format!("hl7server-{name}-{}-{n}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Folder { path, keep }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(Fail::io(format!("make \"{}\"", path.display()), &error));
                }
            }
        }
        Err(Fail::Failed(format!("\"{}\" is full of folders of earlier runs", parent.display())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A port of the loopback address that nobody listens on now, from `after` on.
pub(super) fn free_port(after: u16) -> Result<u16, Fail> {
    // Runs at the same time begin at different places.
    let offset = u16::try_from(std::process::id() % 8_000).expect("below 8,000");
    let start = if after == 0 { PORTS.start + offset } else { after + 1 };
    (start..PORTS.end)
        .chain(PORTS)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .ok_or_else(|| Fail::Failed("every port from 20000 to 28999 is taken".to_owned()))
}

/// A running server. Dropped, it is stopped.
pub(super) struct Server {
    child: Child,
    runtime_path: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Writes the configuration into `folder` and starts a server with it; its log goes to `server.log` there.
    /// The configuration must name `folder/run` as its `runtime_path`.
    pub(super) fn start(folder: &Path, configuration: &str) -> Result<Server, Fail> {
        let file = folder.join("hl7server.yaml");
        let log = folder.join("server.log");
        let spawn = || -> io::Result<Child> {
            fs::write(&file, configuration)?;
            Command::new("/proc/self/exe")
                .args(["run", "--config"])
                .arg(&file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(&log)?)
                .env_remove("NOTIFY_SOCKET")
                .env_remove("JOURNAL_STREAM")
                .spawn()
        };
        let child = spawn().map_err(|error| Fail::io("start a server", &error))?;
        Ok(Server { child, runtime_path: folder.join("run"), log })
    }

    /// The process id of the master.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process ids of the workers, in no order.
    pub(super) fn workers(&self) -> Vec<u32> {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// What the running server tells of itself.
    pub(super) fn status(&self) -> Result<ServerStatus, Fail> {
        server::status(&self.runtime_path, None)
    }

    /// Messages of a channel that are accepted and not yet ended, asked of its worker: the counters of `status` are up
    /// to a second old.
    pub(super) fn waiting(&self, channel: &str) -> Result<u64, Fail> {
        server::queue(&self.runtime_path, channel, 0).map(|(_, total)| total)
    }

    /// Waits until nothing of the channel waits.
    pub(super) fn wait_delivered(&mut self, channel: &str, timeout: Duration) -> Result<(), Fail> {
        let what = format!("{channel}: messages still wait after {} s", timeout.as_secs());
        self.wait(timeout, &what, |server| Ok(server.waiting(channel)? == 0))
    }

    /// Asks until the answer is yes; a server that has ended is an error at once, with the end of its log.
    pub(super) fn wait(
        &mut self,
        timeout: Duration,
        otherwise: &str,
        mut is_so: impl FnMut(&Server) -> Result<bool, Fail>,
    ) -> Result<(), Fail> {
        let deadline = Instant::now() + timeout;
        loop {
            let last = match is_so(self) {
                Ok(true) => return Ok(()),
                Ok(false) => String::new(),
                Err(Fail::Failed(reason)) => format!(": {reason}"),
                Err(other) => return Err(other),
            };
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Fail::Failed(format!(
                    "the server ended ({status}); its log:\n{}",
                    self.log_end()
                )));
            }
            if Instant::now() > deadline {
                return Err(Fail::Failed(format!(
                    "{otherwise}{last}; the server's log:\n{}",
                    self.log_end()
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The last lines of its log.
    pub(super) fn log_end(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// TERM, so that it drains; KILL when it takes too long.
    pub(super) fn stop(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has a positive pid");
        kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_away_with_what_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new("test", Some(parent.path()), false).unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), "x").unwrap();
        drop(folder);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_free_ports_differ() {
        let one = free_port(0).unwrap();
        let two = free_port(one).unwrap();
        assert_ne!(one, two);
        assert!(PORTS.contains(&one) && PORTS.contains(&two));
    }
}
