//! Files that steps write: whole and durable before a step is done, never a part of one under its final name, never in
//! the place of another.
//!
//! All files of a job are written under temporary names first; then their data are flushed together, then they are put
//! in place, then their folders are flushed. A process that dies on the way leaves at most temporary files, which the
//! next attempt of the same message writes anew.
//!
//! Where nobody waits for a file to appear it has no temporary name at all (`O_TMPFILE`) until it is linked in place: that
//! halves the work in the folder, whose lock the threads share, and a crash leaves nothing.

#[cfg(test)]
mod tests;

use crate::folders::{Folder, Folders, folder_path};
use crate::names::candidates;
use journal::MessageId;
use rustix::fs::{Advice, AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

const FILE_MODE: Mode = Mode::from_raw_mode(0o640);
/// Up to that many flushes one by one; above it the whole file system is flushed once, which costs about as much as two
/// or three single ones and does not grow with their number.
const SINGLE_FLUSHES_MAX: usize = 3;
/// From this size on the memory that a file takes is worth giving back, in bytes.
const LARGE_BYTES: usize = 64 << 10;
/// A larger file is written and flushed in pieces of that size, in bytes: who waits for the same disk to acknowledge
/// something waits for one of them, and not for the whole.
const PIECE_BYTES: usize = 1 << 20;
/// Files of a batch that are kept open until all are flushed together; further ones are flushed at once.
const OPEN_FILES_MAX: usize = 256;

/// Why a file could not be written. Every such fault may pass.
#[derive(Clone, Debug, PartialEq)]
pub struct FileFault {
    /// What could not be done, on which object, why.
    pub reason: String,
    /// The folder itself is at fault, so that other messages need not try.
    pub folder_down: bool,
}

/// A file to write.
#[derive(Debug)]
pub struct NewFile<'a> {
    /// The configured folder.
    pub root: &'a Path,
    /// Folders below it.
    pub below: &'a str,
    /// Its name without the suffix.
    pub stem: &'a str,
    /// With its dot.
    pub suffix: &'a str,
    /// Whose file it is.
    pub id: MessageId,
    /// Tells this file from the message's others: place of the step, number of the attachment.
    pub part: (usize, usize),
    /// How it comes under its name.
    pub arrival: Arrival,
    /// Order key of its message: a file is not put in place when an earlier one with this key and step was not.
    pub order: Option<u64>,
}

/// How a file comes under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Linked, where the file system can do that: an archive's, which is hardly read again soon.
    Linked,
    /// Renamed: what programs that watch a folder wait for (`IN_MOVED_TO`, inotify(7)).
    Moved,
}

/// Names a staged file of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged(usize);

/// The files of one job.
#[derive(Debug)]
pub struct FileBatch<'f> {
    folders: &'f mut Folders,
    checked: Vec<PathBuf>,
    files: Vec<StagedFile>,
}

#[derive(Debug)]
struct StagedFile {
    folder: Arc<Folder>,
    /// `None` where its data are flushed already; a file without a temporary name is always open.
    file: Option<File>,
    temporary: Option<String>,
    stem: String,
    suffix: String,
    id: MessageId,
    line: Option<(u64, usize)>,
    /// Nobody is expected to read it soon, and it takes memory that others have use for.
    leaves_memory: bool,
    fault: Option<FileFault>,
}

impl<'f> FileBatch<'f> {
    /// An empty batch.
    pub fn new(folders: &'f mut Folders) -> FileBatch<'f> {
        FileBatch { folders, checked: Vec::new(), files: Vec::new() }
    }

    /// Writes a file under a temporary name.
    ///
    /// # Errors
    /// The folder or the disk; nothing stays of the file.
    pub fn stage(&mut self, new: &NewFile<'_>, bytes: &[u8]) -> Result<Staged, FileFault> {
        let folder =
            self.folders.open(new.root, new.below, &mut self.checked).map_err(|errno| FileFault {
                reason: format!(
                    "could not open folder {:?}: {}",
                    folder_path(new.root, new.below),
                    text(errno)
                ),
                // The folder of one day says nothing of the others.
                folder_down: new.below.is_empty() || !new.root.is_dir(),
            })?;
        let is_early = self.files.len() < OPEN_FILES_MAX;
        let unnamed = (new.arrival == Arrival::Linked && is_early).then(|| create_unnamed(&folder)).flatten();
        let temporary =
            unnamed.is_none().then(|| format!(".hl7server-{}-{}-{}.part", new.id, new.part.0, new.part.1));
        let created = match &temporary {
            Some(name) => create(&folder, name),
            None => Ok(unnamed.expect("without a name it was made already")),
        };
        let written = created.and_then(|mut file| {
            write_in_pieces(&mut file, bytes)?;
            if is_early {
                return Ok(Some(file));
            }
            file.sync_data()?;
            Ok(None)
        });
        let mut staged = StagedFile {
            folder,
            file: None,
            temporary,
            stem: new.stem.to_owned(),
            suffix: new.suffix.to_owned(),
            id: new.id,
            line: new.order.map(|key| (key, new.part.0)),
            leaves_memory: new.arrival == Arrival::Linked && bytes.len() >= LARGE_BYTES,
            fault: None,
        };
        match written {
            Ok(file) => {
                staged.file = file;
                self.files.push(staged);
                Ok(Staged(self.files.len() - 1))
            }
            Err(error) => {
                staged.remove_temporary();
                self.folders.forget(&staged.folder);
                Err(fault("write", &staged.folder, &error))
            }
        }
    }

    /// Flushes and puts in place all files. The answer of [`Placed::of`] holds for every file by itself.
    pub fn commit(mut self) -> Placed {
        self.flush_data();
        let mut names = vec![None; self.files.len()];
        let mut held = Vec::new();
        for (at, staged) in self.files.iter_mut().enumerate() {
            if staged.fault.is_none() && staged.line.is_some_and(|line| held.contains(&line)) {
                let reason = "an earlier message of the same patient could not be put in place".to_owned();
                staged.fault = Some(FileFault { reason, folder_down: false });
            }
            if staged.fault.is_some() {
                held.extend(staged.line);
                continue;
            }
            match staged.put_in_place() {
                Ok(name) => names[at] = Some(name),
                Err(error) => {
                    staged.fault = Some(fault("put in place", &staged.folder, &error));
                    held.extend(staged.line);
                }
            }
        }
        self.flush_folders();
        let mut outcomes = Vec::with_capacity(self.files.len());
        for (staged, name) in self.files.iter().zip(names) {
            staged.leave_memory();
            if staged.fault.is_some() {
                staged.remove_temporary();
                self.folders.forget(&staged.folder);
            }
            outcomes.push(match (&staged.fault, name) {
                (None, Some(name)) => Ok(staged.folder.path().join(name)),
                (fault, _) => Err(fault.clone().expect("a file without a name has its fault")),
            });
        }
        Placed(outcomes)
    }

    fn flush_data(&mut self) {
        let files = (0..self.files.len()).map(|at| (at, vec![at])).collect();
        self.flush(files, |staged| staged.file.as_ref().map_or(Ok(()), rustix::fs::fdatasync));
    }

    fn flush_folders(&mut self) {
        let mut folders: Vec<(usize, Vec<usize>)> = Vec::new();
        for (at, staged) in self.files.iter().enumerate().filter(|(_, s)| s.fault.is_none()) {
            match folders
                .iter_mut()
                .find(|(first, _)| Arc::ptr_eq(&self.files[*first].folder, &staged.folder))
            {
                Some((_, same)) => same.push(at),
                None => folders.push((at, vec![at])),
            }
        }
        self.flush(folders, |staged| rustix::fs::fsync(&*staged.folder));
    }

    /// Flushes objects (one of the files that show each, and all files that hang on it) one by one by `one`, or, where
    /// they are many, the file systems they are on.
    fn flush(
        &mut self,
        mut objects: Vec<(usize, Vec<usize>)>,
        one: impl Fn(&StagedFile) -> rustix::io::Result<()>,
    ) {
        let whole = |at: usize| self.files[at].folder.flushes_whole();
        let many = objects.len() > SINGLE_FLUSHES_MAX && objects.iter().all(|(at, _)| whole(*at));
        if many {
            let mut systems: Vec<(usize, Vec<usize>)> = Vec::new();
            for (first, files) in objects {
                let device = self.files[first].folder.device();
                match systems.iter_mut().find(|(s, _)| self.files[*s].folder.device() == device) {
                    Some((_, same)) => same.extend(files),
                    None => systems.push((first, files)),
                }
            }
            objects = systems;
        }
        for (first, files) in objects {
            let staged = &self.files[first];
            let flushed = if many { rustix::fs::syncfs(&*staged.folder) } else { one(staged) };
            self.spoil(&files, flushed);
        }
    }

    fn spoil(&mut self, files: &[usize], flushed: rustix::io::Result<()>) {
        let Err(errno) = flushed else { return };
        for at in files {
            let staged = &mut self.files[*at];
            staged.fault.get_or_insert_with(|| fault("flush", &staged.folder, &errno.into()));
        }
    }
}

/// What became of the files of a batch.
#[derive(Debug)]
pub struct Placed(Vec<Result<PathBuf, FileFault>>);

impl Placed {
    /// Where a file is now, or why it is not.
    pub fn of(&self, staged: Staged) -> Result<&Path, &FileFault> {
        self.0[staged.0].as_deref()
    }
}

impl StagedFile {
    /// Under its own name, or one with the message id where that is taken by other bytes. The same bytes under the name
    /// are this file, written by an attempt that did not live to say so.
    fn put_in_place(&mut self) -> std::io::Result<String> {
        for name in candidates(&self.stem, &self.suffix, self.id) {
            let placed = match (&self.temporary, &self.file) {
                (Some(temporary), _) => rename_noreplace(&self.folder, temporary, &name),
                (None, file) => link(file.as_ref().expect("it has no name: it is open"), &self.folder, &name),
            };
            match placed {
                Ok(()) => return Ok(name),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            if self.is_same(&name)? {
                self.remove_temporary();
                return Ok(name);
            }
        }
        Err(Errno::EXIST.into())
    }

    /// What is flushed and will hardly be read again need not push out of the system's memory what is: the next files
    /// get the pages at once, while they are still near the processor.
    fn leave_memory(&self) {
        if self.leaves_memory
            && let Some(file) = &self.file
        {
            // Only advice: whether it is taken or not, the file is as it is.
            let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
        }
    }

    /// What cannot be removed is written over by the next attempt.
    fn remove_temporary(&self) {
        if let Some(temporary) = &self.temporary {
            let _ = rustix::fs::unlinkat(&*self.folder, temporary, AtFlags::empty());
        }
    }

    fn is_same(&self, name: &str) -> std::io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let theirs = match rustix::fs::openat(&*self.folder, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(errno) if FOREIGN.contains(&errno) => return Ok(false),
            // No descriptor left, a disk that fails: what stands there may well be ours.
            Err(errno) => return Err(errno.into()),
        };
        let meta = theirs.metadata()?;
        let ours = match (&self.temporary, &self.file) {
            (Some(temporary), _) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                File::from(rustix::fs::openat(&*self.folder, temporary, flags, Mode::empty())?)
            }
            (None, file) => {
                let mut file = file.as_ref().expect("it has no name: it is open").try_clone()?;
                file.rewind()?;
                file
            }
        };
        if !meta.is_file() || meta.len() != ours.metadata()?.len() {
            return Ok(false);
        }
        if !same_bytes(ours, &theirs)? {
            return Ok(false);
        }
        // It may stand in the page cache only, from an attempt that died before its flush.
        theirs.sync_data()?;
        Ok(true)
    }
}

fn same_bytes(mut a: File, mut b: &File) -> std::io::Result<bool> {
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let n = a.read(&mut left)?;
        if n == 0 {
            return Ok(b.read(&mut right[..1])? == 0);
        }
        match b.read_exact(&mut right[..n]) {
            Ok(()) if left[..n] == right[..n] => {}
            Ok(()) => return Ok(false),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(e),
        }
    }
}

/// Writes a file of our own state whole: temporary name, data flushed, put in place, folder flushed.
///
/// # Errors
/// The disk; what stood under the name before still does.
pub fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    let temporary = PathBuf::from(temporary);
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_data());
    if let Err(error) = written.and_then(|()| std::fs::rename(&temporary, path)) {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn create(folder: &Folder, name: &str) -> std::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags, FILE_MODE) {
        // Left behind by an attempt that died.
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
            Ok(File::from(rustix::fs::openat(folder, name, flags, FILE_MODE)?))
        }
        other => Ok(File::from(other?)),
    }
}

/// A file of the folder that has no name yet; `None` where there can be none, or the folder refuses: by name it gets a
/// reason to tell.
fn create_unnamed(folder: &Folder) -> Option<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let can = folder.flushes_whole() && *CAN_LINK;
    can.then(|| rustix::fs::openat(folder, ".", flags, FILE_MODE).ok().map(File::from)).flatten()
}

fn write_in_pieces(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    let (paced, last) = bytes.split_at(bytes.len().saturating_sub(1) / PIECE_BYTES * PIECE_BYTES);
    for piece in paced.chunks(PIECE_BYTES) {
        file.write_all(piece)?;
        file.sync_data()?;
    }
    file.write_all(last)
}

/// Linking by descriptor goes through `/proc` where the system wants a privilege for the other way (before Linux 6.10).
static CAN_LINK: LazyLock<bool> = LazyLock::new(|| Path::new("/proc/self/fd").is_dir());

/// Whether the other way, which is quicker, has not been refused yet.
static LINKS_BY_DESCRIPTOR: AtomicBool = AtomicBool::new(true);

fn link(file: &File, folder: &Folder, name: &str) -> rustix::io::Result<()> {
    let tries = LINKS_BY_DESCRIPTOR.load(Relaxed);
    if tries {
        match rustix::fs::linkat(file, "", folder, name, AtFlags::EMPTY_PATH) {
            // For want of the privilege, or of the folder.
            Err(Errno::NOENT) => {}
            done => return done,
        }
    }
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let linked = rustix::fs::linkat(CWD, own, folder, name, AtFlags::SYMLINK_FOLLOW);
    if tries && linked.is_ok() {
        LINKS_BY_DESCRIPTOR.store(false, Relaxed);
    }
    linked
}

/// `RENAME_NOREPLACE`, or what comes next to it on a file system without it (NFS, some FUSE).
fn rename_noreplace(folder: &Folder, from: &str, to: &str) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        other => return other,
    }
    match rustix::fs::linkat(folder, from, folder, to, AtFlags::empty()) {
        Ok(()) => rustix::fs::unlinkat(folder, from, AtFlags::empty()),
        Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::MLINK) => {
            match rustix::fs::statat(folder, to, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST),
                Err(Errno::NOENT) => rustix::fs::renameat(folder, from, folder, to),
                Err(errno) => Err(errno),
            }
        }
        Err(errno) => Err(errno),
    }
}

/// What opening a file says that cannot be ours: a link, a socket, somebody else's, or none any more.
const FOREIGN: [Errno; 6] =
    [Errno::LOOP, Errno::NXIO, Errno::NODEV, Errno::ACCESS, Errno::PERM, Errno::NOENT];

/// Faults of one file, not of its folder.
const OWN_FAULTS: [Errno; 8] = [
    Errno::LOOP,
    Errno::NAMETOOLONG,
    Errno::EXIST,
    Errno::ISDIR,
    Errno::NOENT,
    Errno::FBIG,
    Errno::MFILE,
    Errno::NFILE,
];

/// The reason names the folder and not the file: file names hold patient ids.
fn fault(what: &str, folder: &Folder, error: &std::io::Error) -> FileFault {
    let own = OWN_FAULTS.map(Errno::raw_os_error);
    FileFault {
        reason: format!("could not {what} a file in {:?}: {}", folder.path(), plain(error)),
        folder_down: !error.raw_os_error().is_some_and(|raw| own.contains(&raw)),
    }
}

fn text(errno: Errno) -> String {
    plain(&errno.into())
}

/// The system's words without Rust's `(os error N)`, in lower case as all our messages.
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
