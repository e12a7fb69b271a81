//! Pruning by `retention_days`: whole folders of the archive, failed messages, quarantined bytes. Never anything that
//! waits: the journal is not looked at.
//!
//! A folder of the archive goes when its name is what the channel's format renders for a time that is over, and for no
//! time that is not; when it holds nothing but files; and is reached from the archive's root without a symbolic link.
//! Everything else below the root is somebody else's. Failed messages are discarded as by hand: through the journal.

use crate::clock::system_us;
use crate::committer::{Append, Changed};
use crate::failed::FailedFolder;
use crate::files::{plain, replace_file};
use config::{Channel, LocalArchive, TimeFormat};
use crossbeam_channel::{Sender, bounded};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Zoned};
use journal::MessageId;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first time, when the worker has settled.
const FIRST_AFTER: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_secs(3600);
/// Where a clock has gone on by more than that since the last time, it may be wrong, and what is removed does not come
/// back…
const DOUBT_DAYS: i64 = 7;
/// … so that it is given a day to be set right.
const DOUBT: Duration = Duration::from_secs(24 * 3600);
/// Local time may step that far back: what is older is over whatever the clock does.
const STEP_HOURS: i64 = 2;
/// Folders older than that were not made by this server.
const BACK_YEARS: i64 = 40;
/// Failed messages given up by one entry of the committer's queue, as at the desk.
const PORTION: usize = 64;
/// How long the committer may take for a portion.
const PATIENCE: Duration = Duration::from_secs(60);
const DAY_US: i64 = 86_400 * 1_000_000;
const OPEN_FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What is pruned, and how.
pub(crate) struct Retention {
    /// The channel.
    pub(crate) channel: Channel,
    /// The channel's state folder.
    pub(crate) state: PathBuf,
    /// Failed messages.
    pub(crate) failed: Arc<FailedFolder>,
    /// Where discards go on record.
    pub(crate) committer: Sender<Append>,
}

impl Retention {
    /// Starts the thread, where there is anything to prune.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start(self) -> std::io::Result<()> {
        let archive = self.channel.local_archive.as_ref().and_then(|archive| archive.retention_days);
        let others = [self.channel.retention_failed_days, self.channel.retention_quarantine_days];
        if archive.is_none() && others.iter().all(Option::is_none) {
            return Ok(());
        }
        std::thread::Builder::new().name("retention".to_owned()).spawn(move || self.run())?;
        Ok(())
    }

    fn run(&self) {
        let begun = Instant::now();
        std::thread::sleep(FIRST_AFTER);
        let mut doubted = false;
        loop {
            if self.clock_is_doubtful() && begun.elapsed() < DOUBT {
                if !doubted {
                    log::warn!(
                        "nothing was pruned for over {DOUBT_DAYS} days by this machine's clock; if the clock is wrong, \
                         set it: pruning goes on in 24 h"
                    );
                }
                doubted = true;
            } else {
                self.prune();
            }
            std::thread::sleep(EVERY);
        }
    }

    /// When it was pruned last stands in a file; one that is not there says nothing.
    fn clock_is_doubtful(&self) -> bool {
        let last = fs::read_to_string(self.state.join("pruned")).ok();
        let last_us = last.and_then(|text| text.trim().parse::<i64>().ok());
        last_us.is_some_and(|us| system_us().saturating_sub(us) > DOUBT_DAYS * DAY_US)
    }

    fn prune(&self) {
        if let Some(archive) = &self.channel.local_archive
            && let Some(days) = archive.retention_days
        {
            prune_archive(archive, days, &Zoned::now());
        }
        if let Some(days) = self.channel.retention_failed_days {
            self.prune_failed(days);
        }
        if let Some(days) = self.channel.retention_quarantine_days {
            prune_quarantine(&self.state.join("quarantine"), days);
        }
        let pruned = self.state.join("pruned");
        if let Err(error) = replace_file(&pruned, system_us().to_string().as_bytes()) {
            log::warn!("could not write {pruned:?}: {}", plain(&error));
        }
    }

    fn prune_failed(&self, days: u32) {
        let before_us = system_us() - i64::from(days) * DAY_US;
        let is_old = |id: &MessageId| {
            // It failed after it came: the file need not be read of one that came since.
            let came_us = id.unix_ms() as i64 * 1000;
            came_us < before_us
                && self.failed.read(*id).is_ok_and(|(message, _)| message.failed_us < before_us)
        };
        let old: Vec<MessageId> = self.failed.list().into_iter().filter(is_old).collect();
        for portion in old.chunks(PORTION) {
            for id in portion {
                log::info!(
                    message_id = id.to_string().as_str();
                    "id={id} outcome=discarded: it failed over {days} days ago (retention_days.failed)"
                );
            }
            let (told, hear) = bounded::<Changed>(1);
            let sent = self.committer.send(Append::Discard(portion.to_vec(), told)).is_ok();
            match hear.recv_timeout(PATIENCE) {
                Ok(changed) if sent => changed.problems.iter().for_each(|problem| log::warn!("{problem}")),
                // Stopping, or the disk is stuck: next time.
                _ => return,
            }
        }
    }
}

fn prune_quarantine(folder: &Path, days: u32) {
    let before_ms = (system_us() - i64::from(days) * DAY_US) / 1000;
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut removed = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        // `ID_CODE.bin`; whatever is named otherwise is not ours.
        let id = name.to_str().and_then(|name| name.strip_suffix(".bin")?.split_once('_')?.0.parse().ok());
        let is_old = id.is_some_and(|id: MessageId| (id.unix_ms() as i64) < before_ms);
        if is_old && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    if removed > 0 {
        log::info!("quarantine: removed {removed} entries older than {days} days");
    }
}

fn prune_archive(archive: &LocalArchive, days: u32, now: &Zoned) {
    for root in [&archive.path, &archive.attachment].into_iter().flatten() {
        let depth = parts(&archive.format.render(now)).count();
        let mut found = HashSet::new();
        list(root, Path::new(""), depth, &mut found);
        for below in expired(&archive.format, days, now.datetime(), found) {
            match remove_folder(root, &below) {
                Ok(files) => {
                    log::info!(
                        "archive: removed {:?} with {files} files, older than {days} days",
                        root.join(&below)
                    );
                }
                // Two channels may keep one archive.
                Err(Kept::Io(Errno::NOENT)) => {}
                Err(kept) => log::warn!("archive: {:?} is not pruned: {kept}", root.join(&below)),
            }
        }
    }
}

/// Which of the folders found, relative to the root, hold nothing but what is older than `days`.
fn expired(format: &TimeFormat, days: u32, now: DateTime, mut found: HashSet<String>) -> Vec<String> {
    let Some(step) = step_of(format) else { return Vec::new() };
    let render = |time: DateTime| {
        let time = time.to_zoned(TimeZone::UTC).ok()?;
        Some(parts(&format.render(&time)).collect::<Vec<_>>().join("/"))
    };
    let kept_from = now - Span::new().days(i64::from(days)).hours(STEP_HOURS);
    // What may still be written to, or is not old enough.
    let mut time = kept_from;
    let end = now + Span::new().days(1);
    while time <= end && !found.is_empty() {
        render(time).map(|name| found.remove(&name));
        time = match time.checked_add(step) {
            Ok(later) => later,
            Err(_) => return Vec::new(),
        };
    }
    // The last of them may have been stepped over.
    render(end).map(|name| found.remove(&name));
    let mut over = Vec::new();
    let oldest = now.saturating_sub(Span::new().years(BACK_YEARS));
    let mut time = kept_from;
    while time >= oldest && !found.is_empty() {
        time = time.saturating_sub(step);
        over.extend(render(time).and_then(|name| found.take(&name)));
    }
    over.sort();
    over
}

/// How long a folder is written to at least: an hour or a day. `None` for a format that is not told apart so.
fn step_of(format: &TimeFormat) -> Option<Span> {
    match format.granularity() {
        config::Granularity::Day => Some(Span::new().days(1)),
        config::Granularity::Hour => Some(Span::new().hours(1)),
        config::Granularity::Finer | config::Granularity::None => None,
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

/// The folders `depth` levels below the root, as `2026/01/02`. Links are no folders.
fn list(root: &Path, below: &Path, depth: usize, found: &mut HashSet<String>) {
    if depth == 0 {
        // The root itself is never one of them.
        found.extend(below.to_str().filter(|below| !below.is_empty()).map(str::to_owned));
        return;
    }
    let Ok(entries) = fs::read_dir(root.join(below)) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(root, &below.join(entry.file_name()), depth - 1, found);
        }
    }
}

/// Why a folder stays.
#[derive(Debug)]
enum Kept {
    /// The system said so.
    Io(Errno),
    /// There is something in it that this server does not put there.
    Foreign,
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kept::Io(errno) => f.write_str(&plain(&(*errno).into())),
            Kept::Foreign => f.write_str("there is more in it than files"),
        }
    }
}

impl From<Errno> for Kept {
    fn from(errno: Errno) -> Kept {
        Kept::Io(errno)
    }
}

/// Removes a folder below the root with the files in it, then the folders above it that are empty now; returns how many
/// files there were. Opened part by part, so that no link planted meanwhile leads elsewhere.
fn remove_folder(root: &Path, below: &str) -> Result<u64, Kept> {
    let mut chain: Vec<OwnedFd> = vec![rustix::fs::openat(CWD, root, OPEN_FOLDER, Mode::empty())?];
    let names: Vec<&str> = parts(below).collect();
    for name in &names {
        let parent = chain.last().expect("the root is there");
        chain.push(rustix::fs::openat(parent, *name, OPEN_FOLDER | OFlags::NOFOLLOW, Mode::empty())?);
    }
    let folder = chain.pop().filter(|_| !names.is_empty()).ok_or(Kept::Foreign)?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        if !is_dot(&entry) && !is_file(&folder, &entry)? {
            return Err(Kept::Foreign);
        }
    }
    let mut files = 0;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        if !is_dot(&entry) {
            // Never AT_REMOVEDIR: what became a folder meanwhile stays.
            rustix::fs::unlinkat(&folder, entry.file_name(), AtFlags::empty())?;
            files += 1;
        }
    }
    for (level, name) in names.iter().enumerate().rev() {
        match rustix::fs::unlinkat(chain[level].as_fd(), *name, AtFlags::REMOVEDIR) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if level + 1 < names.len() => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(files)
}

fn is_dot(entry: &rustix::fs::DirEntry) -> bool {
    matches!(entry.file_name().to_bytes(), b"." | b"..")
}

fn is_file(folder: &OwnedFd, entry: &rustix::fs::DirEntry) -> Result<bool, Errno> {
    match entry.file_type() {
        FileType::RegularFile => Ok(true),
        FileType::Unknown => {
            let stat = rustix::fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(FileType::from_raw_mode(stat.st_mode).is_file())
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn over(format: &str, days: u32, now: &str, found: &[&str]) -> Vec<String> {
        let found = found.iter().map(|name| (*name).to_owned()).collect();
        expired(&TimeFormat::new(format).unwrap(), days, now.parse().unwrap(), found)
    }

    #[test]
    fn a_folder_is_over_when_its_last_moment_is() {
        let now = "2026-03-05T12:00:00";
        let days = ["2026/03/05", "2026/02/03", "2026/02/02", "2026/03/06"];
        assert_eq!(over("%Y/%m/%d", 30, now, &days), ["2026/02/02"]);
        assert_eq!(over("%Y/%m/%d", 30, "2026-03-06T02:30:00", &days), ["2026/02/02", "2026/02/03"]);
        // Two hours of grace for clocks that step back.
        assert_eq!(over("%Y/%m/%d", 30, "2026-03-06T01:30:00", &days), ["2026/02/02"]);
        assert_eq!(over("%Y-%m", 30, now, &["2026-03", "2026-02", "2026-01"]), ["2026-01"]);
        assert_eq!(over("%Y", 1, now, &["2026", "2025", "2024"]), ["2024", "2025"]);
        assert_eq!(over("%Y", 70, now, &["2026", "2025", "2024"]), ["2024"]);
        assert_eq!(over("%G/W%V", 7, now, &["2026/W10", "2026/W09", "2026/W08"]), ["2026/W08"]);
        let hours = ["20260304T11", "20260304T09", "20260304T10", "20260304T08"];
        assert_eq!(over("%Y%m%dT%H", 1, now, &hours), ["20260304T08", "20260304T09"]);
    }

    #[test]
    fn a_name_that_comes_again_is_over_only_where_it_has_not() {
        let now = "2026-03-05T12:00:00";
        // The 20th was two weeks ago, the 1st on Sunday.
        assert_eq!(over("%d", 7, now, &["20", "01", "05"]), ["20"]);
        assert!(over("%d", 31, now, &["20", "01", "05"]).is_empty());
    }

    #[test]
    fn what_no_time_renders_is_never_over() {
        let now = "2026-03-05T12:00:00";
        for name in ["1920/01/01", "2026/02/30", "2026/2/1", "notes/of/2020", "2099/01/01", "20x6/01/01"] {
            assert!(over("%Y/%m/%d", 1, now, &[name]).is_empty(), "{name}");
        }
        assert!(over("%Y/%m/%d/%H%M", 1, now, &["2020/01/01/0000"]).is_empty());
        assert!(over("fixed", 1, now, &["fixed"]).is_empty());
    }

    fn archive(root: &Path, format: &str) -> LocalArchive {
        let (format, path) = (TimeFormat::new(format).unwrap(), Some(root.to_owned()));
        LocalArchive { format, path, attachment: None, retention_days: Some(30) }
    }

    #[test]
    fn only_old_folders_of_files_go_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("archive");
        let elsewhere = dir.path().join("elsewhere");
        let day = |path: &Path, name: &str| {
            fs::create_dir_all(path.join(name)).unwrap();
            fs::write(path.join(name).join("a.hl7"), "x").unwrap();
        };
        for name in ["2020/01/01", "2020/02/01", "2020/03/01", "2026/03/01", "notes/01/01"] {
            day(&root, name);
        }
        day(&elsewhere, "01");
        fs::create_dir_all(root.join("2020/02/01/mine")).unwrap();
        symlink(&elsewhere, root.join("2020/04")).unwrap();
        symlink(elsewhere.join("01/a.hl7"), root.join("2020/03/01/link")).unwrap();
        let now: Zoned = "2026-03-05T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        prune_archive(&archive(&root, "%Y/%m/%d"), 30, &now);
        assert!(!root.join("2020/01").exists());
        for kept in ["2020/02/01/a.hl7", "2020/03/01/a.hl7", "2026/03/01/a.hl7", "notes/01/01/a.hl7"] {
            assert!(root.join(kept).exists(), "{kept}");
        }
        assert!(elsewhere.join("01/a.hl7").exists());
        // Gone up to the root, and the root stays.
        let root = dir.path().join("other");
        day(&root, "2020/01/01");
        prune_archive(&archive(&root, "%Y/%m/%d"), 30, &now);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    }

    #[test]
    fn quarantined_bytes_go_by_the_time_in_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let now_ms = system_us() as u64 / 1000;
        let name = |ms: u64| format!("{}_partial.bin", MessageId::new(ms, 1));
        let (old, new) = (name(now_ms - 8 * 86_400_000), name(now_ms - 6 * 86_400_000));
        for name in [old.as_str(), new.as_str(), "notes.bin", "00000000000000000000.bin"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        prune_quarantine(dir.path(), 7);
        assert!(!dir.path().join(&old).exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
