//! The threat table, row by row: what a hostile sender, peer, file or neighbour tries, end to end against the binary. What
//! is not here is where it is looked at more closely: workers that were taken over in `sandbox`, TLS in `tls`, each PDF
//! attack in the crate `pdf`, each SQL engine in the crate `db`, decoders in `fuzz`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod patient_data;
#[path = "../support/mod.rs"]
mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::dfapi::{Dfapi, TOKEN};
use support::http_server::Reply;
use support::memory::held_by_server;
use support::messages::{PDF_FIELD, adt, base64, oru, typed};
use support::mllp::{Peer, frame};
use support::solr::{PASSWORD, Solr, USER};
use support::sshd::Sshd;
use support::{ANSWER, PATIENCE, Server, Site, files, finish, process, skip, wait_files, within};

/// A value that no log, status or summary may show.
const MARK: &str = "Zqx7Patientenname";
/// One for each secret.
const SECRETS: [(&str, &str); 3] =
    [("DFAPI_TOKEN", TOKEN), ("SFTP_PASSWORD", "s3cret-of-sftp"), ("SOLR_PASSWORD", PASSWORD)];

/// Sends a message that is accepted.
#[track_caller]
fn accepted(port: u16, body: &[u8], control_id: &str) {
    Peer::connect(port).exchange(body).accepts(control_id.as_bytes());
}

/// Starts one channel, `adt`, with these keys on top.
#[track_caller]
fn one_channel(site: &mut Site, keys: &Value) -> (u16, Server) {
    let port = site.port();
    let mut channel = site.store_channel("adt", port);
    for (key, value) in keys.as_object().unwrap() {
        channel[key] = value.clone();
    }
    site.configure(json!({"channels": [channel]}));
    (port, site.start())
}

/// A document channel's keys, with a drop folder `ward`.
fn documents(site: &Site) -> Value {
    json!({
        "message_types": {}, "attachment_field": PDF_FIELD, "attachment_format": "pdf",
        "drop_folders": {"ward": {"path": site.text("ward")}},
    })
}

#[test]
fn path_traversal_in_any_part_of_a_name_stays_in_its_folder() {
    let mut site = Site::new();
    let keys = json!({"patient_id_field": "PID.1.3.1", "accession_number_field": "PID.1.18.1"});
    let (port, _server) = one_channel(&mut site, &keys);
    let long = "x".repeat(300);
    let hostile = [
        "../../../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "...",
        "a/../../b",
        "%2f%2e%2e%2fetc",
        "a\0b",
        "a b ",
        "~root",
        "-rf",
        "con\u{202e}txt",
        "$(id)",
        "a;id",
        "*",
        &long,
        "\u{7f}\u{1b}[2J",
        ".hidden",
    ];
    for (n, part) in hostile.iter().enumerate() {
        // Once as a patient id and accession number, once as a control id.
        let id = format!("M{n}");
        let body = String::from_utf8(adt(&id, part))
            .unwrap()
            .replace("|19640812|F", &format!("|19640812|F||||||||||{part}"));
        accepted(port, body.as_bytes(), &id);
        let control_id = part.replace('\0', "0");
        let _ = Peer::connect(port).exchange(&adt(&control_id, "P1"));
    }
    let archive = site.path("archive/adt");
    let found = wait_files(&archive, ".hl7", hostile.len());
    within(PATIENCE, "nothing is on its way", || site.list(&["queue", "list"]).is_empty().then_some(()));
    let root = fs::canonicalize(&archive).unwrap();
    for (path, _) in found {
        assert!(fs::canonicalize(&path).unwrap().starts_with(&root), "{path:?}");
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        assert!(name.chars().all(is_allowed) && !name.starts_with('.') && name.len() < 255, "{name:?}");
        // Year, month and day, and nothing a value made.
        assert_eq!(path.strip_prefix(&archive).unwrap().components().count(), 4, "{path:?}");
    }
    for stray in ["etc", "passwd", "b", "b.hl7"] {
        assert!(!site.path(stray).exists() && !site.path("archive").join(stray).exists(), "{stray}");
    }
}

#[test]
fn links_and_files_planted_in_a_folder_are_neither_followed_nor_replaced() {
    let mut site = Site::new();
    let victim = site.path("victim");
    fs::write(&victim, b"untouched").unwrap();
    fs::create_dir_all(site.path("ward")).unwrap();
    // The names are known beforehand; that is what makes them plantable.
    symlink(&victim, site.path("ward/DOC1.pdf")).unwrap();
    fs::write(site.path("ward/DOC2.pdf"), b"somebody's").unwrap();
    fs::create_dir(site.path("outside")).unwrap();
    fs::create_dir_all(site.path("archive/adt")).unwrap();
    let year = jiff::Zoned::now().year().to_string();
    symlink(site.path("outside"), site.path("archive/adt").join(&year)).unwrap();
    let keys = documents(&site);
    let (port, server) = one_channel(&mut site, &keys);
    for id in ["DOC1", "DOC2"] {
        accepted(port, &oru(id, "P1").0, id);
    }
    let pdfs = within(PATIENCE, "both documents under other names", || {
        let found = files(&site.path("ward"), ".pdf");
        let ours: Vec<_> = found.iter().filter(|(_, bytes)| bytes.starts_with(b"%PDF")).cloned().collect();
        (ours.len() == 2).then_some(ours)
    });
    assert!(
        pdfs.iter().all(|(path, _)| !path.ends_with("DOC1.pdf") && !path.ends_with("DOC2.pdf")),
        "{pdfs:?}"
    );
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    assert_eq!(fs::read(site.path("ward/DOC2.pdf")).unwrap(), b"somebody's");
    assert!(fs::symlink_metadata(site.path("ward/DOC1.pdf")).unwrap().is_symlink());
    // The folder of the year leads out of the archive: its step waits, and says why.
    let queue = within(PATIENCE, "the archive's step waits", || {
        let queue = site.list(&["queue", "list"]);
        (queue.len() == 2).then_some(queue)
    });
    assert_eq!(queue[0]["step"], "archive");
    assert_eq!(files(&site.path("outside"), ""), []);
    fs::remove_file(site.path("archive/adt").join(&year)).unwrap();
    wait_files(&site.path("archive/adt"), ".hl7", 2);
    drop(server);
}

#[test]
fn sql_in_a_value_is_a_value_and_in_a_configured_name_an_error() {
    let mut site = Site::new();
    fs::create_dir(site.path("db")).unwrap();
    let insert = json!({
        "driver": "SQLite", "database": site.text("db/hl7.db"), "table": "patients", "create_table": true,
    });
    let keys = json!({
        "message_types": {"ADT^A01": "credentials"},
        "mapping": {"name": "PID.1.5.1"},
        "db_insert": insert,
        "db_metadata": {"name": {"field_name": "NAME", "field_type": "Text"}},
    });
    let (port, server) = one_channel(&mut site, &keys);
    let hostile =
        ["'); DROP TABLE patients; --", "\" OR 1=1 --", "?1", ":name", "x\0y", "\\', ('", "é\u{2019}"];
    for (n, name) in hostile.iter().enumerate() {
        let id = format!("M{n}");
        let body =
            String::from_utf8(adt(&id, "P1")).unwrap().replace("Musterfrau", &name.replace('\\', "\\E\\"));
        accepted(port, body.as_bytes(), &id);
    }
    server.wait_count("adt", "delivered", hostile.len() as u64);
    let database = rusqlite::Connection::open(site.path("db/hl7.db")).unwrap();
    let mut statement = database.prepare("SELECT NAME FROM patients").unwrap();
    let mut rows: Vec<String> =
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut expected: Vec<String> = hostile.iter().map(|name| (*name).to_owned()).collect();
    rows.sort();
    expected.sort();
    assert_eq!(rows, expected);

    let good = fs::read_to_string(site.config()).unwrap();
    for name in ["patients; DROP TABLE x", "a\"b", "a.b.c", "1a", ""] {
        let mut config: Value = serde_json::from_str(&good).unwrap();
        config["channels"][0]["db_insert"]["table"] = json!(name);
        site.configure(config);
        let ran = site.run(&["check"]);
        assert_eq!(ran.code, Some(78), "{name:?}: {ran:?}");
        assert!(ran.said().contains("db_insert.table"), "{ran:?}");
    }
}

#[test]
fn solr_syntax_in_a_value_never_comes_into_a_query() {
    let mut site = Site::new();
    let (solr_port, peer) = (site.port(), site.port());
    let solr = Solr::start(solr_port, None, &["hl7", "orders"]);
    let _peer = TcpListener::bind(("127.0.0.1", peer)).unwrap();
    let port = site.port();
    let mut channel = site.store_channel("adt", port);
    channel["resend"] = json!({
        "server": "127.0.0.1", "port": peer, "filter": {
            "source_core": "orders", "match_source": "PID.1.3.1", "match_field": "patient_id_s",
            "search_field": "ward_s", "match_values": ["X"],
        },
    });
    let server = json!({
        "name": "127.0.0.1", "port": solr_port, "protocol": "http", "user": USER, "password": PASSWORD,
    });
    site.configure(json!({"store_solr": true, "solr_servers": [server], "channels": [channel]}));
    let server = site.start();
    let hostile = [
        "*:*",
        "x) OR (*:*",
        "{!xmlparser v='<a/>'}",
        "x&wt=xslt&stream.url=http://h/",
        "_query_:\"{!join}\"",
        "a}b v=$q",
        "\"; delete",
        "x#y%26z",
    ];
    for (n, patient) in hostile.iter().enumerate() {
        let id = format!("M{n}");
        // An ampersand is a separator of HL7's.
        accepted(port, &adt(&id, &patient.replace('&', "\\T\\")), &id);
    }
    server.wait_count("adt", "delivered", hostile.len() as u64);
    let asked = solr.requests();
    let selects: Vec<_> = asked.iter().filter(|request| request.path.contains("/orders/select")).collect();
    assert!(selects.len() >= hostile.len(), "{asked:#?}");
    let parameters = |request: &support::http_server::Request| {
        let names: Vec<&String> = request.query.keys().collect();
        format!("{names:?} {}", request.parameter("q"))
    };
    let first = parameters(selects[0]);
    for request in &selects {
        assert_eq!(parameters(request), first, "the query differs by the value");
        assert!(hostile.iter().any(|value| request.query.values().any(|v| v == value)), "{request:#?}");
    }
    assert!(asked.iter().all(|request| !request.path.contains("stream.url")));
    assert_eq!(solr.documents("hl7").len(), hostile.len());
}

#[test]
fn line_breaks_in_a_header_and_redirects_lead_nowhere() {
    let mut site = Site::new();
    let (port, dfapi_port, trap_port) = (site.port(), site.port(), site.port());
    let dfapi = Dfapi::start(dfapi_port, "", None);
    let trap = Dfapi::start(trap_port, "", None);
    let mut channel = site.store_channel("adt", port);
    channel["message_types"] = json!({"ADT^A01": "credentials"});
    channel["mapping"] = json!({"patient_id": "PID.1.3.1"});
    channel["credentials_metadata"] = json!({"number": "patient_id"});
    let service = json!({"name": "127.0.0.1", "port": dfapi_port, "protocol": "http", "token": "DFAPI_TOKEN", "timeout": 2});
    site.configure(json!({"create_credentials": true, "dfapi": service, "channels": [channel]}));
    let start = |token: &str| {
        let mut command = site.command(&["run"]);
        command.env("DFAPI_TOKEN", token);
        site.launch(command)
    };
    let mut server = start(TOKEN);
    server.wait_ready();
    let to = format!("http://127.0.0.1:{trap_port}/credentials");
    let redirect = |status| Reply::of(status, "text/plain", "").with("Location", &to);
    dfapi.state().next.extend([301, 302, 307, 308].map(redirect));
    accepted(port, &adt("M1", "P1"), "M1");
    within(PATIENCE, "the first answer", || (!dfapi.requests().is_empty()).then_some(()));
    within(PATIENCE, "it came to its end", || {
        (server.count("adt", "delivered") + server.count("adt", "failed_now") == 1).then_some(())
    });
    assert!(trap.requests().is_empty(), "the token went to another server");
    server.stop();

    // A secret with a line break, by hand or by an accident of an editor: no header of its own.
    let asked = dfapi.requests().len();
    drop(server);
    let server = start("t0ken\r\nX-Injected: 1");
    within(PATIENCE, "it runs or says why not", || {
        (server.try_status().is_some() || !process::is_alive(server.pid())).then_some(())
    });
    if let Ok(mut peer) = Peer::try_connect(port) {
        let _ = peer.send_raw(&frame(&adt("M2", "P2")));
        let _ = peer.receive(ANSWER);
        within(PATIENCE, "an attempt", || {
            let waits = site.list(&["queue", "list"]).len() + site.list(&["failed", "list"]).len();
            (waits > 0 || dfapi.requests().len() > asked).then_some(())
        });
    }
    assert!(dfapi.requests().iter().all(|request| !request.headers.contains_key("x-injected")));
    assert!(!site.log().contains("X-Injected"), "the secret is in the log");
}

#[test]
fn line_breaks_and_escapes_of_a_sender_make_no_log_line_and_reach_no_terminal() {
    let mut site = Site::new();
    let (port, server) =
        one_channel(&mut site, &json!({"debug_metadata": true, "mapping": {"name": "PID.1.5.1"}}));
    let forged = "2026-01-01T00:00:00.000Z ERROR adt: all is lost";
    for (n, hostile) in [
        format!("x\n{forged}"),
        "x\u{1b}[2J\u{1b}]0;t\u{7}".to_owned(),
        "x\u{85}\u{9b}31m".to_owned(),
        format!("x\\X0A\\{forged}"),
    ]
    .iter()
    .enumerate()
    {
        let body = String::from_utf8(adt(&format!("M{n}"), "P1")).unwrap();
        let _ = Peer::connect(port).exchange(body.replace("Musterfrau", hostile).as_bytes());
        let _ = Peer::connect(port)
            .exchange(body.replace(&format!("|M{n}|"), &format!("|{hostile}|")).as_bytes());
        let mut junk = Peer::connect(port);
        let _ = junk.send_raw(hostile.as_bytes());
    }
    server.wait_count("adt", "received", 8);
    let _ = site.run(&["failed", "list"]);
    let shown = site.run(&["queue", "list"]).said() + &site.run(&["status", "--channel", "adt"]).said();
    for text in [site.log(), shown] {
        assert!(text.lines().all(|line| !line.starts_with(forged)), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
}

#[test]
fn yaml_bombs_and_includes_of_pipes_cycles_and_huge_files_are_refused_at_once() {
    let site = Site::new();
    fs::create_dir_all(site.path("run")).unwrap();
    let bomb = (1..12).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
        let last = n - 1;
        format!("{text}a{n}: &a{n} [*a{last},*a{last},*a{last},*a{last},*a{last},*a{last},*a{last},*a{last},*a{last}]\n")
    });
    let deep = format!("channels: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let huge = format!("# {}\nchannels: []\n", "x".repeat(9 << 20));
    nix::unistd::mkfifo(&site.path("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(site.path("cycle.yaml"), "channels: !include cycle.yaml\n").unwrap();
    let cases = [
        ("aliases", bomb),
        ("nesting", deep),
        ("size", huge),
        ("duplicate keys", "max_tasks: 1\nmax_tasks: 2\nchannels: []\n".to_owned()),
        ("a pipe", "channels: !include pipe.yaml\n".to_owned()),
        ("a device", "channels: !include /dev/zero\n".to_owned()),
        ("a folder", "channels: !include /etc\n".to_owned()),
        ("a cycle", "channels: !include cycle.yaml\n".to_owned()),
    ];
    for (what, text) in cases {
        site.configure_text(&text);
        let begun = Instant::now();
        let ran = site.run(&["check"]);
        assert_eq!(ran.code, Some(78), "{what}: {ran:?}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{what} took {:?}", begun.elapsed());
    }
}

#[test]
fn a_pattern_that_backtracks_without_end_fails_its_message_and_holds_nobody_up() {
    let mut site = Site::new();
    let keys = json!({"mapping": {"name": "PID.1.5.1"}, "custom_regex": {"name": "(a+)+\\1b"}});
    let (port, server) = one_channel(&mut site, &keys);
    let hostile = String::from_utf8(adt("M1", "P1")).unwrap().replace("Musterfrau", &"a".repeat(20_000));
    accepted(port, hostile.as_bytes(), "M1");
    for n in 2..12 {
        accepted(port, &adt(&format!("M{n}"), &format!("P{n}")), &format!("M{n}"));
    }
    wait_files(&site.path("archive/adt"), ".hl7", 10);
    server.wait_count("adt", "failed_now", 1);
    let failed = site.list(&["failed", "list"]);
    assert!(!failed[0].to_string().contains("aaaa"), "{failed:#?}");
}

#[test]
fn pdfs_that_nest_loop_and_lie_are_delivered_as_they_came_by_a_worker_that_lives_on() {
    let mut site = Site::new();
    let mut keys = documents(&site);
    keys["add_metadata_to_attachment"] = json!(true);
    keys["mapping"] = json!({"name": "PID.1.5.1"});
    let (port, server) = one_channel(&mut site, &keys);
    let worker = server.worker(port);
    let nested = format!(
        "%PDF-1.4\n1 0 obj\n{}{}\nendobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let looped = "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[2 0 R 2 0 R]/Count 2000000000>>\
        endobj\ntrailer<</Root 1 0 R/Size 3/Prev 9>>\nstartxref\n9\n%%EOF\n";
    let lying = "%PDF-1.4\n1 0 obj<</Length 99999999999/Filter[/FlateDecode/FlateDecode/LZWDecode]>>stream\nx\nendstream endobj\n\
        xref\n0 4294967295\ntrailer<</Size 4294967295/Root 1 0 R>>\nstartxref\n-1\n%%EOF\n";
    let before = held_by_server(server.pid());
    for (n, pdf) in [nested.as_str(), looped, lying, "%PDF-"].iter().enumerate() {
        let id = format!("D{n}");
        let mut body = typed("ORU^R01^ORU_R01", &id, "P1");
        body.extend(format!("OBX|1|ED|R||^application^pdf^Base64^{}\r", base64(pdf.as_bytes())).into_bytes());
        accepted(port, &body, &id);
    }
    let found = wait_files(&site.path("ward"), ".pdf", 4);
    assert!(found.iter().any(|(_, bytes)| bytes == looped.as_bytes()));
    assert!(held_by_server(server.pid()) < before + (200 << 20));
    assert_eq!(server.worker(port), worker);
    within(PATIENCE, "the counter", || (server.count("adt", "unstamped") >= 3).then_some(()));
}

#[test]
fn slow_senders_hold_no_honest_one_up_and_are_closed() {
    let mut site = Site::new();
    let keys = json!({"message_timeout": 2, "max_connections_per_address": 300, "max_connections": 300});
    let (port, _server) = one_channel(&mut site, &keys);
    let mut slow: Vec<Peer> = (0..200).map(|_| Peer::connect(port)).collect();
    for peer in &mut slow {
        peer.send_raw(b"\x0bMSH|").unwrap();
    }
    let begun = Instant::now();
    let mut honest = Peer::connect(port);
    for n in 0..50 {
        honest.exchange(&adt(&format!("M{n}"), "P1")).accepts(format!("M{n}").as_bytes());
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    slow.iter_mut().for_each(|peer| peer.expect_close(Duration::from_secs(20)));
}

#[test]
fn large_frames_on_many_connections_stay_within_one_budget() {
    let mut site = Site::new();
    let keys = json!({"buffer_limit": "32MiB", "stream_limit": "10MiB", "message_timeout": 5});
    let (port, server) = one_channel(&mut site, &keys);
    let before = held_by_server(server.pid());
    let senders: Vec<_> = (0..30)
        .map(|_| {
            std::thread::spawn(move || {
                let mut peer = Peer::connect(port);
                let _ = peer.send_raw(
                    &[b"\x0bMSH|^~\\&|A|B|C|D|20260101||ADT^A01|X|P|2.5\rNTE|1||", &*vec![b'x'; 9 << 20]]
                        .concat(),
                );
                peer
            })
        })
        .collect();
    let until = Instant::now() + Duration::from_secs(3);
    let mut highest = 0;
    while Instant::now() < until {
        highest = highest.max(held_by_server(server.pid()));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(highest < before + (128 << 20), "{} MiB over {} MiB", highest >> 20, before >> 20);
    drop(server);
    senders.into_iter().for_each(|sender| drop(sender.join()));
}

#[test]
fn an_sftp_server_with_another_host_key_gets_nothing() {
    let mut site = Site::new();
    let ssh = site.port();
    let Some(mut sshd) = Sshd::start(&site.path("sshd"), ssh) else { return };
    sshd.change_host_key("ed25519");
    sshd.run(&["ed25519"], None);
    let mut keys = documents(&site);
    keys["drop_folders"] = json!({"far": {
        "remote": true, "server": "127.0.0.1", "port": ssh, "path": site.text("far"), "timeout": 2, "user": sshd.user(),
        "key_file": sshd.key(), "known_hosts": sshd.known_hosts(),
    }});
    let (port, _server) = one_channel(&mut site, &keys);
    accepted(port, &oru("DOC1", "P1").0, "DOC1");
    let reason = within(PATIENCE, "it waits, and says why", || {
        let queue = site.list(&["queue", "list"]);
        queue.first()?["reason"].as_str().filter(|reason| !reason.is_empty()).map(str::to_owned)
    });
    assert!(reason.contains(&sshd.fingerprint("ed25519")), "{reason}");
    assert_eq!(sshd.logins(), 0);
    assert!(!site.path("far").exists());
}

#[test]
fn everything_we_build_on_is_locked_to_its_checksum_and_allowed() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lock = fs::read_to_string(top.join("Cargo.lock")).unwrap();
    for package in lock.split("[[package]]").skip(1).filter(|package| package.contains("source = ")) {
        assert!(
            package.contains("source = \"registry+https://github.com/rust-lang/crates.io-index\""),
            "{package}"
        );
        assert!(package.contains("checksum = \""), "{package}");
    }
    let is_there = Command::new("cargo-deny").arg("--version").output().is_ok_and(|ran| ran.status.success());
    if !is_there {
        return skip("no cargo-deny here; make deny runs it in CI");
    }
    let mut command = Command::new("cargo");
    command.args(["deny", "--offline", "check", "bans", "licenses", "sources"]).current_dir(top);
    finish(command, Duration::from_secs(120)).good();
}
