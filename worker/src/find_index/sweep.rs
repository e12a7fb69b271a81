//! Completing the index from what is on disk: the failed folder, then the archive, a portion at a time, so that what
//! ends meanwhile is not kept waiting.

use super::search::Outcome;
use super::store::{Fault, Store};
use super::{Entry, Keys};
use crate::clock;
use crate::desk::label_of;
use crate::extract;
use crate::failed::FailedFolder;
use config::Channel;
use hl7::message::Message;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use journal::MessageId;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Worked for that long at once…
const WORK: Duration = Duration::from_millis(20);
/// … and rested for that long: a sweep takes at most half a core from delivery.
const REST: Duration = Duration::from_millis(20);
/// Bytes read of a message: what it is looked for by stands at its beginning.
const HEAD_BYTES: u64 = 64 * 1024;
/// Folders below the archive's root. A format of more parts than that is not walked to its end.
const DEPTH_MAX: usize = 16;
/// Archived files of which nothing is known yet, handed to the index at once.
const PORTION: usize = 256;

/// A sweep on its way.
pub(super) struct Sweep {
    range_us: Range<i64>,
    failed: Vec<MessageId>,
    folders: Vec<(PathBuf, usize)>,
    listing: Option<Listing>,
    zone: TimeZone,
    found: u64,
}

/// A folder being read: it may hold a million files.
struct Listing {
    entries: fs::ReadDir,
    depth: usize,
    is_recent: bool,
}

impl Sweep {
    /// Of everything received within a time.
    pub(super) fn new(channel: &Channel, failed: &FailedFolder, range_us: Range<i64>) -> Sweep {
        let root = channel.local_archive.as_ref().and_then(|archive| archive.path.clone());
        Sweep {
            range_us,
            failed: failed.list(),
            folders: root.into_iter().map(|root| (root, 0)).collect(),
            listing: None,
            zone: clock::local_zone(),
            found: 0,
        }
    }

    /// Messages that the index did not have.
    pub(super) fn found(&self) -> u64 {
        self.found
    }

    /// Goes on for a moment; `true` at the end.
    pub(super) fn step(
        &mut self,
        store: &mut Store,
        channel: &Channel,
        failed: &FailedFolder,
    ) -> Result<bool, Fault> {
        let until = Instant::now() + WORK;
        let mut entries = Vec::new();
        let mut done = false;
        while !done && entries.len() < PORTION && Instant::now() < until {
            if let Some(id) = self.failed.pop() {
                if !store.knows_failed(id)? {
                    entries.extend(failed_entry(id, failed, channel));
                }
            } else if let Some(listing) = &mut self.listing {
                match listing.entries.next() {
                    Some(Ok(entry)) => entries.extend(self.look(&entry, store, channel)?),
                    // What cannot be read is passed over: the index is a help, not a record.
                    Some(Err(_)) | None => self.listing = None,
                }
            } else if let Some((folder, depth)) = self.folders.pop() {
                self.list(&folder, depth);
            } else {
                done = true;
            }
        }
        self.found += entries.len() as u64;
        if !entries.is_empty() {
            store.add_swept(&entries)?;
        }
        if !done {
            std::thread::sleep(REST);
        }
        Ok(done)
    }

    fn list(&mut self, folder: &Path, depth: usize) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        // A folder gets a new time with each file in it; the margin is for the clocks of file servers.
        let changed_us = fs::metadata(folder).map_or(i64::MAX, |meta| meta.mtime().saturating_mul(1_000_000));
        let is_recent = changed_us >= self.range_us.start.saturating_sub(3_600_000_000);
        self.listing = Some(Listing { entries, depth, is_recent });
    }

    fn look(
        &mut self,
        entry: &fs::DirEntry,
        store: &Store,
        channel: &Channel,
    ) -> Result<Option<Entry>, Fault> {
        let Some(Listing { depth, is_recent, .. }) = self.listing else { return Ok(None) };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < DEPTH_MAX => self.folders.push((entry.path(), depth + 1)),
            Ok(kind) if kind.is_file() && is_recent => return self.archived(entry.path(), store, channel),
            _ => {}
        }
        Ok(None)
    }

    fn archived(&self, path: PathBuf, store: &Store, channel: &Channel) -> Result<Option<Entry>, Fault> {
        let Some(received_us) =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| self.time(name))
        else {
            return Ok(None);
        };
        if !self.range_us.contains(&received_us) {
            return Ok(None);
        }
        let Some(body) = head(&path) else { return Ok(None) };
        let (control_id, message_type) = label_of(&body, channel.encoding);
        if store.knows(received_us, Some(&control_id))? {
            return Ok(None);
        }
        Ok(Some(Entry {
            id: None,
            received_us,
            control_id,
            message_type,
            keys: keys(&body, channel),
            outcome: Outcome::Archived,
            step: None,
            archived: Some(path),
        }))
    }

    /// The time of receipt in the name of an archived message, `20260102T030405.000006_…`. The hour that comes twice in
    /// autumn is taken for its first.
    fn time(&self, name: &str) -> Option<i64> {
        let (time, rest) = name.split_at_checked(22)?;
        if !rest.starts_with('_') || !rest.ends_with(".hl7") {
            return None;
        }
        let number = |from: usize, to: usize| {
            let digits = time.get(from..to).filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
            digits.parse::<i32>().ok()
        };
        if time.as_bytes().get(8) != Some(&b'T') || time.as_bytes().get(15) != Some(&b'.') {
            return None;
        }
        let small = |from, to| number(from, to).and_then(|n| i8::try_from(n).ok());
        let civil = DateTime::new(
            i16::try_from(number(0, 4)?).ok()?,
            small(4, 6)?,
            small(6, 8)?,
            small(9, 11)?,
            small(11, 13)?,
            small(13, 15)?,
            number(16, 22)? * 1000,
        )
        .ok()?;
        Some(civil.to_zoned(self.zone.clone()).ok()?.timestamp().as_microsecond())
    }
}

fn failed_entry(id: MessageId, failed: &FailedFolder, channel: &Channel) -> Option<Entry> {
    let (message, body) = failed.read(id).ok()?;
    Some(Entry {
        id: Some(id),
        received_us: message.received_us,
        control_id: message.control_id,
        message_type: message.message_type,
        keys: keys(&body, channel),
        outcome: Outcome::Failed,
        step: Some(message.step),
        archived: None,
    })
}

fn keys(body: &[u8], channel: &Channel) -> Keys {
    let decoded = hl7::charset::decode(body, channel.encoding);
    let Ok(message) = Message::parse(&decoded.text) else { return Keys::default() };
    Keys::of(&message, channel, &extract::extract(&message, channel).unwrap_or_default())
}

fn head(path: &Path) -> Option<Vec<u8>> {
    let link = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(link).open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 == HEAD_BYTES
        && let Some(end) = bytes.iter().rposition(|byte| *byte == b'\r')
    {
        bytes.truncate(end + 1);
    }
    Some(bytes)
}
