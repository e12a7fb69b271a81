//! The network: resets at every byte, packets that get lost, partitions, and peers that vanish without a word. What
//! drops packets does so in a network namespace of the test's own, on its loopback.

use super::inside::is_inside;
use crate::support::load::{Load, assert_archived_once};
use crate::support::messages::adt;
use crate::support::mllp::{Acknowledgment, Peer, Reply, frame};
use crate::support::parallel::each;
use crate::support::receiver::Receiver;
use crate::support::{ANSWER, PATIENCE, within};
use crate::{count, is_long};
use rustix::net::sockopt::set_socket_linger;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs this test again in a network of its own, where a table of packets to drop can be made.
fn in_a_network_of_its_own(test: &str) -> bool {
    is_inside(test, "-rn", "ip link set lo up; nft add table inet torture; nft delete table inet torture")
}

/// Packets that come in over the loopback meet this rule.
fn packets(rule: &str) {
    nft(&format!(
        "add table inet torture\ndelete table inet torture\nadd table inet torture\n\
        add chain inet torture input {{ type filter hook input priority 0; }}\nadd rule inet torture input {rule}"
    ));
}

fn nft(script: &str) {
    let status = Command::new("nft").arg(script).status().unwrap();
    assert!(status.success(), "nft {script:?}");
}

/// From now on so many of 100 packets of this port are lost, either way.
fn lose(port: u16, percent: usize) {
    let chance = if percent < 100 { format!("numgen random mod 100 < {percent}") } else { String::new() };
    packets(&format!("tcp dport {port} {chance} drop"));
    nft(&format!("add rule inet torture input tcp sport {port} {chance} drop"));
}

fn lose_nothing() {
    nft("delete table inet torture");
}

/// Closes a connection by a reset: whatever either side still had to say is thrown away.
fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_reset_at_every_byte_of_a_frame_leaves_whole_messages_only() {
    let receiver = Receiver::with(json!({"max_connections_per_address": 200}));
    let worker = receiver.server.worker(receiver.port);
    let descriptors = || std::fs::read_dir(format!("/proc/{worker}/fd")).map_or(0, Iterator::count);
    receiver.connect().exchange(&adt("BEFORE", "P1")).accepts(b"BEFORE");
    receiver.server.wait_count("adt", "delivered", 1);
    within(PATIENCE, "the first has left", || {
        (receiver.server.count("adt", "connections") == 0).then_some(())
    });
    let before = descriptors();
    let whole = frame(&adt("@@@", "P1")).len();
    let step = if is_long() { 1 } else { 5 };
    // Before the first byte, after the last one, and with its answer on the way.
    let cuts: Vec<usize> = (0..=whole).step_by(step).chain([whole]).collect();
    each(cuts.clone(), 8, |cut| {
        let bytes = frame(&adt(&format!("{cut:03}"), "P1"));
        let mut stream = TcpStream::connect(("127.0.0.1", receiver.port)).unwrap();
        stream.write_all(&bytes[..cut]).unwrap();
        if cut == whole {
            // The first byte of the answer, and no more.
            stream.set_read_timeout(Some(ANSWER)).unwrap();
            stream.read_exact(&mut [0]).unwrap();
        } else if cut % 2 == 0 {
            // The other half of them are cut as early as the network allows.
            std::thread::sleep(Duration::from_millis(5));
        }
        reset(stream);
    });
    within(PATIENCE, "every connection is forgotten", || {
        (receiver.server.count("adt", "connections") == 0).then_some(())
    });
    within(PATIENCE, "descriptors are given back", || (descriptors() <= before + 3).then_some(()));
    // Nothing of a part was taken: the same names come whole now, and each is there once.
    let mut peer = receiver.connect();
    let mut sent = vec![adt("BEFORE", "P1")];
    let mut cuts = cuts;
    cuts.dedup();
    for cut in cuts {
        let id = format!("{cut:03}");
        let body = adt(&id, "P1");
        peer.exchange(&body).accepts(id.as_bytes());
        sent.push(body);
    }
    receiver.archived(&sent.iter().map(Vec::as_slice).collect::<Vec<_>>());
    assert_eq!(receiver.server.worker(receiver.port), worker);
    eprintln!("TORTURE resets: {} resets, one at each {step} bytes of {whole}", sent.len() - 1);
}

#[test]
fn lost_packets_and_partitions_lose_and_double_no_message() {
    if !in_a_network_of_its_own("below::network::lost_packets_and_partitions_lose_and_double_no_message") {
        return;
    }
    let receiver = Receiver::with(json!({"message_timeout": 5}));
    let load = Load::start(receiver.port, 8);
    let rounds = count("PARTITIONS", 1, 20);
    for round in 0..rounds {
        load.wait_for_more(50);
        lose(receiver.port, 5 + round % 4 * 10);
        std::thread::sleep(Duration::from_millis(if is_long() { 5000 } else { 1000 }));
        // A partition: long enough in the long form that senders give up and come again.
        lose(receiver.port, 100);
        std::thread::sleep(Duration::from_millis(if is_long() { 500 + 700 * round as u64 } else { 500 }));
        lose_nothing();
    }
    load.wait_for_more(50);
    let acknowledged = load.finish();
    assert_archived_once(&acknowledged, &receiver.site.path("archive/adt"));
    assert!(receiver.site.list(&["failed", "list"]).is_empty());
    eprintln!(
        "TORTURE network: {} messages over {rounds} times lost packets and a partition",
        acknowledged.len()
    );
}

#[test]
fn an_answer_that_a_partition_swallowed_is_given_again_and_the_message_is_processed_once() {
    if !in_a_network_of_its_own(
        "below::network::an_answer_that_a_partition_swallowed_is_given_again_and_the_message_is_processed_once",
    ) {
        return;
    }
    let receiver = Receiver::start();
    let body = adt("LOST", "P1");
    let mut peer = receiver.connect();
    // Answers are lost, what is sent arrives.
    packets(&format!("tcp sport {} drop", receiver.port));
    peer.send(&body);
    receiver.archived(&[&body]);
    assert_eq!(peer.receive(Duration::from_millis(300)), Reply::Silence);
    drop(peer);
    lose_nothing();
    let mut peer = receiver.connect();
    peer.exchange(&body).accepts(b"LOST");
    peer.exchange(&adt("NEXT", "P1")).accepts(b"NEXT");
    receiver.archived(&[&body, &adt("NEXT", "P1")]);
}

#[test]
fn a_sender_that_vanished_is_forgotten_in_two_minutes() {
    // Keep-alives come after 60 s of silence, and 6 of them, 10 s apart, may be missed.
    if !is_long()
        || !in_a_network_of_its_own("below::network::a_sender_that_vanished_is_forgotten_in_two_minutes")
    {
        return;
    }
    let receiver = Receiver::start();
    let mut peers: Vec<Peer> = (0..20).map(|_| receiver.connect()).collect();
    for (n, peer) in peers.iter_mut().enumerate() {
        let id = format!("N{n}");
        peer.exchange(&adt(&id, "P1")).accepts(id.as_bytes());
    }
    receiver.server.wait_count("adt", "connections", 20);
    lose(receiver.port, 100);
    drop(peers);
    let begun = Instant::now();
    within(Duration::from_secs(150), "the half-open connections are closed", || {
        std::thread::sleep(Duration::from_secs(1));
        (receiver.server.count("adt", "connections") == 0).then_some(())
    });
    eprintln!("TORTURE network: half-open connections were closed after {:?}", begun.elapsed());
    assert!(begun.elapsed() > Duration::from_secs(50), "a sender that is merely silent is closed");
    lose_nothing();
    let mut peer = receiver.connect();
    peer.send(&adt("AFTER", "P1"));
    let Reply::Frame(answer) = peer.receive(ANSWER) else { panic!("no answer") };
    Acknowledgment::parse(&answer).accepts(b"AFTER");
    assert!(Path::new(&receiver.site.path("archive/adt")).exists());
}
