//! Signals as events: blocked everywhere, read by the event loop.

use nix::sys::signal::{SigSet, Signal as Number};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// What a signal asks of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// TERM, INT: drain.
    Drain,
    /// USR1: a status line into the log.
    Status,
}

/// The signals of this process.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks them in this thread and those it starts. HUP is the master's: here it does nothing. XFSZ is blocked so
    /// that a file limit is an error of the write, not the end of the process.
    ///
    /// # Errors
    /// The system gives no signal descriptor.
    pub fn block() -> io::Result<Signals> {
        let mut mask = SigSet::empty();
        for number in [Number::SIGTERM, Number::SIGINT, Number::SIGUSR1, Number::SIGHUP] {
            mask.add(number);
        }
        let read = mask;
        mask.add(Number::SIGXFSZ);
        mask.add(Number::SIGUSR2);
        mask.thread_block()?;
        Ok(Signals { fd: SignalFd::with_flags(&read, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// The next signal that came.
    pub fn next(&mut self) -> Option<Signal> {
        loop {
            let info = self.fd.read_signal().ok().flatten()?;
            match Number::try_from(info.ssi_signo as i32) {
                Ok(Number::SIGTERM | Number::SIGINT) => return Some(Signal::Drain),
                Ok(Number::SIGUSR1) => return Some(Signal::Status),
                _ => {}
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
