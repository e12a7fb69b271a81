//! The catalogue of refusals.

use super::Code;

/// Longest text of a refusal, the length of MSA-3.
const TEXT_MAX: usize = 80;

/// Why a message is refused. The constants are the whole catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `AE` or `AR`.
    pub code: Code,
    /// Error code of HL7 table 0357.
    pub error: u16,
    /// Segment at fault.
    pub segment: &'static str,
    /// Field at fault, where it is one.
    pub field: Option<u16>,
    /// Plain ASCII, at most 80 characters.
    pub text: &'static str,
}

impl Refusal {
    /// The body is no HL7 message: no MSH, or one that cannot be read.
    pub const NOT_HL7: Refusal = Refusal::of(Code::AR, 100, None, "no readable MSH segment");
    /// MSH-10 is empty.
    pub const CONTROL_ID_MISSING: Refusal =
        Refusal::of(Code::AE, 101, Some(10), "message control id is empty");
    /// MSH-9 is empty.
    pub const TYPE_MISSING: Refusal = Refusal::of(Code::AE, 101, Some(9), "message type is empty");
    /// The channel's encoding cannot decode the message, and it is set to refuse such.
    pub const UNDECODABLE: Refusal =
        Refusal::of(Code::AE, 102, None, "bytes that the character set does not have");
    /// No workflow for the message type.
    pub const TYPE_UNKNOWN: Refusal = Refusal::of(Code::AR, 200, Some(9), "message type not accepted here");
    /// The message type has workflows, but none for this trigger event.
    pub const EVENT_UNKNOWN: Refusal = Refusal::of(Code::AR, 201, Some(9), "trigger event not accepted here");
    /// MSH-11 is not among those accepted.
    pub const PROCESSING_ID: Refusal =
        Refusal::of(Code::AR, 202, Some(11), "processing id not accepted here");
    /// MSH-12 is not among those accepted.
    pub const VERSION: Refusal = Refusal::of(Code::AR, 203, Some(12), "version not accepted here");
    /// The message is larger than `stream_limit`.
    pub const TOO_LARGE: Refusal = Refusal::of(Code::AR, 207, None, "message larger than accepted here");

    /// `ack: processed`: a step could not be done in time. Nothing is kept, and the sender is to send it again.
    pub const INTERNAL: Refusal =
        Refusal::of(Code::AE, 207, None, "could not be processed in time, send again");
    /// `ack: processed`: a step failed for good.
    pub const PROCESSING_FAILED: Refusal = Refusal::of(Code::AE, 207, None, "processing failed");
    /// `ack: processed`: the message lacks a value that the channel needs.
    pub const REQUIRED_FIELD_MISSING: Refusal =
        Refusal::of(Code::AE, 101, None, "a value that is required here is missing");
    /// `ack: processed`: a value of the message is not what the channel needs there.
    pub const DATA_TYPE: Refusal =
        Refusal::of(Code::AE, 102, None, "a value is not of the type required here");

    const fn of(code: Code, error: u16, field: Option<u16>, text: &'static str) -> Refusal {
        assert!(text.len() <= TEXT_MAX && text.is_ascii());
        Refusal { code, error, segment: "MSH", field, text }
    }
}
