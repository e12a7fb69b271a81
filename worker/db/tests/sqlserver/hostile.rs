//! Servers that misbehave.

use super::{OURS, certificate, server_error, target, text};
use crate::peer::packets::{ANSWER, packets};
use crate::peer::tokens::{self, Cell};
use crate::peer::{ENCRYPT_NOT_SUP, ENCRYPT_REQ, Peer, Script, Stage, Trouble};
use config::DbTls;
use db::{Fault, Target, Value};
use proptest::collection;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::time::{Duration, Instant};

/// What a server may do instead of answering.
fn troubles() -> Vec<Trouble> {
    let garbage: Vec<u8> = (0..=255).cycle().take(5_000).collect();
    let header = |length: [u8; 2], status| vec![4, status, length[0], length[1], 0, 0, 1, 0];
    vec![
        Trouble::HangUp,
        Trouble::Silence,
        Trouble::Drip(Duration::from_millis(40)),
        Trouble::Flood(vec![0; 4_000]),
        Trouble::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        Trouble::Bytes(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec()),
        Trouble::Bytes(garbage),
        Trouble::Bytes(vec![0; 5_000]),
        Trouble::Bytes(vec![0xff; 5_000]),
        // Packets: torn, shorter than their header, empty, of a message that never ends.
        Trouble::Bytes(header([0xff, 0xff], 1)),
        Trouble::Bytes(header([0, 3], 1)),
        Trouble::Bytes(header([0, 8], 1)),
        Trouble::Bytes([header([0, 9], 0), vec![0xfd]].concat()),
    ]
}

/// Each token alone, with small and with absurd lengths.
fn absurd_tokens() -> Vec<Trouble> {
    let tokens = [
        0x79, 0x81, 0x88, 0xa4, 0xa5, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xd1, 0xd2, 0xd3, 0xe3, 0xe4, 0xed,
        0xee, 0xfd, 0xfe, 0xff,
    ];
    let fills = [0x00, 0x01, 0x7f, 0xff];
    let packet = |(token, fill)| {
        let mut packet = vec![4, 1, 0, 72, 0, 0, 1, 0, token];
        packet.resize(72, fill);
        Trouble::Bytes(packet)
    };
    tokens.into_iter().flat_map(|token| fills.map(|fill| (token, fill))).map(packet).collect()
}

/// Connects, inserts, asks; whatever comes of it, it ends in time (a machine under load is given some more).
fn use_it(what: &str, target: &Target) -> Result<Vec<Vec<Value>>, Fault> {
    let began = Instant::now();
    let result = target.connect().and_then(|mut connection| {
        connection.execute("INSERT @P1", &[text("x")])?;
        connection.query("SELECT @P1", &[text("x")], 2)
    });
    let took = began.elapsed();
    assert!(took < 4 * target.timeout + Duration::from_secs(5), "{what}: took {took:?}");
    result
}

#[test]
fn whatever_a_server_does_at_any_stage_ends_in_time_and_fails_no_message() {
    let (identity, _) = certificate(OURS);
    let at = |stage, trouble: Trouble| {
        let what = format!("{stage:?}, {trouble:?}");
        let (encryption, tls) = match stage {
            Stage::Handshake => (ENCRYPT_REQ, DbTls::Require),
            _ => (ENCRYPT_NOT_SUP, DbTls::Disable),
        };
        let identity = Some(identity.clone());
        let trouble = Some((stage, trouble));
        let peer = Peer::start(Script { encryption, identity, trouble, ..Script::default() });
        let timeout = Duration::from_millis(400);
        let result = use_it(&what, &Target { tls, certificate: false, timeout, ..target(peer.port) });
        (what, result)
    };
    let stages =
        [Stage::Accepted, Stage::Prelogin, Stage::Handshake, Stage::Login, Stage::Setup, Stage::Request];
    std::thread::scope(|scope| {
        for stage in stages {
            scope.spawn(move || {
                for trouble in troubles() {
                    let (what, result) = at(stage, trouble);
                    assert!(
                        matches!(result, Err(Fault::Again { target_down: true, .. })),
                        "{what}: {result:?}"
                    );
                }
            });
        }
        for stage in [Stage::Prelogin, Stage::Login, Stage::Setup, Stage::Request] {
            scope.spawn(move || {
                for trouble in absurd_tokens() {
                    let (what, result) = at(stage, trouble);
                    // Some are an answer of a kind.
                    assert!(
                        !matches!(result, Err(Fault::Failed(_) | Fault::Duplicate(_))),
                        "{what}: {result:?}"
                    );
                }
            });
        }
    });
}

#[test]
fn a_lost_connection_says_how_it_was_lost() {
    let cases = [
        (Trouble::Silence, "no answer within 0.4 s"),
        (Trouble::HangUp, "the server closed the connection"),
        (Trouble::Flood(vec![0; 4_000]), "the server does not speak TDS"),
    ];
    for (trouble, expected) in cases {
        for stage in [Stage::Prelogin, Stage::Login, Stage::Setup, Stage::Request] {
            let peer = Peer::start(Script { trouble: Some((stage, trouble.clone())), ..Script::default() });
            let timeout = Duration::from_millis(400);
            let fault = use_it("lost", &Target { timeout, ..target(peer.port) }).unwrap_err();
            assert!(fault.reason().contains(expected), "{stage:?} {trouble:?}: {fault}");
        }
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let fault = use_it("refused", &target(closed)).unwrap_err();
    assert!(fault.reason().contains("connection refused"), "{fault}");
}

#[test]
fn an_answer_without_end_is_cut_off_before_it_fills_the_memory() {
    // A token that is sound, quick to read, and never the last.
    let mut sound_token = vec![0xee];
    sound_token.extend(4_000_u32.to_le_bytes());
    sound_token.resize(4_005, 0);
    let trouble = Some((Stage::Request, Trouble::Flood(sound_token)));
    let peer = Peer::start(Script { trouble, ..Script::default() });
    let fault = use_it("flood", &target(peer.port)).unwrap_err();
    assert!(fault.reason().contains("its answer has no end"), "{fault}");
}

/// A server's true answers, a stage each.
fn recordings() -> Vec<(Stage, Vec<u8>)> {
    let columns = [
        ("id", tokens::Kind::Int),
        ("name", tokens::Kind::NVarChar(50)),
        ("report", tokens::Kind::NVarCharMax),
        ("at", tokens::Kind::DateTime2),
        ("alive", tokens::Kind::Bit),
    ];
    let row = vec![
        Cell::Int(-7),
        Cell::Text("Jürgen".to_owned()),
        Cell::Text("Befund".repeat(9)),
        Cell::DateTime2(452_961_234_560, 738_944),
        Cell::Bit(true),
    ];
    vec![
        (Stage::Prelogin, tokens::prelogin(ENCRYPT_NOT_SUP)),
        (Stage::Login, tokens::login_granted("lab")),
        (Stage::Login, tokens::login_refused(&server_error(18_456, 14, "Login failed."))),
        (Stage::Login, tokens::login_routed("localhost", 1)),
        (Stage::Setup, tokens::batch_done()),
        (Stage::Request, tokens::affected(1)),
        (Stage::Request, tokens::failed(&server_error(2_627, 14, "The duplicate key value is (x)."))),
        (Stage::Request, tokens::table(&columns, &[row])),
    ]
}

#[derive(Clone, Debug)]
enum Bend {
    Set(u8),
    Flip(u8),
    Cut,
    Insert(Vec<u8>),
    Repeat(usize),
}

fn bend(bytes: &mut Vec<u8>, place: usize, bend: &Bend) {
    let at = place % bytes.len().max(1);
    match bend {
        Bend::Set(_) | Bend::Flip(_) if bytes.is_empty() => {}
        Bend::Set(value) => bytes[at] = *value,
        Bend::Flip(bit) => bytes[at] ^= 1 << (bit % 8),
        Bend::Cut => bytes.truncate(at),
        Bend::Insert(more) => drop(bytes.splice(at..at, more.iter().copied())),
        Bend::Repeat(count) => {
            let end = (at + count).min(bytes.len());
            bytes.extend_from_within(at..end);
        }
    }
}

fn bends() -> impl Strategy<Value = Vec<(usize, Bend)>> {
    let bend = prop_oneof![
        prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()].prop_map(Bend::Set),
        any::<u8>().prop_map(Bend::Flip),
        Just(Bend::Cut),
        collection::vec(any::<u8>(), 1..9).prop_map(Bend::Insert),
        (1_usize..64).prop_map(Bend::Repeat),
    ];
    collection::vec((any::<usize>(), bend), 1..5)
}

#[test]
fn answers_bent_at_random_end_in_time_and_without_a_panic() {
    // The long form: TDS_CASES=50000.
    let cases = std::env::var("TDS_CASES").map_or(600, |cases| cases.parse().unwrap());
    let recordings = recordings();
    let strategy = (0..recordings.len(), bends(), any::<bool>());
    let mut runner =
        TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..Default::default() });
    let outcome = runner.run(&strategy, |(recording, bends, framed)| {
        let (stage, mut bytes) = recordings[recording].clone();
        // Either the message within sound packets, or the packets themselves.
        if !framed {
            bytes = packets(ANSWER, &bytes);
        }
        for (place, kind) in &bends {
            bend(&mut bytes, *place, kind);
        }
        if framed {
            bytes = packets(ANSWER, &bytes);
        }
        let peer = Peer::start(Script { trouble: Some((stage, Trouble::Bytes(bytes))), ..Script::default() });
        let timeout = Duration::from_millis(400);
        let _ = use_it("bent", &Target { timeout, ..target(peer.port) });
        Ok(())
    });
    outcome.unwrap();
}
