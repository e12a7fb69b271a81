//! Statements and what comes back: values, rows, transactions, the catalogue, errors.

use super::{connect, server_error, text};
use crate::peer::requests::{Parameter, Seen};
use crate::peer::tokens::{self, Cell};
use crate::peer::{Peer, Script};
use config::Driver;
use db::{Fault, Kind, Right, Value};
use jiff::civil::datetime;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use proptest::{collection, option};
use std::cell::RefCell;

#[test]
fn an_insert_sends_each_kind_of_value_as_a_parameter_of_its_type() {
    let peer = Peer::start(Script::default());
    let mut connection = connect(&peer);
    let long = "ä€𝄞".repeat(2_000);
    let params = [
        Value::Integer(-5),
        Value::Integer(i64::MAX),
        text(""),
        text("Müller-Lüdenscheidt 𝄞 中文\0'; DROP TABLE t--"),
        text(&long),
        Value::Null,
        Value::Time(datetime(2024, 2, 29, 12, 34, 56, 123_456_000)),
    ];
    let sql = "INSERT INTO [t] ([a]) VALUES (@P1, @P2, @P3, @P4, @P5, @P6, @P7)";
    assert_eq!(connection.execute(sql, &params), Ok(1));
    let [statement] = &peer.statements()[..] else { panic!("{:?}", peer.statements()) };
    assert_eq!(statement.sql, "INSERT INTO [t] ([a]) VALUES (@P1, @P2, @P3, @P4, @P5, NULL, @P6)");
    assert_eq!(
        statement.declared,
        "@P1 bigint,@P2 bigint,@P3 nvarchar(4000),@P4 nvarchar(4000),@P5 nvarchar(max),@P6 datetime2"
    );
    assert_eq!(
        statement.parameters,
        [
            Parameter::Integer(-5),
            Parameter::Integer(i64::MAX),
            Parameter::Text(String::new()),
            Parameter::Text("Müller-Lüdenscheidt 𝄞 中文\0'; DROP TABLE t--".to_owned()),
            Parameter::Text(long),
            Parameter::DateTime2(7, 452_961_234_560, 738_944),
        ]
    );
}

#[test]
fn the_count_of_rows_is_the_statements_own_and_not_a_triggers() {
    let mut with_trigger = tokens::affected(9);
    // The trigger's count alone, then the statement's with the procedure's end.
    with_trigger.truncate(13);
    with_trigger.extend(tokens::affected(0));
    let peer = Peer::start(Script::answering(move |_| with_trigger.clone()));
    assert_eq!(connect(&peer).execute("INSERT", &[]), Ok(0));
}

#[test]
fn a_query_reads_every_kind_of_value_and_no_more_rows_than_asked_for() {
    let columns = [
        ("id", tokens::Kind::Int),
        ("name", tokens::Kind::NVarChar(50)),
        ("report", tokens::Kind::NVarCharMax),
        ("at", tokens::Kind::DateTime2),
        ("alive", tokens::Kind::Bit),
    ];
    let report = "Befund 𝄞 ".repeat(5_000);
    let full = vec![
        Cell::Int(-7),
        Cell::Text("Jürgen 𝄞".to_owned()),
        Cell::Text(report.clone()),
        Cell::DateTime2(452_961_234_560, 738_944),
        Cell::Bit(true),
    ];
    let empty = vec![Cell::Null, Cell::Null, Cell::Null, Cell::Null, Cell::Null];
    let answer = tokens::table(&columns, &[full, empty.clone(), empty]);
    let peer = Peer::start(Script::answering(move |_| answer.clone()));
    let mut connection = connect(&peer);
    let expected = vec![
        Value::Integer(-7),
        text("Jürgen 𝄞"),
        text(&report),
        Value::Time(datetime(2024, 2, 29, 12, 34, 56, 123_456_000)),
        Value::Integer(1),
    ];
    let rows = connection.query("SELECT @P1", &[text("x")], 2).unwrap();
    assert_eq!(rows, [expected.clone(), vec![Value::Null; 5]]);
    // What was not asked for was read too: the next answer is the next one's.
    assert_eq!(connection.query("SELECT @P1", &[text("x")], 1).unwrap(), [expected]);
    assert_eq!(peer.logins(), 1);
}

#[test]
fn no_rows_are_no_rows() {
    let answer = tokens::table(&[("id", tokens::Kind::Int)], &[]);
    let peer = Peer::start(Script::answering(move |_| answer.clone()));
    let mut connection = connect(&peer);
    assert_eq!(connection.query("SELECT", &[], 2).unwrap(), Vec::<Vec<Value>>::new());
    assert_eq!(connection.columns("dbo.t").unwrap(), None);
}

#[test]
fn a_transaction_is_begun_ended_and_taken_back() {
    let peer = Peer::start(Script::default());
    let mut connection = connect(&peer);
    connection.begin().unwrap();
    connection.execute("INSERT", &[]).unwrap();
    connection.commit().unwrap();
    connection.begin().unwrap();
    connection.rollback().unwrap();
    let batch = |seen| if let Seen::Batch(sql) = seen { Some(sql) } else { None };
    let batches: Vec<String> = peer.seen().into_iter().filter_map(batch).skip(1).collect();
    assert_eq!(
        batches,
        [
            "BEGIN TRANSACTION",
            "COMMIT TRANSACTION",
            "BEGIN TRANSACTION",
            "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION"
        ]
    );
}

#[test]
fn the_columns_of_a_table_come_from_the_catalogue() {
    let text_column = tokens::Kind::NVarChar(128);
    let int = tokens::Kind::Int;
    let columns = [
        ("name", text_column),
        ("base", text_column),
        ("declared", text_column),
        ("bytes", int),
        ("precision", int),
        ("scale", int),
        ("nullable", int),
        ("filled", int),
        ("unique", int),
    ];
    let row = |name: &str, base: &str, numbers: [i32; 6]| {
        let texts = [name, base, base].map(|text| Cell::Text(text.to_owned()));
        texts.into_iter().chain(numbers.map(Cell::Int)).collect::<Vec<_>>()
    };
    let answer = tokens::table(
        &columns,
        &[row("id", "int", [4, 10, 0, 0, 1, 1]), row("message_id", "nvarchar", [40, 0, 0, 1, 0, 1])],
    );
    let peer = Peer::start(Script::answering(move |_| answer.clone()));
    let found = connect(&peer).columns("dbo.t").unwrap().unwrap();
    assert_eq!(peer.statements()[0].parameters, [Parameter::Text("[dbo].[t]".to_owned())]);
    assert_eq!((found[0].name.as_str(), found[0].kind, found[0].filled), ("id", Kind::Integer(32), true));
    assert_eq!((found[1].declared.as_str(), found[1].kind), ("NVARCHAR(20)", Kind::Text(Some(20))));
    assert!(found[1].nullable && found[1].unique && !found[1].filled && !found[0].nullable);
}

#[test]
fn a_right_that_the_user_lacks_is_found() {
    let peer = Peer::start(Script::answering(|statement| {
        let lacking = statement.parameters[1] == Parameter::Text("UPDATE".to_owned());
        let cell = if lacking { Cell::Int(0) } else { Cell::Int(1) };
        tokens::table(&[("", tokens::Kind::Int)], &[vec![cell]])
    }));
    let missing = connect(&peer).missing_rights("t", &[Right::Insert, Right::Update]).unwrap();
    assert_eq!(missing, [Right::Update]);
}

#[test]
fn a_failed_statement_leaves_the_connection_and_one_that_may_pass_ends_it() {
    let peer = Peer::start(Script::answering(|statement| match statement.sql.parse().unwrap_or(0) {
        0 => tokens::affected(1),
        1_205 => tokens::failed(&server_error(1_205, 13, "text")),
        number => tokens::failed(&server_error(number, 16, "text")),
    }));
    let mut connection = connect(&peer);
    assert!(matches!(connection.execute("547", &[]), Err(Fault::Failed(_))));
    assert!(matches!(connection.query("208", &[], 1), Err(Fault::Failed(_))));
    assert!(matches!(connection.execute("2627", &[]), Err(Fault::Duplicate(_))));
    assert!(connection.is_alive());
    assert_eq!(connection.execute("fine", &[]), Ok(1));
    assert!(matches!(connection.execute("1205", &[]), Err(Fault::Again { target_down: false, .. })));
    assert!(!connection.is_alive());
    assert!(connection.execute("fine", &[]).unwrap_err().is_again());
    assert_eq!(peer.logins(), 1);
}

/// Keeps every line that is logged.
struct Lines;

static LINES: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        LINES.lock().unwrap().push(record.args().to_string());
    }
    fn flush(&self) {}
}

#[test]
fn what_a_server_says_of_a_row_is_neither_logged_nor_a_reason() {
    log::set_logger(&Lines).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let answers: [fn() -> Vec<u8>; 3] = [
        || {
            tokens::failed(&server_error(
                2_628,
                16,
                "… in table 't', column 'c'. Truncated value: 'MUELLER'.",
            ))
        },
        || tokens::failed(&server_error(50_000, 16, "MUELLER came in")),
        || tokens::table(&[("c", tokens::Kind::NVarChar(9))], &[vec![Cell::Text("MUELLER".to_owned())]]),
    ];
    for answer in answers {
        let peer = Peer::start(Script::answering(move |_| answer()));
        if let Err(fault) = connect(&peer).query("SELECT", &[text("MUELLER")], 2) {
            assert!(!format!("{fault:?}").contains("MUELLER"), "{fault:?}");
        }
    }
    let lines = LINES.lock().unwrap();
    assert!(!lines.iter().any(|line| line.contains("MUELLER")), "{lines:#?}");
    // The password is in no line either.
    assert!(!lines.iter().any(|line| line.contains("geheim")), "{lines:#?}");
}

#[test]
fn names_and_values_of_any_letters_stay_names_and_values() {
    let peer = Peer::start(Script::default());
    let connection = RefCell::new(connect(&peer));
    let dialect = db::dialect(Driver::SqlServer);
    let hostile = prop_oneof![
        any::<String>(),
        "[\\]\\['\"@P0-9;%_ \\\\\0/*-]{0,24}",
        Just("']]; DROP TABLE t; --".to_owned()),
        Just("@P1".to_owned()),
    ];
    let strategy = (collection::vec(hostile.clone(), 3), collection::vec(option::of(hostile), 3));
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() };
    let outcome = TestRunner::new(config).run(&strategy, |(names, values)| {
        let columns: Vec<&str> = names.iter().map(String::as_str).collect();
        let sql = dialect.insert("t", &columns, Some(columns[0]));
        let params: Vec<Value> = values.iter().map(|v| v.as_deref().map_or(Value::Null, text)).collect();
        connection.borrow_mut().execute(&sql, &params).unwrap();
        let sent = peer.statements().pop().unwrap();
        let expected: Vec<_> = values.iter().flatten().cloned().map(Parameter::Text).collect();
        prop_assert_eq!(sent.parameters, expected);
        let mut place = 0;
        let mut at = |value: &Option<String>| match value {
            Some(_) => {
                place += 1;
                format!("@P{place}")
            }
            None => "NULL".to_owned(),
        };
        let places: Vec<String> = values.iter().map(&mut at).collect();
        let skeleton = format!(
            "INSERT INTO [] ([], [], []) SELECT {} WHERE NOT EXISTS (SELECT 1 FROM [] WHERE [] = {})",
            places.join(", "),
            places[0],
        );
        prop_assert_eq!(without_names(&sent.sql), skeleton);
        Ok(())
    });
    outcome.unwrap();
}

/// A statement with its bracketed names left out, as SQL Server reads them: `]]` is a bracket within.
fn without_names(sql: &str) -> String {
    let mut left = String::new();
    let mut letters = sql.chars().peekable();
    while let Some(letter) = letters.next() {
        left.push(letter);
        if letter != '[' {
            continue;
        }
        loop {
            match letters.next() {
                Some(']') if letters.next_if_eq(&']').is_some() => {}
                Some(']') => break,
                Some(_) => {}
                None => panic!("a name without end in {sql}"),
            }
        }
        left.push(']');
    }
    left
}
