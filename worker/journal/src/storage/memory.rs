//! Files in memory, for tests of what stands above the journal: fast, never full, never failing.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{File, Room, Storage};

type Bytes = Arc<Mutex<Vec<u8>>>;

/// A folder in memory. Clones are the same folder: keep one to open it again.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<String, Bytes>>>);

impl Memory {
    /// An empty folder.
    pub fn new() -> Self {
        Memory::default()
    }

    fn get(&self, name: &str) -> io::Result<Bytes> {
        lock(&self.0).get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Storage for Memory {
    type File = MemoryFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        let bytes = Bytes::default();
        lock(&self.0).insert(name.to_owned(), Arc::clone(&bytes));
        Ok(MemoryFile(bytes))
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        Ok(MemoryFile(self.get(name)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.0).remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.0);
        let bytes = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }

    fn room(&self) -> io::Result<Room> {
        Ok(Room { free_bytes: 1 << 40, total_bytes: 1 << 40 })
    }
}

/// A file of a [`Memory`].
#[derive(Debug)]
pub struct MemoryFile(Bytes);

impl File for MemoryFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(read(&lock(&self.0), into, offset))
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(write(&mut lock(&self.0), parts, offset, usize::MAX))
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        lock(&self.0).resize(bytes as usize, 0);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }
}

/// Copies what lies at the offset; 0 past the end.
pub(super) fn read(bytes: &[u8], into: &mut [u8], offset: u64) -> usize {
    let from = (offset as usize).min(bytes.len());
    let count = into.len().min(bytes.len() - from);
    into[..count].copy_from_slice(&bytes[from..from + count]);
    count
}

/// Puts the parts at the offset, at most `most` bytes of them; returns how many.
pub(super) fn write(bytes: &mut Vec<u8>, parts: &[IoSlice<'_>], offset: u64, most: usize) -> usize {
    let from = offset as usize;
    let count = parts.iter().map(|part| part.len()).sum::<usize>().min(most);
    if count == 0 {
        return 0;
    }
    if bytes.len() < from + count {
        bytes.resize(from + count, 0);
    }
    let mut done = 0;
    for part in parts {
        let take = part.len().min(count - done);
        bytes[from + done..from + done + take].copy_from_slice(&part[..take]);
        done += take;
    }
    count
}
