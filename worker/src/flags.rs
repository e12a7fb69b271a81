//! The one byte of flags that the journal keeps with a message: its workflow, frozen when it was accepted.

use config::Workflow;

const WORKFLOW_MASK: u8 = 0b11;

/// The flags of a message that is being accepted.
pub fn of(workflow: Workflow) -> u8 {
    match workflow {
        Workflow::Store => 0,
        Workflow::Document => 1,
        Workflow::Credentials => 2,
        Workflow::PatientMerge => 3,
    }
}

/// The workflow in them.
pub fn workflow(flags: u8) -> Workflow {
    match flags & WORKFLOW_MASK {
        1 => Workflow::Document,
        2 => Workflow::Credentials,
        3 => Workflow::PatientMerge,
        _ => Workflow::Store,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workflow_comes_back() {
        for w in [Workflow::Store, Workflow::Document, Workflow::Credentials, Workflow::PatientMerge] {
            assert_eq!(workflow(of(w)), w);
        }
    }
}
