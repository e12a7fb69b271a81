//! Task slots: how many messages are processed at the same time, over all channels.
//!
//! ```text
//! word 0        magic                    word 3        generation of the fed
//! word 1        limit                    words 8..264  hungry: owners that hold nothing and wait
//! word 2        generation of the hungry words 264..   slots: owner, or 0 for free
//! ```
//!
//! The table is a sealed memfd that the master makes and every worker maps: the ONLY memory that processes share. Its
//! words are atomic and each stands for itself; a counter beside them would be wrong for ever once its process is killed
//! between two steps. So whatever a dying, or a hostile, process leaves there, the worst it does to another is a slot
//! that is taken (the master takes back those of owners it does not know, [`SlotTable::sweep`]) or a wait that lasts one
//! [`RECHECK`]. Nothing read from it is used as an index or as a bound of a loop without being cut to size.
//!
//! **Order.** An owner that holds no slot is *hungry* while it waits, one that holds some is *fed*. While another is hungry,
//! a fed one leaves a free slot alone; but only for [`GRACE`], so that a stopped process, or a false word, delays the
//! others and never stalls them. Within a process one thread waits at the table, the others behind it.
//!
//! **Wake-ups.** A waiter reads the generation, looks for a slot, and sleeps only while the generation is unchanged; who
//! frees a slot bumps both generations and wakes one waiter, a hungry one if there is any. A wake-up can be swallowed by a
//! process that dies on it: the master wakes all after every death.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::thread::futex::{self, Timespec};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Slots in the table; `max_tasks` chooses how many of them are used.
pub const SLOTS_MAX: u16 = u16::MAX;

/// `HL7s`.
const MAGIC: u32 = 0x484C_3773;
const WORD_MAGIC: usize = 0;
const WORD_LIMIT: usize = 1;
const WORD_HUNGRY: usize = 2;
const WORD_FED: usize = 3;
/// Only says that someone is hungry: with more at the same time than words, those without one still go first.
const HUNGRY: std::ops::Range<usize> = 8..264;
const SLOTS: std::ops::Range<usize> = 264..264 + SLOTS_MAX as usize;
const WORDS: usize = SLOTS.end;
const BYTES: usize = WORDS * size_of::<u32>();

/// How long a fed owner leaves a free slot to a hungry one: a few scheduler ticks on a loaded machine.
const GRACE: Duration = Duration::from_millis(50);
/// A waiter looks again after that long even if nothing woke it: bounds what a lost wake-up can cost.
const RECHECK: Duration = Duration::from_millis(250);

/// The mapped table.
#[derive(Debug)]
pub struct SlotTable {
    words: Arc<Mapping>,
    file: OwnedFd,
    /// The highest limit there was: nobody finds a slot above it, so nobody has to look there, and the master's part of
    /// the table is as small as its use.
    reach: AtomicUsize,
}

impl SlotTable {
    /// A new table of which `limit` slots are used.
    pub fn create(limit: u16) -> io::Result<Self> {
        let file = memfd_create("hl7server-slots", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, BYTES as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let table = Self::attach(file)?;
        table.words.at(WORD_MAGIC).store(MAGIC, SeqCst);
        table.set_limit(limit);
        Ok(table)
    }

    /// Maps the table behind a descriptor that came over the link. It must be sealed against shrinking: an access past
    /// the end of a file that shrank would be fatal.
    pub fn attach(file: OwnedFd) -> io::Result<Self> {
        let seals = fcntl_get_seals(&file)?;
        if !seals.contains(SealFlags::SHRINK) || fstat(&file)?.st_size < BYTES as i64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a sealed slot table"));
        }
        let words = Arc::new(Mapping::new(&file)?);
        let reach = AtomicUsize::new(words.limit());
        Ok(Self { words, file, reach })
    }

    /// To hand to a worker.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Changes how many slots are used, in place; 0 counts as 1. A slot above a lowered limit stays taken until its
    /// message is done.
    pub fn set_limit(&self, limit: u16) {
        let limit = limit.max(1);
        self.reach.fetch_max(limit.into(), SeqCst);
        self.words.at(WORD_LIMIT).store(limit.into(), SeqCst);
        self.words.wake_all();
    }

    /// How many slots are used, as the table says: 1 at least, [`SLOTS_MAX`] at most.
    pub fn limit(&self) -> u16 {
        self.words.limit() as u16
    }

    /// Slots that `owner` holds.
    pub fn used_by(&self, owner: u32) -> usize {
        self.in_reach().iter().filter(|word| word.load(SeqCst) == owner).count()
    }

    /// Takes back every slot of an owner that is dead, and wakes all who wait. Call it after every death, BEFORE the dead
    /// is reaped.
    pub fn reclaim(&self, owner: u32) -> usize {
        self.take_back(|other| other == owner)
    }

    /// Takes back every slot whose owner is not among `living`: what a process that wrote at random left behind.
    pub fn sweep(&self, living: &[u32]) -> usize {
        let unknown = |owner: u32| !living.contains(&owner);
        if self.in_reach().iter().map(|word| word.load(SeqCst)).any(|owner| owner != 0 && unknown(owner)) {
            self.take_back(unknown)
        } else {
            0
        }
    }

    /// The table as one owner uses it. Make it once in a process, and clone it: what an owner holds is counted there.
    ///
    /// # Panics
    /// When `owner` is 0, which means free.
    pub fn slots(&self, owner: u32) -> Slots {
        assert_ne!(owner, 0, "0 means a free slot");
        Slots {
            local: Arc::new(Local {
                words: Arc::clone(&self.words),
                owner,
                held: AtomicUsize::new(0),
                hint: AtomicUsize::new(0),
                at_table: AtomicBool::new(false),
                front: Mutex::new(()),
                behind: Condvar::new(),
            }),
        }
    }

    fn in_reach(&self) -> &[AtomicU32] {
        &self.words.slots()[..self.reach.load(SeqCst)]
    }

    fn take_back(&self, whose: impl Fn(u32) -> bool) -> usize {
        let free = |word: &&AtomicU32| {
            let owner = word.load(SeqCst);
            owner != 0 && whose(owner) && word.compare_exchange(owner, 0, SeqCst, SeqCst).is_ok()
        };
        let freed = self.in_reach().iter().filter(free).count();
        self.words.hungry().iter().filter(free).count();
        self.words.wake_all();
        freed
    }
}

/// One owner's way to the table; clones share what the owner holds.
#[derive(Clone, Debug)]
pub struct Slots {
    local: Arc<Local>,
}

#[derive(Debug)]
struct Local {
    words: Arc<Mapping>,
    owner: u32,
    /// Slots this owner holds. Its own count: the table's is not trusted.
    held: AtomicUsize,
    /// Where a free slot was found last.
    hint: AtomicUsize,
    /// A thread of this process waits at the table; the others wait behind it. Changed under `front`.
    at_table: AtomicBool,
    front: Mutex<()>,
    behind: Condvar,
}

/// A task slot. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "a slot is given back when this is dropped"]
pub struct SlotGuard {
    local: Arc<Local>,
    slot: usize,
}

impl Slots {
    /// Waits at most `timeout` for a slot; `None` when there was none. Blocks: never call it in a reactor.
    pub fn acquire(&self, timeout: Duration) -> Option<SlotGuard> {
        if let Some(guard) = self.try_acquire() {
            return Some(guard);
        }
        // A deadline past the end of time is none.
        let deadline = Instant::now().checked_add(timeout);
        let local = &self.local;
        let mut front = local.lock();
        while local.at_table.load(SeqCst) {
            let left = left(deadline, RECHECK)?;
            front = local.behind.wait_timeout(front, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        local.at_table.store(true, SeqCst);
        drop(front);
        let slot = local.wait_at_table(deadline);
        let front = local.lock();
        local.at_table.store(false, SeqCst);
        drop(front);
        local.behind.notify_one();
        slot.map(|slot| self.guard(slot))
    }

    /// A slot if one is free and nobody goes first. Never blocks.
    pub fn try_acquire(&self) -> Option<SlotGuard> {
        let local = &self.local;
        if local.at_table.load(SeqCst) || (local.is_fed() && local.words.is_hungry_besides(local.owner)) {
            return None;
        }
        local.take_free().map(|slot| self.guard(slot))
    }

    /// How many slots this owner holds.
    pub fn held(&self) -> usize {
        self.local.held.load(SeqCst)
    }

    fn guard(&self, slot: usize) -> SlotGuard {
        SlotGuard { local: Arc::clone(&self.local), slot }
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.local.release(self.slot);
    }
}

impl Local {
    fn lock(&self) -> MutexGuard<'_, ()> {
        // It guards no data that a panic could leave half-changed.
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fed(&self) -> bool {
        self.held.load(SeqCst) > 0
    }

    fn take_free(&self) -> Option<usize> {
        let limit = self.words.limit();
        let hint = self.hint.load(SeqCst);
        let slots = &self.words.slots()[..limit];
        let slot = (0..limit).map(|n| (hint + n) % limit).find(|&slot| {
            let word = &slots[slot];
            word.load(SeqCst) == 0 && word.compare_exchange(0, self.owner, SeqCst, SeqCst).is_ok()
        })?;
        self.held.fetch_add(1, SeqCst);
        self.hint.store(slot, SeqCst);
        Some(slot)
    }

    fn wait_at_table(&self, deadline: Option<Instant>) -> Option<usize> {
        let mut mark = None;
        let mut left_alone: Option<Instant> = None;
        loop {
            let fed = self.is_fed();
            if fed {
                mark = None;
            } else if mark.is_none() {
                mark = HungryMark::set(&self.words, self.owner);
            }
            let word = self.words.at(if fed { WORD_FED } else { WORD_HUNGRY });
            let generation = word.load(SeqCst);
            let gives_way = fed
                && self.words.is_hungry_besides(self.owner)
                && left_alone.is_none_or(|since| since.elapsed() < GRACE);
            if !gives_way && let Some(slot) = self.take_free() {
                if mark.take().is_some() {
                    // More may be free that a fed one left alone for us.
                    self.words.wake(WORD_FED);
                }
                return Some(slot);
            }
            let mut sleep = left(deadline, RECHECK)?;
            if gives_way && self.words.has_free() {
                let since = *left_alone.get_or_insert_with(Instant::now);
                sleep = sleep.min(GRACE.saturating_sub(since.elapsed()));
                // The wake-up that brought us here may have been meant for it.
                self.words.wake(WORD_HUNGRY);
            } else {
                left_alone = None;
            }
            wait(word, generation, sleep);
        }
    }

    fn release(&self, slot: usize) {
        // Fails only when the master, or someone who should not, took it back.
        let _ = self.words.slots()[slot].compare_exchange(self.owner, 0, SeqCst, SeqCst);
        let was_last = self.held.fetch_sub(1, SeqCst) == 1;
        self.words.freed();
        if was_last && self.at_table.load(SeqCst) {
            // Our own waiter sleeps as a fed one and is hungry from now on.
            self.words.wake_fed();
        }
    }
}

/// Says that its owner is hungry, until it is dropped.
struct HungryMark<'a> {
    word: &'a AtomicU32,
    owner: u32,
}

impl<'a> HungryMark<'a> {
    /// `None` when every word is taken: then the others say the same.
    fn set(words: &'a Mapping, owner: u32) -> Option<Self> {
        let free = |word: &&AtomicU32| {
            word.load(SeqCst) == 0 && word.compare_exchange(0, owner, SeqCst, SeqCst).is_ok()
        };
        words.hungry().iter().find(free).map(|word| Self { word, owner })
    }
}

impl Drop for HungryMark<'_> {
    fn drop(&mut self) {
        let _ = self.word.compare_exchange(self.owner, 0, SeqCst, SeqCst);
    }
}

/// What is left until `deadline`, at most `most`; `None` when it has passed.
fn left(deadline: Option<Instant>, most: Duration) -> Option<Duration> {
    let Some(deadline) = deadline else { return Some(most) };
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then(|| left.min(most))
}

/// Sleeps while `word` is `generation`. Every way to come back is fine: the caller looks again.
fn wait(word: &AtomicU32, generation: u32, timeout: Duration) {
    let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    let _ = futex::wait(word, SHARED, generation, Some(&timeout));
}

/// Not private: the waiters are other processes.
const SHARED: futex::Flags = futex::Flags::empty();

/// The mapped words. What they hold may be anything at any time.
#[derive(Debug)]
struct Mapping {
    start: NonNull<AtomicU32>,
}

// SAFETY: the mapping belongs to no thread, and all that is reached through it are atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access is by atomic operations alone.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a file that the caller has found to be `BYTES` long and sealed against shrinking.
    fn new(file: &OwnedFd) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; it aliases nothing of this process.
        let start = unsafe { mmap(std::ptr::null_mut(), BYTES, protection, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start })
    }

    fn words(&self) -> &[AtomicU32] {
        // SAFETY: `start` is the page-aligned start of `BYTES` mapped bytes, which live as long as `self` and cannot go
        // away under it, as the file is sealed against shrinking. Any bits are a valid AtomicU32, and other processes
        // change them only as memory that is accessed atomically on this side.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), WORDS) }
    }

    fn at(&self, word: usize) -> &AtomicU32 {
        &self.words()[word]
    }

    fn slots(&self) -> &[AtomicU32] {
        &self.words()[SLOTS]
    }

    fn hungry(&self) -> &[AtomicU32] {
        &self.words()[HUNGRY]
    }

    fn limit(&self) -> usize {
        (self.at(WORD_LIMIT).load(SeqCst) as usize).clamp(1, SLOTS_MAX.into())
    }

    fn has_free(&self) -> bool {
        self.slots()[..self.limit()].iter().any(|word| word.load(SeqCst) == 0)
    }

    fn is_hungry_besides(&self, owner: u32) -> bool {
        self.hungry().iter().map(|word| word.load(SeqCst)).any(|other| other != 0 && other != owner)
    }

    /// Tells one waiter of a free slot: a hungry one if there is any.
    fn freed(&self) {
        // Both are bumped before it is asked who is hungry: who becomes so later sees the bump and does not sleep.
        self.at(WORD_FED).fetch_add(1, SeqCst);
        self.at(WORD_HUNGRY).fetch_add(1, SeqCst);
        let (first, second) =
            if self.is_hungry_besides(0) { (WORD_HUNGRY, WORD_FED) } else { (WORD_FED, WORD_HUNGRY) };
        if futex::wake(self.at(first), SHARED, 1) == Ok(0) {
            let _ = futex::wake(self.at(second), SHARED, 1);
        }
    }

    /// Tells one waiter of that kind to look again.
    fn wake(&self, word: usize) {
        self.at(word).fetch_add(1, SeqCst);
        let _ = futex::wake(self.at(word), SHARED, 1);
    }

    fn wake_fed(&self) {
        self.at(WORD_FED).fetch_add(1, SeqCst);
        let _ = futex::wake(self.at(WORD_FED), SHARED, i32::MAX as u32);
    }

    fn wake_all(&self) {
        for word in [WORD_HUNGRY, WORD_FED] {
            self.at(word).fetch_add(1, SeqCst);
            let _ = futex::wake(self.at(word), SHARED, i32::MAX as u32);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: maps exactly what `new` mapped; no reference outlives `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), BYTES) };
    }
}

#[cfg(test)]
mod tests;
