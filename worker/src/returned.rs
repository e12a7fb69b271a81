//! `ack: processed`: messages that their senders keep, because they were answered AE. What was done of them is remembered,
//! so that the same bytes sent again go on where the first left off: same id, same time of receipt, no step twice.

use crate::files::{plain, replace_file};
use journal::MessageId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// Messages remembered; the oldest make room.
const REMEMBERED_MAX: usize = 100_000;

/// What is remembered of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnedMessage {
    /// Time of its first receipt, microseconds of Unix time.
    pub received_us: i64,
    /// Offset of local time from UTC then, seconds.
    pub utc_offset_s: i32,
    /// Steps that are done.
    pub steps_done: Vec<String>,
}

/// The folder of one channel, a file a message.
#[derive(Debug)]
pub struct ReturnedFolder {
    path: PathBuf,
    messages: Mutex<BTreeMap<MessageId, ReturnedMessage>>,
}

impl ReturnedFolder {
    /// Reads the folder, which is there. `is_returned` is what the journal says: other files are left over from a
    /// message that was not returned after all, or has come again.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(path: &Path, is_returned: impl Fn(MessageId) -> bool) -> io::Result<ReturnedFolder> {
        let mut messages = BTreeMap::new();
        for entry in std::fs::read_dir(path)? {
            let file = entry?.path();
            let id = file.file_stem().and_then(|stem| stem.to_str()?.parse::<MessageId>().ok());
            let message = std::fs::read(&file).ok().and_then(|json| serde_json::from_slice(&json).ok());
            match (id, message) {
                (Some(id), Some(message)) if is_returned(id) => drop(messages.insert(id, message)),
                _ => std::fs::remove_file(&file)?,
            }
        }
        Ok(ReturnedFolder { path: path.to_owned(), messages: Mutex::new(messages) })
    }

    /// What is remembered of a message.
    pub fn get(&self, id: MessageId) -> Option<ReturnedMessage> {
        self.messages().get(&id).cloned()
    }

    /// Remembers a message, flushed.
    ///
    /// # Errors
    /// The disk; the message is remembered until the worker ends.
    pub fn keep(&self, id: MessageId, message: ReturnedMessage) -> io::Result<()> {
        let json = serde_json::to_vec(&message).map_err(io::Error::other)?;
        let oldest = {
            let mut messages = self.messages();
            messages.insert(id, message);
            if messages.len() > REMEMBERED_MAX { messages.pop_first() } else { None }
        };
        if let Some((oldest, _)) = oldest {
            let _ = std::fs::remove_file(self.file(oldest));
        }
        replace_file(&self.file(id), &json)
    }

    /// Forgets a message that has come again and is open in the journal.
    pub fn forget(&self, id: MessageId) {
        if self.messages().remove(&id).is_some()
            && let Err(error) = std::fs::remove_file(self.file(id))
        {
            log::warn!("could not remove {:?}: {}", self.file(id), plain(&error));
        }
    }

    fn file(&self, id: MessageId) -> PathBuf {
        self.path.join(format!("{id}.json"))
    }

    fn messages(&self) -> MutexGuard<'_, BTreeMap<MessageId, ReturnedMessage>> {
        self.messages.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_known_after_a_restart_until_the_message_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let id = MessageId::new(1, 2);
        let message =
            ReturnedMessage { received_us: 1, utc_offset_s: 3600, steps_done: vec!["archive".into()] };
        let folder = ReturnedFolder::open(dir.path(), |_| true).unwrap();
        folder.keep(id, message.clone()).unwrap();
        let folder = ReturnedFolder::open(dir.path(), |_| true).unwrap();
        assert_eq!(folder.get(id), Some(message));
        folder.forget(id);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_message_that_is_open_was_not_returned() {
        let dir = tempfile::tempdir().unwrap();
        let id = MessageId::new(1, 2);
        let message = ReturnedMessage { received_us: 1, utc_offset_s: 0, steps_done: vec![] };
        ReturnedFolder::open(dir.path(), |_| true).unwrap().keep(id, message).unwrap();
        assert_eq!(ReturnedFolder::open(dir.path(), |_| false).unwrap().get(id), None);
    }
}
