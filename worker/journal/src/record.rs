//! Records: what the journal can say, and how it stands in bytes.
//!
//! A record is a header, its meta part (all that replay needs), its body (bytes nobody looks at here), an
//! end mark and zeros up to a multiple of eight. Checksums are seeded by the segment's random salt and by
//! the offset: bytes of another segment, of another place, or made up by a sender are no record.

use crc32c::crc32c_append;

use crate::id::MessageId;
use crate::meta::Fields;

/// Where a record stands: a segment, an offset and the whole record's length, the last two in bytes.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The segment's number.
    pub segment: u32,
    /// Offset of the record's header in the segment file.
    pub offset: u32,
    /// Length of the record with header, end mark and padding.
    pub length: u32,
}

impl Location {
    /// Grows from record to record: messages in the order they were acknowledged in.
    pub fn order(self) -> u64 {
        u64::from(self.segment) << 32 | u64::from(self.offset)
    }
}

/// What duplicates are known by: two opaque hashes.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tag {
    /// Of what names the message (its sender's names and number for it).
    pub identity: [u8; 16],
    /// Of all its bytes.
    pub content: [u8; 16],
}

/// A message as it came.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Received<'a> {
    /// Our id for it.
    pub id: MessageId,
    /// When it was complete, in microseconds since 1970.
    pub time_us: i64,
    /// Offset of local time from UTC then, in seconds.
    pub utc_offset_s: i32,
    /// Who sent it; cut to [`PEER_BYTES_MAX`].
    pub peer: &'a str,
    /// The keys its order is kept by, at most [`KEYS_MAX`].
    pub keys: &'a [u64],
    /// What duplicates of it are known by.
    pub tag: Tag,
    /// The caller's.
    pub flags: u8,
    /// The bytes as they came, at most [`BODY_BYTES_MAX`].
    pub body: &'a [u8],
}

/// What can be appended.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A message came in. Repeated for an id that has ended, it opens that message anew, with nothing done.
    Received(Received<'a>),
    /// Work on these messages begins. Needs no flush.
    Started {
        /// The messages.
        ids: &'a [MessageId],
    },
    /// Values that every try of a step must repeat.
    Frozen {
        /// The message.
        id: MessageId,
        /// The step.
        step: &'a str,
        /// The caller's bytes.
        values: &'a [u8],
    },
    /// A step needs not be done again.
    StepDone {
        /// The message.
        id: MessageId,
        /// The step.
        step: &'a str,
    },
    /// A step is put off; the message is no longer being worked on.
    Again {
        /// The message.
        id: MessageId,
        /// The step.
        step: &'a str,
        /// How many tries there were.
        attempt: u32,
        /// When the next is due, in microseconds since 1970.
        until_us: i64,
        /// When the first was, in microseconds since 1970.
        since_us: i64,
        /// Why; cut to 1,024 bytes.
        reason: &'a str,
    },
    /// All steps of these messages have ended well.
    Done {
        /// The messages.
        ids: &'a [MessageId],
    },
    /// The message has failed for good at a step.
    Failed {
        /// The message.
        id: MessageId,
        /// The step.
        step: &'a str,
    },
    /// A message that had ended is open again, by hand. Says nothing unless its `Received` was appended anew
    /// in front of it, and is followed by what need not be repeated (`StepDone`, `Frozen`): the segments with
    /// the first ones may be gone.
    Retried {
        /// The message.
        id: MessageId,
    },
    /// A failed message was given up by hand.
    Discarded {
        /// The message.
        id: MessageId,
    },
    /// The sender was told that it keeps the message.
    Returned {
        /// The message.
        id: MessageId,
    },
    /// The worker died while it worked on this message.
    Strike {
        /// The message.
        id: MessageId,
        /// How often by now.
        count: u8,
    },
}

/// Longest body, in bytes: a record's length and offset must fit 32 bits.
pub const BODY_BYTES_MAX: usize = (1 << 31) - (1 << 20);
/// Most order keys of a message: its meta part must fit 16 bits of length.
pub const KEYS_MAX: usize = 4096;
/// Longest peer name kept, in bytes.
pub const PEER_BYTES_MAX: usize = 64;
/// Most ids in one `Started` or `Done` record on disk; longer lists become several.
pub(crate) const IDS_MAX: usize = 2048;
const STEP_BYTES_MAX: usize = 255;
const REASON_BYTES_MAX: usize = 1024;

pub(crate) const HEAD_BYTES: usize = 32;
pub(crate) const MARK_BYTES: usize = 4;
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"jrec");
pub(crate) const VERSION: u8 = 1;
/// A million records a second get there in 146,000 years: what has a higher number was not written here, whatever its
/// checksums say, and counting on from what does count overflows nothing.
const SEQUENCE_MAX: u64 = 1 << 62;
const RECEIVED_BYTES: usize = 16 + 8 + 8 + 32 + 4 + 2 + 1 + 1;
const AGAIN_BYTES: usize = 16 + 8 + 8 + 4 + 1;
pub(crate) const ID_BYTES: usize = 16;

/// The kinds of record, as they stand in the header.
pub(crate) mod kind {
    pub(crate) const RECEIVED: u8 = 1;
    pub(crate) const STARTED: u8 = 2;
    pub(crate) const FROZEN: u8 = 3;
    pub(crate) const STEP_DONE: u8 = 4;
    pub(crate) const AGAIN: u8 = 5;
    pub(crate) const DONE: u8 = 6;
    pub(crate) const FAILED: u8 = 7;
    pub(crate) const RETRIED: u8 = 8;
    pub(crate) const DISCARDED: u8 = 9;
    pub(crate) const RETURNED: u8 = 10;
    pub(crate) const STRIKE: u8 = 11;
    /// Ends a sealed segment; its body is the index of the records before it.
    pub(crate) const SEALED: u8 = 0xF0;
}

/// What a record's header says.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: u8,
    pub(crate) meta_bytes: u16,
    pub(crate) body_bytes: u32,
    /// How many sequence numbers back the last record is that was known to be flushed.
    pub(crate) unflushed: u32,
    pub(crate) sequence: u64,
    pub(crate) crc: u32,
}

impl Head {
    /// Length of the whole record with end mark and padding.
    pub(crate) fn record_bytes(&self) -> u64 {
        record_bytes(self.meta_bytes as usize, self.body_bytes as usize)
    }

    /// The last record known to be flushed when this one was appended.
    pub(crate) fn flushed(&self) -> u64 {
        self.sequence.saturating_sub(u64::from(self.unflushed))
    }

    pub(crate) fn encode(&self, seed: u32) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = VERSION;
        bytes[5] = self.kind;
        bytes[6..8].copy_from_slice(&self.meta_bytes.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.unflushed.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32c_append(seed, &bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Nothing unless magic, version, sequence number and the header's own checksum fit.
    pub(crate) fn decode(bytes: &[u8], seed: u32) -> Option<Head> {
        let mut from = Fields(bytes.get(..HEAD_BYTES)?);
        if from.u32()? != MAGIC || from.u8()? != VERSION {
            return None;
        }
        let head = Head {
            kind: from.u8()?,
            meta_bytes: from.u16()?,
            body_bytes: from.u32()?,
            unflushed: from.u32()?,
            sequence: from.u64()?,
            crc: from.u32()?,
        };
        let is_sound = from.u32()? == crc32c_append(seed, &bytes[..28]);
        (is_sound && (1..=SEQUENCE_MAX).contains(&head.sequence)).then_some(head)
    }
}

/// The seed of a record's checksums at an offset.
pub(crate) fn seed_at(segment_seed: u32, offset: u64) -> u32 {
    segment_seed ^ offset as u32
}

/// What stands behind a record's body.
pub(crate) fn end_mark(seed: u32, sequence: u64) -> u32 {
    !(seed.rotate_left(16) ^ sequence as u32)
}

/// Length of a record of these parts.
pub(crate) fn record_bytes(meta_bytes: usize, body_bytes: usize) -> u64 {
    ((HEAD_BYTES + meta_bytes + body_bytes + MARK_BYTES) as u64).next_multiple_of(8)
}

/// End mark and padding of a record: bytes, and how many of them.
pub(crate) fn tail(head: &Head, seed: u32) -> ([u8; 12], usize) {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&end_mark(seed, head.sequence).to_le_bytes());
    let before = HEAD_BYTES + head.meta_bytes as usize + head.body_bytes as usize;
    (bytes, (head.record_bytes() - before as u64) as usize)
}

impl<'a> Record<'a> {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Record::Received(_) => kind::RECEIVED,
            Record::Started { .. } => kind::STARTED,
            Record::Frozen { .. } => kind::FROZEN,
            Record::StepDone { .. } => kind::STEP_DONE,
            Record::Again { .. } => kind::AGAIN,
            Record::Done { .. } => kind::DONE,
            Record::Failed { .. } => kind::FAILED,
            Record::Retried { .. } => kind::RETRIED,
            Record::Discarded { .. } => kind::DISCARDED,
            Record::Returned { .. } => kind::RETURNED,
            Record::Strike { .. } => kind::STRIKE,
        }
    }

    /// What makes a record impossible to write.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let (step, body, keys): (&str, &[u8], &[u64]) = match *self {
            Record::Received(message) => ("", message.body, message.keys),
            Record::Frozen { step, values, .. } => (step, values, &[]),
            Record::StepDone { step, .. } | Record::Again { step, .. } | Record::Failed { step, .. } => {
                (step, &[], &[])
            }
            Record::Started { .. }
            | Record::Done { .. }
            | Record::Retried { .. }
            | Record::Discarded { .. }
            | Record::Returned { .. }
            | Record::Strike { .. } => ("", &[], &[]),
        };
        if step.len() > STEP_BYTES_MAX {
            Some("a step name over 255 bytes")
        } else if body.len() > BODY_BYTES_MAX {
            Some("a body over 2 GiB")
        } else if keys.len() > KEYS_MAX {
            Some("more than 4,096 order keys")
        } else {
            None
        }
    }

    /// The part that the journal never looks into.
    pub(crate) fn body(&self) -> &'a [u8] {
        match *self {
            Record::Received(message) => message.body,
            Record::Frozen { values, .. } => values,
            _ => &[],
        }
    }

    /// How long [`write_meta`](Record::write_meta) will be.
    pub(crate) fn meta_bytes(&self) -> usize {
        match *self {
            Record::Received(message) => {
                RECEIVED_BYTES + cut(message.peer, PEER_BYTES_MAX).len() + 8 * message.keys.len()
            }
            Record::Started { ids } | Record::Done { ids } => ID_BYTES * ids.len(),
            Record::Frozen { step, .. } | Record::StepDone { step, .. } | Record::Failed { step, .. } => {
                ID_BYTES + step.len()
            }
            Record::Again { step, reason, .. } => {
                AGAIN_BYTES + step.len() + cut(reason, REASON_BYTES_MAX).len()
            }
            Record::Retried { .. } | Record::Discarded { .. } | Record::Returned { .. } => ID_BYTES,
            Record::Strike { .. } => ID_BYTES + 1,
        }
    }

    /// Appends the meta part. `order` is a message's place among the others, 0 for where it stands.
    pub(crate) fn write_meta(&self, into: &mut Vec<u8>, order: u64) {
        match *self {
            Record::Received(message) => {
                let peer = cut(message.peer, PEER_BYTES_MAX);
                into.extend_from_slice(&message.id.to_bytes());
                into.extend_from_slice(&message.time_us.to_le_bytes());
                into.extend_from_slice(&order.to_le_bytes());
                into.extend_from_slice(&message.tag.identity);
                into.extend_from_slice(&message.tag.content);
                into.extend_from_slice(&message.utc_offset_s.to_le_bytes());
                into.extend_from_slice(&(message.keys.len() as u16).to_le_bytes());
                into.push(message.flags);
                into.push(peer.len() as u8);
                into.extend_from_slice(peer.as_bytes());
                for key in message.keys {
                    into.extend_from_slice(&key.to_le_bytes());
                }
            }
            Record::Started { ids } | Record::Done { ids } => {
                for id in ids {
                    into.extend_from_slice(&id.to_bytes());
                }
            }
            Record::Frozen { id, step, .. } | Record::StepDone { id, step } | Record::Failed { id, step } => {
                into.extend_from_slice(&id.to_bytes());
                into.extend_from_slice(step.as_bytes());
            }
            Record::Again { id, step, attempt, until_us, since_us, reason } => {
                into.extend_from_slice(&id.to_bytes());
                into.extend_from_slice(&until_us.to_le_bytes());
                into.extend_from_slice(&since_us.to_le_bytes());
                into.extend_from_slice(&attempt.to_le_bytes());
                into.push(step.len() as u8);
                into.extend_from_slice(step.as_bytes());
                into.extend_from_slice(cut(reason, REASON_BYTES_MAX).as_bytes());
            }
            Record::Retried { id } | Record::Discarded { id } | Record::Returned { id } => {
                into.extend_from_slice(&id.to_bytes());
            }
            Record::Strike { id, count } => {
                into.extend_from_slice(&id.to_bytes());
                into.push(count);
            }
        }
    }
}

/// Cuts a text to a number of bytes, never within a character.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Meta;
    use proptest::prelude::*;

    /// The fields of any record; ids and texts beyond what a kind has are left unused.
    type Parts = (u8, Vec<u128>, String, String, Vec<u64>, Vec<u8>, (i64, i64, i32, u32, u8));

    fn parts() -> impl Strategy<Value = Parts> {
        (
            0u8..11,
            proptest::collection::vec(any::<u128>(), 1..40),
            "[a-zä]{0,60}",
            "\\PC{0,40}",
            proptest::collection::vec(any::<u64>(), 0..20),
            proptest::collection::vec(any::<u8>(), 0..300),
            any::<(i64, i64, i32, u32, u8)>(),
        )
    }

    fn ids(parts: &Parts) -> Vec<MessageId> {
        parts.1.iter().map(|id| MessageId::from_bytes(id.to_le_bytes())).collect()
    }

    fn record<'a>(parts: &'a Parts, ids: &'a [MessageId]) -> Record<'a> {
        let (which, _, step, text, keys, body, (a, b, c, d, e)) = parts;
        let (id, step) = (ids[0], step.as_str());
        match which {
            0 => {
                let tag = Tag { identity: [*e; 16], content: [*d as u8; 16] };
                let (peer, time_us, utc_offset_s, flags) = (text.as_str(), *a, *c, *e);
                Record::Received(Received { id, time_us, utc_offset_s, peer, keys, tag, flags, body })
            }
            1 => Record::Started { ids },
            2 => Record::Done { ids },
            3 => Record::Frozen { id, step, values: body },
            4 => Record::StepDone { id, step },
            5 => Record::Again { id, step, attempt: *d, until_us: *a, since_us: *b, reason: text },
            6 => Record::Failed { id, step },
            7 => Record::Retried { id },
            8 => Record::Discarded { id },
            9 => Record::Returned { id },
            _ => Record::Strike { id, count: *e },
        }
    }

    /// What a meta part says, said again.
    fn again(meta: Meta<'_>, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (keys, ids): (Vec<u64>, Vec<MessageId>) = match meta {
            Meta::Received(meta) => (meta.keys().collect(), Vec::new()),
            Meta::Started(ids) | Meta::Done(ids) => (Vec::new(), ids.iter().collect()),
            _ => Default::default(),
        };
        let mut order = 0;
        let record = match meta {
            Meta::Received(meta) => {
                order = meta.order;
                Record::Received(Received {
                    id: meta.id,
                    time_us: meta.time_us,
                    utc_offset_s: meta.utc_offset_s,
                    peer: meta.peer,
                    keys: &keys,
                    tag: meta.tag,
                    flags: meta.flags,
                    body,
                })
            }
            Meta::Started(_) => Record::Started { ids: &ids },
            Meta::Done(_) => Record::Done { ids: &ids },
            Meta::Frozen { id, step } => Record::Frozen { id, step, values: body },
            Meta::StepDone { id, step } => Record::StepDone { id, step },
            Meta::Again { id, step, attempt, until_us, since_us, reason } => {
                Record::Again { id, step, attempt, until_us, since_us, reason }
            }
            Meta::Failed { id, step } => Record::Failed { id, step },
            Meta::Retried { id } => Record::Retried { id },
            Meta::Discarded { id } => Record::Discarded { id },
            Meta::Returned { id } => Record::Returned { id },
            Meta::Strike { id, count } => Record::Strike { id, count },
        };
        record.write_meta(&mut bytes, order);
        bytes
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_what_encodes_alike(parts in parts(), order in any::<u64>()) {
            let ids = ids(&parts);
            let record = record(&parts, &ids);
            let mut bytes = Vec::new();
            record.write_meta(&mut bytes, order);
            prop_assert_eq!(bytes.len(), record.meta_bytes());
            let meta = Meta::decode(record.kind(), &bytes).expect("our own bytes");
            prop_assert_eq!(again(meta, record.body()), bytes);
        }

        #[test]
        fn any_bytes_decode_to_what_encodes_to_them_or_to_nothing(
            kind in 0u8..13,
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Some(meta) = Meta::decode(kind, &bytes) {
                prop_assert_eq!(again(meta, &[]).len(), bytes.len());
            }
        }

        #[test]
        fn a_header_counts_at_its_own_place_only(seed in any::<u32>(), other in any::<u32>(), bit in 0usize..256) {
            let head = Head { kind: 3, meta_bytes: 9, body_bytes: 8, unflushed: 7, sequence: 6, crc: 5 };
            let mut bytes = head.encode(seed);
            prop_assert_eq!(Head::decode(&bytes, seed), Some(head));
            if other != seed {
                prop_assert_eq!(Head::decode(&bytes, other), None);
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Head::decode(&bytes, seed), None);
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let long = "ä".repeat(40);
        let mut bytes = Vec::new();
        let id = MessageId::new(1, 1);
        let tag = Tag::default();
        let peer = long.as_str();
        let message = Received { id, time_us: 0, utc_offset_s: 0, peer, keys: &[], tag, flags: 0, body: b"" };
        Record::Received(message).write_meta(&mut bytes, 0);
        let Some(Meta::Received(meta)) = Meta::decode(kind::RECEIVED, &bytes) else { panic!() };
        assert_eq!(meta.peer, "ä".repeat(32));
    }

    #[test]
    fn the_impossible_is_refused() {
        let id = MessageId::new(1, 1);
        assert!(Record::StepDone { id, step: &"x".repeat(256) }.fault().is_some());
        assert!(Record::StepDone { id, step: &"x".repeat(255) }.fault().is_none());
    }

    #[test]
    fn a_sequence_number_that_nobody_writes_is_no_record() {
        let head = |sequence| Head {
            kind: kind::DONE,
            meta_bytes: 16,
            body_bytes: 0,
            unflushed: 1,
            sequence,
            crc: 7,
        };
        for sequence in [1, 2, SEQUENCE_MAX] {
            assert_eq!(Head::decode(&head(sequence).encode(9), 9), Some(head(sequence)));
        }
        for sequence in [0, SEQUENCE_MAX + 1, u64::MAX] {
            assert_eq!(Head::decode(&head(sequence).encode(9), 9), None, "{sequence}");
        }
    }
}
