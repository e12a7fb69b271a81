//! A real folder, locked by `flock` for as long as it is held.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use super::{File, Room, Storage};

/// A folder of the file system. Names are resolved against the open folder, so that it may be moved, and
/// a symbolic link under one of them is never followed.
#[derive(Debug)]
pub struct FileStorage {
    folder: std::fs::File,
    writable: bool,
}

/// Why a folder could not be had.
#[derive(Debug)]
pub enum OpenFault {
    /// Another process (or another handle of this one) has it.
    Locked,
    /// It could not be created, opened or locked.
    Io(io::Error),
}

impl fmt::Display for OpenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenFault::Locked => write!(f, "another process has the journal open"),
            OpenFault::Io(cause) => write!(f, "could not open the journal's folder: {cause}"),
        }
    }
}

impl std::error::Error for OpenFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenFault::Locked => None,
            OpenFault::Io(cause) => Some(cause),
        }
    }
}

impl From<io::Error> for OpenFault {
    fn from(cause: io::Error) -> Self {
        OpenFault::Io(cause)
    }
}

impl FileStorage {
    /// Creates the folder (mode 0750 less the umask, its parent flushed) unless it is there, and locks it.
    /// The lock is given back when the last journal and reader over it are gone, by the kernel if need be.
    ///
    /// # Errors
    /// [`OpenFault::Locked`] when another has it, else what the system says.
    pub fn open(path: &Path) -> Result<FileStorage, OpenFault> {
        create_folder(path)?;
        let folder = std::fs::File::open(path)?;
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(FileStorage { folder, writable: true }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenFault::Locked),
            Err(error) => Err(OpenFault::Io(error.into())),
        }
    }

    /// The folder without its lock, for looking only: nothing can be written through it.
    ///
    /// # Errors
    /// What the system says, `NotFound` where there is no folder.
    pub fn look(path: &Path) -> io::Result<FileStorage> {
        Ok(FileStorage { folder: std::fs::File::open(path)?, writable: false })
    }

    fn open_at(&self, name: &str, flags: OFlags) -> io::Result<FolderFile> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // Patient data: nobody but the owner reads it.
        let fd = rustix::fs::openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(FolderFile(fd.into()))
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

/// Creates a folder and its parents; each new name is flushed into the folder that holds it.
fn create_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_folder(parent)?;
    match std::fs::DirBuilder::new().mode(0o750).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    std::fs::File::open(parent)?.sync_all()
}

impl Storage for FileStorage {
    type File = FolderFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.folder)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<FolderFile> {
        self.check_writable()?;
        self.open_at(name, OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)
    }

    fn open(&self, name: &str) -> io::Result<FolderFile> {
        self.open_at(name, if self.writable { OFlags::RDWR } else { OFlags::RDONLY })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        Ok(rustix::fs::unlinkat(&self.folder, name, AtFlags::empty())?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        Ok(rustix::fs::renameat(&self.folder, from, &self.folder, to)?)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.folder.sync_all()
    }

    fn room(&self) -> io::Result<Room> {
        let is = rustix::fs::fstatvfs(&self.folder)?;
        Ok(Room {
            free_bytes: is.f_bavail.saturating_mul(is.f_frsize),
            total_bytes: is.f_blocks.saturating_mul(is.f_frsize),
        })
    }
}

/// A file of a [`FileStorage`].
#[derive(Debug)]
pub struct FolderFile(std::fs::File);

impl File for FolderFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(into, offset)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(&self.0, parts, offset)?)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opener_is_refused_and_a_looker_is_not() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b/journal");
        let held = FileStorage::open(&path).unwrap();
        assert!(matches!(FileStorage::open(&path), Err(OpenFault::Locked)));
        let looker = FileStorage::look(&path).unwrap();
        assert!(looker.create("x").is_err() && looker.remove("x").is_err());
        drop(held);
        assert!(FileStorage::open(&path).is_ok());
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let storage = FileStorage::open(&place.path().join("journal")).unwrap();
        std::fs::write(place.path().join("target"), b"x").unwrap();
        std::os::unix::fs::symlink("../target", place.path().join("journal/link")).unwrap();
        assert!(storage.open("link").is_err());
        assert!(storage.create("link").is_err());
        assert_eq!(std::fs::read(place.path().join("target")).unwrap(), b"x");
    }
}
