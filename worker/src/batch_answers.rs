//! Batches that wait for their messages: one frame holds the answers to all of them, so it is written when the last is
//! known. Pure.

use std::collections::{BTreeSet, HashMap};

/// A session's place and generation, and the place of the answer in it.
pub type Key = (usize, u64, u64);

/// A batch whose answer is being gathered.
#[derive(Debug)]
pub struct Gathering {
    /// The first bytes of the frame: byte order and mark of what comes back.
    pub start: Vec<u8>,
    /// The FHS, as it came.
    pub file_header: Option<Vec<u8>>,
    /// The BHS, as it came.
    pub batch_header: Option<Vec<u8>>,
    /// The answers, those that wait already as they are when all goes well.
    pub answers: Vec<Vec<u8>>,
    /// Those that wait, by their place.
    pub waiting: BTreeSet<u32>,
}

/// All batches that wait.
#[derive(Debug, Default)]
pub struct BatchAnswers {
    by_key: HashMap<Key, Gathering>,
}

impl BatchAnswers {
    /// A batch with messages that wait.
    pub fn add(&mut self, key: Key, gathering: Gathering) {
        debug_assert!(!gathering.waiting.is_empty(), "a batch that waits for nothing is answered at once");
        self.by_key.insert(key, gathering);
    }

    /// One answer is known: the one prepared, or `other`. Returns the batch when it was the last.
    pub fn fill(&mut self, key: Key, part: u32, other: Option<Vec<u8>>) -> Option<Gathering> {
        let gathering = self.by_key.get_mut(&key)?;
        // Known twice over, it is one answer all the same.
        if !gathering.waiting.remove(&part) {
            return None;
        }
        if let (Some(other), Some(answer)) = (other, gathering.answers.get_mut(part as usize)) {
            *answer = other;
        }
        if gathering.waiting.is_empty() { self.by_key.remove(&key) } else { None }
    }

    /// The batch is not answered.
    pub fn forget(&mut self, key: Key) {
        self.by_key.remove(&key);
    }

    /// Connections are gone: nobody hears these answers.
    pub fn forget_session(&mut self, session: usize, generation: u64) {
        self.by_key.retain(|key, _| (key.0, key.1) != (session, generation));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_answered_when_its_last_message_is_known() {
        let mut batches = BatchAnswers::default();
        let key = (1, 2, 3);
        let answers = vec![b"AA1".to_vec(), b"AR".to_vec(), b"AA2".to_vec()];
        let waiting = BTreeSet::from([0, 2]);
        batches
            .add(key, Gathering { start: vec![], file_header: None, batch_header: None, answers, waiting });
        assert!(batches.fill(key, 2, Some(b"AE".to_vec())).is_none());
        assert!(batches.fill(key, 2, None).is_none(), "the same answer twice is one");
        let done = batches.fill(key, 0, None).unwrap();
        assert_eq!(done.answers, [b"AA1".to_vec(), b"AR".to_vec(), b"AE".to_vec()]);
        assert!(batches.fill(key, 0, None).is_none());
    }
}
