//! Frames over a real connection: what deviates from MLLP, what is too long, what is cut off.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::messages::{adt, adt_of};
use support::mllp::frame;
use support::receiver::Receiver;
use support::{ANSWER, wait_files};

/// Long enough for an answer that must not come to have come.
const QUIET: Duration = Duration::from_millis(700);

#[test]
fn a_message_that_arrives_byte_by_byte_is_one_message() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    for byte in frame(&adt("SLOW", "P1")) {
        peer.send_raw(&[byte]).unwrap();
    }
    peer.acknowledgment().accepts(b"SLOW");
    receiver.archived(&[&adt("SLOW", "P1")]);
}

#[test]
fn frames_in_one_packet_are_answered_one_by_one_in_their_order() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let names: Vec<String> = (0..300).map(|n| format!("N{n}")).collect();
    let packet: Vec<u8> = names.iter().flat_map(|name| frame(&adt(name, name))).collect();
    peer.send_raw(&packet).unwrap();
    for name in &names {
        peer.acknowledgment().accepts(name.as_bytes());
    }
    wait_files(&receiver.site.path("archive/adt"), ".hl7", names.len());
}

#[test]
fn padding_between_frames_is_dropped() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    peer.send_raw(
        &[b"\r\n\0 \t".as_slice(), &frame(&adt("A", "P1")), b"\r\n\0\0", &frame(&adt("B", "P1"))].concat(),
    )
    .unwrap();
    peer.acknowledgment().accepts(b"A");
    peer.acknowledgment().accepts(b"B");
    receiver.counted("pad");
}

#[test]
fn a_frame_without_its_first_byte_is_accepted_at_the_start_of_a_connection() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    peer.send_raw(&frame(&adt("NOVT", "P1"))[1..]).unwrap();
    peer.acknowledgment().accepts(b"NOVT");
    receiver.archived(&[&adt("NOVT", "P1")]);
    receiver.counted("missing_vt");
}

#[test]
fn a_frame_without_its_last_byte_ends_where_the_next_begins() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let first = frame(&adt("A", "P1"));
    peer.send_raw(&[&first[..first.len() - 1], &frame(&adt("B", "P1"))].concat()).unwrap();
    peer.acknowledgment().accepts(b"A");
    peer.acknowledgment().accepts(b"B");
    receiver.archived(&[&adt("A", "P1"), &adt("B", "P1")]);
    receiver.counted("missing_cr");
}

#[test]
fn a_frame_without_its_last_byte_is_answered_when_nothing_follows() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let whole = frame(&adt("A", "P1"));
    peer.send_raw(&whole[..whole.len() - 1]).unwrap();
    peer.acknowledgment().accepts(b"A");
}

#[test]
fn a_line_feed_in_place_of_the_last_byte_ends_a_frame() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let mut whole = frame(&adt("A", "P1"));
    *whole.last_mut().unwrap() = b'\n';
    peer.send_raw(&whole).unwrap();
    peer.acknowledgment().accepts(b"A");
    peer.exchange(&adt("B", "P1")).accepts(b"B");
    receiver.counted("lf_for_cr");
}

#[test]
fn a_separator_byte_inside_a_message_is_data() {
    let receiver = Receiver::start();
    let body = [adt("FS", "P1").as_slice(), b"NTE|1||a\x1cb\x0bc\0d\r"].concat();
    receiver.connect().exchange(&body).accepts(b"FS");
    receiver.archived(&[&body]);
    receiver.counted("embedded_fs");
}

#[test]
fn a_message_cut_off_by_the_next_is_quarantined_and_never_answered() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let cut = &adt("CUT", "P1")[..90];
    peer.send_raw(&[b"\x0b", cut, &frame(&adt("WHOLE", "P2"))].concat()).unwrap();
    peer.acknowledgment().accepts(b"WHOLE");
    peer.expect_silence(QUIET);
    receiver.quarantined(cut);
    receiver.archived(&[&adt("WHOLE", "P2")]);
    receiver.counted("truncated");
}

#[test]
fn a_message_cut_off_by_the_end_of_the_connection_is_quarantined_and_never_answered() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    let cut = &adt("CUT", "P1")[..90];
    peer.send_raw(&[b"\x0b", cut].concat()).unwrap();
    peer.half_close();
    peer.expect_close(ANSWER);
    receiver.quarantined(cut);
    receiver.counted("partial");
}

#[test]
fn a_message_that_never_ends_is_closed_after_its_timeout() {
    let receiver = Receiver::with(json!({"message_timeout": 1}));
    let mut peer = receiver.connect();
    let started = Instant::now();
    peer.send_raw(b"\x0bMSH|^~\\&|A|B").unwrap();
    peer.expect_close(ANSWER);
    assert!(started.elapsed() >= Duration::from_millis(900), "closed after {:?}", started.elapsed());
    receiver.quarantined(b"MSH|^~\\&|A|B");
}

#[test]
fn a_half_closed_connection_still_gets_its_answer() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    peer.send(&adt("HALF", "P1"));
    peer.half_close();
    peer.acknowledgment().accepts(b"HALF");
    peer.expect_close(ANSWER);

    let mut peer = receiver.connect();
    let whole = frame(&adt("NOCR", "P1"));
    peer.send_raw(&whole[..whole.len() - 1]).unwrap();
    peer.half_close();
    peer.acknowledgment().accepts(b"NOCR");
    peer.expect_close(ANSWER);
}

#[test]
fn what_is_not_mllp_is_closed_without_an_answer() {
    let receiver = Receiver::start();
    let starts: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not_mllp"),
        (b"POST /x HTTP/1.1\r\n\r\n", "not_mllp"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not_mllp"),
        (b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", "not_mllp"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "tls_on_plain"),
    ];
    for (bytes, code) in starts {
        let mut peer = receiver.connect();
        peer.send_raw(bytes).unwrap();
        peer.expect_close(ANSWER);
        receiver.counted(code);
    }
    receiver.connect().exchange(&adt("AFTER", "P1")).accepts(b"AFTER");
}

#[test]
fn junk_is_dropped_up_to_the_next_frame_and_too_much_of_it_closes() {
    let receiver = Receiver::start();
    let mut peer = receiver.connect();
    peer.send_raw(&[b"hello there".as_slice(), &frame(&adt("A", "P1"))].concat()).unwrap();
    peer.acknowledgment().accepts(b"A");
    receiver.counted("junk");

    let mut peer = receiver.connect();
    peer.send_raw(&[b'x'; 5000]).unwrap();
    peer.expect_close(ANSWER);
}

#[test]
fn a_connection_that_says_nothing_logs_nothing() {
    let receiver = Receiver::start();
    let before = receiver.site.log();
    drop(receiver.connect());
    receiver.connect().exchange(&adt("AFTER", "P1")).accepts(b"AFTER");
    receiver.server.wait_count("adt", "delivered", 1);
    let after = receiver.site.log();
    let noise: Vec<_> = after[before.len()..].lines().filter(|line| !line.contains("AFTER")).collect();
    assert!(noise.is_empty(), "{noise:#?}");
}

#[test]
fn status_shows_each_peer_with_its_last_message_and_its_deviations() {
    let receiver = Receiver::start();
    let (mut odd, mut plain, silent) = (receiver.connect(), receiver.connect(), receiver.connect());
    odd.send_raw(&[b"junk".as_slice(), &frame(&adt("A", "P1")), b"\r", &frame(&adt("B", "P1"))].concat())
        .unwrap();
    odd.acknowledgment().accepts(b"A");
    odd.acknowledgment().accepts(b"B");
    let before = microseconds();
    plain.exchange(&adt("C", "P1")).accepts(b"C");
    receiver.server.wait_count("adt", "connections", 3);
    let peers = receiver.server.peers("adt");
    let of = |address: std::net::SocketAddr| {
        let found = peers.iter().find(|peer| peer["address"] == address.to_string().as_str());
        found.unwrap_or_else(|| panic!("{address} is not in {peers:#?}"))
    };
    assert_eq!(peers.len(), 3);
    let (odd, plain, silent) = (of(odd.address()), of(plain.address()), of(silent.address()));
    assert_eq!(
        (&odd["messages"], &plain["messages"], &silent["messages"]),
        (&json!(2), &json!(1), &json!(0))
    );
    assert_eq!((&odd["framing"], &plain["framing"]), (&json!({"junk": 1, "pad": 1}), &json!({})));
    let time = plain["last_message_us"].as_u64().unwrap();
    assert!((before..=microseconds()).contains(&time), "{time} is not when its message came");
    assert!(odd["last_message_us"].as_u64().unwrap() <= time && silent["last_message_us"].is_null());

    // And as an operator reads it: one line a peer.
    let shown = receiver.site.run(&["status", "--channel", "adt"]).good();
    let line = |peer: &Value| {
        let address = peer["address"].as_str().unwrap();
        let found = shown.stdout.lines().find(|line| line.contains(address));
        found.unwrap_or_else(|| panic!("{address} is not in {shown:#?}")).to_owned()
    };
    assert!(line(odd).contains("junk: 1") && line(odd).contains("pad: 1"), "{}", line(odd));
    assert!(!line(plain).contains("junk"), "{}", line(plain));
    assert!(shown.stdout.contains("LAST MESSAGE"), "{shown:#?}");
}

fn microseconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64
}

// ---- size

#[test]
fn a_message_over_the_limit_is_refused_and_the_connection_stays_in_step() {
    let receiver = Receiver::with(json!({"stream_limit": "64KiB"}));
    let mut peer = receiver.connect();
    let fits = adt_of(64 << 10, "FITS");
    assert_eq!(fits.len(), 64 << 10);
    peer.exchange(&fits).accepts(b"FITS");
    let answer = peer.exchange(&adt_of((64 << 10) + 1, "BIG"));
    answer.refuses("AR", "207");
    assert_eq!(answer.control_id(), b"BIG");
    peer.exchange(&adt_of(120 << 10, "BIGGER")).refuses("AR", "207");
    peer.exchange(&adt("NEXT", "P1")).accepts(b"NEXT");
    receiver.archived(&[&fits, &adt("NEXT", "P1")]);
    receiver.counted("oversize");
}

#[test]
fn a_message_far_over_the_limit_is_refused_and_closed() {
    let receiver = Receiver::with(json!({"stream_limit": "64KiB"}));
    let mut peer = receiver.connect();
    // Past four times the limit there is no draining to its end.
    let body = adt_of(4 * (64 << 10) + 4096, "ENDLESS");
    peer.send_raw(&[b"\x0b", body.as_slice()].concat()).unwrap();
    let answer = peer.acknowledgment();
    answer.refuses("AR", "207");
    assert_eq!(answer.control_id(), b"ENDLESS");
    peer.expect_close(ANSWER);
}

#[test]
fn a_message_of_ten_megabytes_is_archived_as_sent() {
    let receiver = Receiver::start();
    let body = adt_of(10 << 20, "TEN");
    receiver.connect().exchange(&body).accepts(b"TEN");
    receiver.archived(&[&body]);
}
