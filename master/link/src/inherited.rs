//! Descriptors that came with the program.

use rustix::fs::{Mode, OFlags, RawDir};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};

/// The first after standard input, output and error.
const FIRST: RawFd = 3;

/// Closes every descriptor but the standard ones. What somebody left open before the server started is no business of a
/// worker. To be called first of all, while the program has opened none itself.
///
/// # Errors
/// `/proc` cannot be read.
pub fn close_inherited() -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open("/proc/self/fd", flags, Mode::empty())?;
    let own = folder.as_raw_fd();
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(&folder, &mut buffer);
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        found.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<RawFd>().ok()));
    }
    for fd in found.into_iter().filter(|fd| *fd >= FIRST && *fd != own) {
        // SAFETY: the caller has opened nothing yet, so that no object of this program owns the descriptor.
        unsafe { rustix::io::close(fd) };
    }
    Ok(())
}
