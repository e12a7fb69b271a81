//! Faults at the sides: every peer (database, SFTP, Solr, dfapi, receiver) away, hanging, slow, lying or coming and going,
//! several at once, while messages of every workflow come in. What was acknowledged comes everywhere in the end, once
//! where the peer can tell, and in its patients' order.

use crate::accounts::{Place, places};
use crate::hospital::{BESIDE, CHANNELS, Hospital, PEERS, PeerKind};
use crate::support::databases::Engine;
use crate::support::dice::Dice;
use crate::support::http_server::Reply;
use crate::support::mllp::frame;
use crate::support::peer::{answer, answer_to};
use crate::support::{PATIENCE, skip, within};
use crate::{count, is_long};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// What is the matter with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    /// Nothing listens.
    Away,
    /// It takes connections and says nothing.
    Hangs,
    /// It hangs and goes on, again and again: whatever is asked takes long.
    Slow,
    /// It answers nonsense, refusals that may pass, another's answer, or cuts the line; what it was told it has done, or
    /// has not.
    Lies,
    /// It is there and away in turn.
    Flaps,
}

const TROUBLES: [Trouble; 5] = [Trouble::Away, Trouble::Hangs, Trouble::Slow, Trouble::Lies, Trouble::Flaps];

/// How long a turn of what comes and goes takes.
const TURN: Duration = Duration::from_millis(300);
/// How long a queue may take to drain on a loaded machine.
const DRAIN: Duration = Duration::from_secs(180);

/// Whether a peer can have this trouble: databases and SSH servers do not lie to a client that has authenticated them,
/// and a database that is killed every 300 ms never comes up.
fn can(peer: PeerKind, trouble: Trouble) -> bool {
    match peer {
        PeerKind::Database => !matches!(trouble, Trouble::Lies | Trouble::Flaps),
        PeerKind::Sftp => trouble != Trouble::Lies,
        PeerKind::Solr | PeerKind::Dfapi | PeerKind::Receiver => true,
    }
}

/// Tells the senders to stop, by whatever way the test leaves.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Answers of an HTTP server that is not itself: none of them says that anything was done.
fn lies() -> Vec<Reply> {
    vec![
        Reply::of(503, "text/html", "<html>down for maintenance</html>"),
        Reply::HangUp,
        Reply::of(500, "text/plain", ""),
        Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        Reply::of(429, "application/json", "{}").with("Retry-After", "1"),
        Reply::of(502, "text/html", "<html>bad gateway</html>"),
    ]
}

/// To Solr's client one more: what its body says is what counts, where dfapi's status does.
fn cut_short() -> Reply {
    Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"resp".to_vec())
}

/// An answer to a message.
type Answer = fn(&[u8]) -> Vec<u8>;

/// What a receiver says that takes nothing, or that takes it and is not heard.
const NONSENSE: [Answer; 5] = [
    |_| answer_to("AA", "ANOTHER"),
    |body| answer("AE", body),
    |_| frame(b"NOT AN ANSWER\r"),
    |body| answer("AA", body)[..10].to_vec(),
    |_| b"\x0b\x1c\r\x0b\x0b".to_vec(),
];

fn begin(hospital: &mut Hospital, peer: PeerKind, trouble: Trouble) {
    match trouble {
        Trouble::Away | Trouble::Flaps => hospital.down(peer),
        Trouble::Hangs | Trouble::Slow => hospital.hang(peer, true),
        Trouble::Lies => lie(hospital, peer, 0),
    }
}

/// What happens at each turn while it lasts.
fn turn(hospital: &mut Hospital, peer: PeerKind, trouble: Trouble, n: usize) {
    match trouble {
        Trouble::Away | Trouble::Hangs => {}
        Trouble::Slow => hospital.hang(peer, n.is_multiple_of(2)),
        Trouble::Flaps if n.is_multiple_of(2) => hospital.down(peer),
        Trouble::Flaps => hospital.up(peer),
        Trouble::Lies => lie(hospital, peer, n),
    }
}

fn end(hospital: &mut Hospital, peer: PeerKind, trouble: Trouble, turns: usize) {
    match (trouble, peer) {
        // After an odd number of turns it is there again.
        (Trouble::Slow | Trouble::Flaps, _) if turns % 2 == 1 => {}
        (Trouble::Away | Trouble::Flaps, _) => hospital.up(peer),
        (Trouble::Hangs | Trouble::Slow, _) | (Trouble::Lies, PeerKind::Receiver) => {
            hospital.hang(peer, false)
        }
        (Trouble::Lies, PeerKind::Solr) => hospital.solr.state().next_updates.clear(),
        (Trouble::Lies, _) => hospital.dfapi.state().next.clear(),
    }
}

fn lie(hospital: &Hospital, peer: PeerKind, n: usize) {
    match peer {
        PeerKind::Solr => {
            hospital.solr.state().next_updates.extend(lies().into_iter().chain([cut_short()]));
        }
        PeerKind::Dfapi => {
            let mut state = hospital.dfapi.state();
            state.does_it_all_the_same = n % 2 == 1;
            state.next.extend(lies());
        }
        _ => hospital.receiver_says(NONSENSE[n % NONSENSE.len()]),
    }
}

#[test]
fn peers_in_any_trouble_together_lose_double_and_reorder_nothing() {
    let seconds = count("SIDES_SECONDS", 0, 600);
    if seconds == 0 {
        skip("the long form only: tests/all_steps has each peer away and hung in turn");
        return;
    }
    let Some(mut hospital) = Hospital::start(Engine::MariaDb, 2, 32) else { return };
    let mut dice = Dice::thrown();
    let stop = AtomicBool::new(false);
    let mut seen: BTreeMap<(PeerKind, Trouble), usize> = BTreeMap::new();
    let (begun, time) = (Instant::now(), Duration::from_secs(seconds as u64));
    std::thread::scope(|scope| {
        for channel in CHANNELS.into_iter().chain([BESIDE]) {
            let (desk, stop) = (Arc::clone(&hospital.desk), &stop);
            scope.spawn(move || desk.send_steadily(channel, stop));
        }
        let _ending = Ending(&stop);
        while begun.elapsed() < time {
            // Some peers, each with a trouble of its own; all of them every now and then.
            let several = if dice.below(5) == 0 { PEERS.len() } else { 1 + dice.below(3) };
            let mut troubled: BTreeMap<PeerKind, Trouble> = BTreeMap::new();
            while troubled.len() < several {
                let (peer, trouble) = (*dice.pick(&PEERS), *dice.pick(&TROUBLES));
                if can(peer, trouble) {
                    troubled.insert(peer, trouble);
                }
            }
            for (peer, trouble) in &troubled {
                *seen.entry((*peer, *trouble)).or_default() += 1;
                begin(&mut hospital, *peer, *trouble);
            }
            let (turns, before) = (3 + dice.below(if is_long() { 60 } else { 8 }), told(&hospital));
            for n in 1..=turns {
                std::thread::sleep(TURN);
                troubled.iter().for_each(|(peer, trouble)| turn(&mut hospital, *peer, *trouble, n));
            }
            // However slow the disk is that it shares with all of them.
            within(PATIENCE, &format!("something is received while {troubled:?}"), || {
                (told(&hospital) > before).then_some(())
            });
            troubled.iter().for_each(|(peer, trouble)| end(&mut hospital, *peer, *trouble, turns));
            std::thread::sleep(TURN * dice.below(6) as u32);
        }
    });

    for (channel, place) in places() {
        let owed = hospital.owed(channel, place).len();
        within(DRAIN, &format!("{owed} messages of {channel} at {place:?}"), || {
            std::thread::sleep(Duration::from_millis(200));
            (hospital.came(channel, place).len() >= owed).then_some(())
        });
    }
    within(DRAIN, "nothing waits any more", || hospital.site.is_drained().then_some(()));
    for (channel, place) in places() {
        hospital.balance(channel, place);
    }
    hospital.compare_files();
    hospital.compare_rows();
    assert_eq!(hospital.site.list(&["failed", "list"]), Vec::<Value>::new());
    let log = hospital.site.log();
    let restarts = log.lines().filter(|line| line.contains("starting again in")).count();
    assert_eq!(restarts, 0, "a peer's trouble has ended a worker");
    within(PATIENCE, "every channel is ready", || {
        let status = hospital.server.try_status()?;
        crate::support::channels(&status).iter().all(|c| crate::support::state(c) == "ready").then_some(())
    });
    let resent = hospital.owed("oru", Place::Receiver).len();
    eprintln!(
        "TORTURE sides: {} s, {} acknowledged, {resent} of them resent by oru alone, seed {}: {seen:?}",
        begun.elapsed().as_secs(),
        told(&hospital),
        dice.seed
    );
}

fn told(hospital: &Hospital) -> usize {
    hospital.desk.ledger().len()
}
