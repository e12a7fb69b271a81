//! Rows through the client above the dialect, against a peer that keeps a table and is cut off at random: with
//! `message_key` each message is there exactly once at the end.

use crate::peer::requests::{Parameter, Seen, Statement};
use crate::peer::tokens::{self, Cell, Kind, ServerError};
use crate::peer::{Answer, Peer, Script, Trouble};
use db::{Client, Database, Fault, Row, Source};
use jiff::civil::datetime;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// How many messages.
const MESSAGES: usize = 300;

/// A table `results` with a unique `message_id`, and what each connection has inserted since it began.
#[derive(Default)]
struct Server {
    rows: BTreeMap<String, Vec<Parameter>>,
    open: HashMap<usize, Vec<(String, Vec<Parameter>)>>,
    requests: u32,
    dice: u32,
}

/// What goes wrong with a request.
enum Luck {
    Fine,
    CutBefore,
    /// It is carried out, and its answer is lost.
    CutAfter,
    Error(u32, u8),
}

impl Server {
    fn luck(&mut self) -> Luck {
        self.requests += 1;
        // xorshift: the same run every time.
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 17;
        self.dice ^= self.dice << 5;
        match self.dice % 20 {
            0 => Luck::CutBefore,
            1 => Luck::CutAfter,
            2 => Luck::Error(1_205, 13),
            3 => Luck::Error(3_906, 16),
            4 => Luck::Error(40_501, 20),
            _ => Luck::Fine,
        }
    }

    fn take(&mut self, connection: usize, seen: &Seen) -> Option<Answer> {
        if *seen == Seen::Gone {
            self.open.remove(&connection);
            return None;
        }
        let luck = self.luck();
        let answer = match luck {
            Luck::CutBefore => return Some(Answer::Trouble(Trouble::HangUp)),
            Luck::Error(number, class) => {
                self.open.remove(&connection);
                let message = "nothing of a row".to_owned();
                return Some(Answer::Tokens(tokens::failed(&ServerError { number, class, message })));
            }
            Luck::Fine | Luck::CutAfter => self.carry_out(connection, seen),
        };
        if matches!(luck, Luck::CutAfter) { Some(Answer::Trouble(Trouble::HangUp)) } else { answer }
    }

    fn carry_out(&mut self, connection: usize, seen: &Seen) -> Option<Answer> {
        match seen {
            Seen::Batch(sql) if sql == "BEGIN TRANSACTION" => drop(self.open.insert(connection, Vec::new())),
            Seen::Batch(sql) if sql == "COMMIT TRANSACTION" => {
                self.rows.extend(self.open.remove(&connection).unwrap_or_default());
            }
            Seen::Batch(sql) if sql.ends_with("ROLLBACK TRANSACTION") => drop(self.open.remove(&connection)),
            Seen::Statement(statement) => return Some(Answer::Tokens(self.statement(connection, statement))),
            Seen::Batch(_) | Seen::Login { .. } | Seen::Gone => {}
        }
        None
    }

    fn statement(&mut self, connection: usize, statement: &Statement) -> Vec<u8> {
        if statement.sql.contains("sys.columns") {
            return catalogue();
        }
        assert!(statement.sql.starts_with("INSERT INTO [dbo].[results] ("), "{}", statement.sql);
        let Some(Parameter::Text(key)) = statement.parameters.last() else { panic!("{statement:?}") };
        let row = (key.clone(), statement.parameters.clone());
        let open = self.open.get_mut(&connection);
        if self.rows.contains_key(key) || open.as_ref().is_some_and(|rows| rows.iter().any(|r| r.0 == *key)) {
            return tokens::affected(0);
        }
        match open {
            Some(rows) => rows.push(row),
            None => drop(self.rows.insert(row.0, row.1)),
        }
        tokens::affected(1)
    }
}

fn catalogue() -> Vec<u8> {
    let (text, int) = (Kind::NVarChar(128), Kind::Int);
    let columns = [
        ("", text),
        ("", text),
        ("", text),
        ("", int),
        ("", int),
        ("", int),
        ("", int),
        ("", int),
        ("", int),
    ];
    let row = |name: &str, kind: &str, bytes: i32, unique| {
        let texts = [name, kind, kind].map(|text| Cell::Text(text.to_owned()));
        texts.into_iter().chain([bytes, 0, 0, 1, 0, unique].map(Cell::Int)).collect::<Vec<_>>()
    };
    tokens::table(
        &columns,
        &[
            row("PATIENT", "nvarchar", 100, 0),
            row("SEEN", "datetime2", 8, 0),
            row("message_id", "nvarchar", 40, 1),
        ],
    )
}

fn database(port: u16) -> Database {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hl7server.yaml");
    let yaml = format!(
        "
channels:
  - name: lab
    port: 20001
    mapping: {{patient: PID.1.3.1}}
    db_insert:
      driver: ODBC Driver 17 for SQL Server
      server: localhost
      port: {port}
      username: hl7
      database: lab
      table: dbo.results
      message_key: message_id
      timeout: 20
      tls: disable
    db_metadata:
      patient: {{field_name: PATIENT, field_type: String(50)}}
      seen: {{field_name: SEEN, field_type: DateTime, auto: true}}
"
    );
    std::fs::write(&path, yaml).unwrap();
    let loaded = config::load(&path, &|_| true, config::Mode::Check).unwrap();
    Database::new(&loaded.config.channels[0], None).unwrap()
}

#[test]
fn with_a_message_key_every_message_is_there_exactly_once_whatever_the_line_does() {
    let server = Arc::new(Mutex::new(Server { dice: 0x9e37_79b9, ..Server::default() }));
    let peer = Peer::start(Script {
        answers: Box::new({
            let server = Arc::clone(&server);
            move |connection, seen| server.lock().unwrap().take(connection, seen)
        }),
        ..Script::default()
    });
    let mut client = Client::new(&database(peer.port));
    let row = |number: usize| {
        let patient = format!("Müller 𝄞 {number}");
        let value = |name: &str| (name == "patient").then_some(patient.as_str());
        let source =
            Source { id: &format!("{number:020}"), value: &value, now: datetime(2024, 2, 29, 12, 0, 0, 0) };
        client.table().row(&source).unwrap()
    };
    let mut waiting: Vec<Row> = (0..MESSAGES).map(row).collect();
    let (mut rounds, mut faults) = (0, 0);
    // Ten at a time, as a job has them; then one by one.
    while !waiting.is_empty() {
        rounds += 1;
        assert!(rounds < 10_000, "{} are still not there", waiting.len());
        let many = if rounds % 2 == 0 { 10 } else { 1 };
        let now: Vec<Row> = waiting.drain(..many.min(waiting.len())).collect();
        for (row, done) in now.iter().zip(client.insert_many(&now)) {
            match done {
                Ok(_) => {}
                Err(Fault::Again { .. }) => {
                    faults += 1;
                    waiting.push(row.clone());
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    let server = server.lock().unwrap();
    assert_eq!(server.rows.len(), MESSAGES);
    eprintln!("{faults} faults in {} requests", server.requests);
    assert!(faults > 20, "the line was too good: {faults} faults in {} requests", server.requests);
    for (key, row) in &server.rows {
        let number: usize = key.parse().unwrap();
        assert_eq!(row[0], Parameter::Text(format!("Müller 𝄞 {number}")));
    }
}
