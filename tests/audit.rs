//! The audit: who connected and who was refused, and what operators did.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use support::certificates::{Ca, Good, Key};
use support::messages::adt;
use support::mllp::{Peer, Reply, frame};
use support::{ANSWER, PATIENCE, Site, within};

/// Longer than a worker takes to report.
const REPORTED: Duration = Duration::from_secs(10);

#[track_caller]
fn entries(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?} is not JSON: {e}"));
    text.lines().map(parse).collect()
}

/// Waits for an entry that has these values.
#[track_caller]
fn entry(site: &Site, values: &Value) -> Value {
    let path = site.path("state/audit.log");
    let fits = |entry: &Value| values.as_object().unwrap().iter().all(|(key, value)| &entry[key] == value);
    within(REPORTED, &format!("an entry with {values}"), || entries(&path).into_iter().find(|e| fits(e)))
}

#[test]
fn peers_are_on_record_taken_or_refused_and_a_crowd_of_one_kind_is_one_line() {
    let mut site = Site::new();
    let (plain, narrow) = (site.port(), site.port());
    let mut guarded = site.store_channel("guarded", narrow);
    guarded["allow"] = json!(["127.0.0.9/32"]);
    site.configure(json!({"channels": [site.store_channel("adt", plain), guarded]}));
    let server = site.start();
    for n in 0..30 {
        Peer::connect(plain).exchange(&adt(&format!("M{n}"), "P1")).accepts(format!("M{n}").as_bytes());
    }
    let taken = entry(&site, &json!({"event": "contact", "channel": "adt", "peer": "127.0.0.1"}));
    assert!(taken["refused"].is_null() && taken["count"].as_u64().is_some_and(|count| count >= 1), "{taken}");
    for _ in 0..30 {
        Peer::connect(narrow).expect_close(ANSWER);
    }
    Peer::try_connect_from(Ipv4Addr::new(127, 0, 0, 9), narrow)
        .unwrap()
        .exchange(&adt("OK", "P1"))
        .accepts(b"OK");
    let refused = json!({"event": "contact", "channel": "guarded", "refused": "its address is not in allow"});
    entry(&site, &refused);
    entry(&site, &json!({"event": "contact", "channel": "guarded", "peer": "127.0.0.9"}));
    // The rest of each crowd is told when the worker ends, if not before.
    drop(server);
    let mut server = site.start();
    server.stop();
    let lines = entries(&site.path("state/audit.log"));
    assert!(lines.len() < 30, "{lines:#?}");
    assert_eq!(lines.last().unwrap()["event"], "stopping");
}

#[test]
fn what_was_gathered_is_told_when_the_worker_drains() {
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"channels": [site.store_channel("adt", port)]}));
    let mut server = site.start();
    for n in 0..20 {
        Peer::connect(port).exchange(&adt(&format!("M{n}"), "P1")).accepts(format!("M{n}").as_bytes());
    }
    server.stop();
    let lines = entries(&site.path("state/audit.log"));
    let contacts = lines.iter().filter(|line| line["event"] == "contact");
    assert_eq!(contacts.map(|line| line["count"].as_u64().unwrap()).sum::<u64>(), 20, "{lines:#?}");
}

#[test]
fn tls_peers_are_on_record_with_version_and_name_and_those_without_with_the_reason() {
    let mut site = Site::new();
    let port = site.port();
    let ca = Ca::new(&site.path("pki"), "Test CA");
    let pair = ca.server("localhost", Key::Ecdsa, Good::Days(90));
    let mut channel = site.store_channel("adt", port);
    channel["tls"] = json!({"certificate": pair.certificate, "key": pair.key, "client_ca": ca.certificate()});
    site.configure(json!({"channels": [channel]}));
    let _server = site.start();
    let client = ca.client("ris01", None, Key::Ecdsa, Good::Days(90));
    let connector = |own: Option<&support::certificates::Pair>| {
        let mut builder = native_tls::TlsConnector::builder();
        builder.add_root_certificate(
            native_tls::Certificate::from_pem(&fs::read(ca.certificate()).unwrap()).unwrap(),
        );
        if let Some(own) = own {
            let read = |path| fs::read(path).unwrap();
            let (certificate, key) = (read(&own.certificate), read(&own.key));
            builder.identity(native_tls::Identity::from_pkcs8(&certificate, &key).unwrap());
        }
        builder.build().unwrap()
    };
    Peer::try_connect_over(port, &connector(Some(&client)))
        .unwrap()
        .exchange(&adt("TLS", "P1"))
        .accepts(b"TLS");
    let taken = entry(&site, &json!({"event": "contact", "channel": "adt", "name": "ris01"}));
    assert!(taken["tls"].as_str().is_some_and(|tls| tls.starts_with("TLS")), "{taken}");
    if let Ok(mut peer) = Peer::try_connect_over(port, &connector(None)) {
        let _ = peer.send_raw(&frame(&adt("NONE", "P1")));
        assert_eq!(peer.receive(ANSWER), Reply::Closed);
    }
    entry(
        &site,
        &json!({"event": "contact", "refused": "it showed no certificate, and client_ca wants one"}),
    );
    let mut plain = Peer::connect(port);
    let _ = plain.send_raw(&frame(&adt("PLAIN", "P1")));
    entry(&site, &json!({"event": "contact", "refused": "it speaks plain text on a TLS port"}));
}

#[test]
fn orders_of_operators_are_on_record_with_their_user_and_what_came_of_them() {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("adt", port);
    channel["mapping"] = json!({"ward": "ZZZ.1.1"});
    site.configure(json!({"channels": [channel]}));
    let server = site.start();
    let mut peer = Peer::connect(port);
    for id in ["M1", "M2"] {
        peer.exchange(&adt(id, "SECRETPATIENT")).accepts(id.as_bytes());
    }
    server.wait_count("adt", "failed_now", 2);
    let failed = site.list(&["failed", "list"]);
    let id = failed[0]["id"].as_str().unwrap().to_owned();

    site.run(&["failed", "retry", &id]);
    let uid = nix::unistd::geteuid().as_raw();
    let ordered = entry(&site, &json!({"event": "ordered", "order": "retry", "channel": "adt"}));
    assert_eq!(ordered["by"]["uid"], uid);
    assert!(ordered["by"]["pid"].as_u64().is_some_and(|pid| pid > 1));
    let user = nix::unistd::User::from_uid(uid.into()).unwrap().unwrap().name;
    assert_eq!(ordered["by"]["user"], user);
    assert_eq!(ordered["messages"]["ids"], json!([id]));
    let carried = entry(&site, &json!({"event": "carried", "order": "retry", "number": ordered["number"]}));
    assert_eq!(carried["outcome"], "1 done, 0 problems");

    server.wait_count("adt", "failed_now", 2);
    site.run(&["failed", "discard", "--all", "--channel", "adt"]);
    let ordered = entry(&site, &json!({"event": "ordered", "order": "discard"}));
    assert_eq!(ordered["messages"]["all"], true);

    // A file that is moved away is followed by a new one; nobody is told.
    let (log, old) = (site.path("state/audit.log"), site.path("state/audit.log.1"));
    fs::rename(&log, &old).unwrap();
    site.run(&["reload"]).good();
    let reload = entry(&site, &json!({"event": "reload", "outcome": "in force"}));
    assert_eq!(reload["by"]["uid"], uid);
    server.signal(nix::sys::signal::Signal::SIGHUP);
    entry(&site, &json!({"event": "reload", "by": null}));
    let good = fs::read_to_string(site.config()).unwrap();
    site.configure_text(&good.replace("\"port\"", "\"nonsense\""));
    server.signal(nix::sys::signal::Signal::SIGHUP);
    within(PATIENCE, "the refusal", || {
        let lines = entries(&log);
        lines
            .iter()
            .any(|line| line["outcome"].as_str().is_some_and(|o| o.starts_with("refused: ")))
            .then_some(())
    });
    site.configure_text(&good);
    assert_eq!(entries(&old)[0]["event"], "started");
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o137, 0, "others may read it, or run it");
    let all = fs::read_to_string(&log).unwrap() + &fs::read_to_string(&old).unwrap();
    assert!(!all.contains("SECRETPATIENT"));
}
