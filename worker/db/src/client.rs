//! What a step calls: rows, look-ups and merges on a connection that is opened when it is first needed, kept, and made
//! anew when it is lost. Knows no engine.

mod tables;

pub use tables::Probe;

use crate::convert::hl7_time;
use crate::fault::Fault;
use crate::sql::Connection;
use crate::table::{DRAWS_MAX, Row, Table};
use crate::target::Target;
use crate::value::Value;
use config::{Channel, Driver};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tables::Found;

/// Rows of one transaction: as many as a job of deliveries has, few enough that its locks are short.
const TRANSACTION_ROWS_MAX: usize = 64;
/// A connection that rested longer is asked whether it still stands before anything is sent on it: a firewall or the
/// server may have closed it, and a statement lost that way would be in doubt.
const REST_MAX: Duration = Duration::from_secs(2);
/// A connection found lost within this time is made anew at once; after a longer wait the step is tried again later.
const QUICK: Duration = Duration::from_secs(1);

/// A channel's database: its settings, and what its connections share. One a worker; made before the sandbox closes,
/// since it reads the CA bundle.
#[derive(Clone)]
pub struct Database(Arc<Shared>);

struct Shared {
    target: Target,
    table: Table,
    debug_table: bool,
    debug_values: bool,
    found: Mutex<Option<Found>>,
    /// What the log has been told already.
    told: Mutex<BTreeSet<String>>,
    /// SQLite has one writer; threads line up here, in order, instead of polling its lock.
    writer: Mutex<()>,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is there now.
    New,
    /// It was there already: the message had been delivered before.
    AlreadyThere,
}

impl Database {
    /// From a channel's settings; `None` where it has no database. Connects to nothing.
    pub fn new(channel: &Channel, password: Option<&str>) -> Option<Database> {
        let table = Table::of(channel)?;
        Some(Database(Arc::new(Shared {
            target: Target::new(&table.insert, password),
            debug_table: table.insert.debug_table,
            debug_values: channel.debug_values,
            table,
            found: Mutex::default(),
            told: Mutex::default(),
            writer: Mutex::default(),
        })))
    }

    /// The rows and statements.
    pub fn table(&self) -> &Table {
        &self.0.table
    }

    /// Where it is.
    pub fn target(&self) -> &Target {
        &self.0.target
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({})", self.0.target.label())
    }
}

/// One thread's connection to a channel's database.
pub struct Client {
    shared: Arc<Shared>,
    open: Option<Open>,
}

struct Open {
    connection: Box<dyn Connection>,
    used: Instant,
}

impl Client {
    /// Connects to nothing yet.
    pub fn new(database: &Database) -> Client {
        Client { shared: Arc::clone(&database.0), open: None }
    }

    /// The rows and statements.
    pub fn table(&self) -> &Table {
        &self.shared.table
    }

    /// Connects, creates the table where it is absent and `create_table` says so, and compares it with the settings.
    /// Each difference is a sentence for an operator; it is logged as a warning, once a worker.
    ///
    /// # Errors
    /// The database cannot be reached or the table cannot be created.
    pub fn prepare(&mut self) -> Result<Vec<String>, Fault> {
        self.again_if_lost(true, |client| Ok(client.found()?.differences))
    }

    /// Inserts a row. With `message_key` it may be called again and again for the same message; without, a fault that
    /// is [`Fault::Again`] leaves open whether the row is there.
    ///
    /// # Errors
    /// A [`Fault::Again`] or a [`Fault::Failed`].
    pub fn insert(&mut self, row: &Row) -> Result<Inserted, Fault> {
        let safe = self.shared.table.insert.message_key.is_some();
        let shared = Arc::clone(&self.shared);
        let _turn = shared.turn();
        let done = self.again_if_lost(safe, |client| client.insert_once(row));
        self.look_anew_after_failure(&done);
        done
    }

    /// Inserts rows, with `message_key` many in one transaction; what is wrong with one is its own.
    pub fn insert_many(&mut self, rows: &[Row]) -> Vec<Result<Inserted, Fault>> {
        let mut done = Vec::with_capacity(rows.len());
        let safe = self.shared.table.insert.message_key.is_some();
        for rows in rows.chunks(TRANSACTION_ROWS_MAX) {
            if rows.len() > 1 && safe {
                let shared = Arc::clone(&self.shared);
                let _turn = shared.turn();
                match self.again_if_lost(true, |client| client.insert_together(rows)) {
                    Ok(Some(all)) => {
                        done.extend(all.into_iter().map(Ok));
                        continue;
                    }
                    Ok(None) => {}
                    Err(fault @ Fault::Again { target_down: true, .. }) => {
                        done.extend(rows.iter().map(|_| Err(fault.clone())));
                        continue;
                    }
                    // One of them, or a lock: each for itself.
                    Err(_) => {}
                }
            }
            let mut down = None;
            for row in rows {
                let one = match &down {
                    Some(fault) => Err(Fault::clone(fault)),
                    None => self.insert(row),
                };
                if let Err(fault @ Fault::Again { target_down: true, .. }) = &one {
                    down = Some(fault.clone());
                }
                done.push(one);
            }
        }
        done
    }

    /// The value that a look-up of `db_mapping` (by its place) finds for a text; `None` is null.
    ///
    /// # Errors
    /// No row where one must be, or several different values, are [`Fault::Failed`].
    pub fn lookup(&mut self, place: usize, text: Option<&str>) -> Result<Option<String>, Fault> {
        let shared = Arc::clone(&self.shared);
        let lookup = &shared.table.lookups[place];
        let name = &lookup.name;
        let mut rows = match text.filter(|text| !text.is_empty()) {
            // Nothing to look for is nothing found.
            None => Vec::new(),
            Some(text) => self.again_if_lost(true, |client| client.search(place, text)).map_err(|fault| {
                let reason = format!("look-up {name:?}: {}", fault.reason());
                match fault {
                    Fault::Again { target_down, wanted_us, .. } => {
                        Fault::Again { reason, target_down, wanted_us }
                    }
                    Fault::Duplicate(_) | Fault::Failed(_) => Fault::Failed(reason),
                }
            })?,
        };
        if rows.len() > 1 {
            let what = format!("look-up {name:?}: several rows with different {:?}", lookup.returns);
            return Err(Fault::Failed(what));
        }
        match rows.pop().and_then(|mut row| row.pop()) {
            Some(Value::Null) => Ok(None),
            Some(Value::Integer(number)) => Ok(Some(number.to_string())),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Time(time)) => Ok(Some(hl7_time(time))),
            None if lookup.optional => Ok(None),
            None => Err(Fault::Failed(format!(
                "look-up {name:?}: no row has this {:?}. Name it in mapping_ignore if that is all right",
                lookup.matches
            ))),
        }
    }

    /// Gives the rows of each prior patient to the surviving one, all pairs (survivor, prior) in one transaction; how
    /// many rows changed.
    ///
    /// # Errors
    /// A [`Fault::Again`] or a [`Fault::Failed`]; then nothing changed, or all did.
    pub fn merge(&mut self, pairs: &[(Value, Value)]) -> Result<u64, Fault> {
        let shared = Arc::clone(&self.shared);
        let _turn = shared.turn();
        let done = self.again_if_lost(true, |client| {
            let found = client.found()?;
            let sql = client.shared.table.merge_sql(found.merges_text);
            let sql =
                sql.ok_or_else(|| Fault::Failed("no column of db_metadata holds patient_id".to_owned()))?;
            let copies = if found.merges_text { client.shared.table.dialect.exact_params() } else { 1 };
            client.transaction(|client| {
                let mut rows = 0;
                for (survivor, prior) in pairs.iter().filter(|(survivor, prior)| survivor != prior) {
                    let mut params = vec![survivor.clone()];
                    params.extend(std::iter::repeat_n(prior.clone(), copies));
                    rows += client.execute(&sql, &params)?;
                }
                Ok(rows)
            })
        });
        self.look_anew_after_failure(&done);
        done.map_err(failed)
    }

    fn insert_once(&mut self, row: &Row) -> Result<Inserted, Fault> {
        let found = self.found()?;
        let sql = self.shared.table.insert_sql(found.unique_key);
        let has_key = self.shared.table.insert.message_key.is_some();
        if has_key && !found.unique_key {
            return self.transaction(|client| match client.is_there(row)? {
                true => Ok(Inserted::AlreadyThere),
                false => client.execute(&sql, &row.values).map(|_| Inserted::New),
            });
        }
        let mut drawn = None;
        for draw in 1..=DRAWS_MAX {
            match self.execute(&sql, &drawn.as_ref().unwrap_or(row).values) {
                Ok(0) if has_key => return Ok(Inserted::AlreadyThere),
                Ok(_) => return Ok(Inserted::New),
                Err(Fault::Duplicate(reason)) => {
                    if !has_key {
                        return Err(Fault::Failed(reason));
                    }
                    if self.is_there(row)? {
                        return Ok(Inserted::AlreadyThere);
                    }
                    // Another unique index: a random value may be another message's.
                    drawn = self.shared.table.redrawn(row, draw);
                    if drawn.is_none() {
                        return Err(Fault::Failed(reason));
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(Fault::Failed(format!("{DRAWS_MAX} random values are there already. Make the column longer")))
    }

    /// `None` where they have to go one by one.
    fn insert_together(&mut self, rows: &[Row]) -> Result<Option<Vec<Inserted>>, Fault> {
        if !self.found()?.unique_key {
            return Ok(None);
        }
        let sql = self.shared.table.insert_sql(true);
        let insert = |client: &mut Client| {
            let mut done = Vec::with_capacity(rows.len());
            for row in rows {
                done.push(match client.execute(&sql, &row.values)? {
                    0 => Inserted::AlreadyThere,
                    _ => Inserted::New,
                });
            }
            Ok(done)
        };
        self.transaction(insert).map(Some)
    }

    fn is_there(&mut self, row: &Row) -> Result<bool, Fault> {
        let sql = self.shared.table.key_sql().expect("asked only where there is a key");
        let key = Value::Text(row.id().to_owned());
        Ok(!self.query(&sql, &[key], 1)?.is_empty())
    }

    fn search(&mut self, place: usize, text: &str) -> Result<Vec<Vec<Value>>, Fault> {
        let found = self.found()?;
        let shared = Arc::clone(&self.shared);
        let wanted = match found.numbers.get(place) {
            // Else MariaDB would find the row of 12 for "12 and a half".
            Some(true) => match text.trim().parse() {
                Ok(number) => Value::Integer(number),
                Err(_) => return Ok(Vec::new()),
            },
            _ => Value::Text(text.to_owned()),
        };
        if let Value::Text(text) = &wanted
            && shared.table.dialect.refuses_text(text).is_some()
        {
            return Ok(Vec::new());
        }
        self.query(&shared.table.lookup_sql(&shared.table.lookups[place]), &[wanted], 2)
    }

    fn transaction<T>(&mut self, work: impl FnOnce(&mut Client) -> Result<T, Fault>) -> Result<T, Fault> {
        self.connection()?.begin()?;
        match work(self) {
            Ok(done) => {
                self.connection()?.commit()?;
                Ok(done)
            }
            Err(fault) => {
                // A connection that cannot take it back is dropped, and the server takes it back.
                if !fault.is_again()
                    && let Some(open) = &mut self.open
                    && open.connection.rollback().is_err()
                {
                    self.open = None;
                }
                Err(fault)
            }
        }
    }

    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Fault> {
        self.debug(sql, params);
        self.connection()?.execute(sql, params)
    }

    fn query(&mut self, sql: &str, params: &[Value], limit: usize) -> Result<Vec<Vec<Value>>, Fault> {
        self.debug(sql, params);
        self.connection()?.query(sql, params, limit)
    }

    fn debug(&self, sql: &str, params: &[Value]) {
        if !self.shared.debug_table {
            return;
        }
        let sql = sql.replace("\n ", "").replace('\n', "");
        match self.shared.debug_values {
            true => {
                let shown: Vec<_> = params.iter().map(Value::shown).collect();
                log::info!("database: {sql}; with {}", shown.join(", "));
            }
            false => log::info!("database: {sql}; with {params:?}"),
        }
    }

    /// Drops a connection that did not survive its rest.
    fn rested(&mut self) -> Result<(), Fault> {
        if let Some(open) = &mut self.open
            && open.used.elapsed() > REST_MAX
        {
            if open.connection.is_alive() {
                open.used = Instant::now();
            } else {
                self.open = None;
            }
        }
        self.connection().map(drop)
    }

    fn connection(&mut self) -> Result<&mut dyn Connection, Fault> {
        if self.open.is_none() {
            let connection = self.shared.target.connect()?;
            self.open = Some(Open { connection, used: Instant::now() });
        }
        let open = self.open.as_mut().expect("opened above");
        open.used = Instant::now();
        Ok(&mut *open.connection)
    }

    /// Does something once more, on a new connection, where a kept one turned out to be lost and doing it twice does no
    /// harm. A connection is not kept after a fault that may pass: whatever it was in the middle of is over.
    fn again_if_lost<T>(
        &mut self,
        harmless: bool,
        work: impl Fn(&mut Client) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let kept = self.open.is_some();
        let began = Instant::now();
        let done = self.attempt(&work);
        match &done {
            Err(Fault::Again { target_down: true, .. }) if kept && harmless && began.elapsed() < QUICK => {
                self.attempt(&work)
            }
            _ => done,
        }
    }

    fn attempt<T>(&mut self, work: impl Fn(&mut Client) -> Result<T, Fault>) -> Result<T, Fault> {
        let done = work(self);
        if done.as_ref().is_err_and(Fault::is_again) {
            self.open = None;
        }
        done.map_err(|fault| self.named(failed(fault)))
    }

    /// A database that is down is named, for whoever has several.
    fn named(&self, fault: Fault) -> Fault {
        let label = self.shared.target.label();
        match fault {
            Fault::Again { reason, target_down: true, wanted_us } if !reason.starts_with(&label) => {
                Fault::Again { reason: format!("{label}: {reason}"), target_down: true, wanted_us }
            }
            fault => fault,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.open.is_some() { "open" } else { "closed" };
        write!(f, "Client({}, {state})", self.shared.target.label())
    }
}

impl Shared {
    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        (self.target.driver == Driver::Sqlite).then(|| lock(&self.writer))
    }

    /// Warns of each difference once.
    fn tell(&self, differences: &[String]) {
        let mut told = lock(&self.told);
        for difference in differences {
            if told.insert(difference.clone()) {
                let label = self.target.label();
                match difference.starts_with(&label) {
                    true => log::warn!("{difference}"),
                    false => log::warn!("{label}: {difference}"),
                }
            }
        }
    }
}

/// Past this file there are two outcomes.
fn failed(fault: Fault) -> Fault {
    match fault {
        Fault::Duplicate(reason) => Fault::Failed(reason),
        fault => fault,
    }
}

/// What a lock guards here is whole after every step: a panic of another thread does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
