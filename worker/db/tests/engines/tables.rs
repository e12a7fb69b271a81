//! Tables that are there already, look-ups, merges, redelivery.

use crate::on_every_engine;
use crate::support::{Place, failed, id, insert, row};
use db::{Fault, Inserted};

on_every_engine!(
    look_ups_find_one_value_or_say_why_not,
    a_merge_gives_every_row_to_the_survivor,
    redelivery_inserts_nothing_twice,
    a_table_that_is_there_is_compared_and_left_alone
);

const LOOKUPS: &str = "mapping: {accession: PID.1.1, number: PID.1.2}
mapping_ignore: [maybe]
db_mapping:
  ward: {column: acc, match: accession, return: ward}
  maybe: {column: acc, match: accession, return: ward}
  by_number: {column: num, match: number, return: at}
";

fn look_ups_find_one_value_or_say_why_not(place: &mut Place) {
    let time = if place.keys().contains("SQLite") { "TEXT" } else { "TIMESTAMP NULL" };
    place.sql(&format!("CREATE TABLE worklist (acc VARCHAR(20), num INTEGER, ward VARCHAR(20), at {time})"));
    place.sql(
        "INSERT INTO worklist (acc, num, ward, at) VALUES ('A1', 1, 'äöü', '2026-01-02 03:04:05'), \
         ('A2', 2, 'same', NULL), ('A2', 2, 'same', NULL), ('A3', 3, 'x', NULL), ('A3', 3, 'y', NULL), \
         ('A4', 12, NULL, NULL)",
    );
    let client = &mut place.client("table: worklist\nmapping_table: worklist\n", LOOKUPS);
    assert_eq!(client.prepare().unwrap(), Vec::<String>::new());
    let some = |text: &str| Ok(Some(text.to_owned()));

    assert_eq!(client.lookup(0, Some("A1")), some("äöü"));
    assert_eq!(client.lookup(0, Some("A2")), some("same"), "equal values are one");
    assert_eq!(client.lookup(0, Some("A4")), Ok(None), "a null is found");
    assert_eq!(
        failed(client.lookup(0, Some("A3"))),
        "look-up \"ward\": several rows with different \"ward\""
    );
    let missing =
        "look-up \"ward\": no row has this \"accession\". Name it in mapping_ignore if that is all right";
    for nothing in [Some("none"), Some("' OR 1=1 --"), Some("%"), Some(""), None] {
        assert_eq!(failed(client.lookup(0, nothing)), missing, "{nothing:?}");
        assert_eq!(client.lookup(1, nothing), Ok(None));
    }
    // A column of numbers: a text that only begins like one finds nothing.
    for nothing in ["12abc", "", "1e0", "1.0", "'1'", "99999999999999999999"] {
        assert!(failed(client.lookup(2, Some(nothing))).contains("no row"), "{nothing}");
    }
    let time = client.lookup(2, Some("1")).unwrap().unwrap();
    let expected = if place.keys().contains("SQLite") { "2026-01-02 03:04:05" } else { "20260102030405" };
    assert_eq!(time, expected, "a time comes as HL7 writes it");

    place.sql("DROP TABLE worklist");
    assert!(failed(client.lookup(0, Some("A1"))).starts_with("look-up \"ward\": "));
}

fn a_merge_gives_every_row_to_the_survivor(place: &mut Place) {
    let columns = "mapping: {patient_id: PID.1.3.1}
db_metadata:
  row: {field_name: id, field_type: Integer, autoincrement: true}
  patient_id: {field_name: patient, field_type: String(20), nullable: false}
";
    let client = &mut place.client("table: results\ncreate_table: true\nmessage_key: message_id\n", columns);
    client.prepare().unwrap();
    let rows: Vec<_> = (0..1000).map(|n| row(client, n, &[("patient_id", "OLD")]).unwrap()).collect();
    let done = client.insert_many(&rows);
    assert!(done.iter().all(|one| *one == Ok(Inserted::New)));
    for (n, other) in (2000..).zip(["old", "OLD ", "ÖLD", "OLD2", "NEW", "%", "one"]) {
        insert(client, n, &[("patient_id", other)]).unwrap();
    }
    let pair = |survivor: &str, prior: &str| client.table().merge_values(survivor, prior);
    let none = pair("NEW", "NOBODY").unwrap();
    let thousand = pair("NEW", "OLD").unwrap();
    let (one, same) = (pair("N'W", "one").unwrap(), pair("%", "%").unwrap());
    assert!(pair("", "OLD").unwrap_err().contains("surviving"));
    assert!(pair("NEW", "").unwrap_err().contains("prior"));
    assert!(pair("NEW", &"x".repeat(21)).unwrap_err().contains("column \"patient\""));

    assert_eq!(client.merge(std::slice::from_ref(&none)), Ok(0));
    assert_eq!(client.merge(&[same]), Ok(0));
    assert_eq!(client.merge(&[one, thousand.clone(), none]), Ok(1001));
    assert_eq!(client.merge(&[thousand]), Ok(0), "a second time there is nothing left");
    assert_eq!(place.sql("SELECT COUNT(*) FROM results WHERE patient = 'NEW'"), "1001");
    let left = "SELECT patient FROM results WHERE patient <> 'NEW' ORDER BY id";
    assert_eq!(
        place.sql(left),
        "old\nOLD \nÖLD\nOLD2\n%\nN'W",
        "letter by letter the prior patient's, or not at all"
    );
}

fn redelivery_inserts_nothing_twice(place: &mut Place) {
    let columns = "mapping: {v: PID.1.1}
db_metadata:
  v: {field_name: v, field_type: String(10)}
  draw: {field_name: draw, field_type: String(1), random: true}
";
    place.sql("CREATE TABLE t (v VARCHAR(10), draw VARCHAR(1), k VARCHAR(20) NOT NULL, once VARCHAR(10))");
    let client = &mut place.client("table: t\nmessage_key: k\n", columns);

    // Without a unique index it says so, and still inserts nothing twice.
    let notes = client.prepare().unwrap();
    assert!(notes.len() == 1 && notes[0].contains("no unique index"), "{notes:?}");
    assert_eq!(insert(client, 1, &[("v", "a")]), Ok(Inserted::New));
    assert_eq!(insert(client, 1, &[("v", "a")]), Ok(Inserted::AlreadyThere));

    place.sql("CREATE UNIQUE INDEX t_k ON t (k)");
    place.sql("CREATE UNIQUE INDEX t_v ON t (v)");
    let client = &mut place.client("table: t\nmessage_key: k\n", columns);
    assert_eq!(client.prepare().unwrap(), Vec::<String>::new());
    assert_eq!(insert(client, 1, &[("v", "a")]), Ok(Inserted::AlreadyThere));
    assert_eq!(insert(client, 2, &[("v", "b")]), Ok(Inserted::New));
    assert_eq!(insert(client, 2, &[("v", "b")]), Ok(Inserted::AlreadyThere));
    // Another message's value under another unique index is no redelivery.
    failed(insert(client, 3, &[("v", "a")]));
    assert_eq!(insert(client, 3, &[("v", "c")]), Ok(Inserted::New), "a failed row leaves nothing behind");

    // Together: some there, some new, one that fails, one twice in the same job.
    let rows: Vec<_> = [(2, "b"), (4, "d"), (5, "a"), (6, "e"), (6, "e"), (7, "f")]
        .map(|(n, v)| row(client, n, &[("v", v)]).unwrap())
        .into();
    let done = client.insert_many(&rows);
    let ends: Vec<_> = done.iter().map(|one| one.as_ref().ok().copied()).collect();
    use Inserted::{AlreadyThere, New};
    assert_eq!(ends, [Some(AlreadyThere), Some(New), None, Some(New), Some(AlreadyThere), Some(New)]);
    assert!(matches!(done[2], Err(Fault::Failed(_))));
    assert_eq!(place.sql("SELECT v FROM t ORDER BY v"), "a\nb\nc\nd\ne\nf");

    // A random value that is another message's is drawn again.
    place.sql("CREATE UNIQUE INDEX t_draw ON t (draw, once)");
    let taken = place.sql("SELECT COUNT(DISTINCT draw) FROM t");
    assert!(taken.parse::<u32>().unwrap() > 1, "drawn for each");
}

fn a_table_that_is_there_is_compared_and_left_alone(place: &mut Place) {
    let sqlite = place.keys().contains("SQLite");
    place.sql("CREATE TABLE old (num SMALLINT, code VARCHAR(3), at DATE, must INTEGER NOT NULL)");
    let columns = "mapping: {num: PID.1.1, code: PID.1.2, at: PID.1.4, gone: PID.1.5}
db_metadata:
  num: {field_name: num, field_type: Integer}
  code: {field_name: code, field_type: String(5)}
  at: {field_name: at, field_type: DateTime}
  gone: {field_name: gone, field_type: Text}
";
    let insert_keys = "table: old\ncreate_table: true\nmessage_key: k\n";
    let client = &mut place.client(insert_keys, columns);
    let notes = client.prepare().unwrap();
    let has = |what: &str| notes.iter().any(|note| note.contains(what));
    assert!(has("no column \"gone\": inserts will fail"), "{notes:?}");
    assert!(has("no column \"k\" (message_key)"), "{notes:?}");
    assert!(has("column \"must\" of table \"old\" must have a value"), "{notes:?}");
    // SQLite keeps anything in any column.
    assert_eq!(has("db_metadata says Integer"), !sqlite, "{notes:?}");
    assert_eq!(has("db_metadata says String(5)"), !sqlite, "{notes:?}");
    assert_eq!(has("db_metadata says DateTime"), !sqlite, "{notes:?}");

    let probe = client.probe().unwrap();
    assert_eq!(probe.problems, notes);
    failed(insert(client, 1, &[("num", "1")]));

    // Mended behind our back, it works without a restart.
    place.sql("DROP TABLE old");
    assert_eq!(place.client(insert_keys, columns).probe().unwrap().problems, Vec::<String>::new());
    let there = place.client("table: old\n", columns).probe().unwrap();
    assert_eq!(there.problems, ["there is no table \"old\""], "a probe creates nothing");
    assert_eq!(insert(client, 2, &[("num", "1")]), Ok(Inserted::New));
    assert_eq!(place.sql("SELECT k FROM old"), id(2));
}
