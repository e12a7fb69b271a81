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

/// Small enough for the processor's cache, large enough that reading costs little a byte.
const WINDOW_BYTES: usize = 256 * 1024;

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
}

impl<'f, F: File> Window<'f, F> {
    pub(crate) fn new(file: &'f F) -> io::Result<Self> {
        Ok(Window { file, length: file.length()?, buffer: Vec::new(), start: 0 })
    }

    /// The bytes at an offset: as many as asked for, fewer only at the end of the file. At most a window.
    pub(crate) fn view(&mut self, at: u64, bytes: usize) -> io::Result<&[u8]> {
        let bytes = bytes.min(self.length.saturating_sub(at) as usize);
        let held = self.start..self.start + self.buffer.len() as u64;
        if at < held.start || at + bytes as u64 > held.end {
            let want = WINDOW_BYTES.max(bytes).min((self.length - at) as usize);
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
fn look<F: File>(window: &mut Window<'_, F>, at: u64, segment_seed: u32) -> io::Result<Place> {
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
    walk_records(&mut window, number, segment_seed, sink)
}

/// Likewise, without the help of an index: every byte is checked.
pub(crate) fn walk_records<F: File>(
    window: &mut Window<'_, F>,
    number: u32,
    segment_seed: u32,
    sink: &mut dyn FnMut(Found<'_>),
) -> io::Result<Walk> {
    let mut walk = Walk { end: DATA_START, file_bytes: window.length, ..Walk::default() };
    let mut at = DATA_START;
    loop {
        let head = match look(window, at, segment_seed)? {
            Place::Record(head) => head,
            Place::Broken(head) if head.kind == kind::SEALED => {
                // All records are here, only their index is damaged.
                walk.flushed = walk.flushed.max(head.sequence);
                walk.sealed = true;
                return Ok(walk);
            }
            Place::Broken(_) | Place::Nothing => {
                let Searched { record, last_byte } = search(window, at, segment_seed)?;
                match record {
                    Some((to, head)) => {
                        walk.holes.push(Hole { from: at, to, before: walk.last, after: head.sequence });
                        at = to;
                        head
                    }
                    None => {
                        walk.torn_bytes = last_byte.map_or(0, |last| last + 1 - at);
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
}

/// Looks behind the bytes at `from`, which are no record.
fn search<F: File>(window: &mut Window<'_, F>, from: u64, segment_seed: u32) -> io::Result<Searched> {
    let mut last_byte = None;
    let mut at = from;
    while at < window.length {
        let part = window.view(at, WINDOW_BYTES)?;
        if part.is_empty() {
            break;
        }
        let mut candidate = None;
        for (index, word) in part.chunks(8).enumerate() {
            if word.iter().all(|&byte| byte == 0) {
                continue;
            }
            let place = at + 8 * index as u64;
            if place > from && word.starts_with(&MAGIC.to_le_bytes()) {
                candidate = Some(place);
                break;
            }
            let last = word.iter().rposition(|&byte| byte != 0).expect("not all of it is zero");
            last_byte = Some(place + last as u64);
        }
        match candidate {
            Some(place) => {
                if let Place::Record(head) = look(window, place, segment_seed)? {
                    return Ok(Searched { record: Some((place, head)), last_byte });
                }
                last_byte = Some(place + 3);
                at = place + 8;
            }
            None => at += part.len().next_multiple_of(8) as u64,
        }
    }
    Ok(Searched { record: None, last_byte })
}
