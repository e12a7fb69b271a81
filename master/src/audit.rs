//! The audit: who connected, who was refused, and what operators did, in `state_path/audit.log`; a JSON object a line.
//!
//! Only ever appended to. Each line is one write, at once; it is not flushed to the disk, since the master waits for none.
//! The file is opened anew when it was moved away, so that logrotate needs to tell nobody. A line that cannot be written
//! goes to the log instead, and nothing stops for it: a full disk must not keep an operator from mending it.

mod caller;

pub(crate) use caller::Caller;

use link::Contact;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file's name below `state_path`: no channel has a name with this ending and a journal inside.
const FILE: &str = "audit.log";
/// Lines that one channel's worker may cause in a minute: one that was taken over fills no disk.
const LINES_A_MINUTE_MAX: u32 = 600;
/// Message ids named in a line; further ones are counted.
const IDS_MAX: usize = 50;

/// The open file.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    file: Option<File>,
    /// Said once, until it works again.
    failing: bool,
}

/// What a line is about.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Entry<'a> {
    /// The server started.
    Started { version: &'a str, config: &'a Path },
    /// The server was told to stop.
    Stopping,
    /// Peers connected, or were refused.
    Contact {
        channel: &'a str,
        peer: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        refused: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tls: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<&'a str>,
        count: u64,
    },
    /// More contacts than a channel may have told in a minute.
    ContactsLeftOut { channel: &'a str, lines: u64 },
    /// A reload; `by` nobody where a signal asked for it.
    Reload { by: Option<&'a Caller>, outcome: &'a str },
    /// Failed messages are to be tried again or given up.
    Ordered { by: &'a Caller, order: &'a str, channel: &'a str, number: u64, messages: Messages<'a> },
    /// What became of it.
    Carried { order: &'a str, channel: &'a str, number: u64, outcome: &'a str },
    /// Somebody was kept from the control socket.
    Denied { by: &'a Caller, why: &'a str },
}

/// Which messages an operator meant.
#[derive(Debug, Serialize)]
pub(crate) struct Messages<'a> {
    all: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    ids: &'a [String],
    count: usize,
}

impl<'a> Messages<'a> {
    /// What the selection says.
    pub(crate) fn of(selection: &'a link::Selection) -> Self {
        let ids = &selection.ids[..selection.ids.len().min(IDS_MAX)];
        Self { all: selection.all, step: selection.step.as_deref(), ids, count: selection.ids.len() }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    #[serde(flatten)]
    entry: &'a Entry<'a>,
}

impl Audit {
    /// Below a state folder.
    pub(crate) fn below(state_path: &Path) -> Self {
        Self { path: state_path.join(FILE), file: None, failing: false }
    }

    /// Appends a line.
    pub(crate) fn write(&mut self, entry: &Entry<'_>) {
        let line = Line { ts: jiff::Timestamp::now().to_string(), entry };
        let mut text = serde_json::to_string(&line).expect("an entry has only text for keys");
        text.push('\n');
        match self.append(text.as_bytes()) {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.file = None;
                if !std::mem::replace(&mut self.failing, true) {
                    log::error!(
                        "could not write \"{}\": {error}; what belongs there is logged instead",
                        self.path.display()
                    );
                }
                log::warn!("audit: {}", text.trim_end());
            }
        }
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if !self.is_current() {
            self.file = Some(open(&self.path)?);
        }
        let mut file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(line)
    }

    /// Whether the open file is the one of that name.
    fn is_current(&self) -> bool {
        let Some(Ok(ours)) = self.file.as_ref().map(File::metadata) else { return false };
        let there = std::fs::symlink_metadata(&self.path);
        there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    let file = File::from(rustix::fs::open(path, flags, mode)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

/// How many lines a channel's contacts may still cause.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    since: Duration,
    lines: u32,
    left_out: u64,
}

impl Budget {
    /// Whether one more may be written; gives the number left out before, once, in a new minute.
    pub(crate) fn take(&mut self, now: Duration) -> (bool, u64) {
        let mut left_out = 0;
        if now >= self.since + Duration::from_secs(60) {
            left_out = std::mem::take(&mut self.left_out);
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= LINES_A_MINUTE_MAX {
            self.left_out += 1;
            return (false, left_out);
        }
        self.lines += 1;
        (true, left_out)
    }
}

/// What a worker says of its peers.
pub(crate) fn contact<'a>(channel: &'a str, contact: &'a Contact) -> Entry<'a> {
    Entry::Contact {
        channel,
        peer: &contact.peer,
        refused: contact.refused.as_deref(),
        tls: contact.tls.as_deref(),
        name: contact.name.as_deref(),
        count: contact.count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lines_are_appended_and_a_file_that_was_moved_away_is_followed_by_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut audit = Audit::below(folder.path());
        audit.write(&Entry::Stopping);
        audit.write(&Entry::Reload { by: None, outcome: "in\nforce" });
        assert_eq!(lines(&path).len(), 2);
        assert_eq!(lines(&path)[1]["outcome"], "in\nforce");
        assert_eq!(lines(&path)[0]["event"], "stopping");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
        std::fs::rename(&path, folder.path().join("audit.log.1")).unwrap();
        audit.write(&Entry::Stopping);
        assert_eq!((lines(&path).len(), lines(&folder.path().join("audit.log.1")).len()), (1, 2));
        drop(audit);
        Audit::below(folder.path()).write(&Entry::Stopping);
        assert_eq!(lines(&path).len(), 2);
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join(FILE)).unwrap();
        Audit::below(folder.path()).write(&Entry::Stopping);
        assert_eq!(std::fs::read(&victim).unwrap(), b"");
    }

    #[test]
    fn a_channel_that_tells_without_end_is_cut_and_the_rest_is_counted() {
        let mut budget = Budget::default();
        let taken = (0..1000).filter(|_| budget.take(Duration::from_secs(1)).0).count();
        assert_eq!(taken, LINES_A_MINUTE_MAX as usize);
        assert_eq!(budget.take(Duration::from_secs(62)), (true, 400));
        assert_eq!(budget.take(Duration::from_secs(62)), (true, 0));
    }
}
