//! Microsoft SQL Server, 2008 and newer, Azure too: TDS 7.3 by tiberius over a blocking socket.
//!
//! tiberius is asynchronous, we are not: its futures run over a stream that always answers at once, so polling one
//! once finishes it, without a runtime. The pre-login and TLS are ours ([`wire`]), so that `ca_file` replaces the
//! system's CAs and each refusal has its own words; tiberius is told of a server without encryption and talks
//! through ours.
//!
//! Whatever a server sends, a call ends in time, with bounded memory, and without a panic that anybody sees: one
//! inside tiberius is caught and counts as nonsense from the server. Any fault that is not the statement's own ends
//! the connection. What a server says of a row's values never gets into a reason ([`faults`]).
//!
//! Not there: named instances by name (write the instance's port), Windows and Entra logins, `encrypt=strict` (TDS 8).

mod dialect;
mod faults;
mod prelogin;
mod values;
mod wire;

pub(crate) use dialect::SqlServer;

use crate::fault::Fault;
use crate::sql::{ColumnInfo, Connection, Dialect, Right};
use crate::target::Target;
use crate::value::Value;
use config::DbTls;
use faults::Broken;
use futures_util::TryStreamExt;
use futures_util::io::AllowStdIo;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, Once};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tiberius::{AuthMethod, Client, Config, EncryptionLevel, QueryItem, ToSql};
use values::Bound;
use wire::{Allowance, Refused, Wire};

/// What a server may send in answer to one call. A look-up's values are a few bytes; a server that sends more than
/// this is broken, and its answer would be held in memory.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// How often a server may send us on (Azure's gateway does so once).
const ROUTES_MAX: usize = 2;

/// Waits for a lock end that much sooner than the call, so that the server's own error comes and not a silence that
/// leaves open what became of the statement.
const LOCK_MARGIN: Duration = Duration::from_secs(1);

type Tds = Client<AllowStdIo<Wire>>;

/// An open connection.
struct SqlServerConnection {
    /// Gone after the first fault that was not the statement's own.
    client: Option<Tds>,
    allowance: Arc<Mutex<Allowance>>,
    timeout: Duration,
}

/// Opens a connection, all within one `timeout`: socket, pre-login, TLS, login and the session's settings.
///
/// Whatever goes wrong here may be put right without us, a changed password and an expired certificate included: no
/// message is to fail for it: the caller makes every fault one that waits.
pub(crate) fn connect(target: &Target) -> Result<Box<dyn Connection>, Fault> {
    silence_driver();
    let allowance = Allowance::start(target.timeout, ANSWER_BYTES_MAX);
    let mut target = target.clone();
    for _ in 0..=ROUTES_MAX {
        match log_in(&target, &allowance) {
            Ok(client) => {
                let client = Some(client);
                let mut connection = SqlServerConnection { client, allowance, timeout: target.timeout };
                connection.plain(&dialect::session_settings(lock_wait(target.timeout)))?;
                return Ok(Box::new(connection));
            }
            Err(Broken::Routed(host, port)) => (target.server, target.port) = (host, port),
            Err(broken) => return Err(broken.fault(target.timeout)),
        }
    }
    Err(Fault::down("the server keeps sending us on to other addresses"))
}

/// Socket, pre-login, TLS and login.
fn log_in(target: &Target, allowance: &Arc<Mutex<Allowance>>) -> Result<Tds, Broken> {
    let wire = match wire::open(target, target.tls != DbTls::Disable, allowance) {
        // A server that has no TLS ends a connection that asked for it: once more, without asking.
        Err(Refused::WithoutTls) if target.tls == DbTls::Prefer => wire::open(target, false, allowance),
        other => other,
    };
    let wire = AllowStdIo::new(wire?);
    let mut settings = Config::new();
    settings.host(&target.server);
    settings.port(target.port);
    settings.database(&target.database);
    settings.application_name("hl7server");
    settings
        .authentication(AuthMethod::sql_server(&target.username, target.password.as_deref().unwrap_or("")));
    settings.encryption(EncryptionLevel::NotSupported);
    // The allowance bounds every read and write; tiberius' own timers would start a thread.
    settings.handshake_timeout(None);
    settings.command_timeout(None);
    finish(allowance, async move || Client::connect(settings, wire).await)
}

/// Runs a future of tiberius over our blocking stream to its end.
fn finish<T>(
    allowance: &Mutex<Allowance>,
    work: impl AsyncFnOnce() -> tiberius::Result<T>,
) -> Result<T, Broken> {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let mut work = pin!(work());
        work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }));
    let broken = match ended {
        Ok(Poll::Ready(Ok(done))) => return Ok(done),
        Ok(Poll::Ready(Err(error))) => Broken::from(error),
        // The stream is never pending, so nothing would ever wake us.
        Ok(Poll::Pending) => Broken::Nonsense("the driver waits for nothing".to_owned()),
        Err(_) => Broken::Nonsense("the driver gave up on its answer".to_owned()),
    };
    // What the socket failed with says more than what tiberius makes of it.
    Err(Allowance::failed(allowance).map_or(broken, Broken::Io))
}

/// tiberius repeats the server's error texts through `tracing`, which hands them to `log`: values of rows among them.
/// A subscriber that takes nothing ends that; what matters is in the fault.
fn silence_driver() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Somebody else's subscriber keeps them from `log` as well.
        let _ = tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::default());
    });
}

fn lock_wait(timeout: Duration) -> Duration {
    timeout.saturating_sub(LOCK_MARGIN).max(timeout / 2)
}

impl SqlServerConnection {
    fn call<T>(&mut self, work: impl AsyncFnOnce(&mut Tds) -> tiberius::Result<T>) -> Result<T, Fault> {
        let Some(client) = &mut self.client else { return Err(Fault::down("the connection is gone")) };
        Allowance::renew(&self.allowance, self.timeout, ANSWER_BYTES_MAX);
        finish(&self.allowance, async move || work(client).await).map_err(|broken| {
            let fault = broken.fault(self.timeout);
            if fault.is_again() {
                self.client = None;
            }
            fault
        })
    }

    /// A statement of ours without parameters.
    fn plain(&mut self, sql: &str) -> Result<(), Fault> {
        self.call(async |client| client.simple_query(sql).await?.into_results().await.map(drop))
    }
}

impl Connection for SqlServerConnection {
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Fault> {
        let (sql, bound) = values::bind(sql, params)?;
        let bound = as_parameters(&bound);
        let counts = self.call(async |client| client.execute(sql.as_ref(), &bound).await)?;
        // A trigger's own statements are counted first, the statement itself last.
        Ok(counts.rows_affected().last().copied().unwrap_or(0))
    }

    fn query(&mut self, sql: &str, params: &[Value], limit: usize) -> Result<Vec<Vec<Value>>, Fault> {
        let (sql, bound) = values::bind(sql, params)?;
        let bound = as_parameters(&bound);
        let rows = self.call(async |client| {
            let mut items = client.query(sql.as_ref(), &bound).await?;
            let mut rows = Vec::new();
            // Read to the end, within the allowance: the connection is of use afterwards.
            while let Some(item) = items.try_next().await? {
                match item {
                    QueryItem::Row(row) if row.result_index() == 0 && rows.len() < limit => rows.push(row),
                    QueryItem::Row(_) | QueryItem::Metadata(_) => {}
                }
            }
            Ok(rows)
        })?;
        rows.into_iter().map(|row| row.into_iter().map(values::read).collect()).collect()
    }

    fn begin(&mut self) -> Result<(), Fault> {
        self.plain("BEGIN TRANSACTION")
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.plain("COMMIT TRANSACTION")
    }

    fn rollback(&mut self) -> Result<(), Fault> {
        // Under XACT_ABORT the server took it back when the statement failed.
        self.plain("IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION")
    }

    fn columns(&mut self, table: &str) -> Result<Option<Vec<ColumnInfo>>, Fault> {
        let table = [Value::Text(SqlServer.table(table))];
        let rows = self.query(dialect::COLUMNS, &table, dialect::COLUMNS_MAX)?;
        let columns: Vec<ColumnInfo> = rows.into_iter().filter_map(dialect::column).collect();
        Ok((!columns.is_empty()).then_some(columns))
    }

    fn missing_rights(&mut self, table: &str, rights: &[Right]) -> Result<Vec<Right>, Fault> {
        let mut missing = Vec::new();
        for right in rights {
            let params = [Value::Text(SqlServer.table(table)), Value::Text(right.name().to_owned())];
            let rows = self.query(dialect::HAS_RIGHT, &params, 1)?;
            if rows.first().and_then(|row| row.first()) != Some(&Value::Integer(1)) {
                missing.push(*right);
            }
        }
        Ok(missing)
    }

    fn is_alive(&mut self) -> bool {
        self.plain("SELECT 1").is_ok()
    }
}

fn as_parameters<'a>(bound: &'a [Bound<'_>]) -> Vec<&'a dyn ToSql> {
    bound.iter().map(|value| value as &dyn ToSql).collect()
}
