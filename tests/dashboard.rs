//! The dashboard as a browser, a balancer and a stranger meet it: what it shows, what it hides, what it bounds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::dashboard::Dashboard;
use support::http::{self, get, get_with};
use support::messages::{adt, base64};
use support::mllp::Peer;
use support::{PATIENCE, Server, Site, process, within};

/// A server with channel `adt`, whose mapping finds nothing: each message fails with its patient's data.
fn failing() -> (Site, Server, u16) {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("adt", port);
    channel["mapping"] = json!({"ward": "ZZZ.1.2"});
    site.configure(json!({"channels": [channel], "config_version": "<7.7>"}));
    let server = site.start();
    (site, server, port)
}

/// Sends a message that fails and waits until it is listed.
fn fail_one(site: &Site, port: u16) -> String {
    Peer::connect(port).exchange(&adt("CONTROL-1", "PATIENT-1")).accepts(b"CONTROL-1");
    within(PATIENCE, "a failed message", || {
        let failed = site.list(&["failed", "list"]);
        Some(failed.first()?["id"].as_str()?.to_owned())
    })
}

#[test]
fn a_channel_that_goes_down_a_message_that_fails_and_its_retry_are_seen() {
    let (mut site, server, port) = failing();
    let dashboard = Dashboard::start(&mut site, &[]);
    dashboard.shows("The channel is up.");
    within(PATIENCE, "health", || (get(dashboard.port, "/healthz").status == 200).then_some(()));

    let id = fail_one(&site, port);
    let page = dashboard.shows(&format!("/failed/adt/{id}"));
    assert!(page.contains("mapping: mapping &quot;ward&quot; found nothing at ZZZ.1.2"), "{page}");
    assert!(page.contains("configuration &lt;7.7&gt;"), "{page}");
    dashboard.shows("1 failed message");

    // The mapping is mended, the message retried by the CLI.
    site.configure(json!({"channels": [site.store_channel("adt", port)]}));
    site.run(&["reload"]).good();
    server.wait_ready();
    site.run(&["failed", "retry", &id]).good();
    within(PATIENCE, "the failed message goes from the page", || {
        (!dashboard.page().contains(&id)).then_some(())
    });
    assert_eq!(get(dashboard.port, &format!("/failed/adt/{id}")).status, 404);

    // A death is seen, and that it is over.
    process::signal(server.worker(port), nix::sys::signal::Signal::SIGKILL);
    dashboard.shows("started again 1 time");
    dashboard.shows("The channel is up.");
    assert_eq!(server.count("adt", "failed_now"), 0);
}

#[test]
fn it_shows_no_patients_data_and_no_control_id_without_a_password() {
    let (mut site, server, port) = failing();
    let dashboard = Dashboard::start(&mut site, &[]);
    let id = fail_one(&site, port);
    dashboard.shows(&id);
    for path in ["/", "/channel/adt", &format!("/failed/adt/{id}"), "/metrics", "/healthz"] {
        let answer = get(dashboard.port, path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        for secret in ["PATIENT-1", "Musterfrau", "19640812", "CONTROL-1"] {
            assert!(!answer.body.contains(secret), "{path} shows {secret}");
        }
    }
    let summary = get(dashboard.port, &format!("/failed/adt/{id}")).body;
    for part in ["adt", &id, "ADT^A01", "mapping", "found nothing at ZZZ.1.2", "hl7server failed show"] {
        assert!(summary.contains(part), "no {part} in {summary}");
    }
    drop(server);
}

#[test]
fn with_patients_data_every_page_needs_the_password() {
    let (mut site, _server, port) = failing();
    let password = "correct horse: battery";
    let environment = [("HL7SERVER_DASHBOARD_PASSWORD", password)];
    let dashboard = Dashboard::start_with(&mut site, &["--show-patient-data"], &environment);
    let id = fail_one(&site, port);
    let message = format!("/failed/adt/{id}");
    let key = |text: &str| format!("Basic {}", base64(text.as_bytes()));
    for path in ["/", "/channel/adt", message.as_str(), "/nothing"] {
        let answer = get(dashboard.port, path);
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.header("www-authenticate").starts_with("Basic "));
        assert!(!answer.body.contains(&id));
    }
    let began = Instant::now();
    assert_eq!(
        get_with(dashboard.port, &message, &[("Authorization", &key("a:wrong horse, battery"))]).status,
        401
    );
    assert!(began.elapsed() >= Duration::from_millis(900), "guessing is slow");
    let shown = get_with(dashboard.port, &message, &[("Authorization", &key(&format!("me:{password}")))]);
    assert_eq!(shown.status, 200);
    for part in ["Musterfrau", "PATIENT-1", "CONTROL-1", "PID.1.5"] {
        assert!(shown.body.contains(part), "no {part} in {}", shown.body);
    }
    // Neither knows a patient, and neither Prometheus nor a balancer should know the password.
    assert_eq!(get(dashboard.port, "/metrics").status, 200);
    assert_eq!(get(dashboard.port, "/healthz").status, 200);
    let environment = fs::read(format!("/proc/{}/cmdline", dashboard.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains(password));
    assert!(!site.log().contains(password));
}

#[test]
fn patients_data_is_refused_without_a_good_password_or_on_a_network() {
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"channels": [site.store_channel("adt", port)]}));
    let listen = format!("127.0.0.1:{}", site.port());
    let with = |listen: &str, password: Option<&str>| {
        let mut command = site.command(&["dashboard", "--show-patient-data", "--listen", listen]);
        command.env_remove("HL7SERVER_DASHBOARD_PASSWORD");
        command.envs(password.map(|password| ("HL7SERVER_DASHBOARD_PASSWORD", password)));
        support::finish(command, PATIENCE)
    };
    for (listen, password, why) in [
        (listen.as_str(), None, "needs a password in HL7SERVER_DASHBOARD_PASSWORD"),
        (&listen, Some("short"), "at least 12 characters"),
        ("0.0.0.0:1", Some("long enough password"), "loopback"),
    ] {
        let ran = with(listen, password);
        assert_eq!(ran.code, Some(78), "{ran:#?}");
        assert!(ran.stderr.contains(why) && !ran.stderr.contains("short\""), "{ran:#?}");
    }
}

#[test]
fn strangers_names_and_methods_that_change_something_are_refused() {
    let (mut site, _server, _) = failing();
    let dashboard = Dashboard::start(&mut site, &["--host", "ops.example.org"]);
    let of = |host: &str, path: &str| get_with(dashboard.port, path, &[("Host", host)]).status;
    for path in ["/", "/metrics", "/healthz", "/channel/adt"] {
        assert_eq!(of("evil.example", path), 421, "{path}");
        assert_eq!(of("127.0.0.1.evil.example:80", path), 421, "{path}");
    }
    assert_eq!(of("ops.example.org", "/"), 200);
    assert_eq!(of(&format!("127.0.0.1:{}", dashboard.port), "/"), 200);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        let head = format!("{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nabcd");
        let answer = http::parse(&http::raw(dashboard.port, head.as_bytes())).unwrap();
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"), "{method}");
    }
    // A balancer's check by HTTP/1.0, without a host.
    let answer = http::parse(&http::raw(dashboard.port, b"GET /metrics HTTP/1.0\r\n\r\n")).unwrap();
    assert_eq!(answer.status, 200);
    let answer =
        http::parse(&http::raw(dashboard.port, b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")).unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    for path in ["/failed/../../etc/passwd", "/failed/adt/..%2f..", "/failed//x", "/channel/nobody", "/x"] {
        assert_eq!(get(dashboard.port, path).status, 404, "{path}");
    }
}

#[test]
fn every_answer_carries_its_policy_and_the_page_fetches_nothing() {
    let (mut site, _server, _) = failing();
    let dashboard = Dashboard::start(&mut site, &[]);
    let answer = get(dashboard.port, "/");
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
        assert_eq!(get(dashboard.port, "/metrics").header(name), value, "{name}");
    }
    let policy = answer.header("content-security-policy");
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(policy.starts_with("default-src 'none'") && nonce.len() == 32, "{policy}");
    assert_eq!(answer.body.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    assert_ne!(policy, get(dashboard.port, "/").header("content-security-policy"));
    for asset in ["src=", "@import", "url(", "http://", "https://", "<form", "<button", "<input"] {
        assert!(!answer.body.contains(asset), "{asset} in the page");
    }
}

#[test]
fn slow_and_many_clients_do_not_keep_others_out() {
    let (mut site, _server, _) = failing();
    let dashboard = Dashboard::start(&mut site, &[]);
    // More than it takes, none of which ever finishes its head.
    let mut slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", dashboard.port)).unwrap();
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ");
            stream
        })
        .collect();
    let threads = || {
        let status = fs::read_to_string(format!("/proc/{}/status", dashboard.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("Threads:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    assert!(threads() < 80, "{} threads", threads());
    let began = Instant::now();
    let answers = || {
        let mut stream = TcpStream::connect(("127.0.0.1", dashboard.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        http::parse(&answer).filter(|answer| answer.status == 200).map(drop)
    };
    // They trickle on; their time is over all the same.
    within(Duration::from_secs(25), "an answer beside 100 slow clients", || {
        for stream in &mut slow {
            let _ = stream.write_all(b"x");
        }
        answers()
    });
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let mut junk = TcpStream::connect(("127.0.0.1", dashboard.port)).unwrap();
    let _ = junk.write_all(&[b'A'; 100_000]);
    // Beside what is left of the slow ones some are turned away.
    within(Duration::from_secs(25), "an answer beside junk", answers);
}

#[test]
fn a_server_that_is_gone_is_said_and_its_return_is_seen() {
    let (mut site, mut server, port) = failing();
    let mut dashboard = Dashboard::start(&mut site, &[]);
    dashboard.shows("The channel is up.");
    server.stop();
    within(PATIENCE, "health turns bad", || (get(dashboard.port, "/healthz").status == 503).then_some(()));
    assert!(get(dashboard.port, "/healthz").body.contains("no server answers"));
    let page = dashboard.shows("no server answers at");
    assert!(page.contains("id=\"c-adt\""), "the last picture stays: {page}");
    assert!(get(dashboard.port, "/metrics").body.ends_with("hl7server_up 0\n"));
    server.start_again(&site);
    dashboard.shows("The channel is up.");
    Peer::connect(port).exchange(&adt("A", "P")).accepts(b"A");
    assert_eq!(dashboard.stop(), Some(0));
}

#[test]
fn a_channel_that_cannot_listen_is_named_with_its_reason() {
    let mut site = Site::new();
    let (good, taken, unused) = (site.port(), site.port(), site.port());
    let holder = std::net::TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let mut off = site.store_channel("off", unused);
    off["enabled"] = json!(false);
    site.configure(
        json!({"channels": [site.store_channel("good", good), site.store_channel("taken", taken), off]}),
    );
    let _server = site.launch(site.command(&["run"]));
    let dashboard = Dashboard::start(&mut site, &[]);
    dashboard.shows("1 trouble:<ul><li>taken: unbound: could not listen on");
    let health = get(dashboard.port, "/healthz");
    assert_eq!(health.status, 503);
    assert!(health.body.starts_with("taken: unbound") && !health.body.contains("off"), "{health:?}");
    drop(holder);
    within(PATIENCE, "the port is free and taken", || {
        (get(dashboard.port, "/healthz").status == 200).then_some(())
    });
    assert_eq!(get(dashboard.port, "/healthz").body, "ok: 2 channels up\n");
}
