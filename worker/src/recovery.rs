//! What a worker finds on disk when it starts: the journal with the messages still open, the failed folder, and which
//! messages its predecessor was working on when it ended.

use crate::clock::Clock;
use crate::dispatcher::{NewEntry, Wait};
use crate::duplicates::TagKey;
use crate::failed::{FailedFolder, FailedMessage, Failure};
use crate::files::{plain, replace_file};
use crate::flags;
use crate::folders;
use crate::given_up::GivenUp;
use crate::plan::{Plan, StepSet};
use crate::returned::ReturnedFolder;
use crate::start::StartFault;
use crate::started::Started;
use crate::strikes;
use config::WorkerSettings;
use journal::storage::Storage;
use journal::{
    FileStorage, Journal, JournalError, MessageId, OpenFault, Options, Reader, Recent, Record, Replayed,
    State,
};
use link::Death;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a worker waits for one that still drains to give the journal up.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
/// The step that a message fails in which takes its workers down.
const CRASH_STEP: &str = "crash";
/// Time between two tries for the lock.
const LOCK_EVERY: Duration = Duration::from_millis(20);

/// What was found.
pub(crate) struct Recovered<S: Storage = FileStorage> {
    /// Open for writing.
    pub(crate) journal: Journal<S>,
    /// Messages still open, in the order in which they were acknowledged.
    pub(crate) entries: Vec<NewEntry>,
    /// Those of them whose senders were not told AA: they may wait for the outcome (`ack: processed`).
    pub(crate) not_ours: Vec<MessageId>,
    /// Messages to know duplicates by.
    pub(crate) recent: Vec<Recent>,
    /// Failed messages.
    pub(crate) failed: Arc<FailedFolder>,
    /// Messages that their senders keep.
    pub(crate) returned: Arc<ReturnedFolder>,
    /// Messages that begin anew when they are sent again.
    pub(crate) given_up: Arc<GivenUp>,
    /// Which messages are being processed from now on.
    pub(crate) started: Started,
    /// The channel's key.
    pub(crate) tag_key: TagKey,
    /// Where things are.
    pub(crate) paths: Paths,
}

/// The folders of a channel's state.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// Segments and duplicate memory.
    pub(crate) journal: PathBuf,
    /// Failed messages.
    pub(crate) failed: PathBuf,
    /// Bytes that are no message.
    pub(crate) quarantine: PathBuf,
}

/// Opens everything.
pub(crate) fn recover(
    settings: &WorkerSettings,
    plan: &Plan,
    predecessor: Option<Death>,
    clock: &Clock,
) -> Result<Recovered, StartFault> {
    recover_from(lock, Options::default(), settings, plan, predecessor, clock)
}

/// The same, with the journal in a storage that `open` gives for its folder.
pub(crate) fn recover_from<S: Storage>(
    open: impl FnOnce(&Path) -> Result<S, StartFault>,
    options: Options,
    settings: &WorkerSettings,
    plan: &Plan,
    predecessor: Option<Death>,
    clock: &Clock,
) -> Result<Recovered<S>, StartFault> {
    let folder = settings.state_path.join(&settings.channel.name);
    let could_not = |what: &str, path: &Path, why: String| {
        StartFault::temporary(format!("could not {what} {path:?}: {why}"))
    };
    let made = folders::make(&folder, &["failed", "returned", "quarantine", "journal"])
        .map_err(|(path, e)| could_not("make folder", &path, plain(&e.into())))?;
    let paths = Paths {
        journal: folder.join("journal"),
        failed: folder.join("failed"),
        quarantine: folder.join("quarantine"),
    };
    let storage = open(&paths.journal)?;
    let tag_key =
        tag_key(&folder.join("key")).map_err(|e| could_not("read", &folder.join("key"), plain(&e)))?;
    // From here on there are files in them that somebody is told of.
    made.flush().map_err(|e| could_not("flush folder", &folder, plain(&e.into())))?;
    let started = folder.join("started");
    let (started, begun) = Started::open(&started).map_err(|e| could_not("open", &started, plain(&e)))?;

    // A kill points at nobody; at a message only where it ran alone.
    let charged = matches!(predecessor, Some(Death::Crashed(_))) || begun.len() == 1;
    let weight = if charged { strikes::weight(predecessor) } else { 0 };
    let stopped = matches!(predecessor, Some(Death::Stopped | Death::Exited(_)));
    let mut replay = Replay {
        plan,
        begun: if stopped { HashSet::new() } else { begun.into_iter().collect() },
        weight,
        latest_us: clock.now_us() + micros(settings.channel.retry.longest),
        entries: Vec::new(),
        finished: Vec::new(),
        not_ours: Vec::new(),
    };
    let (mut journal, summary) = Journal::open(storage, options, &mut |m| replay.take(m))
        .map_err(|e| could_not("open journal", &paths.journal, e.to_string()))?;
    for damage in &summary.damage {
        log::error!("the journal is damaged: {damage}");
    }
    if summary.cut_bytes > 0 {
        log::warn!(
            "{} bytes of a torn tail were cut off the journal; nobody was told of them",
            summary.cut_bytes
        );
    }
    let Replay { mut entries, finished, mut not_ours, .. } = replay;
    let mut open: Vec<MessageId> = entries.iter().map(|e| e.id).collect();
    open.sort_unstable();
    let is_open = |id: MessageId| open.binary_search(&id).is_ok();
    let state: HashMap<MessageId, State> = summary.recent.iter().map(|r| (r.id, r.state)).collect();
    let given_up = |id| state.get(&id) == Some(&State::Discarded);
    let failed = FailedFolder::open(&paths.failed, |id| is_open(id) || given_up(id))
        .map_err(|e| could_not("read folder", &paths.failed, plain(&e)))?;

    let returned = folder.join("returned");
    let is_returned = |id| state.get(&id) == Some(&State::Returned) && !is_open(id);
    let returned = ReturnedFolder::open(&returned, is_returned)
        .map_err(|e| could_not("read folder", &returned, plain(&e)))?;

    let begins_anew = |recent: &&Recent| match recent.state {
        State::Discarded => true,
        // What was done of it could not be remembered.
        State::Returned => returned.get(recent.id).is_none(),
        _ => false,
    };
    let given_up = GivenUp::of(summary.recent.iter().filter(begins_anew).map(|recent| recent.id));

    let condemned: Vec<NewEntry> = entries.extract_if(.., |e| e.strikes >= strikes::LIMIT).collect();
    let reader = journal.reader();
    for entry in &condemned {
        condemn(entry, settings, plan, &failed, &reader)?;
    }
    match record(&mut journal, &entries, &condemned, &finished) {
        Ok(()) => {
            let listed: HashSet<MessageId> = condemned.iter().map(|e| e.id).collect();
            failed.list_as_failed(&listed.iter().copied().collect::<Vec<_>>());
            // Nobody works on them any more: one that a person gives up and its sender brings again begins anew.
            not_ours.retain(|id| !listed.contains(id));
            condemned.iter().chain(&finished).for_each(|entry| journal.ended(entry.location));
        }
        // Nothing of it is on record: the condemned run once more, alone, and what is finished is found so again.
        Err(JournalError::Full(_)) => {
            log::warn!("no room to record what the last worker left; it is recorded at the next start");
            // Not listed: they may end otherwise.
            failed
                .remove(&condemned.iter().map(|e| e.id).collect::<Vec<_>>())
                .map_err(|e| could_not("tidy up folder", &paths.failed, plain(&e)))?;
            entries.splice(0..0, condemned);
        }
        Err(error) => return Err(could_not("write journal", &paths.journal, error.to_string())),
    }
    match journal.retire() {
        Ok(_) | Err(JournalError::Full(_)) => {}
        Err(error) => return Err(could_not("write journal", &paths.journal, error.to_string())),
    }
    let suspects = entries.iter().filter(|e| e.suspect).count();
    log::info!(
        "journal open: {} waiting, {} failed, {} segments{}",
        entries.len(),
        failed.count(),
        summary.segments,
        if suspects > 0 { format!(", {suspects} run alone first") } else { String::new() },
    );
    Ok(Recovered {
        journal,
        entries,
        not_ours,
        recent: summary.recent,
        failed: Arc::new(failed),
        returned: Arc::new(returned),
        given_up: Arc::new(given_up),
        started,
        tag_key,
        paths,
    })
}

/// Strikes, and messages that need nothing any more.
fn record(
    journal: &mut Journal<impl Storage>,
    entries: &[NewEntry],
    condemned: &[NewEntry],
    finished: &[NewEntry],
) -> Result<(), JournalError> {
    for entry in entries.iter().filter(|e| e.suspect && e.strikes > 0) {
        journal.append(&Record::Strike { id: entry.id, count: entry.strikes })?;
    }
    for entry in condemned {
        journal.append(&Record::Failed { id: entry.id, step: CRASH_STEP })?;
    }
    for entry in finished {
        journal.append(&Record::Done { ids: &[entry.id] })?;
    }
    journal.flush()
}

/// The old worker of a replaced channel, or an orphan of a dead master, may still be draining.
fn lock(path: &Path) -> Result<FileStorage, StartFault> {
    let deadline = Instant::now() + LOCK_WITHIN;
    loop {
        match FileStorage::open(path) {
            Ok(storage) => return Ok(storage),
            Err(OpenFault::Locked) if Instant::now() < deadline => std::thread::sleep(LOCK_EVERY),
            Err(fault) => return Err(StartFault::temporary(format!("{path:?}: {fault}"))),
        }
    }
}

/// The channel's own hash key, made once.
fn tag_key(path: &Path) -> std::io::Result<TagKey> {
    match fs::read(path) {
        Ok(bytes) => {
            let key = bytes.try_into().map_err(|_| std::io::Error::other("it does not hold 16 bytes"))?;
            return Ok(TagKey::new(key));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        // With another key every message would look new, and every patient be another.
        Err(error) => return Err(error),
    }
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(std::io::Error::other)?;
    replace_file(path, &key)?;
    Ok(TagKey::new(key))
}

/// Gathers what the journal has open.
struct Replay<'a> {
    plan: &'a Plan,
    /// What the last worker was processing when it died: each runs alone first.
    begun: HashSet<MessageId>,
    /// What each of these is charged with.
    weight: u8,
    latest_us: i64,
    entries: Vec<NewEntry>,
    /// Messages that need nothing any more under the plan as it is now.
    finished: Vec<NewEntry>,
    not_ours: Vec<MessageId>,
}

impl Replay<'_> {
    fn take(&mut self, message: Replayed) {
        let mut steps = self.plan.steps_of(flags::workflow(message.flags));
        for done in message.steps_done.iter().filter_map(|name| self.plan.place(name)) {
            steps = steps.without(StepSet::one(done));
        }
        let suspect = self.begun.contains(&message.id);
        let waits = message.again.into_iter().filter_map(|again| {
            let place = self.plan.place(&again.step)?;
            Some(Wait {
                place: place as u8,
                attempt: again.attempt,
                // The clock may have been wrong when this was written.
                until_us: again.until_us.min(self.latest_us),
                since_us: again.since_us,
                reason: again.reason.into(),
                target_down: false,
            })
        });
        let entry = NewEntry {
            id: message.id,
            location: message.location,
            received_us: message.time_us,
            keys: if message.retried { Vec::new() } else { message.keys },
            steps,
            strikes: if suspect { message.strikes.saturating_add(self.weight) } else { message.strikes },
            suspect,
            waits: waits.collect(),
        };
        if !steps.is_empty() && !flags::is_ours(message.flags) {
            self.not_ours.push(message.id);
        }
        if steps.is_empty() { self.finished.push(entry) } else { self.entries.push(entry) }
    }
}

/// A message that took its worker down too often goes to the failed folder.
fn condemn(
    entry: &NewEntry,
    settings: &WorkerSettings,
    plan: &Plan,
    failed: &FailedFolder,
    reader: &Reader<impl Storage>,
) -> Result<(), StartFault> {
    let received = reader.read(entry.location).ok();
    let flags = received.as_ref().map_or(0, |r| r.flags);
    let done = plan.steps_of(flags::workflow(flags)).without(entry.steps);
    let failure = Failure {
        step: CRASH_STEP,
        reason: "the worker ended again and again while this message was being processed",
        attempts: 0,
        steps_done: done.places().map(|p| plan.name(p).to_owned()).collect(),
    };
    log::error!("id={} outcome=failed step={}: {}", entry.id, failure.step, failure.reason);
    let message = FailedMessage::of(&settings.channel, entry.id, received.as_ref(), failure);
    let body = received.map(|r| r.body).unwrap_or_default();
    failed.keep(entry.id, &message, &body).map_err(|e| {
        StartFault::temporary(format!("could not keep failed message {}: {}", entry.id, plain(&e)))
    })
}

fn micros(d: Duration) -> i64 {
    i64::try_from(d.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;
    use config::Workflow;
    use journal::storage::faulty::{Fault, Faulty, Operation, Plan as DiskPlan};
    use journal::{Received, Tag};

    fn try_start(
        storage: &Faulty,
        settings: &WorkerSettings,
        predecessor: Option<Death>,
    ) -> Result<Recovered<Faulty>, StartFault> {
        let (plan, open) = (Plan::of(settings), |_: &Path| Ok(storage.clone()));
        recover_from(open, Options::default(), settings, &plan, predecessor, &Clock::start())
    }

    fn start(storage: &Faulty, settings: &WorkerSettings, predecessor: Option<Death>) -> Recovered<Faulty> {
        try_start(storage, settings, predecessor).unwrap_or_else(|fault| panic!("{}", fault.reason))
    }

    fn append(journal: &mut Journal<Faulty>, id: MessageId) {
        let record = Record::Received(Received {
            id,
            time_us: 1,
            utc_offset_s: 0,
            peer: "127.0.0.1:1",
            keys: &[1],
            tag: Tag { identity: [1; 16], content: [2; 16] },
            flags: flags::of(Workflow::Store),
            body: b"MSH|",
        });
        journal.append(&record).unwrap();
        journal.flush().unwrap();
    }

    #[test]
    fn a_message_that_is_failed_for_its_crashes_is_not_waited_for_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings("ack: processed\nlocal_archive: { path: /nowhere }\n");
        settings.state_path = dir.path().to_owned();
        std::fs::create_dir(dir.path().join("test")).unwrap();
        let storage = Faulty::new();
        let id = MessageId::new(5, 6);
        let mut first = start(&storage, &settings, None);
        append(&mut first.journal, id);
        for crashes in 1..=2 {
            first.started.begin(0, std::iter::once(id)).unwrap();
            first = start(&storage, &settings, Some(Death::Crashed(11)));
            let is_open = crashes * strikes::CRASH < strikes::LIMIT;
            assert_eq!(first.failed.contains(id), !is_open, "after {crashes} crashes");
            assert_eq!(first.entries.len(), usize::from(is_open));
            assert_eq!(first.not_ours.contains(&id), is_open);
        }
    }

    #[test]
    fn a_message_that_could_not_be_recorded_as_failed_is_not_listed_when_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings("local_archive: { path: /nowhere }\n");
        settings.state_path = dir.path().to_owned();
        std::fs::create_dir(dir.path().join("test")).unwrap();
        let storage = Faulty::new();
        let id = MessageId::new(5, 6);
        let mut worker = start(&storage, &settings, None);
        append(&mut worker.journal, id);
        worker.journal.append(&Record::Strike { id, count: strikes::CRASH }).unwrap();
        worker.journal.flush().unwrap();
        let fault = Fault::Error(rustix::io::Errno::NOSPC.raw_os_error());
        // The first write that the journal opens without.
        let starts = (0..).find_map(|after| {
            worker.started.begin(0, std::iter::once(id)).unwrap();
            storage.plan(Some(DiskPlan { after, only: Some(Operation::Write), fault, lasting: false }));
            try_start(&storage, &settings, Some(Death::Crashed(11))).ok()
        });
        worker = starts.unwrap();
        assert_eq!((worker.entries.len(), worker.failed.count()), (1, 0), "it runs once more");
        storage.plan(None);
        worker.journal.append(&Record::Done { ids: &[id] }).unwrap();
        worker.journal.flush().unwrap();
        assert_eq!(start(&storage, &settings, Some(Death::Stopped)).failed.count(), 0);
    }
}
