//! What senders wait for comes first. Receiving, journaling and delivering share the processors; where they are all busy,
//! an acknowledgment is late by whatever else runs, while a delivery a little later is nobody's loss. So delivery stands
//! back, and where it falls far behind for want of processor and disk, receiving does.

/// What delivery's threads add to their niceness (setpriority(2)): where all want a processor, they get a third of what
/// receiving gets. More than that would starve them beside whatever else a machine does.
const NICENESS: i32 = 5;

/// Messages that may always wait for this machine's own files: a moment's worth.
const BEHIND_MIN: usize = 10_000;
/// A burst is taken in as fast as it comes: so long may more than these wait before reading keeps to the files' pace.
const BURST_MS: u64 = 10_000;
/// Of `max_backlog`, the part that may wait for files whatever the time.
const BEHIND_SHARE: usize = 4;
/// Without a new job for that long, files are not slow but stuck.
const STALLED_MS: u64 = 15_000;

/// The calling thread lets those go first that senders wait for.
pub fn stand_back() {
    // More than asked for is refused to nobody; were it refused, all would be as before.
    let _ = rustix::process::nice(NICENESS);
}

/// How far the writing of this machine's files is behind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Behind {
    /// Messages that wait for nothing else.
    pub messages: usize,
    /// Jobs begun so far.
    pub jobs: u64,
}

/// Whether receiving stands back.
#[derive(Debug)]
pub struct Precedence {
    /// At most so many messages wait for files while more are read.
    messages_max: usize,
    /// Since when more wait than a moment's worth.
    behind_since_ms: Option<u64>,
    /// How many waited then: after an outage more than the bound may be there at once, and reading goes on at their pace.
    first: usize,
    /// How many waited when the burst had lasted too long: from then on no more than that.
    level: Option<usize>,
    jobs: u64,
    moved_ms: u64,
}

impl Precedence {
    /// For a channel with that `max_backlog`.
    pub fn new(backlog_max: usize) -> Precedence {
        let messages_max = (backlog_max / BEHIND_SHARE).max(BEHIND_MIN);
        Precedence { messages_max, behind_since_ms: None, first: 0, level: None, jobs: 0, moved_ms: 0 }
    }

    /// Whether nothing more is to be read now. Never for long for files that are not written at all: messages wait in the
    /// journal for a folder that hangs.
    pub fn is_deliverys(&mut self, behind: Behind, now_ms: u64) -> bool {
        if behind.messages < BEHIND_MIN {
            (self.behind_since_ms, self.level) = (None, None);
            return false;
        }
        if behind.jobs != self.jobs {
            self.jobs = behind.jobs;
            self.moved_ms = now_ms;
        }
        if self.behind_since_ms.is_none() {
            self.first = behind.messages;
        }
        let since_ms = *self.behind_since_ms.get_or_insert(now_ms);
        if self.level.is_none() && now_ms >= since_ms + BURST_MS {
            self.level = Some(behind.messages);
        }
        let most = self.messages_max.max(self.first);
        let level = self.level.map_or(most, |level| level.min(most));
        behind.messages >= level && now_ms < self.moved_ms + STALLED_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stands_back_and_its_process_does_not() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        let of_thread = std::thread::spawn(move || {
            stand_back();
            niceness()
        });
        assert_eq!(of_thread.join().unwrap(), (before + NICENESS).min(19));
        assert_eq!(niceness(), before);
    }

    fn at(precedence: &mut Precedence, messages: usize, jobs: u64, now_ms: u64) -> bool {
        precedence.is_deliverys(Behind { messages, jobs }, now_ms)
    }

    #[test]
    fn a_burst_is_read_at_once_and_a_load_that_lasts_at_the_pace_of_its_files() {
        let mut precedence = Precedence::new(1_000_000);
        assert!(!at(&mut precedence, 20_000, 1, 1_000));
        assert!(!at(&mut precedence, 200_000, 2, 1_000 + BURST_MS - 1));
        assert!(at(&mut precedence, 150_000, 3, 1_000 + BURST_MS));
        assert!(!at(&mut precedence, 149_999, 4, 20_000));
        assert!(at(&mut precedence, 150_000, 5, 30_000), "no more wait than then");
        assert!(!at(&mut precedence, 9_999, 6, 40_000));
        assert!(!at(&mut precedence, 200_000, 7, 41_000), "the next burst");
    }

    #[test]
    fn a_part_of_the_backlog_is_the_most_and_a_folder_that_hangs_stops_nobody() {
        let mut precedence = Precedence::new(400_000);
        assert!(!at(&mut precedence, 99_999, 1, 60_000));
        assert!(at(&mut precedence, 100_000, 1, 60_001));
        assert!(at(&mut precedence, 100_000, 1, 60_000 + STALLED_MS - 1));
        assert!(!at(&mut precedence, 100_000, 1, 60_000 + STALLED_MS), "the journal takes what comes");
        assert!(at(&mut precedence, 110_000, 2, 76_000), "it goes on");
    }

    #[test]
    fn what_an_outage_left_stops_nobody_either() {
        let mut precedence = Precedence::new(1_000_000);
        assert!(at(&mut precedence, 600_000, 1, 1_000));
        assert!(!at(&mut precedence, 599_000, 2, 1_100), "as many are read as were written");
        assert!(at(&mut precedence, 590_000, 3, 1_000 + BURST_MS));
        assert!(!at(&mut precedence, 589_999, 4, 12_000));
    }

    #[test]
    fn a_small_backlog_is_bounded_by_itself_alone() {
        let mut precedence = Precedence::new(100);
        assert!(!at(&mut precedence, 9_999, 1, 1));
    }
}
