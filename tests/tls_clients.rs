//! TLS stacks that others wrote deliver over TLS, 1.2 and 1.3: OpenSSL's command, Python, Node, Java; to a server with an
//! RSA key and to one with an ECDSA key, showing certificates of both kinds. And what is too old is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::certificates::{Ca, Good, Key, Pair};
use support::load::assert_archived_once;
use support::messages::adt;
use support::mllp::{Acknowledgment, frame};
use support::{PATIENCE, Ran, Server, Site, finish, skip, wait, within};

/// Messages of each connection.
const COUNT: usize = 10;
const LIMIT: Duration = Duration::from_secs(60);
const KEYS: [Key; 2] = [Key::Rsa, Key::Ecdsa];

/// Two channels over TLS, with an RSA and an ECDSA key, that want client certificates.
struct Two {
    site: Site,
    ports: [u16; 2],
    ca: Ca,
    clients: [Pair; 2],
    _server: Server,
}

impl Two {
    #[track_caller]
    fn start() -> Two {
        let mut site = Site::new();
        let ca = Ca::new(&site.path("pki"), "Test CA");
        let ports = [site.port(), site.port()];
        let channel = |n: usize| {
            let pair = ca.server("localhost", KEYS[n], Good::Days(90));
            let mut channel = site.store_channel(["rsa", "ecdsa"][n], ports[n]);
            channel["tls"] =
                json!({"certificate": pair.certificate, "key": pair.key, "client_ca": ca.certificate()});
            channel
        };
        site.configure(json!({"channels": [channel(0), channel(1)]}));
        let clients = KEYS.map(|key| ca.client("sender", None, key, Good::Days(90)));
        let server = site.start();
        Two { site, ports, ca, clients, _server: server }
    }

    fn ca(&self) -> &str {
        self.ca.certificate().to_str().unwrap()
    }

    /// Lets `client` deliver to both, with TLS 1.2 to one and 1.3 to the other: it is given the port, the version of TLS (12 or 13), its own
    /// certificate and its kind, and the messages, and gives back the answers.
    #[track_caller]
    fn delivered_by(&self, client: impl Fn(u16, u8, &Pair, Key, &[Vec<u8>]) -> Vec<Vec<u8>>) {
        self.delivered_over([&[12], &[13]], client);
    }

    /// The same with these versions for each of the two.
    #[track_caller]
    fn delivered_over(
        &self,
        versions: [&[u8]; 2],
        client: impl Fn(u16, u8, &Pair, Key, &[Vec<u8>]) -> Vec<Vec<u8>>,
    ) {
        for (n, port) in self.ports.into_iter().enumerate() {
            let mut sent = BTreeMap::new();
            for version in versions[n] {
                let name = |m: usize| format!("T{version}N{m}");
                let bodies: Vec<Vec<u8>> = (0..COUNT).map(|m| adt(&name(m), &format!("P{m}"))).collect();
                // The kinds of the two keys differ in one version, and are the same in the other.
                let own = if *version == 12 { 1 - n } else { n };
                let answers = client(port, *version, &self.clients[own], KEYS[own], &bodies);
                assert_eq!(answers.len(), COUNT);
                for (m, (answer, body)) in answers.iter().zip(bodies).enumerate() {
                    Acknowledgment::parse(answer).accepts(name(m).as_bytes());
                    sent.insert(name(m), body);
                }
            }
            assert_archived_once(&sent, &self.site.path("archive").join(["rsa", "ecdsa"][n]));
        }
    }

    /// A file with the messages, JSON strings one a line.
    fn lines(&self, bodies: &[Vec<u8>]) -> PathBuf {
        let lines: Vec<String> =
            bodies.iter().map(|body| json!(String::from_utf8_lossy(body)).to_string()).collect();
        let path = self.site.path("messages.json");
        fs::write(&path, lines.join("\n")).unwrap();
        path
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clients").join(name)
}

/// The answers of a script that prints them as JSON strings, one a line.
#[track_caller]
fn answers(ran: &Ran) -> Vec<Vec<u8>> {
    let parse = |line| match serde_json::from_str(line) {
        Ok(Value::String(answer)) => answer.into_bytes(),
        other => panic!("{line:?}: {other:?}"),
    };
    ran.stdout.lines().map(parse).collect()
}

#[test]
fn python_delivers_over_tls() {
    let two = Two::start();
    two.delivered_by(|port, version, own, _, bodies| {
        let mut command = Command::new("python3");
        command.arg(script("tls.py")).arg(port.to_string()).arg(two.ca());
        command
            .arg(if version == 12 { "TLSv1_2" } else { "TLSv1_3" })
            .arg(two.lines(bodies))
            .args(own.texts());
        answers(&finish(command, LIMIT).good())
    });
}

#[test]
fn node_delivers_over_tls() {
    let two = Two::start();
    two.delivered_by(|port, version, own, _, bodies| {
        let mut command = Command::new("node");
        command.arg(script("tls.js")).arg(port.to_string()).arg(two.ca());
        command
            .arg(if version == 12 { "TLSv1.2" } else { "TLSv1.3" })
            .arg(two.lines(bodies))
            .args(own.texts());
        answers(&finish(command, LIMIT).good())
    });
}

#[test]
fn java_delivers_over_tls() {
    // `java FILE.java` compiles it, which a runtime without the compiler cannot.
    let modules = Command::new("java").arg("--list-modules").output();
    if !modules.is_ok_and(|ran| String::from_utf8_lossy(&ran.stdout).contains("jdk.compiler")) {
        return skip("no Java with a compiler here (apt-get install default-jdk-headless)");
    }
    let two = Two::start();
    two.delivered_by(|port, version, own, kind, bodies| {
        let file = two.site.path("messages.mllp");
        fs::write(&file, bodies.iter().flat_map(|body| frame(body)).collect::<Vec<u8>>()).unwrap();
        let mut command = Command::new("java");
        command.arg(script("Tls.java")).arg(port.to_string()).arg(two.ca());
        command.arg(if version == 12 { "TLSv1.2" } else { "TLSv1.3" }).arg(file).args(own.texts());
        command.arg(if kind == Key::Rsa { "RSA" } else { "EC" });
        frames(finish(command, LIMIT).good().stdout.as_bytes())
    });
}

/// The bodies of frames that stand one behind the other.
fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let body = |frame: &str| frame.strip_prefix('\u{b}').unwrap().as_bytes().to_vec();
    text.split_terminator("\u{1c}\r").map(body).collect()
}

#[test]
fn openssl_s_client_delivers_over_tls() {
    let two = Two::start();
    two.delivered_over([&[12, 13]; 2], |port, version, own, _, bodies| {
        let [certificate, key] = own.texts();
        let mut command = s_client(port, if version == 12 { "-tls1_2" } else { "-tls1_3" });
        command.args(["-CAfile", two.ca(), "-verify_return_error", "-verify_hostname", "localhost"]);
        command.args(["-cert", certificate, "-key", key, "-quiet"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let all: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&all).unwrap();
        let mut out = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let (mut heard, mut chunk) = (Vec::new(), [0; 4096]);
            while heard.windows(2).filter(|pair| pair == b"\x1c\r").count() < COUNT {
                let n = out.read(&mut chunk).unwrap();
                assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&heard));
                heard.extend_from_slice(&chunk[..n]);
            }
            heard
        });
        within(LIMIT, "every answer", || reader.is_finished().then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
        frames(&reader.join().unwrap())
    });
}

fn s_client(port: u16, version: &str) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), version]);
    command.stderr(Stdio::null());
    command
}

#[test]
fn tls_before_1_2_and_what_is_not_safe_enough_are_refused_and_named() {
    let two = Two::start();
    // OpenSSL itself offers such things only at its lowest level.
    let refused = |arguments: &[&str], why: &str| {
        let mut child = s_client(two.ports[0], arguments[0])
            .args(["-cipher", "ALL:@SECLEVEL=0"])
            .args(&arguments[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let status = wait(&mut child, PATIENCE).expect("a refused client ends");
        assert!(!status.success(), "{arguments:?} was let in");
        within(PATIENCE, &format!("{why:?} in the log"), || two.site.log().contains(why).then_some(()));
    };
    refused(&["-tls1_1"], "it offers no TLS from version 1.2 on");
    let rsa = "AES256-SHA:@SECLEVEL=0";
    refused(&["-tls1_2", "-cipher", rsa], "it offers no key exchange that is safe enough");
    let cbc = "ECDHE-RSA-AES256-SHA:@SECLEVEL=0";
    refused(&["-tls1_2", "-cipher", cbc], "it offers no cipher suite that is safe enough");
}

#[test]
fn no_session_is_resumed() {
    let two = Two::start();
    let [certificate, key] = two.clients[0].texts();
    for version in ["-tls1_2", "-tls1_3"] {
        let session = two.site.text(&format!("session{version}"));
        // What the first connection keeps, the second one shows. In TLS 1.3 there is nothing to keep.
        for option in ["-sess_out", "-sess_in"] {
            if option == "-sess_in" && !Path::new(&session).exists() {
                continue;
            }
            let mut command = s_client(two.ports[0], version);
            command.args(["-CAfile", two.ca(), "-cert", certificate, "-key", key, option, &session]);
            let ran = finish(command, PATIENCE);
            assert!(ran.stdout.contains("Verify return code: 0"), "{ran:#?}");
            assert!(ran.stdout.contains("New, TLSv1") && !ran.stdout.contains("Reused"), "{ran:#?}");
        }
    }
}
