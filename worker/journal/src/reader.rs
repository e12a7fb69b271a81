//! Reading records back: positioned reads from any thread, each checked against its checksums.

use std::sync::Arc;

use crc32c::crc32c_append;

use crate::error::JournalError;
use crate::id::MessageId;
use crate::meta::Meta;
use crate::record::{HEAD_BYTES, Head, Location, MARK_BYTES, Tag, end_mark, seed_at};
use crate::segment::segment_name;
use crate::shared::Shared;
use crate::storage::{self, File, FileStorage, Storage};

/// Up to this a record is read whole and its body copied out, beyond it the body is read into place.
const WHOLE_BYTES: usize = 64 * 1024;

/// A message as it came, in its own memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedReceived {
    /// Our id for it.
    pub id: MessageId,
    /// When it was complete, in microseconds since 1970.
    pub time_us: i64,
    /// Offset of local time from UTC then, in seconds.
    pub utc_offset_s: i32,
    /// Who sent it.
    pub peer: String,
    /// The keys its order is kept by.
    pub keys: Vec<u64>,
    /// What duplicates of it are known by.
    pub tag: Tag,
    /// The caller's.
    pub flags: u8,
    /// Its place among the others.
    pub order: u64,
    /// The bytes as they came.
    pub body: Vec<u8>,
}

/// Values that every try of a step repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedFrozen {
    /// The message.
    pub id: MessageId,
    /// The step.
    pub step: String,
    /// The caller's bytes.
    pub values: Vec<u8>,
}

/// Reads records by their location. A segment that is retired while it is being read stays readable.
pub struct Reader<S: Storage = FileStorage> {
    shared: Arc<Shared<S>>,
}

impl<S: Storage> Clone for Reader<S> {
    fn clone(&self) -> Self {
        Reader { shared: Arc::clone(&self.shared) }
    }
}

impl<S: Storage> Reader<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>) -> Self {
        Reader { shared }
    }

    /// A message.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] when its checksums do not fit or it is something else,
    /// [`JournalError::Gone`] when its segment was retired, [`JournalError::Io`].
    pub fn read(&self, location: Location) -> Result<OwnedReceived, JournalError> {
        let segment = self.shared.segment(location.segment)?;
        received(&segment.file, segment.seed, location)
    }

    /// A step's frozen values.
    ///
    /// # Errors
    /// As [`read`](Reader::read).
    pub fn frozen(&self, location: Location) -> Result<OwnedFrozen, JournalError> {
        let segment = self.shared.segment(location.segment)?;
        let record = RecordBytes::read(&segment.file, segment.seed, location)?;
        match Meta::decode(record.head.kind, &record.meta) {
            Some(Meta::Frozen { id, step }) => {
                Ok(OwnedFrozen { id, step: step.to_owned(), values: record.body })
            }
            _ => Err(corrupt(location, "it holds no frozen values")),
        }
    }
}

/// Reads and checks a message.
pub(crate) fn received(
    file: &impl File,
    segment_seed: u32,
    location: Location,
) -> Result<OwnedReceived, JournalError> {
    let record = RecordBytes::read(file, segment_seed, location)?;
    let Some(Meta::Received(meta)) = Meta::decode(record.head.kind, &record.meta) else {
        return Err(corrupt(location, "it holds no message"));
    };
    Ok(OwnedReceived {
        id: meta.id,
        time_us: meta.time_us,
        utc_offset_s: meta.utc_offset_s,
        peer: meta.peer.to_owned(),
        keys: meta.keys().collect(),
        tag: meta.tag,
        flags: meta.flags,
        order: if meta.order == 0 { location.order() } else { meta.order },
        body: record.body,
    })
}

/// A whole record, checked.
pub(crate) struct RecordBytes {
    pub(crate) head: Head,
    pub(crate) meta: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl RecordBytes {
    pub(crate) fn read(
        file: &impl File,
        segment_seed: u32,
        location: Location,
    ) -> Result<RecordBytes, JournalError> {
        let at = u64::from(location.offset);
        let seed = seed_at(segment_seed, at);
        let whole = location.length as usize <= WHOLE_BYTES;
        let first = read(file, at, if whole { location.length as usize } else { HEAD_BYTES })?;
        let head = Head::decode(&first, seed).ok_or_else(|| corrupt(location, "the record's header"))?;
        if head.record_bytes() != u64::from(location.length) {
            return Err(corrupt(location, "the record's length"));
        }
        let body_at = HEAD_BYTES + usize::from(head.meta_bytes);
        let body_end = body_at + head.body_bytes as usize;
        let (meta, body, mark) = if whole {
            let part = |from: usize, to: usize| first.get(from..to).unwrap_or_default().to_vec();
            (part(HEAD_BYTES, body_at), part(body_at, body_end), part(body_end, body_end + MARK_BYTES))
        } else {
            (
                read(file, at + HEAD_BYTES as u64, usize::from(head.meta_bytes))?,
                read(file, at + body_at as u64, head.body_bytes as usize)?,
                read(file, at + body_end as u64, MARK_BYTES)?,
            )
        };
        if crc32c_append(crc32c_append(seed, &meta), &body) != head.crc
            || mark != end_mark(seed, head.sequence).to_le_bytes()
        {
            return Err(corrupt(location, "the record's checksum"));
        }
        Ok(RecordBytes { head, meta, body })
    }
}

fn read(file: &impl File, at: u64, bytes: usize) -> Result<Vec<u8>, JournalError> {
    let mut into = vec![0; bytes];
    let read = storage::read_full(file, &mut into, at).map_err(JournalError::Io)?;
    into.truncate(read);
    Ok(into)
}

fn corrupt(location: Location, what: &'static str) -> JournalError {
    let file = segment_name(location.segment);
    JournalError::Corrupt { file, offset: u64::from(location.offset), what }
}
