//! One file on its way into a remote folder.

use super::session::{Refusal, RefusalKind, Session, Trouble};
use crate::names::candidates;
use journal::MessageId;
use ssh2::{FileStat, OpenFlags, OpenType, RenameFlags};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const FILE_MODE: i32 = 0o640;
const FOLDER_MODE: i32 = 0o750;
/// Handed to libssh2 at a time; it keeps that much under way.
const WINDOW_BYTES: usize = 256 << 10;
/// Slower than this, over a first allowance, is no transfer but a server that holds a thread: each single wait may be
/// short of its timeout for hours.
const SLOWEST_BYTES_S: u64 = 16 << 10;
const ALLOWANCE: Duration = Duration::from_secs(60);
/// Parts of a folder's path; each that is missing is a request.
const PARTS_MAX: usize = 64;

/// Temporary names by how many renames of theirs never got an answer, in this process. A server that was frozen may
/// still carry one out, at any time: a name that such a rename knows is not used again, or it could put half of a later
/// attempt in place.
static IN_DOUBT: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());
/// Files in doubt at a time; each is forgotten once it is in place.
const IN_DOUBT_MAX: usize = 1000;

/// A file to put.
pub struct NewFile<'a> {
    /// The configured folder.
    pub root: &'a str,
    /// Folders below it.
    pub below: &'a str,
    /// Its name without the suffix.
    pub stem: &'a str,
    /// With its dot.
    pub suffix: &'a str,
    /// Whose file it is.
    pub id: MessageId,
    /// What is in it.
    pub bytes: &'a [u8],
}

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// Its path over there.
    pub path: String,
    /// It stood there already, written by an earlier attempt.
    pub was_there: bool,
}

impl NewFile<'_> {
    /// The folder it goes into.
    pub fn folder(&self) -> String {
        join(self.root, self.below)
    }

    fn temporary(&self) -> String {
        let base = self.temporary_base();
        match doubts().get(&base) {
            None => format!("{base}.part"),
            Some(n) => format!("{base}.{n}.part"),
        }
    }

    fn temporary_base(&self) -> String {
        join(&self.folder(), &format!(".{}{}.{}", self.stem, self.suffix, self.id))
    }

    fn is_in_doubt(&self) {
        let mut doubts = doubts();
        if doubts.len() >= IN_DOUBT_MAX {
            doubts.clear();
        }
        *doubts.entry(self.temporary_base()).or_default() += 1;
    }
}

fn doubts() -> MutexGuard<'static, BTreeMap<String, u32>> {
    IN_DOUBT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a file in place. `begun` is set once anything was written; `left` holds temporaries that renames in doubt left
/// behind, which are cleared away. One that was lost while it was written is not among them: it is written anew.
pub fn put(
    session: &mut Session,
    file: &NewFile<'_>,
    left: &mut Vec<String>,
    begun: &mut bool,
) -> Result<PutOutcome, Trouble> {
    let folder = file.folder();
    make_folder(session, &folder)?;
    while let Some(path) = left.last() {
        if let Err(Trouble::Lost(reason)) = clear(session, path) {
            return Err(Trouble::Lost(reason));
        }
        left.pop();
    }
    let mut written = None;
    for name in candidates(file.stem, file.suffix, file.id) {
        let path = join(&folder, &name);
        if let Some(stat) = session.look(&path)? {
            if is_same(session, &path, &stat, file.bytes)? {
                doubts().remove(&file.temporary_base());
                return Ok(PutOutcome { path, was_there: true });
            }
            continue;
        }
        let temporary = match written.take() {
            Some(temporary) => temporary,
            None => {
                *begun = true;
                let temporary = file.temporary();
                let write = write(session, &temporary, file.bytes);
                settle(session, write, &temporary)?;
                temporary
            }
        };
        let renamed = session
            .sftp()
            .rename(Path::new(&temporary), Path::new(&path), Some(RenameFlags::empty()))
            .map_err(|error| session.trouble(&error));
        if let Err(Trouble::Lost(_)) = renamed {
            file.is_in_doubt();
            left.push(temporary.clone());
        }
        match renamed {
            Ok(()) => {
                doubts().remove(&file.temporary_base());
                return Ok(PutOutcome { path, was_there: false });
            }
            // Somebody took the name meanwhile: SFTP has no word for it that all servers use.
            Err(Trouble::Refused(_)) if session.look(&path)?.is_some() => written = Some(temporary),
            Err(trouble) => settle(session, Err(trouble), &temporary)?,
        }
    }
    if let Some(temporary) = written {
        clear(session, &temporary)?;
    }
    Err(Trouble::Refused(Refusal { kind: RefusalKind::Name, words: "every name for it is taken".to_owned() }))
}

/// Shows that a file could be put: into a folder that is there or can be made.
pub fn probe(session: &mut Session, folder: &str) -> Result<(), Trouble> {
    make_folder(session, folder)?;
    let path = join(folder, &format!(".hl7server-probe-{}.part", std::process::id()));
    let write = write(session, &path, b"probe");
    settle(session, write, &path)?;
    clear(session, &path)
}

/// Passes a result on; after a refusal the temporary is removed.
fn settle(session: &Session, result: Result<(), Trouble>, temporary: &str) -> Result<(), Trouble> {
    if let Err(Trouble::Refused(_)) = &result {
        // Should this fail too, the first fault is the one to tell.
        drop(clear(session, temporary));
    }
    result
}

/// Writes a file that is not there yet, flushed and as long as it should be.
fn write(session: &mut Session, path: &str, bytes: &[u8]) -> Result<(), Trouble> {
    let mut file = create(session, path)?;
    let slowest = Duration::from_secs(bytes.len() as u64 / SLOWEST_BYTES_S);
    let deadline = Instant::now() + ALLOWANCE + slowest;
    let mut done = 0;
    while done < bytes.len() {
        let window = &bytes[done..bytes.len().min(done + WINDOW_BYTES)];
        match file.write(window) {
            Ok(n) => done += n,
            Err(error) => return Err(write_trouble(session, &mut file, &error)),
        }
        if Instant::now() > deadline {
            let reason = format!("it took {done} of {} bytes in {:?}", bytes.len(), ALLOWANCE + slowest);
            return Err(session.lost(reason));
        }
    }
    flush(session, &mut file)?;
    // A server may only now say that there was no room.
    file.close().map_err(|error| session.trouble(&error))?;
    match session.look(path)?.and_then(|stat| stat.size) {
        Some(size) if size == bytes.len() as u64 => Ok(()),
        found => Err(Refusal::other(format!(
            "of {} bytes that were written {} are there",
            bytes.len(),
            found.map_or("none".to_owned(), |n| n.to_string())
        ))),
    }
}

/// Exclusively: what stands there is ours, from an attempt that was cut off, and is removed and not written into. A
/// server that still works at that attempt then holds another file than this one.
fn create(session: &mut Session, path: &str) -> Result<ssh2::File, Trouble> {
    let flags = OpenFlags::WRITE | OpenFlags::EXCLUSIVE;
    let open = |session: &Session| {
        let file = session.sftp().open_mode(Path::new(path), flags, FILE_MODE, OpenType::File);
        file.map_err(|error| session.trouble(&error))
    };
    match open(session) {
        Err(Trouble::Refused(refusal)) => {
            if session.look(path)?.is_some() {
                clear(session, path)?;
                return open(session);
            }
            // The folder that was there a while ago may have been removed.
            if refusal.kind == RefusalKind::Absent
                && let Some(folder) = session.folder.take()
            {
                make_folder(session, &folder)?;
                return open(session);
            }
            Err(Trouble::Refused(refusal))
        }
        other => other,
    }
}

fn flush(session: &mut Session, file: &mut ssh2::File) -> Result<(), Trouble> {
    if !session.flushes {
        return Ok(());
    }
    match file.fsync().map_err(|error| session.trouble(&error)) {
        Err(Trouble::Refused(Refusal { kind: RefusalKind::Unsupported, .. })) => {
            session.flushes = false;
            Ok(())
        }
        other => other,
    }
}

/// OpenSSH says "failure" for a full disk: whether it is one can be asked.
fn write_trouble(session: &Session, file: &mut ssh2::File, error: &std::io::Error) -> Trouble {
    let trouble = session.file_trouble(error);
    if let Trouble::Refused(_) = trouble
        && let Ok(system) = file.statvfs()
        && system.f_bavail == 0
    {
        return Refusal::other("no space left on its disk".to_owned());
    }
    trouble
}

/// Whether the file at `path` is the one to put: written by an earlier attempt. It is flushed then, since that attempt
/// may have died before.
fn is_same(session: &mut Session, path: &str, stat: &FileStat, bytes: &[u8]) -> Result<bool, Trouble> {
    if !stat.is_file() || stat.size != Some(bytes.len() as u64) {
        return Ok(false);
    }
    let mut file = match session.sftp().open(Path::new(path)).map_err(|error| session.trouble(&error)) {
        Ok(file) => file,
        // Nobody's that we may read: other bytes.
        Err(Trouble::Refused(_)) => return Ok(false),
        Err(trouble) => return Err(trouble),
    };
    let mut buffer = vec![0; WINDOW_BYTES.min(bytes.len() + 1)];
    let mut rest = bytes;
    loop {
        let n = file.read(&mut buffer).map_err(|error| session.file_trouble(&error))?;
        if n == 0 {
            break;
        }
        match rest.strip_prefix(&buffer[..n]) {
            Some(after) => rest = after,
            None => return Ok(false),
        }
    }
    if !rest.is_empty() {
        return Ok(false);
    }
    flush(session, &mut file)?;
    Ok(true)
}

fn clear(session: &Session, path: &str) -> Result<(), Trouble> {
    match session.sftp().unlink(Path::new(path)).map_err(|error| session.trouble(&error)) {
        Err(Trouble::Refused(Refusal { kind: RefusalKind::Absent, .. })) => Ok(()),
        other => other,
    }
}

/// Makes a folder and those above it, where they are not there.
fn make_folder(session: &mut Session, folder: &str) -> Result<(), Trouble> {
    if session.folder.as_deref() == Some(folder) {
        return Ok(());
    }
    let mut missing = Vec::new();
    let mut path = folder;
    while !path.is_empty() && missing.len() < PARTS_MAX {
        match session.is_folder(path)? {
            Some(true) => break,
            Some(false) => return Err(Refusal::other(format!("{path:?} is no folder"))),
            None => missing.push(path),
        }
        path = path.trim_end_matches('/').rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    for path in missing.into_iter().rev() {
        let made =
            session.sftp().mkdir(Path::new(path), FOLDER_MODE).map_err(|error| session.trouble(&error));
        match made {
            Ok(()) => {}
            // Another thread may have been faster.
            Err(Trouble::Refused(_)) if session.is_folder(path)? == Some(true) => {}
            Err(Trouble::Refused(refusal)) => {
                let words = format!("folder {path:?} is not there and could not be made: {}", refusal.words);
                return Err(Refusal::other(words));
            }
            Err(trouble) => return Err(trouble),
        }
    }
    session.folder = Some(folder.to_owned());
    Ok(())
}

fn join(folder: &str, name: &str) -> String {
    match (folder, name) {
        (folder, "") => folder.to_owned(),
        ("", name) => name.to_owned(),
        (folder, name) => format!("{}/{name}", folder.trim_end_matches('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_once() {
        assert_eq!(join("/in", "a"), "/in/a");
        assert_eq!(join("/in/", "a"), "/in/a");
        assert_eq!(join("/", "a"), "/a");
        assert_eq!(join("", "a"), "a");
        assert_eq!(join("/in", ""), "/in");
    }

    #[test]
    fn a_temporary_is_hidden_and_named_by_its_message() {
        let id = MessageId::new(1, 2);
        let file = NewFile { root: "/in", below: "", stem: "4711_M1", suffix: ".pdf", id, bytes: b"" };
        let name = file.temporary();
        assert_eq!(name, format!("/in/.4711_M1.pdf.{id}.part"));
        // Nor is one used again that a rename without an answer knows.
        file.is_in_doubt();
        assert_eq!(file.temporary(), format!("/in/.4711_M1.pdf.{id}.1.part"));
    }
}
