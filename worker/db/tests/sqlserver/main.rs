//! SQL Server's client against a scripted TDS peer (Debian has no SQL Server to test against): what it sends, how it
//! takes what comes back, and that nothing a server does or leaves undone makes it wait, grow, or panic.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod delivery;
mod hostile;
mod login;
mod peer;
mod statements;

use config::{DbTls, Driver};
use db::{CaBundle, Connection, Fault, Target, Value};
use peer::Peer;
use peer::tokens::ServerError;
use std::process::Command;
use std::time::{Duration, Instant};

fn target(port: u16) -> Target {
    Target {
        driver: Driver::SqlServer,
        server: "localhost".to_owned(),
        port,
        username: "hl7".to_owned(),
        password: Some("geheim ü".to_owned()),
        database: "lab".to_owned(),
        timeout: Duration::from_secs(20),
        tls: DbTls::Disable,
        certificate: true,
        ca: None,
        create: false,
        was_there: Default::default(),
    }
}

fn bundle(pem: Option<Result<Vec<u8>, String>>) -> Option<CaBundle> {
    pem.map(|pem| CaBundle { path: "/etc/hl7server/ca.pem".into(), pem })
}

fn connect(peer: &Peer) -> Box<dyn Connection> {
    target(peer.port).connect().unwrap()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn server_error(number: u32, class: u8, message: &str) -> ServerError {
    ServerError { number, class, message: message.to_owned() }
}

/// A fault of a database that cannot be worked with, in time.
fn down<T>(what: &str, began: Instant, result: Result<T, Fault>) -> String {
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{what}: took {took:?}");
    match result {
        Err(Fault::Again { reason, target_down: true, .. }) => reason,
        Err(other) => panic!("{what}: {other:?}"),
        Ok(_) => panic!("{what}: went through"),
    }
}

/// A self-signed certificate with its key, for `names`; the certificate's PEM too.
fn certificate(names: &str) -> (native_tls::Identity, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let (key, pem) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "9",
        ])
        .args(["-subj", "/CN=tds peer", "-addext", &format!("subjectAltName={names}")])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&pem)
        .output()
        .expect("this test needs openssl: apt-get install openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let pem = std::fs::read(pem).unwrap();
    (native_tls::Identity::from_pkcs8(&pem, &std::fs::read(key).unwrap()).unwrap(), pem)
}

const OURS: &str = "DNS:localhost,IP:127.0.0.1";
