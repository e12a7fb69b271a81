//! A record's meta part, read back from bytes that passed their checksum.

use crate::id::MessageId;
use crate::record::{ID_BYTES, Tag, kind};

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
        Some(ReceivedMeta { id, time_us, order, tag, utc_offset_s, flags, peer, keys: self.take(8 * keys)? })
    }
}
