//! What a process has and may have: descriptors, memory, file size, signals, its number.

use super::inside::is_inside;
use super::rig::{HEALED, Rig};
use crate::count;
use crate::support::load::{Load, assert_archived_once};
use crate::support::memory::processor_time;
use crate::support::messages::{adt, adt_of};
use crate::support::mllp::{Acknowledgment, Peer, Reply, frame};
use crate::support::receiver::Receiver;
use crate::support::{ANSWER, PATIENCE, process, within};
use nix::sys::signal::Signal;
use serde_json::json;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Sets the soft limit of a running process; `None` sets it to what the hard one allows.
fn limit(pid: u32, resource: &str, value: Option<u64>) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let name = match resource {
        "nofile" => "Max open files",
        "data" => "Max data size",
        _ => "Max file size",
    };
    let hard =
        limits.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().nth(1)).unwrap_or("");
    let value = value.map_or(hard.to_owned(), |value| value.to_string());
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--{resource}={value}:")]);
    assert!(command.status().unwrap().success() || !process::is_alive(pid), "{command:?}");
}

/// Memory that a process may write to, in bytes.
fn data_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

#[test]
fn without_descriptors_the_worker_closes_newcomers_without_turning_and_serves_them_later() {
    let receiver = Receiver::with(json!({"max_connections": 500, "max_connections_per_address": 500}));
    let worker = receiver.server.worker(receiver.port);
    let mut held = receiver.connect();
    held.exchange(&adt("HELD", "P1")).accepts(b"HELD");
    receiver.server.wait_count("adt", "delivered", 1);
    limit(worker, "nofile", Some(descriptors(worker) as u64));

    let newcomers: Vec<Peer> = (0..50).filter_map(|_| Peer::try_connect(receiver.port).ok()).collect();
    std::thread::sleep(Duration::from_millis(200));
    let (used, begun) = (processor_time(worker), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let used = processor_time(worker) - used;
    assert!(used < begun.elapsed() / 4, "{used:?} of processor time in {:?} of waiting", begun.elapsed());
    assert!(process::is_alive(worker));
    drop(newcomers);
    // Whoever was there goes on being served; delivery, which needs descriptors, waits.
    held.send(&adt("MEANWHILE", "P1"));
    let heard = held.receive(Duration::from_secs(1));

    limit(worker, "nofile", None);
    if heard == Reply::Silence {
        held.acknowledgment().accepts(b"MEANWHILE");
    } else if let Reply::Frame(answer) = heard {
        Acknowledgment::parse(&answer).accepts(b"MEANWHILE");
    }
    receiver.connect().exchange(&adt("MEANWHILE", "P1")).accepts(b"MEANWHILE");
    receiver.connect().exchange(&adt("AFTER", "P1")).accepts(b"AFTER");
    let sent = ["HELD", "MEANWHILE", "AFTER"].map(|id| adt(id, "P1"));
    receiver.archived(&sent.each_ref().map(Vec::as_slice));
    assert_eq!(receiver.server.worker(receiver.port), worker, "descriptors need no restart");
}

#[test]
fn without_memory_a_worker_starts_afresh_and_nothing_acknowledged_is_lost() {
    let mut rig = Rig::start();
    let mut beside = rig.server.worker(rig.beside);
    let (rounds, mut died) = (count("MEMORY", 2, 40), 0);
    for round in 0..rounds {
        // One that is processed while a second worker dies, too, would be listed as failed.
        within(HEALED, "nothing waits any more", || rig.site.is_drained().then_some(()));
        let worker = rig.worker();
        // What it has already and a little more; each time a little less of that, so that it fails at other places.
        let room = (4 << 20) * (rounds - round) / rounds;
        limit(worker, "data", Some(data_of(worker) + room as u64));
        let mut messages = Vec::from(rig.pair(&format!("SMALL{round}")));
        messages.push(rig.large(&format!("LARGE{round}"), 8 << 20));
        rig.begin(&messages);
        let rest = rig.hear(messages, Duration::from_secs(2));
        if process::is_alive(worker) {
            limit(worker, "data", None);
        } else {
            died += 1;
        }
        assert_eq!(rig.server.worker(rig.beside), beside, "the channel beside has noticed");
        rig.insist(rest);
        if died % 3 == 2 {
            // A back-off that starts over.
            rig.restart();
            beside = rig.server.worker(rig.beside);
        }
    }
    rig.balance();
    eprintln!("TORTURE memory: {died} of {rounds} workers died for want of memory");
    assert!(died > 0, "none of {rounds} workers was short of memory");
}

#[test]
fn writes_cut_short_by_a_limit_acknowledge_nothing_and_heal_by_themselves() {
    let receiver = Receiver::start();
    let worker = receiver.server.worker(receiver.port);
    receiver.connect().exchange(&adt("BEFORE", "P1")).accepts(b"BEFORE");
    receiver.server.wait_count("adt", "delivered", 1);
    // The journal has 1 MiB ready: a write of 4 MiB is cut short in the middle, and the next one is EFBIG.
    limit(worker, "fsize", Some(3 << 20));
    let body = adt_of(4 << 20, "LARGE");
    let mut peer = receiver.connect();
    peer.send(&body);
    let heard = peer.receive(Duration::from_secs(2));
    assert!(!matches!(heard, Reply::Frame(_)), "acknowledged although only a part was written: {heard:?}");
    if process::is_alive(worker) {
        limit(worker, "fsize", None);
    }
    within(PATIENCE, "it is acknowledged now that there is room", || {
        let mut peer = Peer::try_connect(receiver.port).ok()?;
        peer.send_raw(&frame(&body)).ok()?;
        let Reply::Frame(answer) = peer.receive(Duration::from_secs(3)) else { return None };
        Acknowledgment::parse(&answer).accepts(b"LARGE");
        Some(())
    });
    receiver.archived(&[&adt("BEFORE", "P1"), &body]);
}

#[test]
fn a_storm_of_signals_refuses_nobody_and_loses_nothing() {
    let receiver = Receiver::start();
    let (master, worker) = (receiver.server.pid(), receiver.server.worker(receiver.port));
    let load = Load::start(receiver.port, 4);
    let signals = count("SIGNALS", 1000, 10_000);
    for n in 0..signals {
        process::signal(master, Signal::SIGHUP);
        // Those that a shell, a terminal or a profiler may send; none of them says that anything is to end.
        let other =
            [Signal::SIGUSR1, Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGCONT, Signal::SIGURG][n % 5];
        process::signal(master, other);
        process::signal(worker, if other == Signal::SIGUSR1 { Signal::SIGHUP } else { other });
        if n % 100 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let begun = Instant::now();
    load.wait_for_more(50);
    assert!(begun.elapsed() < ANSWER);
    receiver.server.wait_ready();
    assert_eq!(
        receiver.server.worker(receiver.port),
        worker,
        "a reload of the same file has touched a worker"
    );
    let sent = load.finish();
    assert_archived_once(&sent, &receiver.site.path("archive/adt"));
    let reloads = receiver.site.log().lines().filter(|line| line.contains("reload")).count();
    eprintln!(
        "TORTURE signals: {signals} SIGHUPs and as many others: {reloads} lines about reloads, {} messages",
        sent.len()
    );
    assert!(reloads < signals, "each of {signals} signals was a reload of its own");
}

/// A process of these words that gets a pid of one's choice; `None` when another was faster.
fn with_pid(pid: u32, command: &mut Command) -> Option<Child> {
    std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
    let mut child = command.spawn().unwrap();
    if child.id() == pid {
        return Some(child);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

#[test]
fn a_strangers_process_with_the_pid_of_a_dead_worker_is_left_alone() {
    let test = "below::limits::a_strangers_process_with_the_pid_of_a_dead_worker_is_left_alone";
    // Its number is chosen in a namespace of process ids, so that no other test's process is in the way.
    if !is_inside(test, "-rpf --mount-proc --kill-child", "echo 400 >/proc/sys/kernel/ns_last_pid") {
        return;
    }
    let mut receiver = Receiver::start();
    let mut strangers = Vec::new();
    for round in 0..count("PIDS", 3, 30) {
        let id = format!("N{round}");
        receiver.connect().exchange(&adt(&id, "P1")).accepts(id.as_bytes());
        let dead = receiver.server.worker(receiver.port);
        process::kill(dead);
        let mut sleep = Command::new("sleep");
        strangers.push(within(PATIENCE, "the pid of the dead worker is free", || {
            with_pid(dead, sleep.arg("600"))
        }));
        receiver.server.wait_ready();
        assert_ne!(receiver.server.worker(receiver.port), dead);
        // Whoever has the pid of a worker that was may ask as anybody else.
        if round % 3 == 2 {
            let mut stranger = strangers.pop().expect("one was made in this round");
            stranger.kill().unwrap();
            stranger.wait().unwrap();
            let mut ask = receiver.site.command(&["status"]);
            let mut asking = within(PATIENCE, "its pid is free", || {
                with_pid(dead, ask.stdout(std::process::Stdio::null()))
            });
            assert!(asking.wait().unwrap().success(), "a command that has a dead worker's pid is refused");
            receiver.site.run(&["reload"]).good();
            // A back-off that starts over.
            receiver.server.stop();
            receiver.server.start_again(&receiver.site);
        }
    }
    receiver.server.stop();
    for stranger in &mut strangers {
        assert!(stranger.try_wait().unwrap().is_none(), "a stranger's process was signalled");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
