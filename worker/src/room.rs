//! Whether the disk has room for another message: below a low-water mark the channel stops reading BEFORE its disk is
//! full, so that what waits can still be finished.

use std::path::Path;

/// The mark is this many bytes, or one percent of the disk where that is less.
const LOW_WATER_BYTES: u64 = 64 << 20;

/// Whether more than the low-water mark is free where `path` is. A disk that cannot be asked counts as having room: the
/// write itself will tell.
pub fn has_room(path: &Path) -> bool {
    match rustix::fs::statvfs(path) {
        Ok(disk) => disk.f_bavail * disk.f_frsize > LOW_WATER_BYTES.min(disk.f_blocks * disk.f_frsize / 100),
        Err(_) => true,
    }
}
