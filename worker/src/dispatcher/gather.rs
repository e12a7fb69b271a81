//! Files of a moment are written together: each job that writes files costs two flushes, however many files it has, and
//! these wait for the same disk as the journal's, which senders wait for. So what becomes ready shortly after all was
//! given out waits a moment for more; under load nothing waits, since there is always more.

use crate::clock::instant;
use std::time::{Duration, Instant};

/// How long after the last file job others gather.
const GATHER: Duration = Duration::from_millis(10);

/// When the pool that writes files is given its next job.
#[derive(Debug, Default)]
pub(super) struct Gather {
    is_on: bool,
    /// When all that was ready had been given out.
    emptied_at: Option<Instant>,
    /// A thread sleeps until the moment is over: others need not be woken for what comes meanwhile.
    pub(super) is_watched: bool,
}

impl Gather {
    /// From now on files gather.
    pub(super) fn begin(&mut self) {
        self.is_on = true;
    }

    /// Files gather on this channel.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// A job was given out, and nothing is left.
    pub(super) fn emptied(&mut self) {
        if self.is_on {
            self.emptied_at = Some(instant());
        }
    }

    /// How long what is ready still waits; `None`: it is given out.
    pub(super) fn left(&self) -> Option<Duration> {
        let left = GATHER.checked_sub(instant() - self.emptied_at?)?;
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::simulated;

    #[test]
    fn files_wait_a_moment_after_all_was_given_out_and_no_longer() {
        let at = |ms| simulated::set(Some(Duration::from_millis(ms)));
        at(1_000);
        let mut gather = Gather::default();
        gather.emptied();
        assert_eq!(gather.left(), None, "where senders wait for the end nothing gathers");
        gather.begin();
        assert_eq!(gather.left(), None, "nothing was given out yet");
        gather.emptied();
        assert_eq!(gather.left(), Some(GATHER));
        at(1_004);
        assert_eq!(gather.left(), Some(GATHER - Duration::from_millis(4)));
        at(1_000 + GATHER.as_millis() as u64);
        assert_eq!(gather.left(), None);
        simulated::set(None);
    }
}
