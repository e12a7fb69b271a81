//! Whether the paths of the sandbox's rules are still what they were when the rules were made.

use super::Opened;
use super::reach::Reach;
use rustix::fs::{Access, FileType, Stat};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two looks: steps may fail by the thousand.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// How long a message that is about to fail waits for a look, on a busy machine. Where the look hangs, the message fails as
/// it would have.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// A folder that could be neither opened nor made, for a cause that nothing here shows (a server's word), is given another
/// chance after that long.
const MISSING_PATIENCE: Duration = Duration::from_secs(600);

/// The paths of the rules, with what stood there. Empty where there are no rules.
#[derive(Debug, Default)]
pub struct Watch {
    paths: Vec<Watched>,
    outdated: AtomicBool,
    looks: Mutex<Looks>,
    asked: Condvar,
    told: Condvar,
}

/// Numbers of looks: the last that was asked for, and the last that is over; and since when one is on its way.
#[derive(Debug, Default)]
struct Looks {
    wanted: u64,
    done: u64,
    began: Option<Instant>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// Steps write into it; a file that stands there now is the same to every worker.
    is_folder: bool,
    had: Had,
}

#[derive(Debug)]
enum Had {
    /// A rule for the file or folder that stood there. Its number is given to no other as long as the rule is in force: the
    /// kernel's rule holds it, and, unlike an open descriptor of ours, keeps nobody from unmounting what it is on.
    Rule(Identity),
    /// It is below another folder that has a rule, and may come and go there.
    Below(PathBuf),
    /// Nothing to make a rule for; a file that may be read and need not be there.
    Nothing,
    /// A folder that could not be opened, below what was the nearest thing there.
    NoFolder { nearest: PathBuf, stood: Option<Standing>, since: Instant },
}

/// A file or folder, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// The same, and whether something could be made there.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Standing {
    identity: Identity,
    mode: u32,
    owner: (u32, u32),
    is_writable: bool,
    has_room: bool,
}

impl Watch {
    /// Remembers what the rules were made for.
    ///
    /// Folders in a file system that hangs are not looked at here: the start would wait for ever.
    pub(super) fn new(reach: &Reach, opened: &Opened, not_opened: &NotOpened) -> Watch {
        let watched = |path: &PathBuf, must_be: bool| {
            let rule = opened.get(path).and_then(|fd| rustix::fs::fstat(fd.as_fd()).ok());
            let above = if must_be { folder_above(path, &reach.writable) } else { None };
            let had = match rule {
                _ if above.is_some() => Had::Below(above.unwrap_or_default()),
                Some(stat) => Had::Rule(identity(&stat)),
                None if must_be => match not_opened.get(path) {
                    Some(Some(Stood { nearest, stood })) => {
                        Had::NoFolder { nearest: nearest.clone(), stood: *stood, since: Instant::now() }
                    }
                    _ => Had::NoFolder { nearest: path.clone(), stood: None, since: Instant::now() },
                },
                None => Had::Nothing,
            };
            Watched { path: path.clone(), is_folder: must_be, had }
        };
        let writable = reach.writable.iter().map(|path| watched(path, true));
        let readable = reach.readable.iter().map(|path| watched(path, false));
        Watch { paths: writable.chain(readable).collect(), ..Watch::default() }
    }

    /// Of no path, and without a thread that looks.
    #[cfg(test)]
    pub(super) fn of_nothing() -> Watch {
        let looks = Mutex::new(Looks { done: u64::MAX, ..Looks::default() });
        Watch { looks, ..Watch::default() }
    }

    /// To be called when a step is to be tried again: has the paths looked at, and does not wait for it.
    pub fn after_fault(&self) {
        self.ask();
    }

    /// Whether a path is out of reach for this worker alone: then no failure that it meets is final. The worker drains soon
    /// and exits 75, and the next one has fresh rules. The master's back-off bounds how often.
    pub fn look(&self) -> bool {
        let asked = self.ask();
        let looks = self.looks();
        let hangs = looks.began.is_some_and(|began| began.elapsed() >= ANSWER_WITHIN);
        let is_to_come = |looks: &mut Looks| looks.done < asked && !hangs && !self.is_outdated();
        drop(self.told.wait_timeout_while(looks, ANSWER_WITHIN, is_to_come));
        self.is_outdated()
    }

    /// Looks whenever somebody has asked, for ever. A thread of its own: a path in a dead network file system hangs whoever
    /// looks at it, and must not hang the steps that have nothing to do with it.
    pub fn run(&self) {
        loop {
            let looks = self.looks();
            let waiting = self.asked.wait_while(looks, |looks| looks.done == looks.wanted);
            let mut looks = waiting.unwrap_or_else(PoisonError::into_inner);
            let wanted = looks.wanted;
            looks.began = Some(Instant::now());
            drop(looks);
            self.examine();
            let mut looks = self.looks();
            (looks.done, looks.began) = (wanted, None);
            drop(looks);
            self.told.notify_all();
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    fn ask(&self) -> u64 {
        let mut looks = self.looks();
        looks.wanted += 1;
        self.asked.notify_one();
        looks.wanted
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn examine(&self) {
        let Some(watched) = self.paths.iter().find(|watched| watched.is_outdated()) else { return };
        if !self.outdated.swap(true, Relaxed) {
            let path = &watched.path;
            log::warn!(
                "{path:?} is another than when this worker's sandbox was made: a fresh worker takes over"
            );
        }
    }

    /// What was found when last looked.
    pub fn is_outdated(&self) -> bool {
        self.outdated.load(Relaxed)
    }
}

impl Watched {
    fn is_outdated(&self) -> bool {
        let now = rustix::fs::stat(&self.path);
        let is_in_the_way = |now: &Stat| self.is_folder && !FileType::from_raw_mode(now.st_mode).is_dir();
        match &self.had {
            // One that is gone, too: this worker could not make it again.
            Had::Rule(had) => now.map_or(true, |now| identity(&now) != *had && !is_in_the_way(&now)),
            Had::Below(root) => !real(&self.path).starts_with(real(root)),
            Had::Nothing => now.is_ok(),
            Had::NoFolder { nearest, stood, since } => {
                since.elapsed() > MISSING_PATIENCE || nearest_to(&self.path) != (nearest.clone(), *stood)
            }
        }
    }
}

/// Another folder that steps write to and that this one is below.
fn folder_above(path: &Path, writable: &BTreeSet<PathBuf>) -> Option<PathBuf> {
    let below = real(path);
    let above = writable.iter().filter(|above| *above != path).find(|above| below.starts_with(real(above)));
    above.filter(|above| real(above) != below).cloned()
}

/// A path without symbolic links, as far as it is there.
fn real(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|above| Some((above, std::fs::canonicalize(above).ok()?)));
    let Some((above, found)) = there else { return path.to_owned() };
    path.strip_prefix(above).map_or_else(|_| path.to_owned(), |rest| found.join(rest))
}

/// What stood at a path, or nearest to it, before it was tried to open it: what was in the way and has gone since is seen.
#[derive(Debug)]
pub(super) struct Stood {
    nearest: PathBuf,
    stood: Option<Standing>,
}

/// Folders that could not be opened, with what stood there; nothing for those that hang.
pub(super) type NotOpened = BTreeMap<PathBuf, Option<Stood>>;

/// To be asked before a folder is opened.
pub(super) fn stood_at(path: &Path) -> Stood {
    let (nearest, stood) = nearest_to(path);
    Stood { nearest, stood }
}

/// The nearest of a path and the folders above it that is there.
fn nearest_to(path: &Path) -> (PathBuf, Option<Standing>) {
    for above in path.ancestors() {
        if let Ok(stat) = rustix::fs::stat(above) {
            let standing = Standing {
                identity: identity(&stat),
                mode: stat.st_mode,
                owner: (stat.st_uid, stat.st_gid),
                // Neither question is answered by the sandbox: they are the file system's and its permissions'.
                is_writable: rustix::fs::access(above, Access::WRITE_OK).is_ok(),
                // Some file systems count no files.
                has_room: rustix::fs::statvfs(above)
                    .is_ok_and(|s| s.f_bavail > 0 && (s.f_files == 0 || s.f_ffree > 0)),
            };
            return (above.to_owned(), Some(standing));
        }
    }
    (path.to_owned(), None)
}

fn identity(stat: &Stat) -> Identity {
    Identity { device: stat.st_dev, inode: stat.st_ino }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landlock::PathFd;
    use std::fs;

    fn watch(folder: &Path, writable: &[&str], readable: &[&str]) -> Watch {
        let paths = |names: &[&str]| names.iter().map(|name| folder.join(name)).collect();
        let reach = Reach { writable: paths(writable), readable: paths(readable), ..Reach::default() };
        let all = reach.writable.iter().chain(&reach.readable);
        let opened = all.filter_map(|p| Some((p.clone(), PathFd::new(p).ok()?))).collect();
        let not_opened = reach.writable.iter().map(|path| (path.clone(), Some(stood_at(path)))).collect();
        Watch::new(&reach, &opened, &not_opened)
    }

    fn is_outdated(watch: &Watch) -> bool {
        watch.paths.iter().any(Watched::is_outdated)
    }

    #[test]
    fn what_was_in_the_way_and_went_while_the_worker_started_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let drop = dir.path().join("drop");
        fs::write(&drop, "").unwrap();
        let reach = Reach { writable: [drop.clone()].into(), ..Reach::default() };
        let not_opened = [(drop.clone(), Some(stood_at(&drop)))].into();
        fs::remove_file(&drop).unwrap();
        assert!(is_outdated(&Watch::new(&reach, &Opened::new(), &not_opened)));
    }

    #[test]
    fn a_folder_made_again_and_a_file_renamed_over_are_found_and_a_new_content_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("drop")).unwrap();
        fs::write(dir.path().join("known_hosts"), "a").unwrap();
        let watch = watch(dir.path(), &["drop"], &["known_hosts", "absent"]);
        fs::write(dir.path().join("known_hosts"), "b").unwrap();
        fs::write(dir.path().join("drop/file"), "b").unwrap();
        assert!(!is_outdated(&watch));

        fs::write(dir.path().join("new"), "c").unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("known_hosts")).unwrap();
        assert!(is_outdated(&watch));
        let watch = self::watch(dir.path(), &["drop"], &[]);
        let rule = fs::File::open(dir.path().join("drop")).unwrap();
        fs::remove_dir_all(dir.path().join("drop")).unwrap();
        assert!(is_outdated(&watch));
        fs::create_dir(dir.path().join("drop")).unwrap();
        assert!(is_outdated(&watch));
        drop(rule);
    }

    #[test]
    fn a_folder_that_could_not_be_made_is_tried_again_when_what_was_in_the_way_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("drop"), "in the way").unwrap();
        let reach = Reach { writable: [dir.path().join("drop/deep")].into(), ..Reach::default() };
        let not_opened = reach.writable.iter().map(|path| (path.clone(), Some(stood_at(path)))).collect();
        let watch = Watch::new(&reach, &Opened::new(), &not_opened);
        assert!(!is_outdated(&watch));
        fs::write(dir.path().join("other"), "beside it").unwrap();
        assert!(!is_outdated(&watch));
        fs::remove_file(dir.path().join("drop")).unwrap();
        assert!(is_outdated(&watch));
    }

    #[test]
    fn whoever_asks_is_answered_by_a_look_that_began_after_and_never_waits_for_one_that_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let watch = watch(dir.path(), &[], &["known_hosts"]);
        let begun = Instant::now();
        assert!(!watch.look(), "nobody looks");
        assert!(begun.elapsed() >= ANSWER_WITHIN);
        watch.looks().began = Some(begun);
        let begun = Instant::now();
        assert!(!watch.look(), "one hangs");
        assert!(begun.elapsed() < ANSWER_WITHIN);
        let watch = std::sync::Arc::new(self::watch(dir.path(), &[], &["known_hosts"]));
        let looking = std::sync::Arc::clone(&watch);
        std::thread::spawn(move || looking.run());
        assert!(!watch.look());
        fs::write(dir.path().join("known_hosts"), "a").unwrap();
        assert!(watch.look());
    }

    #[test]
    fn a_folder_below_another_of_the_channels_comes_and_goes_and_a_file_in_the_way_is_no_reason_to_start_afresh()
     {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("archive/ward")).unwrap();
        let watch = watch(dir.path(), &["archive", "archive/ward"], &[]);
        let _rule = fs::File::open(dir.path().join("archive")).unwrap();
        for _ in 0..2 {
            fs::remove_dir(dir.path().join("archive/ward")).unwrap();
            assert!(!is_outdated(&watch));
            fs::create_dir(dir.path().join("archive/ward")).unwrap();
        }
        fs::remove_dir_all(dir.path().join("archive")).unwrap();
        assert!(is_outdated(&watch));
        fs::write(dir.path().join("archive"), "in the way").unwrap();
        assert!(!is_outdated(&watch));
    }

    #[test]
    fn a_file_that_comes_to_be_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let watch = watch(dir.path(), &[], &["known_hosts"]);
        assert!(!is_outdated(&watch));
        fs::write(dir.path().join("known_hosts"), "a").unwrap();
        assert!(is_outdated(&watch));
    }
}
