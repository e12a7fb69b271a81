//! What the person on call types: the queue, the table that goes on, what a file needs of systemd and of its peers, and
//! what a package installs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::Stdio;
use support::messages::adt;
use support::mllp::Peer;
use support::{PATIENCE, Site, within};

#[test]
fn queue_show_says_why_a_message_waits_with_and_without_the_server() {
    let mut site = Site::new();
    let port = site.port();
    let channel = site.store_channel("adt", port);
    // A file where the archive's folder should be.
    fs::create_dir_all(site.path("archive")).unwrap();
    fs::write(site.path("archive/adt"), "").unwrap();
    site.configure(json!({"channels": [channel]}));
    let mut server = site.start();
    Peer::connect(port).exchange(&adt("W1", "4711")).accepts(b"W1");
    let waiting = within(PATIENCE, "it waits", || {
        let list = site.list(&["queue", "list"]);
        list.into_iter().find(|w| !w["reason"].as_str().unwrap_or_default().is_empty())
    });
    let id = waiting["id"].as_str().unwrap().to_owned();
    let look = |when: &str| {
        let ran = site.run(&["queue", "show", &id]).good();
        for part in ["adt", "archive, since ", "not a directory", "PID.1.5.1", "Musterfrau"] {
            assert!(ran.stdout.contains(part), "{when}: no {part:?} in {ran:#?}");
        }
        let ran = site.run(&["queue", "show", &id, "--json"]).good();
        let record: Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
        assert_eq!(record["waits"][0]["step"], "archive", "{when}");
    };
    look("running");
    server.stop();
    look("stopped");
    let ran = site.run(&["queue", "show", "00000000000000000001"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert_eq!(site.run(&["queue", "show", "nonsense"]).code, Some(2));
}

#[test]
fn status_watch_goes_on_through_a_restart() {
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"channels": [site.store_channel("adt", port)]}));
    let mut server = site.start();
    let mut command = site.command(&["status", "--watch", "--every", "0.1", "--json"]);
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["pid"].as_u64().unwrap()
    };
    let first = next();
    server.stop();
    server.start_again(&site);
    within(PATIENCE, "the next server is shown", || (next() != first).then_some(()));
    watch.kill().unwrap();
    watch.wait().unwrap();
    // A reader that goes away ends it.
    let mut command = site.command(&["status", "--watch", "--every", "0.1"]);
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(watch.stdout.take());
    let ended = support::wait(&mut watch, PATIENCE);
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}

#[test]
fn check_systemd_names_what_the_unit_does_not_allow() {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("adt", port);
    channel["local_archive"] = json!({"path": "/srv/no such/100%", "attachment": "/srv/no such"});
    channel["drop_folders"] = json!({"ward": {"path": "/home/ward/in"}});
    site.configure(json!({"state_path": "/var/lib/hl7server", "channels": [channel]}));
    let ran = site.run(&["check", "--systemd"]).good();
    let lines: Vec<&str> = ran.stdout.lines().collect();
    for line in [
        "[Service]",
        "ReadWritePaths=\"/srv/no such\"",
        "ReadWritePaths=/home/ward/in",
        "ProtectHome=no",
        "# Not there yet: install -d -o hl7server -g hl7server -m 0750 \"/srv/no such\"",
    ] {
        assert!(lines.contains(&line), "no {line:?} in {ran:#?}");
    }
    assert!(!ran.stdout.contains("100%"), "below another: {ran:#?}");
    assert!(!lines.iter().any(|line| line.starts_with("ReadWritePaths=/var/lib/hl7server")), "{ran:#?}");
}

#[test]
fn check_probe_tells_ports_folders_and_peers_apart() {
    let mut site = Site::new();
    let (port, taken, nobody) = (site.port(), site.port(), site.port());
    let mut other = site.store_channel("other", taken);
    other["local_archive"]["path"] = json!(site.text("file/below"));
    fs::write(site.path("file"), "").unwrap();
    other["enabled"] = json!(true);
    let _listener = TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let config = json!({"channels": [site.store_channel("adt", port), other]});
    site.configure(config);
    let ran = site.run(&["check", "--probe", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let probes = ran.json()["probes"].as_array().unwrap().clone();
    let of = |channel: &str, probe: &str| {
        let found = probes.iter().find(|p| p["channel"] == channel && p["probe"] == probe);
        found.unwrap_or_else(|| panic!("no {probe} of {channel} in {probes:#?}"))
    };
    assert_eq!(of("adt", "port")["ok"], true);
    assert_eq!(of("adt", "archive")["ok"], true);
    assert!(of("other", "port")["text"].as_str().unwrap().ends_with("another program does"));
    assert!(of("other", "archive")["text"].as_str().unwrap().ends_with("is not a folder"));
    assert!(!site.path("archive").exists(), "a probe makes nothing");
    // Without faults it ends with 0, also beside the running server.
    site.configure(json!({"channels": [site.store_channel("adt", port)]}));
    let _server = site.start();
    let ran = site.run(&["check", "--probe"]).good();
    assert!(ran.stdout.contains("the running server listens (channel adt"), "{ran:#?}");
    let _ = nobody;
}

#[test]
fn manual_pages_and_completion_are_made_from_the_commands_themselves() {
    let site = Site::new();
    let made = |what: &str| {
        let folder = site.path(what);
        assert!(site.command(&["generate", what]).arg(&folder).status().unwrap().success());
        move |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let page = made("man");
    assert!(page("hl7server.1").contains("HL7 v2 server"));
    assert!(page("hl7server-failed-retry.1").contains("hl7server failed retry"));
    assert!(page("hl7server-find.1").contains("patient\\-id"));
    assert!(!site.path("man/hl7server-generate.1").exists(), "hidden commands have no page");
    let script = made("completion");
    for name in ["hl7server.bash", "_hl7server", "hl7server.fish"] {
        assert!(script(name).contains("patient-id"), "{name}");
    }
}
