//! Where a database is and how to get in: what a connection is opened from.

use crate::fault::Fault;
use crate::sql::Connection;
use config::{DbInsert, DbTls, Driver};
use std::fmt;
use std::time::Duration;

/// Where a database is and how to get in.
#[derive(Clone)]
pub struct Target {
    /// Which engine.
    pub driver: Driver,
    /// Host name or address.
    pub server: String,
    /// TCP port.
    pub port: u16,
    /// User.
    pub username: String,
    /// Password; [`Debug`](fmt::Debug) hides it.
    pub password: Option<String>,
    /// Database name; SQLite: file path.
    pub database: String,
    /// Bound of every wait.
    pub timeout: Duration,
    /// Whether the connection is encrypted.
    pub tls: DbTls,
    /// Check the server's certificate.
    pub certificate: bool,
    /// The CA bundle's PEM bytes, or why they could not be read: kept, since it may be there at the next start.
    pub ca: Option<Result<Vec<u8>, String>>,
    /// SQLite: the file may be created.
    pub create: bool,
}

impl Target {
    /// From the settings. Reads the CA bundle now: later the sandbox is closed.
    pub fn new(insert: &DbInsert, password: Option<&str>) -> Target {
        let ca = insert.ca_file.as_ref().map(|path| {
            std::fs::read(path).map_err(|e| {
                format!("could not read ca_file {}: {}", path.display(), crate::fault::plain(&e))
            })
        });
        Target {
            driver: insert.driver,
            server: insert.server.clone(),
            port: insert.port,
            username: insert.username.clone(),
            password: password.map(str::to_owned),
            database: insert.database.clone(),
            timeout: insert.timeout,
            tls: insert.tls,
            certificate: insert.certificate,
            ca,
            create: insert.create_table,
        }
    }

    /// As a log names it: `MariaDB "db.example.org:3306/reports"`.
    pub fn label(&self) -> String {
        match self.driver {
            Driver::Sqlite => format!("SQLite {:?}", self.database),
            driver => format!("{} \"{}:{}/{}\"", driver.name(), self.server, self.port, self.database),
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// Almost always [`Fault::Again`]: a refused login is no message's fault either.
    pub fn connect(&self) -> Result<Box<dyn Connection>, Fault> {
        match self.driver {
            Driver::SqlServer => crate::sqlserver::connect(self),
            driver => Err(Fault::Failed(format!("{} is not built", driver.name()))),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({}, user {:?})", self.label(), self.username)
    }
}
