//! The archive step: the message as received, in a file of its own.

use super::{Context, Progress, again};
use crate::files::{Arrival, FileBatch, NewFile};
use std::path::Path;

/// Stages the archived message.
pub fn stage(context: &Context<'_>, batch: &mut FileBatch<'_>, root: &Path, place: usize) -> Progress {
    let file = NewFile {
        root,
        below: context.below,
        stem: &context.names.message_stem(),
        suffix: ".hl7",
        id: context.names.message_id,
        part: (place, 0),
        arrival: Arrival::Linked,
        order: context.order,
    };
    match batch.stage(&file, context.body) {
        Ok(staged) => Progress::Staged(vec![staged]),
        Err(fault) => Progress::Ended(again(&fault)),
    }
}
