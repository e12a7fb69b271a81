//! Servers that stop, die, fall silent, turn read-only, are full, or are not who they should be.

use crate::databases::{Engine, Mode, PASSWORD};
use crate::support::{Place, down, failed, insert, row};
use db::{Client, Database, Fault, Inserted, Row, Value};
use std::time::{Duration, Instant};

const COLUMNS: &str = "mapping: {patient_id: PID.1.1, ward: PID.1.2}
db_metadata:
  patient_id: {field_name: patient, field_type: String(20), nullable: false}
";
const TABLE: &str = "table: t\ncreate_table: true\nmessage_key: k\ntimeout: 2\n";
/// The timeout, and what a loaded machine adds.
const BOUND: Duration = Duration::from_secs(6);

/// A test function for each server.
macro_rules! on_both_servers {
    ($($promise:ident($mode:expr)),* $(,)?) => {
        $(mod $promise {
            use super::*;

            #[test]
            fn mariadb() {
                super::$promise(&mut Place::server(Engine::MariaDb, $mode));
            }

            #[test]
            fn postgresql() {
                super::$promise(&mut Place::server(Engine::PostgreSql, $mode));
            }
        })*
    };
}

on_both_servers!(
    an_outage_is_waited_out_and_nothing_is_inserted_twice(Mode::default()),
    what_is_not_the_messages_fault_does_not_fail_it(Mode { connections: 3, ..Mode::default() }),
    a_server_must_show_the_certificate_that_is_asked_for(Mode { tls: true, ..Mode::default() }),
);

fn an_outage_is_waited_out_and_nothing_is_inserted_twice(place: &mut Place) {
    let client = &mut place.client(TABLE, COLUMNS);
    let one = |client: &mut Client, n| insert(client, n, &[("patient_id", "x")]);
    assert_eq!(one(client, 1), Ok(Inserted::New));

    // Closed behind our back: made anew, and nobody notices.
    let killed = match place.running().engine {
        Engine::MariaDb => {
            place.sql("SELECT CONCAT('KILL ', id) FROM information_schema.processlist WHERE user = 'hl7'")
        }
        Engine::PostgreSql => {
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hl7'".to_owned()
        }
    };
    place.sql(&killed);
    assert_eq!(one(client, 2), Ok(Inserted::New));

    // Stopped, as for maintenance.
    place.running().stop();
    let reason = down(one(client, 3));
    assert!(reason.contains("connection refused"), "{reason}");
    place.running().start_again(Mode::default());
    assert_eq!(one(client, 3), Ok(Inserted::New));

    // Silent: neither a kept connection nor a new one is waited for longer than the timeout.
    place.running().freeze();
    for client in [&mut *client, &mut place.client(TABLE, COLUMNS)] {
        let began = Instant::now();
        let reason = down(one(client, 4));
        assert!(reason.contains("no answer within 2 s"), "{reason}");
        assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    }
    place.running().thaw();
    assert_eq!(one(client, 5), Ok(Inserted::New));

    // Killed in mid-insert: whatever got through is not inserted again.
    let first = insert_until_killed(place, client);
    place.running().start_again(Mode::default());
    let client = &mut place.client(TABLE, COLUMNS);
    assert!(client.insert_many(&job(client, first)).iter().all(Result::is_ok));
    let before = place.sql("SELECT COUNT(*) FROM t WHERE k < '01TEST00000000000100'");
    let before: u32 = before.parse().unwrap();
    // The one sent to the frozen server may have been inserted when that went on.
    assert!((4..=5).contains(&before), "{before}");
    let expected = (before + first + 64 - 100).to_string();
    assert_eq!(place.sql("SELECT COUNT(*) FROM t"), expected);
    assert_eq!(place.sql("SELECT COUNT(DISTINCT k) FROM t"), expected);

    // Back as a read-only replica.
    place.running().stop();
    place.running().start_again(Mode { read_only: true, ..Mode::default() });
    let reason = down(one(client, 3_000_000));
    assert!(reason.contains("read-only") || reason.contains("read only"), "{reason}");
    assert_eq!(client.probe().unwrap().problems, Vec::<String>::new());
    place.running().stop();
    place.running().start_again(Mode::default());
    assert_eq!(one(client, 3_000_000), Ok(Inserted::New));
}

/// The rows of a job that begins with message `first`.
fn job(client: &Client, first: u32) -> Vec<Row> {
    (first..first + 64).map(|n| row(client, n, &[("patient_id", "x")]).unwrap()).collect()
}

/// Inserts job after job, kills the server meanwhile, and gives the first message of the job that did not get through.
fn insert_until_killed(place: &mut Place, client: &mut Client) -> u32 {
    std::thread::scope(|scope| {
        let inserting = scope.spawn(|| {
            for first in (100..).step_by(64) {
                let outcomes = client.insert_many(&job(client, first));
                for outcome in &outcomes {
                    assert!(!matches!(outcome, Err(Fault::Failed(_))), "{outcome:?}");
                }
                if outcomes.iter().any(Result::is_err) {
                    return first;
                }
            }
            unreachable!("the server is killed")
        });
        std::thread::sleep(Duration::from_millis(150));
        place.running().kill();
        inserting.join().unwrap()
    })
}

fn what_is_not_the_messages_fault_does_not_fail_it(place: &mut Place) {
    let client = &mut place.client(TABLE, COLUMNS);
    assert_eq!(insert(client, 1, &[("patient_id", "x")]), Ok(Inserted::New));

    // The message's own key held by a transaction that does not end.
    let database = place.database(TABLE, COLUMNS);
    let mut other = database.target().connect().unwrap();
    let sql = database.table().statements()[1].clone();
    other.begin().unwrap();
    let held = row(client, 2, &[("patient_id", "x")]).unwrap();
    other.execute(&sql, held.values()).unwrap();
    let began = Instant::now();
    match client.insert(&held) {
        Err(Fault::Again { target_down: false, .. }) => {}
        wrong => panic!("{wrong:?}"),
    }
    assert!(began.elapsed() < BOUND);
    other.rollback().unwrap();
    assert_eq!(client.insert(&held), Ok(Inserted::New));

    // Too many connections.
    let mut others = vec![other];
    let refused = loop {
        match database.target().connect() {
            Ok(connection) => others.push(connection),
            Err(fault) => break fault,
        }
    };
    let reason = down::<()>(Err(refused));
    assert!(reason.to_lowercase().contains("connections"), "{reason}");
    drop(others);

    // A wrong password, a wrong database: the settings' fault, and no message's.
    let channel = place.channel(TABLE, COLUMNS);
    let client_with =
        |channel: &config::Channel, password| Client::new(&Database::new(channel, Some(password)).unwrap());
    let refused = down(insert(&mut client_with(&channel, "wrong"), 3, &[("patient_id", "x")]));
    assert!(!refused.contains("wrong") && !refused.contains(PASSWORD), "{refused}");
    let mut elsewhere = channel.clone();
    elsewhere.db_insert.as_mut().unwrap().database = "nowhere".to_owned();
    down(insert(&mut client_with(&elsewhere, PASSWORD), 3, &[("patient_id", "x")]));

    // A table, a column, a right that is missing: the message's, since waiting mends none of them.
    let mut gone = channel.clone();
    let keys = gone.db_insert.as_mut().unwrap();
    (keys.table, keys.create_table) = ("gone".to_owned(), false);
    failed(insert(&mut client_with(&gone, PASSWORD), 3, &[("patient_id", "x")]));
    let mut column = channel.clone();
    column.db_metadata[0].column = "gone".to_owned();
    let reason = failed(insert(&mut client_with(&column, PASSWORD), 3, &[("patient_id", "x")]));
    assert!(reason.contains("gone"), "{reason}");
    let revoke = match place.running().engine {
        Engine::MariaDb => "REVOKE ALL ON hl7.* FROM 'hl7'@'%'; GRANT SELECT ON hl7.* TO 'hl7'@'%'",
        Engine::PostgreSql => {
            "ALTER TABLE t OWNER TO postgres; REVOKE ALL ON t FROM hl7; GRANT SELECT ON t TO hl7"
        }
    };
    place.sql(revoke);
    let client = &mut place.client(TABLE, COLUMNS);
    failed(insert(client, 3, &[("patient_id", "x")]));
    assert_eq!(client.probe().unwrap().problems, ["no right to INSERT on table \"t\""]);
    assert_eq!(place.sql("SELECT COUNT(*) FROM t"), "2");
}

fn a_server_must_show_the_certificate_that_is_asked_for(place: &mut Place) {
    let ca = format!("ca_file: {:?}\n", place.running().ca());
    let mut connected = |lines: &str, server: &str| {
        let mut channel = place.channel(&format!("table: t\ntimeout: 2\n{lines}"), COLUMNS);
        channel.db_insert.as_mut().unwrap().server = server.to_owned();
        let mut connection = Database::new(&channel, Some(PASSWORD)).unwrap().target().connect()?;
        let sql = match place.running().engine {
            Engine::MariaDb => {
                "SELECT variable_value <> '' FROM information_schema.session_status WHERE variable_name = 'ssl_cipher'"
            }
            Engine::PostgreSql => "SELECT ssl::int FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        };
        let rows = connection.query(sql, &[], 1)?;
        Ok::<bool, Fault>(rows[0][0] == Value::Integer(1))
    };
    for tls in ["tls: require\n", "tls: prefer\n", ""] {
        let refused = down(connected(tls, "localhost"));
        assert!(refused.contains("certificate") && refused.contains("ca_file"), "{tls} {refused}");
        assert_eq!(connected(&format!("{tls}{ca}"), "localhost"), Ok(true), "{tls}");
        assert_eq!(connected(&format!("{tls}certificate: false\n"), "localhost"), Ok(true), "{tls}");
        // The certificate is for another name.
        down(connected(&format!("{tls}{ca}"), "127.0.0.1"));
    }
    assert_eq!(connected("tls: disable\n", "localhost"), Ok(false));
    down(connected("tls: require\nca_file: /does/not/exist\n", "localhost"));

    place.running().stop();
    place.running().start_again(Mode::default());
    let connected = |tls: &str| {
        let channel = place.channel(&format!("table: t\ntimeout: 2\n{tls}"), COLUMNS);
        Database::new(&channel, Some(PASSWORD)).unwrap().target().connect().map(drop)
    };
    let refused = down(connected("tls: require\n"));
    assert!(refused.contains("TLS"), "{refused}");
    assert_eq!(connected("tls: prefer\n"), Ok(()));
}

#[test]
fn an_sqlite_file_that_is_locked_or_not_writable_is_waited_for() {
    let place = Place::sqlite();
    let client = &mut place.client("table: t\ncreate_table: true\nmessage_key: k\ntimeout: 1\n", COLUMNS);
    assert_eq!(insert(client, 1, &[("patient_id", "x")]), Ok(Inserted::New));
    let database = place.database("table: t\nmessage_key: k\ntimeout: 1\n", COLUMNS);
    let mut other = database.target().connect().unwrap();
    other.begin().unwrap();
    let began = Instant::now();
    match insert(client, 2, &[("patient_id", "x")]) {
        Err(Fault::Again { target_down: false, .. }) => {}
        wrong => panic!("{wrong:?}"),
    }
    assert!(began.elapsed() >= Duration::from_millis(900) && began.elapsed() < BOUND);
    other.rollback().unwrap();
    assert_eq!(insert(client, 2, &[("patient_id", "x")]), Ok(Inserted::New));

    // Without create_table a file that is not there is not made up.
    let nowhere = Place::sqlite();
    let reason = down(insert(&mut nowhere.client("table: t\n", COLUMNS), 1, &[("patient_id", "x")]));
    assert!(reason.contains("no such file"), "{reason}");
}
