//! Credential tasks and merges reach dfapi once, whatever dfapi does meanwhile, and drop folders as files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::dfapi::{Dfapi, TOKEN, Task};
use support::http_server::{Certificate, Reply};
use support::messages::typed;
use support::mllp::Peer;
use support::{PATIENCE, Server, Site, process, wait_files, within};

/// How long a peer is down: long enough for several attempts. `HL7SERVER_TEST_OUTAGE_S=30` for the long form.
fn outage() -> Duration {
    let seconds = std::env::var("HL7SERVER_TEST_OUTAGE_S").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// A running server with a channel `adt` of the standard workflows, and a double of dfapi.
struct Making {
    site: Site,
    port: u16,
    dfapi: Dfapi,
    server: Server,
}

impl Making {
    #[track_caller]
    fn start() -> Making {
        Making::with(json!({}), json!({}), None)
    }

    /// With these keys on top of those of dfapi and of the channel.
    #[track_caller]
    fn with(service: Value, channel: Value, certificate: Option<&str>) -> Making {
        let mut site = Site::new();
        let (port, dfapi_port) = (site.port(), site.port());
        let certificate = certificate.map(|name| Certificate::make(&site.path("tls"), name));
        let dfapi = Dfapi::start(dfapi_port, "/api", certificate);
        let mut service_keys = json!({
            "name": "127.0.0.1", "port": dfapi_port, "protocol": "http", "path": "/api/", "token": "DFAPI_TOKEN",
            "timeout": 2,
        });
        let mut adt = site.store_channel("adt", port);
        adt["message_types"] = json!({"ADT^A40": "patient_merge"});
        adt["mapping"] = json!({
            "patient_id": "PID.1.3.1", "family_name": "PID.1.5.1", "phone": "PID.1.13.1", "mobile": "PID.1.14.1",
            "slot": "OBR.1.36.1",
        });
        adt["mapping_ignore"] = json!(["phone", "mobile", "slot"]);
        adt["credentials_metadata"] = json!({"number": "patient_id", "surname": "family_name"});
        adt["book_metadata"] = json!({"at": "slot"});
        adt["mobile"] = json!({"fields": ["phone", "mobile"]});
        adt["drop_folders"] = json!({"tasks": {"path": site.text("tasks")}});
        for (target, keys) in [(&mut service_keys, service), (&mut adt, channel)] {
            for (key, value) in keys.as_object().unwrap() {
                target[key] = value.clone();
            }
        }
        site.configure(json!({"create_credentials": true, "dfapi": service_keys, "channels": [adt]}));
        let mut command = site.command(&["run"]);
        command.env("DFAPI_TOKEN", TOKEN);
        let server = site.launch(command);
        server.wait_ready();
        Making { site, port, dfapi, server }
    }

    /// Sends a message; returns its id.
    #[track_caller]
    fn send(&self, message_type: &str, control_id: &str, patient: &str, more: &str) -> String {
        let mut body = typed(message_type, control_id, patient);
        body.extend_from_slice(more.as_bytes());
        let answer = Peer::connect(self.port).exchange(&body);
        answer.accepts(control_id.as_bytes());
        answer.message_id()
    }

    /// Waits until so many tasks were carried out; returns them.
    #[track_caller]
    fn tasks(&self, count: usize) -> Vec<Task> {
        within(PATIENCE, &format!("{count} tasks"), || {
            let tasks = self.dfapi.tasks();
            (tasks.len() >= count).then_some(tasks)
        })
    }

    /// Waits until so many messages are done, and none waits any more.
    #[track_caller]
    fn delivered(&self, count: u64) {
        self.server.wait_count("adt", "delivered", count);
        within(PATIENCE, "nothing waits any more", || {
            (self.server.count("adt", "waiting") == 0).then_some(())
        });
    }

    #[track_caller]
    fn failed(&self, count: usize) -> Vec<Value> {
        within(PATIENCE, &format!("{count} failed messages"), || {
            let failed = self.site.list(&["failed", "list"]);
            (failed.len() == count).then_some(failed)
        })
    }
}

#[test]
fn admissions_and_orders_make_a_task_for_dfapi_and_the_same_bytes_for_the_drop_folder() {
    let making = Making::with(json!({"protocol": "https", "certificate": false}), json!({}), Some("dfapi"));
    let admission = making.send("ADT^A01^ADT_A01", "ADM/1", "P1", "");
    let order =
        making.send("ORM^O01", "ORD1", "P2", "OBR|1|||||||||||||||||||||||||||||||||||202601020900\r");
    let tasks = making.tasks(2);
    making.delivered(2);
    let of = |id: &str| tasks.iter().find(|task| task.key == id).unwrap_or_else(|| panic!("{tasks:#?}"));
    let (first, second) = (of(&admission), of(&order));
    assert_eq!((first.path.as_str(), second.path.as_str()), ("/credentials", "/credentials"));
    assert_eq!(first.body["id"], admission);
    assert_eq!((&first.body["event"], &second.body["event"]), (&json!("A01"), &json!("O01")));
    assert_eq!(first.body["patient"], json!({"number": "P1", "surname": "Musterfrau"}));
    assert_eq!((&first.body["appointment"]["at"], &first.body["mobile"]), (&Value::Null, &Value::Null));
    assert_eq!(second.body["appointment"]["at"], "202601020900");
    let created: jiff::Timestamp = first.body["created"].as_str().unwrap().parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(created).abs() < jiff::SignedDuration::from_secs(60));
    let dropped = wait_files(&making.site.path("tasks"), ".json", 2);
    let names: Vec<String> =
        dropped.iter().map(|(path, _)| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["ADM_1.json", "ORD1.json"]);
    let requests = making.dfapi.requests();
    let sent = requests.iter().find(|request| request.header("idempotency-key") == admission).unwrap();
    assert_eq!(dropped[0].1, sent.body, "the dropped task is the one that was sent");
    let log = making.site.log();
    assert!(!log.contains(TOKEN) && !log.contains("Musterfrau"), "a secret or a patient is in the log");
}

#[test]
fn every_pair_of_a_merge_is_a_call_with_its_own_key_and_its_own_patient() {
    let making = Making::start();
    let id = making.send("ADT^A34", "MERGE1", "NEW", "MRG|OLD\r");
    let tasks = making.tasks(1);
    assert_eq!((tasks[0].path.as_str(), &tasks[0].key), ("/patients/merge", &id));
    let body = &tasks[0].body;
    assert_eq!((&body["prior_patient_id"], &body["patient_id"]), (&json!("OLD"), &json!("NEW")));
    assert_eq!(body["patient"], json!({"number": "NEW", "surname": "Musterfrau"}));
    let id = making.send("ADT^A40", "MERGE2", "N1", "MRG|O1\rPID|1||N2||Zweitmann\rMRG|O2\r");
    let tasks = making.tasks(3);
    assert_eq!((&tasks[1].key, &tasks[2].key), (&id, &format!("{id}-2")));
    assert_eq!(
        (&tasks[2].body["prior_patient_id"], &tasks[2].body["patient_id"]),
        (&json!("O2"), &json!("N2"))
    );
    assert_eq!(tasks[2].body["patient"], json!({"number": "N2", "surname": "Zweitmann"}));
    making.delivered(2);

    making.send("ADT^A34", "MERGE3", "NEW", "");
    let failed = making.failed(1);
    assert_eq!(failed[0]["step"], "credentials_merge");
    assert_eq!(failed[0]["reason"], "there is no MRG segment");
    assert_eq!(making.dfapi.tasks().len(), 3);
}

#[test]
fn dfapi_down_and_back_gets_every_task_once_and_in_the_order_of_each_patient() {
    let mut making = Making::start();
    making.dfapi.down();
    let begun = Instant::now();
    let ids: Vec<String> =
        (0..12).map(|n| making.send("ADT^A08", &format!("M{n:02}"), &format!("P{}", n % 3), "")).collect();
    // Nothing else waits for it.
    wait_files(&making.site.path("archive/adt"), ".hl7", 12);
    wait_files(&making.site.path("tasks"), ".json", 12);
    within(outage() + PATIENCE, "the outage", || (begun.elapsed() > outage()).then_some(()));
    making.dfapi.up();
    let tasks = making.tasks(12);
    making.delivered(12);
    for patient in ["P0", "P1", "P2"] {
        let sent: Vec<&String> =
            ids.iter().zip(0..).filter(|(_, n)| format!("P{}", n % 3) == patient).map(|(id, _)| id).collect();
        let came: Vec<&String> =
            tasks.iter().filter(|t| t.body["patient"]["number"] == patient).map(|t| &t.key).collect();
        assert_eq!(came, sent, "{patient}");
    }
    assert_eq!(making.site.list(&["failed", "list"]), Vec::<Value>::new());
}

#[test]
fn a_task_whose_answer_is_lost_is_carried_out_once() {
    let making = Making::start();
    making.dfapi.state().does_it_all_the_same = true;
    making.dfapi.state().next.extend([Reply::HangUp, Reply::Silence, Reply::of(504, "text/html", "")]);
    making.send("ADT^A01", "LOST", "P1", "");
    making.delivered(1);
    assert_eq!((making.dfapi.tasks().len(), making.dfapi.state().repeated), (1, 3));
    assert_eq!(making.site.list(&["failed", "list"]), Vec::<Value>::new());
}

#[test]
fn a_worker_killed_before_it_heard_the_answer_says_the_same_again() {
    let making = Making::start();
    making.dfapi.state().does_it_all_the_same = true;
    making.dfapi.state().next.push_back(Reply::Silence);
    making.send("ADT^A01", "KILLED", "P1", "");
    making.tasks(1);
    process::kill(making.server.worker(making.port));
    within(PATIENCE, "the next worker asks again", || (making.dfapi.state().repeated == 1).then_some(()));
    within(PATIENCE, "nothing waits any more", || {
        making.site.list(&["queue", "list"]).is_empty().then_some(())
    });
    let bodies: Vec<Vec<u8>> = making.dfapi.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[0], bodies[1], "the retry is not the same task");
    assert_eq!(wait_files(&making.site.path("tasks"), "", 1).len(), 1);
}

#[test]
fn dfapi_is_given_the_time_that_it_asks_for() {
    let making = Making::start();
    let busy = |status| Reply::of(status, "text/plain", "").with("Retry-After", "3");
    for (n, status) in [429, 503].into_iter().enumerate() {
        making.dfapi.state().next.push_back(busy(status));
        making.send("ADT^A01", &format!("BUSY{n}"), &format!("P{n}"), "");
        making.tasks(n + 1);
        let requests = making.dfapi.requests();
        let [.., first, second] = requests.as_slice() else { panic!("{requests:?}") };
        let waited = second.at.duration_since(first.at);
        assert!(
            (Duration::from_millis(2900)..Duration::from_secs(8)).contains(&waited),
            "{status}: {waited:?}"
        );
    }
    making.delivered(2);
}

#[test]
fn a_task_that_dfapi_refuses_fails_alone_and_can_be_tried_again() {
    let making = Making::start();
    let refused = Reply::of(422, "application/json", r#"{"error":"Rumpelstilzchen is not a number"}"#);
    making.dfapi.state().by_patient.insert("P1".to_owned(), refused);
    making.send("ADT^A01", "BAD", "P1", "");
    making.send("ADT^A01", "GOOD", "P2", "");
    let failed = making.failed(1).remove(0);
    assert_eq!((&failed["step"], &failed["control_id"]), (&json!("credentials"), &json!("BAD")));
    assert!(
        failed["reason"].as_str().unwrap().ends_with("refused the task (422 Unprocessable Entity)"),
        "{failed:#}"
    );
    assert_eq!(making.tasks(1)[0].body["patient"]["number"], "P2");
    assert!(!making.site.log().contains("Rumpelstilzchen"), "what dfapi said of a patient is in the log");
    making.dfapi.state().by_patient.clear();
    making.site.run(&["failed", "retry", failed["id"].as_str().unwrap()]).good();
    assert_eq!(making.tasks(2)[1].body["patient"]["number"], "P1");
    // The task was dropped before it failed, and is not dropped again.
    assert_eq!(wait_files(&making.site.path("tasks"), ".json", 2).len(), 2);
    making.delivered(2);
}

#[test]
fn a_certificate_that_is_not_trusted_gets_no_task_and_no_token() {
    let making = Making::with(json!({"protocol": "https"}), json!({}), Some("stranger"));
    making.send("ADT^A01", "M1", "P1", "");
    within(PATIENCE, "the queue says why", || {
        let queue = making.site.list(&["queue", "list"]);
        let untrusted =
            |e: &Value| e["reason"].as_str().is_some_and(|r| r.contains("TLS: self-signed certificate"));
        queue.iter().any(untrusted).then_some(())
    });
    assert!(making.dfapi.requests().is_empty());
}
