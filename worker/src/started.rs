//! Which messages are being processed right now, on record where it outlives the worker but needs no flush: a message
//! found here when its worker died is a suspect.
//!
//! Each delivery thread has a region of the file of its own and writes it with one call before it touches a message, so
//! that not even a message that kills the worker at once is missed. The journal's writer would have to be waited for.

use journal::MessageId;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of a region: a count and that many ids of 20 characters, at most 200 of them.
const REGION_BYTES: u64 = 4096;
const IDS_MAX: usize = 200;
const ID_BYTES: usize = 20;

/// The file.
#[derive(Debug)]
pub struct Started {
    file: File,
}

impl Started {
    /// Opens the file and returns what the last worker was processing when it ended.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn open(path: &Path) -> io::Result<(Started, Vec<MessageId>)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(path)?;
        let bytes = read_all(&file)?;
        let found = bytes.chunks(REGION_BYTES as usize).flat_map(ids_of).collect();
        file.set_len(0)?;
        Ok((Started { file }, found))
    }

    /// A thread begins with these messages.
    ///
    /// # Errors
    /// The region cannot be written (a full disk).
    pub fn begin(&self, thread: usize, ids: impl Iterator<Item = MessageId>) -> io::Result<()> {
        let mut region = vec![0];
        for id in ids.take(IDS_MAX) {
            region[0] += 1;
            region.extend_from_slice(id.to_string().as_bytes());
        }
        self.file.write_all_at(&region, thread as u64 * REGION_BYTES)
    }

    /// A thread has ended what it began.
    ///
    /// # Errors
    /// The region cannot be written.
    pub fn end(&self, thread: usize) -> io::Result<()> {
        self.file.write_all_at(&[0], thread as u64 * REGION_BYTES)
    }
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(REGION_BYTES * 65_536);
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn ids_of(region: &[u8]) -> Vec<MessageId> {
    let count = region.first().map_or(0, |n| usize::from(*n).min(IDS_MAX));
    let ids = region.get(1..).unwrap_or_default().chunks_exact(ID_BYTES).take(count);
    ids.filter_map(|id| std::str::from_utf8(id).ok()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_and_not_ended_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("started");
        let ids: Vec<MessageId> = (0..70).map(|n| MessageId::new(n, 3)).collect();
        {
            let (started, found) = Started::open(&path).unwrap();
            assert!(found.is_empty());
            started.begin(0, ids.iter().copied()).unwrap();
            started.begin(2, ids[..1].iter().copied()).unwrap();
            started.begin(1, ids[..5].iter().copied()).unwrap();
            started.end(1).unwrap();
        }
        let (_, found) = Started::open(&path).unwrap();
        assert_eq!(found.len(), 71);
        assert_eq!(found[..70], ids);
        assert_eq!(found[70], ids[0]);
        assert!(Started::open(&path).unwrap().1.is_empty());
    }

    #[test]
    fn a_damaged_file_gives_no_ids() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("started");
        std::fs::write(&path, [255; 5000]).unwrap();
        assert!(Started::open(&path).unwrap().1.is_empty());
    }
}
