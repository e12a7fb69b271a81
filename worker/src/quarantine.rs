//! Bytes that are no message of ours, kept for whoever has to find out why: truncated frames, unreadable headers,
//! inbound acknowledgments. Best effort: never on the way of a message, and bounded in number and size.

use crate::files::plain;
use journal::MessageId;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Files kept; the oldest make room.
const FILES_MAX: usize = 1_000;
/// Bytes kept of one entry.
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Bytes kept in all.
const FOLDER_BYTES_MAX: u64 = 64 << 20;

/// The quarantine folder, run by the thread that may wait for the disk.
#[derive(Debug)]
pub struct Quarantine {
    path: PathBuf,
    /// Name and size of what is there, oldest first; names begin with a message id, which sorts by time.
    files: std::collections::BTreeMap<String, u64>,
}

impl Quarantine {
    /// Opens the folder, which is there.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: PathBuf) -> std::io::Result<Quarantine> {
        let mut files = std::collections::BTreeMap::new();
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata()) {
                files.insert(name, meta.len());
            }
        }
        Ok(Quarantine { path, files })
    }

    /// Keeps bytes under a name that says why, at most 1 MiB of them.
    pub fn keep(&mut self, id: MessageId, code: &str, bytes: &[u8]) {
        let name = format!("{id}_{code}.bin");
        let bytes = &bytes[..bytes.len().min(ENTRY_BYTES_MAX)];
        let path = self.path.join(&name);
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        if let Err(error) = created.and_then(|mut file| file.write_all(bytes)) {
            log::warn!("could not write quarantine file {path:?}: {}", plain(&error));
            let _ = fs::remove_file(&path);
            return;
        }
        self.files.insert(name, bytes.len() as u64);
        while self.files.len() > FILES_MAX || self.files.values().sum::<u64>() > FOLDER_BYTES_MAX {
            let Some((oldest, _)) = self.files.pop_first() else { break };
            let _ = fs::remove_file(self.path.join(oldest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut quarantine = Quarantine::open(dir.path().to_owned()).unwrap();
        for n in 0..FILES_MAX as u64 + 5 {
            quarantine.keep(MessageId::new(n, 0), "partial", b"x");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), FILES_MAX);
        assert!(!dir.path().join(format!("{}_partial.bin", MessageId::new(4, 0))).exists());
        assert!(dir.path().join(format!("{}_partial.bin", MessageId::new(5, 0))).exists());
    }
}
