//! What keeps a remote step from being done: the verdict is in the type, the reason is for whoever is on call.

use crate::dispatcher::StepEnd;
use crate::step::Progress;

/// Why a peer did not do what a step asked of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// It may pass.
    Again {
        /// What could not be done, on which object, why.
        reason: String,
        /// The peer itself is at fault, so that other messages need not try.
        target_down: bool,
        /// The wait the peer asks for, microseconds.
        wanted_us: Option<i64>,
    },
    /// It stays: the message is listed as failed with this reason.
    Failed(String),
}

impl Fault {
    /// A fault of the peer, which other messages would meet too.
    pub fn down(reason: String) -> Fault {
        Fault::Again { reason, target_down: true, wanted_us: None }
    }

    /// A fault that may pass and is this message's alone.
    pub fn own(reason: String) -> Fault {
        Fault::Again { reason, target_down: false, wanted_us: None }
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
