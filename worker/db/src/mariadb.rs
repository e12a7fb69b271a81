//! MariaDB and MySQL, by the `mysql` driver with a timeout on its socket.

use crate::fault::{Class, Fault, plain};
use crate::sql::{ColumnInfo, Connection, Dialect, Kind, Right};
use crate::target::Target;
use crate::value::Value;
use config::{ColumnKind, DbTls};
use jiff::civil::DateTime;
use mysql::prelude::Queryable;
use mysql::{Conn, DriverError, Error, OptsBuilder, Params, SslOpts};
use mysql_common::proto::codec::error::PacketCodecError;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

/// MariaDB's statements.
#[derive(Debug)]
pub(crate) struct MariaDb;

/// Longest VARCHAR with four bytes a character, beside a key and a few other columns; longer ones are LONGTEXT.
const VARCHAR_MAX: u32 = 16_000;

impl Dialect for MariaDb {
    fn name(&self) -> &'static str {
        "MariaDB"
    }

    fn quote(&self, name: &str) -> String {
        format!("`{}`", name.replace('`', "``"))
    }

    fn placeholder(&self, _place: usize) -> String {
        "?".to_owned()
    }

    fn column_type(&self, kind: ColumnKind, _column: &str) -> String {
        match kind {
            ColumnKind::Integer => "INT".to_owned(),
            ColumnKind::String(n) if n <= VARCHAR_MAX => format!("VARCHAR({n})"),
            ColumnKind::String(_) | ColumnKind::Text => "LONGTEXT".to_owned(),
            ColumnKind::DateTime => "DATETIME".to_owned(),
        }
    }

    fn auto_increment(&self) -> &'static str {
        "INT AUTO_INCREMENT PRIMARY KEY"
    }

    /// Neither INSERT IGNORE nor ON DUPLICATE KEY UPDATE: the one swallows every other error, the other the violation of
    /// every other unique index. The caller looks whether the row that is there is the message's own.
    fn insert(&self, table: &str, columns: &[&str], _key: Option<&str>) -> String {
        self.insert_values(table, columns)
    }

    /// The first condition uses the index, the second sees what the collation does not.
    fn exact(&self, column: &str, _place: usize) -> String {
        let column = self.quote(column);
        format!("{column} = ? AND CAST(CONVERT({column} USING utf8mb4) AS BINARY) = CAST(? AS BINARY)")
    }

    fn exact_params(&self) -> usize {
        2
    }

    /// The server's own character set and engine may be others: four-byte characters, transactions.
    fn create_suffix(&self) -> &'static str {
        " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    }
}

/// Opens a connection.
pub(crate) fn connect(target: &Target) -> Result<Box<dyn Connection>, Fault> {
    let with_tls = |tls: bool| by_name(target, tls);
    let opened = match target.tls {
        DbTls::Disable => with_tls(false),
        DbTls::Require => with_tls(true),
        DbTls::Prefer => match with_tls(true) {
            // Only a server that says it has none: a failed handshake is never a reason to go on in the clear.
            Err(Error::DriverError(DriverError::TlsNotSupported)) => with_tls(false),
            opened => opened,
        },
    };
    let connection = opened.map_err(|error| match error {
        Error::DriverError(DriverError::TlsNotSupported) => {
            Fault::down("the server has no TLS. Set tls: prefer if the connection may be in the clear")
        }
        error => fault(&error, target.timeout),
    })?;
    Ok(Box::new(Open { connection: Some(connection), timeout: target.timeout }))
}

/// The driver tries only the first address of a name, which for `localhost` may be `::1` where nobody listens. The
/// others are tried by their number; with TLS a certificate must then name it.
fn by_name(target: &Target, tls: bool) -> mysql::Result<Conn> {
    let opened = Conn::new(options(target, &target.server, tls));
    let Err(Error::DriverError(DriverError::CouldNotConnect(_) | DriverError::ConnectTimeout)) = opened
    else {
        return opened;
    };
    if target.server.parse::<IpAddr>().is_ok() {
        return opened;
    }
    let others = target.addresses().unwrap_or_default();
    let tried = others.iter().skip(1).map(|at| Conn::new(options(target, &at.ip().to_string(), tls)));
    tried.fold(opened, |done, next| if done.is_ok() { done } else { next })
}

fn options(target: &Target, server: &str, tls: bool) -> OptsBuilder {
    let tls = tls.then(|| {
        let options = SslOpts::default()
            .with_danger_accept_invalid_certs(!target.certificate)
            .with_danger_skip_domain_validation(!target.certificate);
        options.with_root_cert_path(target.ca.as_ref().map(|ca| ca.path.clone()))
    });
    let seconds = target.timeout.as_secs_f64();
    // The server gives up before we do, so that nothing of ours goes on there after we have stopped waiting. Strict: a
    // value that does not fit is an error, never cut. The comment is MariaDB's alone; MySQL knows no such limit.
    let session = format!(
        "SET SESSION sql_mode = CONCAT(@@SESSION.sql_mode, ',STRICT_ALL_TABLES'), innodb_lock_wait_timeout = {} \
         /*M! , max_statement_time = {} */",
        ((seconds * 0.8) as u64).max(1),
        seconds * 0.9,
    );
    OptsBuilder::new()
        .ip_or_hostname(Some(server))
        .tcp_port(target.port)
        .user(Some(&target.username))
        .pass(target.password.as_deref())
        .db_name(Some(&target.database))
        // Else the driver moves to a Unix socket when the server is on this machine; the sandbox forbids these.
        .prefer_socket(false)
        .tcp_connect_timeout(Some(target.timeout))
        .read_timeout(Some(target.timeout))
        .write_timeout(Some(target.timeout))
        .stmt_cache_size(STATEMENTS)
        .ssl_opts(tls)
        .init(vec![session])
}

/// Prepared statements kept a connection: more than one channel has.
const STATEMENTS: usize = 16;

struct Open {
    /// Taken when it is broken.
    connection: Option<Conn>,
    timeout: Duration,
}

impl Open {
    fn call<T>(&mut self, work: impl FnOnce(&mut Conn) -> mysql::Result<T>) -> Result<T, Fault> {
        let Some(connection) = &mut self.connection else {
            return Err(Fault::down("the connection was closed"));
        };
        let fault = match work(connection) {
            Ok(done) => return Ok(done),
            Err(error) => fault(&error, self.timeout),
        };
        if matches!(fault, Fault::Again { target_down: true, .. }) {
            self.leave();
        }
        Err(fault)
    }

    /// Closes a connection that may be stuck. The driver says goodbye, statement by statement, to a peer that may not
    /// read any more: each a wait of its own, which is not the caller's.
    fn leave(&mut self) {
        let connection = self.connection.take();
        let thread = std::thread::Builder::new().name("db close".to_owned());
        // Without a thread it is closed here and now.
        let _ = thread.spawn(move || drop(connection));
    }
}

impl Connection for Open {
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Fault> {
        self.call(|connection| {
            if params.is_empty() {
                connection.query_drop(sql)?;
            } else {
                connection.exec_drop(sql, given(params))?;
            }
            Ok(connection.affected_rows())
        })
    }

    fn query(&mut self, sql: &str, params: &[Value], limit: usize) -> Result<Vec<Vec<Value>>, Fault> {
        self.call(|connection| {
            let mut found = Vec::new();
            for row in connection.exec_iter(sql, given(params))?.take(limit) {
                found.push(row?.unwrap().into_iter().map(value).collect());
            }
            Ok(found)
        })
    }

    fn begin(&mut self) -> Result<(), Fault> {
        self.execute("START TRANSACTION", &[]).map(drop)
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.execute("COMMIT", &[]).map(drop)
    }

    fn rollback(&mut self) -> Result<(), Fault> {
        self.execute("ROLLBACK", &[]).map(drop)
    }

    fn columns(&mut self, table: &str) -> Result<Option<Vec<ColumnInfo>>, Fault> {
        const COLUMNS: &str = "SELECT c.column_name, c.column_type, c.data_type, c.character_maximum_length, \
             c.is_nullable = 'YES', c.column_default IS NOT NULL OR c.extra LIKE '%auto_increment%' \
             OR c.extra LIKE '%generated%', EXISTS (SELECT s.index_name FROM information_schema.statistics s \
             WHERE s.table_schema = c.table_schema AND s.table_name = c.table_name AND s.non_unique = 0 \
             GROUP BY s.index_name HAVING COUNT(*) = 1 AND MAX(s.sub_part) IS NULL \
             AND LOWER(MAX(s.column_name)) = LOWER(c.column_name)) \
             FROM information_schema.columns c \
             WHERE c.table_schema = COALESCE(?, DATABASE()) AND c.table_name = ? ORDER BY c.ordinal_position";
        let (schema, table) = match table.split_once('.') {
            Some((schema, table)) => (Value::Text(schema.to_owned()), table),
            None => (Value::Null, table),
        };
        let rows = self.query(COLUMNS, &[schema, Value::Text(table.to_owned())], usize::MAX)?;
        let columns: Vec<_> = rows.iter().filter_map(|row| column(row)).collect();
        Ok((!columns.is_empty()).then_some(columns))
    }

    /// The server checks rights when it prepares a statement; it is never carried out.
    fn missing_rights(&mut self, table: &str, rights: &[Right]) -> Result<Vec<Right>, Fault> {
        let Some(first) = self.columns(table)?.and_then(|columns| columns.into_iter().next()) else {
            // The catalogue shows a table to those only who have any right on it.
            return Ok(rights.to_vec());
        };
        let (table, column) = (MariaDb.table(table), MariaDb.quote(&first.name));
        let mut missing = Vec::new();
        for right in rights {
            let sql = match right {
                Right::Insert => format!("INSERT INTO {table} ({column}) VALUES (?)"),
                Right::Select => format!("SELECT {column} FROM {table} WHERE {column} = ?"),
                Right::Update => format!("UPDATE {table} SET {column} = ?"),
            };
            let prepared = self.call(|connection| {
                let statement = connection.prep(&sql)?;
                connection.close(statement)
            });
            match prepared {
                Ok(()) => {}
                Err(Fault::Failed(_)) => missing.push(*right),
                Err(fault) => return Err(fault),
            }
        }
        Ok(missing)
    }

    fn is_alive(&mut self) -> bool {
        self.call(|connection| connection.ping()).is_ok()
    }
}

fn column(row: &[Value]) -> Option<ColumnInfo> {
    let [Value::Text(name), Value::Text(declared), Value::Text(kind), length, rest @ ..] = row else {
        return None;
    };
    let is = |at: usize| rest.get(at) == Some(&Value::Integer(1));
    let length = match length {
        Value::Integer(length) => u32::try_from(*length).ok(),
        Value::Text(length) => length.parse().ok(),
        _ => None,
    };
    Some(ColumnInfo {
        name: name.clone(),
        declared: declared.clone(),
        kind: match kind.to_ascii_lowercase().as_str() {
            "tinyint" => Kind::Integer(8),
            "smallint" => Kind::Integer(16),
            "mediumint" => Kind::Integer(24),
            "int" => Kind::Integer(32),
            "bigint" => Kind::Integer(64),
            "char" | "varchar" => Kind::Text(length),
            // Their lengths are in bytes.
            "tinytext" | "text" => Kind::Text(length.map(|bytes| bytes / 4)),
            "mediumtext" | "longtext" => Kind::Text(None),
            "datetime" | "timestamp" => Kind::DateTime,
            "date" => Kind::Date,
            _ => Kind::Other,
        },
        nullable: is(0),
        filled: is(1),
        unique: is(2),
    })
}

fn given(params: &[Value]) -> Params {
    if params.is_empty() {
        return Params::Empty;
    }
    Params::Positional(params.iter().map(sent).collect())
}

fn sent(value: &Value) -> mysql::Value {
    match value {
        Value::Null => mysql::Value::NULL,
        Value::Integer(number) => mysql::Value::Int(*number),
        Value::Text(text) => mysql::Value::Bytes(text.as_bytes().to_vec()),
        Value::Time(time) => mysql::Value::Date(
            time.year() as u16,
            time.month() as u8,
            time.day() as u8,
            time.hour() as u8,
            time.minute() as u8,
            time.second() as u8,
            (time.subsec_nanosecond() / 1_000) as u32,
        ),
    }
}

fn value(value: mysql::Value) -> Value {
    match value {
        mysql::Value::NULL => Value::Null,
        mysql::Value::Int(number) => Value::Integer(number),
        mysql::Value::UInt(number) => match i64::try_from(number) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Text(number.to_string()),
        },
        mysql::Value::Float(number) => Value::Text(number.to_string()),
        mysql::Value::Double(number) => Value::Text(number.to_string()),
        mysql::Value::Bytes(bytes) => Value::Text(String::from_utf8_lossy(&bytes).into_owned()),
        mysql::Value::Date(year, month, day, hour, minute, second, us) => {
            let part = |n: u8| i8::try_from(n).unwrap_or(i8::MAX);
            let year = i16::try_from(year).unwrap_or(i16::MAX);
            let ns = i32::try_from(us).unwrap_or(i32::MAX).saturating_mul(1_000);
            match DateTime::new(year, part(month), part(day), part(hour), part(minute), part(second), ns) {
                Ok(time) => Value::Time(time),
                // 0000-00-00 is MariaDB's way to say that there is none.
                Err(_) => Value::Null,
            }
        }
        mysql::Value::Time(negative, days, hours, minutes, seconds, _) => {
            let sign = if negative { "-" } else { "" };
            Value::Text(format!("{sign}{:02}:{minutes:02}:{seconds:02}", days * 24 + u32::from(hours)))
        }
    }
}

fn fault(error: &Error, timeout: Duration) -> Fault {
    let silent = || Fault::down(format!("no answer within {} s", timeout.as_secs_f32()));
    let io = |error: &std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => silent(),
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => Fault::down("the connection was closed"),
        _ => Fault::down(plain(error)),
    };
    match error {
        Error::MySqlError(server) => {
            let code = server.code;
            let text = match meaning(code) {
                Some(text) => text.to_owned(),
                None if tells_no_value(code) => server.message.clone(),
                None => "the server refused it".to_owned(),
            };
            class(code, &server.state).fault(format!("{text} ({code})"))
        }
        Error::IoError(error) => io(error),
        Error::CodecError(PacketCodecError::Io(error)) => io(error),
        Error::CodecError(PacketCodecError::PacketTooLarge)
        | Error::DriverError(DriverError::PacketTooLarge) => {
            Fault::Failed("the message's values are larger than max_allowed_packet".to_owned())
        }
        Error::DriverError(DriverError::ConnectTimeout | DriverError::Timeout) => silent(),
        Error::DriverError(DriverError::CouldNotConnect(Some((_, why, _)))) => {
            let why = why.split(" (os error").next().unwrap_or_default();
            Fault::down(format!("could not connect: {}", why.to_lowercase()))
        }
        Error::TlsError(error) => {
            let hint = match error.to_string().contains("certificate") {
                true => ". Set ca_file to what signed it, or certificate: false",
                false => "",
            };
            Fault::down(format!("TLS: {error}{hint}"))
        }
        // A peer that does not speak the protocol.
        error => Fault::down(error.to_string()),
    }
}

/// What the server's own text must not say for us: it quotes values.
fn meaning(code: u16) -> Option<&'static str> {
    Some(match code {
        1062 | 1586 => "a unique value is there already",
        1205 => "a lock was not to be had in time",
        1213 => "deadlock",
        1264 | 1690 => "a number does not fit its column",
        1265 | 1292 | 1366 | 1411 => {
            "a value is not of its column's type, or holds letters its character set lacks"
        }
        1451 | 1452 => "a foreign key has no such row",
        1969 | 3024 => "the statement took too long",
        3819 | 4025 => "a check of the table refuses the row",
        _ => return None,
    })
}

/// Errors of which the text names objects and users, and no value.
fn tells_no_value(code: u16) -> bool {
    matches!(
        code,
        1020 | 1021
            | 1030
            | 1040
            | 1041
            | 1044
            | 1045
            | 1048
            | 1049
            | 1053
            | 1054
            | 1064
            | 1072
            | 1114
            | 1129
            | 1130
            | 1136
            | 1142
            | 1143
            | 1146
            | 1153
            | 1203
            | 1226
            | 1227
            | 1290
            | 1364
            | 1406
            | 1698
            | 1792
            | 1836
            | 1874
            | 1927
            | 3159
            | 4031
            | 4151
    )
}

/// What an error number (<https://mariadb.com/kb/en/mariadb-error-code-reference/>) says.
fn class(code: u16, state: &str) -> Class {
    match code {
        1062 | 1586 => Class::Duplicate,
        // Too many connections or hosts; login; the server stops, is read-only, or has no room.
        1021 | 1040 | 1041 | 1044 | 1045 | 1049 | 1053 | 1114 | 1129 | 1130 | 1203 | 1226 | 1290 | 1698
        | 1792 | 1836 | 1874 | 1927 | 3159 | 4031 | 4151 => Class::Down,
        // A lock, a deadlock, a row that changed, a limit on the time, a storage engine's or the system's trouble.
        1020 | 1028 | 1030 | 1037 | 1038 | 1158 | 1159 | 1160 | 1161 | 1180 | 1205 | 1206 | 1213 | 1317
        | 1969 | 3024 | 3572 => Class::Again,
        _ if state.starts_with("08") => Class::Down,
        _ if state.starts_with("40") => Class::Again,
        _ => Class::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_stays() {
        let cases: [(Class, &[u16]); 4] = [
            (Class::Duplicate, &[1062]),
            (Class::Down, &[1040, 1045, 1049, 1053, 1114, 1129, 1203, 1226, 1290, 1792, 1836]),
            (Class::Again, &[1205, 1213, 1020, 1317, 1969, 3024]),
            (Class::Failed, &[1048, 1054, 1064, 1142, 1146, 1153, 1264, 1292, 1364, 1366, 1406, 1452, 4025]),
        ];
        for (wanted, codes) in cases {
            for code in codes {
                assert_eq!(class(*code, "HY000"), wanted, "{code}");
            }
        }
        assert_eq!(class(9999, "08S01"), Class::Down);
        assert_eq!(class(9999, "40001"), Class::Again);
        assert_eq!(class(9999, "HY000"), Class::Failed);
    }

    #[test]
    fn texts_that_may_quote_a_value_are_not_repeated() {
        for code in [1062, 1264, 1265, 1292, 1366, 1411, 1452] {
            assert!(meaning(code).is_some() && !tells_no_value(code), "{code}");
        }
    }
}
