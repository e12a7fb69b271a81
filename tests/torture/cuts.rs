//! Power cuts: the server and its senders in a machine of their own under user-mode Linux, whose disk loses what was not
//! flushed. The machine is killed at random moments and started again on the same disk, and again; after every few cuts
//! it is let run until nothing waits, and the checker looks at the disk from inside. Needs no root: the host never mounts
//! the disk.

use crate::count;
use crate::support::dice::Dice;
use crate::support::{Site, finish, skip, wait};
use crate::verdict;
use crate::ward;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Cuts that one disk lives through.
const CUTS_A_DISK: usize = 20;
/// Cuts after which the accounts are looked at.
const CUTS_A_CHECK: usize = 10;
const DISK_BYTES: u64 = 128 << 20;
/// Of the log of its writes.
const LOG_BYTES: u64 = 4 << 30;
/// How long a machine may take to start, or to deliver what waits.
const LONG: Duration = Duration::from_secs(120);
/// Longest time under load before a cut.
const LOAD_US: usize = 1_500_000;

#[test]
fn power_cut_at_any_moment_leaves_everything_acknowledged_and_no_half_file() {
    if !Machine::is_possible() {
        return;
    }
    let cuts = count("CUTS", 2, 100);
    let mut dice = Dice::thrown();
    let begun = Instant::now();
    let (mut acknowledged, mut left) = (0, cuts);
    while left > 0 {
        let now = left.min(CUTS_A_DISK);
        // One disk in two has a database of somebody else's.
        acknowledged += one_disk(now, (left / CUTS_A_DISK).is_multiple_of(2), &mut dice);
        left -= now;
    }
    eprintln!(
        "TORTURE power cuts: {cuts}, {acknowledged} acknowledged, none lost, {} s, seed {}",
        begun.elapsed().as_secs(),
        dice.seed
    );
}

/// Every write to the disk is logged while the server is under load, and the power is cut in thought behind each: see
/// `blocks`, which is the rest of this test.
#[test]
fn power_cut_behind_any_write_and_with_any_of_the_unflushed_ones_keeps_the_promise() {
    let points = count("POINTS", 0, 3000);
    if points == 0 {
        return skip("crash points between any two writes belong to the long form: make torture");
    }
    if !Machine::is_possible() || !may_mount() {
        return;
    }
    let seed = Dice::thrown().seed;
    let begun = Instant::now();
    let mut disk = Disk::new(true);
    let messages = count("MESSAGES", 300, 300);
    let orders = json!({
        "what": "record", "messages": messages, "before": {}, "senders": {"adt": 3, "oru": 2},
        "checker": checking("LEDGER"), "patience": LONG.as_secs(),
    });
    let mut machine = disk.start(orders);
    machine.wait_for("RECORDED");
    for line in machine.cut() {
        disk.book(&line);
    }
    disk.write_ledger();
    let mut blocks = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/blocks"));
    blocks.arg(disk.site.path("orders.json")).arg(DISK_BYTES.to_string()).arg(disk.site.path("log"));
    blocks.arg(disk.site.path("ledger.jsonl")).args([points.to_string(), seed.to_string()]);
    let ran = finish(blocks, Duration::from_secs(3 * 3600));
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    eprintln!("TORTURE crash points: {} {} s, seed {seed}", ran.stdout.trim(), begun.elapsed().as_secs());
}

/// Whether this user may mount a disk in a namespace of his own.
fn may_mount() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["-m", "losetup", "-f"]).stdout(Stdio::null()).stderr(Stdio::null());
    let may = probe.status().is_ok_and(|status| status.success());
    if !may {
        skip("mounting copies of the disk needs root and loop devices");
    }
    may
}

fn one_disk(cuts: usize, theirs: bool, dice: &mut Dice) -> u64 {
    let mut disk = Disk::new(theirs);
    let mut checked = 0;
    for cut in 1..=cuts {
        // One in five comes before anything can be sent: while what the last one left is recovered.
        let early = dice.below(5) == 0 && cut > 1;
        disk.cut(early, Duration::from_micros(dice.below(LOAD_US) as u64));
        if cut % CUTS_A_CHECK == 0 || cut == cuts {
            checked = disk.check();
        }
    }
    checked
}

/// A disk with its book.
struct Disk {
    site: Site,
    ports: BTreeMap<&'static str, u16>,
    is_new: bool,
    /// Whether the database was there before the server, in SQLite's ordinary mode.
    theirs: bool,
    /// By channel and control id.
    ledger: BTreeMap<(String, String), Value>,
    /// What each sender did last, by channel and sender.
    last: BTreeMap<String, Value>,
}

impl Disk {
    fn new(theirs: bool) -> Disk {
        let mut site = Site::new();
        // On the machine's own network.
        let ports = [site.port(), site.port(), site.port()];
        let folder = site.text("");
        let mut config = ward::config(&site, ports, 4);
        config["state_path"] = json!(format!("{folder}state"));
        let text = config.to_string().replace(&folder, "/mnt/");
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["runtime_path"] = json!("/run/hl7server");
        site.configure(config);
        for (name, bytes) in [("disk", DISK_BYTES), ("log", LOG_BYTES)] {
            File::create(site.path(name)).unwrap().set_len(bytes).unwrap();
        }
        let ports = ward::CHANNELS.into_iter().zip(ports).collect();
        Disk { site, ports, is_new: true, theirs, ledger: BTreeMap::new(), last: BTreeMap::new() }
    }

    /// Runs the machine and cuts its power `after` the first acknowledgment; or, `early`, its start.
    #[track_caller]
    fn cut(&mut self, early: bool, after: Duration) {
        let before: BTreeMap<&String, Value> = self
            .last
            .iter()
            .map(|(sender, entry)| {
                let over = !entry["acknowledged_us"].is_null();
                let n = entry["n"].as_u64().unwrap() + u64::from(over);
                (sender, json!({"n": n, "pending": if over { Value::Null } else { entry.clone() }}))
            })
            .collect();
        let orders = json!({"what": "load", "before": before, "senders": {"adt": 4, "oru": 2}});
        let mut machine = self.start(orders);
        let awaited = if early { "STARTED" } else { "ACK" };
        let first = machine.wait_for(awaited);
        self.book(&first);
        std::thread::sleep(after);
        for line in machine.cut() {
            self.book(&line);
        }
        self.is_new = false;
    }

    fn start(&self, orders: Value) -> Machine {
        self.write(orders);
        Machine::start(&self.site)
    }

    /// Puts down what the machine is to do.
    fn write(&self, mut orders: Value) {
        orders["format"] = json!(self.is_new);
        orders["theirs"] = json!(self.theirs);
        orders["program"] = json!(env!("CARGO_BIN_EXE_hl7server"));
        orders["config"] = json!(self.site.config());
        orders["ports"] = json!(self.ports);
        fs::write(self.site.path("orders.json"), orders.to_string()).unwrap();
    }

    fn book(&mut self, line: &str) {
        let Some((word, rest)) = line.split_once(' ') else { return };
        assert_ne!(word, "WORDS", "{rest}");
        // The last line may be cut off, too.
        let ("SENT" | "ACK", Ok(entry)) = (word, serde_json::from_str::<Value>(rest)) else { return };
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        self.last.insert(format!("{}/{}", text("channel"), entry["sender"]), entry.clone());
        self.ledger.insert((text("channel"), text("control")), entry);
    }

    /// Lets the machine deliver what waits. Returns how many messages were acknowledged so far.
    #[track_caller]
    fn check(&self) -> u64 {
        self.write_ledger();
        let orders = json!({"what": "check", "checker": checking(&self.site.text("ledger.jsonl")), "patience": LONG.as_secs()});
        let mut machine = self.start(orders);
        let said = machine.wait_for("VERDICT");
        let verdict: Value = serde_json::from_str(said.split_once(' ').unwrap().1).unwrap();
        let nothing = ["failed", "waiting", "temporary"].iter().all(|key| verdict[key] == 0);
        assert!(
            verdict["ok"] == true && nothing,
            "the accounts do not balance after a power cut: {verdict:#}\n{}",
            machine.passed.join("\n").replace("\\n", "\n")
        );
        machine.ends();
        verdict["acknowledged"].as_u64().unwrap()
    }

    fn write_ledger(&self) {
        let lines: String = self.ledger.values().map(|entry| format!("{entry}\n")).collect();
        fs::write(self.site.path("ledger.jsonl"), lines).unwrap();
    }
}

/// The checker with the places on the machine's disk.
fn checking(ledger: &str) -> Vec<String> {
    let mut words = vec![verdict::program().to_str().unwrap().to_owned()];
    let mut word = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
    word(&["--ledger", ledger]);
    word(&["--messages", "adt/archive", "/mnt/archive/adt"]);
    word(&["--messages", "oru/archive", "/mnt/archive/oru"]);
    word(&["--documents", "oru/attachment", "/mnt/attachment"]);
    word(&["--documents", "oru/ward", "/mnt/ward"]);
    word(&["--sqlite", "adt/rows", "/mnt/rows/rows.sqlite", "rows", "id,control,patient"]);
    words
}

/// A machine under user-mode Linux. Dropping it kills all its processes.
struct Machine {
    kernel: Child,
    lines: Receiver<String>,
    /// Lines that nobody waited for.
    passed: Vec<String>,
}

impl Machine {
    /// Whether user-mode Linux is here and runs; says why not.
    fn is_possible() -> bool {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<_> = std::env::split_paths(&paths).collect();
        folders.push("/usr/sbin".into());
        let missing = ["linux.uml", "mkfs.ext4", "ip"]
            .into_iter()
            .find(|tool| !folders.iter().any(|folder| folder.join(tool).exists()));
        if let Some(tool) = missing {
            skip(&format!("no {tool} here: run WANT_TORTURE=1 tests/support/install"));
            return false;
        }
        let disk = Disk::new(false);
        let mut machine = disk.start(json!({"what": "nothing"}));
        let started = machine.lines.iter().any(|line| line.starts_with("STARTED"));
        if !started {
            let status = machine.kernel.wait();
            skip(&format!("user-mode Linux does not run here: {status:?}"));
        }
        started
    }

    #[track_caller]
    fn start(site: &Site) -> Machine {
        let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/inside/init");
        let mut kernel = Command::new("linux.uml");
        kernel
            .args(["mem=256M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "quiet"])
            .args(["con=null", "con0=fd:0,fd:1"])
            .arg(format!("init={}", init.display()))
            .arg(format!("ubd0={}", site.path("disk").display()))
            .arg(format!("ubd1={}", site.path("log").display()))
            .arg(format!("uml_dir={}/", site.path("uml").display()))
            .arg(format!("machine={}", site.path("").display()))
            .env("TMPDIR", site.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        let mut kernel = kernel.spawn().expect("user-mode Linux starts");
        let (told, lines) = channel();
        let output = kernel.stdout.take().expect("it is piped");
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if told.send(text).is_err() {
                    return;
                }
            }
        });
        Machine { kernel, lines, passed: Vec::new() }
    }

    /// The next line that begins with a word; the others go by, but for what went wrong.
    #[track_caller]
    fn wait_for(&mut self, word: &str) -> String {
        let end = Instant::now() + LONG;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with(word) => return line,
                Ok(line) => {
                    self.passed.push(line);
                }
                Err(fault) => panic!("no {word} from the machine: {fault}\n{}", self.passed.join("\n")),
            }
        }
    }

    /// Cuts the power. Returns what was said and not heard yet.
    fn cut(mut self) -> Vec<String> {
        self.kill();
        let mut lines = std::mem::take(&mut self.passed);
        // Ends with the reader, which ends with the last process that could write.
        lines.extend(self.lines.iter());
        lines
    }

    /// Waits until it has shut down.
    #[track_caller]
    fn ends(mut self) {
        wait(&mut self.kernel, LONG).expect("the machine shuts down");
    }

    fn kill(&mut self) {
        // Its own group: the kernel and each process of the machine.
        let _ = killpg(Pid::from_raw(self.kernel.id() as i32), Signal::SIGKILL);
        let _ = self.kernel.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}
