//! An open message in the dispatcher's table.

use super::{FailedStep, NewEntry, Wait};
use crate::plan::StepSet;
use journal::{Location, MessageId};
use std::num::NonZeroU8;

/// 64 bytes a message; its lane and its place among the ready ones come to 56 at most.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: MessageId,
    pub(super) location: Location,
    pub(super) received_us: i64,
    /// Its first order key; 0 with `in_order` false where it stands in no lane.
    pub(super) key: u64,
    /// What few messages have.
    pub(super) extra: Option<Box<Extra>>,
    /// Steps not over yet, those that run included.
    pub(super) pending: StepSet,
    /// Steps that are being carried out, by at most one thread of each pool.
    pub(super) running: StepSet,
    /// Pools in whose queue it stands, a bit each.
    pub(super) queued: u16,
    pub(super) strikes: u8,
    pub(super) marks: NonZeroU8,
}

/// Marks of an entry, a bit each.
pub(super) mod mark {
    use std::num::NonZeroU8;

    /// It stands in the lane of its key.
    pub const IN_ORDER: u8 = 1;
    /// Always set: so an entry's absence costs nothing.
    pub const THERE: NonZeroU8 = NonZeroU8::new(128).expect("not zero");
    /// It was being processed when a worker died: it runs alone.
    pub const SUSPECT: u8 = 2;
    /// Its sender waits no longer (`ack: processed`): nothing more is begun.
    pub const WITHDRAWN: u8 = 4;
    /// A step has failed for good: nothing more is begun, and whoever ends last on it puts it away.
    pub const CLOSING: u8 = 8;
    /// It is counted as waiting for this machine's files alone.
    pub const FILES: u8 = 16;
}

#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Order keys but the first: those of a merge.
    pub(super) more_keys: Vec<u64>,
    pub(super) waits: Vec<Wait>,
    /// The step that failed while others of the message were still being carried out.
    pub(super) failure: Option<FailedStep>,
}

impl Entry {
    /// Somebody has its bytes, or puts it away: it stays where it is.
    pub(super) fn is_busy(&self) -> bool {
        self.has(mark::CLOSING) || !self.running.is_empty()
    }

    /// Its sender waits no longer: whoever works on it gives it back.
    pub(super) fn withdraw(&mut self) {
        self.set(mark::WITHDRAWN);
    }

    pub(super) fn has(&self, marks: u8) -> bool {
        self.marks.get() & marks != 0
    }

    pub(super) fn set(&mut self, marks: u8) {
        self.marks |= marks;
    }

    pub(super) fn clear(&mut self, marks: u8) {
        self.marks = mark::THERE | (self.marks.get() & !marks);
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = u64> {
        let more = self.extra.iter().flat_map(|extra| extra.more_keys.iter().copied());
        self.has(mark::IN_ORDER).then_some(self.key).into_iter().chain(more)
    }

    pub(super) fn has_one_key(&self) -> bool {
        self.has(mark::IN_ORDER) && self.extra.as_ref().is_none_or(|extra| extra.more_keys.is_empty())
    }

    pub(super) fn waits(&self) -> &[Wait] {
        self.extra.as_ref().map_or(&[], |extra| &extra.waits)
    }

    pub(super) fn wait_for_mut(&mut self, place: usize) -> Option<&mut Wait> {
        self.extra.as_mut()?.waits.iter_mut().find(|w| w.is_at(place))
    }

    pub(super) fn take_waits(&mut self) -> Vec<Wait> {
        self.extra.as_mut().map(|extra| std::mem::take(&mut extra.waits)).unwrap_or_default()
    }

    pub(super) fn set_waits(&mut self, waits: Vec<Wait>) {
        if !waits.is_empty() || self.extra.is_some() {
            self.extra.get_or_insert_default().waits = waits;
        }
        let empty = |e: &Extra| e.waits.is_empty() && e.more_keys.is_empty() && e.failure.is_none();
        if self.extra.as_deref().is_some_and(empty) {
            self.extra = None;
        }
    }

    pub(super) fn wait_for(&self, place: usize) -> Option<&Wait> {
        self.waits().iter().find(|w| w.is_at(place))
    }
}

pub(super) fn copy_of(e: &Entry) -> NewEntry {
    NewEntry {
        id: e.id,
        location: e.location,
        received_us: e.received_us,
        keys: e.keys().collect(),
        steps: e.pending,
        strikes: e.strikes,
        suspect: e.has(mark::SUSPECT),
        waits: e.waits().to_vec(),
    }
}
