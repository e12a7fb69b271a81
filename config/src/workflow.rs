//! Which message type is worked on how: the table of the reference with `message_types` laid over it.

use crate::model::{Workflow, WorkflowTable};

/// What holds without `message_types`. Source: the reference, § Workflows.
const DEFAULTS: [(&str, Workflow); 6] = [
    ("ADT^A01", Workflow::Credentials),
    ("ADT^A08", Workflow::Credentials),
    ("ORM^O01", Workflow::Credentials),
    ("ADT^A34", Workflow::PatientMerge),
    ("ORU^R01", Workflow::Document),
    ("MDM^T02", Workflow::Document),
];

impl Workflow {
    /// Every workflow by the word that names it in a file.
    pub const ALL: [(&'static str, Workflow); 4] = [
        ("credentials", Workflow::Credentials),
        ("document", Workflow::Document),
        ("patient_merge", Workflow::PatientMerge),
        ("store", Workflow::Store),
    ];

    /// The word that names it in a file.
    pub fn name(self) -> &'static str {
        match self {
            Workflow::Credentials => "credentials",
            Workflow::Document => "document",
            Workflow::PatientMerge => "patient_merge",
            Workflow::Store => "store",
        }
    }
}

impl WorkflowTable {
    /// The table of a channel without `message_types`.
    pub fn standard() -> WorkflowTable {
        let by_type = DEFAULTS.iter().map(|(name, workflow)| ((*name).to_owned(), *workflow)).collect();
        WorkflowTable { by_type, any: None }
    }

    /// The workflow of a message: by type and event, else by type alone, else that of `"*"`. `None`: not accepted.
    pub fn workflow(&self, message_type: &str, event: &str) -> Option<Workflow> {
        // Once a message: put together without format!.
        let exact = self.by_type.get(&[message_type, "^", event].concat());
        exact.or_else(|| self.by_type.get(message_type)).copied().or(self.any)
    }

    /// Whether some event of a type is accepted: what tells an unknown event from an unknown type.
    pub fn knows_type(&self, message_type: &str) -> bool {
        self.any.is_some()
            || self.by_type.keys().any(|key| key.split('^').next().is_some_and(|name| name == message_type))
    }

    /// Whether some message runs through a workflow.
    pub fn uses(&self, workflow: Workflow) -> bool {
        self.any == Some(workflow) || self.by_type.values().any(|used| *used == workflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_type_comes_before_the_type_alone_before_the_rest() {
        let mut table = WorkflowTable::standard();
        assert_eq!(table.workflow("ADT", "A01"), Some(Workflow::Credentials));
        assert_eq!(table.workflow("ADT", "A34"), Some(Workflow::PatientMerge));
        assert_eq!(table.workflow("ADT", "A03"), None);
        assert_eq!(table.workflow("ORU", ""), None);
        table.by_type.insert("ADT".to_owned(), Workflow::Store);
        assert_eq!(table.workflow("ADT", "A03"), Some(Workflow::Store));
        assert_eq!(table.workflow("ADT", "A01"), Some(Workflow::Credentials));
        assert_eq!(table.workflow("SIU", "S12"), None);
        table.any = Some(Workflow::Document);
        assert_eq!(table.workflow("SIU", "S12"), Some(Workflow::Document));
    }

    #[test]
    fn a_known_type_with_an_unknown_event_is_told_apart() {
        let table = WorkflowTable::standard();
        assert!(table.knows_type("ADT"));
        assert!(!table.knows_type("AD"));
        assert!(!table.knows_type("SIU"));
    }

    #[test]
    fn every_workflow_is_named_once() {
        for (name, workflow) in Workflow::ALL {
            assert_eq!(workflow.name(), name);
        }
    }
}
