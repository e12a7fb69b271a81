use crate::Case;
use crate::fixture::{Master, SOON, ask, free_port};
use link::{Answer, Question};
use master::control::{ChangeAction, ChannelState, Request, Response};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub const ALL: &[Case] = &[
    (
        "a_worker_has_its_title_and_nothing_of_the_masters_environment",
        a_worker_has_its_title_and_nothing_of_the_masters_environment,
    ),
    ("only_the_worker_that_uses_a_secret_gets_it", only_the_worker_that_uses_a_secret_gets_it),
    ("a_reload_touches_only_what_changed_and_refuses_nobody", a_reload_touches_only_what_changed),
    ("a_broken_file_changes_nothing_and_says_why", a_broken_file_changes_nothing_and_says_why),
    ("a_killed_worker_comes_back_and_connections_waited", a_killed_worker_comes_back),
    ("a_crash_is_told_to_the_next_worker", a_crash_is_told_to_the_next_worker),
    ("a_wrong_configuration_waits_for_a_reload", a_wrong_configuration_waits_for_a_reload),
    ("a_worker_that_breaks_its_link_disturbs_no_other", a_worker_that_breaks_its_link_disturbs_no_other),
    ("slots_of_a_killed_worker_are_free_again", slots_of_a_killed_worker_are_free_again),
    ("a_worker_may_not_use_the_control_socket", a_worker_may_not_use_the_control_socket),
    ("a_question_goes_through_the_worker", a_question_goes_through_the_worker),
    ("a_taken_port_disables_its_channel_until_it_is_free", a_taken_port_disables_its_channel),
    ("term_drains_and_a_second_one_ends_at_once", term_drains_and_a_second_one_ends_at_once),
    ("a_thousand_hangups_are_one_reload", a_thousand_hangups_are_one_reload),
    ("a_second_master_is_refused", a_second_master_is_refused),
    ("a_channel_taken_out_stays_listed_with_its_journal", a_channel_taken_out_stays_listed),
    ("usr1_writes_a_line_for_each_channel", usr1_writes_a_line_for_each_channel),
    ("systemd_hears_ready_reloading_and_stopping", systemd_hears_ready_reloading_and_stopping),
    ("workers_of_a_killed_master_make_room_for_the_next", workers_of_a_killed_master_make_room),
];

fn channel(name: &str, port: u16) -> String {
    format!("  - {{name: {name}, port: {port}}}\n")
}

fn a_worker_has_its_title_and_nothing_of_the_masters_environment() {
    let port = free_port();
    let master = Master::start_with("", &channel("adt_in", port), &[("TZ", "UTC"), ("SECRET", "x")]);
    let pid = master.await_ready("adt_in");
    let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(title, format!("hl7server: channel adt_in :{port}\0"));
    let line = ask(port);
    // The zone, and what the C library's allocator reads; nothing of the master's own.
    let environment = r#"["MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "TZ"]"#;
    let told = format!("pid={pid} predecessor=None slot=true environment={environment}");
    assert!(line.contains(&told), "{line}");
    assert!(master.log().contains(&format!("adt_in: ready on 0.0.0.0:{port}, worker {pid}")));
}

fn only_the_worker_that_uses_a_secret_gets_it() {
    let (a, b) = (free_port(), free_port());
    let drop = "drop_folders: {far: {remote: true, path: /x, server: h, user: u, password: SFTP_PASS}}";
    let with_secret = |port| format!("  - {{name: a, port: {port}, attachment_field: OBX.1.5, {drop}}}\n");
    let channels = with_secret(a) + &channel("b", b);
    let master = Master::start_with("", &channels, &[("SFTP_PASS", "hunter2")]);
    let ready = master.await_channel("b", |channel| channel.state == ChannelState::Ready);
    assert!(ready.problem.is_none());
    assert!(ask(b).contains("secrets=[]"));
    // A remote folder may not be built yet: then the channel says so and does not run.
    let a_is = master.await_channel("a", |a| matches!(a.state, ChannelState::Ready));
    if a_is.state == ChannelState::Ready {
        assert!(ask(a).contains("secrets=[\"hunter2\"]"));
    } else {
        assert!(a_is.problem.is_some());
    }
    assert!(!master.log().contains("hunter2"));
}

fn a_reload_touches_only_what_changed() {
    let (a, b) = (free_port(), free_port());
    let channels =
        |limit: &str| channel("a", a) + &format!("  - {{name: b, port: {b}, stream_limit: {limit}}}\n");
    let master = Master::start(&channels("1MiB"));
    let (pid_a, mut pid_b) = (master.await_ready("a"), master.await_ready("b"));
    let (done, served) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for port in [a, b] {
            let (done, served) = (&done, &served);
            scope.spawn(move || {
                while !done.load(Relaxed) {
                    ask(port);
                    served.fetch_add(1, Relaxed);
                }
            });
        }
        for round in 2..8 {
            let Response::Reloaded { changes, .. } = master.reload(&channels(&format!("{round}MiB"))) else {
                panic!("not reloaded\n{}", master.log());
            };
            let actions: Vec<_> =
                changes.iter().map(|change| (change.channel.as_str(), change.action)).collect();
            assert_eq!(actions, [("a", ChangeAction::Keep), ("b", ChangeAction::Replace)]);
            let is_next = |pid: Option<u32>| pid.is_some_and(|pid| pid != pid_b);
            let next =
                master.await_channel("b", |b| b.state == ChannelState::Ready && is_next(b.pid)).pid.unwrap();
            pid_b = next;
        }
        done.store(true, Relaxed);
    });
    assert!(served.load(Relaxed) > 20);
    assert_eq!(master.await_ready("a"), pid_a);
    assert!(ask(b).contains("predecessor=Some(Stopped)"));
    assert!(matches!(master.reload(&channels("7MiB")), Response::Reloaded { .. }));
    assert_eq!(master.await_ready("b"), pid_b);
}

fn a_broken_file_changes_nothing_and_says_why() {
    let port = free_port();
    let mut master = Master::start(&channel("a", port));
    let pid = master.await_ready("a");
    let Response::Refused { problems } = master.reload("  - {name: a, port: none}\n  - {nam: b}\n") else {
        panic!("taken");
    };
    assert!(problems.len() >= 2 && problems[0].contains("hl7server.yaml:"), "{problems:?}");
    assert!(problems.iter().all(|problem| master.log().contains(problem)));
    assert_eq!(master.await_ready("a"), pid);
    drop(master);
    master = Master::start("  - {name: a, port: none}\n");
    assert_eq!(master.end().code(), Some(78));
    assert!(master.log().contains("channels[1].port"), "{}", master.log());
}

fn a_killed_worker_comes_back() {
    let port = free_port();
    let master = Master::start(&channel("a", port));
    let mut pid = master.await_ready("a");
    for _ in 0..10 {
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
        // Refused by nobody: the listener is the master's.
        let line = ask(port);
        if !line.is_empty() {
            assert!(line.contains("predecessor=Some(Killed)"), "{line}");
        }
        let old = pid;
        pid =
            master.await_channel("a", |a| a.state == ChannelState::Ready && a.pid != Some(old)).pid.unwrap();
        if master.await_channel("a", |_| true).restarts >= 4 {
            break;
        }
    }
    assert!(master.log().contains("ended: killed; starting again in 0.1 s"), "{}", master.log());
}

fn a_crash_is_told_to_the_next_worker() {
    let port = free_port();
    let master = Master::start(&channel("crash", port));
    master.await_ready("crash");
    assert!(ask(port).contains("predecessor=Some(Crashed(6))"));
    assert!(master.log().contains("ended: crash by signal 6; starting again in 0.1 s"));
}

fn a_wrong_configuration_waits_for_a_reload() {
    let port = free_port();
    let master = Master::start(&channel("wrong", port));
    let disabled = master.await_channel("wrong", |wrong| wrong.state == ChannelState::Disabled);
    assert!(disabled.problem.unwrap().contains("certificate \"x\" is missing"));
    let ends = || master.log().matches("not started again").count();
    assert_eq!(ends(), 1);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(ends(), 1);
    master.call(&Request::Reload);
    let begun = Instant::now();
    while ends() < 2 {
        assert!(begun.elapsed() < SOON, "{}", master.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn a_worker_that_breaks_its_link_disturbs_no_other() {
    let (a, junk) = (free_port(), free_port());
    let master = Master::start(&(channel("a", a) + &channel("junk", junk)));
    let pid = master.await_ready("a");
    master.await_channel("junk", |junk| junk.restarts >= 3);
    assert!(master.log().contains("broke the contract of its link: killed"));
    assert_eq!(master.await_ready("a"), pid);
}

fn slots_of_a_killed_worker_are_free_again() {
    let (a, holder) = (free_port(), free_port());
    let channels =
        format!("  - {{name: a, port: {a}, tasks: 1}}\n  - {{name: holder, port: {holder}, tasks: 1}}\n");
    let master = Master::start_with("max_tasks: 1", &channels, &[]);
    master.await_ready("a");
    let pid = master.await_channel("holder", |holder| holder.status.slots_used == 1).pid.unwrap();
    assert!(ask(a).contains("slot=false"));
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    master.await_channel("holder", |holder| holder.restarts == 1);
    assert!(ask(a).contains("slot=true"));
}

fn a_worker_may_not_use_the_control_socket() {
    let port = free_port();
    let master = Master::start(&channel("nosy", port));
    master.await_ready("nosy");
    let said = std::fs::read_to_string(master.path("state/nosy.txt")).unwrap();
    assert!(said.starts_with("Err("), "{said}");
    assert!(master.log().contains("connected to the control socket: refused"));
    assert!(!master.log().contains("reloaded"));
}

fn a_question_goes_through_the_worker() {
    let port = free_port();
    let master = Master::start(&channel("a", port));
    master.await_ready("a");
    let ask = |channel: &str, question| master.call(&Request::Ask { channel: channel.to_owned(), question });
    let Response::Answer(Answer::Peers(peers)) = ask("a", Question::Peers) else { panic!("no answer") };
    assert_eq!(peers[0].address, "127.0.0.1:1?[2J");
    assert!(matches!(ask("b", Question::Peers), Response::Error(_)));
}

fn a_taken_port_disables_its_channel() {
    let (a, b) = (free_port(), free_port());
    let taken = TcpListener::bind(("0.0.0.0", b)).unwrap();
    let master = Master::start(&(channel("a", a) + &channel("b", b)));
    master.await_ready("a");
    let unbound = master.await_channel("b", |b| b.state == ChannelState::Unbound);
    assert!(unbound.problem.unwrap().contains("could not listen"));
    drop(taken);
    master.await_ready("b");
    assert!(master.await_channel("b", |_| true).problem.is_none());
    assert_eq!(master.log().matches("b: could not listen").count(), 1, "said once");
}

fn term_drains_and_a_second_one_ends_at_once() {
    let (a, deaf) = (free_port(), free_port());
    let mut master = Master::start(&channel("a", a));
    master.await_ready("a");
    master.signal(Signal::SIGTERM);
    assert_eq!(master.end().code(), Some(0));
    assert!(master.log().contains("a: worker") && master.log().contains("drained"));
    assert!(!master.path("run/control.sock").exists());

    let mut master = Master::start_with("stop_timeout: 1", &channel("deaf", deaf), &[]);
    master.await_ready("deaf");
    master.signal(Signal::SIGTERM);
    assert_eq!(master.end().code(), Some(0));
    assert!(master.log().contains("did not drain in time: killed"));

    let mut master = Master::start(&channel("deaf", deaf));
    master.await_ready("deaf");
    master.signal(Signal::SIGTERM);
    master.await_log("drains");
    let begun = Instant::now();
    master.signal(Signal::SIGINT);
    assert_eq!(master.end().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(3));
}

fn a_thousand_hangups_are_one_reload() {
    let port = free_port();
    let master = Master::start(&channel("a", port));
    let pid = master.await_ready("a");
    for _ in 0..1000 {
        master.signal(Signal::SIGHUP);
    }
    master.await_log("reloaded");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(master.log().matches("reloaded").count(), 1);
    assert_eq!(master.await_ready("a"), pid);
}

fn a_second_master_is_refused() {
    let port = free_port();
    let master = Master::start(&channel("a", port));
    let pid = master.await_ready("a");
    let second = master.another();
    assert_eq!(second.status.code(), Some(75));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("in use by another hl7server"), "{said}");
    assert_eq!(master.await_ready("a"), pid);
}

fn a_channel_taken_out_stays_listed() {
    let (a, b) = (free_port(), free_port());
    let master = Master::start(&(channel("a", a) + &channel("b", b)));
    master.await_ready("b");
    std::fs::create_dir_all(master.path("state/b/journal")).unwrap();
    std::fs::write(master.path("state/b/journal/00000001.seg"), "x").unwrap();
    master.reload(&channel("a", a));
    let removed = master.await_channel("b", |b| b.state == ChannelState::Removed);
    assert!(removed.problem.unwrap().contains("journal stays"));
    master.reload(&(channel("a", a) + &channel("b", b)));
    master.await_ready("b");
    assert_eq!(master.status().channels.len(), 2);
}

fn usr1_writes_a_line_for_each_channel() {
    let (a, b) = (free_port(), free_port());
    let master = Master::start(&(channel("a", a) + &format!("  - {{name: b, port: {b}, enabled: false}}\n")));
    let pid = master.await_ready("a");
    master.signal(Signal::SIGUSR1);
    master.await_log(&format!("a: state=ready port={a} pid={pid} since="));
    master.await_log(&format!("b: state=off port={b} since="));
}

fn systemd_hears_ready_reloading_and_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let port = free_port();
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut master = Master::start_with("", &channel("a", port), &environment);
    let hear = |part: &str| {
        let mut bytes = [0; 1024];
        loop {
            let n = socket.recv(&mut bytes).unwrap();
            let said = String::from_utf8_lossy(&bytes[..n]).into_owned();
            if said.contains(part) {
                return said;
            }
        }
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("STATUS=1 of 1 channels ready");
    master.call(&Request::Reload);
    assert!(hear("RELOADING=1").contains("MONOTONIC_USEC="));
    hear("READY=1");
    hear("WATCHDOG=1");
    master.signal(Signal::SIGTERM);
    hear("STOPPING=1");
    assert_eq!(master.end().code(), Some(0));
}

fn workers_of_a_killed_master_make_room() {
    let port = free_port();
    let mut master = Master::start(&channel("a", port));
    master.await_ready("a");
    master.signal(Signal::SIGKILL);
    master.end();
    // The stale socket is replaced, the lock is free, and the port soon too.
    let next = master.again();
    next.await_ready("a");
    assert!(ask(port).contains("predecessor=None"));
}
