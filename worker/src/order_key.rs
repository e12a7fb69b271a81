//! Whose turn a message takes: the order keys, frozen when it is accepted. Pure.

use crate::duplicates::TagKey;
use crate::merges::{PRIOR_PATIENT_ID, mapped_paths, patient_paths, prior_of};
use config::{Channel, Workflow};
use hl7::header::Header;
use hl7::message::Message;
use hl7::path::{Choice, FieldPath};
use std::borrow::Cow;
use std::net::IpAddr;

/// Where order keys come from on one channel.
#[derive(Clone, Debug)]
pub struct OrderKeys {
    patient: Vec<FieldPath>,
    /// The same of every pair of a merge: the survivors…
    survivors: Vec<FieldPath>,
    /// … and those merged away.
    priors: Vec<FieldPath>,
}

/// Kinds of keys, so that a patient's number is never a sender's.
const PATIENT: u8 = 1;
const SENDER: u8 = 2;

impl OrderKeys {
    /// From a channel's mapping; PID-3.1 where it maps no `patient_id`.
    pub fn of(channel: &Channel) -> OrderKeys {
        let patient = patient_paths(channel);
        let every = |paths: &[FieldPath]| paths.iter().map(|p| p.with_occurrence(Choice::Every)).collect();
        // Where HL7 names no counterpart the merge will fail; until then it stands in the usual one's lane.
        let prior = |path: &FieldPath| prior_of(path).unwrap_or_else(|| path_of("MRG.*.1.1"));
        let priors = mapped_paths(channel, PRIOR_PATIENT_ID)
            .unwrap_or_else(|| patient.iter().map(prior).collect::<Vec<_>>());
        OrderKeys { survivors: every(&patient), priors: every(&priors), patient }
    }

    /// The keys of a message: its patient's; those of every patient of a merge; else its sender's.
    pub fn keys(
        &self,
        text: &str,
        header: &Header<'_>,
        peer: IpAddr,
        workflow: Workflow,
        hash: &TagKey,
    ) -> Vec<u64> {
        let read = |paths: &[FieldPath]| Message::parse_for(text, paths).ok();
        let mut keys = Vec::new();
        if workflow == Workflow::PatientMerge {
            for paths in [&self.survivors, &self.priors] {
                keys.extend(read(paths).into_iter().flat_map(|message| keys_of_each(&message, paths, hash)));
            }
        } else if let Some(message) = read(&self.patient) {
            keys.extend(patient_key(self.patient.iter().filter_map(|path| message.text(path)), hash));
        }
        keys.sort_unstable();
        keys.dedup();
        keys.truncate(journal::KEYS_MAX);
        if keys.is_empty() {
            let address = peer.to_string();
            keys.push(hash.order_key(SENDER, [header.field(3), header.field(4), address.as_bytes()]));
        }
        keys
    }
}

/// One key for the values that name one patient; none where all are empty.
fn patient_key<'a>(values: impl Iterator<Item = Cow<'a, str>>, hash: &TagKey) -> Option<u64> {
    let mut parts = values.filter(|value| !value.is_empty()).map(Bytes).peekable();
    parts.peek().is_some().then(|| hash.order_key(PATIENT, parts))
}

struct Bytes<'a>(Cow<'a, str>);

impl AsRef<[u8]> for Bytes<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The key of the first patient that the paths name, of the second, and so on.
fn keys_of_each(message: &Message<'_>, paths: &[FieldPath], hash: &TagKey) -> Vec<u64> {
    let columns: Vec<Vec<_>> = paths.iter().map(|path| message.text_all(path)).collect();
    let rows = columns.iter().map(Vec::len).max().unwrap_or(0);
    let row = |n: usize| columns.iter().filter_map(move |column| column.get(n)).cloned();
    (0..rows).filter_map(|n| patient_key(row(n), hash)).collect()
}

fn path_of(text: &str) -> FieldPath {
    text.parse().expect("a path written here is right")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;

    fn keys(lines: &str, workflow: Workflow, segments: &str) -> Vec<u64> {
        let text = format!("MSH|^~\\&|A|B|C|D|20260101||ADT^A34|1|P|2.5\r{segments}");
        let header = Header::parse(text.as_bytes()).unwrap();
        let order = OrderKeys::of(&settings(lines).channel);
        order.keys(&text, &header, "127.0.0.1".parse().unwrap(), workflow, &TagKey::new([1; 16]))
    }

    #[test]
    fn a_merge_meets_the_messages_of_both_patients_of_every_pair() {
        for (lines, pid, mrg) in [
            ("mapping: {}", "PID|1||X^^^H", "MRG|X^^^H"),
            ("mapping: { patient_id: PID.1.2.1 }", "PID|1|X", "MRG||||X"),
            ("mapping: { patient_id: PID.1.18.1 }", "PID|1|||||||||||||||||X", "MRG|||X"),
            ("mapping: { patient_id: [PID.1.3.1, PID.1.3.4] }", "PID|1||X^^^H", "MRG|X^^^H"),
        ] {
            let of = |id: &str| keys(lines, Workflow::Store, &format!("{}\r", pid.replace('X', id)));
            let pair = |a: &str, b: &str| format!("{}\r{}\r", pid.replace('X', a), mrg.replace('X', b));
            let merge = keys(lines, Workflow::PatientMerge, &(pair("1", "2") + &pair("3", "4")));
            for id in ["1", "2"] {
                assert!(merge.contains(&of(id)[0]), "{lines}: patient {id}");
            }
            assert!(merge.len() >= 3, "{lines}: {merge:?}");
        }
    }

    #[test]
    fn a_message_without_a_patient_stands_in_its_senders_lane() {
        let first = keys("mapping: {}", Workflow::Store, "EVN|A01\r");
        assert_eq!(first, keys("mapping: {}", Workflow::Store, "NK1|1\r"));
        assert_ne!(first, keys("mapping: {}", Workflow::Store, "PID|1||7\r"));
    }
}
