//! Messages that are nobody's here any more: given up by hand, or given back to their senders with nothing remembered of
//! what was done. Sent again they begin anew, where others of the same bytes count as done.
//!
//! The committer alone changes it, once that is on record; the event loop looks at what may change before the message
//! that it decides on comes to the journal.

use crate::duplicates::REMEMBERED_MAX;
use journal::MessageId;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

/// The messages given up of one channel.
#[derive(Debug, Default)]
pub struct GivenUp(Mutex<BTreeSet<MessageId>>);

impl GivenUp {
    /// Begins with these.
    pub fn of(ids: impl IntoIterator<Item = MessageId>) -> GivenUp {
        let given_up = GivenUp::default();
        given_up.add(ids);
        given_up
    }

    /// Whether a message begins anew when it is sent again.
    pub fn contains(&self, id: MessageId) -> bool {
        self.ids().contains(&id)
    }

    /// These are given up. The oldest make room: duplicates of them are not known by then.
    pub fn add(&self, more: impl IntoIterator<Item = MessageId>) {
        let mut ids = self.ids();
        ids.extend(more);
        while ids.len() > REMEMBERED_MAX {
            ids.pop_first();
        }
    }

    /// These are open again.
    pub fn remove(&self, open: &[MessageId]) {
        let mut ids = self.ids();
        for id in open {
            ids.remove(id);
        }
    }

    fn ids(&self) -> MutexGuard<'_, BTreeSet<MessageId>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}
