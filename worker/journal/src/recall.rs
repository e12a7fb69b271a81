//! Duplicate memory: what is remembered of messages whose segment goes away.
//!
//! Each time segments are retired, their messages' tags go to a file named after the last of them. The
//! file's name alone says that everything up to that segment has ended, so the segments may then be
//! unlinked in any order. Old files go when the newer ones hold enough.

use std::collections::{HashSet, VecDeque};
use std::io::{self, IoSlice};

use crc32c::crc32c_append;

use crate::id::MessageId;
use crate::meta::Fields;
use crate::record::Tag;
use crate::replay::IdHasher;
use crate::storage::{self, File, Storage};

/// How many messages are remembered at most.
pub const RECENT_MAX: usize = 100_000;
/// For how long a message is remembered at most, in microseconds: 24 hours, measured back from the newest.
pub const RECENT_US: i64 = 24 * 3600 * 1_000_000;
/// A newest file smaller than this is merged into the next instead of standing beside it.
const MERGE_BELOW: u32 = 4096;

const MAGIC: [u8; 8] = *b"recall\n\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
const ENTRY_BYTES: usize = 64;

/// How a message stands.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// It waits.
    Open,
    /// All its steps have ended well.
    Done,
    /// It failed for good.
    Failed,
    /// It was given up by hand.
    Discarded,
    /// Its sender keeps it.
    Returned,
}

impl State {
    fn code(self) -> u8 {
        match self {
            State::Open => 0,
            State::Done => 1,
            State::Failed => 2,
            State::Discarded => 3,
            State::Returned => 4,
        }
    }

    fn of(code: u8) -> Option<State> {
        [State::Open, State::Done, State::Failed, State::Discarded, State::Returned]
            .into_iter()
            .find(|state| state.code() == code)
    }
}

/// A message remembered for recognising its duplicates.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Recent {
    /// What a duplicate of it has as well.
    pub tag: Tag,
    /// Our id for it.
    pub id: MessageId,
    /// When it came, in microseconds since 1970.
    pub time_us: i64,
    /// How it stands.
    pub state: State,
}

/// A file of duplicate memory.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct RecallFile {
    /// The last segment it speaks for.
    pub(crate) through: u32,
    entries: u32,
    newest_us: i64,
}

/// The name of the file that speaks for segments up to this one.
pub(crate) fn recall_name(through: u32) -> String {
    format!("{through:010}.mem")
}

/// Reads a file; nothing when it does not count.
pub(crate) fn read<S: Storage>(storage: &S, through: u32) -> io::Result<Option<(RecallFile, Vec<Recent>)>> {
    let file = storage.open(&recall_name(through))?;
    let mut bytes = vec![0; file.length()? as usize];
    let read = storage::read_full(&file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(decode(&bytes, through))
}

fn decode(bytes: &[u8], through: u32) -> Option<(RecallFile, Vec<Recent>)> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c_append(through, body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut from = Fields(body);
    if from.take(8)? != MAGIC || from.u32()? != VERSION || from.u32()? != through {
        return None;
    }
    let count = from.u32()?;
    from.u32()?;
    let mut entries = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let mut entry = Fields(from.take(ENTRY_BYTES)?);
        entries.push(Recent {
            id: entry.id()?,
            time_us: entry.u64()? as i64,
            tag: entry.tag()?,
            state: State::of(entry.u8()?)?,
        });
    }
    Some((RecallFile::of(through, &entries), entries))
}

impl RecallFile {
    fn of(through: u32, entries: &[Recent]) -> RecallFile {
        let newest_us = entries.iter().map(|entry| entry.time_us).max().unwrap_or(i64::MIN);
        RecallFile { through, entries: entries.len() as u32, newest_us }
    }
}

/// Remembers the messages of segments up to `through`, durably, and drops what need no longer be known.
/// `files` are the files there are, oldest first.
pub(crate) fn save<S: Storage>(
    storage: &S,
    files: &mut Vec<RecallFile>,
    through: u32,
    mut entries: VecDeque<Recent>,
) -> io::Result<()> {
    let merged = files.last().copied().filter(|last| last.entries < MERGE_BELOW);
    if let Some(last) = merged
        && let Some((_, older)) = read(storage, last.through)?
    {
        for entry in older.into_iter().rev() {
            entries.push_front(entry);
        }
    }
    bound(&mut entries);
    let entries: Vec<Recent> = entries.into();
    write(storage, through, &entries)?;
    storage.sync_folder().map_err(io::Error::other)?;
    // From here on it speaks for what it was merged from, whether or not that goes: were that forgotten here and this not
    // known yet, another try would write over it without what came from there.
    files.retain(|file| Some(*file) != merged && file.through != through);
    files.push(RecallFile::of(through, &entries));
    if let Some(last) = merged.filter(|last| last.through != through) {
        storage.remove(&recall_name(last.through))?;
    }
    prune(storage, files)
}

/// Puts an empty file in place of a damaged one.
pub(crate) fn reset<S: Storage>(storage: &S, through: u32) -> io::Result<RecallFile> {
    write(storage, through, &[])?;
    storage.sync_folder().map_err(io::Error::other)?;
    Ok(RecallFile::of(through, &[]))
}

/// Drops the oldest files that the newer ones make needless.
fn prune<S: Storage>(storage: &S, files: &mut Vec<RecallFile>) -> io::Result<()> {
    let newest_us = files.last().map_or(i64::MIN, |file| file.newest_us);
    while let Some(oldest) = files.first() {
        let newer: u64 = files[1..].iter().map(|file| u64::from(file.entries)).sum();
        let stale = oldest.newest_us < newest_us.saturating_sub(RECENT_US);
        if files.len() == 1 || !(stale || newer >= RECENT_MAX as u64) {
            break;
        }
        storage.remove(&recall_name(oldest.through))?;
        files.remove(0);
    }
    Ok(())
}

fn write<S: Storage>(storage: &S, through: u32, entries: &[Recent]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + ENTRY_BYTES * entries.len() + 4);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&through.to_le_bytes());
    bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for entry in entries {
        bytes.extend_from_slice(&entry.id.to_bytes());
        bytes.extend_from_slice(&entry.time_us.to_le_bytes());
        bytes.extend_from_slice(&entry.tag.identity);
        bytes.extend_from_slice(&entry.tag.content);
        bytes.push(entry.state.code());
        bytes.extend_from_slice(&[0; 7]);
    }
    let crc = crc32c_append(through, &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    let temporary = format!("{through:010}.mem.tmp");
    let file = storage.create(&temporary)?;
    storage::write_full(&file, &mut [IoSlice::new(&bytes)], 0)?;
    file.sync_data()?;
    storage.rename(&temporary, &recall_name(through))
}

/// Keeps the newest entry of each id, at most [`RECENT_MAX`] of them, none older than the last by more
/// than [`RECENT_US`].
pub(crate) fn bound(entries: &mut VecDeque<Recent>) {
    let oldest = entries.back().map_or(i64::MIN, |last| last.time_us.saturating_sub(RECENT_US));
    let mut seen: HashSet<MessageId, IdHasher> = HashSet::with_hasher(IdHasher::default());
    let mut kept = VecDeque::with_capacity(entries.len().min(RECENT_MAX));
    for entry in entries.iter().rev() {
        if kept.len() == RECENT_MAX {
            break;
        }
        if entry.time_us >= oldest && seen.insert(entry.id) {
            kept.push_front(*entry);
        }
    }
    *entries = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::faulty::{Fault, Faulty, Operation, Plan};
    use crate::storage::memory::Memory;

    fn recent(n: u64, time_us: i64) -> Recent {
        let tag = Tag { identity: [n as u8; 16], content: [1; 16] };
        Recent { tag, id: MessageId::new(n, n), time_us, state: State::Failed }
    }

    #[test]
    fn another_try_after_a_fault_forgets_nothing() {
        let storage = Faulty::new();
        let mut files = Vec::new();
        for (through, n) in [(1, 1), (2, 2)] {
            save(&storage, &mut files, through, VecDeque::from([recent(n, n as i64)])).unwrap();
        }
        storage.plan(Some(Plan {
            after: 0,
            only: Some(Operation::Remove),
            fault: Fault::Error(5),
            lasting: false,
        }));
        let third = VecDeque::from([recent(3, 3)]);
        assert!(save(&storage, &mut files, 3, third.clone()).is_err(), "the old file does not go");
        save(&storage, &mut files, 3, third).unwrap();
        let (file, entries) = read(&storage, 3).unwrap().unwrap();
        assert_eq!(files, [file]);
        assert_eq!(entries.iter().map(|entry| entry.time_us).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn what_is_saved_is_read_and_small_files_merge() {
        let storage = Memory::new();
        let mut files = Vec::new();
        save(&storage, &mut files, 3, [recent(1, 1), recent(2, 2)].into()).unwrap();
        save(&storage, &mut files, 5, [recent(3, 3)].into()).unwrap();
        assert_eq!(storage.list().unwrap(), [recall_name(5)]);
        let (file, entries) = read(&storage, 5).unwrap().unwrap();
        assert_eq!(entries, [recent(1, 1), recent(2, 2), recent(3, 3)]);
        assert_eq!(files, [file]);
    }

    #[test]
    fn a_damaged_file_does_not_count() {
        let storage = Memory::new();
        save(&storage, &mut Vec::new(), 3, [recent(1, 1)].into()).unwrap();
        storage.open(&recall_name(3)).unwrap().write_at(&[IoSlice::new(b"x")], 40).unwrap();
        assert!(read(&storage, 3).unwrap().is_none());
    }

    #[test]
    fn memory_is_bounded_in_number_and_time() {
        let mut entries: VecDeque<Recent> = (0..150_000).map(|n| recent(n, n as i64)).collect();
        bound(&mut entries);
        assert_eq!((entries.len(), entries[0].time_us), (RECENT_MAX, 50_000));
        let mut entries = VecDeque::from([recent(1, 0), recent(2, RECENT_US), recent(3, RECENT_US + 1)]);
        bound(&mut entries);
        assert_eq!(entries.len(), 2);
        let mut entries = VecDeque::from([recent(1, 0), recent(1, 7)]);
        bound(&mut entries);
        assert_eq!(entries, [recent(1, 7)]);
    }

    #[test]
    fn files_go_when_newer_ones_hold_enough() {
        let storage = Memory::new();
        let mut files = Vec::new();
        for segment in 1..=4u32 {
            let entries = (0..50_000).map(|n| recent(u64::from(segment) << 32 | n, 5)).collect();
            save(&storage, &mut files, segment, entries).unwrap();
        }
        assert_eq!(storage.list().unwrap(), [recall_name(3), recall_name(4)]);
    }
}
