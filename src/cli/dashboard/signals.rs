//! The main thread's part: it waits for signals. HUP reads the file again, TERM and INT end.

use super::board::Board;
use super::settings::Settings;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;

/// A file that could not be read at all is tried again so often, without anybody's asking.
const RETRY_MS: u16 = 30_000;

/// Takes the signals over. To be called before the first thread, which would get them otherwise.
pub(in crate::cli) fn block() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT].into_iter().for_each(|signal| set.add(signal));
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)
}

/// Returns when it is time to end.
pub(in crate::cli) fn serve(signals: &SignalFd, settings: &Settings, board: &Board) {
    loop {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(RETRY_MS)) {
            Ok(0) if settings.config().is_ok() => continue,
            Ok(0) => {}
            Ok(_) => match signals.read_signal() {
                Ok(Some(signal)) if signal.ssi_signo == Signal::SIGHUP as u32 => {}
                Ok(Some(_)) => return,
                _ => continue,
            },
            Err(_) => continue,
        }
        settings.reload();
        board.move_to(settings.runtime_path());
    }
}
