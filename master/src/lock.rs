//! Only one master works on a state folder.

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The lock's file in the state folder. A dot keeps it out of the names of channels.
const FILE: &str = ".master.lock";

/// A locked state folder, until it is dropped; the system lets go of it when the process dies, however it does.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: OwnedFd,
}

/// Why a state folder was not locked.
#[derive(Debug)]
pub(crate) enum LockFault {
    /// Another process holds it.
    Held,
    /// The folder or file could not be made.
    Io(io::Error),
}

impl StateLock {
    /// Locks a folder, which is made where it is missing. Never blocks.
    pub(crate) fn take(state_path: &Path) -> Result<Self, LockFault> {
        std::fs::create_dir_all(state_path).map_err(LockFault::Io)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = open(state_path.join(FILE), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| LockFault::Io(e.into()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(LockFault::Held),
            Err(e) => Err(LockFault::Io(e.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("deep/state");
        let first = StateLock::take(&state).unwrap();
        assert!(matches!(StateLock::take(&state), Err(LockFault::Held)));
        drop(first);
        assert!(StateLock::take(&state).is_ok());
    }
}
