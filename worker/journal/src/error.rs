//! What can go wrong, told apart by what the caller may still do.

use std::fmt;
use std::io;

/// Why an operation on the journal failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum JournalError {
    /// No room (`ENOSPC`, `EDQUOT`, `EFBIG`, also `EMFILE`, `ENFILE`, `ENOMEM`): nothing appended since the last successful
    /// [`write`](crate::Journal::write) or [`flush`](crate::Journal::flush) is kept, the handle stays usable.
    Full(io::Error),
    /// The storage failed. The handle is dead: whoever holds it ends and recovers from what is on disk.
    Io(io::Error),
    /// The handle died of an earlier error.
    Poisoned,
    /// The bytes at a place are not the record that was written there.
    Corrupt {
        /// The segment file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// The segment that held the record has been retired.
    Gone {
        /// The segment's number.
        segment: u32,
    },
    /// A file was written by a later version of this format: nothing was touched.
    Version {
        /// The segment file.
        file: String,
        /// The version it names.
        version: u32,
    },
    /// A record that cannot be represented; the caller's fault, nothing was appended.
    Invalid(&'static str),
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::Full(cause) => write!(f, "no room for the journal: {cause}"),
            JournalError::Io(cause) => write!(f, "journal storage failed: {cause}"),
            JournalError::Poisoned => write!(f, "journal closed by an earlier storage error"),
            JournalError::Corrupt { file, offset, what } => {
                write!(f, "journal file \"{file}\" damaged at byte {offset}: {what}")
            }
            JournalError::Gone { segment } => write!(f, "journal segment {segment} has been retired"),
            JournalError::Version { file, version } => {
                write!(f, "journal file \"{file}\" has format version {version}, this program knows 1")
            }
            JournalError::Invalid(what) => write!(f, "cannot journal a record with {what}"),
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JournalError::Full(cause) | JournalError::Io(cause) => Some(cause),
            JournalError::Poisoned
            | JournalError::Corrupt { .. }
            | JournalError::Gone { .. }
            | JournalError::Version { .. }
            | JournalError::Invalid(_) => None,
        }
    }
}

impl From<io::Error> for JournalError {
    fn from(cause: io::Error) -> Self {
        if is_full(&cause) { JournalError::Full(cause) } else { JournalError::Io(cause) }
    }
}

/// Whether an error means "no room": on the disk, for descriptors or for memory. It may pass when somebody makes room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    let raw = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].map(rustix::io::Errno::raw_os_error);
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::OutOfMemory
    ) || error.raw_os_error().is_some_and(|e| raw.contains(&e))
}

/// Something found wrong while opening. Every case is worth an operator's attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file it was found in; a copy with the extension `damaged` stands beside it.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What was found.
    pub what: DamageKind,
}

/// The kinds of [`Damage`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// Records that had been flushed cannot be read; whole ones follow and are kept.
    Lost {
        /// How many records the gap in the sequence numbers shows; 0 when it cannot be told.
        records: u64,
    },
    /// A gap in the tail that may never have been flushed (the usual trace of a power cut, or damage to
    /// the very last batch); whole records follow and are kept.
    LostUnflushed {
        /// How many records the gap in the sequence numbers shows.
        records: u64,
    },
    /// Neither copy of the segment's header can be read, hence none of its records.
    Header,
    /// A message that still waits, whose bytes fail their checksum.
    Body {
        /// The message.
        id: crate::MessageId,
    },
    /// The file of duplicate memory fails its checksum: duplicates of older messages are not recognised.
    Recall,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DamageKind::Lost { records: 0 } => write!(f, "flushed records are unreadable"),
            DamageKind::Lost { records } => write!(f, "{records} flushed records are unreadable"),
            DamageKind::LostUnflushed { records } => {
                write!(f, "{records} records of the tail are unreadable, whole ones follow")
            }
            DamageKind::Header => write!(f, "the header is unreadable"),
            DamageKind::Body { id } => write!(f, "message {id} fails its checksum"),
            DamageKind::Recall => write!(f, "the duplicate memory is unreadable"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" at byte {}: {}", self.file, self.offset, self.what)
    }
}
