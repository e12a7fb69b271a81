//! Records: what the journal can say, and how it stands in bytes.
//!
//! A record is a header, its meta part (all that replay needs), its body (bytes nobody looks at here), an
//! end mark and zeros up to a multiple of eight. Checksums are seeded by the segment's random salt and by
//! the offset: bytes of another segment, of another place, or made up by a sender are no record.

use crc32c::crc32c_append;

use crate::id::MessageId;

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
    /// A message came in. Repeated for an id that has ended, it opens that message anew.
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
    /// A message that had ended is open again, by hand. Comes after its `Received` is appended anew: the
    /// segment of the first one may be gone.
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
const RECEIVED_BYTES: usize = 16 + 8 + 8 + 32 + 4 + 2 + 1 + 1;
const AGAIN_BYTES: usize = 16 + 8 + 8 + 4 + 1;
const ID_BYTES: usize = 16;

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

    /// Nothing unless magic, version and the header's own checksum fit.
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
        (from.u32()? == crc32c_append(seed, &bytes[..28])).then_some(head)
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

/// A record's meta part, read back.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Meta<'a> {
    Received(ReceivedMeta<'a>),
    Started(IdList<'a>),
    Frozen { id: MessageId, step: &'a str },
    StepDone { id: MessageId, step: &'a str },
    Again { id: MessageId, step: &'a str, attempt: u32, until_us: i64, since_us: i64, reason: &'a str },
    Done(IdList<'a>),
    Failed { id: MessageId, step: &'a str },
    Retried { id: MessageId },
    Discarded { id: MessageId },
    Returned { id: MessageId },
    Strike { id: MessageId, count: u8 },
}

/// A message's meta part, read back.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct ReceivedMeta<'a> {
    pub(crate) id: MessageId,
    pub(crate) time_us: i64,
    /// 0: where the record stands.
    pub(crate) order: u64,
    pub(crate) tag: Tag,
    pub(crate) utc_offset_s: i32,
    pub(crate) flags: u8,
    pub(crate) peer: &'a str,
    keys: &'a [u8],
}

impl<'a> ReceivedMeta<'a> {
    pub(crate) fn keys(&self) -> impl ExactSizeIterator<Item = u64> + use<'a> {
        self.keys.as_chunks().0.iter().map(|&key| u64::from_le_bytes(key))
    }
}

/// Ids as they stand in a record.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct IdList<'a>(&'a [u8]);

impl<'a> IdList<'a> {
    pub(crate) fn iter(self) -> impl ExactSizeIterator<Item = MessageId> + use<'a> {
        self.0.as_chunks().0.iter().map(|&id| MessageId::from_bytes(id))
    }
}

impl<'a> Meta<'a> {
    /// Nothing when the bytes are no meta part of that kind.
    pub(crate) fn decode(kind: u8, bytes: &'a [u8]) -> Option<Meta<'a>> {
        let mut from = Fields(bytes);
        let meta = match kind {
            kind::RECEIVED => Meta::Received(from.received()?),
            kind::STARTED => Meta::Started(from.ids()?),
            kind::DONE => Meta::Done(from.ids()?),
            kind::FROZEN => Meta::Frozen { id: from.id()?, step: from.rest()? },
            kind::STEP_DONE => Meta::StepDone { id: from.id()?, step: from.rest()? },
            kind::FAILED => Meta::Failed { id: from.id()?, step: from.rest()? },
            kind::AGAIN => {
                let id = from.id()?;
                let until_us = from.u64()? as i64;
                let since_us = from.u64()? as i64;
                let attempt = from.u32()?;
                let step_bytes = from.u8()? as usize;
                let step = from.text(step_bytes)?;
                Meta::Again { id, step, attempt, until_us, since_us, reason: from.rest()? }
            }
            kind::RETRIED => Meta::Retried { id: from.id()? },
            kind::DISCARDED => Meta::Discarded { id: from.id()? },
            kind::RETURNED => Meta::Returned { id: from.id()? },
            kind::STRIKE => Meta::Strike { id: from.id()?, count: from.u8()? },
            _ => return None,
        };
        from.0.is_empty().then_some(meta)
    }
}

/// Takes fields off the front of bytes.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn id(&mut self) -> Option<MessageId> {
        self.array().map(MessageId::from_bytes)
    }

    pub(crate) fn tag(&mut self) -> Option<Tag> {
        Some(Tag { identity: self.array()?, content: self.array()? })
    }

    fn text(&mut self, bytes: usize) -> Option<&'a str> {
        std::str::from_utf8(self.take(bytes)?).ok()
    }

    fn rest(&mut self) -> Option<&'a str> {
        self.text(self.0.len())
    }

    fn ids(&mut self) -> Option<IdList<'a>> {
        let ids = self.take(self.0.len())?;
        ids.len().is_multiple_of(ID_BYTES).then_some(IdList(ids))
    }

    fn received(&mut self) -> Option<ReceivedMeta<'a>> {
        let id = self.id()?;
        let time_us = self.u64()? as i64;
        let order = self.u64()?;
        let tag = self.tag()?;
        let utc_offset_s = self.u32()? as i32;
        let keys = self.u16()? as usize;
        let flags = self.u8()?;
        let peer_bytes = self.u8()? as usize;
        let peer = self.text(peer_bytes)?;
        Some(ReceivedMeta {
            id,
            time_us,
            order,
            tag,
            utc_offset_s,
            flags,
            peer,
            keys: self.take(8 * keys)?,
        })
    }
}
