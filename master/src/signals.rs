//! Signals as a descriptor to poll: the master has no handlers and so nothing that runs in between.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// What the master is told by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// HUP.
    Reload,
    /// TERM, INT.
    Stop,
    /// USR1.
    LogStatus,
    /// CHLD.
    ChildEnded,
}

const TAKEN: [(Signal, Told); 5] = [
    (Signal::SIGHUP, Told::Reload),
    (Signal::SIGTERM, Told::Stop),
    (Signal::SIGINT, Told::Stop),
    (Signal::SIGUSR1, Told::LogStatus),
    (Signal::SIGCHLD, Told::ChildEnded),
];

/// Signals that would end or disturb the master for nothing.
const IGNORED: [Signal; 2] = [Signal::SIGPIPE, Signal::SIGUSR2];

/// The open descriptor.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the signals above in this thread, which must be the only one, and takes them from a descriptor instead. A
    /// child gets none of that: std::process resets the mask between fork and exec.
    pub(crate) fn open() -> io::Result<Self> {
        let mut taken = SigSet::empty();
        TAKEN.iter().for_each(|(signal, _)| taken.add(*signal));
        let mut blocked = taken;
        IGNORED.iter().for_each(|signal| blocked.add(*signal));
        blocked.thread_block()?;
        let fd = SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { fd })
    }

    /// Never blocks: everything that is pending. What was taken before a read failed is told all the same: nobody says
    /// a second time that a child has ended.
    pub(crate) fn take(&self) -> Vec<Told> {
        let mut told = Vec::new();
        loop {
            match self.fd.read_signal() {
                Ok(Some(info)) => {
                    let signal = TAKEN.iter().find(|(signal, _)| *signal as u32 == info.ssi_signo);
                    told.extend(signal.map(|(_, told)| *told));
                }
                Ok(None) => return told,
                Err(e) => {
                    log::error!("could not read signals: {e}");
                    return told;
                }
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
