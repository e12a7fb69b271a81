//! What the committer does for the journal beside appending: segments that nobody needs go, and a channel that rests takes
//! up little room.

use super::Committer;
use crate::clock::instant;
use crate::flags;
use journal::storage::Storage;
use journal::{JournalError, Record};
use std::time::Duration;

/// Time between two looks for messages to move forward.
const BETWEEN_MOVES: Duration = Duration::from_millis(100);
/// What the journal of a channel that rests may take up.
const IDLE_BYTES_MAX: u64 = 1 << 20;
/// Messages moved forward from a nearly empty segment in one go.
const MOVES_MAX: usize = 256;

impl<S: Storage> Committer<S> {
    /// An idle channel gives back what it does not need of the disk.
    pub(crate) fn settle(&mut self) {
        let settled = self.journal.settle(IDLE_BYTES_MAX);
        self.unless_full(settled);
    }

    /// Segments with nothing open in them go; the last open messages of a nearly empty one are moved forward.
    pub(super) fn tidy(&mut self) {
        let tidied = self.journal.retire().and_then(|_| self.move_forward());
        self.unless_full(tidied);
    }

    /// Tidying up may wait for room; any other fault is the journal's end.
    fn unless_full<T>(&self, tidied: Result<T, JournalError>) {
        match tidied {
            Ok(_) | Err(JournalError::Full(_)) => {}
            Err(error) => self.end_on(&error, "could not tidy up the journal"),
        }
    }

    fn move_forward(&mut self) -> Result<(), JournalError> {
        // Looking for what is open in it takes as long as there is much open.
        if instant() - self.moved_at < BETWEEN_MOVES {
            return Ok(());
        }
        let Some(segment) = self.journal.sparse() else { return Ok(()) };
        let entries = self.dispatcher.in_segment(segment, MOVES_MAX);
        let reader = self.journal.reader();
        let mut moved = Vec::new();
        for (ticket, entry) in entries {
            let flags = match reader.read(entry.location) {
                Ok(received) => received.flags,
                // Delivery meets the same fault and deals with it.
                Err(error) => {
                    log::warn!("id={} stays where it is: {error}", entry.id);
                    continue;
                }
            };
            let workflow = flags::workflow(flags);
            let to = self.journal.append_moved(entry.location)?;
            if entry.keys.is_empty() {
                self.journal.append(&Record::Retried { id: entry.id })?;
            }
            for place in self.plan.steps_of(workflow).without(entry.steps).places() {
                self.journal.append(&Record::StepDone { id: entry.id, step: self.plan.name(place) })?;
            }
            for wait in &entry.waits {
                self.append_wait(entry.id, wait)?;
            }
            if entry.strikes > 0 {
                self.journal.append(&Record::Strike { id: entry.id, count: entry.strikes })?;
            }
            moved.push((ticket, entry.id, entry.location, to));
        }
        self.moved_at = instant();
        if moved.is_empty() {
            return Ok(());
        }
        self.journal.flush()?;
        for (ticket, id, from, to) in moved {
            let old = if self.dispatcher.moved(ticket, id, from, to) { from } else { to };
            self.journal.ended(old);
        }
        self.journal.retire().map(|_| ())
    }
}
