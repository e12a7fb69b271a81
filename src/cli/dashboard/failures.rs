//! The failed messages of every channel, read from `state_path/*/failed/*.json` and never written. A thread of its own
//! looks ([`watch`]): a folder on a disk that hangs holds up nothing but itself.

use super::settings::Settings;
use crate::cli::Fail;
use crate::cli::failed::{self, Record};
use crate::cli::output;
use journal::MessageId;
use rustix::fs::{Mode, OFlags};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(2);
/// The newest messages of a channel that are read; the others are only counted. When a thousand have failed it is not
/// a single message that is looked at.
const READ_MAX: usize = 1_000;
/// Messages of one reason that the page links.
const LISTED_MAX: usize = 20;
/// Reasons of a channel's step that the page tells apart.
const GROUPS_MAX: usize = 100;
/// `ID.json` holds some lines.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

/// What the last look found.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// By channel, step and reason; those that failed last come first.
    pub(super) groups: Vec<Group>,
    /// All failed messages, those that were not read included.
    pub(super) count: u64,
    /// Groups or messages were left out.
    pub(super) cut: bool,
    /// What could not be read.
    pub(super) faults: Vec<String>,
}

/// Messages of a channel that failed in one step for one reason.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) channel: String,
    pub(super) step: String,
    pub(super) reason: String,
    pub(super) count: usize,
    /// The newest, at most `LISTED_MAX`.
    pub(super) newest: Vec<Arc<Record>>,
}

/// What the page shows, replaced at every look.
pub(super) type Shared = Mutex<Arc<Failures>>;

/// Looks for ever.
pub(super) fn watch(settings: &Settings, shared: &Shared) {
    let mut known = Known::default();
    loop {
        let found = match settings.config() {
            Ok(config) => known.look(&config.service.state_path),
            Err(_) => Failures {
                faults: vec!["the configuration has errors, so the state folders are not known".to_owned()],
                ..Failures::default()
            },
        };
        *shared.lock().unwrap_or_else(|e| e.into_inner()) = Arc::new(found);
        thread::sleep(INTERVAL);
    }
}

/// The records that were read already: they never change, so each is read once.
#[derive(Default)]
struct Known(HashMap<(String, MessageId), Arc<Record>>);

impl Known {
    fn look(&mut self, state_path: &Path) -> Failures {
        let mut found = Failures::default();
        let mut records = HashMap::new();
        let channels = failed::channels(state_path).unwrap_or_else(|fault| {
            found.faults.push(words(fault));
            Vec::new()
        });
        for channel in channels {
            let folder = failed::folder(state_path, &channel);
            let mut ids = match ids(&folder) {
                Ok(ids) => ids,
                Err(fault) => {
                    found.faults.push(fault);
                    continue;
                }
            };
            found.count += ids.len() as u64;
            if ids.len() > READ_MAX {
                // Ids begin with their time.
                ids.sort_unstable();
                ids.drain(..ids.len() - READ_MAX);
                found.cut = true;
            }
            for id in ids {
                let key = (channel.clone(), id);
                let record = match self.0.remove(&key) {
                    Some(record) => Ok(Some(record)),
                    None => read(&folder, id).map(|record| record.map(Arc::new)),
                };
                match record {
                    Ok(Some(record)) => drop(records.insert(key, record)),
                    // Retried or discarded between the listing and here.
                    Ok(None) => {}
                    Err(fault) => found.faults.push(fault),
                }
            }
        }
        found.groups = groups(records.iter().map(|((channel, _), record)| (channel.as_str(), record)));
        found.cut |= found.groups.len() > GROUPS_MAX;
        found.groups.truncate(GROUPS_MAX);
        found.faults.truncate(10);
        self.0 = records;
        found
    }
}

fn groups<'a>(records: impl Iterator<Item = (&'a str, &'a Arc<Record>)>) -> Vec<Group> {
    let mut by_reason: BTreeMap<(&str, &str, &str), Vec<&Arc<Record>>> = BTreeMap::new();
    for (channel, record) in records {
        by_reason.entry((channel, &record.step, &record.reason)).or_default().push(record);
    }
    let mut groups: Vec<Group> = by_reason
        .into_iter()
        .map(|((channel, step, reason), mut records)| {
            let count = records.len();
            records.sort_by(|a, b| (b.failed_us, &b.id).cmp(&(a.failed_us, &a.id)));
            let newest = records.into_iter().take(LISTED_MAX).cloned().collect();
            let text = str::to_owned;
            Group { channel: text(channel), step: text(step), reason: text(reason), count, newest }
        })
        .collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.newest.first().map(|record| record.failed_us)));
    groups
}

/// The ids of a channel's failed messages, in no order.
fn ids(folder: &Path) -> Result<Vec<MessageId>, String> {
    let fault =
        |error: &std::io::Error| format!("could not read \"{}\": {}", folder.display(), output::plain(error));
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // A state folder of something else, or of a channel that has never run.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(fault(&error)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| fault(&error))?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".json"));
        ids.extend(stem.and_then(|stem| stem.parse::<MessageId>().ok()));
    }
    Ok(ids)
}

/// One record; `None` where it is gone.
pub(super) fn read(folder: &Path, id: MessageId) -> Result<Option<Record>, String> {
    let path = folder.join(format!("{id}.json"));
    let fault = |what: &str| format!("could not read \"{}\": {what}", path.display());
    let file = match open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(&output::plain(&error))),
    };
    let mut text = Vec::new();
    file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| fault(&output::plain(&error)))?;
    if text.len() as u64 > RECORD_BYTES_MAX {
        return Err(fault("far too long"));
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| fault(&format!("damaged: {error}")))
}

/// Opens a file that a worker wrote. One that was taken over could have put something else there: a link is not
/// followed, and a FIFO would be waited for.
pub(super) fn open(path: &Path) -> std::io::Result<fs::File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, OFlags::RDONLY | flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("not a file")) }
}

/// What went wrong, as text.
fn words(fault: Fail) -> String {
    match fault {
        Fail::Failed(reason) | Fail::Configuration(reason) => reason,
        Fail::Said | Fail::OutputClosed => "it failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(state: &Path, channel: &str, n: u64, step: &str, reason: &str) -> MessageId {
        let id = MessageId::new(1_747_044_930_000 + n, n);
        let folder = failed::folder(state, channel);
        fs::create_dir_all(&folder).unwrap();
        let record = serde_json::json!({
            "id": id.to_string(), "channel": channel, "control_id": "C", "message_type": "ADT^A01",
            "received_us": n, "failed_us": n, "step": step, "reason": reason, "attempts": 1,
        });
        fs::write(folder.join(format!("{id}.json")), record.to_string()).unwrap();
        id
    }

    #[test]
    fn failures_are_grouped_by_channel_step_and_reason_the_newest_first() {
        let state = tempfile::tempdir().unwrap();
        put(state.path(), "a", 1, "archive", "no room");
        put(state.path(), "a", 2, "archive", "no room");
        let last = put(state.path(), "b", 3, "attachment", "no PDF");
        let mut known = Known::default();
        let found = known.look(state.path());
        let shown: Vec<_> =
            found.groups.iter().map(|g| (g.channel.as_str(), g.step.as_str(), g.count)).collect();
        assert_eq!(shown, [("b", "attachment", 1), ("a", "archive", 2)]);
        assert_eq!((found.count, found.cut), (3, false));
        assert_eq!(found.groups[1].newest[0].failed_us, 2);
        fs::remove_file(failed::folder(state.path(), "b").join(format!("{last}.json"))).unwrap();
        assert_eq!(known.look(state.path()).groups.len(), 1);
        assert_eq!(known.0.len(), 2, "what is gone is forgotten");
    }

    #[test]
    fn a_damaged_record_is_told_and_the_others_are_shown() {
        let state = tempfile::tempdir().unwrap();
        let bad = put(state.path(), "a", 1, "archive", "no room");
        put(state.path(), "a", 2, "archive", "no room");
        let folder = failed::folder(state.path(), "a");
        fs::write(folder.join(format!("{bad}.json")), "{").unwrap();
        fs::write(folder.join("../../../etc.json"), "").ok();
        fs::create_dir(state.path().join("other")).unwrap();
        fs::write(state.path().join("other/failed"), "").unwrap();
        let found = Known::default().look(state.path());
        assert_eq!(found.groups[0].count, 1);
        assert!(found.faults.len() == 1 && found.faults[0].contains("damaged"), "{:?}", found.faults);
        assert_eq!(found.count, 2);
    }

    #[test]
    fn what_a_worker_could_have_planted_is_neither_followed_nor_waited_for() {
        let state = tempfile::tempdir().unwrap();
        let good = put(state.path(), "a", 1, "archive", "no room");
        let folder = failed::folder(state.path(), "a");
        let (link, fifo) = (MessageId::new(2, 2), MessageId::new(3, 3));
        let at = |id| folder.join(format!("{id}.json"));
        std::os::unix::fs::symlink(at(good), at(link)).unwrap();
        nix::unistd::mkfifo(&at(fifo), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let found = Known::default().look(state.path());
        assert_eq!((found.groups[0].count, found.faults.len()), (1, 2), "{:?}", found.faults);
    }

    #[test]
    fn of_many_the_newest_are_read_and_all_are_counted() {
        let state = tempfile::tempdir().unwrap();
        for n in 0..READ_MAX as u64 + 5 {
            put(state.path(), "a", n, "archive", "no room");
        }
        let found = Known::default().look(state.path());
        assert_eq!((found.count, found.cut), (READ_MAX as u64 + 5, true));
        assert_eq!((found.groups[0].count, found.groups[0].newest.len()), (READ_MAX, LISTED_MAX));
    }
}
