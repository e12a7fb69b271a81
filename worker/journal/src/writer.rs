//! The one writer: appends records to a batch, writes it, flushes it.
//!
//! A batch is everything appended since the last `write` or `flush` that succeeded. When there is no room
//! for it, all of it is taken back and the handle stays usable; any other error, and every error of a
//! flush, ends the handle. A segment is left when the next record would not fit; its index is written later
//! by the filler, or with the next `retire` where nobody runs one.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use crc32c::crc32c_append;

use crate::error::{JournalError, is_full};
use crate::filler;
use crate::footer;
use crate::id::MessageId;
use crate::recall::State;
use crate::record::{HEAD_BYTES, Head, IDS_MAX, Location, Received, Record, record_bytes, seed_at, tail};
use crate::recovery;
use crate::replay::{ReplaySummary, Replayed};
use crate::segment::{DATA_START, SEGMENT_BYTES, Segment};
use crate::shared::{Chore, Shared};
use crate::storage::{self, File, FileStorage, Storage};

mod upkeep;

/// Bodies from this size on go from the caller's memory straight to the file, in bytes.
pub(crate) const LARGE_BYTES: usize = 64 * 1024;
/// A batch is handed to the system whenever this much of it has gathered, in bytes.
const BUFFER_BYTES: usize = 1024 * 1024;

/// How a journal behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How large segments grow, in bytes; [`SEGMENT_BYTES`].
    pub segment_bytes: u32,
    /// How much of the waiting messages in sealed segments is checked at opening, in bytes; 16 MiB. What is
    /// beyond is checked when it is read.
    pub verify_bytes: u64,
    /// A larger body is written and flushed in pieces of that size, in bytes; 1 MiB. Whoever else waits for the same disk
    /// waits for a piece of it, and not for the whole.
    pub piece_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { segment_bytes: SEGMENT_BYTES, verify_bytes: 16 * 1024 * 1024, piece_bytes: 1024 * 1024 }
    }
}

/// A journal open for writing.
pub struct Journal<S: Storage = FileStorage> {
    shared: Arc<Shared<S>>,
    options: Options,
    /// All segments, oldest first; the last is the current one.
    segments: VecDeque<Meta>,
    current: Arc<Segment<S::File>>,
    /// Where the buffer's first byte goes in the current segment.
    position: u64,
    buffer: Vec<u8>,
    /// Of the next record.
    sequence: u64,
    /// Of the last record known to be flushed.
    flushed: u64,
    /// What the current segment's index has come to, in bytes.
    index_bytes: u64,
    batch: Batch,
    /// Segments left in which something is not flushed yet.
    behind: Vec<Behind<S::File>>,
    /// Something was written into the current segment since the last flush.
    dirty: bool,
    /// How far the current segment is filled, as of the last look.
    filled: u64,
    /// Something was written that the filler has not been told of.
    wrote: bool,
    /// The last message was large.
    large: bool,
    /// A message ended otherwise than done at some time: only then new ones are looked up among those.
    remembers_ends: bool,
    broken: bool,
}

/// A segment's account.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) number: u32,
    /// How much of it is records, in bytes; of the current segment, what it began with.
    pub(crate) data_bytes: u64,
    pub(crate) open: u32,
    pub(crate) open_bytes: u64,
}

/// What a batch that finds no room is taken back to.
#[derive(Debug, Default)]
struct Batch {
    segment: u32,
    position: u64,
    sequence: u64,
    index_bytes: u64,
    /// The farthest byte that was tried in the current segment.
    reach: u64,
    /// Segment and length of each message in it.
    received: Vec<(u32, u32)>,
    /// What it says of how messages ended, for duplicate memory; `Open` takes an end back.
    ends: Vec<(MessageId, State)>,
}

enum PieceFault {
    Write(io::Error),
    Flush(io::Error),
}

/// Writes what goes before a body, the body and what goes behind it; all but the last piece of the body is flushed.
fn write_pieces(
    file: &impl File,
    [before, body, behind]: [&[u8]; 3],
    mut at: u64,
    piece_bytes: usize,
) -> Result<(), PieceFault> {
    let (paced, last) = body.split_at(body.len().saturating_sub(1) / piece_bytes * piece_bytes);
    let mut before = before;
    for piece in paced.chunks(piece_bytes) {
        let mut parts = [IoSlice::new(before), IoSlice::new(piece)];
        at += storage::write_full(file, &mut parts, at).map_err(PieceFault::Write)?;
        before = &[];
        file.sync_data().map_err(PieceFault::Flush)?;
    }
    let mut parts = [IoSlice::new(before), IoSlice::new(last), IoSlice::new(behind)];
    storage::write_full(file, &mut parts, at).map(drop).map_err(PieceFault::Write)
}

struct Behind<F> {
    segment: Arc<Segment<F>>,
    /// Where the present batch begins in it, and where its data ends.
    start: u64,
    end: u64,
}

/// What recovery hands over.
pub(crate) struct Start<S: Storage> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) segments: VecDeque<Meta>,
    pub(crate) current: Arc<Segment<S::File>>,
    pub(crate) position: u64,
    pub(crate) sequence: u64,
    pub(crate) index_bytes: u64,
}

impl<S: Storage> Journal<S> {
    /// Opens a journal, or begins one in an empty folder. Every message that still waits goes to `sink`, in
    /// the order in which messages were acknowledged. When this returns, everything handed out is flushed.
    ///
    /// # Errors
    /// [`JournalError::Io`] and [`JournalError::Full`] as the storage has it, [`JournalError::Version`] for
    /// files of a later program. Damage is no error: it is reported in the summary and worked around.
    pub fn open(
        storage: S,
        options: Options,
        sink: &mut dyn FnMut(Replayed),
    ) -> Result<(Journal<S>, ReplaySummary), JournalError> {
        let (start, summary) = recovery::recover(storage, options, sink)?;
        let filled = start.current.filled();
        let remembers_ends = !start.shared.ends().is_empty();
        let journal = Journal {
            shared: start.shared,
            options,
            segments: start.segments,
            current: start.current,
            position: start.position,
            buffer: Vec::new(),
            sequence: start.sequence,
            flushed: start.sequence - 1,
            index_bytes: start.index_bytes,
            batch: Batch::default(),
            behind: Vec::new(),
            dirty: false,
            filled,
            wrote: false,
            large: false,
            remembers_ends,
            broken: false,
        };
        Ok((journal.begin(), summary))
    }

    fn begin(mut self) -> Self {
        self.begin_batch();
        self
    }

    /// Adds a record to the batch. The location means something for `Received` and `Frozen`; it can be read
    /// once the batch is written. Bodies from 64 KiB on are written at once, from where they lie.
    ///
    /// # Errors
    /// [`JournalError::Full`]: nothing of the batch is kept, not only of this record.
    /// [`JournalError::Invalid`]: this record is impossible, the batch stands.
    pub fn append(&mut self, record: &Record<'_>) -> Result<Location, JournalError> {
        self.check()?;
        if let Some(fault) = record.fault() {
            return Err(JournalError::Invalid(fault));
        }
        match *record {
            Record::Started { ids } if ids.len() > IDS_MAX => {
                self.append_groups(ids.chunks(IDS_MAX).map(|ids| Record::Started { ids }))
            }
            Record::Done { ids } if ids.len() > IDS_MAX => {
                self.append_groups(ids.chunks(IDS_MAX).map(|ids| Record::Done { ids }))
            }
            _ => self.append_one(record, 0),
        }
    }

    fn append_groups<'a>(
        &mut self,
        records: impl Iterator<Item = Record<'a>>,
    ) -> Result<Location, JournalError> {
        let mut location = Location { segment: self.current.number, offset: 0, length: 0 };
        for record in records {
            location = self.append_one(&record, 0)?;
        }
        Ok(location)
    }

    /// Appends a message once more, from where it stands now, keeping its place in the order: for moving
    /// what little waits in an old segment out of it (see [`sparse`](Journal::sparse)). The caller then
    /// appends what the message has come to (`Retried`, `StepDone`, `Again`, `Frozen`, `Strike`), writes, and
    /// calls [`ended`](Journal::ended) with the old location.
    ///
    /// # Errors
    /// As [`append`](Journal::append), and [`JournalError::Corrupt`] when the old bytes cannot be read.
    pub fn append_moved(&mut self, from: Location) -> Result<Location, JournalError> {
        self.check()?;
        let message = self.reader().read(from)?;
        let record = Record::Received(Received {
            id: message.id,
            time_us: message.time_us,
            utc_offset_s: message.utc_offset_s,
            peer: &message.peer,
            keys: &message.keys,
            tag: message.tag,
            flags: message.flags,
            body: &message.body,
        });
        self.append_one(&record, message.order)
    }

    fn append_one(&mut self, record: &Record<'_>, order: u64) -> Result<Location, JournalError> {
        let meta_bytes = record.meta_bytes();
        let body = record.body();
        let bytes = record_bytes(meta_bytes, body.len());
        self.make_room(bytes, meta_bytes)?;

        let offset = self.position + self.buffer.len() as u64;
        let seed = seed_at(self.current.seed, offset);
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; HEAD_BYTES]);
        record.write_meta(&mut self.buffer, order);
        debug_assert_eq!(self.buffer.len(), start + HEAD_BYTES + meta_bytes);
        let crc = crc32c_append(crc32c_append(seed, &self.buffer[start + HEAD_BYTES..]), body);
        let head = Head {
            kind: record.kind(),
            meta_bytes: meta_bytes as u16,
            body_bytes: body.len() as u32,
            unflushed: u32::try_from(self.sequence - self.flushed).unwrap_or(u32::MAX),
            sequence: self.sequence,
            crc,
        };
        self.buffer[start..start + HEAD_BYTES].copy_from_slice(&head.encode(seed));
        let (tail, tail_bytes) = tail(&head, seed);
        let tail = &tail[..tail_bytes];

        self.sequence += 1;
        self.index_bytes += footer::entry_bytes(meta_bytes);
        let location = Location { segment: self.current.number, offset: offset as u32, length: bytes as u32 };
        self.account(record, location);
        if matches!(record, Record::Received(_)) {
            self.large = body.len() >= LARGE_BYTES;
        }
        if body.len() >= LARGE_BYTES {
            self.write_buffer(body, tail)?;
        } else {
            self.buffer.extend_from_slice(body);
            self.buffer.extend_from_slice(tail);
            if self.buffer.len() >= BUFFER_BYTES {
                self.write_buffer(&[], &[])?;
            }
        }
        Ok(location)
    }

    fn account(&mut self, record: &Record<'_>, location: Location) {
        match *record {
            Record::Received(message) => {
                let meta = self.segments.back_mut().expect("there is always a current segment");
                meta.open += 1;
                meta.open_bytes += u64::from(location.length);
                self.batch.received.push((location.segment, location.length));
                if self.remembers_ends {
                    self.batch.ends.push((message.id, State::Open));
                }
            }
            Record::Failed { id, .. } => self.batch_end(id, State::Failed),
            Record::Discarded { id } => self.batch_end(id, State::Discarded),
            Record::Returned { id } => self.batch_end(id, State::Returned),
            _ => {}
        }
    }

    fn batch_end(&mut self, id: MessageId, state: State) {
        self.remembers_ends = true;
        self.batch.ends.push((id, state));
    }

    /// Leaves the current segment when a record and what it adds to the index would overfill it. A record
    /// larger than a segment has one of its own.
    fn make_room(&mut self, bytes: u64, meta_bytes: usize) -> Result<(), JournalError> {
        let used = self.position + self.buffer.len() as u64;
        let index = self.index_bytes + footer::entry_bytes(meta_bytes) + footer::FIXED_BYTES;
        if used > DATA_START && used + bytes + index > u64::from(self.options.segment_bytes) {
            self.rotate()?;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), JournalError> {
        self.write_buffer(&[], &[])?;
        let next = match filler::next_segment(&self.shared, self.current.number + 1) {
            Ok(next) => next,
            Err(error) => return Err(self.write_failed(error)),
        };
        let start = if self.batch.segment == self.current.number { self.batch.position } else { DATA_START };
        let left = std::mem::replace(&mut self.current, Arc::clone(&next));
        self.shared.publish(&next);
        let meta = self.segments.back_mut().expect("there is always a current segment");
        meta.data_bytes = self.position - DATA_START;
        filler::left(&self.shared, left.number, left.leave());
        self.behind.push(Behind { segment: left, start, end: self.position });
        self.segments.push_back(Meta { number: next.number, data_bytes: 0, open: 0, open_bytes: 0 });
        self.position = DATA_START;
        self.index_bytes = 0;
        self.batch.reach = DATA_START;
        self.filled = next.filled();
        self.dirty = false;
        Ok(())
    }

    /// Hands everything appended to the system, without a flush: it survives the process, not the machine.
    /// Enough for records that may be lost (`Started`, `Done`).
    ///
    /// # Errors
    /// As [`append`](Journal::append).
    pub fn write(&mut self) -> Result<(), JournalError> {
        self.hand_over()?;
        self.tell_filler();
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), JournalError> {
        self.check()?;
        self.write_buffer(&[], &[])?;
        for behind in &mut self.behind {
            behind.start = behind.end;
        }
        if !self.batch.ends.is_empty() {
            let mut ends = self.shared.ends();
            for (id, state) in self.batch.ends.drain(..) {
                ends.set(id, state);
            }
        }
        self.begin_batch();
        Ok(())
    }

    /// Writes and flushes everything appended: ONE `fdatasync`, and one more for each segment left since the
    /// last. Only what this has returned `Ok` for may be promised to anybody.
    ///
    /// # Errors
    /// [`JournalError::Full`]: nothing of the batch is kept, the handle is usable. Everything else: the
    /// handle is dead, and nothing since the last flush may be promised.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        self.hand_over()?;
        // A flush that failed is never tried again on the same file: the second one would report success.
        for index in 0..self.behind.len() {
            if let Err(error) = self.behind[index].segment.file.sync_data() {
                return Err(self.poison(error));
            }
        }
        if self.dirty
            && let Err(error) = self.current.file.sync_data()
        {
            return Err(self.poison(error));
        }
        self.check()?;
        self.dirty = false;
        self.flushed = self.sequence - 1;
        if !self.behind.is_empty() {
            let mut work = self.shared.work();
            work.chores.extend(
                self.behind.drain(..).map(|left| Chore::Seal { number: left.segment.number, end: left.end }),
            );
            drop(work);
            self.shared.wake.notify_all();
        }
        self.tell_filler();
        Ok(())
    }

    fn begin_batch(&mut self) {
        self.batch.segment = self.current.number;
        self.batch.position = self.position;
        self.batch.sequence = self.sequence;
        self.batch.index_bytes = self.index_bytes;
        self.batch.reach = self.position;
        self.batch.received.clear();
        self.batch.ends.clear();
    }

    /// Writes the buffer and, without copying it, a large record's body and tail.
    fn write_buffer(&mut self, body: &[u8], tail: &[u8]) -> Result<(), JournalError> {
        let bytes = (self.buffer.len() + body.len() + tail.len()) as u64;
        if bytes == 0 {
            return Ok(());
        }
        let end = self.position + bytes;
        if end > self.filled {
            self.filled = self.current.claim(end);
        } else {
            // Below the last look at the fill the filler never works.
            debug_assert!(self.current.filled() >= end);
        }
        self.batch.reach = self.batch.reach.max(end);
        self.dirty = true;
        let parts = [self.buffer.as_slice(), body, tail];
        match write_pieces(&self.current.file, parts, self.position, self.options.piece_bytes) {
            Ok(()) => {}
            Err(PieceFault::Write(error)) => return Err(self.write_failed(error)),
            Err(PieceFault::Flush(error)) => return Err(self.poison(error)),
        }
        self.position = end;
        self.buffer.clear();
        if self.buffer.capacity() > 2 * BUFFER_BYTES {
            self.buffer.shrink_to(BUFFER_BYTES);
        }
        self.wrote = true;
        Ok(())
    }

    /// Lets the filler know where the writer is; after a flush, never before: the two would wait for the same disk.
    fn tell_filler(&mut self) {
        if std::mem::take(&mut self.wrote) {
            let (end, limit) = (self.position, self.options.segment_bytes);
            self.filled = filler::written(&self.shared, &self.current, end, self.filled, limit, self.large);
        }
    }

    /// No room: the batch is taken back. Anything else: the end.
    fn write_failed(&mut self, error: io::Error) -> JournalError {
        if !is_full(&error) {
            return self.poison(error);
        }
        match self.roll_back() {
            Ok(()) => {
                self.shared.drop_spares();
                JournalError::Full(error)
            }
            Err(error) => self.poison(error),
        }
    }

    /// Takes the batch back. What reached the files is overwritten with zeros: whole records of it, left
    /// standing behind the next batch, would be replayed one day. The zeros are flushed at once, for the next
    /// batch may stand in another file and reach the disk before them.
    fn roll_back(&mut self) -> io::Result<()> {
        self.buffer.clear();
        for behind in &mut self.behind {
            zero(&behind.segment.file, behind.start, behind.end)?;
            behind.end = behind.start;
        }
        let same = self.batch.segment == self.current.number;
        let start = if same { self.batch.position } else { DATA_START };
        zero(&self.current.file, start, self.batch.reach)?;
        self.position = start;
        self.index_bytes = if same { self.batch.index_bytes } else { 0 };
        self.sequence = self.batch.sequence;
        for (number, length) in std::mem::take(&mut self.batch.received) {
            let meta = self.meta(number).expect("a segment of the batch is not retired");
            meta.open -= 1;
            meta.open_bytes -= u64::from(length);
        }
        self.begin_batch();
        Ok(())
    }

    fn poison(&mut self, error: io::Error) -> JournalError {
        self.broken = true;
        self.shared.break_for_good();
        JournalError::Io(error)
    }

    fn check(&mut self) -> Result<(), JournalError> {
        if self.broken || self.shared.is_broken() {
            self.broken = true;
            return Err(JournalError::Poisoned);
        }
        Ok(())
    }

    fn meta(&mut self, number: u32) -> Option<&mut Meta> {
        let first = self.segments.front()?.number;
        // Numbers may have gaps where a file was lost, so this is only the first guess.
        let guess = number.checked_sub(first)? as usize;
        if self.segments.get(guess).is_some_and(|meta| meta.number == number) {
            return self.segments.get_mut(guess);
        }
        self.segments.iter_mut().find(|meta| meta.number == number)
    }
}

/// Overwrites what is there of a stretch of a file with zeros, durably.
fn zero(file: &impl File, from: u64, to: u64) -> io::Result<()> {
    let to = to.min(file.length()?);
    if from < to {
        storage::write_zeros(file, from, to)?;
        file.sync_data()?;
    }
    Ok(())
}

impl<S: Storage> Drop for Journal<S> {
    fn drop(&mut self) {
        self.shared.work().closed = true;
        self.shared.wake.notify_all();
        self.shared.drop_spares();
    }
}
