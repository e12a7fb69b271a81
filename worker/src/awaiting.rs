//! `ack: processed`: who waits for which message to end, and until when. Pure.

use crate::committer::Origin;
use journal::MessageId;
use std::collections::{BTreeSet, HashMap};

/// Everybody who waits for an outcome.
#[derive(Debug)]
pub struct Awaiting {
    by_id: HashMap<MessageId, Waiters>,
    deadlines: BTreeSet<(u64, MessageId)>,
}

/// Who waits for one message.
#[derive(Debug, Default)]
pub struct Waiters {
    /// The places of their answers; all that brought the same bytes.
    pub origins: Vec<Origin>,
    /// The message's start, which a refusal is built from.
    pub start: Vec<u8>,
    deadline_ms: Option<u64>,
}

impl Awaiting {
    /// Begins with messages that are being processed and that nobody waits for (yet): found open at the start.
    pub fn of(in_progress: &[MessageId]) -> Awaiting {
        let by_id = in_progress.iter().map(|id| (*id, Waiters::default())).collect();
        Awaiting { by_id, deadlines: BTreeSet::new() }
    }

    /// An answer waits for a message; the first one sets the deadline.
    pub fn add(&mut self, id: MessageId, origin: Origin, start: Vec<u8>, deadline_ms: u64) {
        let waiters = self.by_id.entry(id).or_default();
        if waiters.deadline_ms.is_none() {
            waiters.deadline_ms = Some(deadline_ms);
            waiters.start = start;
            self.deadlines.insert((deadline_ms, id));
        }
        waiters.origins.push(origin);
    }

    /// Whether a message is being processed whose end somebody waits for or may join in waiting for.
    pub fn contains(&self, id: MessageId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Whether an answer waits for anything.
    pub fn is_answer_owed(&self) -> bool {
        self.by_id.values().any(|waiters| !waiters.origins.is_empty())
    }

    /// Nobody waits any more: these did.
    pub fn end(&mut self, id: MessageId) -> Option<Waiters> {
        let waiters = self.by_id.remove(&id)?;
        if let Some(deadline_ms) = waiters.deadline_ms {
            self.deadlines.remove(&(deadline_ms, id));
        }
        Some(waiters)
    }

    /// The messages whose time is over, once each.
    pub fn due(&mut self, now_ms: u64) -> Vec<MessageId> {
        let later = self.deadlines.split_off(&(now_ms + 1, MessageId::new(0, 0)));
        std::mem::replace(&mut self.deadlines, later).into_iter().map(|(_, id)| id).collect()
    }

    /// One that brought the same bytes waits no longer.
    pub fn leave(&mut self, id: MessageId, origin: &Origin) {
        if let Some(waiters) = self.by_id.get_mut(&id) {
            waiters.origins.retain(|o| o != origin);
        }
    }

    /// A message's time is over, but nothing can be done about it yet: it is due again then.
    pub fn postpone(&mut self, id: MessageId, deadline_ms: u64) {
        if let Some(waiters) = self.by_id.get_mut(&id) {
            waiters.deadline_ms = Some(deadline_ms);
            self.deadlines.insert((deadline_ms, id));
        }
    }

    /// When the next one's time is over.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::committer::Stores;

    fn origin(answer: u64) -> Origin {
        Origin {
            session: 0,
            generation: 0,
            answer,
            part: None,
            id: MessageId::new(1, 0),
            complete_us: 0,
            bytes: 0,
            stores: Stores::New,
        }
    }

    #[test]
    fn all_that_brought_the_same_bytes_wait_for_one_outcome() {
        let id = MessageId::new(1, 0);
        let mut awaiting = Awaiting::of(&[id]);
        assert!(awaiting.contains(id) && !awaiting.is_answer_owed());
        awaiting.add(id, origin(1), b"MSH".to_vec(), 100);
        awaiting.add(id, origin(2), b"other".to_vec(), 500);
        assert_eq!(awaiting.deadline_ms(), Some(100));
        assert!(awaiting.due(99).is_empty());
        assert_eq!(awaiting.due(100), [id]);
        assert!(awaiting.due(1000).is_empty(), "a message is due once");
        let waiters = awaiting.end(id).unwrap();
        assert_eq!(waiters.start, b"MSH");
        let answers: Vec<u64> = waiters.origins.iter().map(|o| o.answer).collect();
        assert_eq!(answers, [1, 2]);
        assert!(awaiting.end(id).is_none());
    }
}
