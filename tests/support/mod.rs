//! What the tests share: a folder with a configuration file (`Site`), the running server (`Server`), and waits that end
//! at a deadline. The MLLP client and the parser of acknowledgments here are the tests' own: they know nothing of the
//! code they check.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod browser;
pub mod certificates;
pub mod dashboard;
pub mod databases;
pub mod dfapi;
pub mod dice;
pub mod http;
pub mod http_server;
pub mod load;
pub mod memory;
pub mod messages;
pub mod mllp;
pub mod parallel;
pub mod peer;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod solr;
pub mod sshd;
pub mod trace;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take that the contract gives no time for, on a loaded machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long the answer to a message may take.
pub const ANSWER: Duration = Duration::from_secs(10);

/// The corpus beside the repository; `None`, and a line that says so, where it is absent.
pub fn corpus() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/hl7");
    if folder.join("oracle.json").exists() {
        return Some(folder);
    }
    skip(&format!("no corpus at {}", folder.display()));
    None
}

/// Says why a test checks nothing here.
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Asks `look` until it has an answer; fails, naming what was waited for, when `limit` is over.
#[track_caller]
pub fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A temporary folder with a configuration file, and the ports it may use.
pub struct Site {
    folder: TempDir,
    claims: Vec<File>,
}

impl Site {
    /// An empty folder.
    pub fn new() -> Site {
        let folder = tempfile::Builder::new().prefix("hl7t").tempdir().unwrap();
        Site { folder, claims: Vec::new() }
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text, for a configuration.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A free port below the ephemeral range, ours until this process ends.
    pub fn port(&mut self) -> u16 {
        let (port, claim) = ports::claim(self.claims.len() as u32);
        self.claims.push(claim);
        port
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.path("hl7server.yaml")
    }

    /// Writes the configuration (JSON is YAML), with this folder's state and runtime paths where it names none.
    pub fn configure(&self, mut config: Value) {
        let root = config.as_object_mut().unwrap();
        root.entry("state_path").or_insert_with(|| json!(self.text("state")));
        root.entry("runtime_path").or_insert_with(|| json!(self.text("run")));
        root.entry("stop_timeout").or_insert_with(|| json!(10));
        self.configure_text(&serde_json::to_string_pretty(&config).unwrap());
    }

    /// Writes the configuration as it is, in place of the old one.
    pub fn configure_text(&self, text: &str) {
        fs::create_dir_all(self.path("run")).unwrap();
        let new = self.path("new.yaml");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.config()).unwrap();
    }

    /// A channel that takes every type and archives it below `archive/NAME`.
    pub fn store_channel(&self, name: &str, port: u16) -> Value {
        json!({
            "name": name,
            "port": port,
            "listen": "127.0.0.1",
            "message_types": {"*": "store"},
            "local_archive": {"path": self.text(&format!("archive/{name}")), "format": "%Y/%m/%d"},
            "retry": {"first": 0.2, "longest": 1, "give_up": "1h"},
        })
    }

    /// One of the server's commands, with this site's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hl7server"));
        command.args(arguments).arg("--config").arg(self.config());
        bare(&mut command);
        command
    }

    /// Runs one of the server's commands to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments), PATIENCE)
    }

    /// What a command that lists prints with `--json`: an object a line.
    #[track_caller]
    pub fn list(&self, arguments: &[&str]) -> Vec<Value> {
        let ran = self.run(&[arguments, &["--json"]].concat()).good();
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?} is not JSON: {e}"));
        ran.stdout.lines().map(parse).collect()
    }

    /// Whether every worker answers that no message waits or is worked on.
    pub fn is_drained(&self) -> bool {
        let ran = self.run(&["queue", "list", "--json"]);
        ran.code == Some(0) && ran.said().trim().is_empty()
    }

    /// Starts the server and waits until every enabled channel is ready.
    #[track_caller]
    pub fn start(&self) -> Server {
        let server = self.launch(self.command(&["run"]));
        server.wait_ready();
        server
    }

    /// Starts `command`, which is or becomes the master, without waiting.
    #[track_caller]
    pub fn launch(&self, command: Command) -> Server {
        Server { master: self.spawn(command), config: self.config(), ended: None }
    }

    /// Starts the server in a mount namespace of its own, after `prepare`, a piece of shell, has mounted what the test
    /// needs there. `None`, and a line that says so, where this user may have no such namespace.
    #[track_caller]
    pub fn start_prepared(&self, prepare: &str) -> Option<Server> {
        let probe = Command::new("unshare").args(["-rm", "true"]).stderr(Stdio::null()).status();
        if !probe.is_ok_and(|status| status.success()) {
            skip("no user and mount namespaces (unshare -rm) here");
            return None;
        }
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-ec", &format!("{prepare}\nexec \"$0\" run --config \"$1\"")]);
        command.arg(env!("CARGO_BIN_EXE_hl7server")).arg(self.config());
        bare(&mut command);
        let server = self.launch(command);
        server.wait_ready();
        Some(server)
    }

    pub(crate) fn spawn(&self, mut command: Command) -> Child {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap_or_else(|e| panic!("could not start {command:?}: {e}"))
    }

    /// Where every server of this site logs.
    pub fn log_path(&self) -> PathBuf {
        self.path("server.log")
    }

    /// What has been logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Message id → name → value as logged, from the lines of channels with `debug_metadata`.
    pub fn logged_metadata(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for line in self.log().lines() {
            let Some((id, rest)) = line.split_once(" id=").and_then(|(_, rest)| rest.split_once(' ')) else {
                continue;
            };
            if let Some((name, value)) = rest.split_once('=') {
                found.entry(id.to_owned()).or_default().insert(name.to_owned(), value.to_owned());
            }
        }
        found
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let skipped = lines.len().saturating_sub(200);
            eprintln!("---- server log, {} lines, the last of them:", lines.len());
            for line in &lines[skipped..] {
                eprintln!("{line}");
            }
            eprintln!("---- end of the server log");
            if std::env::var_os("HL7SERVER_KEEP").is_some() {
                self.folder.disable_cleanup(true);
                eprintln!("kept: {}", self.folder.path().display());
            }
        }
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Fails unless the command ended with 0.
    #[track_caller]
    pub fn good(self) -> Ran {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON: {e}: {self:#?}"))
    }

    /// Everything it said.
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end, which must come within `limit`.
#[track_caller]
pub fn finish(mut command: Command, limit: Duration) -> Ran {
    // Files, not pipes: a child that prints more than a pipe holds must not stall on a reader that waits for its end.
    let folder = tempfile::tempdir().unwrap();
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("could not start {command:?}: {e}"));
    let status = wait(&mut child, limit);
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    let Some(status) = status else {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("not ended within {limit:?}: {command:?}\n{}{}", read(&out), read(&err));
    };
    Ran { code: status.code(), stdout: read(&out), stderr: read(&err) }
}

/// The status a child ended with, if it does within `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Nothing of the environment the tests run in reaches the server.
fn bare(command: &mut Command) {
    for name in [
        "RUST_LOG",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "JOURNAL_STREAM",
        "CREDENTIALS_DIRECTORY",
    ] {
        command.env_remove(name);
    }
}

/// A running master with its workers. Dropping it kills all of them, orphaned workers too.
pub struct Server {
    master: Child,
    config: PathBuf,
    ended: Option<ExitStatus>,
}

impl Server {
    /// The master's pid.
    pub fn pid(&self) -> u32 {
        self.master.id()
    }

    /// Waits until every enabled channel is ready.
    #[track_caller]
    pub fn wait_ready(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.try_status();
            if let Some(status) = &status
                && channels(status)
                    .iter()
                    .all(|channel| ["ready", "off", "removed"].contains(&&*state(channel)))
            {
                return;
            }
            assert!(process::is_alive(self.pid()), "the server ended before it was ready");
            assert!(Instant::now() < end, "not ready within {PATIENCE:?}: {status:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `status --json` says; `None` while nobody answers.
    pub fn try_status(&self) -> Option<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hl7server"));
        command.args(["status", "--json", "--config"]).arg(&self.config);
        bare(&mut command);
        let ran = finish(command, PATIENCE);
        if ran.code == Some(0) { serde_json::from_str(&ran.stdout).ok() } else { None }
    }

    /// What `status --json` says of one channel.
    #[track_caller]
    pub fn channel(&self, name: &str) -> Value {
        let status = self.try_status().expect("the control socket answers");
        let found = channels(&status).into_iter().find(|channel| channel["name"] == name);
        found.unwrap_or_else(|| panic!("no channel {name:?} in {status:#}"))
    }

    /// What `status --channel NAME --json` says of a channel's peers.
    #[track_caller]
    pub fn peers(&self, name: &str) -> Vec<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hl7server"));
        command.args(["status", "--channel", name, "--json", "--config"]).arg(&self.config);
        bare(&mut command);
        finish(command, PATIENCE).good().json()["peers"].as_array().unwrap().clone()
    }

    /// A counter of a channel; counters come up once a second, so ask with [`within`].
    #[track_caller]
    pub fn count(&self, channel: &str, counter: &str) -> u64 {
        number(&self.channel(channel), counter)
    }

    /// Waits until a counter of a channel has reached `least`.
    #[track_caller]
    pub fn wait_count(&self, channel: &str, counter: &str, least: u64) {
        let mut last = 0;
        let end = Instant::now() + PATIENCE;
        while last < least {
            last = self.count(channel, counter);
            assert!(last >= least || Instant::now() < end, "{channel}: {counter} is {last}, wanted {least}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The pid of the worker that serves `port`, which must be there.
    #[track_caller]
    pub fn worker(&self, port: u16) -> u32 {
        within(PATIENCE, &format!("a worker for port {port}"), || process::worker_of(port))
    }

    /// Sends the master a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        process::signal(self.pid(), signal);
    }

    /// Kills the master with `SIGKILL` and reaps it; the workers are left to find out.
    pub fn kill(&mut self) {
        if self.ended.is_none() {
            self.master.kill().unwrap();
            self.ended = Some(self.master.wait().unwrap());
        }
    }

    /// The master's exit status, which must come within `limit`.
    #[track_caller]
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let status = wait(&mut self.master, limit);
        self.ended = status;
        status.unwrap_or_else(|| panic!("the master has not ended within {limit:?}"))
    }

    /// Starts a master again after this one has ended.
    #[track_caller]
    pub fn start_again(&mut self, site: &Site) {
        self.launch_again(site);
        self.wait_ready();
    }

    /// The same without waiting until it is ready.
    #[track_caller]
    pub fn launch_again(&mut self, site: &Site) {
        assert!(self.ended.is_some(), "the old master still runs");
        self.master = site.spawn(site.command(&["run"]));
        self.ended = None;
    }

    /// Runs a piece of shell in the server's mount namespace.
    #[track_caller]
    pub fn inside(&self, script: &str) {
        let mut command = Command::new("nsenter");
        command.args([
            "-t",
            &self.pid().to_string(),
            "-U",
            "-m",
            "--preserve-credentials",
            "sh",
            "-ec",
            script,
        ]);
        finish(command, PATIENCE).good();
    }

    /// A path as the server sees it from its own mount namespace.
    pub fn seen(&self, path: &Path) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.pid())).join(path.strip_prefix("/").unwrap())
    }

    /// Ends the server with `SIGTERM`; it must end by itself, with 0.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let status = self.wait_end(PATIENCE);
        assert_eq!(status.code(), Some(0), "after SIGTERM");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let workers: Vec<u32> =
            process::workers().into_iter().filter(|w| self.is_mine(w)).map(|w| w.pid).collect();
        self.kill();
        for pid in workers {
            process::kill(pid);
        }
    }
}

impl Server {
    /// Ports are claimed for the life of a test, so a worker on a port of this configuration, past or present, is ours;
    /// so is a child of our master.
    fn is_mine(&self, worker: &process::Worker) -> bool {
        worker.parent == self.pid()
            || fs::read_to_string(&self.config).is_ok_and(|text| text.contains(&worker.port.to_string()))
    }
}

/// The channels in what `status --json` printed.
pub fn channels(status: &Value) -> Vec<Value> {
    status.get("channels").unwrap_or(status).as_array().cloned().unwrap_or_default()
}

/// A channel's state, in lower case.
pub fn state(channel: &Value) -> String {
    channel["state"].as_str().unwrap_or_default().to_lowercase()
}

/// A counter of a channel, wherever in it the counter stands.
pub fn number(channel: &Value, counter: &str) -> u64 {
    let value = channel.get(counter).or_else(|| channel["status"].get(counter));
    value.and_then(Value::as_u64).unwrap_or_else(|| panic!("no number {counter:?} in {channel:#}"))
}

/// Every file below a folder whose name ends in `suffix`, in name order, with what it holds. None while the folder is
/// not there yet.
pub fn files(folder: &Path, suffix: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(suffix)
                && let Ok(bytes) = fs::read(&path)
            {
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

/// Waits until at least `count` such files are there; returns all of them.
#[track_caller]
pub fn wait_files(folder: &Path, suffix: &str, count: usize) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = files(folder, suffix);
    let end = Instant::now() + PATIENCE;
    while found.len() < count {
        assert!(Instant::now() < end, "{} of {count} *{suffix} files in {}", found.len(), folder.display());
        std::thread::sleep(Duration::from_millis(50));
        found = files(folder, suffix);
    }
    found
}
