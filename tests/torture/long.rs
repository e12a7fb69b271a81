//! A long run: mixed load while something happens every few seconds, and at the end nothing has grown. One channel is
//! left alone all the time: its worker, and the master that goes on beside it, are the ones that are measured.

use crate::senders::{LONGEST, Senders, Stream};
use crate::support::dice::Dice;
use crate::support::peer::{Receives, answer, control_id};
use crate::support::process;
use crate::verdict::drained;
use crate::ward::{self, Ward};
use crate::{count, is_long};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The channel that is left alone; what it takes is also sent on.
const STEADY: &str = "steady";

/// What happens every few seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The file is read again, and every channel but one has changed.
    Reload,
    /// The file is read again and again, and is the same.
    Storm,
    /// A worker is killed.
    WorkerDies,
    /// A worker stands still for a second.
    WorkerStops,
    /// The receiver of what is resent is away for some seconds.
    ReceiverAway,
    /// A file stands where an archive should be, for some seconds.
    ArchiveAway,
    /// Strangers connect, say half a frame and vanish.
    Strangers,
}

const EVENTS: [Event; 7] = [
    Event::Reload,
    Event::Storm,
    Event::WorkerDies,
    Event::WorkerStops,
    Event::ReceiverAway,
    Event::ArchiveAway,
    Event::Strangers,
];

/// What is held at a moment.
#[derive(Clone, Copy, Debug)]
struct Held {
    at: Duration,
    /// Bytes of the master, and of the worker that is left alone.
    memory: [u64; 2],
    descriptors: [usize; 2],
    threads: [usize; 2],
    /// Bytes below the state folder without the index that `find` asks, which grows with what there is to find.
    state: u64,
    index: u64,
}

struct Run {
    ward: Ward,
    port: u16,
    receiver_port: u16,
    receiver: Option<Receives>,
    /// What receivers that have gone took.
    received: Vec<Vec<u8>>,
    tasks: usize,
    happened: BTreeMap<Event, usize>,
}

impl Run {
    fn start() -> Run {
        let mut ward = Ward::start();
        let (port, receiver_port) = (ward.site.port(), ward.site.port());
        let mut run = Run {
            ward,
            port,
            receiver_port,
            receiver: None,
            received: Vec::new(),
            tasks: 4,
            happened: BTreeMap::new(),
        };
        run.receive();
        run.configure();
        run.ward.site.run(&["reload"]).good();
        run.ward.server.wait_ready();
        run
    }

    /// Writes the file with the ward's channels changed and this run's own as it always is.
    fn configure(&mut self) {
        self.tasks = 9 - self.tasks;
        self.ward.change(self.tasks);
        let text = std::fs::read_to_string(self.ward.site.config()).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        let mut steady = self.ward.site.store_channel(STEADY, self.port);
        steady["resend"] = json!({"server": "127.0.0.1", "port": self.receiver_port, "timeout": 2});
        config["channels"].as_array_mut().unwrap().push(steady);
        self.ward.site.configure(config);
    }

    fn receive(&mut self) {
        self.receiver = Some(Receives::start(self.receiver_port, Box::new(|body| answer("AA", body))));
    }

    fn streams(&self) -> Vec<Stream> {
        let mut streams: Vec<Stream> = self.ward.streams().into();
        streams.push(self.ward.big_stream());
        let pauses = if is_long() { [100, 300, 15_000] } else { [20, 50, 2000] };
        for (stream, pause) in streams.iter_mut().zip(pauses) {
            stream.pause = Duration::from_millis(pause);
            (stream.senders, stream.window) = (stream.senders.div_ceil(2), 2);
        }
        let steady = Stream { channel: STEADY, port: self.port, make: ward::adt, ..streams[0].clone() };
        streams.push(steady);
        streams
    }

    fn happen(&mut self, event: Event, dice: &mut Dice) {
        *self.happened.entry(event).or_default() += 1;
        let port = *dice.pick(&self.ward.ports);
        let away = Duration::from_millis(500 + dice.below(if is_long() { 4000 } else { 500 }) as u64);
        match event {
            Event::Reload => {
                self.configure();
                self.ward.site.run(&["reload"]).good();
            }
            Event::Storm => (0..50).for_each(|_| self.ward.server.signal(Signal::SIGHUP)),
            Event::WorkerDies => {
                if let Some(worker) = process::worker_of(port) {
                    process::kill(worker);
                }
            }
            Event::WorkerStops => {
                if let Some(worker) = process::worker_of(port) {
                    process::signal(worker, Signal::SIGSTOP);
                    std::thread::sleep(Duration::from_secs(1));
                    process::signal(worker, Signal::SIGCONT);
                }
            }
            Event::ReceiverAway => {
                let receiver = self.receiver.take().expect("it is there between events");
                self.received.extend(receiver.end());
                std::thread::sleep(away);
                self.receive();
            }
            Event::ArchiveAway => {
                let (archive, aside) = (self.ward.site.path("ward"), self.ward.site.path("aside"));
                if std::fs::rename(&archive, &aside).is_ok() {
                    let clogged = std::fs::write(&archive, "in the way").is_ok();
                    std::thread::sleep(away);
                    if clogged {
                        std::fs::remove_file(&archive).unwrap();
                    } else {
                        // The server was faster and made it anew.
                        move_all(&archive, &aside);
                    }
                    std::fs::rename(&aside, &archive).unwrap();
                }
            }
            Event::Strangers => {
                use std::io::Write;
                let strangers: Vec<TcpStream> =
                    (0..40).filter_map(|_| TcpStream::connect(("127.0.0.1", self.port)).ok()).collect();
                for mut stranger in &strangers {
                    let _ = stranger.write_all(b"\x0bMSH|^~\\&|NOBODY");
                }
            }
        }
    }

    fn held(&self, begun: Instant) -> Option<Held> {
        let master = self.ward.server.pid();
        let worker = process::worker_of(self.port)?;
        let both = [master, worker];
        let entries = |pid: u32, folder: &str| {
            std::fs::read_dir(format!("/proc/{pid}/{folder}")).map_or(0, Iterator::count)
        };
        let (state, index) = bytes_below(&self.ward.site.path("state"));
        Some(Held {
            at: begun.elapsed(),
            memory: both.map(|pid| crate::support::memory::held_by_its_data(pid).unwrap_or(0)),
            descriptors: both.map(|pid| entries(pid, "fd")),
            threads: both.map(|pid| entries(pid, "task")),
            state,
            index,
        })
    }

    /// What was resent, the first time that each came, for the checker.
    fn list_received(&mut self) -> PathBuf {
        let now = self.receiver.as_ref().map(Receives::bodies).unwrap_or_default();
        let lines: String = self
            .received
            .iter()
            .chain(&now)
            .map(|body| format!("{}\n", json!({"control": control_id(body)})))
            .collect();
        let path = self.ward.site.path("received.jsonl");
        std::fs::write(&path, lines).unwrap();
        path
    }
}

fn move_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::rename(entry.path(), to.join(entry.file_name())).unwrap();
    }
    std::fs::remove_dir(from).unwrap();
}

/// Bytes on the disk below a folder: what is no index, and indices.
fn bytes_below(folder: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut index) = (0, 0);
    let Ok(entries) = std::fs::read_dir(folder) else { return (0, 0) };
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            let below = bytes_below(&entry.path());
            (bytes, index) = (bytes + below.0, index + below.1);
        } else if entry.file_name().to_string_lossy().starts_with("index.sqlite") {
            index += meta.blocks() * 512;
        } else {
            bytes += meta.blocks() * 512;
        }
    }
    (bytes, index)
}

#[test]
fn nothing_grows_while_something_happens_every_few_seconds() {
    let mut dice = Dice::thrown();
    let mut run = Run::start();
    let (duration, begun) = (Duration::from_secs(count("SECONDS", 5, 1800) as u64), Instant::now());
    let senders = Senders::start(&run.ward.ledger, &run.streams());
    let steady = run.ward.server.worker(run.port);
    let mut held: Vec<Held> = Vec::new();
    let mut told = Duration::ZERO;
    while begun.elapsed() < duration {
        let event = *dice.pick(&EVENTS);
        run.happen(event, &mut dice);
        std::thread::sleep(Duration::from_millis(
            500 + dice.below(if is_long() { 3000 } else { 500 }) as u64,
        ));
        held.extend(run.held(begun));
        if begun.elapsed() > told + Duration::from_secs(60) {
            told = begun.elapsed();
            eprintln!("{:?}, {} acknowledged", held.last(), run.ward.ledger.acknowledged());
        }
    }
    senders.finish();
    assert_eq!(run.ward.server.worker(run.port), steady, "the channel that was left alone has a new worker");
    drained(&run.ward.site, LONGEST);
    let figures = figures(&held);
    let received = run.list_received();
    let verdict = run
        .ward
        .checker()
        .messages("steady/archive", &run.ward.site.path("archive/steady"))
        .rows("steady/receiver", &received)
        .at_least_once("steady/receiver")
        .balances();
    eprintln!(
        "TORTURE long: {} s, {} acknowledged, {:?}, seed {}",
        begun.elapsed().as_secs(),
        verdict.number("acknowledged"),
        run.happened,
        dice.seed
    );
    let grown: Vec<&str> = figures.into_iter().filter_map(|(name, grew)| grew.then_some(name)).collect();
    assert!(!is_long() || grown.is_empty(), "these have grown: {grown:?}");
}

/// Prints what was held in the second quarter of the run and in the last one, and tells where more is.
fn figures(held: &[Held]) -> Vec<(&'static str, bool)> {
    let median = |part: &[Held], of: &dyn Fn(&Held) -> u64| {
        let mut values: Vec<u64> = part.iter().map(of).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let quarter = (held.len() / 4).max(1);
    let (early, late) = (&held[quarter..(2 * quarter).min(held.len())], &held[held.len() - quarter..]);
    let (mib, few) = (1_u64 << 20, 4);
    type Figure<'f> = (&'static str, &'f dyn Fn(&Held) -> u64, u64);
    let figures: [Figure<'_>; 7] = [
        ("memory of the master", &|held| held.memory[0], mib),
        // It remembers its last 100,000 messages, to know them again, in tables that double when they are full.
        ("memory of the worker", &|held| held.memory[1], 12 * mib),
        ("descriptors of the master", &|held| held.descriptors[0] as u64, few),
        ("descriptors of the worker", &|held| held.descriptors[1] as u64, few),
        ("threads of the master", &|held| held.threads[0] as u64, 0),
        ("threads of the worker", &|held| held.threads[1] as u64, 0),
        ("disk below the state folder", &|held| held.state, 64 * mib),
    ];
    figures
        .into_iter()
        .map(|(name, of, slack)| {
            let (before, after) = (median(early, of), median(late, of));
            eprintln!("{name}: {before} in the second quarter, {after} in the last");
            (name, after > before + slack)
        })
        .collect()
}
