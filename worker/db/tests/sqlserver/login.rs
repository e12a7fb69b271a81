//! Getting in: pre-login, TLS, login, being sent elsewhere.

use super::{OURS, bundle, certificate, connect, down, server_error, target, text};
use crate::peer::requests::{Parameter, Seen};
use crate::peer::{ENCRYPT_NOT_SUP, ENCRYPT_OFF, ENCRYPT_ON, ENCRYPT_REQ, Peer, Script};
use config::DbTls;
use db::Target;
use futures_util::io::AllowStdIo;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

#[test]
fn a_login_carries_user_password_and_database_and_sets_the_session_up() {
    let peer = Peer::start(Script::default());
    drop(connect(&peer));
    let seen = peer.seen();
    assert_eq!(
        seen[0],
        Seen::Login {
            user: "hl7".to_owned(),
            password: "geheim ü".to_owned(),
            database: "lab".to_owned(),
            server: "localhost".to_owned(),
            application: "hl7server".to_owned(),
            tls: false,
        }
    );
    let Seen::Batch(settings) = &seen[1] else { panic!("{:?}", seen[1]) };
    for setting in ["ANSI_WARNINGS", "XACT_ABORT ON", "LOCK_TIMEOUT 19000"] {
        assert!(settings.contains(setting), "{setting} is not in {settings}");
    }
}

#[test]
fn a_refused_login_waits_and_says_why() {
    for (number, class, message) in [
        (18_456, 14, "Login failed for user 'hl7'."),
        (4_060, 11, "Cannot open database \"lab\" requested by the login."),
        (18_401, 14, "Server is in script upgrade mode."),
        (10_928, 16, "Resource ID: 1. The request limit for the database is 30."),
        (229, 14, "Some number that a statement would fail for."),
    ] {
        let refuse_login = Some(server_error(number, class, message));
        let peer = Peer::start(Script { refuse_login, ..Script::default() });
        let reason = down("login", Instant::now(), target(peer.port).connect());
        assert!(reason.contains(&format!("SQL Server error {number}")), "{reason}");
        assert!(!reason.contains("geheim"), "{reason}");
    }
}

#[test]
fn a_server_that_sends_on_is_followed_and_not_for_ever() {
    let there = Peer::start(Script::default());
    let route_to = Some(("127.0.0.1\\SOME".to_owned(), there.port));
    let gateway = Peer::start(Script { route_to, ..Script::default() });
    drop(connect(&gateway));
    assert_eq!((gateway.logins(), there.logins()), (1, 1));

    let mut chain = vec![there];
    for _ in 0..4 {
        let route_to = Some(("localhost".to_owned(), chain.last().unwrap().port));
        chain.push(Peer::start(Script { route_to, ..Script::default() }));
    }
    let reason = down("routes", Instant::now(), target(chain.last().unwrap().port).connect());
    assert!(reason.contains("sending us on"), "{reason}");
}

fn encrypting(encryption: u8, identity: &native_tls::Identity) -> Peer {
    Peer::start(Script { encryption, identity: Some(identity.clone()), ..Script::default() })
}

fn is_encrypted(peer: &Peer) -> bool {
    matches!(peer.seen().first(), Some(Seen::Login { tls: true, .. }))
}

#[test]
fn with_tls_the_login_and_all_that_follows_is_encrypted() {
    let (identity, pem) = certificate(OURS);
    for encryption in [ENCRYPT_ON, ENCRYPT_REQ] {
        for tls in [DbTls::Require, DbTls::Prefer] {
            for server in ["localhost", "127.0.0.1"] {
                let peer = encrypting(encryption, &identity);
                let ca = bundle(Some(Ok(pem.clone())));
                let target = Target { tls, ca, server: server.to_owned(), ..target(peer.port) };
                let mut connection = target.connect().unwrap();
                let long = "x".repeat(100_000);
                assert_eq!(connection.execute("INSERT @P1", &[text(&long)]), Ok(1));
                assert!(is_encrypted(&peer));
                assert_eq!(peer.statements()[0].parameters, [Parameter::Text(long)]);
            }
        }
    }
}

/// The pre-login and TLS are ours on one side and the test's on the other: tiberius' own, which real servers know, takes
/// the same peer.
#[test]
fn the_peer_is_one_that_tiberius_own_pre_login_and_tls_get_on_with() {
    let (identity, _) = certificate(OURS);
    let peer = encrypting(ENCRYPT_ON, &identity);
    let mut settings = tiberius::Config::new();
    settings.host("localhost");
    settings.authentication(tiberius::AuthMethod::sql_server("hl7", "geheim"));
    settings.encryption(tiberius::EncryptionLevel::Required);
    settings.trust_cert();
    let socket = std::net::TcpStream::connect(("127.0.0.1", peer.port)).unwrap();
    let mut login = pin!(tiberius::Client::connect(settings, AllowStdIo::new(socket)));
    let Poll::Ready(done) = login.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("a blocking socket is never pending");
    };
    done.unwrap();
    assert!(is_encrypted(&peer));
}

#[test]
fn a_certificate_that_does_not_check_is_refused_and_gets_no_password() {
    let (identity, pem) = certificate(OURS);
    let (_, another) = certificate(OURS);
    let (elsewhere, elsewhere_pem) = certificate("DNS:db.example.org");
    let cases = [
        ("unknown to the system's CAs", &identity, None, "certificate verify failed"),
        ("another CA", &identity, Some(Ok(another)), "certificate verify failed"),
        ("another host's", &elsewhere, Some(Ok(elsewhere_pem)), "hostname mismatch"),
        ("no PEM", &identity, Some(Ok(b"-----".to_vec())), "no certificate in it"),
        (
            "no file",
            &identity,
            Some(Err("could not read ca_file /x: gone".to_owned())),
            "could not read ca_file",
        ),
    ];
    for (what, identity, ca, expected) in cases {
        for tls in [DbTls::Require, DbTls::Prefer] {
            let peer = encrypting(ENCRYPT_ON, identity);
            let target = Target { tls, ca: bundle(ca.clone()), ..target(peer.port) };
            let reason = down(what, Instant::now(), target.connect());
            assert!(reason.to_lowercase().contains(&expected.to_lowercase()), "{what}: {reason}");
            assert_eq!(peer.logins(), 0, "{what}");
        }
    }
    let peer = encrypting(ENCRYPT_ON, &elsewhere);
    let any =
        Target { tls: DbTls::Require, certificate: false, ca: bundle(Some(Ok(pem))), ..target(peer.port) };
    drop(any.connect().unwrap());
    assert!(is_encrypted(&peer));
}

#[test]
fn tls_required_of_a_server_without_it_is_refused_and_gets_no_password() {
    for encryption in [ENCRYPT_NOT_SUP, ENCRYPT_OFF] {
        let peer = Peer::start(Script { encryption, ..Script::default() });
        let target = Target { tls: DbTls::Require, ..target(peer.port) };
        let reason = down("require", Instant::now(), target.connect());
        assert!(reason.contains("has no TLS"), "{reason}");
        assert_eq!(peer.logins(), 0);
    }
}

#[test]
fn tls_preferred_of_a_server_without_it_goes_plain() {
    for encryption in [ENCRYPT_NOT_SUP, ENCRYPT_OFF] {
        let peer = Peer::start(Script { encryption, ..Script::default() });
        drop(Target { tls: DbTls::Prefer, ..target(peer.port) }.connect().unwrap());
        assert!(!is_encrypted(&peer));
    }
}

#[test]
fn tls_disabled_is_refused_by_a_server_that_wants_it_and_gets_no_password() {
    let (identity, _) = certificate(OURS);
    for encryption in [ENCRYPT_ON, ENCRYPT_REQ] {
        let peer = encrypting(encryption, &identity);
        let reason = down("disable", Instant::now(), target(peer.port).connect());
        assert!(reason.contains("encrypted connections only"), "{reason}");
        assert_eq!(peer.logins(), 0);
    }
}
