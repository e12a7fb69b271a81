//! Where a database is and how to get in: what a connection is opened from.

use crate::fault::{Fault, plain};
use crate::sql::Connection;
use config::{DbInsert, DbTls, Driver};
use std::fmt;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

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
    /// The CA bundle that takes the system's place.
    pub ca: Option<CaBundle>,
    /// SQLite: the file may be created.
    pub create: bool,
    /// SQLite: the file was there. It is not created once more then: a folder that is not mounted is empty too.
    pub was_there: Arc<AtomicBool>,
}

impl Target {
    /// From the settings. Reads the CA bundle now: later the sandbox is closed.
    pub fn new(insert: &DbInsert, password: Option<&str>) -> Target {
        let ca = insert.ca_file.as_ref().map(|path| CaBundle {
            pem: std::fs::read(path)
                .map_err(|e| format!("could not read ca_file {}: {}", path.display(), plain(&e))),
            path: path.clone(),
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
            was_there: Arc::default(),
        }
    }

    /// As a log names it: `MariaDB "db.example.org:3306/reports"`.
    pub fn label(&self) -> String {
        match self.driver {
            Driver::Sqlite => format!("SQLite {:?}", self.database),
            driver => format!("{} \"{}:{}/{}\"", driver.name(), self.server, self.port, self.database),
        }
    }

    /// Opens a connection; takes no longer than about the timeout, name resolution included.
    ///
    /// # Errors
    /// [`Fault::Again`], whatever it was: a refused login is no message's fault, and no message is failed for it.
    pub fn connect(&self) -> Result<Box<dyn Connection>, Fault> {
        let opened = match self.driver {
            Driver::Sqlite => crate::sqlite::connect(self),
            _ => self.within_timeout(),
        };
        opened.map_err(|fault| {
            let label = self.label();
            match fault {
                Fault::Again { reason, wanted_us, .. } => {
                    Fault::Again { reason: format!("{label}: {reason}"), target_down: true, wanted_us }
                }
                Fault::Failed(reason) | Fault::Duplicate(reason) => Fault::down(format!("{label}: {reason}")),
            }
        })
    }

    /// Connects on a thread of its own, since neither a resolver nor every driver's login can be told when to give up.
    /// One that never comes back is left behind.
    fn within_timeout(&self) -> Result<Box<dyn Connection>, Fault> {
        if LEFT_BEHIND.load(Relaxed) >= LEFT_BEHIND_MAX {
            return Err(Fault::down("earlier attempts to connect have not ended yet"));
        }
        let (sender, receiver) = sync_channel(0);
        let target = self.clone();
        let connect = move || {
            // Gone when this thread ends, by a panic of a driver too.
            let _counted = Counted::new();
            let opened = match target.driver {
                Driver::MariaDb => crate::mariadb::connect(&target),
                Driver::PostgreSql => crate::postgresql::connect(&target),
                Driver::SqlServer => crate::sqlserver::connect(&target),
                Driver::Sqlite => unreachable!("opened by the caller's thread"),
            };
            // Nobody takes it any more when it comes too late: it is closed.
            let _ = sender.send(opened);
        };
        let thread = std::thread::Builder::new().name("db connect".to_owned());
        thread
            .spawn(connect)
            .map_err(|e| Fault::again(format!("could not start a thread: {}", plain(&e))))?;
        match receiver.recv_timeout(self.timeout + GRACE) {
            Ok(opened) => opened,
            Err(RecvTimeoutError::Timeout) => Err(self.silent()),
            Err(RecvTimeoutError::Disconnected) => Err(Fault::down("the server's answer could not be read")),
        }
    }

    /// A server that takes connections and says nothing, or not enough.
    pub(crate) fn silent(&self) -> Fault {
        Fault::down(format!("no answer within {} s", self.timeout.as_secs_f32()))
    }

    /// Connects to the first of the server's addresses that takes a connection.
    pub(crate) fn connect_tcp(&self) -> Result<TcpStream, Fault> {
        let addresses = self.addresses()?;
        let end = Instant::now() + self.timeout;
        let mut last = None;
        for (tried, address) in addresses.iter().enumerate() {
            // An equal part for each that is left: behind a name of several servers the first may be the dead one.
            let left = end.saturating_duration_since(Instant::now());
            let left = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            match TcpStream::connect_timeout(address, left.max(Duration::from_millis(1))) {
                Ok(stream) => {
                    // Statements are small and wait for their answer; a kernel that cannot is only slower.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        let why = last.map_or("it has no address".to_owned(), |error| plain(&error));
        Err(Fault::down(format!("could not connect: {why}")))
    }

    /// The server's addresses.
    pub(crate) fn addresses(&self) -> Result<Vec<SocketAddr>, Fault> {
        let found = (self.server.as_str(), self.port).to_socket_addrs();
        let found =
            found.map_err(|e| Fault::down(format!("could not look up the address: {}", plain(&e))))?;
        Ok(found.collect())
    }

    /// What checks the server's certificate as the settings say.
    pub(crate) fn tls_connector(&self) -> Result<native_tls::TlsConnector, Fault> {
        self.tls_connector_up_to(None)
    }

    /// The same, of no newer protocol than that.
    pub(crate) fn tls_connector_up_to(
        &self,
        newest: Option<native_tls::Protocol>,
    ) -> Result<native_tls::TlsConnector, Fault> {
        let mut builder = native_tls::TlsConnector::builder();
        builder.max_protocol_version(newest);
        if !self.certificate {
            builder.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true);
        }
        if let Some(ca) = &self.ca {
            let pem = ca.pem.as_ref().map_err(|reason| Fault::down(reason.clone()))?;
            let bad = |e: &dyn fmt::Display| Fault::down(format!("ca_file {}: {e}", ca.path.display()));
            let roots = native_tls::Certificate::stack_from_pem(pem).map_err(|e| bad(&e))?;
            if roots.is_empty() {
                return Err(bad(&"no certificate in it"));
            }
            builder.disable_built_in_roots(true);
            for root in roots {
                builder.add_root_certificate(root);
            }
        }
        builder.build().map_err(|e| Fault::down(format!("TLS cannot be set up: {e}")))
    }
}

/// A CA bundle, read when the settings were.
#[derive(Clone, Debug)]
pub struct CaBundle {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes, or why they could not be read.
    pub pem: Result<Vec<u8>, String>,
}

/// What a driver may take beyond its own timeout before its thread is left behind: it tells more of the reason.
const GRACE: Duration = Duration::from_millis(500);
/// Threads that connect, in this process; one for each would-be connection and those left behind. Bounds what a server
/// that answers a byte at a time can cost.
static LEFT_BEHIND: AtomicUsize = AtomicUsize::new(0);
const LEFT_BEHIND_MAX: usize = 256;

struct Counted;

impl Counted {
    fn new() -> Counted {
        LEFT_BEHIND.fetch_add(1, Relaxed);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LEFT_BEHIND.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({}, user {:?})", self.label(), self.username)
    }
}
