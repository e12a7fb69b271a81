//! What an engine must be able to do: write its statements ([`Dialect`], pure) and carry them out ([`Connection`]).

use crate::fault::Fault;
use crate::value::Value;
use config::ColumnKind;

/// An open connection. One thread uses it; it is dropped after any [`Fault::Again`].
///
/// Every call ends within about the target's timeout, whatever the server does or leaves undone. Dropping it waits for
/// nothing.
pub trait Connection: Send {
    /// Carries out one statement; the number of rows it changed.
    ///
    /// # Errors
    /// Sorted by the engine's own code. A [`Fault::Failed`] or [`Fault::Duplicate`] leaves the connection usable; within
    /// a transaction only [`rollback`](Connection::rollback) may follow it.
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Fault>;

    /// Reads at most `limit` rows. A value of any type that is neither a whole number nor a date with time comes as
    /// text, as the engine writes it.
    ///
    /// # Errors
    /// As [`execute`](Connection::execute).
    fn query(&mut self, sql: &str, params: &[Value], limit: usize) -> Result<Vec<Vec<Value>>, Fault>;

    /// Begins a transaction; outside of one each statement commits by itself.
    ///
    /// # Errors
    /// As [`execute`](Connection::execute).
    fn begin(&mut self) -> Result<(), Fault>;

    /// Ends the transaction; after this call it is durable. A [`Fault::Again`] leaves open whether it is.
    ///
    /// # Errors
    /// As [`execute`](Connection::execute).
    fn commit(&mut self) -> Result<(), Fault>;

    /// Takes the transaction back.
    ///
    /// # Errors
    /// As [`execute`](Connection::execute); whoever gets one drops the connection, which takes it back too.
    fn rollback(&mut self) -> Result<(), Fault>;

    /// The columns of a table (`name` or `schema.name`, unquoted), in the table's order; `None` where there is none.
    ///
    /// # Errors
    /// As [`execute`](Connection::execute).
    fn columns(&mut self, table: &str) -> Result<Option<Vec<ColumnInfo>>, Fault>;

    /// Which of these rights on a table the user lacks. Changes nothing.
    ///
    /// # Errors
    /// As [`execute`](Connection::execute).
    fn missing_rights(&mut self, table: &str, rights: &[Right]) -> Result<Vec<Right>, Fault>;

    /// One round trip that touches no data: whether the server still answers on this connection.
    fn is_alive(&mut self) -> bool;
}

/// A right on a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// `INSERT`.
    Insert,
    /// `SELECT`.
    Select,
    /// `UPDATE`.
    Update,
}

impl Right {
    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Right::Insert => "INSERT",
            Right::Select => "SELECT",
            Right::Update => "UPDATE",
        }
    }
}

/// A column as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Its name as the catalogue spells it.
    pub name: String,
    /// Its type as the engine writes it.
    pub declared: String,
    /// What it can hold.
    pub kind: Kind,
    /// It may be null.
    pub nullable: bool,
    /// The database fills it where an insert leaves it out: a default, an identity, generated.
    pub filled: bool,
    /// It is alone under a unique index or the primary key.
    pub unique: bool,
}

/// What a column can hold, as far as the server's types tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole numbers of that many bits.
    Integer(u8),
    /// Text of at most so many characters; `None` is a length that no message reaches.
    Text(Option<u32>),
    /// Date and time.
    DateTime,
    /// A date only: the time of day would be lost.
    Date,
    /// Anything else: the server converts, or refuses.
    Other,
}

/// How an engine writes what we ask of it. Pure; names come unquoted.
pub trait Dialect: Sync {
    /// The engine's name, for a log.
    fn name(&self) -> &'static str;

    /// One name, quoted. Whatever is in it, it stays one name.
    fn quote(&self, name: &str) -> String;

    /// The parameter at that place, counted from 1.
    fn placeholder(&self, place: usize) -> String;

    /// The type of a column in `CREATE TABLE`, with any check that belongs to it.
    fn column_type(&self, kind: ColumnKind, column: &str) -> String;

    /// What follows the name of an integer column that the database counts up and that is the primary key.
    fn auto_increment(&self) -> &'static str;

    /// An insert of one row, a parameter a column; with `key` (a unique column, among `columns`) a row whose key is
    /// there already is left as it is: 0 rows changed, or a [`Fault::Duplicate`] that the caller looks into.
    fn insert(&self, table: &str, columns: &[&str], key: Option<&str>) -> String;

    /// `INSERT INTO … VALUES (…)`, a parameter a column.
    fn insert_values(&self, table: &str, columns: &[&str]) -> String {
        let names: Vec<_> = columns.iter().map(|name| self.quote(name)).collect();
        let values: Vec<_> = (1..=columns.len()).map(|place| self.placeholder(place)).collect();
        format!("INSERT INTO {} ({}) VALUES ({})", self.table(table), names.join(", "), values.join(", "))
    }

    /// A condition that holds for a text equal to the parameter at `place` letter by letter, whatever the column's
    /// collation says of case, accents and trailing spaces. It may name as many parameters from `place` on as
    /// [`exact_params`](Dialect::exact_params) says, all the same value.
    fn exact(&self, column: &str, place: usize) -> String;

    /// How many parameters [`exact`](Dialect::exact) names.
    fn exact_params(&self) -> usize {
        1
    }

    /// A select of a row with that key.
    fn key_exists(&self, table: &str, key: &str) -> String {
        format!("SELECT 1 FROM {} WHERE {} = {}", self.table(table), self.quote(key), self.placeholder(1))
    }

    /// A look-up of at most `limit` different values of `returns`; one parameter.
    fn lookup(&self, table: &str, column: &str, returns: &str, limit: usize) -> String {
        format!(
            "SELECT DISTINCT {} FROM {} WHERE {} = {} LIMIT {limit}",
            self.quote(returns),
            self.table(table),
            self.quote(column),
            self.placeholder(1),
        )
    }

    /// A table's name, quoted part by part.
    fn table(&self, table: &str) -> String {
        table.split('.').map(|part| self.quote(part)).collect::<Vec<_>>().join(".")
    }

    /// What precedes the columns when a table is created.
    fn create_table(&self, table: &str) -> String {
        format!("CREATE TABLE IF NOT EXISTS {}", self.table(table))
    }

    /// What follows the columns when a table is created.
    fn create_suffix(&self) -> &'static str {
        ""
    }

    /// How the engine counts the length of a `String(n)`.
    fn text_length(&self) -> fn(&str) -> usize {
        |text| text.chars().count()
    }

    /// Why the engine cannot keep this text in any column; `None` where it can.
    fn refuses_text(&self, _text: &str) -> Option<&'static str> {
        None
    }
}
