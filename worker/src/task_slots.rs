//! The task slots that this worker's delivery threads hold, by thread.
//!
//! A slot is leave to work, and all channels share them. A thread that waits for its peer does not work: were it to keep
//! its slot, one database that hangs would soon have those of every channel that uses it, and the other channels would
//! stand still until its timeout. So a job that talks to a peer gives its slot back after [`PEER_WAIT`], whoever asks for
//! one then or within a second. Such jobs are bounded by the threads of their step; the slots bound all the rest.

use crate::clock::instant;
use link::{SlotGuard, Slots};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a job that talks to a peer keeps its slot. Far above what a sound peer takes.
const PEER_WAIT: Duration = Duration::from_millis(500);

/// A slot that a thread holds.
#[derive(Debug)]
struct Held {
    _slot: SlotGuard,
    since: Instant,
    at_peer: bool,
}

/// The slots of a worker.
#[derive(Debug)]
pub struct TaskSlots {
    slots: Slots,
    by_thread: Vec<Mutex<Option<Held>>>,
}

impl TaskSlots {
    /// For so many delivery threads.
    pub fn new(slots: Slots, threads: usize) -> TaskSlots {
        TaskSlots { slots, by_thread: (0..threads).map(|_| Mutex::default()).collect() }
    }

    /// Takes a slot for a thread's job, which talks to a peer or does not; `false` when there was none within `timeout`.
    pub fn take(&self, thread: usize, at_peer: bool, timeout: Duration) -> bool {
        let slot = self.slots.try_acquire().or_else(|| {
            self.end_long_waits();
            self.slots.acquire(timeout)
        });
        let Some(slot) = slot else { return false };
        *self.of(thread) = Some(Held { _slot: slot, since: instant(), at_peer });
        true
    }

    /// The thread's job is done: its slot goes back, if it still has it.
    pub fn give_back(&self, thread: usize) {
        self.of(thread).take();
    }

    /// Gives back the slots of those that have waited for their peers for long. Called once a second for the sake of the
    /// other channels, and by whoever finds no slot.
    pub fn end_long_waits(&self) {
        for thread in 0..self.by_thread.len() {
            let mut held = self.of(thread);
            if held.as_ref().is_some_and(|held| held.at_peer && instant() - held.since >= PEER_WAIT) {
                held.take();
            }
        }
    }

    /// How many are held.
    pub fn held(&self) -> usize {
        self.slots.held()
    }

    fn of(&self, thread: usize) -> MutexGuard<'_, Option<Held>> {
        // Nothing can be half changed: a panic leaves a slot or none.
        self.by_thread[thread].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use link::SlotTable;

    const SOON: Duration = Duration::from_millis(20);

    fn slots(limit: u16, threads: usize) -> (SlotTable, TaskSlots) {
        let table = SlotTable::create(limit).unwrap();
        let slots = TaskSlots::new(table.slots(7), threads);
        (table, slots)
    }

    #[test]
    fn who_waits_long_for_a_peer_makes_room_and_who_works_does_not() {
        let (_table, slots) = slots(2, 4);
        assert!(slots.take(0, true, SOON) && slots.take(1, false, SOON));
        assert!(!slots.take(2, false, SOON), "none is free, and nobody has waited for long");
        std::thread::sleep(PEER_WAIT);
        assert!(slots.take(2, false, SOON), "the first waits for its peer");
        assert!(!slots.take(3, false, SOON), "the second works");
        // The first ends without a slot, and takes none that is another's with it.
        slots.give_back(0);
        assert_eq!(slots.held(), 2);
        slots.give_back(1);
        assert!(slots.take(3, false, SOON));
    }

    #[test]
    fn another_channel_gets_them_too() {
        let (table, slots) = slots(1, 1);
        let other = TaskSlots::new(table.slots(8), 1);
        assert!(slots.take(0, true, SOON));
        std::thread::sleep(PEER_WAIT);
        assert!(!other.take(0, false, SOON));
        slots.end_long_waits();
        assert!(other.take(0, false, SOON));
    }
}
