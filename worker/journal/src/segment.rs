//! Segment files: their names, their header, and the room kept zero-filled ahead of the writer.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::JournalError;
use crate::id;
use crate::meta::Fields;
use crate::storage::{self, File, Storage};

/// How large a segment file grows unless one record is larger, in bytes.
pub const SEGMENT_BYTES: u32 = 64 * 1024 * 1024;
/// Where the first record stands.
pub(crate) const DATA_START: u64 = 4096;
/// The second copy of the header, in another sector: a lost header would cost the whole segment.
const COPY_AT: usize = 2048;
const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"journal\n";
pub(crate) const VERSION: u32 = 1;
/// Set when a flush has failed: the tail must be copied, not flushed again.
pub(crate) const MARKER: &str = "io-error";

/// The file name of a segment.
pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:010}.seg")
}

/// The name of a damaged segment's copy.
pub(crate) fn aside_name(number: u32) -> String {
    format!("{number:010}.damaged")
}

/// The name that the file of a segment has while it waits to become another's. At a start it is a leftover like any
/// other.
pub(crate) fn spare_name(number: u32) -> String {
    format!("{number:010}.tmp")
}

/// A file name with the number in front of its extension.
pub(crate) fn number_of(name: &str, extension: &str) -> Option<u32> {
    let (number, found) = name.split_once('.')?;
    (found == extension && number.len() == 10 && number.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| number.parse().ok())?
}

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: u32,
    pub(crate) salt: u64,
    /// Up to here the file may hold what is left of the segment that it was before; 0 where it was none.
    pub(crate) remains: u64,
}

impl Header {
    /// For a new segment; `old` is the seed of the one whose bytes are in the file.
    fn new(number: u32, remains: u64, old: Option<u32>) -> io::Result<Header> {
        loop {
            let header = Header { number, salt: id::random()?, remains };
            // Under its own seed what is left would count again.
            if old != Some(header.seed()) {
                return Ok(header);
            }
        }
    }

    /// What the checksums of this segment's records begin with.
    pub(crate) fn seed(&self) -> u32 {
        crc32c::crc32c_append(self.number, &self.salt.to_le_bytes())
    }

    fn encode(&self) -> Vec<u8> {
        let mut copy = [0; HEADER_BYTES];
        copy[0..8].copy_from_slice(&MAGIC);
        copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
        copy[12..16].copy_from_slice(&self.number.to_le_bytes());
        copy[16..24].copy_from_slice(&self.salt.to_le_bytes());
        copy[24..32].copy_from_slice(&self.remains.to_le_bytes());
        let crc = crc32c::crc32c(&copy[..60]);
        copy[60..64].copy_from_slice(&crc.to_le_bytes());
        let mut page = vec![0; DATA_START as usize];
        page[..HEADER_BYTES].copy_from_slice(&copy);
        page[COPY_AT..COPY_AT + HEADER_BYTES].copy_from_slice(&copy);
        page
    }

    /// The version and what one copy says; nothing when it is damaged.
    fn decode(copy: &[u8]) -> Option<(u32, Header)> {
        let mut from = Fields(copy.get(..HEADER_BYTES)?);
        if from.take(8)? != MAGIC {
            return None;
        }
        let version = from.u32()?;
        let header = Header { number: from.u32()?, salt: from.u64()?, remains: from.u64()? };
        let crc = Fields(&copy[60..]).u32()?;
        (crc == crc32c::crc32c(&copy[..60])).then_some((version, header))
    }

    /// Reads a segment's header; nothing when both copies are damaged or it is another segment's.
    pub(crate) fn read(file: &impl File, number: u32) -> Result<Option<Header>, JournalError> {
        let mut page = [0; DATA_START as usize];
        let read = storage::read_full(file, &mut page, 0).map_err(JournalError::Io)?;
        let copies = [&page[..read], page[..read].get(COPY_AT..).unwrap_or_default()];
        for (version, header) in copies.into_iter().filter_map(Header::decode) {
            if version != VERSION {
                return Err(JournalError::Version { file: segment_name(number), version });
            }
            if header.number == number {
                return Ok(Some(header));
            }
        }
        Ok(None)
    }
}

/// A segment that is, or will be, written to.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    pub(crate) number: u32,
    pub(crate) seed: u32,
    pub(crate) file: F,
    fill: Mutex<Fill>,
    idle: Condvar,
}

/// The file of a segment that is over, kept to become another's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spare {
    /// Of the segment that it was.
    pub(crate) number: u32,
    pub(crate) seed: u32,
    /// Its length.
    pub(crate) bytes: u64,
}

/// How far a segment belongs to the writer or is zero-filled, and where the filler is at work.
#[derive(Debug)]
struct Fill {
    /// Below this everything is data, zeros or what an older segment left; the filler works above it only.
    filled: u64,
    busy: Option<Range<u64>>,
}

impl<F: File> Segment<F> {
    pub(crate) fn new(header: Header, file: F, filled: u64) -> Self {
        Segment {
            number: header.number,
            seed: header.seed(),
            file,
            fill: Mutex::new(Fill { filled, busy: None }),
            idle: Condvar::new(),
        }
    }

    /// A new segment under its final name, name and header durable. What it leaves behind when it fails is
    /// a temporary file that the next start removes.
    pub(crate) fn create<S: Storage<File = F>>(storage: &S, number: u32) -> io::Result<Segment<F>> {
        Segment::create_with(storage, number, |_, _| Ok(DATA_START))
    }

    /// Likewise, with data written into it before the name appears; `write` returns where the data ends.
    pub(crate) fn create_with<S: Storage<File = F>>(
        storage: &S,
        number: u32,
        write: impl FnOnce(&F, u32) -> io::Result<u64>,
    ) -> io::Result<Segment<F>> {
        let header = Header::new(number, 0, None)?;
        let temporary = spare_name(number);
        let made = (|| -> io::Result<(F, u64)> {
            let file = storage.create(&temporary)?;
            storage::write_full(&file, &mut [IoSlice::new(&header.encode())], 0)?;
            let end = write(&file, header.seed())?;
            file.sync_data()?;
            storage.rename(&temporary, &segment_name(number))?;
            Ok((file, end))
        })();
        let (file, end) = made.inspect_err(|_| {
            // Best effort: what stays is removed at the next start.
            let _ = storage.remove(&temporary);
        })?;
        // The name stands but may not be durable: no error of this flush is one that may pass.
        storage.sync_folder().map_err(io::Error::other)?;
        Ok(Segment::new(header, file, end))
    }

    /// A new segment in the file of one that is over: its blocks are there, so that a flush of what is written into
    /// them changes nothing else on the disk. What is left of the old records has another seed and is no record here.
    pub(crate) fn reuse<S: Storage<File = F>>(
        storage: &S,
        spare: &Spare,
        number: u32,
    ) -> io::Result<Segment<F>> {
        let header = Header::new(number, spare.bytes, Some(spare.seed))?;
        let name = spare_name(spare.number);
        let made = (|| -> io::Result<F> {
            let file = storage.open(&name)?;
            storage::write_full(&file, &mut [IoSlice::new(&header.encode())], 0)?;
            file.sync_data()?;
            storage.rename(&name, &segment_name(number))?;
            Ok(file)
        })();
        let file = made.inspect_err(|_| {
            // As in `create_with`.
            let _ = storage.remove(&name);
        })?;
        storage.sync_folder().map_err(io::Error::other)?;
        Ok(Segment::new(header, file, spare.bytes))
    }

    fn fill(&self) -> MutexGuard<'_, Fill> {
        self.fill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer takes everything up to `end`: waits for a filler at work below it, and keeps it away from
    /// there for good. Returns how far the segment is filled.
    pub(crate) fn claim(&self, end: u64) -> u64 {
        let mut fill = self.fill();
        while fill.busy.as_ref().is_some_and(|busy| busy.start < end) {
            fill = self.idle.wait(fill).unwrap_or_else(PoisonError::into_inner);
        }
        fill.filled = fill.filled.max(end);
        fill.filled
    }

    /// The writer leaves the segment: the filler never touches it again. Returns its length in bytes.
    pub(crate) fn leave(&self) -> u64 {
        let filled = self.filled();
        self.claim(u64::MAX);
        filled
    }

    /// How far the segment is filled, in bytes.
    pub(crate) fn filled(&self) -> u64 {
        self.fill().filled
    }

    /// Zero-fills up to `bytes` more, short of `limit`, through a handle of the filler's own: a flush error
    /// must reach the writer's handle as well. Returns how much was filled.
    pub(crate) fn fill_chunk(&self, own: &F, bytes: u64, limit: u64) -> io::Result<u64> {
        let range = {
            let mut fill = self.fill();
            let range = fill.filled..limit.min(fill.filled.saturating_add(bytes));
            if range.is_empty() {
                return Ok(0);
            }
            fill.busy = Some(range.clone());
            range
        };
        let written = storage::write_zeros(own, range.start, range.end);
        {
            let mut fill = self.fill();
            fill.busy = None;
            if written.is_ok() {
                fill.filled = range.end;
            }
        }
        self.idle.notify_all();
        written?;
        // Whatever the number, this error does not pass: the writer's handle has it coming too.
        own.sync_data().map_err(io::Error::other)?;
        Ok(range.end - range.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::Memory;

    #[test]
    fn either_copy_of_the_header_is_enough() {
        let storage = Memory::new();
        let made = Segment::create(&storage, 7).unwrap();
        let file = storage.open(&segment_name(7)).unwrap();
        for at in [12, COPY_AT as u64 + 12] {
            let header = Header::read(&file, 7).unwrap().unwrap();
            assert_eq!(header.seed(), made.seed);
            file.write_at(&[IoSlice::new(&[0xFF])], at).unwrap();
        }
        assert_eq!(Header::read(&file, 7).unwrap(), None);
    }

    #[test]
    fn a_later_version_is_refused_not_called_damage() {
        let storage = Memory::new();
        Segment::create(&storage, 7).unwrap();
        let file = storage.open(&segment_name(7)).unwrap();
        let mut copy = [0; HEADER_BYTES];
        file.read_at(&mut copy, 0).unwrap();
        copy[8] = 2;
        let crc = crc32c::crc32c(&copy[..60]);
        copy[60..].copy_from_slice(&crc.to_le_bytes());
        file.write_at(&[IoSlice::new(&copy)], 0).unwrap();
        assert!(matches!(Header::read(&file, 7), Err(JournalError::Version { version: 2, .. })));
    }

    #[test]
    fn the_filler_never_zeroes_what_the_writer_claimed() {
        let storage = Memory::new();
        let segment = Segment::create(&storage, 1).unwrap();
        let own = storage.open(&segment_name(1)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| while segment.fill_chunk(&own, 4096, 4 << 20).unwrap() > 0 {});
            let mut at = DATA_START;
            while at < 4 << 20 {
                segment.claim(at + 1000);
                segment.file.write_at(&[IoSlice::new(&[7; 1000])], at).unwrap();
                at += 1000;
            }
        });
        let mut all = vec![0; (4 << 20) - DATA_START as usize];
        segment.file.read_at(&mut all, DATA_START).unwrap();
        assert!(all.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn names_carry_their_number() {
        assert_eq!(number_of(&segment_name(42), "seg"), Some(42));
        for name in ["42.seg", "0000000042.tmp", "0000000042", "00000000x2.seg", "9999999999.seg"] {
            assert_eq!(number_of(name, "seg"), None, "{name}");
        }
    }
}
