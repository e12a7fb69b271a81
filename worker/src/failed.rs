//! The failed folder: messages that need a person, each as `ID.hl7` (bytes as they came) and `ID.json` (what happened).
//! `ID.json` is put in place last and taken away first: a message is failed exactly as long as that file stands.

use crate::clock::system_us;
use crate::desk::label_of;
use crate::files::{plain, replace_file};
use config::Channel;
use journal::{MessageId, OwnedReceived, Tag};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// What is kept of a failed message beside its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedMessage {
    /// Message id.
    pub id: String,
    /// Channel.
    pub channel: String,
    /// MSH-10, as text.
    pub control_id: String,
    /// MSH-9 as `ADT^A01`.
    pub message_type: String,
    /// Time of receipt, microseconds of Unix time.
    pub received_us: i64,
    /// Offset of local time at receipt, seconds.
    pub utc_offset_s: i32,
    /// The peer it came from.
    pub peer: String,
    /// When it failed.
    pub failed_us: i64,
    /// The step it failed in.
    pub step: String,
    /// Why.
    pub reason: String,
    /// Attempts made of that step.
    pub attempts: u32,
    /// Steps that are done and are not repeated by a retry.
    pub steps_done: Vec<String>,
    /// The journal's flags of the message (its workflow).
    pub flags: u8,
    /// Order keys.
    pub keys: Vec<u64>,
    /// Hash of sender and control id, hexadecimal.
    pub identity: String,
    /// Hash of all bytes, hexadecimal.
    pub content: String,
}

/// How a message failed.
#[derive(Clone, Debug)]
pub struct Failure<'a> {
    /// The step.
    pub step: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Attempts made of that step.
    pub attempts: u32,
    /// Steps that are done.
    pub steps_done: Vec<String>,
}

impl FailedMessage {
    /// Of a message as the journal gave it back; `None` where its record is damaged.
    pub fn of(
        channel: &Channel,
        id: MessageId,
        received: Option<&OwnedReceived>,
        failure: Failure<'_>,
    ) -> FailedMessage {
        let (control_id, message_type) =
            received.map(|r| label_of(&r.body, channel.encoding)).unwrap_or_default();
        FailedMessage {
            id: id.to_string(),
            channel: channel.name.clone(),
            control_id,
            message_type,
            received_us: received.map_or(id.unix_ms() as i64 * 1000, |r| r.time_us),
            utc_offset_s: received.map_or(0, |r| r.utc_offset_s),
            peer: received.map(|r| r.peer.clone()).unwrap_or_default(),
            failed_us: system_us(),
            step: failure.step.to_owned(),
            reason: failure.reason.to_owned(),
            attempts: failure.attempts,
            steps_done: failure.steps_done,
            flags: received.map_or(0, |r| r.flags),
            keys: received.map(|r| r.keys.clone()).unwrap_or_default(),
            identity: hex(&received.map(|r| r.tag.identity).unwrap_or_default()),
            content: hex(&received.map(|r| r.tag.content).unwrap_or_default()),
        }
    }

    /// The duplicate memory's hashes; `None` where the file was tampered with.
    pub fn tag(&self) -> Option<Tag> {
        Some(Tag { identity: from_hex(&self.identity)?, content: from_hex(&self.content)? })
    }
}

fn hex(bytes: &[u8; 16]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 16]> {
    let number = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten()?;
    Some(number.to_be_bytes())
}

/// The failed folder of one channel.
#[derive(Debug)]
pub struct FailedFolder {
    path: PathBuf,
    ids: Mutex<HashSet<MessageId>>,
}

impl FailedFolder {
    /// Opens the folder, which is there, and reads which messages are in it. `is_over` says which are open in the
    /// journal, or were given up: their files are left over and are removed.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(path: &Path, is_over: impl Fn(MessageId) -> bool) -> io::Result<FailedFolder> {
        let folder = FailedFolder { path: path.to_owned(), ids: Mutex::default() };
        let (mut bodies, mut over) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            match name.rsplit_once('.').map(|(stem, suffix)| (stem.parse::<MessageId>(), suffix)) {
                Some((Ok(id), "json")) if is_over(id) => over.push(id),
                Some((Ok(id), "json")) => drop(folder.ids().insert(id)),
                Some((Ok(id), "hl7")) => bodies.push(id),
                Some((_, "part")) => drop(fs::remove_file(path.join(name))),
                _ => {}
            }
        }
        bodies.retain(|id| !folder.contains(*id));
        folder.remove(&over)?;
        folder.remove(&bodies)?;
        Ok(folder)
    }

    /// How many messages are in it.
    pub fn count(&self) -> usize {
        self.ids().len()
    }

    /// Whether a message is in it.
    pub fn contains(&self, id: MessageId) -> bool {
        self.ids().contains(&id)
    }

    /// All message ids, oldest first.
    pub fn list(&self) -> Vec<MessageId> {
        let mut ids: Vec<MessageId> = self.ids().iter().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Writes a failed message and flushes it; only then may the journal say that it has failed, and only when it has
    /// said so is the message listed.
    ///
    /// # Errors
    /// The disk.
    pub fn keep(&self, id: MessageId, message: &FailedMessage, body: &[u8]) -> io::Result<()> {
        replace_file(&self.path.join(format!("{id}.hl7")), body)?;
        let json = serde_json::to_vec_pretty(message).map_err(io::Error::other)?;
        replace_file(&self.path.join(format!("{id}.json")), &json)
    }

    /// Reads a failed message.
    ///
    /// # Errors
    /// It is not there, or its files are damaged, in words.
    pub fn read(&self, id: MessageId) -> Result<(FailedMessage, Vec<u8>), String> {
        let read = |name: String| {
            let path = self.path.join(name);
            fs::read(&path).map_err(|e| format!("could not read {path:?}: {}", plain(&e)))
        };
        let json = read(format!("{id}.json"))?;
        let message = serde_json::from_slice(&json)
            .map_err(|e| format!("{:?} is damaged: {e}", self.path.join(format!("{id}.json"))))?;
        Ok((message, read(format!("{id}.hl7"))?))
    }

    /// The journal says that these messages have failed.
    pub fn list_as_failed(&self, ids: &[MessageId]) {
        self.ids().extend(ids);
    }

    /// Takes messages out, once the journal says that they are tried again or discarded.
    ///
    /// # Errors
    /// The disk.
    pub fn remove(&self, ids: &[MessageId]) -> io::Result<()> {
        for id in ids {
            self.ids().remove(id);
            for name in [format!("{id}.json"), format!("{id}.hl7")] {
                match fs::remove_file(self.path.join(name)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
        if ids.is_empty() { Ok(()) } else { self.flush() }
    }

    fn flush(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<MessageId>> {
        self.ids.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: MessageId) -> FailedMessage {
        FailedMessage {
            id: id.to_string(),
            channel: "adt_in".into(),
            control_id: "1".into(),
            message_type: "ADT^A01".into(),
            received_us: 1,
            utc_offset_s: 0,
            peer: "127.0.0.1:1".into(),
            failed_us: 2,
            step: "archive".into(),
            reason: "no room".into(),
            attempts: 3,
            steps_done: vec![],
            flags: 0,
            keys: vec![1],
            identity: hex(&[0xab; 16]),
            content: hex(&[1; 16]),
        }
    }

    #[test]
    fn a_failed_message_is_there_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let id = MessageId::new(5, 6);
        let folder = FailedFolder::open(dir.path(), |_| false).unwrap();
        folder.keep(id, &message(id), b"MSH|").unwrap();
        assert!(!folder.contains(id), "listed only once the journal says so");
        folder.list_as_failed(&[id]);
        let folder = FailedFolder::open(dir.path(), |_| false).unwrap();
        assert_eq!(folder.list(), [id]);
        let (read, body) = folder.read(id).unwrap();
        assert_eq!((read.tag().unwrap().identity, body.as_slice()), ([0xab; 16], &b"MSH|"[..]));
        folder.remove(&[id]).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_message_that_the_journal_has_open_is_not_failed() {
        let dir = tempfile::tempdir().unwrap();
        let id = MessageId::new(5, 6);
        let folder = FailedFolder::open(dir.path(), |_| false).unwrap();
        folder.keep(id, &message(id), b"MSH|").unwrap();
        assert!(!folder.contains(id), "listed only once the journal says so");
        folder.list_as_failed(&[id]);
        let folder = FailedFolder::open(dir.path(), |open| open == id).unwrap();
        assert_eq!(folder.count(), 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
