//! A master in a folder of its own.

use master::control::{ChannelState, ChannelStatus, Request, Response, ServerStatus, call};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const SOON: Duration = Duration::from_secs(20);

pub struct Master {
    folder: TempDir,
    child: Child,
    service: String,
}

impl Master {
    /// Starts one with these channels, as lines of YAML below `channels:`.
    pub fn start(channels: &str) -> Self {
        Self::start_with("", channels, &[])
    }

    /// The same with keys of the service and an environment.
    pub fn start_with(service: &str, channels: &str, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display();
        let service = format!("state_path: {root}/state\nruntime_path: {root}/run\n{service}\n");
        std::fs::write(folder.path().join("hl7server.yaml"), format!("{service}channels:\n{channels}"))
            .unwrap();
        Self::start_in(folder, service, environment)
    }

    /// The next one, after this one has died.
    pub fn again(mut self) -> Self {
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        Self::start_in(folder, self.service.clone(), &[])
    }

    fn start_in(folder: TempDir, service: String, environment: &[(&str, &str)]) -> Self {
        let config = folder.path().join("hl7server.yaml");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["master", config.to_str().unwrap()])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { folder, child, service }
    }

    /// A second one on the same folder.
    pub fn another(&self) -> std::process::Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["master", self.folder.path().join("hl7server.yaml").to_str().unwrap()])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub fn write(&self, channels: &str) {
        let text = format!("{}channels:\n{channels}", self.service);
        std::fs::write(self.folder.path().join("hl7server.yaml"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn call(&self, request: &Request) -> Response {
        call(&self.path("run"), request, SOON).unwrap()
    }

    pub fn reload(&self, channels: &str) -> Response {
        self.write(channels);
        self.call(&Request::Reload)
    }

    pub fn status(&self) -> ServerStatus {
        let Response::Status(status) = self.call(&Request::Status { channel: None }) else {
            panic!("no status")
        };
        status
    }

    /// Waits until a channel is as `is` says.
    pub fn await_channel(&self, name: &str, is: impl Fn(&ChannelStatus) -> bool) -> ChannelStatus {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < SOON {
            if let Ok(Response::Status(status)) =
                call(&self.path("run"), &Request::Status { channel: None }, SOON)
            {
                last = status.channels.into_iter().find(|channel| channel.name == name);
                if let Some(found) = last.as_ref().filter(|channel| is(channel)) {
                    return found.clone();
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{name} is {last:?}\n{}", self.log());
    }

    pub fn await_ready(&self, name: &str) -> u32 {
        let ready = |channel: &ChannelStatus| channel.state == ChannelState::Ready && channel.pid.is_some();
        self.await_channel(name, ready).pid.unwrap()
    }

    pub fn await_log(&self, part: &str) {
        let begun = Instant::now();
        while !self.log().contains(part) {
            assert!(begun.elapsed() < SOON, "no {part:?} in\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < SOON * 2, "the master does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // Its workers die with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The line that a worker says to each connection.
pub fn ask(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut line = String::new();
    stream.read_to_string(&mut line).unwrap();
    line
}

/// A port below the ephemeral range that nobody has at the moment.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id() as u16).wrapping_mul(37).wrapping_add(step) % 12_000;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

pub fn log_to_stderr() {
    struct Stderr;
    impl log::Log for Stderr {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            let _ = writeln!(std::io::stderr(), "{} {}", record.level(), record.args());
        }
        fn flush(&self) {}
    }
    log::set_logger(&Stderr).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
}
