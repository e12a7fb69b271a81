//! A journal over segments of any bytes: it opens, hands out nothing whose checksums do not fit, says the same when it is
//! opened again, and can be written to. What a segment is, is written down here a second time, from `FORMAT.md`: records
//! of any content, with checksums that fit, reach what lies behind the checksums.
#![no_main]

use crc32c::crc32c_append;
use journal::storage::memory::Memory;
use journal::storage::{File, Storage};
use journal::{DamageKind, Journal, Location, MessageId, Options, ReadOnly, Received, Record, Replayed, Tag};
use libfuzzer_sys::fuzz_target;
use std::io::IoSlice;

const DATA_START: usize = 4096;
const SALT: u64 = 0x5EED;

fuzz_target!(|data: &[u8]| {
    let [choice, rest @ ..] = data else { return };
    let memory = Memory::new();
    if choice & 1 == 0 {
        // As they are, with or without the header that makes a segment of them.
        let mut file = if choice & 2 == 0 { header(1) } else { Vec::new() };
        file.extend_from_slice(rest);
        put(&memory, "0000000001.seg", &file);
        if choice & 4 != 0 {
            put(&memory, "0000000000.mem", rest);
        }
    } else {
        forge(&memory, rest);
    }
    if choice & 8 != 0 {
        put(&memory, "io-error", b"");
    }
    let verify_bytes = if choice & 16 == 0 { u64::MAX } else { 0 };
    let options = Options { segment_bytes: 64 << 10, verify_bytes, ..Options::default() };

    drop(ReadOnly::new(memory.clone()).messages(&mut |_| {}));
    let first = open(&memory, options);
    let mut second = open(&memory, options);
    assert_eq!(first, second, "opened again, it says the same");
    // Nothing of this is worth a record unless it can be gone on with.
    let id = MessageId::new(1 << 40, 7);
    if first.iter().all(|message| message.0.id != id) {
        let mut sink = |_| {};
        let (mut journal, _) =
            Journal::open(memory.clone(), options, &mut sink).expect("memory does not fail");
        append(&mut journal, id);
        drop(journal);
        second = open(&memory, options);
        let found = second.iter().find(|message| message.0.id == id);
        assert_eq!(found.expect("what was flushed is there").1.as_deref(), Some(&b"body"[..]));
    }
});

fn append(journal: &mut Journal<Memory>, id: MessageId) {
    let message = Received {
        id,
        time_us: 1,
        utc_offset_s: 0,
        peer: "peer",
        keys: &[1],
        tag: Tag::default(),
        flags: 0,
        body: b"body",
    };
    journal.append(&Record::Received(message)).expect("memory does not fail");
    journal.flush().expect("memory does not fail");
}

/// All that is handed out, in its order, each with its body where that can be read. Places change when a tail is copied,
/// and with them the numbers of the order.
fn open(memory: &Memory, options: Options) -> Vec<(Replayed, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let opened = Journal::open(memory.clone(), options, &mut |message| found.push(message));
    let (journal, summary) = opened.expect("memory does not fail and the version is ours");
    assert_eq!(summary.messages_open, found.len() as u64);
    assert!(found.is_sorted_by_key(|message| message.order), "in the order they came in");
    let reader = journal.reader();
    let mut messages: Vec<(Replayed, Option<Vec<u8>>)> = Vec::new();
    for mut message in found {
        let read = reader.read(message.location).ok();
        assert!(read.is_none() || is_sound(memory, message.location), "{:?}", message.location);
        // It still waits, and somebody has to hear that it cannot be read.
        let is_reported = |id| summary.damage.iter().any(|damage| damage.what == DamageKind::Body { id });
        assert!(
            read.is_some() || options.verify_bytes == 0 || is_reported(message.id),
            "{:?}",
            message.location
        );
        for (_, location) in &mut message.frozen {
            let values = reader.frozen(*location);
            assert!(values.is_err() || is_sound(memory, *location), "{location:?}");
            *location = NOWHERE;
        }
        (message.location, message.order) = (NOWHERE, 0);
        messages.push((message, read.map(|read| read.body)));
    }
    messages
}

const NOWHERE: Location = Location { segment: 0, offset: 0, length: 0 };

fn put(memory: &Memory, name: &str, bytes: &[u8]) {
    let file = memory.create(name).expect("memory does not fail");
    file.write_at(&[IoSlice::new(bytes)], 0).expect("memory does not fail");
}

fn segment_seed(number: u32) -> u32 {
    crc32c_append(number, &SALT.to_le_bytes())
}

fn header(number: u32) -> Vec<u8> {
    let mut page = vec![0; DATA_START];
    page[..8].copy_from_slice(b"journal\n");
    page[8..12].copy_from_slice(&1u32.to_le_bytes());
    page[12..16].copy_from_slice(&number.to_le_bytes());
    page[16..24].copy_from_slice(&SALT.to_le_bytes());
    let crc = crc32c::crc32c(&page[..60]);
    page[60..64].copy_from_slice(&crc.to_le_bytes());
    page
}

/// A record at an offset, with everything in it that fits.
fn record(
    number: u32,
    at: usize,
    kind: u8,
    sequence: u64,
    unflushed: u32,
    meta: &[u8],
    body: &[u8],
) -> Vec<u8> {
    let seed = segment_seed(number) ^ at as u32;
    let mut bytes = b"jrec\x01".to_vec();
    bytes.push(kind);
    bytes.extend_from_slice(&(meta.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&unflushed.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&crc32c_append(crc32c_append(seed, meta), body).to_le_bytes());
    bytes.extend_from_slice(&crc32c_append(seed, &bytes).to_le_bytes());
    bytes.extend_from_slice(meta);
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(&(!(seed.rotate_left(16) ^ sequence as u32)).to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Whether the record at a place fits its checksums.
fn is_sound(memory: &Memory, place: Location) -> bool {
    let Ok(file) = memory.open(&format!("{:010}.seg", place.segment)) else { return false };
    let mut bytes = vec![0; file.length().expect("memory does not fail") as usize];
    file.read_at(&mut bytes, 0).expect("memory does not fail");
    let salt = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
    let Some(bytes) = bytes.get(place.offset as usize..place.offset as usize + place.length as usize) else {
        return false;
    };
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let seed = crc32c_append(place.segment, &salt.to_le_bytes()) ^ place.offset;
    let end = 32 + usize::from(bytes[6]) + 256 * usize::from(bytes[7]) + word(8) as usize;
    bytes.starts_with(b"jrec\x01")
        && word(28) == crc32c_append(seed, &bytes[..28])
        && end + 4 <= bytes.len()
        && word(24) == crc32c_append(seed, &bytes[32..end])
        && word(end) == !(seed.rotate_left(16) ^ word(16))
}

/// Segments of records: each is a byte of flags, the kind, the lengths of meta part and body, the step of the sequence
/// number, what is unflushed, and the bytes. Ids may be short: one byte of the input stands for sixteen of them.
fn forge(memory: &Memory, mut input: &[u8]) {
    const NEXT_SEGMENT: u8 = 1;
    const JUNK_BEFORE: u8 = 2;
    const BROKEN: u8 = 4;
    const FAR: u8 = 8;
    const SEAL: u8 = 16;
    const SHORT_ID: u8 = 32;
    let (mut number, mut file, mut sequence) = (1, header(1), 0u64);
    let mut index = Vec::new();
    while let [flags, kind, meta_bytes, body_bytes, step, unflushed, rest @ ..] = input {
        let (meta, rest) = rest.split_at(usize::from(*meta_bytes).min(rest.len()));
        let (body, rest) = rest.split_at(usize::from(*body_bytes).min(rest.len()));
        input = rest;
        if flags & NEXT_SEGMENT != 0 {
            put(memory, &format!("{number:010}.seg"), &file);
            number += 1;
            file = header(number);
            index.clear();
        }
        if flags & JUNK_BEFORE != 0 {
            file.extend_from_slice(b"\x01jrec\x01\x01\x01");
        }
        sequence = match flags & FAR {
            0 => sequence.wrapping_add(u64::from(*step)),
            _ => sequence.wrapping_sub(u64::from(*step)),
        };
        let mut long;
        let meta = if flags & SHORT_ID != 0 && !meta.is_empty() {
            long = vec![0; 16];
            long[0] = meta[0];
            long.extend_from_slice(&meta[1..]);
            &long[..]
        } else {
            meta
        };
        let at = file.len();
        let mut bytes = record(number, at, *kind, sequence, u32::from(*unflushed), meta, body);
        index.extend_from_slice(&[*kind, 0]);
        index.extend_from_slice(&(meta.len() as u16).to_le_bytes());
        for word in [at, bytes.len(), body.len()] {
            index.extend_from_slice(&(word as u32).to_le_bytes());
        }
        index.extend_from_slice(meta);
        if flags & BROKEN != 0 {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        file.extend_from_slice(&bytes);
        if flags & SEAL != 0 {
            seal(number, &mut file, sequence, &index);
        }
    }
    put(memory, &format!("{number:010}.seg"), &file);
}

/// The index behind the records, and the trailer that says where it is. First and last are not looked up: they lie.
fn seal(number: u32, file: &mut Vec<u8>, sequence: u64, index: &[u8]) {
    let at = file.len();
    let mut meta = 1u64.to_le_bytes().to_vec();
    meta.extend_from_slice(&sequence.to_le_bytes());
    let records = file.windows(5).filter(|bytes| bytes == b"jrec\x01").count() as u32;
    meta.extend_from_slice(&records.to_le_bytes());
    meta.extend_from_slice(&[0; 12]);
    file.extend_from_slice(&record(number, at, 240, sequence, 0, &meta, index));
    let mut trailer = b"seal".to_vec();
    trailer.extend_from_slice(&(at as u32).to_le_bytes());
    trailer.extend_from_slice(&[0; 20]);
    trailer.extend_from_slice(&crc32c_append(segment_seed(number), &trailer).to_le_bytes());
    file.extend_from_slice(&trailer);
}
