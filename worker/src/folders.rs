//! The folders that steps write into: opened once, made where absent, never reached through a link that somebody
//! planted below the configured root.

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FOLDER_MODE: Mode = Mode::from_raw_mode(0o750);
const OPEN_FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// ext2 to ext4, XFS, Btrfs, tmpfs (`statfs`(2)).
const SYNCFS_SYSTEMS: [i64; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994];
/// Folders kept open by a delivery thread; above that all are closed and opened anew.
const KEPT_MAX: usize = 64;

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    device: u64,
    inode: u64,
    flushes_whole: bool,
}

impl Folder {
    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether flushing the whole file system (`syncfs`) is known to bring everything to the disk. FUSE and network file
    /// systems may only seem to.
    pub fn flushes_whole(&self) -> bool {
        self.flushes_whole
    }

    /// The file system it is on.
    pub fn device(&self) -> u64 {
        self.device
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The folders that one delivery thread keeps open.
#[derive(Debug, Default)]
pub struct Folders {
    open: HashMap<PathBuf, Arc<Folder>>,
}

impl Folders {
    /// The folder `below` (a relative path, from a time format) of `root`, made and made durable where absent.
    /// `checked` holds the folders already looked at in this job.
    ///
    /// # Errors
    /// What the system says of the first part that can be neither opened nor made; `ELOOP` for a symbolic link below
    /// the root.
    pub fn open(
        &mut self,
        root: &Path,
        below: &str,
        checked: &mut Vec<PathBuf>,
    ) -> Result<Arc<Folder>, Errno> {
        let path = folder_path(root, below);
        if let Some(folder) = self.open.get(&path) {
            if checked.contains(&path) || still_there(folder) {
                if !checked.contains(&path) {
                    checked.push(path);
                }
                return Ok(Arc::clone(folder));
            }
            self.open.remove(&path);
        }
        if self.open.len() >= KEPT_MAX {
            self.open.clear();
        }
        let folder = Arc::new(open(root, below, path.clone())?);
        self.open.insert(path.clone(), Arc::clone(&folder));
        checked.push(path);
        Ok(folder)
    }

    /// Forgets a folder that gave an error, so that the next attempt opens it anew.
    pub fn forget(&mut self, folder: &Folder) {
        self.open.remove(&folder.path);
    }
}

/// The path of a folder below a root; an empty `below` is the root itself.
pub fn folder_path(root: &Path, below: &str) -> PathBuf {
    if below.is_empty() { root.to_owned() } else { root.join(below) }
}

/// A folder that was removed, replaced or mounted over since it was opened is not the one at its path any more.
fn still_there(folder: &Folder) -> bool {
    rustix::fs::stat(&folder.path).is_ok_and(|s| s.st_dev == folder.device && s.st_ino == folder.inode)
}

fn open(root: &Path, below: &str, path: PathBuf) -> Result<Folder, Errno> {
    let (mut fd, parent) = open_root(root)?;
    let mut above: Vec<OwnedFd> = parent.into_iter().collect();
    for part in below.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            return Err(Errno::XDEV);
        }
        let child = open_or_make(fd.as_fd(), Path::new(part), OFlags::NOFOLLOW)?;
        above.push(std::mem::replace(&mut fd, child));
    }
    // At last, and whoever comes next flushes all of them too: what a file system with a journal flushes first takes the
    // names in the others along.
    above.iter().try_for_each(|folder| flush_folder(folder.as_fd()))?;
    let stat = rustix::fs::fstat(&fd)?;
    let kind = rustix::fs::fstatfs(&fd)?.f_type;
    let flushes_whole = SYNCFS_SYSTEMS.contains(&(kind as i64));
    Ok(Folder { fd, path, device: stat.st_dev, inode: stat.st_ino, flushes_whole })
}

/// Ends what an earlier process may have left between making a folder and flushing the one it is in.
fn flush_folder(folder: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::fs::fsync(folder) {
        // Some file systems know no flush of folders.
        Ok(()) | Err(Errno::INVAL | Errno::NOTSUP | Errno::ROFS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// A root and the folder that it is in, which is yet to be flushed. The root is the administrator's: links in its path are
/// followed.
fn open_root(root: &Path) -> Result<(OwnedFd, Option<OwnedFd>), Errno> {
    let parent = root.parent();
    match rustix::fs::openat(CWD, root, OPEN_FOLDER, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => {
            // A parent that cannot be read was not made by us.
            let readable = |parent| rustix::fs::openat(CWD, parent, OPEN_FOLDER, Mode::empty()).ok();
            return Ok((other?, parent.and_then(readable)));
        }
    }
    let parent = parent.ok_or(Errno::NOENT)?;
    let name = root.file_name().ok_or(Errno::NOENT)?;
    let (parent, above) = open_root(parent)?;
    // Now: once the root is there, nobody looks above its parent.
    above.iter().try_for_each(|folder| flush_folder(folder.as_fd()))?;
    let root = open_or_make(parent.as_fd(), Path::new(name), OFlags::empty())?;
    Ok((root, Some(parent)))
}

/// Folders that are there and may not be durable yet.
#[must_use = "nothing in them is durable before they are"]
#[derive(Debug)]
pub struct Unflushed {
    root: PathBuf,
    folder: OwnedFd,
}

/// A channel's own folder with these in it, made where absent. Nothing is flushed so far: what is written into them at first
/// has its own flushes, which on a file system with a journal take the new names along.
///
/// # Errors
/// What the system says of the first that can be neither opened nor made, and its path.
pub fn make(root: &Path, names: &[&str]) -> Result<Unflushed, (PathBuf, Errno)> {
    let (folder, _) = open_root(root).map_err(|errno| (root.to_owned(), errno))?;
    for name in names {
        open_or_make(folder.as_fd(), Path::new(name), OFlags::NOFOLLOW)
            .map_err(|errno| (root.join(name), errno))?;
    }
    Ok(Unflushed { root: root.to_owned(), folder })
}

impl Unflushed {
    /// Flushes what they hold by name, up to the root of the file system: the master, or a start that was broken off, made
    /// any of those above and flushed none. One that has nothing to flush takes no time.
    ///
    /// # Errors
    /// What the system says. A folder that cannot be read was not made by us.
    pub fn flush(self) -> Result<(), Errno> {
        flush_folder(self.folder.as_fd())?;
        for above in self.root.ancestors().skip(1).filter(|above| *above != Path::new("")) {
            if let Ok(folder) = rustix::fs::openat(CWD, above, OPEN_FOLDER, Mode::empty()) {
                flush_folder(folder.as_fd())?;
            }
        }
        Ok(())
    }
}

/// The parent is yet to be flushed.
fn open_or_make(parent: BorrowedFd<'_>, name: &Path, extra: OFlags) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat(parent, name, OPEN_FOLDER | extra, Mode::empty()) {
        Err(Errno::NOENT) => {}
        // A link with O_DIRECTORY and O_NOFOLLOW is "not a directory": say what it is.
        Err(Errno::NOTDIR) if is_link(parent, name) => return Err(Errno::LOOP),
        other => return other,
    }
    match rustix::fs::mkdirat(parent, name, FOLDER_MODE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    rustix::fs::openat(parent, name, OPEN_FOLDER | extra, Mode::empty())
}

fn is_link(parent: BorrowedFd<'_>, name: &Path) -> bool {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_symlink())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_folders_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let mut folders = Folders::default();
        let folder = folders.open(&root, "2026/01/02", &mut Vec::new()).unwrap();
        assert_eq!(folder.path(), root.join("2026/01/02"));
        assert!(root.join("2026/01/02").is_dir());
    }

    #[test]
    fn a_channels_folders_are_made_and_flushed_whatever_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("state/adt");
        for _ in 0..2 {
            make(&root, &["failed", "journal"]).unwrap().flush().unwrap();
            assert!(root.join("failed").is_dir() && root.join("journal").is_dir());
        }
        std::fs::write(root.join("file"), "").unwrap();
        let (path, errno) = make(&root, &["failed", "file"]).unwrap_err();
        assert_eq!((path, errno), (root.join("file"), Errno::NOTDIR));
    }

    #[test]
    fn a_link_below_the_root_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("/tmp", root.join("2026")).unwrap();
        let errno = Folders::default().open(&root, "2026/01", &mut Vec::new()).unwrap_err();
        assert_eq!(errno, Errno::LOOP);
        let errno = Folders::default().open(&root, "../x", &mut Vec::new()).unwrap_err();
        assert_eq!(errno, Errno::XDEV);
    }

    #[test]
    fn a_folder_that_was_replaced_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let mut folders = Folders::default();
        let first = folders.open(&root, "", &mut Vec::new()).unwrap();
        std::fs::rename(&root, dir.path().join("old")).unwrap();
        let second = folders.open(&root, "", &mut Vec::new()).unwrap();
        assert_ne!(first.inode, second.inode);
    }
}
