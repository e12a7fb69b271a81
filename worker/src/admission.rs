//! What a frame's body is to this channel: accepted, refused with a code and a reason, or an inbound acknowledgment.
//! Pure. Only what receipt depends on is looked at here: everything else comes after the journal, so that a wrong
//! setting on our side never costs a message.

use config::{Channel, Workflow, WorkflowTable};
use hl7::ack::Refusal;
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

/// Looks at a body.
pub fn admit<'a>(body: &'a [u8], channel: &Channel) -> Admission<'a> {
    let Ok(header) = Header::parse(body) else {
        return Admission::Refuse { header: None, refusal: &Refusal::NOT_HL7 };
    };
    if header.is_acknowledgment() {
        return Admission::InboundAcknowledgment;
    }
    let refuse = |header, refusal| Admission::Refuse { header: Some(header), refusal };
    if header.control_id().is_empty() {
        return refuse(header, &Refusal::CONTROL_ID_MISSING);
    }
    if header.message_type().0.is_empty() {
        return refuse(header, &Refusal::TYPE_MISSING);
    }
    match workflow(body, &header, &channel.workflows) {
        Ok(workflow) => Admission::Accept { header, workflow },
        Err(refusal) => refuse(header, refusal),
    }
}

/// The workflow of a message type (MSH-9, or MSH-9.1 and EVN-1 where MSH-9 names no event).
fn workflow(body: &[u8], header: &Header<'_>, table: &WorkflowTable) -> Result<Workflow, &'static Refusal> {
    let (code, event) = header.message_type();
    let code = String::from_utf8_lossy(code);
    let event_segment = if event.is_empty() { header::event_of(body, header) } else { None };
    let event = String::from_utf8_lossy(event_segment.as_deref().unwrap_or(event));
    let named = (!event.is_empty()).then(|| table.by_type.get(&format!("{code}^{event}"))).flatten();
    if let Some(workflow) = named.or_else(|| table.by_type.get(code.as_ref())).or(table.any.as_ref()) {
        return Ok(*workflow);
    }
    let type_known = table.by_type.keys().any(|t| t.split('^').next() == Some(code.as_ref()));
    Err(if type_known { &Refusal::EVENT_UNKNOWN } else { &Refusal::TYPE_UNKNOWN })
}
