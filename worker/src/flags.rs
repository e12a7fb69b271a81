//! The one byte of flags that the journal keeps with a message: its workflow, frozen when it was accepted, and whether it
//! is ours whatever becomes of it.

use config::Workflow;

const WORKFLOW_MASK: u8 = 0b11;
/// The sender was told AA (or a person took the message over): what fails is listed here, never given back.
const OURS: u8 = 0b100;

/// The flags of a message that is being accepted.
pub fn of(workflow: Workflow) -> u8 {
    match workflow {
        Workflow::Store => 0,
        Workflow::Document => 1,
        Workflow::Credentials => 2,
        Workflow::PatientMerge => 3,
    }
}

/// The flags of a message that is ours.
pub fn ours(flags: u8) -> u8 {
    flags | OURS
}

/// Whether a message is ours.
pub fn is_ours(flags: u8) -> bool {
    flags & OURS != 0
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
            assert!(!is_ours(of(w)) && is_ours(ours(of(w))));
            assert_eq!(workflow(ours(of(w))), w);
        }
    }
}
