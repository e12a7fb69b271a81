//! One database of each kind, and what a channel does with it.

use crate::databases::{DATABASE, DatabaseServer, Engine, Mode, PASSWORD, USER};
use config::Channel;
use db::{Client, Database, Fault, Inserted, Row, Source};
use jiff::civil::{DateTime, date};
use std::path::PathBuf;
use tempfile::TempDir;

/// A database to test with.
pub enum Place {
    /// A file.
    Sqlite(TempDir),
    /// A server.
    Server(Box<DatabaseServer>),
}

impl Place {
    /// An SQLite file that is not there yet.
    pub fn sqlite() -> Place {
        Place::Sqlite(tempfile::tempdir().unwrap())
    }

    /// A running server.
    pub fn server(engine: Engine, mode: Mode) -> Place {
        Place::Server(Box::new(DatabaseServer::start(engine, mode)))
    }

    /// The server; there is one.
    pub fn running(&mut self) -> &mut DatabaseServer {
        match self {
            Place::Server(server) => server,
            Place::Sqlite(_) => panic!("SQLite has no server"),
        }
    }

    fn file(&self) -> PathBuf {
        match self {
            Place::Sqlite(folder) => folder.path().join("test.db"),
            Place::Server(_) => panic!("not a file"),
        }
    }

    /// The keys of `db_insert` that say where it is, one a line.
    pub fn keys(&self) -> String {
        let (driver, port) = match self {
            Place::Sqlite(_) => return format!("driver: SQLite\ndatabase: {:?}\n", self.file()),
            Place::Server(server) if server.engine == Engine::MariaDb => ("MariaDB", server.port),
            Place::Server(server) => ("PostgreSQL", server.port),
        };
        format!(
            "driver: {driver}\nserver: localhost\nport: {port}\nusername: {USER}\npassword: DB_TOKEN\ndatabase: {DATABASE}\n"
        )
    }

    /// A channel with these lines in `db_insert`, and these beside it.
    pub fn channel(&self, insert: &str, beside: &str) -> Channel {
        channel(&format!("{}{insert}", self.keys()), beside)
    }

    /// Its database.
    pub fn database(&self, insert: &str, beside: &str) -> Database {
        Database::new(&self.channel(insert, beside), Some(PASSWORD)).unwrap()
    }

    /// A client of it.
    pub fn client(&self, insert: &str, beside: &str) -> Client {
        Client::new(&self.database(insert, beside))
    }

    /// Carries out SQL behind our back; a line a row, columns separated by `|`.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        match self {
            Place::Server(server) => server.sql(sql).replace('\t', "|"),
            Place::Sqlite(_) => {
                let connection = rusqlite::Connection::open(self.file()).unwrap();
                if !sql.starts_with("SELECT") {
                    connection.execute_batch(sql).unwrap();
                    return String::new();
                }
                let mut statement = connection.prepare(sql).unwrap();
                let width = statement.column_count();
                let mut rows = statement.query([]).unwrap();
                let mut lines = Vec::new();
                while let Some(row) = rows.next().unwrap() {
                    let cell = |at| match row.get_ref(at).unwrap() {
                        rusqlite::types::ValueRef::Null => String::new(),
                        rusqlite::types::ValueRef::Integer(n) => n.to_string(),
                        other => other.as_str().unwrap().to_owned(),
                    };
                    lines.push((0..width).map(cell).collect::<Vec<_>>().join("|"));
                }
                lines.join("\n")
            }
        }
    }
}

/// A channel from the lines of its `db_insert` and those beside it.
pub fn channel(insert: &str, beside: &str) -> Channel {
    let indented =
        |text: &str, by: &str| text.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
    let text = format!(
        "channels:\n  - name: test\n    port: 20001\n    db_insert:\n{}{}",
        indented(insert, "      "),
        indented(beside, "    ")
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test.yaml");
    std::fs::write(&file, &text).unwrap();
    let loaded = config::load(&file, &|_| true, config::Mode::Run).unwrap_or_else(|p| panic!("{p}\n{text}"));
    loaded.config.channels[0].clone()
}

/// The first attempt of every test message.
pub const NOW: DateTime = date(2026, 1, 2).at(3, 4, 5, 678_901_000);

/// A message id made from a number.
pub fn id(number: u32) -> String {
    format!("01TEST{number:014}")
}

/// The row of a message with these values.
pub fn row(client: &Client, number: u32, values: &[(&str, &str)]) -> Result<Row, String> {
    let value = |name: &str| values.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    client.table().row(&Source { id: &id(number), value: &value, now: NOW })
}

/// Inserts a message with these values.
pub fn insert(client: &mut Client, number: u32, values: &[(&str, &str)]) -> Result<Inserted, Fault> {
    let row = row(client, number, values).map_err(Fault::Failed)?;
    client.insert(&row)
}

/// Asserts that something stays wrong, and gives the reason.
#[track_caller]
pub fn failed<T: std::fmt::Debug>(done: Result<T, Fault>) -> String {
    match done {
        Err(Fault::Failed(reason)) => reason,
        other => panic!("should have failed: {other:?}"),
    }
}

/// Asserts that the database is taken for down, and gives the reason.
#[track_caller]
pub fn down<T: std::fmt::Debug>(done: Result<T, Fault>) -> String {
    match done {
        Err(Fault::Again { reason, target_down: true, .. }) => reason,
        other => panic!("should be down: {other:?}"),
    }
}
