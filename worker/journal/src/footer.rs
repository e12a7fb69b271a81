//! The index that seals a segment: the meta parts of all its records, so that replay of sealed segments
//! reads no bodies. It is written behind the data once the segment is flushed and left; a segment without
//! one, or with a damaged one, is scanned.

use std::io::{self, IoSlice};

use crc32c::crc32c_append;

use crate::meta::Fields;
use crate::record::{self, HEAD_BYTES, Head, Location, kind, seed_at};
use crate::scan::{Depth, Found, Walk, Window, walk_records};
use crate::segment::DATA_START;
use crate::storage::{self, File};

/// In front of each meta part: kind, zero, its length, the record's offset and length, body length.
const ENTRY_HEAD_BYTES: usize = 16;
const META_BYTES: usize = 32;
const TRAILER_BYTES: usize = 32;
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"seal");
/// What sealing adds to a segment besides the entries, in bytes.
pub(crate) const FIXED_BYTES: u64 = (HEAD_BYTES + META_BYTES + 16 + TRAILER_BYTES) as u64;
const PIECE_BYTES: usize = 256 * 1024;

/// Length of the entry of a record, in bytes.
pub(crate) fn entry_bytes(meta_bytes: usize) -> u64 {
    (ENTRY_HEAD_BYTES + meta_bytes) as u64
}

/// Collects bytes and writes them out in pieces.
struct Output<'f, F> {
    file: &'f F,
    at: u64,
    crc: u32,
    buffer: Vec<u8>,
}

impl<F: File> Output<'_, F> {
    fn push(&mut self, bytes: &[u8]) {
        self.crc = crc32c_append(self.crc, bytes);
        self.buffer.extend_from_slice(bytes);
    }

    fn write(&mut self) -> io::Result<()> {
        self.at += storage::write_full(self.file, &mut [IoSlice::new(&self.buffer)], self.at)?;
        self.buffer.clear();
        Ok(())
    }
}

/// Seals a segment that is flushed and will not be written to again; its zero-filled rest is cut off.
/// `end` is where its data ends. Returns the file's length, or nothing when the segment is sealed already or must not be
/// (its records do not all count, or sealing would hide damage).
pub(crate) fn seal<F: File>(file: &F, number: u32, segment_seed: u32, end: u64) -> io::Result<Option<u64>> {
    let mut window = Window::new(file)?;
    if walk(&mut window, number, segment_seed, &mut |_| {})?.is_some() {
        return Ok(None);
    }
    let mut records = 0u32;
    let depth = Depth::PastLargeBodies;
    let survey = walk_records(&mut window, number, segment_seed, depth, &mut |_| records += 1)?;
    if !survey.holes.is_empty() || survey.end != end {
        return Ok(None);
    }
    let start = survey.end;
    let seed = seed_at(segment_seed, start);
    let mut meta = [0; META_BYTES];
    meta[0..8].copy_from_slice(&survey.first.to_le_bytes());
    meta[8..16].copy_from_slice(&survey.last.to_le_bytes());
    meta[16..20].copy_from_slice(&records.to_le_bytes());

    let mut output = Output {
        file,
        at: start + HEAD_BYTES as u64,
        crc: seed,
        buffer: Vec::with_capacity(2 * PIECE_BYTES),
    };
    output.push(&meta);
    let mut failed = None;
    walk_records(&mut window, number, segment_seed, depth, &mut |found| {
        let mut entry = [0; ENTRY_HEAD_BYTES];
        entry[0] = found.head.kind;
        entry[2..4].copy_from_slice(&found.head.meta_bytes.to_le_bytes());
        entry[4..8].copy_from_slice(&found.location.offset.to_le_bytes());
        entry[8..12].copy_from_slice(&found.location.length.to_le_bytes());
        entry[12..16].copy_from_slice(&found.head.body_bytes.to_le_bytes());
        output.push(&entry);
        output.push(found.meta);
        if output.buffer.len() >= PIECE_BYTES && failed.is_none() {
            failed = output.write().err();
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let head = Head {
        kind: kind::SEALED,
        meta_bytes: META_BYTES as u16,
        body_bytes: survey.index_bytes as u32,
        unflushed: 0,
        sequence: survey.last,
        crc: output.crc,
    };
    let (tail, tail_bytes) = record::tail(&head, seed);
    output.push(&tail[..tail_bytes]);
    let mut trailer = [0; TRAILER_BYTES];
    trailer[0..4].copy_from_slice(&TRAILER_MAGIC.to_le_bytes());
    trailer[4..8].copy_from_slice(&(start as u32).to_le_bytes());
    let crc = crc32c_append(segment_seed, &trailer[..28]);
    trailer[28..32].copy_from_slice(&crc.to_le_bytes());
    output.push(&trailer);
    output.write()?;
    // The header last: without it nothing behind the data is mistaken for an index.
    storage::write_full(file, &mut [IoSlice::new(&head.encode(seed))], start)?;
    file.set_length(output.at)?;
    file.sync_data()?;
    Ok(Some(output.at))
}

/// Goes through a segment by its index; nothing when it has none that counts.
pub(crate) fn walk<F: File>(
    window: &mut Window<'_, F>,
    number: u32,
    segment_seed: u32,
    sink: &mut dyn FnMut(Found<'_>),
) -> io::Result<Option<Walk>> {
    let Some(trailer_at) = window.length.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(None);
    };
    let trailer = window.view(trailer_at, TRAILER_BYTES)?;
    let mut from = Fields(trailer);
    let (magic, start) = (from.u32(), from.u32().map(u64::from));
    let crc = trailer.get(28..).and_then(|crc| Fields(crc).u32());
    let (Some(start), Some(body)) = (start, trailer.get(..28)) else {
        return Ok(None);
    };
    if magic != Some(TRAILER_MAGIC) || crc != Some(crc32c_append(segment_seed, body)) {
        return Ok(None);
    }
    let seed = seed_at(segment_seed, start);
    let Some(head) = Head::decode(window.view(start, HEAD_BYTES)?, seed) else {
        return Ok(None);
    };
    let meta_at = start + HEAD_BYTES as u64;
    let entries_at = meta_at + u64::from(head.meta_bytes);
    let end = entries_at + u64::from(head.body_bytes);
    if head.kind != kind::SEALED
        || usize::from(head.meta_bytes) != META_BYTES
        || start + head.record_bytes() != trailer_at
        || window.checksum(seed, meta_at, end)? != Some(head.crc)
    {
        return Ok(None);
    }
    let mut meta = Fields(window.view(meta_at, META_BYTES)?);
    let (Some(first), Some(last)) = (meta.u64(), meta.u64()) else {
        return Ok(None);
    };
    let mut at = entries_at;
    let mut sequence = first;
    while at < end {
        let mut entry = Fields(window.view(at, ENTRY_HEAD_BYTES)?);
        let (Some(kind), Some(_), Some(meta_bytes), Some(offset), Some(length), Some(body_bytes)) =
            (entry.u8(), entry.u8(), entry.u16(), entry.u32(), entry.u32(), entry.u32())
        else {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ended while it was read"));
        };
        let head = Head { kind, meta_bytes, body_bytes, unflushed: 0, sequence, crc: 0 };
        let meta = window.view(at + ENTRY_HEAD_BYTES as u64, usize::from(meta_bytes))?;
        sink(Found { head, meta, location: Location { segment: number, offset, length } });
        at += entry_bytes(usize::from(meta_bytes));
        sequence += 1;
    }
    Ok(Some(Walk {
        sealed: true,
        end: start.max(DATA_START),
        index_bytes: u64::from(head.body_bytes),
        first,
        last,
        flushed: last,
        file_bytes: window.length,
        ..Walk::default()
    }))
}
