//! strace: system calls watched, failed or held up in a running process.

use super::{PATIENCE, within};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// strace attached to a process and all it starts.
pub struct Trace {
    strace: Child,
    output: PathBuf,
}

impl Trace {
    /// Whether strace is here and may trace; says why not.
    pub fn is_possible() -> bool {
        let probe =
            Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
        let possible = probe.is_ok_and(|status| status.success());
        if !possible {
            super::skip("no strace, or no right to trace");
        }
        possible
    }

    /// Attaches to every thread of a process; returns once it is traced. `None` where that is not allowed.
    pub fn attach(pid: u32, output: &Path, options: &[&str]) -> Option<Trace> {
        let mut strace = Command::new("strace")
            .args(["-f", "-qq", "-y", "-s", "4096", "-p", &pid.to_string(), "-o"])
            .arg(output)
            .args(options)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace starts");
        within(PATIENCE, "strace is attached to every thread, or has given up", || {
            let ended = strace.try_wait().ok()?.is_some();
            (ended || is_traced(pid, strace.id())).then_some(())
        });
        if strace.try_wait().ok()?.is_some() {
            super::skip("this user may not trace the server");
            return None;
        }
        Some(Trace { strace, output: output.to_owned() })
    }

    /// What was traced so far, line by line.
    pub fn lines(&self) -> Vec<String> {
        let bytes = std::fs::read(&self.output).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // TERM lets strace detach; what it traced runs on, as it does when strace is killed. That may be needed: strace
        // sometimes waits for ever for a thread of a process that it has killed itself.
        super::process::signal(self.strace.id(), nix::sys::signal::Signal::SIGTERM);
        if super::wait(&mut self.strace, std::time::Duration::from_secs(1)).is_none() {
            let _ = self.strace.kill();
        }
        let _ = self.strace.wait();
    }
}

/// Whether every thread of the process has this tracer.
fn is_traced(pid: u32, tracer: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let line = format!("TracerPid:\t{tracer}\n");
    threads.flatten().all(|thread| {
        std::fs::read_to_string(thread.path().join("status")).is_ok_and(|status| status.contains(&line))
    })
}
