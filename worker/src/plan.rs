//! The plan: which steps a channel carries a message through, by workflow, compiled once from the settings.
//!
//! A step has a place in the channel's table of steps; a set of steps is a bit mask over these places. The places hold
//! for one run of one worker only: on disk a step is known by its name.

use config::{Channel, DropTarget, WorkerSettings, Workflow};
use std::fmt;
use std::path::PathBuf;

/// Most steps that a channel may have; a set of them is one word.
pub const STEPS_MAX: usize = 32;

/// The step's name that a message fails in when its mapping does.
pub const MAPPING: &str = "mapping";

/// One step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The message is read and mapped, and nothing else: where nothing else is configured for it.
    Mapping,
    /// The message as received into `local_archive.path`.
    Archive(PathBuf),
    /// The attachments into `local_archive.attachment`.
    Attachment(PathBuf),
    /// The attachments into one local drop folder.
    DropFolder {
        /// Its name in the file.
        name: String,
        /// Where it is.
        path: PathBuf,
    },
}

impl Step {
    /// The step's name in the journal, the log and the counters. Stable: a retry after a restart knows a step by it.
    pub fn name(&self) -> String {
        match self {
            Step::Mapping => MAPPING.to_owned(),
            Step::Archive(_) => "archive".to_owned(),
            Step::Attachment(_) => "attachment".to_owned(),
            Step::DropFolder { name, .. } => format!("drop_folder:{name}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Mapping => write!(f, "read the message and map its values"),
            Step::Archive(path) => write!(f, "archive the message below {}", path.display()),
            Step::Attachment(path) => write!(f, "archive the attachments below {}", path.display()),
            Step::DropFolder { name, path } => {
                write!(f, "drop the attachments into {} (drop folder {name})", path.display())
            }
        }
    }
}

/// A set of steps of one plan.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct StepSet(u32);

impl StepSet {
    /// No step.
    pub const EMPTY: StepSet = StepSet(0);

    /// The set of one step.
    pub fn one(place: usize) -> StepSet {
        debug_assert!(place < STEPS_MAX);
        StepSet(1 << place)
    }
    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Whether the step at that place is in it.
    pub fn has(self, place: usize) -> bool {
        self.0 >> place & 1 == 1
    }
    /// What is in either.
    #[must_use]
    pub fn with(self, other: StepSet) -> StepSet {
        StepSet(self.0 | other.0)
    }
    /// What is in this one only.
    #[must_use]
    pub fn without(self, other: StepSet) -> StepSet {
        StepSet(self.0 & !other.0)
    }
    /// What is in both.
    #[must_use]
    pub fn and(self, other: StepSet) -> StepSet {
        StepSet(self.0 & other.0)
    }
    /// The places, in the order of the plan.
    pub fn places(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            (rest != 0).then(|| {
                let place = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                place
            })
        })
    }
}

impl fmt::Debug for StepSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.places()).finish()
    }
}

/// A channel's plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    steps: Vec<Step>,
    names: Vec<String>,
    store: StepSet,
    document: StepSet,
    archive_before_mapping: bool,
    workflows: Vec<(String, Workflow)>,
}

impl Plan {
    /// Compiles a channel's settings.
    pub fn of(settings: &WorkerSettings) -> Plan {
        let channel = &settings.channel;
        let mut steps = Vec::new();
        let archive = channel.local_archive.as_ref();
        if let Some(path) = archive.and_then(|a| a.path.clone()) {
            steps.push(Step::Archive(path));
        }
        let common = steps.len();
        if let Some(path) = archive.and_then(|a| a.attachment.clone()) {
            steps.push(Step::Attachment(path));
        }
        for folder in &channel.drop_folders {
            if let DropTarget::Local { path } = &folder.target {
                steps.push(Step::DropFolder { name: folder.name.clone(), path: path.clone() });
            }
        }
        let all = |n: usize| (0..n).fold(StepSet::EMPTY, |set, place| set.with(StepSet::one(place)));
        let (mut store, mut document) = (all(common), all(steps.len()));
        if store.is_empty() {
            let mapping = StepSet::one(steps.len());
            steps.push(Step::Mapping);
            store = mapping;
            document = if document.is_empty() { mapping } else { document };
        }
        assert!(steps.len() <= STEPS_MAX, "the loader bounds the number of drop folders");
        Plan {
            names: steps.iter().map(Step::name).collect(),
            store,
            document,
            steps,
            archive_before_mapping: channel.archive_first,
            workflows: workflow_rows(channel),
        }
    }

    /// The steps of a workflow; never none.
    pub fn steps_of(&self, workflow: Workflow) -> StepSet {
        match workflow {
            Workflow::Document => self.document,
            Workflow::Store | Workflow::Credentials | Workflow::PatientMerge => self.store,
        }
    }

    /// The step at a place.
    pub fn step(&self, place: usize) -> &Step {
        &self.steps[place]
    }

    /// How many steps the table has.
    #[expect(clippy::len_without_is_empty, reason = "a plan always has a step")]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// The name of the step at a place.
    pub fn name(&self, place: usize) -> &str {
        &self.names[place]
    }

    /// The place of a step, by the name the journal knows it by; `None` where the file no longer has it.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    /// Whether the step needs nothing of the mapping.
    pub fn is_before_mapping(&self, place: usize) -> bool {
        self.archive_before_mapping && matches!(self.steps[place], Step::Archive(_))
    }
}

fn workflow_rows(channel: &Channel) -> Vec<(String, Workflow)> {
    let mut rows: Vec<_> = channel.workflows.by_type.iter().map(|(t, w)| (t.clone(), *w)).collect();
    rows.extend(channel.workflows.any.map(|w| ("every other type".to_owned(), w)));
    rows
}

/// What `hl7server check --plan` prints of a channel.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for workflow in [Workflow::Credentials, Workflow::Document, Workflow::PatientMerge, Workflow::Store] {
            let types: Vec<&str> =
                self.workflows.iter().filter(|(_, w)| *w == workflow).map(|(t, _)| t.as_str()).collect();
            if types.is_empty() {
                continue;
            }
            writeln!(f, "{} ({})", workflow.name(), types.join(", "))?;
            let steps = self.steps_of(workflow);
            for (n, place) in steps.places().enumerate() {
                let when = if self.is_before_mapping(place) { ", before the mapping" } else { "" };
                writeln!(f, "  {}. {}{when}", n + 1, self.steps[place])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_without_a_step_still_reads_its_messages() {
        let plan = Plan::of(&crate::testing::settings("debug_message: true"));
        for (_, workflow) in Workflow::ALL {
            let names: Vec<&str> = plan.steps_of(workflow).places().map(|p| plan.name(p)).collect();
            assert_eq!(names, ["mapping"]);
        }
    }

    #[test]
    fn only_documents_have_attachments() {
        let lines = "local_archive: { path: /a, attachment: /b }\ndrop_folders: { ward: { path: /c } }";
        let plan = Plan::of(&crate::testing::settings(lines));
        let names = |w| plan.steps_of(w).places().map(|p| plan.name(p)).collect::<Vec<_>>();
        assert_eq!(names(Workflow::Store), ["archive"]);
        assert_eq!(names(Workflow::Document), ["archive", "attachment", "drop_folder:ward"]);
    }

    #[test]
    fn places_come_in_the_order_of_the_plan() {
        let set = StepSet::one(5).with(StepSet::one(0)).with(StepSet::one(31));
        assert_eq!(set.places().collect::<Vec<_>>(), [0, 5, 31]);
        assert_eq!(set.without(StepSet::one(5)).places().collect::<Vec<_>>(), [0, 31]);
    }
}
