//! The commands as an operator types them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};
use support::messages::{self, PDF_FIELD, adt};
use support::mllp::{Peer, frame};
use support::{PATIENCE, Ran, Site, finish, process, wait_files, within};

fn running() -> (Site, support::Server, u16) {
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"config_version": "7.2", "channels": [site.store_channel("adt", port)]}));
    let server = site.start();
    (site, server, port)
}

// ---- check

#[test]
fn check_accepts_a_good_file_and_names_its_version() {
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"config_version": "7.2", "channels": [site.store_channel("adt", port)]}));
    let ran = site.run(&["check"]).good();
    assert!(ran.said().contains("7.2"), "{ran:#?}");
}

#[test]
fn check_reports_every_problem_with_its_place_and_what_would_be_right() {
    let site = Site::new();
    site.configure_text(
        "state_path: /tmp/x\n\
         max_tasks: 0\n\
         channels:\n\
         - name: adt in\n\
         \x20 port: 99999\n\
         \x20 drop_folder: {}\n\
         - name: oru\n\
         \x20 port: 20001\n\
         \x20 encoding: klingon\n\
         \x20 attachment_field: obx.1.5\n\
         \x20 local_archive:\n\
         \x20   path: /tmp/x\n\
         \x20   format: '%Y/%Q'\n\
         \x20 custom_regex:\n\
         \x20   a: '('\n\
         - name: oru\n\
         \x20 port: 20001\n",
    );
    let ran = site.run(&["check"]);
    assert_eq!(ran.code, Some(78), "{ran:#?}");
    let problems = [
        (2, "max_tasks", "65535"),
        (4, "name", ""),
        (5, "port", "49151"),
        (6, "drop_folder", "drop_folders"),
        (9, "encoding", ""),
        (10, "attachment_field", ""),
        (13, "format", ""),
        (15, "custom_regex", ""),
        (16, "name", ""),
        (17, "port", ""),
    ];
    let said = ran.said();
    for (line, key, hint) in problems {
        let place = format!("{}:{line}:", site.config().display());
        let found = said.lines().find(|l| l.contains(&place) && l.contains(key) && l.contains(hint));
        let found =
            found.unwrap_or_else(|| panic!("no problem with {key} at {line} that says {hint:?} in:\n{said}"));
        let column = found.split(&place).nth(1).unwrap().split(':').next().unwrap();
        assert!(column.parse::<usize>().is_ok_and(|column| column > 0), "no column in {found:?}");
    }
}

#[test]
fn check_tells_an_included_files_problems_at_their_own_place() {
    let mut site = Site::new();
    let port = site.port();
    fs::create_dir(site.path("channels.d")).unwrap();
    fs::write(site.path("channels.d/a.yaml"), format!("name: adt\nport: {port}\n")).unwrap();
    fs::write(site.path("channels.d/b.yaml"), "name: oru\nport: none\n").unwrap();
    site.configure_text(&format!(
        "state_path: {}\nchannels: !include channels.d/*.yaml\n",
        site.text("state")
    ));
    let ran = site.run(&["check"]);
    assert_eq!(ran.code, Some(78), "{ran:#?}");
    assert!(ran.said().lines().any(|l| l.contains("channels.d/b.yaml:2:") && l.contains("port")), "{ran:#?}");
}

#[test]
fn a_channel_without_its_certificates_does_not_start_and_check_says_so() {
    let mut site = Site::new();
    let (plain, port) = (site.port(), site.port());
    let mut tls = site.store_channel("tls", port);
    tls["tls"] = json!({"certificate": "/nowhere/c.pem", "key": "/nowhere/k.pem"});
    site.configure(json!({"channels": [site.store_channel("plain", plain), tls]}));
    let ran = site.run(&["check"]);
    assert!(ran.said().contains("tls"), "{ran:#?}");
    let server = site.launch(site.command(&["run"]));
    within(PATIENCE, "the other channel answers", || Peer::try_connect(plain).ok());
    Peer::connect(plain).exchange(&adt("A", "P1")).accepts(b"A");
    assert!(process::worker_of(port).is_none() || support::state(&server.channel("tls")) != "ready");
    assert!(Peer::try_connect(port).is_err(), "the channel listens without its TLS");
}

#[test]
fn a_server_with_a_broken_file_does_not_start() {
    let site = Site::new();
    site.configure_text("channels:\n- name: adt\n");
    let ran = site.run(&["run"]);
    assert_eq!(ran.code, Some(78), "{ran:#?}");
    assert!(ran.said().contains("port"), "{ran:#?}");
}

#[test]
fn check_plan_shows_each_workflows_steps() {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("oru", port);
    channel["message_types"] = json!({"ZZZ^Z01": "store"});
    channel["attachment_field"] = json!(PDF_FIELD);
    channel["attachment_format"] = json!("pdf");
    channel["local_archive"]["attachment"] = json!(site.text("attachments"));
    channel["drop_folders"] = json!({"pacs": {"path": site.text("drop")}});
    site.configure(json!({"channels": [channel]}));
    let ran = site.run(&["check", "--plan"]).good();
    let places: Vec<usize> = [site.text("archive/oru"), site.text("attachments"), site.text("drop")]
        .iter()
        .map(|path| ran.stdout.find(path.as_str()).unwrap_or_else(|| panic!("{path} is not in {ran:#?}")))
        .collect();
    assert!(places.is_sorted(), "not in the order they run in: {ran:#?}");
    for word in ["oru", "ORU^R01", "MDM^T02", "document", "ZZZ^Z01", "store", "pacs"] {
        assert!(ran.stdout.contains(word), "{word} is not in {ran:#?}");
    }
    assert!(!site.path("state").exists(), "check made folders");
}

// ---- send

#[test]
fn send_delivers_files_and_prints_the_acknowledgments() {
    let (site, _server, port) = running();
    fs::write(site.path("one.hl7"), adt("ONE", "P1")).unwrap();
    fs::write(site.path("more.hl7"), [frame(&adt("TWO", "P1")), frame(&adt("THREE", "P2"))].concat())
        .unwrap();
    let to = format!("127.0.0.1:{port}");
    let ran = site.run(&["send", &site.text("one.hl7"), &site.text("more.hl7"), "--to", &to]).good();
    assert_eq!(ran.stdout.matches("AA").count(), 3, "{ran:#?}");
    let archived: Vec<_> =
        wait_files(&site.path("archive/adt"), ".hl7", 3).into_iter().map(|(_, body)| body).collect();
    for (id, patient) in [("ONE", "P1"), ("TWO", "P1"), ("THREE", "P2")] {
        assert!(archived.contains(&adt(id, patient)), "{id} is not archived as it was in the file");
    }
}

#[test]
fn send_fails_when_a_message_is_refused_or_nobody_listens() {
    let (mut site, _server, port) = running();
    fs::write(site.path("bad.hl7"), b"PID|1||P1\r").unwrap();
    let ran = site.run(&["send", &site.text("bad.hl7"), "--to", &format!("127.0.0.1:{port}")]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.said().contains("AR"), "{ran:#?}");

    let nobody = format!("127.0.0.1:{}", site.port());
    let ran = site.run(&["send", &site.text("bad.hl7"), "--to", &nobody]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.said().contains(&nobody) && ran.said().to_lowercase().contains("refused"), "{ran:#?}");
}

// ---- show

#[test]
fn show_prints_paths_values_and_names() {
    let site = Site::new();
    let (body, pdf) = messages::oru("SHOW", "4711");
    fs::write(site.path("m.hl7"), body).unwrap();
    // A file needs no configuration.
    let ran = site.run(&["show", &site.text("m.hl7")]).good();
    let line = |path: &str| {
        let found = ran.stdout.lines().find(|line| line.split_whitespace().next() == Some(path));
        found.unwrap_or_else(|| panic!("no {path} in {ran:#?}"))
    };
    assert!(line("MSH.1.10").contains("SHOW"));
    assert!(line("PID.1.5.1").contains("Musterfrau") || line("PID.1.5.1.1").contains("Musterfrau"));
    assert!(line("PID.1.3.1").contains("4711"));
    assert!(ran.stdout.contains("Patient Name"), "no HL7 names in {ran:#?}");
    // The attachment as its size and type, not as pages of Base64.
    assert!(!ran.stdout.contains(&messages::base64(&pdf)), "{ran:#?}");
    assert!(ran.stdout.contains("PDF") && ran.stdout.contains(&pdf.len().to_string()), "{ran:#?}");
}

#[test]
fn show_says_when_a_message_is_not_known() {
    let (site, _server, _) = running();
    let ran = site.run(&["show", "01J0000000000000000Z"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let ran = site.run(&["show", &site.text("nowhere.hl7")]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
}

// ---- status and lists

#[test]
fn status_counts_what_happened() {
    let (site, server, port) = running();
    let mut peer = Peer::connect(port);
    peer.exchange(&adt("A", "P1")).accepts(b"A");
    peer.exchange(&adt("A", "P1")).accepts(b"A");
    peer.exchange(&adt("", "P1")).refuses("AE", "101");
    for (counter, least) in
        [("received", 3), ("accepted", 1), ("duplicates", 1), ("delivered", 1), ("connections", 1)]
    {
        server.wait_count("adt", counter, least);
    }
    within(PATIENCE, "the refusal is counted by its code", || {
        (server.channel("adt")["status"]["refused"]["101"].as_u64()? == 1).then_some(())
    });
    let table = site.run(&["status"]).good();
    for word in ["CHANNEL", "adt", &port.to_string(), &server.worker(port).to_string(), "ready", "7.2"] {
        assert!(table.stdout.contains(word), "{word} is not in {table:#?}");
    }
    let one = site.run(&["status", "--channel", "adt"]).good();
    assert!(one.stdout.contains("127.0.0.1"), "no peer in {one:#?}");
    assert_eq!(site.run(&["status", "--channel", "nobody"]).code, Some(1));
}

#[test]
fn commands_say_so_when_no_server_runs() {
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"channels": [site.store_channel("adt", port)]}));
    for arguments in [&["status"][..], &["reload"], &["queue", "list"]] {
        let ran = site.run(arguments);
        assert_eq!(ran.code, Some(1), "{arguments:?}: {ran:#?}");
        assert!(ran.stderr.contains("control.sock"), "{arguments:?}: {ran:#?}");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    let site = Site::new();
    for arguments in [&["nonsense"][..], &["send"], &["status", "--nonsense"]] {
        let ran = site.run(arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {ran:#?}");
    }
}

#[test]
fn failed_messages_are_listed_shown_and_discarded_by_step_and_all_together() {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("oru", port);
    // Nobody has a PID-19 here: the mapping fails, after the acknowledgment.
    channel["mapping"] = json!({"ssn": "PID.1.19"});
    channel["archive_first"] = json!(true);
    site.configure(json!({"channels": [channel]}));
    let server = site.start();
    let mut peer = Peer::connect(port);
    let ids: Vec<String> = (0..3).map(|n| peer.exchange(&adt(&format!("N{n}"), "P1")).message_id()).collect();
    let listed = within(PATIENCE, "three failed messages", || {
        let listed = site.list(&["failed", "list"]);
        (listed.len() == 3).then_some(listed)
    });
    for entry in &listed {
        assert!(ids.iter().any(|id| entry["id"] == id.as_str()), "{entry:#}");
        assert!(entry.to_string().contains("ssn"), "does not say what was not found: {entry:#}");
    }
    let table = site.run(&["failed", "list"]).good();
    assert!(ids.iter().all(|id| table.stdout.contains(id)), "{table:#?}");
    let shown = site.run(&["failed", "show", &ids[0]]).good();
    assert!(shown.stdout.contains("ssn") && shown.stdout.contains("N0"), "{shown:#?}");
    server.wait_count("oru", "failed_now", 3);
    // The archive came first and is not held back.
    wait_files(&site.path("archive/oru"), ".hl7", 3);

    // A setting that was wrong is put right, and what it failed is tried again.
    let mut channel = site.store_channel("oru", port);
    channel["archive_first"] = json!(true);
    site.configure(json!({"channels": [channel]}));
    site.run(&["reload"]).good();
    server.wait_ready();
    site.run(&["failed", "retry", &ids[0]]).good();
    within(PATIENCE, "one is gone", || (site.list(&["failed", "list"]).len() == 2).then_some(()));
    site.run(&["failed", "discard", &ids[1]]).good();
    within(PATIENCE, "two are gone", || (site.list(&["failed", "list"]).len() == 1).then_some(()));
    site.run(&["failed", "retry", "--all", "--channel", "oru"]).good();
    within(PATIENCE, "all are gone", || site.list(&["failed", "list"]).is_empty().then_some(()));
    assert_eq!(wait_files(&site.path("archive/oru"), ".hl7", 3).len(), 3, "a done step was repeated");
    assert_eq!(site.run(&["failed", "show", &ids[0]]).code, Some(1));
}

#[test]
fn queue_list_is_empty_when_all_is_done() {
    let (site, server, port) = running();
    Peer::connect(port).exchange(&adt("A", "P1")).accepts(b"A");
    server.wait_count("adt", "delivered", 1);
    assert_eq!(site.list(&["queue", "list"]), Vec::<serde_json::Value>::new());
}

// ---- the whole

#[test]
fn demo_shows_everything_and_ends_by_itself_within_15_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hl7server"));
    // It needs no configuration and no root, and leaves nothing behind.
    command.arg("demo").current_dir(folder.path());
    let started = Instant::now();
    let ran: Ran = finish(command, Duration::from_secs(60)).good();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(15), "took {took:?}");
    let words = ["ADT^A01", "ORU^R01", "MDM^T02", "MSA|AA|", ".pdf", ".hl7", "CHANNEL", "DELIVERED"];
    for word in words {
        assert!(ran.stdout.contains(word), "{word} is not in {ran:#?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn bench_prints_one_line_of_json_with_its_figures() {
    let (site, _server, port) = running();
    let help = site.run(&["bench", "--help"]).good();
    assert!(help.stdout.contains("--ceilings"), "{help:#?}");
    let ran = site.run(&["bench", "--to", &format!("127.0.0.1:{port}"), "--seconds", "1"]).good();
    let line = ran
        .stdout
        .lines()
        .find(|line| line.starts_with('{'))
        .unwrap_or_else(|| panic!("no JSON in {ran:#?}"));
    let figures: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(figures.to_string().contains("p99"), "{figures:#}");
}

#[test]
fn bench_measures_single_figures_beside_what_the_machine_allows() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hl7server"));
    command.args(["bench", "--ceilings", "--only", "adt-16,oru-100k", "--messages", "200", "--seconds", "5"]);
    command.arg("--folder").arg(folder.path());
    let ran: Ran = finish(command, Duration::from_secs(120)).good();
    let line = ran.stdout.lines().find(|line| line.starts_with('{')).unwrap();
    let set: serde_json::Value = serde_json::from_str(line).unwrap();
    let lines = set["lines"].as_array().unwrap();
    let of = |key: &str| lines.iter().map(|line| line[key].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(of("name"), ["adt-16", "oru-100k"]);
    for line in lines {
        assert_eq!(line["loads"][0]["acknowledged"], 200, "{line:#}");
        assert_eq!(line["loads"][0]["files_missing"], 0, "{line:#}");
        let (server, machine) =
            (line["server"].as_f64().unwrap(), line["machine"]["figure"].as_f64().unwrap());
        assert!((line["ratio"].as_f64().unwrap() - server / machine).abs() < 1e-9, "{line:#}");
    }
    assert!(ran.stdout.contains("REACHED"), "{}", ran.stdout);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
