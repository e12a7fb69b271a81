//! What senders wait for comes first. Receiving, journaling and delivering share the processors; where they are all busy,
//! an acknowledgment is late by whatever else runs, while a delivery a little later is nobody's loss. So delivery stands
//! back, and where it falls far behind for want of processor and disk, receiving does.

/// What delivery's threads add to their niceness (setpriority(2)): where all want a processor, they get a third of what
/// receiving gets. More than that would starve them beside whatever else a machine does.
const NICENESS: i32 = 5;

/// Of `max_backlog`, the part that may wait for this machine's own files before reading stops for them…
const BEHIND_SHARE: usize = 10;
/// …but never fewer messages than this: a moment's worth.
const BEHIND_MIN: usize = 10_000;
/// Without a new job for that long, files are not slow but stuck.
const STALLED_MS: u64 = 5_000;

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
    messages_max: usize,
    jobs: u64,
    moved_ms: u64,
}

impl Precedence {
    /// For a channel with that `max_backlog`.
    pub fn new(backlog_max: usize) -> Precedence {
        Precedence { messages_max: (backlog_max / BEHIND_SHARE).max(BEHIND_MIN), jobs: 0, moved_ms: 0 }
    }

    /// Whether nothing more is to be read now. Never for long for files that are not written at all: messages wait in the
    /// journal for a folder that hangs.
    pub fn is_deliverys(&mut self, behind: Behind, now_ms: u64) -> bool {
        if behind.messages < self.messages_max {
            return false;
        }
        if behind.jobs != self.jobs {
            self.jobs = behind.jobs;
            self.moved_ms = now_ms;
        }
        now_ms < self.moved_ms + STALLED_MS
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

    #[test]
    fn reading_stops_while_files_are_far_behind_and_go_on() {
        let mut precedence = Precedence::new(1_000_000);
        let mut at = |messages, jobs, now_ms| precedence.is_deliverys(Behind { messages, jobs }, now_ms);
        assert!(!at(99_999, 10, 60_000));
        assert!(at(100_000, 11, 60_001));
        assert!(at(100_000, 11, 60_001 + STALLED_MS - 1));
        assert!(!at(100_000, 11, 60_001 + STALLED_MS), "the folder hangs: the journal takes what comes");
        assert!(at(110_000, 12, 70_000), "it goes on");
        assert!(!at(90_000, 13, 70_001));
    }

    #[test]
    fn a_small_backlog_is_bounded_by_itself_alone() {
        let mut precedence = Precedence::new(100);
        assert!(!precedence.is_deliverys(Behind { messages: 9_999, jobs: 1 }, 1));
    }
}
