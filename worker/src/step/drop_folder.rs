//! The drop folder step: the attachments into one folder of this machine, where others pick them up.

use super::{Attachments, Context, Progress, stage_attachments};
use crate::files::FileBatch;
use std::path::Path;

/// Stages the attachments right below `root`.
pub fn stage(
    context: &Context<'_>,
    attachments: &mut Attachments,
    batch: &mut FileBatch<'_>,
    root: &Path,
    place: usize,
) -> Progress {
    stage_attachments(context, attachments, batch, root, "", place)
}
