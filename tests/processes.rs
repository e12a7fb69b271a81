//! Master and workers as the operating system sees them: titles, signals, deaths, systemd.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::load::assert_archived_once;
use support::messages::adt;
use support::mllp::{Peer, Reply};
use support::trace::Trace;
use support::{ANSWER, PATIENCE, Server, Site, files, finish, process, wait_files, within};

/// Holds up whatever puts a file in place for longer than any test waits.
const STUCK: [&str; 4] =
    ["-e", "trace=renameat2,linkat", "-e", "inject=renameat2,linkat:delay_enter=600000000"];

/// Whether something has begun to put a file in place.
fn is_being_placed(trace: &Trace) -> Option<()> {
    trace.lines().iter().any(|line| line.contains("renameat2") || line.contains("linkat")).then_some(())
}

fn two_channels(keys: Value) -> (Site, [u16; 2]) {
    let mut site = Site::new();
    let ports = [site.port(), site.port()];
    let channels =
        [site.store_channel("adt_in", ports[0]), site.store_channel("a-rather-long.name", ports[1])];
    let mut config = json!({"channels": channels});
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    site.configure(config);
    (site, ports)
}

fn start(keys: Value) -> (Site, [u16; 2], Server) {
    let (site, ports) = two_channels(keys);
    let server = site.start();
    (site, ports, server)
}

#[test]
fn ps_and_top_tell_channels_apart() {
    let (_site, ports, server) = start(json!({}));
    let workers = ports.map(|port| server.worker(port));
    assert_eq!(process::title(workers[0]).unwrap(), format!("hl7server: channel adt_in :{}", ports[0]));
    assert_eq!(
        process::title(workers[1]).unwrap(),
        format!("hl7server: channel a-rather-long.name :{}", ports[1])
    );
    assert_eq!(process::comm(workers[0]).unwrap(), "hl7:adt_in");
    assert_eq!(process::comm(workers[1]).unwrap(), "hl7:a-rather-lo");
    assert!(process::workers().iter().filter(|w| workers.contains(&w.pid)).all(|w| w.parent == server.pid()));

    let mut ps = Command::new("ps");
    ps.args(["-o", "args=", "-p", &workers[0].to_string()]);
    assert_eq!(finish(ps, PATIENCE).good().stdout.trim(), format!("hl7server: channel adt_in :{}", ports[0]));
}

#[test]
fn a_worker_is_given_nothing_of_the_masters_environment_or_files() {
    let (site, ports) = two_channels(json!({}));
    let mut command = site.command(&["run"]);
    command.env("A_SECRET", "hunter2");
    let server = site.launch(command);
    server.wait_ready();
    let worker = server.worker(ports[0]);
    let environment = fs::read(format!("/proc/{worker}/environ")).unwrap();
    assert!(
        !String::from_utf8_lossy(&environment).contains("hunter2"),
        "the worker has the master's environment"
    );
    let open: Vec<String> = fs::read_dir(format!("/proc/{worker}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|path| path.display().to_string())
        .collect();
    let foreign = open.iter().filter(|path| path.contains("a-rather-long") || path.contains("control.sock"));
    assert_eq!(foreign.collect::<Vec<_>>(), Vec::<&String>::new(), "{open:#?}");
    assert_eq!(
        fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().count(),
        1,
        "the master has threads"
    );
}

#[test]
fn usr1_logs_a_line_for_every_channel() {
    let (site, ports, server) = start(json!({}));
    let before = site.log().len();
    server.signal(Signal::SIGUSR1);
    within(PATIENCE, "a line for each channel", || {
        let log = site.log()[before..].to_owned();
        ["adt_in", "a-rather-long.name"].iter().all(|name| log.contains(name)).then_some(())
    });
    let before = site.log().len();
    process::signal(server.worker(ports[0]), Signal::SIGUSR1);
    within(PATIENCE, "the worker's own line", || site.log()[before..].contains("adt_in").then_some(()));
}

#[test]
fn term_drains_and_ends_with_0() {
    let (site, ports, mut server) = start(json!({}));
    let mut peer = Peer::connect(ports[0]);
    let sent: Vec<String> = (0..200).map(|n| format!("N{n}")).collect();
    for id in &sent {
        peer.send(&adt(id, "P1"));
    }
    peer.acknowledgment().accepts(b"N0");
    let workers = ports.map(|port| server.worker(port));
    server.signal(Signal::SIGTERM);
    // Whatever was acknowledged before the end is kept, and the connection ends, not hangs.
    let mut acknowledged = 1;
    while let Reply::Frame(_) = peer.receive(ANSWER) {
        acknowledged += 1;
    }
    assert_eq!(server.wait_end(PATIENCE).code(), Some(0));
    assert!(workers.iter().all(|&pid| !process::is_alive(pid)), "a worker has outlived its master");
    assert!(!site.path("run/control.sock").exists(), "the control socket was left behind");
    assert!(Peer::try_connect(ports[0]).is_err());

    server.start_again(&site);
    let archived = wait_files(&site.path("archive/adt_in"), ".hl7", acknowledged);
    for id in &sent[..acknowledged] {
        let count = archived.iter().filter(|(_, body)| *body == adt(id, "P1")).count();
        assert_eq!(count, 1, "{id} was acknowledged");
    }
}

#[test]
fn int_ends_the_server_as_term_does() {
    let (_site, _, mut server) = start(json!({}));
    server.signal(Signal::SIGINT);
    assert_eq!(server.wait_end(PATIENCE).code(), Some(0));
}

#[test]
fn a_drain_ends_when_its_time_is_over_and_what_was_stuck_is_done_later() {
    if !Trace::is_possible() {
        return;
    }
    let (site, ports, mut server) = start(json!({"stop_timeout": 1}));
    let Some(trace) = Trace::attach(server.worker(ports[0]), &site.path("trace"), &STUCK) else { return };
    Peer::connect(ports[0]).exchange(&adt("STUCK", "P1")).accepts(b"STUCK");
    within(PATIENCE, "the archive step is stuck", || is_being_placed(&trace));
    let started = Instant::now();
    server.signal(Signal::SIGTERM);
    // A thread that strace holds up dies only when strace lets go of it; by then the worker has given up on it.
    std::thread::sleep(Duration::from_millis(1800));
    drop(trace);
    assert_eq!(server.wait_end(PATIENCE).code(), Some(0));
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "took {took:?}");
    assert_eq!(files(&site.path("archive/adt_in"), ".hl7"), []);
    server.start_again(&site);
    let sent = [("STUCK".to_owned(), adt("STUCK", "P1"))];
    assert_archived_once(&sent.into(), &site.path("archive/adt_in"));
}

#[test]
fn a_second_term_ends_at_once() {
    if !Trace::is_possible() {
        return;
    }
    let (site, ports, mut server) = start(json!({"stop_timeout": 300}));
    let Some(trace) = Trace::attach(server.worker(ports[0]), &site.path("trace"), &STUCK) else { return };
    Peer::connect(ports[0]).exchange(&adt("STUCK", "P1")).accepts(b"STUCK");
    within(PATIENCE, "the archive step is stuck", || is_being_placed(&trace));
    server.signal(Signal::SIGTERM);
    within(PATIENCE, "the listener is closed", || Peer::try_connect(ports[0]).is_err().then_some(()));
    std::thread::sleep(Duration::from_secs(1));
    assert!(process::is_alive(server.pid()), "did not wait for the step");
    server.signal(Signal::SIGTERM);
    // As above: killed, and held by strace.
    std::thread::sleep(Duration::from_millis(500));
    drop(trace);
    server.wait_end(Duration::from_secs(5));
    assert_eq!(files(&site.path("archive/adt_in"), ".hl7"), [], "the step was waited for");
}

#[test]
fn workers_drain_and_end_when_their_master_dies() {
    let (site, ports, mut server) = start(json!({}));
    let mut peer = Peer::connect(ports[0]);
    peer.exchange(&adt("DELIVERED", "P1")).accepts(b"DELIVERED");
    wait_files(&site.path("archive/adt_in"), ".hl7", 1);
    peer.exchange(&adt("JUST", "P1")).accepts(b"JUST");
    let workers = ports.map(|port| server.worker(port));
    server.kill();
    within(PATIENCE, "the orphans have ended", || {
        workers.iter().all(|&pid| !process::is_alive(pid)).then_some(())
    });
    assert!(Peer::try_connect(ports[0]).is_err(), "somebody still listens");
    // A step that runs is waited for; one that has not begun is the next start's.
    server.start_again(&site);
    let sent = ["DELIVERED", "JUST"].map(|id| (id.to_owned(), adt(id, "P1")));
    assert_archived_once(&sent.into(), &site.path("archive/adt_in"));
}

#[test]
fn a_worker_that_dies_is_started_again_and_the_other_never_notices() {
    let (_site, ports, server) = start(json!({}));
    let mut other = Peer::connect(ports[1]);
    other.exchange(&adt("BEFORE", "P1")).accepts(b"BEFORE");
    let workers = ports.map(|port| server.worker(port));
    for signal in [Signal::SIGKILL, Signal::SIGABRT] {
        let doomed = server.worker(ports[0]);
        process::signal(doomed, signal);
        // The master owns the listener: nobody is refused meanwhile.
        let mut peer = Peer::connect(ports[0]);
        let id = format!("AFTER{}", signal as i32);
        peer.exchange(&adt(&id, "P1")).accepts(id.as_bytes());
        assert_ne!(server.worker(ports[0]), doomed);
    }
    other.exchange(&adt("AFTER", "P1")).accepts(b"AFTER");
    assert_eq!(server.worker(ports[1]), workers[1]);
    within(PATIENCE, "the restarts are counted", || {
        (server.channel("adt_in")["restarts"].as_u64()? >= 2).then_some(())
    });
}

#[test]
fn a_message_that_kills_its_worker_ends_in_failed_and_the_next_goes_on() {
    if !Trace::is_possible() {
        return;
    }
    let (site, ports, server) = start(json!({}));
    // From now on a new worker dies of a crash signal as it puts a file into the archive.
    let crash = ["-e", "trace=renameat2,linkat", "-e", "inject=renameat2,linkat:error=EIO:signal=ABRT"];
    let old = server.worker(ports[0]);
    let Some(trace) = Trace::attach(server.pid(), &site.path("trace"), &crash) else { return };
    process::kill(old);
    let id = Peer::connect(ports[0]).exchange(&adt("POISON", "P1")).message_id();
    let failed =
        within(PATIENCE * 2, "the message has failed", || site.list(&["failed", "list"]).first().cloned());
    assert_eq!(failed["id"], id.as_str(), "{failed:#}");
    assert_eq!(files(&site.path("state/adt_in/failed"), ".hl7")[0].1, adt("POISON", "P1"));
    drop(trace);

    server.wait_ready();
    let worker = server.worker(ports[0]);
    Peer::connect(ports[0]).exchange(&adt("NEXT", "P1")).accepts(b"NEXT");
    assert_eq!(wait_files(&site.path("archive/adt_in"), ".hl7", 1)[0].1, adt("NEXT", "P1"));
    // By hand it may be tried again, and now it does no harm.
    site.run(&["failed", "retry", &id]).good();
    wait_files(&site.path("archive/adt_in"), ".hl7", 2);
    assert_eq!(server.worker(ports[0]), worker);
}

#[test]
fn a_dead_workers_task_slots_are_taken_back() {
    if !Trace::is_possible() {
        return;
    }
    let (site, ports, server) = start(json!({"max_tasks": 1}));
    let stuck = server.worker(ports[0]);
    let Some(trace) = Trace::attach(stuck, &site.path("trace"), &STUCK) else { return };
    Peer::connect(ports[0]).exchange(&adt("STUCK", "P1")).accepts(b"STUCK");
    within(PATIENCE, "the archive step is stuck", || is_being_placed(&trace));
    server.wait_count("adt_in", "slots_used", 1);
    // The only slot is taken: the other channel accepts, and waits.
    Peer::connect(ports[1]).exchange(&adt("WAITS", "P1")).accepts(b"WAITS");
    server.wait_count("a-rather-long.name", "waiting", 1);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(
        files(&site.path("archive/a-rather-long.name"), ".hl7"),
        [],
        "a message was processed without a slot"
    );

    process::kill(stuck);
    drop(trace);
    wait_files(&site.path("archive/a-rather-long.name"), ".hl7", 1);
    wait_files(&site.path("archive/adt_in"), ".hl7", 1);
}

#[test]
fn a_second_master_on_the_same_state_is_refused() {
    let (site, ports, server) = start(json!({}));
    let workers = ports.map(|port| server.worker(port));
    // Other ports and another runtime path, the same journals.
    let mut other = Site::new();
    let port = other.port();
    let mut config = json!({"channels": [other.store_channel("adt_in", port)]});
    config["state_path"] = json!(site.text("state"));
    other.configure(config);
    let ran = finish(other.command(&["run"]), Duration::from_secs(60));
    assert!(matches!(ran.code, Some(1 | 75)), "{ran:#?}");
    assert!(ran.stderr.contains("state"), "does not say what is locked: {ran:#?}");
    assert_eq!(ports.map(|port| server.worker(port)), workers);
    Peer::connect(ports[0]).exchange(&adt("STILL", "P1")).accepts(b"STILL");
}

#[test]
fn a_port_taken_by_somebody_else_stops_only_its_channel_and_is_tried_again() {
    let (site, ports) = two_channels(json!({}));
    let squatter = std::net::TcpListener::bind(("127.0.0.1", ports[1])).unwrap();
    let server = site.launch(site.command(&["run"]));
    within(PATIENCE, "the other channel answers", || Peer::try_connect(ports[0]).ok());
    Peer::connect(ports[0]).exchange(&adt("A", "P1")).accepts(b"A");
    within(PATIENCE, "status tells why the channel is down", || {
        let status = server.try_status()?;
        status.to_string().contains("in use").then_some(())
    });
    drop(squatter);
    server.wait_ready();
    Peer::connect(ports[1]).exchange(&adt("B", "P1")).accepts(b"B");
}

#[test]
fn the_control_socket_is_for_its_owner_and_group() {
    let (site, _, _server) = start(json!({}));
    let mode = fs::metadata(site.path("run/control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660, "{mode:o}");
}

// ---- systemd

#[test]
fn systemd_is_told_of_ready_reloading_and_stopping() {
    let (site, _) = two_channels(json!({}));
    let path = site.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = site.command(&["run"]);
    command.env("NOTIFY_SOCKET", &path);
    let mut server = site.launch(command);
    heard(&socket, "READY=1");
    // Ready means that it listens.
    server.wait_ready();

    server.signal(Signal::SIGHUP);
    let reloading = heard(&socket, "RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading:?}");
    heard(&socket, "READY=1");

    server.signal(Signal::SIGTERM);
    heard(&socket, "STOPPING=1");
    assert_eq!(server.wait_end(PATIENCE).code(), Some(0));
}

/// Waits for a notification with this line; returns it whole.
#[track_caller]
fn heard(socket: &UnixDatagram, line: &str) -> String {
    let end = Instant::now() + PATIENCE;
    let mut buffer = [0; 4096];
    while Instant::now() < end {
        let Ok(count) = socket.recv(&mut buffer) else { break };
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        if text.lines().any(|l| l == line) {
            return text;
        }
    }
    panic!("systemd never heard {line}");
}

#[test]
fn the_watchdog_is_fed() {
    let (site, _) = two_channels(json!({}));
    let path = site.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = site.command(&["run"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    let _server = site.launch(command);
    heard(&socket, "READY=1");
    let started = Instant::now();
    for _ in 0..3 {
        heard(&socket, "WATCHDOG=1");
    }
    assert!(started.elapsed() < Duration::from_secs(4), "three times in {:?}", started.elapsed());
}

#[test]
fn systemd_understands_the_unit() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("debian/hl7server.service");
    let text = fs::read_to_string(&unit).unwrap();
    for line in ["Type=notify", "NoNewPrivileges=yes", "ProtectSystem=strict", "UMask=0027"] {
        assert!(
            text.lines().any(|l| l == line || l == line.replace("yes", "true")),
            "no {line} in {}",
            unit.display()
        );
    }
    assert!(text.lines().any(|l| l.starts_with("ExecReload=") && l.contains("hl7server reload")), "{text}");
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        support::skip("no systemd-analyze");
        return;
    }
    // The binary is where the package puts it, not here.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("hl7server.service");
    fs::write(&copy, text.replace("/usr/bin/hl7server", env!("CARGO_BIN_EXE_hl7server"))).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no"]).arg(copy);
    let ran = finish(verify, PATIENCE).good();
    assert!(!ran.said().contains("hl7server.service"), "{ran:#?}");
}
