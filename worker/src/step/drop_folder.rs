//! The drop folder step: the attachments, or the credential task, into one folder of this machine, where others pick them
//! up.

use super::{Attachments, Context, Progress, again, credentials, stage_attachments};
use crate::files::{Arrival, FileBatch, NewFile};
use config::Workflow;
use std::path::Path;

/// Stages the files right below `root`.
pub fn stage(
    context: &Context<'_>,
    attachments: &mut Attachments,
    batch: &mut FileBatch<'_>,
    root: &Path,
    place: usize,
) -> Progress {
    match context.workflow {
        Workflow::Credentials => stage_task(context, batch, root, place),
        Workflow::Document | Workflow::PatientMerge | Workflow::Store => {
            stage_attachments(context, attachments, batch, (root, "", Arrival::Moved), place)
        }
    }
}

fn stage_task(context: &Context<'_>, batch: &mut FileBatch<'_>, root: &Path, place: usize) -> Progress {
    let task = match credentials::task_bytes(context) {
        Ok(task) => task,
        Err(reason) => return Progress::Failed(reason),
    };
    let file = NewFile {
        root,
        below: "",
        stem: &context.names.task_stem(),
        suffix: TASK_SUFFIX,
        id: context.names.message_id,
        part: (place, 0),
        arrival: Arrival::Moved,
        order: context.order,
    };
    match batch.stage(&file, &task) {
        Ok(staged) => Progress::Staged(vec![staged]),
        Err(fault) => Progress::Ended(again(&fault)),
    }
}

/// What the name of a credential task ends in.
pub const TASK_SUFFIX: &str = ".json";
