//! What becomes of segments: which messages still need one, when it goes, when what little waits in it moves
//! on, what all of them cost.

use std::io;
use std::sync::Arc;

use crate::error::JournalError;
use crate::filler::{self, Filler};
use crate::reader::Reader;
use crate::record::Location;
use crate::shared::{Chore, Next};
use crate::storage::{Room, Storage};
use crate::writer::Journal;

impl<S: Storage> Journal<S> {
    /// Says that the message at `location` needs nothing from here any more: it is done, failed, discarded,
    /// returned, or was moved. Exactly once for each message appended or replayed, and not before the record
    /// that says so is written: a batch may still be taken back.
    ///
    /// # Panics
    /// When a segment's messages end more often than there are: counting on would lose others.
    pub fn ended(&mut self, location: Location) {
        let meta = self.meta(location.segment).expect("a message that has not ended keeps its segment");
        assert!(meta.open > 0, "a message of journal segment {} ended twice", location.segment);
        meta.open -= 1;
        meta.open_bytes = meta.open_bytes.saturating_sub(u64::from(location.length));
    }

    /// Gives up the oldest segments while nothing in them waits, after a flush if one is due; returns how
    /// many. Some of their files are kept for the next segments. Only ever a prefix: a later segment may hold
    /// what became of an earlier one's messages. Their duplicate memory is saved and flushed first; the filler
    /// does it, else this call.
    ///
    /// # Errors
    /// As [`flush`](Journal::flush); without a filler also those of the work itself.
    pub fn retire(&mut self) -> Result<usize, JournalError> {
        self.retire_idle(true)
    }

    fn retire_idle(&mut self, reuse: bool) -> Result<usize, JournalError> {
        self.check()?;
        let idle =
            self.segments.iter().take(self.segments.len() - 1).take_while(|meta| meta.open == 0).count();
        if idle > 0 {
            if self.dirty || !self.buffer.is_empty() || !self.behind.is_empty() {
                // A message moved out of the segment must be safe where it stands now.
                self.flush()?;
            }
            let first = self.segments[0].number;
            let last = self.segments[idle - 1].number;
            self.segments.drain(..idle);
            let mut work = self.shared.work();
            work.chores.push_back(Chore::Retire { first, last, reuse });
            work.stalled = false;
            drop(work);
            self.shared.wake.notify_all();
        }
        if !self.shared.work().attended {
            filler::do_chores(&self.shared)?;
        }
        Ok(idle)
    }

    /// The oldest segment, when so little of it (or of all but the current one together) waits, under a
    /// tenth, that moving it forward is worth the room; see [`append_moved`](Journal::append_moved).
    pub fn sparse(&self) -> Option<u32> {
        let oldest = self.segments.front().filter(|_| self.segments.len() > 1)?;
        let (open, data) = self
            .segments
            .iter()
            .take(self.segments.len() - 1)
            .fold((0, 0), |sum, meta| (sum.0 + meta.open_bytes, sum.1 + meta.data_bytes));
        let sparse = |open: u64, data: u64| open * 10 < data;
        (oldest.open > 0 && (sparse(oldest.open_bytes, oldest.data_bytes) || sparse(open, data)))
            .then_some(oldest.number)
    }

    /// For a channel that rests: when nothing waits, leaves a current segment that holds more than
    /// `bytes` and retires it, so that an idle channel costs next to nothing. Returns the segments retired.
    ///
    /// # Errors
    /// As [`retire`](Journal::retire).
    pub fn settle(&mut self, bytes: u64) -> Result<usize, JournalError> {
        self.check()?;
        let waits = self.segments.iter().any(|meta| meta.open > 0);
        if waits || !self.buffer.is_empty() {
            return Ok(0);
        }
        self.shared.drop_spares();
        if self.current.filled() <= bytes {
            return Ok(0);
        }
        self.flush()?;
        self.rotate()?;
        self.flush()?;
        self.retire_idle(false)
    }

    /// For reading bodies from any thread.
    pub fn reader(&self) -> Reader<S> {
        Reader::new(Arc::clone(&self.shared))
    }

    /// For a thread of the caller that works ahead of the writer and behind it. From now on nobody else does.
    pub fn filler(&self) -> Filler<S> {
        Filler::new(Arc::clone(&self.shared), self.options)
    }

    /// Keeps a copy (`NUMBER.damaged`) of a segment in which a reader found a record that fails its checksum;
    /// the filler does it, else the next [`retire`](Journal::retire). Done at most once a segment.
    pub fn put_aside(&mut self, segment: u32) {
        self.shared.work().chores.push_back(Chore::PutAside(segment));
        self.shared.wake.notify_all();
    }

    /// What the segments take up on disk, in bytes.
    pub fn bytes(&self) -> u64 {
        let work = self.shared.work();
        let next = match &work.next {
            Next::Ready(next) => next.filled(),
            Next::None | Next::Wanted(_) | Next::Making => 0,
        };
        let spares = work.spares.iter().map(|spare| spare.bytes).sum::<u64>();
        work.lengths.values().sum::<u64>() + spares + next + self.current.filled()
    }

    /// The number of the segment being written to.
    pub fn current_segment(&self) -> u32 {
        self.current.number
    }

    /// How many messages wait in all segments.
    pub fn messages_open(&self) -> u64 {
        self.segments.iter().map(|meta| u64::from(meta.open)).sum()
    }

    /// How much room the storage has.
    ///
    /// # Errors
    /// What the system says.
    pub fn room(&self) -> io::Result<Room> {
        self.shared.storage.room()
    }
}
