//! Looking into a journal without its lock, while a worker may be writing to it: for the commands.

use std::io;
use std::path::Path;

use crate::error::JournalError;
use crate::id::MessageId;
use crate::meta::Meta;
use crate::reader::{self, OwnedReceived};
use crate::recall::State;
use crate::record::Location;
use crate::replay::{Content, Replayed};
use crate::scan::{self, Found as FoundRecord};
use crate::segment::{Header, number_of, segment_name};
use crate::storage::{FileStorage, Storage};

/// A journal to look into. Nothing is repaired, locked or written; a tail that is being written, and
/// segments that vanish meanwhile, are passed over.
pub struct ReadOnly<S: Storage = FileStorage> {
    storage: S,
}

/// A message found by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The message as it came.
    pub message: OwnedReceived,
    /// How it stands.
    pub state: State,
    /// Where its bytes are.
    pub location: Location,
}

/// Opens the journal in a folder for looking.
///
/// # Errors
/// What the system says, `NotFound` where there is no folder.
pub fn read_only(path: &Path) -> io::Result<ReadOnly> {
    Ok(ReadOnly { storage: FileStorage::look(path)? })
}

impl<S: Storage> ReadOnly<S> {
    /// Over any storage.
    pub fn new(storage: S) -> Self {
        ReadOnly { storage }
    }

    /// Finds a message whose segment has not been retired.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] when its bytes are damaged, [`JournalError::Io`], [`JournalError::Version`].
    pub fn find(&self, id: MessageId) -> Result<Option<Found>, JournalError> {
        let mut last = None;
        let mut state = State::Open;
        self.walk(&mut |found| match Meta::decode(found.head.kind, found.meta) {
            Some(Meta::Received(meta)) if meta.id == id => {
                last = Some(found.location);
                state = State::Open;
            }
            Some(Meta::Done(ids)) if last.is_some() && ids.iter().any(|done| done == id) => {
                state = State::Done;
            }
            Some(Meta::Failed { id: of, .. }) if of == id => state = State::Failed,
            Some(Meta::Discarded { id: of }) if of == id => state = State::Discarded,
            Some(Meta::Returned { id: of }) if of == id => state = State::Returned,
            Some(Meta::Retried { id: of }) if of == id => state = State::Open,
            _ => {}
        })?;
        let Some(location) = last else { return Ok(None) };
        let Some((file, seed)) = self.open(location.segment)? else { return Ok(None) };
        let message = reader::received(&file, seed, location)?;
        Ok(Some(Found { message, state, location }))
    }

    /// Hands out every message that waits, in order.
    ///
    /// # Errors
    /// As [`find`](ReadOnly::find).
    pub fn messages(&self, sink: &mut dyn FnMut(Replayed)) -> Result<(), JournalError> {
        let mut content = Content::default();
        self.walk(&mut |found| content.apply(found))?;
        content.hand_out(sink);
        Ok(())
    }

    /// The body of a message handed out by [`messages`](ReadOnly::messages); nothing when it has gone.
    ///
    /// # Errors
    /// As [`find`](ReadOnly::find).
    pub fn read(&self, location: Location) -> Result<Option<OwnedReceived>, JournalError> {
        match self.open(location.segment)? {
            Some((file, seed)) => reader::received(&file, seed, location).map(Some),
            None => Ok(None),
        }
    }

    fn open(&self, number: u32) -> Result<Option<(S::File, u32)>, JournalError> {
        let file = match self.storage.open(&segment_name(number)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(JournalError::Io(error)),
        };
        Ok(Header::read(&file, number)?.map(|header| (file, header.seed())))
    }

    fn walk(&self, sink: &mut dyn FnMut(FoundRecord<'_>)) -> Result<(), JournalError> {
        let names = self.storage.list().map_err(JournalError::Io)?;
        let through = names.iter().filter_map(|name| number_of(name, "mem")).max().unwrap_or(0);
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| number_of(name, "seg")).collect();
        numbers.retain(|&number| number > through);
        numbers.sort_unstable();
        for number in numbers {
            if let Some((file, seed)) = self.open(number)? {
                scan::walk(&file, number, seed, sink).map_err(JournalError::Io)?;
            }
        }
        Ok(())
    }
}
