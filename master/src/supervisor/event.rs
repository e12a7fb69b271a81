//! What happens to the supervisor's channels, and what it wants done.

use link::Death;
use std::time::Duration;

/// One worker process, for the whole life of the master: its owner number in the slot table. Never 0.
pub(crate) type WorkerId = u32;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// The file was loaded: what becomes of each channel.
    Reload { changes: Vec<(String, Change)>, stop_timeout: Duration },
    /// The channel's listener stands.
    Listening { channel: String },
    /// It could not be bound.
    NotListening { channel: String },
    /// No process could be made for a [`Action::Spawn`].
    NotSpawned { worker: WorkerId },
    /// The worker accepts.
    Ready { worker: WorkerId },
    /// Any report.
    Report { worker: WorkerId },
    /// The worker closed its link.
    Mute { worker: WorkerId },
    /// The worker broke the contract of the link.
    Breach { worker: WorkerId },
    /// The process is dead.
    Died { worker: WorkerId, death: Death },
    /// HUP.
    Hangup,
    /// TERM or INT.
    Stop,
    /// Time passed. Wanted at the supervisor's deadline, once a second at least, and only when every report that has come
    /// was told.
    Tick,
}

/// What becomes of a channel at a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Start,
    Stop,
    Replace,
    Keep,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Make sure that the channel's listener stands; answer with `Listening` or `NotListening`.
    Listen { channel: String },
    /// Start a worker.
    Spawn { channel: String, worker: WorkerId, predecessor: Option<Death> },
    /// Order a drain.
    Drain { worker: WorkerId, timeout: Duration },
    /// Signal TERM: a worker that starts reads no orders yet.
    Terminate { worker: WorkerId },
    /// Signal KILL.
    Kill { worker: WorkerId, why: Why },
    /// KILL was sent, and the process is still there (it hangs in the kernel).
    Undead { worker: WorkerId },
    /// The channel is out of the configuration and its worker gone.
    Forget { channel: String },
    /// Load the file.
    Load,
    /// Every worker is gone, or will not go: leave.
    Exit,
}

/// Why a worker is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It reported nothing for so long; or closed its link and stayed.
    Silent(Duration),
    /// It broke the contract of the link.
    Breach,
    /// It did not drain in time.
    Overdue,
    /// A second TERM.
    AtOnce,
}
