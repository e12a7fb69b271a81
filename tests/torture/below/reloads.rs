//! Reloads under load, each of which replaces the worker: no connection is refused, and nothing is lost or doubled.

use crate::count;
use crate::ledger::{Ledger, Message};
use crate::support::messages::adt;
use crate::support::mllp::{Acknowledgment, Peer, Reply, frame};
use crate::support::{ANSWER, PATIENCE, Site, process, within};
use crate::verdict::{Checker, drained};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const SENDERS: usize = 4;

/// Tells the senders to stop, by whatever way the test leaves.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn reloads_under_load_refuse_no_connection() {
    let (reloads, connections) = (count("RELOADS", 5, 500), count("CONNECTIONS", 500, 200_000));
    let mut site = Site::new();
    let port = site.port();
    let configure = |site: &Site, tasks: usize| {
        let mut channel: Value = site.store_channel("adt", port);
        channel["tasks"] = json!(tasks);
        site.configure(json!({"channels": [channel]}));
    };
    configure(&site, 5);
    let server = site.start();
    let ledger = Ledger::new(&site.path("ledger.jsonl"));
    let (stop, made, cut) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let begun = Instant::now();
    let mut done = 0;
    std::thread::scope(|scope| {
        let _ending = Ending(&stop);
        for sender in 0..SENDERS {
            let (ledger, stop, made, cut) = (&ledger, &stop, &made, &cut);
            scope.spawn(move || hammer(port, sender, ledger, stop, made, cut));
        }
        while done < reloads || made.load(Relaxed) < connections {
            let old = server.worker(port);
            configure(&site, 6 - done % 2);
            site.run(&["reload"]).good();
            within(PATIENCE, "the channel has a new worker", || {
                let new = process::worker_of(port)?;
                (new != old && !process::is_alive(old)).then_some(())
            });
            // Some come while it is there, too.
            let goal = made.load(Relaxed) + 20;
            within(PATIENCE, "senders go on", || (made.load(Relaxed) >= goal).then_some(()));
            done += 1;
        }
    });
    drained(&site, PATIENCE * 4);
    let verdict =
        Checker::of(&ledger).messages("adt/archive", &site.path("archive/adt")).listed(&site).balances();
    assert_eq!(verdict.number("acknowledged"), ledger.acknowledged() as u64);
    eprintln!(
        "TORTURE reloads: {done} under load, {} connections, none refused, {} closed by the worker that left before they \
         were answered, {} acknowledged, {} s",
        made.load(Relaxed),
        cut.load(Relaxed),
        ledger.acknowledged(),
        begun.elapsed().as_secs()
    );
}

/// A connection a message, and none may be refused. One that the leaving worker took and closed is made anew.
fn hammer(
    port: u16,
    sender: usize,
    ledger: &Ledger,
    stop: &AtomicBool,
    made: &AtomicUsize,
    cut: &AtomicUsize,
) {
    // From many addresses: one has not so many ports that it may use again at once.
    let mut addresses = (0..).map(|n| Ipv4Addr::new(127, 0, 1 + sender as u8, 1 + (n % 250) as u8));
    for n in 0.. {
        if stop.load(Relaxed) {
            return;
        }
        let control = format!("S{sender}N{n}");
        let (patient, body) = (format!("P{sender}"), adt(&control, &format!("P{sender}")));
        let message = Message { control, patients: vec![patient], body, document: None, places: None };
        let mut sending = ledger.open("adt", sender, message);
        loop {
            let from = addresses.next().expect("there is no end of them");
            let peer = Peer::try_connect_from(from, port);
            let mut peer =
                peer.unwrap_or_else(|e| panic!("S{sender}N{n} from {from} could not connect: {e}"));
            made.fetch_add(1, Relaxed);
            sending.sent(ledger.connection(), 0);
            let sent = peer.send_raw(&frame(&sending.message().body)).is_ok();
            match if sent { peer.receive(ANSWER) } else { Reply::Closed } {
                Reply::Frame(answer) => {
                    sending.answered(&Acknowledgment::parse(&answer));
                    break;
                }
                Reply::Closed => {
                    cut.fetch_add(1, Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
                Reply::Silence => panic!("S{sender}N{n} was neither answered nor closed"),
            }
        }
    }
}
