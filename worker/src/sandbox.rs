//! What a worker that has been taken over may still do: very little beyond its own channel's business.
//!
//! [`open`] begins with the folders that steps write to, beside recovery. [`enter`] closes the worker in, after recovery
//! and before its first lasting thread: Landlock leaves it the files and
//! TCP ports that follow from its own settings ([`reach`]), seccomp takes away the system calls that it never needs
//! ([`system_calls`]). Both are best effort: a kernel that lacks one of them is a warning, and the level is reported.
//!
//! A Landlock rule belongs to a file or folder, not to its name. One that is renamed over, removed and made again, or
//! mounted over is out of reach for good; [`watch`] finds out when a step has failed, and the worker drains and exits 75:
//! the next one has fresh rules.

mod reach;
mod system_calls;
mod watch;

use crate::files::plain;
use crate::folders::Folders;
use config::WorkerSettings;
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, NetPort, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use reach::Reach;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
pub use watch::Watch;
use watch::{NotOpened, Stood};

/// The newest that was tried; what it added last (ABI 7) is logging alone. Older kernels do what they can.
const NEWEST_ABI: ABI = ABI::V7;
/// How long the folders that steps write to may take to open, all together: a network file system that hangs keeps no
/// channel from receiving.
const OPEN_WITHIN: Duration = Duration::from_secs(3);
/// Descriptors for everything but peers and delivery threads: the journal, the link, the event queue, libraries.
const DESCRIPTORS_BASE: u64 = 1024;
/// Folders and files that a delivery thread may have open at once, and its connections.
const DESCRIPTORS_A_THREAD: u64 = 512;

/// What holds from now on.
#[derive(Debug)]
pub struct Sandbox {
    /// Which paths the rules are for.
    pub watch: Watch,
    /// For `status`: what is enforced.
    pub level: String,
}

#[cfg(test)]
impl Sandbox {
    /// None: where nobody watches, what stands now is what stood.
    pub(crate) fn none() -> Sandbox {
        Sandbox { watch: Watch::of_nothing(), level: String::new() }
    }
}

/// Before a secret is in memory: no core that would hold patient data, no other process of this user may look in, and no
/// descriptor is there that somebody left open before the master started. What could not be had, for the log.
pub fn seal() -> Vec<String> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let done = [
        ("close inherited descriptors", link::close_inherited()),
        ("switch off core dumps", setrlimit(Resource::Core, none)),
        (
            "keep other processes from looking into this one",
            set_dumpable_behavior(DumpableBehavior::NotDumpable),
        ),
    ];
    let failed = done.into_iter().filter_map(|(what, done)| Some((what, done.err()?)));
    failed.map(|(what, errno)| format!("could not {what}: {}", plain(&errno.into()))).collect()
}

/// Closes the worker in, once the folders of `opening` are there or have had their time.
pub fn enter(settings: &WorkerSettings, threads: usize, opening: Opening) -> Sandbox {
    limit_descriptors(settings, threads);
    let (reach, opened, not_opened) = opening.finish();
    let watch = Watch::new(&reach, &opened, &not_opened);
    let files = match restrict(&reach, opened) {
        Ok(status) => landlock_level(&status),
        Err(error) => Err(error.to_string()),
    };
    let calls = system_calls::restrict();
    for missing in [("Landlock", files.as_ref().err()), ("seccomp", calls.as_ref().err())] {
        if let (what, Some(why)) = missing {
            log::warn!("no {what} here ({why}): a worker that is taken over is not held by it");
        }
    }
    let watch = if files.is_ok() { watch } else { Watch::default() };
    let calls = calls.map_or("no seccomp", |()| "seccomp");
    let level = format!("{}, {calls}", files.unwrap_or_else(|_| "no Landlock".to_owned()));
    log::info!("sandbox: {level}");
    Sandbox { watch, level }
}

/// What this kernel enforces of it.
fn landlock_level(status: &RestrictionStatus) -> Result<String, String> {
    match (&status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("switched off when the kernel started".to_owned())
        }
        (RulesetStatus::NotEnforced, _)
        | (_, LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) => {
            Err("not in this kernel".to_owned())
        }
        (_, LandlockStatus::Available { effective_abi: abi, kernel_abi }) => {
            let mut covers = "files".to_owned();
            for (since, what) in [(ABI::V4, "TCP ports"), (ABI::V5, "devices"), (ABI::V6, "signals")] {
                if abi >= since {
                    covers = format!("{covers}, {what}");
                }
            }
            let number = kernel_abi.map_or_else(|| abi.to_string(), |abi| abi.to_string());
            Ok(format!("Landlock ABI {number} ({covers})"))
        }
    }
}

/// The paths of the rules, opened.
type Opened = BTreeMap<PathBuf, PathFd>;

/// Folders on their way to be opened, while the journal is: their flushes and its wait for the same disk.
pub struct Opening {
    reach: Reach,
    told: mpsc::Receiver<(PathBuf, Told)>,
    threads: Vec<JoinHandle<()>>,
}

/// A folder, or why it did not open and what stood there before.
type Told = Result<PathFd, (String, Stood)>;

/// Begins to open the folders that steps write to. What can be made is made.
pub fn open(settings: &WorkerSettings) -> Opening {
    let reach = Reach::of(settings);
    // Each by a thread of its own, which ends before the rules are in force, or hangs for good in a dead file system.
    let (tell, told) = mpsc::channel();
    let threads = reach
        .writable
        .iter()
        .filter_map(|path| {
            let (path, tell) = (path.clone(), tell.clone());
            let work = move || {
                let stood = watch::stood_at(&path);
                let made = Folders::default().open(&path, "", &mut Vec::new());
                let fd = made.map_err(|e| plain(&e.into())).and_then(|_| open_folder(&path));
                let _ = tell.send((path, fd.map_err(|why| (why, stood))));
            };
            std::thread::Builder::new().name("opener".to_owned()).spawn(work).ok()
        })
        .collect();
    Opening { reach, told, threads }
}

impl Opening {
    /// What the rules are for, opened. What is not there has no rule. Folders that did not open in time come beside:
    /// whoever looks at one of these may wait for ever.
    fn finish(self) -> (Reach, Opened, NotOpened) {
        let Opening { reach, told, threads } = self;
        let (mut opened, mut not_opened) = (Opened::new(), NotOpened::new());
        for path in &reach.readable {
            if let Ok(fd) = PathFd::new(path) {
                opened.insert(path.clone(), fd);
            }
        }
        let deadline = Instant::now() + OPEN_WITHIN;
        let mut answers = BTreeMap::new();
        let all_told = loop {
            match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((path, fd)) => drop(answers.insert(path, fd)),
                Err(end) => break end == mpsc::RecvTimeoutError::Disconnected,
            }
        };
        threads.into_iter().filter(|thread| all_told || thread.is_finished()).for_each(|t| drop(t.join()));
        for path in &reach.writable {
            match answers.remove(path) {
                Some(Ok(fd)) => {
                    opened.insert(path.clone(), fd);
                }
                Some(Err((why, stood))) => {
                    log::warn!("could not open folder {path:?}: {why}; its steps wait");
                    not_opened.insert(path.clone(), Some(stood));
                }
                None => {
                    log::warn!("could not open folder {path:?}: its file system hangs; its steps wait");
                    not_opened.insert(path.clone(), None);
                }
            }
        }
        (reach, opened, not_opened)
    }
}

fn open_folder(path: &Path) -> Result<PathFd, String> {
    PathFd::new(path).map_err(|error| error.to_string())
}

fn restrict(reach: &Reach, opened: Opened) -> Result<RestrictionStatus, RulesetError> {
    let file_read = AccessFs::ReadFile;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // All that makes, changes and removes files and folders; nothing that runs a program or makes a device, a socket or
    // a symbolic link.
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST_ABI))?
        .handle_access(AccessNet::from_all(NEWEST_ABI))?
        .scope(Scope::from_all(NEWEST_ABI))?
        .create()?;
    for (path, fd) in opened {
        let is_folder = rustix::fs::fstat(fd.as_fd())
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
        let access = match is_folder {
            true if reach.writable.contains(&path) => write,
            true => read,
            false => file_read.into(),
        };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access))?;
    }
    for port in &reach.ports {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    ruleset.restrict_self()
}

/// As many as the settings can come to need: a leak ends in one channel, and leaves the others their descriptors.
fn limit_descriptors(settings: &WorkerSettings, threads: usize) {
    let peers = settings.channel.bounds.connections_max as u64;
    let needed = DESCRIPTORS_BASE + peers + threads as u64 * DESCRIPTORS_A_THREAD;
    let now = getrlimit(Resource::Nofile);
    let limit = now.maximum.map_or(needed, |maximum| maximum.min(needed));
    let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("could not limit the open descriptors: {error}");
    }
}
