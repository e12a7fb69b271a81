//! The database of a channel: inserts, look-ups and merges on MariaDB, PostgreSQL, SQL Server and SQLite.
//!
//! Three layers, each knowing only the one below it:
//! - [`Client`] is what a step calls: it knows rows, message keys and lost connections, and no engine;
//! - [`Dialect`] (pure) writes an engine's statements, [`Connection`] carries them out;
//! - one file an engine implements both, and sorts its error codes into what may pass and what stays.
//!
//! Values travel as parameters, never in a statement's text; names come checked from the loader and are quoted again.
//! Every wait has an end: no call of a [`Connection`] takes longer than about its timeout. Nothing here knows HL7
//! beyond the notation of a time, the journal, or which attempt it is.

mod client;
mod convert;
mod fault;
mod mariadb;
mod postgresql;
mod sql;
mod sqlite;
mod sqlserver;
mod table;
mod target;
mod value;

pub use client::{Client, Database, Inserted, Probe};
pub use fault::Fault;
pub use sql::{ColumnInfo, Connection, Dialect, Kind, Right};
pub use table::{Row, Source, Table};
pub use target::{CaBundle, Target};
pub use value::Value;

use config::Driver;

/// How an engine writes its statements.
pub fn dialect(driver: Driver) -> &'static dyn Dialect {
    match driver {
        Driver::MariaDb => &mariadb::MariaDb,
        Driver::PostgreSql => &postgresql::PostgreSql,
        Driver::SqlServer => &sqlserver::SqlServer,
        Driver::Sqlite => &sqlite::Sqlite,
    }
}
