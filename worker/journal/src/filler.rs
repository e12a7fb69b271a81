//! What runs beside the writer: zero-filled room ahead of it, the next segment, the index of segments left,
//! the end of segments nobody needs. The files of these are written into again (`Spare`): their blocks are there.
//!
//! On a journaled file system a flush into blocks that exist costs half of one that allocates them. How far
//! ahead is filled follows the traffic: 256 KiB for a quiet channel, up to 16 MiB where that lasts less
//! than a second. The time is read for this pacing only.

use std::collections::VecDeque;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{JournalError, is_full};
use crate::footer;
use crate::meta::Meta;
use crate::recall::{self, RECENT_MAX, Recent, State};
use crate::scan;
use crate::segment::{Header, Segment, Spare, aside_name, segment_name, spare_name};
use crate::shared::{Chore, Next, Shared, Work};
use crate::storage::{self, FileStorage, Storage};
use crate::writer::Options;

const WINDOW_BYTES_MIN: u64 = 256 * 1024;
const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// One write and flush of the filler, in bytes: a flush of the writer waits for no more than this.
const CHUNK_BYTES: u64 = 1024 * 1024;
const HURRIED: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_secs(10);

/// Does the background work of one journal. A thread of the caller's runs
/// `while filler.step()? {}`; it ends when the journal is dropped.
pub struct Filler<S: Storage = FileStorage> {
    shared: Arc<Shared<S>>,
    options: Options,
}

impl<S: Storage> Drop for Filler<S> {
    /// The writer does the chores itself again.
    fn drop(&mut self) {
        self.shared.work().attended = false;
    }
}

enum Job<F> {
    Fill(Arc<Segment<F>>, u64),
    Make(u32),
    Chore,
}

impl<F> Work<F> {
    fn take(&mut self) -> Option<Job<F>> {
        if !self.closed {
            if let Some((segment, target)) = self.fill.pop_front() {
                return Some(Job::Fill(segment, target));
            }
            if let Next::Wanted(number) = self.next {
                self.next = Next::Making;
                return Some(Job::Make(number));
            }
        }
        (!self.stalled && !self.chores.is_empty()).then_some(Job::Chore)
    }
}

impl<S: Storage> Filler<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, options: Options) -> Self {
        shared.work().attended = true;
        Filler { shared, options }
    }

    /// Waits until there is something to do and does a piece of it. False when the journal was dropped and
    /// everything is done.
    ///
    /// # Errors
    /// [`JournalError::Io`]: the journal is dead, its next call says so. Want of room is no error here: the
    /// writer meets it itself.
    pub fn step(&self) -> Result<bool, JournalError> {
        let job = {
            let mut work = self.shared.work();
            loop {
                if let Some(job) = work.take() {
                    break job;
                }
                if work.closed {
                    return Ok(false);
                }
                work = self.shared.wake.wait(work).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
        };
        self.run(job)?;
        Ok(true)
    }

    /// Likewise without waiting. False when there is nothing to do at the moment.
    ///
    /// # Errors
    /// As [`step`](Filler::step).
    pub fn try_step(&self) -> Result<bool, JournalError> {
        let job = self.shared.work().take();
        match job {
            Some(job) => self.run(job).map(|()| true),
            None => Ok(false),
        }
    }

    fn run(&self, job: Job<S::File>) -> Result<(), JournalError> {
        if self.shared.is_broken() {
            // Never a flush behind the back of one that failed.
            let mut work = self.shared.work();
            work.fill.clear();
            work.chores.clear();
            work.next = Next::None;
            drop(work);
            self.shared.made.notify_all();
            return Ok(());
        }
        let done = match job {
            Job::Fill(segment, target) => self.fill(&segment, target),
            Job::Make(number) => self.make(number),
            Job::Chore => return do_chore(&self.shared),
        };
        done.or_else(|error| if is_full(&error) { Ok(()) } else { Err(fatal(&self.shared, error)) })
    }

    fn fill(&self, segment: &Arc<Segment<S::File>>, target: u64) -> io::Result<()> {
        let own = match self.shared.storage.open(&segment_name(segment.number)) {
            // Retired in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            own => own?,
        };
        let target = target.min(u64::from(self.options.segment_bytes));
        segment.fill_chunk(&own, CHUNK_BYTES, target)?;
        if segment.filled() < target {
            self.shared.work().fill.push_back((Arc::clone(segment), target));
        }
        Ok(())
    }

    fn make(&self, number: u32) -> io::Result<()> {
        let made = self.shared.new_segment(number);
        let mut work = self.shared.work();
        work.next = Next::None;
        let made = made.map(Arc::new).inspect(|segment| {
            work.next = Next::Ready(Arc::clone(segment));
        });
        drop(work);
        self.shared.made.notify_all();
        made.map(drop)
    }
}

fn fatal<S: Storage>(shared: &Shared<S>, error: io::Error) -> JournalError {
    shared.break_for_good();
    JournalError::Io(error)
}

/// The segment to go on in: the one made ahead, else a new one.
pub(crate) fn next_segment<S: Storage>(shared: &Shared<S>, number: u32) -> io::Result<Arc<Segment<S::File>>> {
    let mut work = shared.work();
    loop {
        match std::mem::replace(&mut work.next, Next::None) {
            Next::Ready(segment) if segment.number == number => return Ok(segment),
            Next::Making => {
                work.next = Next::Making;
                work = shared.made.wait(work).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            Next::Ready(_) | Next::Wanted(_) | Next::None => break,
        }
    }
    drop(work);
    shared.new_segment(number).map(Arc::new)
}

/// A segment is left by the writer.
pub(crate) fn left<S: Storage>(shared: &Shared<S>, number: u32, bytes: u64) {
    let mut work = shared.work();
    work.fill.retain(|(segment, _)| segment.number != number);
    work.lengths.insert(number, bytes);
}

/// The writer has come to `end`: asks for more room ahead, and for the next segment past half of this one.
/// Returns how far the current segment is filled.
pub(crate) fn written<S: Storage>(
    shared: &Shared<S>,
    current: &Arc<Segment<S::File>>,
    end: u64,
    filled: u64,
    segment_bytes: u32,
    large: bool,
) -> u64 {
    let limit = u64::from(segment_bytes);
    if filled.saturating_sub(end) > WINDOW_BYTES_MAX / 2 && end < limit / 2 {
        return filled;
    }
    let filled = current.filled();
    let mut work = shared.work();
    if !work.attended {
        return filled;
    }
    let mut wake = false;
    work.window = work.window.max(WINDOW_BYTES_MIN);
    // A large message's flush is long anyway: room ahead of it would have its bytes written twice for nothing.
    if !large && filled < limit && filled - end < work.window / 2 {
        let now = Instant::now();
        let since = work.asked.map_or(QUIET, |asked| now - asked);
        let waits = work.fill.iter().any(|(segment, _)| segment.number == current.number);
        if !waits {
            if since < HURRIED {
                work.window = (work.window * 2).min(WINDOW_BYTES_MAX);
            } else if since >= QUIET {
                work.window = WINDOW_BYTES_MIN;
            }
            work.asked = Some(now);
            let target = end + work.window;
            work.fill.push_front((Arc::clone(current), target));
            wake = true;
        }
    }
    if end > limit / 2 {
        if matches!(work.next, Next::None) {
            work.next = Next::Wanted(current.number + 1);
            wake = true;
        } else if let Next::Ready(next) = &work.next {
            let target = (4 * work.window).min(limit);
            let waits = work.fill.iter().any(|(segment, _)| segment.number == next.number);
            if !large && !waits && next.filled() < target {
                let next = Arc::clone(next);
                work.fill.push_back((next, target));
                wake = true;
            }
        }
    }
    drop(work);
    if wake {
        shared.wake.notify_one();
    }
    filled
}

/// Does all chores that wait: for a journal nobody runs a filler for.
pub(crate) fn do_chores<S: Storage>(shared: &Shared<S>) -> Result<(), JournalError> {
    while shared.work().take_chore_waits() {
        do_chore(shared)?;
    }
    Ok(())
}

impl<F> Work<F> {
    fn take_chore_waits(&self) -> bool {
        !self.stalled && !self.chores.is_empty()
    }
}

/// Does the oldest chore.
fn do_chore<S: Storage>(shared: &Shared<S>) -> Result<(), JournalError> {
    // Held throughout: chores run one at a time, in order.
    let mut files = shared.recall();
    let Some(chore) = shared.work().chores.pop_front() else { return Ok(()) };
    let done = match chore {
        Chore::Seal { number, end } => seal(shared, number, end),
        Chore::Retire { first, last, reuse } => retire(shared, &mut files, first..=last, reuse),
        Chore::PutAside(number) => put_aside(shared, number),
    };
    match done {
        Ok(()) => Ok(()),
        Err(JournalError::Full(_)) => {
            if let Chore::Retire { .. } = chore {
                let mut work = shared.work();
                work.chores.push_front(chore);
                work.stalled = true;
            }
            Ok(())
        }
        // Damage found here is reported by the next start, or by who reads the record.
        Err(JournalError::Corrupt { .. } | JournalError::Gone { .. }) => Ok(()),
        Err(JournalError::Io(error)) => Err(fatal(shared, error)),
        Err(error) => Err(error),
    }
}

/// A handle of the chore's own, and the segment's seed.
fn open<S: Storage>(shared: &Shared<S>, number: u32) -> Result<(S::File, u32), JournalError> {
    let file = shared.storage.open(&segment_name(number)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => JournalError::Gone { segment: number },
        _ => JournalError::Io(error),
    })?;
    let header = Header::read(&file, number)?.ok_or_else(|| JournalError::Corrupt {
        file: segment_name(number),
        offset: 0,
        what: "the segment's header",
    })?;
    Ok((file, header.seed()))
}

fn seal<S: Storage>(shared: &Shared<S>, number: u32, end: u64) -> Result<(), JournalError> {
    let (file, seed) = open(shared, number)?;
    if let Some(bytes) = footer::seal(&file, number, seed, end)? {
        shared.work().lengths.insert(number, bytes);
    }
    Ok(())
}

/// Keeps a copy of a damaged segment, once.
fn put_aside<S: Storage>(shared: &Shared<S>, number: u32) -> Result<(), JournalError> {
    let names = shared.storage.list().map_err(JournalError::Io)?;
    if names.contains(&aside_name(number)) || !names.contains(&segment_name(number)) {
        return Ok(());
    }
    storage::copy(&shared.storage, &segment_name(number), &aside_name(number))?;
    Ok(())
}

fn retire<S: Storage>(
    shared: &Shared<S>,
    files: &mut Vec<recall::RecallFile>,
    numbers: RangeInclusive<u32>,
    reuse: bool,
) -> Result<(), JournalError> {
    let mut entries: VecDeque<Recent> = VecDeque::new();
    let mut spares: Vec<Spare> = Vec::new();
    for number in numbers.clone() {
        let (file, seed) = match open(shared, number) {
            Ok(opened) => opened,
            Err(JournalError::Gone { .. } | JournalError::Corrupt { .. }) => continue,
            Err(error) => return Err(error),
        };
        let walk = scan::walk(&file, number, seed, &mut |found| {
            if let Some(Meta::Received(meta)) = Meta::decode(found.head.kind, found.meta) {
                let (tag, id, time_us) = (meta.tag, meta.id, meta.time_us);
                if entries.len() == 2 * RECENT_MAX {
                    entries.drain(..RECENT_MAX);
                }
                entries.push_back(Recent { tag, id, time_us, state: State::Done });
            }
        })
        .map_err(JournalError::Io)?;
        // Without an index there may still be bytes of a segment before it: two at once would be one too many.
        if reuse && walk.sealed && shared.wants_spare(walk.file_bytes, spares.len()) {
            spares.push(Spare { number, seed, bytes: walk.file_bytes });
        }
    }
    {
        // Not while the segments are walked: the writer needs this lock.
        let ends = shared.ends();
        for entry in &mut entries {
            entry.state = ends.get(entry.id);
        }
    }
    recall::save(&shared.storage, files, *numbers.end(), entries)?;
    // From here on the name of that file makes the segments needless, whatever order they vanish in.
    for number in numbers {
        shared.forget(number);
        let name = segment_name(number);
        let is_spare = spares.iter().any(|spare| spare.number == number);
        let renamed = is_spare && shared.storage.rename(&name, &spare_name(number)).is_ok();
        if !renamed {
            spares.retain(|spare| spare.number != number);
        }
        match if renamed { Ok(()) } else { shared.storage.remove(&name) } {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(JournalError::Io(error)),
            _ => {}
        }
        shared.work().lengths.remove(&number);
    }
    shared.storage.sync_folder().map_err(JournalError::Io)?;
    shared.work().spares.append(&mut spares);
    Ok(())
}
