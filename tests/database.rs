//! Messages into real databases: each row once, whatever happens to the server meanwhile, and nothing else waits for it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::databases::{DATABASE, DatabaseServer, Engine, Mode, PASSWORD, USER};
use support::messages::{adt, typed};
use support::mllp::Peer;
use support::proxy::Proxy;
use support::{PATIENCE, Server, Site, files, wait_files, within};

/// How long a database is away. The short form is past every wait of the step; `HL7SERVER_OUTAGE=30` is a real one.
fn outage() -> Duration {
    let seconds = std::env::var("HL7SERVER_OUTAGE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// How long a queue may take to drain on a loaded machine.
const DRAIN: Duration = Duration::from_secs(60);

/// A channel that archives, and inserts with these keys beside those of `db_insert`.
fn channel(site: &Site, name: &str, port: u16, insert: Value) -> Value {
    let mut channel = site.store_channel(name, port);
    channel["mapping"] = json!({"patient_id": "PID.1.3.1", "control": "MSH.1.10"});
    channel["message_types"] = json!({"ADT^A34": "patient_merge", "*": "store"});
    channel["db_metadata"] = json!({
        "row": {"field_name": "id", "field_type": "Integer", "autoincrement": true},
        "patient_id": {"field_name": "patient", "field_type": "String(50)", "nullable": false},
        "control": {"field_name": "control", "field_type": "String(50)"},
        "inserted": {"field_name": "inserted", "field_type": "DateTime", "auto": true},
    });
    let mut keys =
        json!({"table": "results", "create_table": true, "message_key": "message_id", "timeout": 2});
    for (key, value) in insert.as_object().unwrap() {
        keys[key] = value.clone();
    }
    channel["db_insert"] = keys;
    channel
}

fn server_keys(engine: Engine, port: u16) -> Value {
    let driver = if engine == Engine::MariaDb { "MariaDB" } else { "PostgreSQL" };
    json!({
        "driver": driver, "server": "127.0.0.1", "port": port,
        "username": USER, "password": "DB_TOKEN", "database": DATABASE,
    })
}

/// Starts the server, which finds the password in its environment.
#[track_caller]
fn start(site: &Site) -> Server {
    let mut command = site.command(&["run"]);
    command.env("DB_TOKEN", PASSWORD);
    let server = site.launch(command);
    server.wait_ready();
    server
}

/// Sends a message every few milliseconds, one patient after the other, until told to stop.
fn send_steadily(port: u16, sender: usize, stop: &AtomicBool, sent: &AtomicUsize) {
    let mut peer = Peer::connect(port);
    for n in 0.. {
        if stop.load(SeqCst) {
            return;
        }
        let control = format!("{sender}-{n:06}");
        peer.exchange(&adt(&control, &format!("P{sender}{}", n % 5))).accepts(control.as_bytes());
        sent.fetch_add(1, SeqCst);
        std::thread::sleep(Duration::from_millis(8));
    }
}

#[test]
fn every_message_is_a_row_once_whatever_happens_to_mariadb() {
    every_message_is_a_row_once(Engine::MariaDb);
}

#[test]
fn every_message_is_a_row_once_whatever_happens_to_postgresql() {
    every_message_is_a_row_once(Engine::PostgreSql);
}

fn every_message_is_a_row_once(engine: Engine) {
    let mut database = DatabaseServer::start(engine, Mode::default());
    let link = Proxy::to(database.port);
    let mut site = Site::new();
    let (port, other) = (site.port(), site.port());
    let adt_channel = channel(&site, "adt", port, server_keys(engine, link.port));
    site.configure(json!({"channels": [adt_channel, site.store_channel("other", other)]}));
    let server = start(&site);

    let (stop, sent, beside) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for sender in 0..3 {
            let (stop, sent) = (&stop, &sent);
            scope.spawn(move || send_steadily(port, sender, stop, sent));
        }
        scope.spawn(|| send_steadily(other, 9, &stop, &beside));
        // Whatever fails below, the senders must end for the failure to show.
        let end = Ending(&stop);
        rows_follow(&database, &sent);

        // Stopped under load: archives of both channels go on, rows follow later.
        database.stop();
        let back = Instant::now() + outage();
        let (archived, beside_archived) = (count(&site, "adt"), count(&site, "other"));
        within(PATIENCE, "the archive goes on without the database", || {
            (count(&site, "adt") > archived + 50 && count(&site, "other") > beside_archived + 50)
                .then_some(())
        });
        std::thread::sleep(back.saturating_duration_since(Instant::now()));
        database.start_again(Mode::default());
        rows_follow(&database, &sent);

        // Killed in mid-insert, and back as a read-only replica for a while.
        database.kill();
        database.start_again(Mode { read_only: true, ..Mode::default() });
        let rows = database.sql("SELECT COUNT(*) FROM results");
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(database.sql("SELECT COUNT(*) FROM results"), rows, "a read-only server took a row");
        database.stop();
        database.start_again(Mode::default());
        rows_follow(&database, &sent);

        // A link that is cut again and again, and one that says nothing any more.
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(100));
            link.cut();
        }
        link.stop(true);
        std::thread::sleep(Duration::from_secs(3));
        link.stop(false);
        rows_follow(&database, &sent);
        drop(end);
    });

    let (sent, beside) = (sent.into_inner(), beside.into_inner());
    let expected = sent.to_string();
    within(DRAIN, "all rows are there", || {
        (database.sql("SELECT COUNT(*) FROM results") == expected).then_some(())
    });
    wait_files(&site.path("archive/adt"), ".hl7", sent);
    wait_files(&site.path("archive/other"), ".hl7", beside);
    server.wait_count("adt", "delivered", sent as u64);
    assert_eq!(site.list(&["failed", "list"]), Vec::<Value>::new());
    assert_eq!(database.sql("SELECT COUNT(*) FROM results"), expected, "and stay as many");
    assert_eq!(database.sql("SELECT COUNT(DISTINCT control) FROM results"), expected);
    // Each patient's rows came in the order of its messages.
    let turned = "SELECT COUNT(*) FROM results a JOIN results b ON a.patient = b.patient \
                  AND a.id < b.id AND a.control > b.control";
    assert_eq!(database.sql(turned), "0");
    assert!(!site.log().contains(PASSWORD), "the password stands in the log");
}

/// Tells the senders to stop, by whatever way the test leaves.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn count(site: &Site, name: &str) -> usize {
    files(&site.path(&format!("archive/{name}")), ".hl7").len()
}

/// Waits until every message acknowledged by now, and some more, is a row.
#[track_caller]
fn rows_follow(database: &DatabaseServer, sent: &AtomicUsize) {
    let began = Instant::now();
    let goal = sent.load(SeqCst) + 50;
    within(DRAIN, "the rows follow the messages", || {
        // The table is created with the first connection.
        let listed = database.try_sql("SELECT COUNT(*) FROM results")?;
        (listed.parse::<usize>().unwrap() >= goal).then_some(())
    });
    eprintln!("{goal} rows after {:.1} s", began.elapsed().as_secs_f32());
}

#[test]
fn look_ups_merges_and_failures_on_sqlite() {
    let mut site = Site::new();
    let port = site.port();
    let file = site.path("data/hl7.db");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    let sql = |text: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(text).unwrap();
    sql(
        "CREATE TABLE worklist (acc TEXT, ward TEXT); INSERT INTO worklist VALUES ('P1', '#1'), ('P2', '#2')",
    );
    let mut adt_channel = channel(
        &site,
        "adt",
        port,
        json!({"driver": "SQLite", "database": site.text("data/hl7.db"), "mapping_table": "worklist", "debug_table": true}),
    );
    adt_channel["db_mapping"] = json!({"ward": {"column": "acc", "match": "patient_id", "return": "ward"}});
    adt_channel["db_metadata"]["ward"] = json!({"field_name": "ward", "field_type": "String(2)"});
    adt_channel["message_types"] =
        json!({"ADT^A34": "patient_merge", "ADT^A01": "credentials", "*": "store"});
    adt_channel["credentials_metadata"] = json!({"ward": "ward", "id": "patient_id"});
    adt_channel["drop_folders"] = json!({"tasks": {"path": site.text("tasks")}});
    site.configure(json!({"channels": [adt_channel]}));
    let mut server = start(&site);
    let rows = |query: &str| -> Vec<String> {
        let connection = rusqlite::Connection::open(&file).unwrap();
        let mut statement = connection.prepare(query).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    // The table is there before the first message, as `check --plan` shows it.
    let created = within(PATIENCE, "the table is created", || {
        rows("SELECT sql FROM sqlite_master WHERE name = 'results'").pop()
    });
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let planned = words(&site.run(&["check", "--plan"]).good().stdout).replace("IF NOT EXISTS ", "");
    assert!(planned.contains(&words(&created)), "{created}\n{planned}");
    let file_of_one = site.path("one.hl7");
    std::fs::write(&file_of_one, adt("T1", "P1")).unwrap();
    let tried = site.run(&["try", file_of_one.to_str().unwrap(), "--channel", "adt"]).good().stdout;
    assert!(tried.contains("INSERT INTO \"results\"") && tried.contains("\"P1\""), "{tried}");
    assert!(tried.contains("(what ward finds)"), "{tried}");

    let mut peer = Peer::connect(port);
    for (control, patient) in [("M1", "P1"), ("M2", "P2"), ("M3", "P1")] {
        peer.exchange(&adt(control, patient)).accepts(control.as_bytes());
    }
    peer.exchange(&typed("ADT^A05^ADT_A05", "M4", "P9")).accepts(b"M4");
    let mut merge = typed("ADT^A34^ADT_A30", "M5", "P2");
    merge.extend_from_slice(b"MRG|P1^^^HOSP^MR\r");
    peer.exchange(&merge).accepts(b"M5");
    // The one without a row to look up fails, and says for which value it looked, not what that was.
    let failed =
        within(PATIENCE, "the message without a ward has failed", || site.list(&["failed", "list"]).pop());
    assert_eq!(failed["step"], "db_insert");
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("look-up \"ward\": no row") && !reason.contains("P9"), "{reason}");
    server.wait_count("adt", "delivered", 4);
    let tasks = wait_files(&site.path("tasks"), ".json", 3);
    let wards: Vec<Value> = tasks
        .iter()
        .map(|(_, task)| serde_json::from_slice::<Value>(task).unwrap()["patient"]["ward"].clone())
        .collect();
    assert_eq!(wards, ["#1", "#2", "#1"], "the task has what was looked up");

    let found = rows("SELECT control || ' ' || patient || ' ' || ward FROM results ORDER BY control");
    assert_eq!(found, ["M1 P2 #1", "M2 P2 #2", "M3 P2 #1"], "the rows of P1 are those of P2 now");
    let log = site.log();
    assert!(log.contains("2 rows of table \"results\" changed"));
    assert!(log.contains("INSERT INTO \"results\"") && log.contains("text of 2 characters"));
    // Nor is that part of any message id.
    assert!(!log.contains("#1"), "debug_table shows a value");

    // Once there is a row to find, the message that failed can be retried.
    sql("INSERT INTO worklist VALUES ('P9', '#9')");
    site.run(&["failed", "retry", "--all", "--channel", "adt"]).good();
    within(PATIENCE, "the retried message is a row", || {
        (rows("SELECT ward FROM results WHERE control = 'M4'") == ["#9"]).then_some(())
    });
    server.stop();
    assert!(Path::new(&file).exists());
}

/// Figures, not a test: `cargo build --release -p db --example inserts`, then
/// `cargo test --release --test database -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn inserts_a_second_beside_a_bare_client() {
    const MESSAGES: u32 = 4_000;
    const PATIENTS: u32 = 200;
    for engine in [Some(Engine::MariaDb), Some(Engine::PostgreSql), None] {
        let database = engine.map(|engine| DatabaseServer::start(engine, Mode::default()));
        for tasks in [1, 4, 16] {
            let mut site = Site::new();
            let port = site.port();
            let keys = match (&database, engine) {
                (Some(database), Some(engine)) => server_keys(engine, database.port),
                _ => json!({"driver": "SQLite", "database": site.path("rows.sqlite").to_str().unwrap()}),
            };
            let mut adt_channel = channel(&site, "adt", port, keys);
            adt_channel["tasks"] = json!(tasks);
            adt_channel["duplicates"] = json!("process");
            adt_channel["local_archive"] = Value::Null;
            site.configure(json!({"channels": [adt_channel]}));
            let server = start(&site);
            let paths: Vec<String> = (0..PATIENTS).map(|n| site.text(&format!("{n}.hl7"))).collect();
            for (n, path) in paths.iter().enumerate() {
                std::fs::write(path, adt(&format!("C{n}"), &format!("P{n}"))).unwrap();
            }
            let (to, repeat) = (format!("127.0.0.1:{port}"), (MESSAGES / PATIENTS).to_string());
            let mut arguments: Vec<&str> = vec!["send"];
            arguments.extend(paths.iter().map(String::as_str));
            arguments.extend(["--to", &to, "--repeat", &repeat, "--connections", "16"]);
            let began = Instant::now();
            let ran = site.run(&arguments);
            assert_eq!(ran.code, Some(0), "{ran:#?}");
            within(Duration::from_secs(300), "every row", || {
                (server.channel("adt")["delivered"].as_u64() >= Some(u64::from(MESSAGES))).then_some(())
            });
            let rate = f64::from(MESSAGES) / began.elapsed().as_secs_f64();
            eprintln!("{engine:?} tasks={tasks} through the server, receiving included: {rate:.0} inserts/s");
            if tasks == 16 {
                let example = Path::new(env!("CARGO_BIN_EXE_hl7server")).with_file_name("examples/inserts");
                let bare = std::process::Command::new(example)
                    .arg(site.path("hl7server.yaml"))
                    .arg("2")
                    .env("DB_TOKEN", PASSWORD)
                    .output();
                match bare {
                    Ok(bare) => eprint!("{}", String::from_utf8_lossy(&bare.stdout)),
                    Err(error) => eprintln!("no bare client: {error}"),
                }
            }
        }
    }
}
