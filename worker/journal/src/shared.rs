//! What the writer, its readers and the filler hold in common.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use crate::error::JournalError;
use crate::id::MessageId;
use crate::recall::{RECENT_MAX, RecallFile, State};
use crate::replay::IdHasher;
use crate::segment::{Header, MARKER, Segment, Spare, segment_name, spare_name};
use crate::storage::Storage;

/// Files of segments that are over, kept for the next ones: at full speed one is written to, one made ready and one
/// about to end.
const SPARES_MAX: usize = 2;
/// Spares are kept while there is room for so many more segments.
const SPARES_ROOM: u64 = 16;
/// Most segment files kept open for reading: a day's queue has thousands of them.
const OPEN_FILES_MAX: usize = 32;

pub(crate) struct Shared<S: Storage> {
    pub(crate) storage: S,
    segment_bytes: u32,
    files: RwLock<HashMap<u32, Arc<Segment<S::File>>>>,
    work: Mutex<Work<S::File>>,
    /// The filler sleeps here.
    pub(crate) wake: Condvar,
    /// The writer sleeps here while the filler makes the next segment.
    pub(crate) made: Condvar,
    broken: AtomicBool,
    ends: Mutex<Ends>,
    /// The files of duplicate memory, oldest first. Whoever does a chore holds this.
    recall: Mutex<Vec<RecallFile>>,
}

/// What there is to do beside writing.
pub(crate) struct Work<F> {
    /// Somebody runs a filler; without one the writer does the chores itself.
    pub(crate) attended: bool,
    pub(crate) closed: bool,
    /// Segments to fill, the current one first, with how far.
    pub(crate) fill: VecDeque<(Arc<Segment<F>>, u64)>,
    pub(crate) next: Next<F>,
    pub(crate) chores: VecDeque<Chore>,
    /// Lengths of the segments that are not being written to, in bytes.
    pub(crate) lengths: BTreeMap<u32, u64>,
    /// Files to go on in, their names durable.
    pub(crate) spares: Vec<Spare>,
    /// A chore found no room; chores wait for the next `retire`.
    pub(crate) stalled: bool,
    /// How far ahead of the writer is filled, in bytes, and when that was last asked for.
    pub(crate) window: u64,
    pub(crate) asked: Option<Instant>,
}

/// The segment after the current one.
pub(crate) enum Next<F> {
    None,
    Wanted(u32),
    Making,
    Ready(Arc<Segment<F>>),
}

/// Work that nobody waits for, done in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chore {
    /// A segment is flushed and left: write its index.
    Seal {
        number: u32,
        /// Where its data ends.
        end: u64,
    },
    /// Nothing in the segments `first..=last` is needed: remember their tags, take their names away.
    Retire {
        first: u32,
        last: u32,
        /// There may be use for their files.
        reuse: bool,
    },
    /// A segment was found damaged: keep a copy.
    PutAside(u32),
}

/// How messages ended that did not end done, for duplicate memory.
#[derive(Default)]
pub(crate) struct Ends {
    states: HashMap<MessageId, State, IdHasher>,
    order: VecDeque<MessageId>,
}

impl Ends {
    /// How a message stands now.
    pub(crate) fn set(&mut self, id: MessageId, state: State) {
        if matches!(state, State::Open | State::Done) {
            self.states.remove(&id);
            return;
        }
        if self.states.insert(id, state).is_none() {
            self.order.push_back(id);
        }
        // An id set, taken back and set again stands here twice and is forgotten with its first: harmless,
        // its duplicates are then taken for those of a message that is done.
        if self.order.len() > 2 * RECENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.states.remove(&oldest);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    pub(crate) fn get(&self, id: MessageId) -> State {
        self.states.get(&id).copied().unwrap_or(State::Done)
    }
}

impl<S: Storage> Shared<S> {
    pub(crate) fn new(storage: S, segment_bytes: u32) -> Self {
        Shared {
            storage,
            segment_bytes,
            files: RwLock::default(),
            work: Mutex::new(Work {
                attended: false,
                closed: false,
                fill: VecDeque::new(),
                next: Next::None,
                chores: VecDeque::new(),
                lengths: BTreeMap::new(),
                spares: Vec::new(),
                stalled: false,
                window: 0,
                asked: None,
            }),
            wake: Condvar::new(),
            made: Condvar::new(),
            broken: AtomicBool::new(false),
            ends: Mutex::default(),
            recall: Mutex::default(),
        }
    }

    pub(crate) fn recall(&self) -> MutexGuard<'_, Vec<RecallFile>> {
        self.recall.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn work(&self) -> MutexGuard<'_, Work<S::File>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment for reading. Opening and evicting take the lock for writing, which happens once a segment.
    pub(crate) fn segment(&self, number: u32) -> Result<Arc<Segment<S::File>>, JournalError> {
        if let Some(segment) = self.files.read().unwrap_or_else(PoisonError::into_inner).get(&number) {
            return Ok(Arc::clone(segment));
        }
        let file = match self.storage.open(&segment_name(number)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(JournalError::Gone { segment: number });
            }
            Err(error) => return Err(JournalError::Io(error)),
        };
        let header = Header::read(&file, number)?.ok_or_else(|| JournalError::Corrupt {
            file: segment_name(number),
            offset: 0,
            what: "the segment's header",
        })?;
        let segment = Arc::new(Segment::new(header, file, 0));
        self.publish(&segment);
        Ok(segment)
    }

    /// Lets readers find a segment.
    pub(crate) fn publish(&self, segment: &Arc<Segment<S::File>>) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= OPEN_FILES_MAX {
            // The current segment, the one with the highest number, is read most; any other will do.
            let current = files.keys().max().copied();
            let victim = files.keys().find(|&&number| Some(number) != current).copied();
            if let Some(victim) = victim {
                files.remove(&victim);
            }
        }
        files.insert(segment.number, Arc::clone(segment));
    }

    pub(crate) fn forget(&self, number: u32) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// Whether the file of a segment that is over is worth keeping, at this length.
    pub(crate) fn wants_spare(&self, bytes: u64, kept: usize) -> bool {
        let segment_bytes = u64::from(self.segment_bytes);
        let room = || self.storage.room().is_ok_and(|room| room.free_bytes >= SPARES_ROOM * segment_bytes);
        let open = {
            let work = self.work();
            !work.closed && work.spares.len() + kept < SPARES_MAX
        };
        open && (segment_bytes / 2..=segment_bytes).contains(&bytes) && room()
    }

    /// Gives the spares' room back. What cannot be removed now is at the next start.
    pub(crate) fn drop_spares(&self) {
        let spares = std::mem::take(&mut self.work().spares);
        for spare in spares {
            let _ = self.storage.remove(&spare_name(spare.number));
        }
    }

    /// A new segment: in a spare file, where there is one.
    pub(crate) fn new_segment(&self, number: u32) -> io::Result<Segment<S::File>> {
        let spare = self.work().spares.pop();
        match spare {
            Some(spare) => Segment::reuse(&self.storage, &spare, number),
            None => Segment::create(&self.storage, number),
        }
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Ends the journal for good. The marker tells the next start not to trust the page cache; should it not
    /// come to be, that start rewrites the tail in place, which is as good but for bad sectors.
    pub(crate) fn break_for_good(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            let _ = self.storage.create(MARKER);
            let _ = self.storage.sync_folder();
        }
    }
}
