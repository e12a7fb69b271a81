//! Whose turn a message takes: the order keys, frozen when it is accepted. Pure.

use crate::duplicates::TagKey;
use config::{Channel, Workflow};
use hl7::header::Header;
use hl7::message::Message;
use hl7::path::FieldPath;
use std::net::IpAddr;

/// The mapping that names the patient, where a channel has it.
const PATIENT_ID: &str = "patient_id";
/// The mapping that names the patient merged away.
const PRIOR_PATIENT_ID: &str = "prior_patient_id";

/// Where order keys come from on one channel.
#[derive(Clone, Debug)]
pub struct OrderKeys {
    patient: Vec<FieldPath>,
    /// Every patient of a merge, survivors and priors alike.
    merge: Vec<FieldPath>,
}

/// Kinds of keys, so that a patient's number is never a sender's.
const PATIENT: u8 = 1;
const SENDER: u8 = 2;

impl OrderKeys {
    /// From a channel's mapping; PID-3.1 where it maps no `patient_id`.
    pub fn of(channel: &Channel) -> OrderKeys {
        let mapped = |name: &str| channel.mapping.iter().find(|m| m.name == name).map(|m| m.paths.clone());
        let path = |text: &str| text.parse::<FieldPath>().expect("a path written here is right");
        let patient = mapped(PATIENT_ID).unwrap_or_else(|| vec![path("PID.1.3.1")]);
        let mut merge = vec![path("PID.*.3.1"), path("MRG.*.1.1")];
        merge.extend(mapped(PATIENT_ID).unwrap_or_default());
        merge.extend(mapped(PRIOR_PATIENT_ID).unwrap_or_default());
        OrderKeys { patient, merge }
    }

    /// The keys of a message: its patient's; those of every patient of a merge; else its sender's.
    pub fn keys(
        &self,
        message: Option<&Message<'_>>,
        header: &Header<'_>,
        peer: IpAddr,
        workflow: Workflow,
        hash: &TagKey,
    ) -> Vec<u64> {
        let mut keys: Vec<u64> = match (message, workflow) {
            (None, _) => Vec::new(),
            (Some(message), Workflow::PatientMerge) => {
                let values = self.merge.iter().flat_map(|path| message.text_all(path));
                values.filter(|v| !v.is_empty()).map(|v| hash.order_key(PATIENT, &[v.as_bytes()])).collect()
            }
            (Some(message), _) => {
                let texts: Vec<_> = self.patient.iter().filter_map(|path| message.text(path)).collect();
                let parts: Vec<&[u8]> =
                    texts.iter().map(|t| t.as_bytes()).filter(|t| !t.is_empty()).collect();
                if parts.is_empty() { Vec::new() } else { vec![hash.order_key(PATIENT, &parts)] }
            }
        };
        keys.sort_unstable();
        keys.dedup();
        keys.truncate(journal::KEYS_MAX);
        if keys.is_empty() {
            let address = peer.to_string();
            keys.push(hash.order_key(SENDER, &[header.field(3), header.field(4), address.as_bytes()]));
        }
        keys
    }
}
