//! SQLite, embedded (rusqlite with its own copy of the library). The file is another program's as much as ours: its
//! journal mode is left as it is, except in a file that we create.

use crate::fault::{Class, Fault};
use crate::sql::{ColumnInfo, Connection, Dialect, Kind, Right};
use crate::target::Target;
use crate::value::Value;
use config::ColumnKind;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{OpenFlags, ToSql, ffi};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

/// SQLite's statements.
#[derive(Debug)]
pub(crate) struct Sqlite;

impl Dialect for Sqlite {
    fn name(&self) -> &'static str {
        "SQLite"
    }

    fn quote(&self, name: &str) -> String {
        format!("\"{}\"", name.replace('"', "\"\""))
    }

    fn placeholder(&self, place: usize) -> String {
        format!("?{place}")
    }

    fn column_type(&self, kind: ColumnKind, column: &str) -> String {
        match kind {
            ColumnKind::Integer => "INTEGER".to_owned(),
            ColumnKind::String(n) => format!("TEXT CHECK (length({}) <= {n})", self.quote(column)),
            ColumnKind::Text | ColumnKind::DateTime => "TEXT".to_owned(),
        }
    }

    fn auto_increment(&self) -> &'static str {
        "INTEGER PRIMARY KEY AUTOINCREMENT"
    }

    fn insert(&self, table: &str, columns: &[&str], key: Option<&str>) -> String {
        let conflict = key.map(|key| format!(" ON CONFLICT ({}) DO NOTHING", self.quote(key)));
        self.insert_values(table, columns) + &conflict.unwrap_or_default()
    }

    fn exact(&self, column: &str, place: usize) -> String {
        format!("{} = {} COLLATE BINARY", self.quote(column), self.placeholder(place))
    }
}

/// Opens the file.
pub(crate) fn connect(target: &Target) -> Result<Box<dyn Connection>, Fault> {
    let path = Path::new(&target.database);
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let is_new = !path.exists();
    match (is_new, target.create, target.was_there.load(Relaxed)) {
        (false, ..) => {}
        (true, true, false) => flags |= OpenFlags::SQLITE_OPEN_CREATE,
        (true, false, _) => return Err(Fault::down("no such file")),
        (true, true, true) => {
            let what = "its file is gone; put it back, or start the channel anew for a new one";
            return Err(Fault::down(what));
        }
    }
    let open = || {
        let connection = rusqlite::Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(target.timeout)?;
        if is_new {
            // Readers and the writer do not wait for each other, and a commit is one flush instead of three.
            connection.pragma_update(None, "journal_mode", "wal")?;
        }
        // A worker's sandbox leaves it no folder for temporary files.
        connection.pragma_update(None, "temp_store", "memory")?;
        // A commit is on the disk when it returns: the step is recorded as done right after it. A file that is not in WAL
        // mode (somebody else's, or one made by a worker that died before it could say so) commits by removing its
        // journal, and `full` does not flush that: after a power cut the journal is back and takes the rows with it.
        connection.pragma_update(None, "synchronous", "extra")?;
        Ok(connection)
    };
    let connection = open().map_err(|error| fault(&error))?;
    target.was_there.store(true, Relaxed);
    Ok(Box::new(Open { connection, identity: identity(path), path: path.to_owned() }))
}

struct Open {
    connection: rusqlite::Connection,
    path: PathBuf,
    /// Device and inode of the file that is open; none of a database in memory.
    identity: Option<(u64, u64)>,
}

impl Open {
    /// Does something with the file of that name. A file that was moved away, removed or restored from a backup stays
    /// open, and SQLite goes on writing to what nobody will read again; in WAL mode it does not even look. So it
    /// is looked at before, and after: moved in between, the work is done once more on the file that stands there now.
    fn in_place<T>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Fault> {
        self.check_place()?;
        let done = work(&self.connection).map_err(|error| fault(&error))?;
        self.check_place()?;
        Ok(done)
    }

    fn check_place(&self) -> Result<(), Fault> {
        match self.identity.is_some() && identity(&self.path) != self.identity {
            true => Err(Fault::down("its file was moved away or replaced")),
            false => Ok(()),
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

impl Connection for Open {
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Fault> {
        self.in_place(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            statement.execute(rusqlite::params_from_iter(params)).map(|rows| rows as u64)
        })
    }

    fn query(&mut self, sql: &str, params: &[Value], limit: usize) -> Result<Vec<Vec<Value>>, Fault> {
        self.in_place(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let width = statement.column_count();
            let mut rows = statement.query(rusqlite::params_from_iter(params))?;
            let mut found = Vec::new();
            while found.len() < limit
                && let Some(row) = rows.next()?
            {
                found.push((0..width).map(|at| row.get_ref(at).map(value)).collect::<Result<_, _>>()?);
            }
            Ok(found)
        })
    }

    fn begin(&mut self) -> Result<(), Fault> {
        // Takes the write lock now: taken at the first write it could not be waited for.
        self.execute("BEGIN IMMEDIATE", &[]).map(drop)
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.execute("COMMIT", &[]).map(drop)
    }

    fn rollback(&mut self) -> Result<(), Fault> {
        // Some errors have taken the transaction back already.
        match self.connection.is_autocommit() {
            true => Ok(()),
            false => self.execute("ROLLBACK", &[]).map(drop),
        }
    }

    fn columns(&mut self, table: &str) -> Result<Option<Vec<ColumnInfo>>, Fault> {
        const COLUMNS: &str = "SELECT c.name, c.type, c.\"notnull\", c.dflt_value IS NOT NULL OR c.hidden > 0, c.pk, \
             (SELECT count(*) FROM pragma_table_xinfo(?1, ?2) WHERE pk > 0), \
             EXISTS (SELECT 1 FROM pragma_index_list(?1, ?2) AS l WHERE l.\"unique\" AND NOT l.partial \
             AND (SELECT count(*) FROM pragma_index_info(l.name, ?2)) = 1 \
             AND (SELECT max(i.name) FROM pragma_index_info(l.name, ?2) AS i) = c.name) \
             FROM pragma_table_xinfo(?1, ?2) AS c ORDER BY c.cid";
        let (schema, table) = table.split_once('.').unwrap_or(("main", table));
        let names = [Value::Text(table.to_owned()), Value::Text(schema.to_owned())];
        let rows = self.query(COLUMNS, &names, usize::MAX)?;
        let columns: Vec<_> = rows.iter().filter_map(|row| column(row)).collect();
        Ok((!columns.is_empty()).then_some(columns))
    }

    fn missing_rights(&mut self, _table: &str, rights: &[Right]) -> Result<Vec<Right>, Fault> {
        // There is one right, to write the file; it shows when the write lock is taken.
        let writes = |right: &Right| *right != Right::Select;
        match self.begin() {
            Ok(()) => self.rollback().map(|()| Vec::new()),
            Err(Fault::Again { target_down: true, .. } | Fault::Failed(_)) => {
                Ok(rights.iter().copied().filter(writes).collect())
            }
            Err(fault) => Err(fault),
        }
    }

    fn is_alive(&mut self) -> bool {
        true
    }
}

fn column(row: &[Value]) -> Option<ColumnInfo> {
    let [Value::Text(name), Value::Text(declared), not_null, filled, place, keys, unique] = row else {
        return None;
    };
    let is = |value: &Value| !matches!(value, Value::Integer(0) | Value::Null);
    let is_integer = declared.to_ascii_uppercase().contains("INT");
    let alone_in_key = is(place) && *keys == Value::Integer(1);
    Some(ColumnInfo {
        name: name.clone(),
        declared: declared.clone(),
        // Other types are hints to SQLite: a column of any keeps what it is given.
        kind: if is_integer { Kind::Integer(64) } else { Kind::Other },
        nullable: !is(not_null) && !is(place),
        filled: is(filled) || alone_in_key && declared.eq_ignore_ascii_case("INTEGER"),
        unique: is(unique) || alone_in_key,
    })
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Value::Integer(number) => ToSqlOutput::from(*number),
            Value::Text(text) => ToSqlOutput::from(text.as_str()),
            Value::Time(time) => ToSqlOutput::from(time.to_string()),
        })
    }
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Text(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            Value::Text(String::from_utf8_lossy(bytes).into_owned())
        }
    }
}

fn fault(error: &rusqlite::Error) -> Fault {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => {
            // SQLite's texts name tables and columns; values stand in none of them.
            let text = text.clone().unwrap_or_else(|| code.to_string());
            class(code.extended_code).fault(text)
        }
        rusqlite::Error::SqlInputError { error: code, msg, .. } => {
            class(code.extended_code).fault(msg.clone())
        }
        other => Fault::Failed(other.to_string()),
    }
}

/// What an extended result code (<https://sqlite.org/rescode.html>) says.
fn class(extended: i32) -> Class {
    match extended {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => {
            return Class::Duplicate;
        }
        _ => {}
    }
    match extended & 0xff {
        ffi::SQLITE_BUSY
        | ffi::SQLITE_LOCKED
        | ffi::SQLITE_NOMEM
        | ffi::SQLITE_INTERRUPT
        | ffi::SQLITE_PROTOCOL
        | ffi::SQLITE_SCHEMA => Class::Again,
        ffi::SQLITE_READONLY
        | ffi::SQLITE_IOERR
        | ffi::SQLITE_FULL
        | ffi::SQLITE_CANTOPEN
        | ffi::SQLITE_CORRUPT
        | ffi::SQLITE_NOTADB => Class::Down,
        _ => Class::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::{DbTls, Driver};
    use std::fs;
    use std::time::Duration;

    fn target(path: &Path) -> Target {
        Target {
            driver: Driver::Sqlite,
            server: String::new(),
            port: 0,
            username: String::new(),
            password: None,
            database: path.to_str().unwrap().to_owned(),
            timeout: Duration::from_secs(5),
            tls: DbTls::Disable,
            certificate: true,
            ca: None,
            create: true,
            was_there: Default::default(),
        }
    }

    #[test]
    fn a_commit_is_durable_in_a_file_of_somebody_elses_too() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        rusqlite::Connection::open(&theirs).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        for (path, mode) in [(ours, "wal"), (theirs, "delete")] {
            let mut connection = connect(&target(&path)).unwrap();
            let mut said = |pragma: &str| connection.query(pragma, &[], 1).unwrap()[0][0].clone();
            assert_eq!(said("PRAGMA journal_mode"), Value::Text(mode.to_owned()));
            // 3: extra, which flushes the folder from which the journal was removed.
            assert_eq!(said("PRAGMA synchronous"), Value::Integer(3), "{mode}");
        }
    }

    #[test]
    fn a_file_that_is_moved_away_or_replaced_is_written_to_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("a.sqlite"), folder.path().join("aside"));
        let target = target(&path);
        let insert =
            |connection: &mut Box<dyn Connection>| connection.execute("INSERT INTO t VALUES (1)", &[]);
        let moved = |done: Result<u64, Fault>| {
            let fault = done.unwrap_err();
            let down = matches!(&fault, Fault::Again { target_down: true, .. });
            assert!(down && fault.reason().contains("moved away"), "{fault:?}");
        };
        let mut connection = connect(&target).unwrap();
        connection.execute("CREATE TABLE t (a INTEGER)", &[]).unwrap();
        assert_eq!(insert(&mut connection), Ok(1));
        fs::rename(&path, &aside).unwrap();
        moved(insert(&mut connection));
        // Another file of that name, as from a backup.
        fs::copy(&aside, &path).unwrap();
        moved(insert(&mut connection));
        moved(connection.begin().map(|()| 0));
        moved(connection.query("SELECT a FROM t", &[], 1).map(|_| 0));
        let mut again = connect(&target).unwrap();
        again.execute("CREATE TABLE IF NOT EXISTS t (a INTEGER)", &[]).unwrap();
        assert_eq!(insert(&mut again), Ok(1));
        drop(connection);
        // In the middle of a transaction.
        again.begin().unwrap();
        assert_eq!(insert(&mut again), Ok(1));
        fs::rename(&path, &aside).unwrap();
        moved(again.commit().map(|()| 0));
        // Nothing is made in its place: a folder that is not mounted is empty too.
        let gone = connect(&target).err().unwrap();
        assert!(gone.reason().contains("put it back") && !path.exists(), "{gone:?}");
        fs::rename(&aside, &path).unwrap();
        connect(&target).unwrap();
    }

    #[test]
    fn what_may_pass_is_told_from_what_stays() {
        let cases = [
            (ffi::SQLITE_BUSY, Class::Again),
            (ffi::SQLITE_BUSY_SNAPSHOT, Class::Again),
            (ffi::SQLITE_READONLY_DBMOVED, Class::Down),
            (ffi::SQLITE_IOERR_FSYNC, Class::Down),
            (ffi::SQLITE_FULL, Class::Down),
            (ffi::SQLITE_CANTOPEN, Class::Down),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, Class::Duplicate),
            (ffi::SQLITE_CONSTRAINT_PRIMARYKEY, Class::Duplicate),
            (ffi::SQLITE_CONSTRAINT_NOTNULL, Class::Failed),
            (ffi::SQLITE_CONSTRAINT_CHECK, Class::Failed),
            (ffi::SQLITE_ERROR, Class::Failed),
            (ffi::SQLITE_MISMATCH, Class::Failed),
        ];
        for (code, wanted) in cases {
            assert_eq!(class(code), wanted, "{code}");
        }
    }
}
