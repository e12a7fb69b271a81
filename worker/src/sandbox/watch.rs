//! Whether the paths of the sandbox's rules are still what they were when the rules were made.

use super::Opened;
use super::reach::Reach;
use rustix::fs::Stat;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Time between two looks: steps may fail by the thousand.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// A folder that could be neither opened nor made, for a cause that nothing here shows (a full disk, a server's word), is
/// given another chance after that long.
const MISSING_PATIENCE: Duration = Duration::from_secs(600);

/// The paths of the rules, with what stood there. Empty where there are no rules.
#[derive(Debug, Default)]
pub struct Watch {
    paths: Vec<Watched>,
    looks: Mutex<Looks>,
    outdated: AtomicBool,
}

#[derive(Debug, Default)]
struct Looks {
    last: Option<Instant>,
    /// Somebody is looking, or hangs while he does.
    under_way: bool,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    had: Had,
}

#[derive(Debug)]
enum Had {
    /// A rule for the file or folder that stood there.
    Rule(Identity),
    /// Nothing to make a rule for; a file that may be read and need not be there.
    Nothing,
    /// A folder that could not be opened, below what was the nearest thing there.
    NoFolder { nearest: PathBuf, stood: Option<Standing>, since: Instant },
    /// A folder in a file system that hung.
    Hung,
}

/// A file or folder, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// The same, and who may use it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Standing {
    identity: Identity,
    mode: u32,
    owner: (u32, u32),
}

impl Watch {
    /// Remembers what the rules were made for; what hangs is not looked at.
    pub(super) fn new(reach: &Reach, opened: &Opened, hanging: &BTreeSet<PathBuf>) -> Watch {
        let watched = |path: &PathBuf, must_be: bool| {
            let rule = opened.get(path).and_then(|fd| rustix::fs::fstat(fd.as_fd()).ok());
            let had = match rule {
                Some(stat) => Had::Rule(identity(&stat)),
                None if hanging.contains(path) => Had::Hung,
                None if must_be => no_folder(path),
                None => Had::Nothing,
            };
            Watched { path: path.clone(), had }
        };
        let writable = reach.writable.iter().map(|path| watched(path, true));
        let readable = reach.readable.iter().map(|path| watched(path, false));
        Watch { paths: writable.chain(readable).collect(), ..Watch::default() }
    }

    /// Whether it is time for a look; then [`Watch::look`] or [`Watch::has_looked`] is to follow.
    pub(super) fn may_look(&self) -> bool {
        let mut looks = self.looks();
        if self.outdated.load(Relaxed)
            || looks.under_way
            || looks.last.is_some_and(|at| at.elapsed() < BETWEEN_LOOKS)
        {
            return false;
        }
        looks.under_way = true;
        true
    }

    /// Nobody looks any more.
    pub(super) fn has_looked(&self) {
        *self.looks() = Looks { last: Some(Instant::now()), under_way: false };
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Where a path is out of reach for this worker alone, the worker is told to drain, once; it exits 75 then, and the
    /// next one has fresh rules. The master's back-off bounds how often. May hang where a file system does.
    pub(super) fn look(&self) {
        let outdated = self.paths.iter().find(|watched| watched.is_outdated());
        self.has_looked();
        let Some(watched) = outdated else { return };
        if !self.outdated.swap(true, Relaxed) {
            let path = &watched.path;
            log::warn!(
                "{path:?} is another than when this worker's sandbox was made: a fresh worker takes over"
            );
            let us = rustix::process::getpid();
            if let Err(error) = rustix::process::kill_process(us, rustix::process::Signal::TERM) {
                log::error!("the worker could not tell itself to drain: {error}");
            }
        }
    }

    /// Whether the worker drains for that reason.
    pub fn is_outdated(&self) -> bool {
        self.outdated.load(Relaxed)
    }
}

impl Watched {
    fn is_outdated(&self) -> bool {
        let now = rustix::fs::stat(&self.path);
        match &self.had {
            // One that is gone, too: this worker could not make it again.
            Had::Rule(had) => now.map_or(true, |now| identity(&now) != *had),
            Had::Nothing => now.is_ok(),
            // It says something again: there may be a folder.
            Had::Hung => true,
            Had::NoFolder { nearest, stood, since } => {
                since.elapsed() > MISSING_PATIENCE || nearest_to(&self.path) != (nearest.clone(), *stood)
            }
        }
    }
}

fn no_folder(path: &Path) -> Had {
    let (nearest, stood) = nearest_to(path);
    Had::NoFolder { nearest, stood, since: Instant::now() }
}

/// The nearest of a path and the folders above it that is there.
fn nearest_to(path: &Path) -> (PathBuf, Option<Standing>) {
    for above in path.ancestors() {
        if let Ok(stat) = rustix::fs::stat(above) {
            let owner = (stat.st_uid, stat.st_gid);
            return (
                above.to_owned(),
                Some(Standing { identity: identity(&stat), mode: stat.st_mode, owner }),
            );
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
        Watch::new(&reach, &opened, &BTreeSet::new())
    }

    fn is_outdated(watch: &Watch) -> bool {
        watch.paths.iter().any(Watched::is_outdated)
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
        fs::remove_dir_all(dir.path().join("drop")).unwrap();
        assert!(is_outdated(&watch));
        fs::create_dir(dir.path().join("drop")).unwrap();
        assert!(is_outdated(&watch), "the number of the old folder was given to the new one");
    }

    #[test]
    fn a_folder_that_could_not_be_made_is_tried_again_when_what_was_in_the_way_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("drop"), "in the way").unwrap();
        let reach = Reach { writable: [dir.path().join("drop/deep")].into(), ..Reach::default() };
        let watch = Watch::new(&reach, &Opened::new(), &BTreeSet::new());
        assert!(!is_outdated(&watch));
        fs::write(dir.path().join("other"), "beside it").unwrap();
        assert!(!is_outdated(&watch));
        fs::remove_file(dir.path().join("drop")).unwrap();
        assert!(is_outdated(&watch));
    }

    #[test]
    fn a_file_that_comes_to_be_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let watch = watch(dir.path(), &[], &["known_hosts"]);
        assert!(!is_outdated(&watch));
        fs::write(dir.path().join("known_hosts"), "a").unwrap();
        assert!(is_outdated(&watch));
    }

    #[test]
    fn while_one_look_hangs_nobody_else_looks() {
        let watch = Watch::default();
        assert!(watch.may_look());
        assert!(!watch.may_look() && !watch.may_look());
        watch.has_looked();
        assert!(!watch.may_look(), "steps may fail by the thousand");
        watch.looks().last = None;
        assert!(watch.may_look());
    }

    #[test]
    fn what_hung_when_the_rules_were_made_is_not_looked_at_then_and_found_once_it_answers() {
        let folder = PathBuf::from("/proc/self");
        let reach = Reach { writable: [folder.clone()].into(), ..Reach::default() };
        let watch = Watch::new(&reach, &Opened::new(), &[folder].into());
        assert!(matches!(watch.paths[0].had, Had::Hung));
        assert!(is_outdated(&watch));
    }
}
