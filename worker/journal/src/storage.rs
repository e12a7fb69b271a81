//! Where the files live. The journal's rules are the same over a real folder, memory and a storage that
//! fails on purpose: simulation runs the production code.

use std::io::{self, IoSlice};

mod folder;

pub mod faulty;
pub mod memory;

pub use folder::{FileStorage, FolderFile, OpenFault};

/// Free and whole size of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What an unprivileged process may still use.
    pub free_bytes: u64,
    /// The whole.
    pub total_bytes: u64,
}

/// A flat folder of files. A name that was created, renamed or removed is durable after
/// [`sync_folder`](Storage::sync_folder), not before.
pub trait Storage: Send + Sync + 'static {
    /// An open file of it.
    type File: File;

    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new, empty file; one that stands under the name is emptied.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// An existing file. Every call is an open file of its own: each sees a write-back error once.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Takes a name away; who has the file open goes on reading it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, in place of what stands there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes all names durable.
    fn sync_folder(&self) -> io::Result<()>;
    /// How much room is left.
    fn room(&self) -> io::Result<Room>;
}

/// An open file.
pub trait File: Send + Sync + 'static {
    /// Reads at an offset; fewer bytes than asked for at the end of the file, 0 past it.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at an offset and says how much of it was taken.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Makes the bytes, and the length needed to read them, durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file.
    fn set_length(&self, bytes: u64) -> io::Result<()>;
    /// The file's length in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// Reads until the buffer is full or the file ends; returns how much was read.
pub(crate) fn read_full(file: &impl File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all parts one after another, whatever the file takes at a time; returns the bytes written.
pub(crate) fn write_full(file: &impl File, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<u64> {
    let mut parts = parts;
    let mut done = 0u64;
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match file.write_at(parts, offset + done) {
            // POSIX leaves open what a write of nothing means; here it can only be for want of room.
            Ok(0) => return Err(io::ErrorKind::StorageFull.into()),
            Ok(written) => {
                done += written as u64;
                IoSlice::advance_slices(&mut parts, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Writes zeros over `from..to`.
pub(crate) fn write_zeros(file: &impl File, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let bytes = (to - at).min(ZEROS.len() as u64) as usize;
        at += write_full(file, &mut [IoSlice::new(&ZEROS[..bytes])], at)?;
    }
    Ok(())
}

/// Copies a whole file under another name, durably.
pub(crate) fn copy<S: Storage>(storage: &S, from: &str, to: &str) -> io::Result<()> {
    let source = storage.open(from)?;
    let target = storage.create(to)?;
    let mut buffer = vec![0; 4 * ZEROS.len()];
    let mut at = 0;
    loop {
        let read = read_full(&source, &mut buffer, at)?;
        if read == 0 {
            break;
        }
        at += write_full(&target, &mut [IoSlice::new(&buffer[..read])], at)?;
    }
    target.sync_data()?;
    storage.sync_folder()
}
