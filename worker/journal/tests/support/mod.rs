//! What the tests of this crate's public face share.
#![allow(dead_code, missing_docs, unreachable_pub)]

use journal::storage::Storage;
use journal::{Journal, Location, MessageId, Options, Received, Record, ReplaySummary, Replayed, Tag};

pub fn id(n: u64) -> MessageId {
    MessageId::new(n, 7)
}

pub fn tag(n: u64) -> Tag {
    Tag { identity: (n as u128).to_le_bytes(), content: [1; 16] }
}

pub fn body(n: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at as u64 * 31 + n) as u8).collect()
}

pub fn receive<S: Storage>(journal: &mut Journal<S>, n: u64, body: &[u8]) -> Location {
    let message = Received {
        id: id(n),
        time_us: n as i64,
        utc_offset_s: -3600,
        peer: "192.0.2.1:2575",
        keys: &[n, 2],
        tag: tag(n),
        flags: 5,
        body,
    };
    journal.append(&Record::Received(message)).unwrap()
}

pub type Opened<S> = (Journal<S>, Vec<Replayed>, ReplaySummary);

pub fn open<S: Storage>(storage: S, segment_bytes: u32) -> Opened<S> {
    let options = Options { segment_bytes, piece_bytes: 32 * 1024, ..Options::default() };
    let mut messages = Vec::new();
    let (journal, summary) = Journal::open(storage, options, &mut |message| messages.push(message)).unwrap();
    (journal, messages, summary)
}

pub fn numbers(messages: &[Replayed]) -> Vec<u64> {
    messages.iter().map(|message| message.id.unix_ms()).collect()
}
