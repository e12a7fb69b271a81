//! The index's file and what is written to it. Write-ahead mode, so that a reader that dawdles holds up nobody; never
//! flushed but at checkpoints: what a power cut takes is swept up again.

use super::search::Outcome;
use super::{Entry, Note, UNCLEAN_US, cut};
use crate::clock::system_us;
use crate::failed::FailedFolder;
use config::Channel;
use journal::MessageId;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Another number is another layout: the index is made anew.
pub(super) const LAYOUT: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE root (seq INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE message (
        seq INTEGER PRIMARY KEY,
        id TEXT UNIQUE,
        received_us INTEGER NOT NULL,
        control_id TEXT NOT NULL,
        message_type TEXT NOT NULL,
        patient_id TEXT,
        accession_number TEXT,
        outcome INTEGER NOT NULL,
        step TEXT,
        root INTEGER,
        file TEXT
    ) STRICT;
    CREATE INDEX by_time ON message (received_us);
    CREATE INDEX by_control_id ON message (control_id, received_us);
    CREATE INDEX by_patient_id ON message (patient_id, received_us) WHERE patient_id IS NOT NULL;
    CREATE INDEX by_accession_number ON message (accession_number, received_us)
        WHERE accession_number IS NOT NULL;
    CREATE INDEX by_type ON message (message_type, received_us);
    CREATE INDEX by_outcome ON message (outcome, received_us) WHERE outcome <> 0;
    PRAGMA user_version = 1;
";
/// KiB of pages that a worker keeps: 500 channels are 500 of these.
const CACHE_KIB: i64 = 1024;
/// The same while so many notes come at once: the pages that their rows are spread over are read and written once.
const BUSY_CACHE_KIB: i64 = 4096;
const BUSY_NOTES: usize = 1_000;
/// Pages of the write-ahead file before they go to where they belong, in 16 MiB: that takes flushes of the disk that the
/// journal is on, and the fewer the better.
const CHECKPOINT_PAGES: i64 = 4000;
/// Notes of one transaction, and rows pruned by one.
pub(super) const PORTION: usize = 4_000;
/// Rows kept at most, some GiB: a channel without an archive, or with one that keeps everything, ends here.
const ROWS_MAX: i64 = 10_000_000;
const DAY_US: i64 = 86_400 * 1_000_000;

/// Why the index cannot be written.
#[derive(Debug)]
pub(super) struct Fault {
    path: PathBuf,
    /// What that calls for.
    pub(super) kind: FaultKind,
    error: Option<rusqlite::Error>,
}

/// What a fault calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The disk: wait.
    Disk,
    /// The file is no index of ours, or not any more: only a new one helps.
    Damage,
    /// The file was removed, or another was put in its place: open what is there now.
    Gone,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            FaultKind::Disk => "could not be written",
            FaultKind::Damage => "is damaged and made anew",
            FaultKind::Gone => "was taken away and is made anew",
        };
        write!(f, "index {:?} {what}", self.path)?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, ": {error}"))
    }
}

/// The open index.
pub(super) struct Store {
    connection: Connection,
    path: PathBuf,
    inode: u64,
    roots: HashMap<PathBuf, i64>,
    sweep_since_us: Option<i64>,
    /// Rows without an id are there, which a message that ends may be one of.
    has_nameless: bool,
    /// It keeps as many pages as a busy channel needs.
    is_busy: bool,
}

impl Store {
    /// Opens the index, or makes it; then, and after an end without a word, a sweep is due.
    pub(super) fn open(path: &Path) -> Result<Store, Fault> {
        let (connection, is_new) = connect(path).map_err(|error| fault(path, error))?;
        let inode = fs::metadata(path).map_or(0, |meta| meta.ino());
        let mut store = Store {
            connection,
            path: path.to_owned(),
            inode,
            roots: HashMap::new(),
            sweep_since_us: None,
            has_nameless: false,
            is_busy: false,
        };
        let opened = store.begin(is_new);
        opened.map_err(|error| fault(path, error))?;
        Ok(store)
    }

    fn begin(&mut self, is_new: bool) -> rusqlite::Result<()> {
        self.sweep_since_us = self.meta("sweep_since_us")?;
        let unclean = self.meta("writing")?.is_some();
        if is_new {
            self.set_sweep(i64::MIN)?;
        } else if unclean {
            let committed_us = self.meta("committed_us")?.unwrap_or(i64::MIN);
            self.set_sweep(committed_us.saturating_sub(UNCLEAN_US))?;
        }
        self.has_nameless = self.meta("has_nameless")?.is_some();
        self.set_meta("writing", 1)
    }

    /// The administrator may remove the file, or mount another over it: what is written then is seen by nobody.
    pub(super) fn check_in_place(&self) -> Result<(), Fault> {
        match fs::metadata(&self.path) {
            Ok(meta) if meta.ino() == self.inode => Ok(()),
            _ => Err(Fault { path: self.path.clone(), kind: FaultKind::Gone, error: None }),
        }
    }

    /// Receipts from then on are to be looked for in the archive.
    pub(super) fn sweep_since_us(&self) -> Option<i64> {
        self.sweep_since_us
    }

    /// Messages received then were let go.
    pub(super) fn must_sweep(&mut self, since_us: i64) -> Result<(), Fault> {
        self.set_sweep(since_us).map_err(|error| fault(&self.path, error))
    }

    fn set_sweep(&mut self, since_us: i64) -> rusqlite::Result<()> {
        let since_us = self.sweep_since_us.map_or(since_us, |us| us.min(since_us));
        self.set_meta("sweep_since_us", since_us)?;
        self.sweep_since_us = Some(since_us);
        Ok(())
    }

    /// The sweep has found everything.
    pub(super) fn swept(&mut self) -> Result<(), Fault> {
        self.sweep_since_us = None;
        self.unset_meta("sweep_since_us").map_err(|error| fault(&self.path, error))
    }

    /// Writes notes, a portion a transaction.
    pub(super) fn write(&mut self, notes: &[Note]) -> Result<(), Fault> {
        self.keep_pages(notes.len() >= BUSY_NOTES).map_err(|error| fault(&self.path, error))?;
        for portion in notes.chunks(PORTION) {
            self.transaction(|store| portion.iter().try_for_each(|note| store.write_one(note)))?;
        }
        Ok(())
    }

    fn keep_pages(&mut self, is_busy: bool) -> rusqlite::Result<()> {
        if is_busy != self.is_busy {
            let kib = if is_busy { BUSY_CACHE_KIB } else { CACHE_KIB };
            self.connection.execute_batch(&format!("PRAGMA cache_size = -{kib}"))?;
            self.is_busy = is_busy;
        }
        Ok(())
    }

    fn write_one(&mut self, note: &Note) -> rusqlite::Result<()> {
        match note {
            Note::Message(entry) => self.upsert(entry),
            Note::Becomes(id, outcome) => {
                let sql = "UPDATE message SET outcome = ?2, step = iif(?2 = 4, step, NULL) \
                           WHERE id = ?1 AND outcome <> ?2";
                let mut statement = self.connection.prepare_cached(sql)?;
                statement.execute(params![id.to_string(), outcome.number()])?;
                Ok(())
            }
        }
    }

    /// A note that a message waits may come behind the one that it is done, from another thread: it changes nothing
    /// where a row is there.
    fn upsert(&mut self, entry: &Entry) -> rusqlite::Result<()> {
        if self.has_nameless && entry.id.is_some() && self.name_the_nameless(entry)? {
            return Ok(());
        }
        let (root, file) = self.place(entry.archived.as_deref())?;
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO message
                (id, received_us, control_id, message_type, patient_id, accession_number, outcome, step, root, file)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (id) DO UPDATE SET
                patient_id = coalesce(excluded.patient_id, patient_id),
                accession_number = coalesce(excluded.accession_number, accession_number),
                outcome = iif(excluded.outcome = 2, outcome, excluded.outcome),
                step = iif(excluded.outcome = 2, step, excluded.step),
                root = coalesce(excluded.root, root), file = coalesce(excluded.file, file)",
        )?;
        statement.execute(params![
            entry.id.map(|id| id.to_string()),
            entry.received_us,
            cut(&entry.control_id),
            cut(&entry.message_type),
            entry.keys.patient_id.as_deref().map(cut),
            entry.keys.accession_number.as_deref().map(cut),
            entry.outcome.number(),
            entry.step.as_deref().map(cut),
            root,
            file,
        ])?;
        Ok(())
    }

    /// A row that a sweep made of this message's archived file becomes the message's.
    fn name_the_nameless(&mut self, entry: &Entry) -> rusqlite::Result<bool> {
        let mut statement = self.connection.prepare_cached(
            "UPDATE OR IGNORE message SET id = ?1, outcome = ?2, step = ?3
             WHERE id IS NULL AND received_us = ?4 AND +control_id = ?5",
        )?;
        let (id, step) = (entry.id.map(|id| id.to_string()), entry.step.as_deref().map(cut));
        let changed = statement.execute(params![
            id,
            entry.outcome.number(),
            step,
            entry.received_us,
            cut(&entry.control_id)
        ])?;
        Ok(changed > 0)
    }

    /// Whether a message with this time of receipt and, where it is given, this control id is known, with its file.
    pub(super) fn knows(&self, received_us: i64, control_id: Option<&str>) -> Result<bool, Fault> {
        let known = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT 1 FROM message WHERE received_us = ?1 AND (?2 IS NULL OR +control_id = ?2)
                 AND file IS NOT NULL",
            )?;
            statement.exists(params![received_us, control_id.map(cut)])
        };
        known().map_err(|error| fault(&self.path, error))
    }

    /// What a sweep found: archived files join the rows of their messages where these are known.
    pub(super) fn add_swept(&mut self, entries: &[Entry]) -> Result<(), Fault> {
        self.transaction(|store| {
            for entry in entries {
                let (root, file) = store.place(entry.archived.as_deref())?;
                let mut statement = store.connection.prepare_cached(
                    "UPDATE message SET root = ?1, file = ?2
                     WHERE received_us = ?3 AND +control_id = ?4 AND file IS NULL",
                )?;
                let joined = entry.id.is_none()
                    && statement.execute(params![root, file, entry.received_us, cut(&entry.control_id)])? > 0;
                drop(statement);
                if joined {
                    continue;
                }
                if entry.id.is_none() && !store.has_nameless {
                    store.set_meta("has_nameless", 1)?;
                    store.has_nameless = true;
                }
                store.upsert(entry)?;
            }
            Ok(())
        })
    }

    /// At the start: what waited and is not open any more has ended; what failed is listed so.
    pub(super) fn reconcile(&mut self, open: &[MessageId], failed: &FailedFolder) -> Result<(), Fault> {
        let waiting = Outcome::Waiting.number();
        let select = |store: &Store| {
            let sql = "SELECT id FROM message WHERE outcome = ?1 AND outcome <> 0 AND id IS NOT NULL";
            let mut statement = store.connection.prepare(sql)?;
            let ids = statement.query_map([waiting], |row| row.get::<_, String>(0))?;
            ids.collect::<rusqlite::Result<Vec<String>>>()
        };
        let waited = select(self).map_err(|error| fault(&self.path, error))?;
        let over = waited
            .iter()
            .filter_map(|id| id.parse::<MessageId>().ok())
            .filter(|id| open.binary_search(id).is_err());
        // What failed is written by a sweep, which looks into its file.
        let (failed, done): (Vec<MessageId>, Vec<MessageId>) = over.partition(|id| failed.contains(*id));
        if !failed.is_empty() {
            self.must_sweep(system_us())?;
        }
        self.write(&done.into_iter().map(|id| Note::Becomes(id, Outcome::Done)).collect::<Vec<_>>())
    }

    /// Whether the message is listed as failed in the index.
    pub(super) fn knows_failed(&self, id: MessageId) -> Result<bool, Fault> {
        let known = || {
            let mut statement =
                self.connection.prepare_cached("SELECT 1 FROM message WHERE id = ?1 AND outcome = ?2")?;
            statement.exists(params![id.to_string(), Outcome::Failed.number()])
        };
        known().map_err(|error| fault(&self.path, error))
    }

    /// Rows older than the archive's files, and more than are kept, go; what failed or waits stays.
    pub(super) fn prune(&mut self, channel: &Channel, now_us: i64) -> Result<(), Fault> {
        let days = channel.local_archive.as_ref().and_then(|archive| archive.retention_days);
        if let Some(days) = days {
            let before_us = now_us - i64::from(days) * DAY_US;
            self.delete("received_us < ?1", before_us)?;
        }
        let above = |store: &Store| {
            let sql = "SELECT coalesce(max(seq) - min(seq), 0) FROM message";
            let span: i64 = store.connection.query_row(sql, [], |row| row.get(0))?;
            let sql = "SELECT coalesce(min(seq), 0) FROM message";
            let first: i64 = store.connection.query_row(sql, [], |row| row.get(0))?;
            Ok((span > ROWS_MAX).then_some(first + span - ROWS_MAX))
        };
        match above(self).map_err(|error| fault(&self.path, error))? {
            Some(seq) => self.delete("seq < ?1", seq),
            None => Ok(()),
        }
    }

    fn delete(&mut self, wheres: &str, value: i64) -> Result<(), Fault> {
        let sql = format!(
            "DELETE FROM message WHERE seq IN (SELECT seq FROM message WHERE {wheres} \
             AND outcome NOT IN ({}, {}) LIMIT {PORTION})",
            Outcome::Failed.number(),
            Outcome::Waiting.number()
        );
        loop {
            let mut deleted = 0;
            self.transaction(|store| {
                deleted = store.connection.prepare_cached(&sql)?.execute([value])?;
                Ok(())
            })?;
            if deleted < PORTION {
                return Ok(());
            }
        }
    }

    /// All is written: the next worker need not sweep.
    pub(super) fn close(self) {
        if self.unset_meta("writing").is_ok() {
            let _ = self.connection.close();
        }
    }

    fn transaction(&mut self, work: impl FnOnce(&mut Store) -> rusqlite::Result<()>) -> Result<(), Fault> {
        let run = |store: &mut Store| {
            store.connection.execute_batch("BEGIN IMMEDIATE")?;
            let worked = work(store).and_then(|()| store.set_meta("committed_us", system_us()));
            match worked.and_then(|()| store.connection.execute_batch("COMMIT")) {
                Ok(()) => Ok(()),
                Err(error) => {
                    let _ = store.connection.execute_batch("ROLLBACK");
                    // Roots that were added are gone again.
                    store.roots.clear();
                    Err(error)
                }
            }
        };
        run(self).map_err(|error| fault(&self.path, error))
    }

    /// The root that a file is below of, by number, and the rest of its path.
    fn place(&mut self, archived: Option<&Path>) -> rusqlite::Result<(Option<i64>, Option<String>)> {
        // FOLDER/<format>/NAME: which part is which does not matter, as long as folders are few.
        let Some((folder, name)) = archived.and_then(|path| path.parent().zip(path.file_name()?.to_str()))
        else {
            return Ok((None, None));
        };
        let Some(text) = folder.to_str() else { return Ok((None, None)) };
        if let Some(seq) = self.roots.get(folder) {
            return Ok((Some(*seq), Some(name.to_owned())));
        }
        if self.roots.len() >= PORTION {
            self.roots.clear();
        }
        let sql = "SELECT seq FROM root WHERE path = ?1";
        let known = self.connection.query_row(sql, [text], |row| row.get(0)).optional()?;
        let seq = match known {
            Some(seq) => seq,
            None => {
                self.connection.execute("INSERT INTO root (path) VALUES (?1)", [text])?;
                self.connection.last_insert_rowid()
            }
        };
        self.roots.insert(folder.to_owned(), seq);
        Ok((Some(seq), Some(name.to_owned())))
    }

    fn meta(&self, name: &str) -> rusqlite::Result<Option<i64>> {
        let sql = "SELECT value FROM meta WHERE name = ?1";
        self.connection.prepare_cached(sql)?.query_row([name], |row| row.get(0)).optional()
    }

    fn set_meta(&self, name: &str, value: i64) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)";
        self.connection.prepare_cached(sql)?.execute(params![name, value]).map(drop)
    }

    fn unset_meta(&self, name: &str) -> rusqlite::Result<()> {
        self.connection.execute("DELETE FROM meta WHERE name = ?1", [name]).map(drop)
    }
}

/// The connection, and whether the file is new.
fn connect(path: &Path) -> rusqlite::Result<(Connection, bool)> {
    // Made by us and not by SQLite, for its mode: the side files take it over.
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY; \
         PRAGMA journal_size_limit = 16777216; PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}; \
         PRAGMA cache_size = -{CACHE_KIB};"
    ))?;
    connection.set_prepared_statement_cache_capacity(32);
    let layout: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if layout == LAYOUT {
        return Ok((connection, made.is_ok()));
    }
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error { code: ErrorCode::NotADatabase, extended_code: 0 },
            Some(format!("its layout is {layout}, not {LAYOUT}")),
        ));
    }
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;"))?;
    Ok((connection, true))
}

fn fault(path: &Path, error: rusqlite::Error) -> Fault {
    let damage = match &error {
        rusqlite::Error::SqliteFailure(failure, _) => matches!(
            failure.code,
            // `Unknown` is what SQL that does not fit the tables ends with: they are not ours.
            ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::TypeMismatch
                | ErrorCode::Unknown
        ),
        // A column that does not hold what we put there.
        rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..) => true,
        rusqlite::Error::SqlInputError { .. } => true,
        _ => false,
    };
    let kind = if damage { FaultKind::Damage } else { FaultKind::Disk };
    Fault { path: path.to_owned(), kind, error: Some(error) }
}

/// Makes way for a new index: removes a damaged file, and the side files of one that was taken away. What stays is met
/// again when it is opened.
pub(super) fn make_way(path: &Path, kind: FaultKind) {
    let suffixes: &[&str] = match kind {
        FaultKind::Disk => &[],
        FaultKind::Damage => &["", "-wal", "-shm"],
        FaultKind::Gone => &["-wal", "-shm"],
    };
    for suffix in suffixes {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = fs::remove_file(name);
    }
}
