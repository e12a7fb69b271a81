//! Alerts: once when raised, once when cleared, to a command or a webhook, and over whatever happens between.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::Duration;
use support::certificates::openssl;
use support::dashboard::Dashboard;
use support::http::get;
use support::http_server::{HttpServer, Reply};
use support::messages::adt;
use support::mllp::Peer;
use support::{PATIENCE, Site, process, within};

/// A command that appends what it is told to a file.
fn appending(site: &Site, name: &str) -> Value {
    json!(["/bin/sh", "-c", format!("cat >> {}", site.text(name))])
}

/// What was told so far, in order.
fn told(site: &Site, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(site.path(name)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits for so many notices.
#[track_caller]
fn wait_told(site: &Site, name: &str, count: usize) -> Vec<Value> {
    within(PATIENCE, &format!("{count} notices in {name}"), || {
        let told = told(site, name);
        (told.len() >= count).then_some(told)
    })
}

/// A site whose channel fails each message, with these alerts.
fn failing(site: &mut Site, alerts: Value) -> u16 {
    let port = site.port();
    let mut channel = site.store_channel("adt", port);
    channel["mapping"] = json!({"ward": "ZZZ.1.2"});
    site.configure(json!({"channels": [channel], "alerts": alerts}));
    port
}

#[test]
fn a_failure_is_told_once_when_raised_and_once_when_cleared() {
    let mut site = Site::new();
    let alerts = json!([{"name": "any failure", "when": "failed", "command": appending(&site, "told")}]);
    let port = failing(&mut site, alerts);
    let _server = site.start();
    let memory = site.text("memory");
    let dashboard = Dashboard::start(&mut site, &["--alerts-state", &memory]);
    dashboard.shows("None raised; 1 condition is watched.");
    for n in 0..3 {
        let id = format!("A{n}");
        Peer::connect(port).exchange(&adt(&id, "PATIENT-1")).accepts(id.as_bytes());
    }
    let notices = wait_told(&site, "told", 1);
    assert_eq!(notices[0]["alert"], "any failure");
    assert_eq!(notices[0]["when"], "failed");
    assert_eq!(notices[0]["state"], "raised");
    assert_eq!(notices[0]["channel"], "adt");
    assert!(notices[0]["message"].as_str().unwrap().contains(" failed"));
    assert!(!notices[0].to_string().contains("PATIENT-1"));
    dashboard.shows("1 alert is raised.");
    site.run(&["failed", "discard", "--all"]).good();
    let notices = wait_told(&site, "told", 2);
    assert_eq!(notices[1]["state"], "cleared");
    assert_eq!(notices[1]["since"], notices[0]["at"]);
    dashboard.shows("None raised; 1 condition is watched.");
    assert_eq!(told(&site, "told").len(), 2);
}

#[test]
fn a_restart_of_the_watcher_tells_nothing_twice_and_forgets_nothing() {
    let mut site = Site::new();
    let alerts = json!([{"name": "f", "when": "failed", "command": appending(&site, "told")}]);
    let port = failing(&mut site, alerts);
    let _server = site.start();
    let memory = site.text("memory");
    let arguments = ["--alerts-state", memory.as_str()];
    let mut first = Dashboard::alerts_alone(&site, &arguments);
    Peer::connect(port).exchange(&adt("A", "P")).accepts(b"A");
    wait_told(&site, "told", 1);
    within(PATIENCE, "it is remembered that nothing is left to tell", || {
        let text = fs::read_to_string(site.path("memory/alerts.json")).ok()?;
        (text.contains("\"f\"") && text.contains("\"pending\":[]")).then_some(())
    });
    let second = site.run(&["alerts", "--alerts-state", &memory]);
    assert_eq!(second.code, Some(1), "{second:#?}");
    assert!(second.stderr.contains("another process watches the alerts already"), "{second:#?}");
    assert_eq!(first.stop(), Some(0));
    let _again = Dashboard::alerts_alone(&site, &arguments);
    site.run(&["failed", "discard", "--all"]).good();
    let notices = wait_told(&site, "told", 2);
    assert_eq!(notices[1]["state"], "cleared");
    assert_eq!(notices.len(), 2);
}

#[test]
fn a_webhook_that_was_away_is_told_when_it_is_back_and_a_slow_command_delays_only_itself() {
    let mut site = Site::new();
    let answer = Arc::new(AtomicU16::new(503));
    let status = Arc::clone(&answer);
    let reply = move |_: &_| Reply::of(status.load(SeqCst), "text/plain", "");
    let hook = HttpServer::start(site.port(), None, Arc::new(reply));
    let alerts = json!([
        {"name": "hook", "when": "failed", "webhook": format!("http://127.0.0.1:{}/T0KEN", hook.port)},
        {"name": "hangs", "when": "failed", "command": ["/bin/sleep", "40"]},
        {"name": "works", "when": "failed", "command": appending(&site, "told")},
    ]);
    let port = failing(&mut site, alerts);
    let _server = site.start();
    let dashboard = Dashboard::start(&mut site, &[]);
    Peer::connect(port).exchange(&adt("A", "P")).accepts(b"A");
    wait_told(&site, "told", 1);
    within(PATIENCE, "the hook refuses once", || (!hook.requests().is_empty()).then_some(()));
    dashboard.shows("hook could not be told: webhook at 127.0.0.1:");
    let refused = hook.requests().len();
    answer.store(204, SeqCst);
    let notice = within(PATIENCE, "the hook is told", || Some(hook.requests().get(refused)?.json()));
    assert_eq!((&notice["alert"], &notice["state"]), (&json!("hook"), &json!("raised")));
    assert!(!dashboard.page().contains("T0KEN") && !site.log().contains("T0KEN"));
}

#[test]
fn a_channel_and_a_server_that_are_down_are_told_and_a_reload_is_followed() {
    let mut site = Site::new();
    let (port, taken) = (site.port(), site.port());
    let holder = std::net::TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let down = |limit: u32| json!([{"name": "down", "when": "down", "limit": limit, "command": appending(&site, "told")}]);
    let config = |alerts: Value| json!({"channels": [site.store_channel("adt", port), site.store_channel("taken", taken)], "alerts": alerts});
    site.configure(config(down(60)));
    let mut server = site.launch(site.command(&["run"]));
    let alerts = Dashboard::alerts_alone(&site, &[]);
    within(PATIENCE, "both know each other", || server.try_status().map(drop));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(told(&site, "told").len(), 0);
    // Broken, the file is not followed; mended, it is.
    site.configure_text("alerts: [\n");
    process::signal(alerts.pid(), nix::sys::signal::Signal::SIGHUP);
    within(PATIENCE, "the errors are logged", || {
        site.log().contains("everything is watched as before").then_some(())
    });
    site.configure(config(down(0)));
    process::signal(alerts.pid(), nix::sys::signal::Signal::SIGHUP);
    let notices = wait_told(&site, "told", 1);
    assert_eq!((&notices[0]["channel"], &notices[0]["state"]), (&json!("taken"), &json!("raised")));
    assert!(notices[0]["message"].as_str().unwrap().contains("could not listen"), "{notices:?}");
    server.stop();
    let notices = wait_told(&site, "told", 2);
    assert_eq!((&notices[1]["channel"], &notices[1]["subject"]), (&Value::Null, &json!("")));
    assert!(notices[1]["message"].as_str().unwrap().contains("no server answers"), "{notices:?}");
    drop(holder);
}

#[test]
fn a_trial_tells_at_once_and_says_what_is_wrong_with_the_command() {
    let mut site = Site::new();
    let alerts = json!([
        {"name": "good", "when": "silent", "command": appending(&site, "told")},
        {"name": "bad", "when": "disk", "limit": "1GiB", "command": "/no/such/pager"},
    ]);
    failing(&mut site, alerts);
    site.run(&["alerts", "--try", "good"]).good();
    assert!(told(&site, "told")[0]["message"].as_str().unwrap().contains("trial"));
    let bad = site.run(&["alerts", "--try", "bad"]);
    assert!(
        bad.code == Some(1) && bad.stderr.contains("could not start \"/no/such/pager\": no such file"),
        "{bad:#?}"
    );
    assert_eq!(site.run(&["alerts", "--try", "none"]).code, Some(1));
}

#[test]
fn little_room_is_told_with_the_path() {
    let mut site = Site::new();
    let alerts =
        json!([{"name": "room", "when": "disk", "limit": "1000000GiB", "command": appending(&site, "told")}]);
    failing(&mut site, alerts);
    let _server = site.start();
    let dashboard = Dashboard::start(&mut site, &["--no-alerts"]);
    let _alerts = Dashboard::alerts_alone(&site, &[]);
    let notices = wait_told(&site, "told", 1);
    assert!(notices[0]["message"].as_str().unwrap().ends_with("free"), "{notices:?}");
    assert!(notices[0]["subject"].as_str().unwrap().starts_with('/'));
    assert!(!get(dashboard.port, "/").body.contains("Alerts"), "somebody else's");
}

#[test]
fn a_certificate_that_ends_soon_is_told() {
    let mut site = Site::new();
    let (certificate, key) = (site.text("server.pem"), site.text("server.key"));
    let subject = ["-subj", "/CN=localhost", "-keyout", &key, "-out", &certificate];
    openssl(&[&["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "5"], subject.as_slice()].concat());
    let port = site.port();
    let mut channel = site.store_channel("adt", port);
    channel["tls"] = json!({"certificate": certificate, "key": key});
    let alert = |name: &str, days: u32| json!({"name": name, "when": "certificate", "limit": days, "command": appending(&site, name)});
    site.configure(json!({"channels": [channel], "alerts": [alert("soon", 30), alert("late", 3)]}));
    let _server = site.start();
    let dashboard = Dashboard::start(&mut site, &[]);
    let notices = wait_told(&site, "soon", 1);
    assert_eq!(notices[0]["channel"], "adt");
    assert!(notices[0]["message"].as_str().unwrap().contains("in 4 days"), "{notices:?}");
    dashboard.shows("1 alert is raised.");
    assert!(told(&site, "late").is_empty());
}
