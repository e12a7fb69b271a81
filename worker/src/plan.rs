//! The plan: which steps a channel carries a message through, by workflow, compiled once from the settings.
//!
//! Steps that share delivery threads are a pool: all that write files of this machine, and each peer's own. So a peer
//! that hangs keeps the threads of its own steps, and no others.
//!
//! A step has a place in the channel's table of steps; a set of steps is a bit mask over these places. The places hold
//! for one run of one worker only: on disk a step is known by its name.

use config::{Channel, ColumnSource, DbColumn, DropTarget, RemoteFolder, Resend, WorkerSettings, Workflow};
use std::fmt;
use std::ops::Index;
use std::path::PathBuf;

/// Most steps that a channel may have; a set of them is one word.
pub const STEPS_MAX: usize = 32;

/// Most messages of one job that writes files: these are flushed together.
const FILES_JOB_MAX: usize = 128;
/// Most documents that Solr is sent at once.
const SOLR_JOB_MAX: usize = 100;
/// Most pools of a plan; what would be one more shares the threads of the last.
const POOLS_MAX: usize = 16;
/// Most rows inserted in one transaction.
const INSERT_JOB_MAX: usize = 64;

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
    /// The attachments, or the credential task, into one local drop folder.
    DropFolder {
        /// Its name in the file.
        name: String,
        /// Where it is.
        path: PathBuf,
        /// Its task needs what is looked up in the database, so that it waits for a peer too.
        looks_up: bool,
    },
    /// The same into a folder reached by SFTP.
    RemoteFolder {
        /// Its name in the file.
        name: String,
        /// Where it is.
        folder: RemoteFolder,
    },
    /// A row of the metadata into `db_insert.table`.
    Insert {
        /// Several rows may share a transaction: `message_key` knows those that are there already.
        batches: bool,
    },
    /// The rows of a retired patient id to the surviving one.
    DbMerge,
    /// A credential task to dfapi.
    Credentials,
    /// A merge of two patients to dfapi.
    CredentialsMerge,
    /// A document into Solr.
    Solr,
    /// The message as received to another HL7 server.
    Resend(Resend),
}

impl Step {
    /// The step's name in the journal, the log and the counters. Stable: a retry after a restart knows a step by it.
    pub fn name(&self) -> String {
        match self {
            Step::Mapping => MAPPING.to_owned(),
            Step::Archive(_) => "archive".to_owned(),
            Step::Attachment(_) => "attachment".to_owned(),
            Step::DropFolder { name, .. } | Step::RemoteFolder { name, .. } => format!("drop_folder:{name}"),
            Step::Insert { .. } => "db_insert".to_owned(),
            Step::DbMerge => "db_merge".to_owned(),
            Step::Credentials => "credentials".to_owned(),
            Step::CredentialsMerge => "credentials_merge".to_owned(),
            Step::Solr => "solr".to_owned(),
            Step::Resend(_) => "resend".to_owned(),
        }
    }

    /// Whether it touches nothing but files of this machine.
    fn is_local(&self) -> bool {
        match self {
            Step::Mapping | Step::Archive(_) | Step::Attachment(_) => true,
            Step::DropFolder { looks_up, .. } => !looks_up,
            Step::RemoteFolder { .. }
            | Step::Insert { .. }
            | Step::DbMerge
            | Step::Credentials
            | Step::CredentialsMerge
            | Step::Solr
            | Step::Resend(_) => false,
        }
    }

    /// Most messages of a job of its own.
    fn job_max(&self) -> usize {
        match self {
            Step::Mapping | Step::Archive(_) | Step::Attachment(_) | Step::DropFolder { .. } => FILES_JOB_MAX,
            Step::Solr => SOLR_JOB_MAX,
            Step::Insert { batches: true } => INSERT_JOB_MAX,
            // Each is on record as soon as it is done: what a crash would repeat is one message.
            Step::Insert { batches: false }
            | Step::RemoteFolder { .. }
            | Step::DbMerge
            | Step::Credentials
            | Step::CredentialsMerge
            | Step::Resend(_) => 1,
        }
    }

    /// Delivery threads of its own; a channel keeps one connection to the server it forwards to.
    fn threads(&self, tasks: usize) -> usize {
        if matches!(self, Step::Resend(_)) { 1 } else { tasks }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Mapping => write!(f, "read the message and map its values"),
            Step::Archive(path) => write!(f, "archive the message below {}", path.display()),
            Step::Attachment(path) => write!(f, "archive the attachments below {}", path.display()),
            Step::DropFolder { name, path, .. } => {
                write!(f, "drop into {} (drop folder {name})", path.display())
            }
            Step::RemoteFolder { name, folder } => {
                let RemoteFolder { user, server, port, path, .. } = folder;
                write!(f, "drop into sftp://{user}@{server}:{port}{path} (drop folder {name})")
            }
            Step::Insert { .. } => write!(f, "insert a row into the database"),
            Step::DbMerge => write!(f, "give the rows of the retired patient id to the surviving one"),
            Step::Credentials => write!(f, "send the credential task to dfapi"),
            Step::CredentialsMerge => write!(f, "send the merge to dfapi"),
            Step::Solr => write!(f, "index in Solr"),
            Step::Resend(resend) => {
                write!(f, "forward to {}:{}", resend.server, resend.port)?;
                f.write_str(if resend.filter.is_some() { ", where the filter says so" } else { "" })
            }
        }
    }
}

/// Steps that share delivery threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// For the names of its threads.
    pub name: String,
    /// Its steps.
    pub steps: StepSet,
    /// Its threads.
    pub threads: usize,
    /// Most messages of one of its jobs.
    pub job_max: usize,
}

/// The pools of a plan; the one that writes files of this machine comes first, where there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Pools {
    pools: Vec<Pool>,
    local: StepSet,
    last: StepSet,
    /// Steps that keep one order among them though no message has both.
    kin: [StepSet; 2],
}

impl Pools {
    fn of(steps: &[Step], tasks: usize) -> Pools {
        let set = |want: &dyn Fn(&Step) -> bool| {
            let places = steps.iter().enumerate().filter(|(_, step)| want(step)).map(|(place, _)| place);
            places.fold(StepSet::EMPTY, |set, place| set.with(StepSet::one(place)))
        };
        let local = set(&Step::is_local);
        let last = set(&|step| matches!(step, Step::Resend(resend) if resend.after_processing));
        let kin = [
            set(&|step| matches!(step, Step::Insert { .. } | Step::DbMerge)),
            set(&|step| matches!(step, Step::Credentials | Step::CredentialsMerge)),
        ];
        let mut pools = Vec::new();
        if !local.is_empty() {
            let name = "files".to_owned();
            pools.push(Pool { name, steps: local, threads: tasks.max(1), job_max: FILES_JOB_MAX });
        }
        for (place, step) in steps.iter().enumerate().filter(|(_, step)| !step.is_local()) {
            let (threads, job_max) = (step.threads(tasks).max(1), step.job_max());
            if pools.len() == POOLS_MAX {
                let last = &mut pools[POOLS_MAX - 1];
                (last.steps, last.job_max) = (last.steps.with(StepSet::one(place)), 1);
                continue;
            }
            pools.push(Pool { name: step.name(), steps: StepSet::one(place), threads, job_max });
        }
        Pools { pools, local, last, kin }
    }

    /// One pool for the local steps, one for each of the others.
    #[cfg(test)]
    pub(crate) fn made_of(local: StepSet, others: StepSet, last: StepSet, threads: usize) -> Pools {
        let pool = |steps| Pool { name: "test".to_owned(), steps, threads, job_max: FILES_JOB_MAX };
        let others = others.places().map(StepSet::one);
        let pools = std::iter::once(local).chain(others).filter(|s| !s.is_empty()).map(pool).collect();
        Pools { pools, local, last, kin: [StepSet::EMPTY; 2] }
    }

    /// The same, with steps that keep one order among them.
    #[cfg(test)]
    pub(crate) fn with_kin(mut self, kin: StepSet) -> Pools {
        self.kin[0] = kin;
        self
    }

    /// What a message with these steps before it stands in line for: a merge changes the rows that earlier messages of
    /// its patients insert, and later ones insert under the id that it leaves.
    pub fn in_line(&self, steps: StepSet) -> StepSet {
        let met = self.kin.iter().filter(|kin| !kin.and(steps).is_empty());
        met.fold(steps, |line, kin| line.with(*kin))
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "a plan always has a step, and so a pool")]
    pub fn len(&self) -> usize {
        self.pools.len()
    }

    /// Steps that write files of this machine.
    pub fn local(&self) -> StepSet {
        self.local
    }

    /// Without those that wait for every other step, unless these are all that is left.
    pub fn unless_last(&self, pending: StepSet) -> StepSet {
        let others = pending.without(self.last);
        if others.is_empty() { pending } else { others }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter()
    }
}

impl Index<usize> for Pools {
    type Output = Pool;
    fn index(&self, at: usize) -> &Pool {
        &self.pools[at]
    }
}

/// A set of steps of one plan.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct StepSet(u32);

impl StepSet {
    /// No step.
    pub const EMPTY: StepSet = StepSet(0);
    /// Every step that a plan may have.
    pub const ALL: StepSet = StepSet(u32::MAX);

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
    pools: Pools,
    /// By place in [`Workflow::ALL`].
    by_workflow: [StepSet; 4],
    archive_before_mapping: bool,
    row_looks_up: bool,
    task_looks_up: bool,
    workflows: Vec<(String, Workflow)>,
    /// What is sent to the database.
    statements: Vec<String>,
}

impl Plan {
    /// Compiles a channel's settings.
    pub fn of(settings: &WorkerSettings) -> Plan {
        let channel = &settings.channel;
        // Each with the workflows it belongs to, in the order in which `check --plan` shows them.
        let mut rows: Vec<(Step, &[Workflow])> = Vec::new();
        let archive = channel.local_archive.as_ref();
        if let Some(path) = archive.and_then(|a| a.path.clone()) {
            rows.push((Step::Archive(path), &EVERY));
        }
        if let Some(resend) = channel.resend.as_ref().filter(|r| !r.after_processing) {
            rows.push((Step::Resend(resend.clone()), &EVERY));
        }
        if let Some(path) = archive.and_then(|a| a.attachment.clone()) {
            rows.push((Step::Attachment(path), &[Workflow::Document]));
        }
        let dropped: &[Workflow] = match has_task(channel) {
            true => &[Workflow::Document, Workflow::Credentials],
            false => &[Workflow::Document],
        };
        let task_looks_up = task_looks_up(channel);
        for folder in &channel.drop_folders {
            let name = folder.name.clone();
            let step = match &folder.target {
                DropTarget::Local { path } => {
                    Step::DropFolder { name, path: path.clone(), looks_up: task_looks_up }
                }
                DropTarget::Remote(folder) => Step::RemoteFolder { name, folder: folder.clone() },
            };
            rows.push((step, dropped));
        }
        if let Some(insert) = &channel.db_insert {
            if !channel.db_metadata.is_empty() {
                rows.push((Step::Insert { batches: insert.message_key.is_some() }, &NO_MERGE));
            }
            if patient_column(channel).is_some() {
                rows.push((Step::DbMerge, &[Workflow::PatientMerge]));
            }
        }
        if settings.dfapi.is_some() {
            rows.push((Step::Credentials, &[Workflow::Credentials]));
            rows.push((Step::CredentialsMerge, &[Workflow::PatientMerge]));
        }
        if settings.store_solr && settings.solr.is_some() {
            rows.push((Step::Solr, &EVERY));
        }
        if let Some(resend) = channel.resend.as_ref().filter(|r| r.after_processing) {
            rows.push((Step::Resend(resend.clone()), &EVERY));
        }
        let of = |rows: &[(Step, &[Workflow])], workflow| {
            let places =
                rows.iter().enumerate().filter(|(_, (_, of))| of.contains(&workflow)).map(|(at, _)| at);
            places.fold(StepSet::EMPTY, |set, place| set.with(StepSet::one(place)))
        };
        // A workflow without a step still reads its messages.
        let idle: Vec<Workflow> = EVERY.into_iter().filter(|w| of(&rows, *w).is_empty()).collect();
        if !idle.is_empty() {
            rows.push((Step::Mapping, &idle));
        }
        assert!(rows.len() <= STEPS_MAX, "the loader bounds the number of drop folders");
        let by_workflow = EVERY.map(|workflow| of(&rows, workflow));
        let steps: Vec<Step> = rows.iter().map(|(step, _)| step.clone()).collect();
        Plan {
            names: steps.iter().map(Step::name).collect(),
            pools: Pools::of(&steps, usize::from(channel.tasks)),
            steps,
            by_workflow,
            archive_before_mapping: channel.archive_first,
            row_looks_up: !channel.db_mapping.is_empty(),
            task_looks_up,
            workflows: workflow_rows(channel),
            statements: db::Table::of(channel).map(|table| table.statements()).unwrap_or_default(),
        }
    }

    /// The steps of a workflow; never none.
    pub fn steps_of(&self, workflow: Workflow) -> StepSet {
        self.by_workflow[EVERY.iter().position(|w| *w == workflow).expect("all of them are in it")]
    }

    /// Which steps share threads.
    pub fn pools(&self) -> &Pools {
        &self.pools
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

    /// Whether the step, in that workflow, needs what is looked up in the database.
    pub fn looks_up(&self, place: usize, workflow: Workflow) -> bool {
        match self.steps[place] {
            Step::Insert { .. } => self.row_looks_up,
            Step::Credentials | Step::CredentialsMerge => self.task_looks_up,
            Step::DropFolder { .. } | Step::RemoteFolder { .. } => {
                self.task_looks_up && workflow == Workflow::Credentials
            }
            Step::Mapping
            | Step::Archive(_)
            | Step::Attachment(_)
            | Step::DbMerge
            | Step::Solr
            | Step::Resend(_) => false,
        }
    }

    /// Whether the step needs nothing of the mapping.
    pub fn is_before_mapping(&self, place: usize) -> bool {
        self.archive_before_mapping && matches!(self.steps[place], Step::Archive(_))
    }
}

/// Every workflow.
const EVERY: [Workflow; 4] =
    [Workflow::Credentials, Workflow::Document, Workflow::PatientMerge, Workflow::Store];
/// A merge changes rows and adds none.
const NO_MERGE: [Workflow; 3] = [Workflow::Credentials, Workflow::Document, Workflow::Store];

/// Whether the channel says what a credential task is made of.
pub fn has_task(channel: &Channel) -> bool {
    !channel.credentials_metadata.is_empty() || !channel.book_metadata.is_empty() || channel.mobile.is_some()
}

/// Whether a credential task has values that are looked up in the database.
fn task_looks_up(channel: &Channel) -> bool {
    let fields =
        channel.credentials_metadata.iter().chain(&channel.book_metadata).map(|(_, variable)| variable);
    let mut used = fields.chain(channel.mobile.iter().flat_map(|mobile| &mobile.fields));
    used.any(|variable| channel.db_mapping.iter().any(|lookup| lookup.name == *variable))
}

/// The column that holds the patient id: that of the `patient_id` mapping.
pub fn patient_column(channel: &Channel) -> Option<&DbColumn> {
    channel.db_metadata.iter().find(|c| c.variable == "patient_id" && c.source == ColumnSource::Variable)
}

fn workflow_rows(channel: &Channel) -> Vec<(String, Workflow)> {
    let mut rows: Vec<_> = channel.workflows.by_type.iter().map(|(t, w)| (t.clone(), *w)).collect();
    rows.extend(channel.workflows.any.map(|w| ("every other type".to_owned(), w)));
    rows
}

/// What `hl7server check --plan` prints of a channel.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for workflow in EVERY {
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
        if !self.statements.is_empty() {
            writeln!(f, "statements")?;
        }
        for line in self.statements.iter().flat_map(|statement| statement.lines()) {
            writeln!(f, "  {line}")?;
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
