//! Reads a segment from front to back without ever holding more than a window of it.
//!
//! A record counts when both its checksums fit. Behind a bad one the scan looks for the next that counts:
//! when there is one the bad bytes are a hole (damage), when there is none they are a tear (the end).

use std::io;

use crc32c::crc32c_append;

use crate::footer;
use crate::record::{HEAD_BYTES, Head, Location, MAGIC, MARK_BYTES, end_mark, kind, seed_at};
use crate::segment::DATA_START;
use crate::storage::{self, File};
use crate::writer::LARGE_BYTES;

/// Small enough for the processor's cache, large enough that reading costs little a byte.
const WINDOW_BYTES: usize = 256 * 1024;
/// Records begin at multiples of this.
const WORD_BYTES: u64 = 8;
/// Where bodies are passed over a window holds what surrounds them.
const NARROW_BYTES: usize = 4 * 1024;

/// What of a record is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// All of it: its checksums tell whether it counts.
    Whole,
    /// Not the bodies of large records: their headers and end marks do. Enough for records that this process has written
    /// or has read whole.
    PastLargeBodies,
}

/// A record found, without its body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) head: Head,
    pub(crate) meta: &'a [u8],
    pub(crate) location: Location,
}

/// Bytes between two records that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The sequence number in front of it, 0 when it begins the segment.
    pub(crate) before: u64,
    /// The one behind it.
    pub(crate) after: u64,
}

/// What a whole segment turned out to be.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// It ends with an index (be it a damaged one): nothing is ever appended to it again.
    pub(crate) sealed: bool,
    /// Where the last record (before the index) ends.
    pub(crate) end: u64,
    pub(crate) holes: Vec<Hole>,
    /// How many bytes behind the last record are neither a record nor zeros.
    pub(crate) torn_bytes: u64,
    /// How far behind the last record one reaches of which only the header counts.
    pub(crate) torn_record_bytes: u64,
    /// Length of the index of its records, in bytes.
    pub(crate) index_bytes: u64,
    /// Sequence numbers of the first and last record, 0 without any.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The last record known to have been flushed, as its records tell.
    pub(crate) flushed: u64,
    pub(crate) file_bytes: u64,
}

/// A moving window over a file.
pub(crate) struct Window<'f, F> {
    file: &'f F,
    pub(crate) length: u64,
    buffer: Vec<u8>,
    start: u64,
    /// How much is read at a time, in bytes.
    reads: usize,
}

impl<'f, F: File> Window<'f, F> {
    pub(crate) fn new(file: &'f F) -> io::Result<Self> {
        Ok(Window { file, length: file.length()?, buffer: Vec::new(), start: 0, reads: WINDOW_BYTES })
    }

    /// The bytes at an offset: as many as asked for, fewer only at the end of the file. At most a window.
    pub(crate) fn view(&mut self, at: u64, bytes: usize) -> io::Result<&[u8]> {
        let bytes = bytes.min(self.length.saturating_sub(at) as usize);
        let held = self.start..self.start + self.buffer.len() as u64;
        if at < held.start || at + bytes as u64 > held.end {
            let want = self.reads.max(bytes).min((self.length - at) as usize);
            self.buffer.resize(want, 0);
            self.start = at;
            let read = storage::read_full(self.file, &mut self.buffer, at).inspect_err(|_| {
                self.start = u64::MAX / 2;
            })?;
            self.buffer.truncate(read);
        }
        let from = (at - self.start) as usize;
        let to = (from + bytes).min(self.buffer.len());
        Ok(&self.buffer[from.min(to)..to])
    }

    /// The bytes from an offset on, as many as are held: at least a word, fewer only at the end of the file. Always whole
    /// words but there.
    fn ahead(&mut self, at: u64) -> io::Result<&[u8]> {
        let end = self.start + self.buffer.len() as u64;
        let held = if at >= self.start { end.saturating_sub(at) } else { 0 };
        let bytes = if held >= WORD_BYTES { held / WORD_BYTES * WORD_BYTES } else { WINDOW_BYTES as u64 };
        self.view(at, bytes as usize)
    }

    /// The checksum of a stretch of the file; nothing when the file ends within.
    pub(crate) fn checksum(&mut self, mut crc: u32, from: u64, to: u64) -> io::Result<Option<u32>> {
        let mut at = from;
        while at < to {
            let part = self.view(at, (to - at).min(WINDOW_BYTES as u64) as usize)?;
            if part.is_empty() {
                return Ok(None);
            }
            crc = crc32c_append(crc, part);
            at += part.len() as u64;
        }
        Ok(Some(crc))
    }
}

/// What stands at an offset.
enum Place {
    Record(Head),
    /// The header counts, the rest does not.
    Broken(Head),
    Nothing,
}

/// Looks at the record at an offset.
fn look<F: File>(window: &mut Window<'_, F>, at: u64, segment_seed: u32, depth: Depth) -> io::Result<Place> {
    let seed = seed_at(segment_seed, at);
    let Some(head) = Head::decode(window.view(at, HEAD_BYTES)?, seed) else {
        return Ok(Place::Nothing);
    };
    let end = at + head.record_bytes();
    if end > window.length {
        return Ok(Place::Broken(head));
    }
    let from = at + HEAD_BYTES as u64;
    let to = from + u64::from(head.meta_bytes) + u64::from(head.body_bytes);
    if depth == Depth::PastLargeBodies && head.record_bytes() >= LARGE_BYTES as u64 {
        // The next one is probably large, too.
        window.reads = NARROW_BYTES;
        let mark = window.view(to, MARK_BYTES)?;
        let whole = mark == end_mark(seed, head.sequence).to_le_bytes();
        return Ok(if whole { Place::Record(head) } else { Place::Broken(head) });
    }
    window.reads = WINDOW_BYTES;
    if head.record_bytes() <= WINDOW_BYTES as u64 {
        // The usual case: make sure that one read brings all of it.
        window.view(at, head.record_bytes() as usize)?;
    }
    let crc = window.checksum(seed, from, to)?;
    let mark = window.view(to, MARK_BYTES)?;
    let whole = crc == Some(head.crc) && mark == end_mark(seed, head.sequence).to_le_bytes();
    Ok(if whole { Place::Record(head) } else { Place::Broken(head) })
}

/// Goes through all records of a segment in order. A sealed one is read by its index alone, its bodies
/// are not touched.
pub(crate) fn walk<F: File>(
    file: &F,
    number: u32,
    segment_seed: u32,
    sink: &mut dyn FnMut(Found<'_>),
) -> io::Result<Walk> {
    let mut window = Window::new(file)?;
    if let Some(walk) = footer::walk(&mut window, number, segment_seed, sink)? {
        return Ok(walk);
    }
    walk_records(&mut window, number, segment_seed, Depth::Whole, sink)
}

/// Likewise, without the help of an index.
pub(crate) fn walk_records<F: File>(
    window: &mut Window<'_, F>,
    number: u32,
    segment_seed: u32,
    depth: Depth,
    sink: &mut dyn FnMut(Found<'_>),
) -> io::Result<Walk> {
    let mut walk = Walk { end: DATA_START, file_bytes: window.length, ..Walk::default() };
    let mut at = DATA_START;
    loop {
        let head = match look(window, at, segment_seed, depth)? {
            Place::Record(head) => head,
            Place::Broken(head) if head.kind == kind::SEALED => {
                // All records are here, only their index is damaged.
                walk.flushed = walk.flushed.max(head.sequence);
                walk.sealed = true;
                return Ok(walk);
            }
            place @ (Place::Broken(_) | Place::Nothing) => {
                let Searched { record, last_byte, mut broken_end } = search(window, at, segment_seed)?;
                if let Place::Broken(head) = place {
                    broken_end = broken_end.max(at + head.record_bytes());
                }
                match record {
                    Some((to, head)) => {
                        walk.holes.push(Hole { from: at, to, before: walk.last, after: head.sequence });
                        at = to;
                        head
                    }
                    None => {
                        walk.torn_bytes = last_byte.map_or(0, |last| last + 1 - at);
                        walk.torn_record_bytes = broken_end.min(window.length).saturating_sub(at);
                        return Ok(walk);
                    }
                }
            }
        };
        walk.flushed = walk.flushed.max(head.flushed());
        if head.kind == kind::SEALED {
            walk.sealed = true;
            return Ok(walk);
        }
        let bytes = head.record_bytes();
        let location = Location { segment: number, offset: at as u32, length: bytes as u32 };
        let meta = window.view(at + HEAD_BYTES as u64, usize::from(head.meta_bytes))?;
        sink(Found { head, meta, location });
        walk.index_bytes += footer::entry_bytes(meta.len());
        if walk.first == 0 {
            walk.first = head.sequence;
        }
        walk.last = head.sequence;
        at += bytes;
        walk.end = at;
    }
}

/// What lies behind bytes that are no record.
struct Searched {
    /// The next record that counts.
    record: Option<(u64, Head)>,
    /// The last byte in front of it that is not zero.
    last_byte: Option<u64>,
    /// Where the last record ends of which only the header counts, 0 without one.
    broken_end: u64,
}

/// Looks behind the bytes at `from`, which are no record.
fn search<F: File>(window: &mut Window<'_, F>, from: u64, segment_seed: u32) -> io::Result<Searched> {
    let (mut last_byte, mut broken_end) = (None, 0);
    let mut at = from;
    while at < window.length {
        // What is held already: what follows a candidate is not read once more for each.
        let part = window.ahead(at)?;
        if part.is_empty() {
            break;
        }
        let mut candidate = None;
        for (index, word) in part.chunks(WORD_BYTES as usize).enumerate() {
            if word.iter().all(|&byte| byte == 0) {
                continue;
            }
            let place = at + WORD_BYTES * index as u64;
            if place > from && word.starts_with(&MAGIC.to_le_bytes()) {
                candidate = Some(place);
                break;
            }
            let last = word.iter().rposition(|&byte| byte != 0).expect("not all of it is zero");
            last_byte = Some(place + last as u64);
        }
        match candidate {
            Some(place) => {
                match look(window, place, segment_seed, Depth::Whole)? {
                    Place::Record(head) => {
                        return Ok(Searched { record: Some((place, head)), last_byte, broken_end });
                    }
                    Place::Broken(head) => broken_end = broken_end.max(place + head.record_bytes()),
                    Place::Nothing => {}
                }
                last_byte = Some(place + 3);
                at = place + WORD_BYTES;
            }
            None => at += (part.len() as u64).next_multiple_of(WORD_BYTES),
        }
    }
    Ok(Searched { record: None, last_byte, broken_end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, tail};
    use crate::segment::{Header, Segment, Spare, segment_name, spare_name};
    use crate::storage::Storage;
    use crate::storage::memory::{Memory, MemoryFile};
    use std::io::IoSlice;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// Counts what is read.
    struct Counting(MemoryFile, AtomicU64);

    impl File for Counting {
        fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
            let read = self.0.read_at(into, offset)?;
            self.1.fetch_add(read as u64, Relaxed);
            Ok(read)
        }
        fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
            self.0.write_at(parts, offset)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
        fn set_length(&self, bytes: u64) -> io::Result<()> {
            self.0.set_length(bytes)
        }
        fn length(&self) -> io::Result<u64> {
            self.0.length()
        }
    }

    /// Writes a record whose body has that length; returns where it ends.
    fn put(file: &impl File, segment_seed: u32, at: u64, sequence: u64, body_bytes: usize) -> u64 {
        let body = vec![7; body_bytes];
        let record = Record::Frozen { id: crate::MessageId::new(1, 1), step: "s", values: &body };
        let seed = seed_at(segment_seed, at);
        let mut meta = Vec::new();
        record.write_meta(&mut meta, 0);
        let head = Head {
            kind: record.kind(),
            meta_bytes: meta.len() as u16,
            body_bytes: body_bytes as u32,
            unflushed: 0,
            sequence,
            crc: crc32c_append(crc32c_append(seed, &meta), &body),
        };
        let (mark, mark_bytes) = tail(&head, seed);
        let bytes = [&head.encode(seed)[..], &meta, &body, &mark[..mark_bytes]].concat();
        file.write_at(&[IoSlice::new(&bytes)], at).unwrap();
        at + head.record_bytes()
    }

    #[test]
    fn bytes_that_look_like_many_records_are_read_but_a_few_times() {
        let storage = Memory::new();
        let file = storage.create("a").unwrap();
        let bytes = b"jrec    ".repeat(1 << 19);
        file.write_at(&[IoSlice::new(&bytes)], DATA_START).unwrap();
        let file = Counting(file, AtomicU64::new(0));
        let mut window = Window::new(&file).unwrap();
        let walk = walk_records(&mut window, 1, 1, Depth::Whole, &mut |_| panic!("no record")).unwrap();
        assert_eq!(walk.torn_bytes, (bytes.len() - 4) as u64);
        let read = file.1.load(Relaxed);
        assert!(read < 2 * bytes.len() as u64, "{read} bytes were read");
    }

    #[test]
    fn large_bodies_are_passed_over_where_they_need_not_be_read() {
        let storage = Memory::new();
        let made = Segment::create(&storage, 1).unwrap();
        let mut at = DATA_START;
        for (n, body) in [1 << 20, 100, 1 << 20, 1 << 20, 100].into_iter().enumerate() {
            at = put(&made.file, made.seed, at, n as u64 + 1, body);
        }
        let file = Counting(storage.open(&segment_name(1)).unwrap(), AtomicU64::new(0));
        for (depth, most) in [(Depth::Whole, u64::MAX), (Depth::PastLargeBodies, 1 << 20)] {
            file.1.store(0, Relaxed);
            let mut lengths = Vec::new();
            let mut window = Window::new(&file).unwrap();
            let walk = walk_records(&mut window, 1, made.seed, depth, &mut |found| {
                lengths.push(found.head.body_bytes);
            })
            .unwrap();
            assert_eq!((walk.end, walk.holes.len(), walk.torn_bytes), (at, 0, 0));
            assert_eq!(lengths, [1 << 20, 100, 1 << 20, 1 << 20, 100]);
            assert!(file.1.load(Relaxed) < most, "{} bytes were read", file.1.load(Relaxed));
        }
    }

    #[test]
    fn what_an_older_segment_left_in_the_file_is_no_record() {
        let storage = Memory::new();
        let old = Segment::create(&storage, 1).unwrap();
        let mut end = DATA_START;
        for n in 1..=20 {
            end = put(&old.file, old.seed, end, n, 500);
        }
        storage.rename(&segment_name(1), &spare_name(1)).unwrap();
        let spare = Spare { number: 1, seed: old.seed, bytes: end };
        let made = Segment::reuse(&storage, &spare, 9).unwrap();
        assert_eq!(storage.list().unwrap(), [segment_name(9)]);
        assert_eq!(made.filled(), end);
        let file = storage.open(&segment_name(9)).unwrap();
        let header = Header::read(&file, 9).unwrap().unwrap();
        assert_eq!((header.seed(), header.remains), (made.seed, end));
        // As long as the old ones, so that these begin right behind it.
        let first = put(&file, made.seed, DATA_START, 21, 500);
        let second = put(&file, made.seed, first, 22, 500);
        let mut sequences = Vec::new();
        let walk = walk(&file, 9, made.seed, &mut |found| sequences.push(found.head.sequence)).unwrap();
        assert_eq!((sequences, walk.end, walk.holes.len()), (vec![21, 22], second, 0));
        assert_eq!(walk.torn_record_bytes, 0);
    }
}
