//! A reload touches only what changed, refuses nobody, and a broken file changes nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use support::load::{Load, assert_archived_once};
use support::messages::{self, adt};
use support::mllp::{Acknowledgment, Peer, Reply, frame};
use support::{ANSWER, PATIENCE, Server, Site, process, wait_files, within};

/// Three running channels, `one`, `two` and `three`.
struct Three {
    site: Site,
    ports: [u16; 3],
    server: Server,
}

const NAMES: [&str; 3] = ["one", "two", "three"];

impl Three {
    #[track_caller]
    fn start() -> Three {
        let mut site = Site::new();
        let ports = [site.port(), site.port(), site.port()];
        site.configure(Self::config(&site, ports));
        let server = site.start();
        Three { site, ports, server }
    }

    fn config(site: &Site, ports: [u16; 3]) -> Value {
        let channels: Vec<Value> =
            NAMES.iter().zip(ports).map(|(name, port)| site.store_channel(name, port)).collect();
        json!({"channels": channels})
    }

    /// The configuration with `key` of channel `three` set.
    fn changed(&self, key: &str, value: Value) -> Value {
        let mut config = Self::config(&self.site, self.ports);
        config["channels"][2][key] = value;
        config
    }

    #[track_caller]
    fn pids(&self) -> [u32; 3] {
        self.ports.map(|port| self.server.worker(port))
    }

    /// Waits until channel `three` is served by another worker than `old`, which has ended.
    #[track_caller]
    fn wait_replaced(&self, old: u32) {
        within(PATIENCE, "the changed channel has a new worker", || {
            let new = process::worker_of(self.ports[2])?;
            (new != old && !process::is_alive(old)).then_some(())
        });
    }
}

#[test]
fn a_reload_replaces_only_the_changed_channel_and_refuses_no_connection() {
    const RELOADS: usize = 10;
    let three = Three::start();
    let (before, mut peers) = (three.pids(), three.ports.map(Peer::connect));
    for (peer, name) in peers.iter_mut().zip(NAMES) {
        peer.exchange(&adt("BEFORE", name)).accepts(b"BEFORE");
    }
    let hammer = Hammer::start(three.ports[2], 4);
    for round in 0..RELOADS {
        let old = three.server.worker(three.ports[2]);
        three.site.configure(three.changed("tasks", json!(round % 2 + 1)));
        let ran = three.site.run(&["reload"]).good();
        assert!(ran.stdout.contains("three"), "does not say what changed: {ran:#?}");
        assert!(!ran.stdout.lines().any(|l| l.contains("two") && l.contains("replace")), "{ran:#?}");
        three.wait_replaced(old);
        hammer.wait_for_more(20);
    }
    let after = three.pids();
    assert_eq!((after[0], after[1]), (before[0], before[1]), "an unchanged channel has a new worker");
    assert_ne!(after[2], before[2]);
    for (peer, name) in peers.iter_mut().zip(NAMES).take(2) {
        peer.exchange(&adt("AFTER", name)).accepts(b"AFTER");
    }
    let (sent, unanswered) = hammer.finish();
    eprintln!(
        "{} connections in {RELOADS} reloads, {unanswered} closed before the answer",
        sent.len() + unanswered
    );
    let three_archive = three.site.path("archive/three");
    let mut all = sent;
    all.insert("BEFORE".to_owned(), adt("BEFORE", "three"));
    assert_archived_once(&all, &three_archive);
}

#[test]
fn the_changed_channel_loses_and_doubles_nothing() {
    let three = Three::start();
    let load = Load::start(three.ports[2], 16);
    for round in 0..10 {
        load.wait_for_more(50);
        let old = three.server.worker(three.ports[2]);
        three.site.configure(three.changed("tasks", json!(round % 2 + 1)));
        three.site.run(&["reload"]).good();
        three.wait_replaced(old);
    }
    assert_archived_once(&load.finish(), &three.site.path("archive/three"));
}

#[test]
fn a_hang_up_reloads_as_the_command_does() {
    let three = Three::start();
    let before = three.pids();
    three.site.configure(three.changed("message_types", json!({"ADT^A08": "store"})));
    three.server.signal(Signal::SIGHUP);
    three.wait_replaced(before[2]);
    three.server.wait_ready();
    let unknown = messages::typed("ZZZ^Z01", "NEW", "P1");
    Peer::connect(three.ports[2]).exchange(&unknown).refuses("AR", "200");
    Peer::connect(three.ports[1]).exchange(&adt("OLD", "P1")).accepts(b"OLD");
    assert_eq!(three.pids()[..2], before[..2]);
}

#[test]
fn a_storm_of_hang_ups_harms_nobody() {
    let three = Three::start();
    let before = three.pids();
    let mut peer = Peer::connect(three.ports[0]);
    for n in 0..300 {
        three.server.signal(Signal::SIGHUP);
        if n % 30 == 0 {
            let id = format!("STORM{n}");
            peer.exchange(&adt(&id, "P1")).accepts(id.as_bytes());
        }
    }
    three.server.wait_ready();
    assert_eq!(three.pids(), before);
    peer.exchange(&adt("AFTER", "P1")).accepts(b"AFTER");
}

#[test]
fn a_broken_file_changes_nothing_and_every_problem_is_told() {
    let three = Three::start();
    let before = three.pids();
    let mut peers = three.ports.map(Peer::connect);
    let broken = format!(
        "state_path: {}\nruntime_path: {}\nmax_tasks: many\nchannels:\n- name: one\n  port: {}\n  drop_folder: {{}}\n- name: one\n  port: 80\n",
        three.site.text("state"),
        three.site.text("run"),
        three.ports[0]
    );
    three.site.configure_text(&broken);

    let ran = three.site.run(&["reload"]);
    assert!(matches!(ran.code, Some(1 | 78)), "{ran:#?}");
    assert_tells_all_problems(&ran.stderr);

    let logged = three.site.log().len();
    three.server.signal(Signal::SIGHUP);
    within(PATIENCE, "the problems in the log", || {
        let log = three.site.log();
        (log[logged..].matches("hl7server.yaml:").count() >= 4).then_some(())
    });
    assert_tells_all_problems(&three.site.log()[logged..]);

    assert_eq!(three.pids(), before);
    for (n, peer) in peers.iter_mut().enumerate() {
        peer.exchange(&adt("STILL", NAMES[n])).accepts(b"STILL");
    }
}

/// Each problem of the broken file, at its line.
#[track_caller]
fn assert_tells_all_problems(text: &str) {
    for (line, word) in [(3, "max_tasks"), (7, "drop_folders"), (8, "name"), (9, "port")] {
        let place = format!("hl7server.yaml:{line}:");
        let found = text.lines().any(|l| l.contains(&place) && l.contains(word));
        assert!(found, "no problem with {word} at line {line} in:\n{text}");
    }
}

#[test]
fn a_file_that_is_no_yaml_or_gone_changes_nothing() {
    let three = Three::start();
    let before = three.pids();
    three.site.configure_text("channels: [\n");
    let ran = three.site.run(&["reload"]);
    assert!(matches!(ran.code, Some(1 | 78)) && ran.stderr.contains("hl7server.yaml"), "{ran:#?}");
    assert_eq!(three.pids(), before);
    Peer::connect(three.ports[0]).exchange(&adt("STILL", "P1")).accepts(b"STILL");
}

#[test]
fn channels_are_started_and_stopped_by_a_reload() {
    let mut three = Three::start();
    let before = three.pids();
    let fourth = three.site.port();
    let mut config = Three::config(&three.site, three.ports);
    let channels = config["channels"].as_array_mut().unwrap();
    channels.remove(1);
    channels.push(three.site.store_channel("four", fourth));
    three.site.configure(config);
    three.site.run(&["reload"]).good();
    three.server.wait_ready();

    Peer::connect(fourth).exchange(&adt("NEW", "P1")).accepts(b"NEW");
    within(PATIENCE, "the stopped channel refuses connections and its worker is gone", || {
        let refused = Peer::try_connect(three.ports[1]).err()?.kind() == ErrorKind::ConnectionRefused;
        (refused && !process::is_alive(before[1])).then_some(())
    });
    assert_eq!(
        (three.server.worker(three.ports[0]), three.server.worker(three.ports[2])),
        (before[0], before[2])
    );
}

#[test]
fn a_channel_that_moves_to_another_port_keeps_its_queue() {
    let mut three = Three::start();
    let moved = three.site.port();
    Peer::connect(three.ports[2]).exchange(&adt("OLD", "P1")).accepts(b"OLD");
    three.site.configure(three.changed("port", json!(moved)));
    three.site.run(&["reload"]).good();
    three.server.wait_ready();
    let mut peer = Peer::connect(moved);
    peer.exchange(&adt("OLD", "P1")).accepts(b"OLD");
    peer.exchange(&adt("NEW", "P1")).accepts(b"NEW");
    let sent: BTreeMap<_, _> = ["OLD", "NEW"].map(|id| (id.to_owned(), adt(id, "P1"))).into();
    assert_archived_once(&sent, &three.site.path("archive/three"));
}

#[test]
fn a_new_number_of_tasks_for_all_touches_no_worker() {
    let three = Three::start();
    let before = three.pids();
    let mut config = Three::config(&three.site, three.ports);
    config["max_tasks"] = json!(7);
    three.site.configure(config);
    three.site.run(&["reload"]).good();
    three.server.wait_ready();
    assert_eq!(three.pids(), before);
}

#[test]
fn a_channel_taken_out_while_messages_wait_keeps_them_and_says_so() {
    let mut site = Site::new();
    let ports = [site.port(), site.port()];
    let kept = site.store_channel("kept", ports[0]);
    let mut leaving = site.store_channel("leaving", ports[1]);
    // A file where the drop folder should be: its step cannot succeed until the file has gone.
    std::fs::write(site.path("drop"), b"in the way").unwrap();
    leaving["message_types"] = json!({"*": "document"});
    leaving["attachment_field"] = json!(messages::PDF_FIELD);
    leaving["attachment_format"] = json!("pdf");
    leaving["drop_folders"] = json!({"pacs": {"path": site.text("drop")}});
    let both = json!({"channels": [kept, leaving]});
    site.configure(both.clone());
    let server = site.start();
    let (body, pdf) = messages::oru("WAITING", "P1");
    Peer::connect(ports[1]).exchange(&body).accepts(b"WAITING");
    server.wait_count("leaving", "waiting", 1);

    site.configure(json!({"channels": [kept]}));
    site.run(&["reload"]).good();
    within(PATIENCE, "the worker of the channel taken out is gone", || {
        process::worker_of(ports[1]).is_none().then_some(())
    });
    for arguments in [&["check"][..], &["status"]] {
        let ran = site.run(arguments).good();
        assert!(ran.said().contains("leaving"), "{arguments:?} says nothing of what waits: {ran:#?}");
    }

    site.configure(both);
    site.run(&["reload"]).good();
    std::fs::remove_file(site.path("drop")).unwrap();
    let dropped = wait_files(&site.path("drop"), ".pdf", 1);
    assert_eq!(dropped[0].1, pdf);
}

/// Senders that open a connection for every message.
struct Hammer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Outcome>>,
}

/// What was acknowledged, by control id, and how many connections were closed before their answer.
type Outcome = (BTreeMap<String, Vec<u8>>, usize);

impl Hammer {
    fn start(port: u16, senders: usize) -> Hammer {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = |sender: usize| {
            let (stop, done) = (stop.clone(), done.clone());
            std::thread::spawn(move || hammer(port, sender, &stop, &done))
        };
        let threads = (0..senders).map(thread).collect();
        Hammer { stop, done, threads }
    }

    #[track_caller]
    fn wait_for_more(&self, count: usize) {
        let goal = self.done.load(Ordering::Relaxed) + count;
        within(PATIENCE, "the hammer goes on", || {
            assert!(
                !self.threads.iter().any(|thread| thread.is_finished()),
                "a sender has failed, see above"
            );
            (self.done.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    #[track_caller]
    fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let (mut all, mut unanswered) = (BTreeMap::new(), 0);
        for thread in self.threads {
            let (mut sent, closed) =
                thread.join().unwrap_or_else(|_| panic!("a sender has failed, see above"));
            all.append(&mut sent);
            unanswered += closed;
        }
        (all, unanswered)
    }
}

fn hammer(port: u16, sender: usize, stop: &AtomicBool, done: &AtomicUsize) -> Outcome {
    let (mut sent, mut unanswered, mut n) = (BTreeMap::new(), 0, 0);
    while !stop.load(Ordering::Relaxed) {
        let control_id = format!("H{sender}N{n}");
        let body = adt(&control_id, &format!("P{sender}"));
        let mut peer =
            Peer::try_connect(port).unwrap_or_else(|e| panic!("{control_id} could not connect: {e}"));
        let answered = peer.send_raw(&frame(&body)).is_ok() && acknowledged(&mut peer, &control_id);
        if answered {
            sent.insert(control_id, body);
            done.fetch_add(1, Ordering::Relaxed);
            n += 1;
        } else {
            // Accepted by the worker that was leaving, which closed it: the message goes again, as a sender would.
            unanswered += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    (sent, unanswered)
}

fn acknowledged(peer: &mut Peer, control_id: &str) -> bool {
    match peer.receive(ANSWER) {
        Reply::Frame(answer) => {
            Acknowledgment::parse(&answer).accepts(control_id.as_bytes());
            true
        }
        Reply::Closed => false,
        Reply::Silence => panic!("{control_id} was neither answered nor closed"),
    }
}
