//! What a peer's client reports when a call did not do.

use crate::dispatcher::StepEnd;
use crate::step::Progress;

/// Why a call to a peer did not do, and whether trying again may help.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// It may pass.
    Again {
        /// For the log and `queue list`; never a patient's data.
        reason: String,
        /// The peer itself is down: others need not try.
        target_down: bool,
        /// The wait the peer asks for, microseconds.
        wanted_us: Option<i64>,
    },
    /// It stays: the message fails with this reason.
    Failed(String),
}

impl Fault {
    /// The peer itself is down.
    pub fn down(reason: impl Into<String>) -> Fault {
        Fault::Again { reason: reason.into(), target_down: true, wanted_us: None }
    }

    /// This call may pass later; others need not wait for it.
    pub fn again(reason: impl Into<String>) -> Fault {
        Fault::Again { reason: reason.into(), target_down: false, wanted_us: None }
    }
}

impl From<Fault> for Progress {
    fn from(fault: Fault) -> Progress {
        match fault {
            Fault::Again { reason, target_down, wanted_us } => {
                Progress::Ended(StepEnd::Again { reason, target_down, wanted_us })
            }
            Fault::Failed(reason) => Progress::Failed(reason),
        }
    }
}
