//! The index that `hl7server find` looks messages up in: one SQLite file a channel, `state_path/CHANNEL/index.sqlite`.
//!
//! It is filled when a message has ended or waits, by a thread of its own, off the acknowledgment's path and off
//! delivery's: [`Sender::note`] takes a lock and pushes. Nothing depends on the index. Where its disk is dead or it
//! cannot keep up, entries are let go, and what was let go is swept up later from the archive and the failed folder;
//! where it is lost or damaged, it is made anew from the same two. What an archive cannot tell (the message id, whether
//! every step was done) is then missing, and the row says `archived`.
//!
//! Rows go as the archive's day folders go (`local_archive.retention_days`); what failed or waits stays until it ends.

mod search;
mod store;
mod sweep;

pub use search::{Found, Outcome, Query, Search, SearchFault, search};

use crate::clock;
use crate::extract::{self, Metadata};
use crate::failed::FailedFolder;
use crate::precedence;
use config::Channel;
use hl7::message::Message;
use hl7::path::FieldPath;
use journal::MessageId;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use store::{Fault, FaultKind, Store};
use sweep::Sweep;

/// The file's name in a channel's state folder.
pub const FILE: &str = "index.sqlite";

/// Notes that wait for the thread; more are let go and swept up later. About 30 MB, some seconds of the fastest channel.
const QUEUED_MAX: usize = 100_000;
/// Notes are gathered for that long, so that a quiet channel does not pay a transaction a message.
const LINGER: Duration = Duration::from_millis(200);
/// After a fault of the disk the index is opened anew that much later.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Without a message the index is opened that long after the start: five hundred workers that start together have better
/// things to do.
const SETTLED_AFTER: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 5_000 });
/// How often rows are pruned.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// A worker that ended without a word may have left out what ended in its last moments: receipts up to that long before
/// its last transaction are looked at again.
const UNCLEAN_US: i64 = 48 * 3600 * 1_000_000;
/// Longest value that is indexed, in bytes; a query is cut alike.
const VALUE_BYTES_MAX: usize = 200;

/// A message as the index knows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Its id; an archived message does not tell.
    pub(crate) id: Option<MessageId>,
    /// Time of receipt, microseconds of Unix time.
    pub(crate) received_us: i64,
    /// MSH-10.
    pub(crate) control_id: String,
    /// MSH-9 as `ADT^A01`.
    pub(crate) message_type: String,
    /// See [`Keys`].
    pub(crate) keys: Keys,
    /// How it ended, or that it waits.
    pub(crate) outcome: Outcome,
    /// The step it failed in, or waits for.
    pub(crate) step: Option<String>,
    /// Its archived file, once there is one.
    pub(crate) archived: Option<PathBuf>,
}

/// What a message is looked for by, besides its header.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Keys {
    /// At `patient_id_field`, else the mapping `patient_id`, else PID-3.1.
    pub(crate) patient_id: Option<String>,
    /// At `accession_number_field`, else the mapping `accession_number`.
    pub(crate) accession_number: Option<String>,
}

impl Keys {
    /// Of a message that has been read.
    pub(crate) fn of(message: &Message<'_>, channel: &Channel, metadata: &Metadata) -> Keys {
        let mapped = |wanted: &str| {
            let value = metadata.iter().find(|(name, _)| *name == wanted).and_then(|(_, value)| value);
            value.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        let at = |path: &Option<FieldPath>| path.as_ref().and_then(|path| extract::text_at(message, path));
        static PID: LazyLock<FieldPath> =
            LazyLock::new(|| "PID.1.3.1".parse().expect("a path written here is right"));
        let pid = || extract::text_at(message, &PID);
        Keys {
            patient_id: at(&channel.patient_id_field).or_else(|| mapped("patient_id")).or_else(pid),
            accession_number: at(&channel.accession_number_field).or_else(|| mapped("accession_number")),
        }
    }
}

/// A change to the index.
#[derive(Debug)]
enum Note {
    /// A message ended, or waits for the first time.
    Message(Box<Entry>),
    /// A message that is in the index, or not, is something else now.
    Becomes(MessageId, Outcome),
}

/// Where notes are handed over. Never blocks for the disk, never fails.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Default))]
pub(crate) struct Sender(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    notes: Vec<Note>,
    /// The earliest receipt of what was let go.
    let_go_us: Option<i64>,
    stopping: bool,
    ended: bool,
}

impl Sender {
    /// Hands messages over.
    pub(crate) fn note(&self, entries: impl IntoIterator<Item = Entry>) {
        self.push(entries.into_iter().map(|entry| Note::Message(Box::new(entry))));
    }

    /// Messages of which only this changes.
    pub(crate) fn becomes(&self, ids: &[MessageId], outcome: Outcome) {
        if !ids.is_empty() {
            self.push(ids.iter().map(|id| Note::Becomes(*id, outcome)));
        }
    }

    fn push(&self, notes: impl Iterator<Item = Note>) {
        let mut state = self.0.lock();
        let was_empty = state.notes.is_empty();
        for note in notes {
            if state.notes.len() < QUEUED_MAX && !state.ended {
                state.notes.push(note);
            } else {
                state.let_go(&note);
            }
        }
        if was_empty && !state.notes.is_empty() {
            self.0.changed.notify_all();
        }
    }

    /// Writes what was handed over and ends the thread; gives up, and is swept up after the next start, at `limit`.
    pub(crate) fn stop(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.0.lock();
        state.stopping = true;
        self.0.changed.notify_all();
        while !state.ended {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return log::warn!(
                    "the index for find could not be closed in time; it is completed after the start"
                );
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(|e| e.into_inner()).0;
        }
    }
}

impl State {
    fn let_go(&mut self, note: &Note) {
        let received_us = match note {
            Note::Message(entry) => entry.received_us,
            Note::Becomes(id, _) => id.unix_ms() as i64 * 1000,
        };
        self.let_go_us = Some(self.let_go_us.map_or(received_us, |us| us.min(received_us)));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside leaves a list, not half a structure.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What the thread works from.
pub(crate) struct Indexer {
    /// The channel.
    pub(crate) channel: Channel,
    /// The index.
    pub(crate) path: PathBuf,
    /// Messages that are open in the journal, when the worker starts; in any order. Asked for once.
    pub(crate) open: Option<Vec<MessageId>>,
    /// The failed folder.
    pub(crate) failed: Arc<FailedFolder>,
}

impl Indexer {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start(self) -> std::io::Result<Sender> {
        let shared = Arc::new(Shared::default());
        let sender = Sender(Arc::clone(&shared));
        let work = move || {
            precedence::stand_back();
            // However the thread ends, nobody waits for it, and nothing is queued for it.
            let _ended = Ended(Arc::clone(&shared));
            let run = Run {
                shared,
                store: None,
                sweep: None,
                sweep_until_us: clock::system_us(),
                retry_at: Instant::now(),
                has_settled: false,
                down: false,
                indexer: self,
            };
            run.run();
        };
        std::thread::Builder::new().name("index".to_owned()).spawn(work)?;
        Ok(sender)
    }
}

struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        state.notes = Vec::new();
        self.0.changed.notify_all();
    }
}

/// The thread.
struct Run {
    indexer: Indexer,
    shared: Arc<Shared>,
    store: Option<Store>,
    sweep: Option<Sweep>,
    /// What came later is noted; unless notes were let go.
    sweep_until_us: i64,
    retry_at: Instant,
    has_settled: bool,
    /// A fault was logged and not yet that it is over.
    down: bool,
}

impl Run {
    fn run(mut self) {
        let mut prune_at = Instant::now();
        loop {
            let (notes, let_go_us, stopping) = self.take();
            self.has_settled = true;
            if let Some(Err(gone)) = self.store.as_ref().map(Store::check_in_place) {
                self.fail(&gone);
            }
            if self.store.is_none() && Instant::now() >= self.retry_at && !self.open() {
                // A damaged one has made way.
                self.open();
            }
            self.work(&notes, let_go_us, &mut prune_at);
            if stopping {
                if let Some(store) = self.store.take() {
                    store.close();
                }
                return;
            }
        }
    }

    /// What has queued, once something has and more had time to, or there is something else to do.
    fn take(&self) -> (Vec<Note>, Option<i64>, bool) {
        let idle = match &self.store {
            None if !self.has_settled => SETTLED_AFTER,
            None => self.retry_at.saturating_duration_since(Instant::now()),
            Some(store) if store.sweep_since_us().is_some() => Duration::ZERO,
            Some(_) => PRUNE_EVERY,
        };
        let wait = |state, limit| {
            self.shared.changed.wait_timeout(state, limit).unwrap_or_else(|e| e.into_inner()).0
        };
        let mut state = self.shared.lock();
        if state.notes.is_empty() && !state.stopping && !idle.is_zero() {
            state = wait(state, idle);
        }
        let until = Instant::now() + LINGER;
        while !state.notes.is_empty() && !state.stopping && !idle.is_zero() && Instant::now() < until {
            state = wait(state, until.saturating_duration_since(Instant::now()));
        }
        (std::mem::take(&mut state.notes), state.let_go_us.take(), state.stopping)
    }

    fn work(&mut self, notes: &[Note], let_go_us: Option<i64>, prune_at: &mut Instant) {
        let mut worked = self.write(notes, let_go_us, prune_at);
        if let Err(fault) = &worked
            && fault.kind == FaultKind::Damage
        {
            // What is at hand goes into the new one.
            self.fail(fault);
            self.open();
            worked = self.write(notes, let_go_us, prune_at);
        }
        match worked {
            Ok(()) if self.store.is_some() => {}
            Ok(()) => self.let_go(notes, let_go_us),
            Err(fault) => {
                self.let_go(notes, let_go_us);
                self.fail(&fault);
            }
        }
    }

    fn write(&mut self, notes: &[Note], let_go_us: Option<i64>, prune_at: &mut Instant) -> Result<(), Fault> {
        let Some(store) = &mut self.store else { return Ok(()) };
        store.write(notes)?;
        if let Some(us) = let_go_us {
            log::warn!(
                "the index for find missed messages; it is completed from the archive and the failed folder"
            );
            store.must_sweep(us)?;
            self.sweep = None;
            self.sweep_until_us = i64::MAX;
        }
        if Instant::now() >= *prune_at {
            *prune_at = Instant::now() + PRUNE_EVERY;
            store.prune(&self.indexer.channel, clock::system_us())?;
        }
        self.sweep_on()
    }

    /// The next portion of a sweep, if one is due.
    fn sweep_on(&mut self) -> Result<(), Fault> {
        let Some(store) = &mut self.store else { return Ok(()) };
        let Some(since_us) = store.sweep_since_us() else {
            self.sweep = None;
            return Ok(());
        };
        let indexer = &self.indexer;
        let range = since_us..self.sweep_until_us;
        let sweep = self.sweep.get_or_insert_with(|| Sweep::new(&indexer.channel, &indexer.failed, range));
        if sweep.step(store, &indexer.channel, &indexer.failed)? {
            if sweep.found() > 0 {
                log::info!("the index for find was completed with {} messages", sweep.found());
            }
            self.sweep = None;
            store.swept()?;
        }
        Ok(())
    }

    /// `false` where what is there was damaged, and is there no more.
    fn open(&mut self) -> bool {
        let opened = Store::open(&self.indexer.path).and_then(|mut store| {
            if let Some(mut open) = self.indexer.open.take() {
                open.sort_unstable();
                store.reconcile(&open, &self.indexer.failed)?;
            }
            Ok(store)
        });
        match opened {
            Ok(store) => {
                if self.down {
                    log::info!("the index for find is written again");
                    self.down = false;
                }
                self.store = Some(store);
                true
            }
            Err(fault) => {
                self.fail(&fault);
                fault.kind != FaultKind::Damage
            }
        }
    }

    fn fail(&mut self, fault: &Fault) {
        let again = match fault.kind {
            FaultKind::Gone => Duration::ZERO,
            FaultKind::Disk | FaultKind::Damage => RETRY_AFTER,
        };
        if !self.down {
            let seconds = again.as_secs();
            log::warn!("{fault}; delivery goes on, find may miss messages; trying again in {seconds} s");
        }
        self.down = true;
        self.sweep = None;
        self.sweep_until_us = i64::MAX;
        self.store = None;
        store::make_way(&self.indexer.path, fault.kind);
        self.retry_at = Instant::now() + again;
    }

    fn let_go(&self, notes: &[Note], let_go_us: Option<i64>) {
        let mut state = self.shared.lock();
        notes.iter().for_each(|note| state.let_go(note));
        if let Some(us) = let_go_us {
            state.let_go_us = Some(state.let_go_us.map_or(us, |other| other.min(us)));
        }
    }
}

/// A value as it is indexed and asked for.
fn cut(value: &str) -> &str {
    &value[..value.floor_char_boundary(VALUE_BYTES_MAX)]
}

/// Where a channel's index is.
pub fn path(state_path: &Path, channel: &str) -> PathBuf {
    state_path.join(channel).join(FILE)
}

#[cfg(test)]
mod tests;
