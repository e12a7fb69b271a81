//! What a frame's body is to this channel: accepted, refused with a code and a reason, or an inbound acknowledgment.
//! Pure. Only what receipt depends on is looked at here: everything else comes after the journal, so that a wrong
//! setting on our side never costs a message.

use config::{Channel, Workflow, WorkflowTable};
use hl7::ack::Refusal;
use hl7::charset::Readable;
use hl7::header::{self, Header};

/// What becomes of a frame.
#[derive(Debug)]
pub enum Admission<'a> {
    /// Journaled, then acknowledged.
    Accept {
        /// Its header.
        header: Header<'a>,
        /// What is done with it.
        workflow: Workflow,
    },
    /// Answered at once; `header` is missing where MSH cannot be read, and then the bytes are quarantined.
    Refuse {
        /// Its header.
        header: Option<Header<'a>>,
        /// Code, error and reason.
        refusal: &'static Refusal,
    },
    /// Never answered: quarantined and counted.
    InboundAcknowledgment,
}

/// Looks at a message that could be read so far.
pub fn admit<'a>(message: &'a Readable<'_>, channel: &Channel) -> Admission<'a> {
    let Ok(header) = message.header() else {
        return Admission::Refuse { header: None, refusal: &Refusal::NOT_HL7 };
    };
    if header.is_acknowledgment() {
        return Admission::InboundAcknowledgment;
    }
    let refuse = |header, refusal| Admission::Refuse { header: Some(header), refusal };
    if header.control_id().is_empty() {
        return refuse(header, &Refusal::CONTROL_ID_MISSING);
    }
    let message_type = header.message_type();
    if message_type.0.is_empty() {
        return refuse(header, &Refusal::TYPE_MISSING);
    }
    let workflow = match workflow(message.bytes(), &header, message_type, &channel.workflows) {
        Ok(workflow) => workflow,
        Err(refusal) => return refuse(header, refusal),
    };
    if !is_listed(&channel.accept_versions, &header, 12) {
        return refuse(header, &Refusal::VERSION);
    }
    if !is_listed(&channel.accept_processing_ids, &header, 11) {
        return refuse(header, &Refusal::PROCESSING_ID);
    }
    Admission::Accept { header, workflow }
}

/// Whether a channel's list has the value of a field; one without a list has every value.
fn is_listed(list: &Option<Vec<String>>, header: &Header<'_>, field: u16) -> bool {
    let has = |list: &Vec<String>| {
        let value = header.component(field, 1);
        list.iter().any(|listed| listed.as_bytes() == value)
    };
    list.as_ref().is_none_or(has)
}

/// The workflow of a message type (MSH-9, or MSH-9.1 and EVN-1 where MSH-9 names no event).
fn workflow(
    body: &[u8],
    header: &Header<'_>,
    (code, event): (&[u8], &[u8]),
    table: &WorkflowTable,
) -> Result<Workflow, &'static Refusal> {
    let code = String::from_utf8_lossy(code);
    let event_segment = if event.is_empty() { header::event_of(body, header) } else { None };
    let event = String::from_utf8_lossy(event_segment.as_deref().unwrap_or(event));
    match table.workflow(&code, &event) {
        Some(workflow) => Ok(workflow),
        None if table.knows_type(&code) => Err(&Refusal::EVENT_UNKNOWN),
        None => Err(&Refusal::TYPE_UNKNOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;

    fn outcome(msh: &str, rest: &str, lines: &str) -> String {
        let settings = settings(lines);
        let body = format!("{msh}\r{rest}");
        let message = hl7::charset::transcode_header(body.as_bytes(), settings.channel.encoding).unwrap();
        match admit(&message, &settings.channel) {
            Admission::Accept { workflow, .. } => workflow.name().to_owned(),
            Admission::Refuse { refusal, .. } => format!("{} {}", refusal.code.as_str(), refusal.error),
            Admission::InboundAcknowledgment => "silence".to_owned(),
        }
    }

    #[test]
    fn what_receipt_depends_on_decides() {
        for (message_type, control_id, expected) in [
            ("ADT^A01", "1", "credentials"),
            ("ORU^R01^ORU_R01", "1", "document"),
            ("MDM^T02", "1", "document"),
            ("ADT^A34", "1", "patient_merge"),
            ("ADT^A99", "1", "AR 201"),
            ("SIU^S12", "1", "AR 200"),
            ("ADT^A01", "", "AE 101"),
            ("", "1", "AE 101"),
            ("ACK^A01", "1", "silence"),
            ("MCF", "1", "silence"),
        ] {
            let msh = format!("MSH|^~\\&|A|B|C|D|20260101||{message_type}|{control_id}|P|2.5");
            assert_eq!(outcome(&msh, "", "mapping: {}"), expected, "{message_type} {control_id}");
        }
        assert_eq!(outcome("PID|1", "", "mapping: {}"), "AR 100");
    }

    #[test]
    fn an_event_that_stands_only_in_evn_counts() {
        let msh = "MSH|^~\\&|A|B|C|D|20260101||ADT|1|P|2.1";
        assert_eq!(outcome(msh, "EVN|A08|20260101\r", "mapping: {}"), "credentials");
    }

    #[test]
    fn versions_and_processing_ids_are_accepted_as_listed() {
        let msh = "MSH|^~\\&|A|B|C|D|20260101||ADT^A01|1|T^X|2.5.1";
        assert_eq!(outcome(msh, "", "accept_versions: [2.5, 2.5.1]"), "credentials");
        assert_eq!(outcome(msh, "", "accept_versions: [2.3]"), "AR 203");
        assert_eq!(outcome(msh, "", "accept_processing_ids: [P]"), "AR 202");
        assert_eq!(outcome(msh, "", "accept_processing_ids: [P, T]"), "credentials");
    }

    #[test]
    fn message_types_add_to_the_table() {
        let msh = "MSH|^~\\&|A|B|C|D|20260101||SIU^S12|1|P|2.5";
        assert_eq!(outcome(msh, "", "message_types: { SIU^S12: store }"), "store");
        assert_eq!(outcome(msh, "", "message_types: { SIU: document }"), "document");
        assert_eq!(outcome(msh, "", "message_types: { \"*\": store }"), "store");
    }
}
