//! A small worker: answers each connection with one line and closes it. The channel's name says how it behaves.

use link::{Answer, Death, Order, Peer, Question, Report, SlotTable, Status, WorkerEnd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

pub fn run() -> u8 {
    assert!(link::stdin_is_link());
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let mut link = WorkerEnd::from_stdin().unwrap();
    let (start, descriptors) = link.recv_start(Duration::from_secs(10)).unwrap();
    let [listener, table] = <[_; 2]>::try_from(descriptors).unwrap();
    let listener = TcpListener::from(listener);
    let slots = SlotTable::attach(table).unwrap().slots(start.slot_owner);
    let settings: config::WorkerSettings = serde_json::from_str(&start.settings).unwrap();
    let name = settings.channel.name.as_str();
    let send = |link: &mut WorkerEnd, report: Report| link.send(&report, Duration::from_secs(10)).unwrap();
    match name {
        "wrong" => {
            send(&mut link, Report::CannotStart { reason: "certificate \"x\" is missing".to_owned() });
            return 78;
        }
        "junk" => {
            let _ = rustix::io::write(link.fd(), b"\xff\xff\xff\xffjunk");
            std::thread::sleep(Duration::from_secs(60));
        }
        "crash" if start.predecessor != Some(Death::Crashed(6)) => std::process::abort(),
        "nosy" => {
            let run = settings.state_path.parent().unwrap().join("run");
            let called =
                master::control::call(&run, &master::control::Request::Reload, Duration::from_secs(5));
            std::fs::write(settings.state_path.join("nosy.txt"), format!("{called:?}")).unwrap();
        }
        _ => {}
    }
    // `holder` holds the only slot, until it is killed.
    let held =
        (name == "holder" && start.predecessor.is_none()).then(|| slots.acquire(Duration::from_secs(1)));
    send(&mut link, Report::Ready { pid: std::process::id(), waiting: 0 });
    let mut status = Status { slots_used: held.is_some().into(), ..Status::default() };
    let mut report_at = Instant::now();
    loop {
        let mut fds =
            [PollFd::new(&listener, PollFlags::IN), PollFd::from_borrowed_fd(link.fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).unwrap();
        if let Ok((mut peer, _)) = listener.accept() {
            status.received += 1;
            let slot = slots.acquire(Duration::from_millis(100)).is_some();
            let environment: Vec<_> = std::env::vars().map(|(name, _)| name).collect();
            let secrets: Vec<_> = start.secrets.values().map(link::SecretValue::expose).collect();
            let _ = writeln!(
                peer,
                "pid={} predecessor={:?} slot={slot} environment={environment:?} secrets={secrets:?}",
                std::process::id(),
                start.predecessor
            );
        }
        for order in link.read_ready().unwrap_or_else(|_| std::process::exit(0)) {
            match order {
                // `deaf` ignores it.
                Order::Drain { .. } if name != "deaf" => return 0,
                Order::Ask { id, question: Question::Peers } => {
                    let peer = Peer { address: "127.0.0.1:1\u{1b}[2J".to_owned(), ..Peer::default() };
                    send(&mut link, Report::Answer { id, answer: Answer::Peers(vec![peer]) });
                }
                Order::Start(_)
                | Order::Files(_)
                | Order::Drain { .. }
                | Order::LogStatus
                | Order::Ask { .. } => {}
            }
        }
        if report_at <= Instant::now() {
            report_at = Instant::now() + Duration::from_millis(100);
            send(&mut link, Report::Status(Box::new(status.clone())));
        }
    }
}
