//! What goes into a row comes out of it, and nothing else changes.

use crate::on_every_engine;
use crate::support::{Place, failed, id, insert, row};
use db::Inserted;

on_every_engine!(
    every_kind_of_column_takes_its_values_and_refuses_others,
    hostile_values_change_only_their_own_row
);

const COLUMNS: &str = "mapping: {number: PID.1.1, code: PID.1.2, body: PID.1.3, at: PID.1.4, must: PID.1.5}
db_metadata:
  row: {field_name: id, field_type: Integer, autoincrement: true}
  number: {field_name: number, field_type: Integer}
  code: {field_name: code, field_type: String(5)}
  body: {field_name: body, field_type: Text}
  at: {field_name: at, field_type: DateTime}
  must: {field_name: must, field_type: String(5), nullable: false}
  draw: {field_name: draw, field_type: Integer, random: true}
  pin: {field_name: pin, field_type: String(6), random: true}
  inserted: {field_name: inserted, field_type: DateTime, auto: true}
";

const TABLE: &str = "table: reports
create_table: true
message_key: message_id
replace_list: {BODY: ['<br>', '\\r\\n'], must: [['a', 'b'], ['bb', '']]}
";

fn every_kind_of_column_takes_its_values_and_refuses_others(place: &mut Place) {
    // The seed's list names the column as the database spells it; ours is lower case here.
    let table = TABLE.replace("BODY", "body");
    let client = &mut place.client(&table, COLUMNS);
    assert_eq!(client.prepare().unwrap(), Vec::<String>::new(), "a table that we created is as we want it");

    let long = "x".repeat(300_000) + "äß中𝄞🩺";
    let values = [
        ("number", "-2147483648"),
        ("code", "ä中𝄞🩺\\"),
        ("body", long.as_str()),
        ("at", "20240229174209"),
        ("must", "ok"),
    ];
    assert_eq!(insert(client, 1, &values).unwrap(), Inserted::New);
    // Nothing but what must be: HL7's null and nothing at all are null.
    assert_eq!(insert(client, 2, &[("must", "x"), ("number", ""), ("code", "")]).unwrap(), Inserted::New);
    assert_eq!(insert(client, 3, &[("must", "a"), ("body", "one<br>two<br>")]).unwrap(), Inserted::New);

    let found = place.sql("SELECT number, code, must, message_id FROM reports ORDER BY id");
    let null = match place.sql("SELECT code FROM reports WHERE number IS NULL AND body IS NULL").as_str() {
        // MariaDB's client writes it out.
        "NULL" => "NULL",
        _ => "",
    };
    let expected = [
        format!("-2147483648|ä中𝄞🩺\\|ok|{}", id(1)),
        format!("{null}|{null}|x|{}", id(2)),
        format!("{null}|{null}|b|{}", id(3)),
    ];
    assert_eq!(found, expected.join("\n"));
    assert_eq!(place.sql("SELECT COUNT(*) FROM reports WHERE at IS NULL"), "2");
    let body = place.sql("SELECT body FROM reports WHERE number IS NOT NULL");
    assert!(body == long, "{} characters instead of {}", body.chars().count(), long.chars().count());
    assert_eq!(
        place.sql("SELECT REPLACE(REPLACE(body, '\r', '+'), '\n', '-') FROM reports WHERE must = 'b'"),
        "one+-two+-"
    );

    let at = place.sql("SELECT at FROM reports WHERE number IS NOT NULL").replace('T', " ");
    assert_eq!(at, "2024-02-29 17:42:09");
    let inserted = place.sql("SELECT DISTINCT inserted FROM reports").replace('T', " ");
    assert!(inserted.starts_with("2026-01-02 03:04:05"), "{inserted}");

    // Drawn from the message id: positive, of the right length, the same at every attempt, different for others.
    assert_eq!(place.sql("SELECT COUNT(*) FROM reports WHERE draw > 0 AND LENGTH(pin) = 6"), "3");
    assert_eq!(place.sql("SELECT COUNT(DISTINCT draw) + COUNT(DISTINCT pin) FROM reports"), "6");
    assert!(row(client, 1, &values).unwrap() == row(client, 1, &values).unwrap());

    // A redelivered message inserts nothing, whatever its values are now.
    assert_eq!(insert(client, 1, &[("must", "other")]).unwrap(), Inserted::AlreadyThere);

    for (name, value, wrong) in [
        ("number", "12abc", "column \"number\": the value is not a whole number"),
        ("number", "2147483648", "column \"number\": the number does not fit 32 bits"),
        ("code", "ä中𝄞🩺\\x", "column \"code\": the value has 6 characters, the column takes 5"),
        ("at", "20240230", "column \"at\": the value names no day or time that there is"),
        ("at", "soon", "column \"at\": the value is not a time as HL7 writes it"),
        ("must", "", "column \"must\": no value, and it may not be null"),
        // What replace_list leaves counts: "bb" → nothing.
        ("must", "ab", "column \"must\": no value, and it may not be null"),
    ] {
        let mut values = vec![("must", "x")];
        values.retain(|(n, _)| *n != name);
        values.push((name, value));
        assert_eq!(failed(insert(client, 9, &values)), wrong);
    }
    assert_eq!(place.sql("SELECT COUNT(*) FROM reports"), "3");
}

fn hostile_values_change_only_their_own_row(place: &mut Place) {
    // A name that is none must not reach the database at all; this one passes the loader and is quoted.
    let columns = "mapping: {v: PID.1.1}
db_metadata:
  row: {field_name: id, field_type: Integer, autoincrement: true}
  v: {field_name: select$, field_type: Text}
";
    let client = &mut place.client("table: order\ncreate_table: true\nmessage_key: group\n", columns);
    client.prepare().unwrap();
    insert(client, 1, &[("v", "first")]).unwrap();
    let values = [
        "'; DROP TABLE \"order\"; --",
        "\"; DROP TABLE `order`; --",
        "` ] \\' \\\" \\\\",
        "%s %d %n {} {0} $1 ? ?1 :v @v",
        "/* */ # -- ;",
        "') ON CONFLICT DO UPDATE SET v = ('x",
        "a\\",
        "\u{feff}\u{202e}\u{2028}\u{1b}[31m",
        "NULL",
        "x' OR '1'='1",
    ];
    for (n, value) in (10..).zip(values) {
        assert_eq!(insert(client, n, &[("v", value)]).unwrap(), Inserted::New, "{value}");
    }
    let quoted = |name: &str| match place.keys().contains("MariaDB") {
        true => format!("`{name}`"),
        false => format!("\"{name}\""),
    };
    let (table, v, key) = (quoted("order"), quoted("select$"), quoted("group"));
    for (n, value) in (10..).zip(values) {
        let found = place.sql(&format!("SELECT {v} FROM {table} WHERE {key} = '{}'", id(n)));
        assert_eq!(found, value);
    }
    // A NUL is kept or refused, never cut at.
    let nul = insert(client, 50, &[("v", "a\0b")]);
    let length = place.sql(&format!(
        "SELECT LENGTH(CAST({v} AS {})) FROM {table} WHERE {key} = '{}'",
        blob(place),
        id(50)
    ));
    match nul {
        Ok(_) => assert_eq!(length, "3"),
        Err(fault) => assert_eq!((failed::<()>(Err(fault)).contains("NUL"), length.as_str()), (true, "")),
    }
    let count = place.sql(&format!("SELECT COUNT(*) FROM {table} WHERE {v} <> 'first'"));
    assert!(count == "10" || count == "11", "{count}");
    assert_eq!(place.sql(&format!("SELECT {v} FROM {table} WHERE {key} = '{}'", id(1))), "first");
}

fn blob(place: &Place) -> &'static str {
    match place.keys().contains("PostgreSQL") {
        true => "TEXT",
        false if place.keys().contains("MariaDB") => "BINARY",
        false => "BLOB",
    }
}
