//! Every step of every workflow through one running server with all its peers: nothing is lost, nothing comes twice, each
//! patient's messages pass each step in order, and a peer that is away or hangs holds back what needs it alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod hospital;
#[path = "../support/mod.rs"]
mod support;

use accounts::{Place, needs, places};
use hospital::{BESIDE, CHANNELS, Hospital, PEERS, PeerKind};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::databases::{Engine, PASSWORD};
use support::dfapi::TOKEN;
use support::mllp::Peer;
use support::{PATIENCE, files, finish, within};

/// How long a peer is away: past every wait of its steps. `HL7SERVER_OUTAGE=30` is a real one.
fn outage() -> Duration {
    let seconds = std::env::var("HL7SERVER_OUTAGE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

/// How long a queue may take to drain on a loaded machine.
const DRAIN: Duration = Duration::from_secs(60);
/// More messages that must come to a place while a peer that it does not need is away.
const GOES_ON: usize = 10;

/// Tells the senders to stop, by whatever way the test leaves.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// What came to these places so far.
fn counts(
    hospital: &Hospital,
    wanted: impl Fn(&str, Place) -> bool,
) -> BTreeMap<(&'static str, Place), usize> {
    let wanted = places().into_iter().filter(|(channel, place)| wanted(channel, *place));
    wanted.map(|at| (at, hospital.came(at.0, at.1).len())).collect()
}

/// Waits until all that was acknowledged has come to these places.
#[track_caller]
fn all_came(hospital: &Hospital, limit: Duration, wanted: impl Fn(&str, Place) -> bool) {
    for (channel, place) in places().into_iter().filter(|(channel, place)| wanted(channel, *place)) {
        let owed = hospital.owed(channel, place).len();
        within(limit, &format!("{owed} messages of {channel} at {place:?}"), || {
            (hospital.came(channel, place).len() >= owed).then_some(())
        });
    }
}

#[test]
fn all_comes_everywhere_once_and_in_order_while_each_peer_is_away_in_turn() {
    let Some(mut hospital) = Hospital::start(Engine::MariaDb, 2, 32) else { return };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for channel in CHANNELS.into_iter().chain([BESIDE]) {
            let (desk, stop) = (Arc::clone(&hospital.desk), &stop);
            scope.spawn(move || desk.send_steadily(channel, stop));
        }
        let _ending = Ending(&stop);
        for peer in PEERS {
            hospital.down(peer);
            let back = Instant::now() + outage();
            let goes_on = |channel: &str, place: Place| !needs(channel, place, peer);
            let before = counts(&hospital, goes_on);
            for ((channel, place), count) in before {
                within(PATIENCE, &format!("{channel} goes on to {place:?} without {peer:?}"), || {
                    (hospital.came(channel, place).len() >= count + GOES_ON).then_some(())
                });
            }
            std::thread::sleep(back.saturating_duration_since(Instant::now()));
            hospital.up(peer);
        }
    });

    all_came(&hospital, DRAIN, |_, _| true);
    within(DRAIN, "nothing waits any more", || hospital.site.is_drained().then_some(()));
    for (channel, place) in places() {
        hospital.balance(channel, place);
    }
    hospital.compare_files();
    hospital.compare_rows();
    // What senders were told, and what the server says of itself.
    for channel in CHANNELS.into_iter().chain([BESIDE]) {
        let told = hospital.desk.ledger().iter().filter(|sent| sent.channel == channel).count();
        hospital.server.wait_count(channel, "delivered", told as u64);
        assert_eq!(hospital.server.count(channel, "accepted"), told as u64, "{channel}");
        assert_eq!(hospital.server.count(channel, "delivered"), told as u64, "{channel}");
    }
    assert_eq!(hospital.site.list(&["failed", "list"]), Vec::<Value>::new());
    // An answer that was under way when the receiver ended is all that it may hear twice, once a channel.
    let received = hospital.received();
    let resent: usize = CHANNELS.iter().map(|channel| hospital.owed(channel, Place::Receiver).len()).sum();
    assert!(received.len() <= resent + CHANNELS.len(), "{} for {resent} messages", received.len());
    let log = hospital.site.log();
    assert!(!log.contains("Musterfrau") && !log.contains(TOKEN), "patients or secrets in the log");
}

#[test]
fn a_peer_that_hangs_holds_back_what_needs_it_alone() {
    // Fewer task slots than one channel has threads: those that wait for the peer must not keep them.
    const TIMEOUT_S: u32 = 15;
    const BURST: usize = 12;
    let Some(mut hospital) = Hospital::start(Engine::PostgreSql, TIMEOUT_S, 8) else { return };
    let timeout = Duration::from_secs(TIMEOUT_S.into());
    let desk = Arc::clone(&hospital.desk);
    let mut senders: BTreeMap<&'static str, Peer> =
        CHANNELS.into_iter().chain([BESIDE]).map(|channel| (channel, desk.sender(channel))).collect();
    let mut sent = 0;
    let mut burst = || {
        for n in sent..sent + BURST {
            senders.iter_mut().for_each(|(channel, sender)| desk.send(sender, channel, n));
        }
        sent += BURST;
    };
    for peer in PEERS {
        let begun = Instant::now();
        burst();
        all_came(&hospital, DRAIN, |_, _| true);
        let before = begun.elapsed();
        within(DRAIN, "nothing waits any more", || hospital.site.is_drained().then_some(()));

        hospital.hang(peer, true);
        let begun = Instant::now();
        burst();
        all_came(&hospital, DRAIN, |channel, place| !needs(channel, place, peer));
        let meanwhile = begun.elapsed();
        eprintln!("{peer:?}: {before:.1?} with it, {meanwhile:.1?} without it");
        // It did hang. A database that does cannot be asked for its rows.
        for (channel, place) in places() {
            if needs(channel, place, peer) && (peer, place) != (PeerKind::Database, Place::Rows) {
                let (came, owed) = (hospital.came(channel, place).len(), hospital.owed(channel, place).len());
                assert!(came < owed, "{channel} came to {place:?} without {peer:?}");
            }
        }
        hospital.hang(peer, false);
        // The first wait for it was not over yet.
        assert!(
            meanwhile < timeout,
            "what does not need {peer:?} took {meanwhile:?}, and {before:?} with it"
        );
    }
    all_came(&hospital, DRAIN, |_, _| true);
    within(DRAIN, "nothing waits any more", || hospital.site.is_drained().then_some(()));
    for (channel, place) in places() {
        hospital.balance(channel, place);
    }
    hospital.compare_rows();
    assert_eq!(hospital.site.list(&["failed", "list"]), Vec::<Value>::new());
}

#[test]
fn check_probe_finds_the_peer_that_is_away_and_leaves_nothing_behind() {
    let Some(mut hospital) = Hospital::start(Engine::PostgreSql, 2, 32) else { return };
    // Channel and step of what is not as it should be.
    let faults = |hospital: &Hospital| -> BTreeSet<(String, String)> {
        let mut command = hospital.site.command(&["check", "--probe", "--json"]);
        Hospital::give_secrets(&mut command);
        let ran = finish(command, PATIENCE);
        let probes = ran.json()["probes"].as_array().unwrap().clone();
        let text = |probe: &Value, key: &str| probe[key].as_str().unwrap().to_owned();
        for channel in CHANNELS {
            let asked: BTreeSet<String> =
                probes.iter().filter(|p| p["channel"] == channel).map(|p| text(p, "probe")).collect();
            for step in
                ["archive", "drop_folder:near", "drop_folder:far", "db_insert", "solr", "dfapi", "resend"]
            {
                assert!(asked.contains(step), "{step} of {channel} is not probed: {asked:?}");
            }
        }
        let wrong: Vec<&Value> = probes.iter().filter(|probe| probe["ok"] != true).collect();
        assert_eq!(ran.code, Some(i32::from(!wrong.is_empty())), "{ran:#?}");
        assert!(!ran.said().contains(PASSWORD) && !ran.said().contains(TOKEN), "a secret is shown");
        wrong.into_iter().map(|probe| (text(probe, "channel"), text(probe, "probe"))).collect()
    };
    assert_eq!(faults(&hospital), BTreeSet::new());
    for (peer, step) in [
        (PeerKind::Database, "db_insert"),
        (PeerKind::Sftp, "drop_folder:far"),
        (PeerKind::Solr, "solr"),
        (PeerKind::Dfapi, "dfapi"),
        (PeerKind::Receiver, "resend"),
    ] {
        hospital.down(peer);
        let found = faults(&hospital);
        hospital.up(peer);
        let expected = CHANNELS.map(|channel| (channel.to_owned(), step.to_owned()));
        // Solr and dfapi are the service's: a channel that needs them names them too.
        let of_service = |(channel, probe): &&(String, String)| probe == step && channel == BESIDE;
        let found: BTreeSet<_> = found.iter().filter(|at| !of_service(at)).cloned().collect();
        assert_eq!(found, BTreeSet::from(expected), "{peer:?}");
    }
    assert_eq!(hospital.received(), Vec::<Vec<u8>>::new());
    assert!(hospital.dfapi.tasks().is_empty() && hospital.solr.documents("hl7").is_empty());
    assert!(files(&hospital.site.path("far"), "").is_empty());
}
