//! MLLP release 1: the envelope around messages on a stream.
//!
//! A frame is VT, the message, FS, CR. [`wrap`] makes one; [`Decoder`] takes a stream apart, names every deviation of
//! the peer and never lets a truncated or merged message pass as a whole one.

mod decoder;

pub use decoder::Decoder;

/// Begins a frame.
pub const VT: u8 = 0x0B;
/// Ends a frame, with a CR behind it.
pub const FS: u8 = 0x1C;
/// Ends a segment, and a frame behind FS.
pub const CR: u8 = 0x0D;
/// Ends a segment where the sender knows no CR.
pub const LF: u8 = 0x0A;

/// A frame around a body.
pub fn wrap(body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(body.len() + 3);
    frame.push(VT);
    frame.extend_from_slice(body);
    frame.extend_from_slice(&[FS, CR]);
    frame
}

/// The body of a frame that was stored whole, VT, FS and CR included; other bytes as they are. For files, whose end is
/// known; a stream wants the [`Decoder`].
pub fn unwrap(bytes: &[u8]) -> &[u8] {
    let Some(body) = bytes.strip_prefix(&[VT]) else { return bytes };
    let end = body.trim_ascii_end();
    end.strip_suffix(&[FS]).unwrap_or(body)
}

/// Bounds a channel sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest body accepted.
    pub stream_limit_bytes: usize,
    /// Longest silence inside a frame; 0 for no limit.
    pub message_timeout_ms: u64,
}

/// How a peer departs from the protocol. The codes are stable: counters and log lines carry them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Deviation {
    /// White space or NUL between frames; dropped.
    Pad,
    /// FS between frames; dropped.
    StrayFs,
    /// Other bytes between frames; dropped up to the next VT.
    Junk,
    /// The connection speaks another protocol.
    NotMllp,
    /// A TLS greeting on a plain port.
    TlsOnPlain,
    /// Plain text on a port for TLS. Whoever takes the TLS off finds it; the decoder never sees it.
    PlainOnTls,
    /// A frame without its VT; accepted.
    MissingVt,
    /// A message cut off by the beginning of the next; quarantined.
    Truncated,
    /// A body over the limit; refused.
    Oversize,
    /// A frame that was never ended; quarantined.
    Partial,
    /// A frame ended by FS without CR; accepted.
    MissingCr,
    /// A frame ended by FS LF; accepted.
    LfForCr,
    /// FS inside a body; kept as data, reported once a frame.
    EmbeddedFs,
}

impl Deviation {
    /// All of them, in order.
    pub const ALL: [Deviation; 13] = [
        Deviation::Pad,
        Deviation::StrayFs,
        Deviation::Junk,
        Deviation::NotMllp,
        Deviation::TlsOnPlain,
        Deviation::PlainOnTls,
        Deviation::MissingVt,
        Deviation::Truncated,
        Deviation::Oversize,
        Deviation::Partial,
        Deviation::MissingCr,
        Deviation::LfForCr,
        Deviation::EmbeddedFs,
    ];

    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Deviation::Pad => "pad",
            Deviation::StrayFs => "stray_fs",
            Deviation::Junk => "junk",
            Deviation::NotMllp => "not_mllp",
            Deviation::TlsOnPlain => "tls_on_plain",
            Deviation::PlainOnTls => "plain_on_tls",
            Deviation::MissingVt => "missing_vt",
            Deviation::Truncated => "truncated",
            Deviation::Oversize => "oversize",
            Deviation::Partial => "partial",
            Deviation::MissingCr => "missing_cr",
            Deviation::LfForCr => "lf_for_cr",
            Deviation::EmbeddedFs => "embedded_fs",
        }
    }
}

/// What the decoder found, in the order of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The body of a complete frame, as it came. Its deviations were reported before it.
    Frame(Vec<u8>),
    /// The peer departed from the protocol.
    Deviation {
        /// How.
        what: Deviation,
        /// Bytes of the connection before the place.
        offset: u64,
        /// The byte at the place, where there is one.
        byte: Option<u8>,
    },
    /// Bytes that are no whole message and are never answered.
    Quarantine {
        /// `Truncated` or `Partial`.
        what: Deviation,
        /// What came.
        bytes: Vec<u8>,
    },
    /// A message over the limit is over. The answer is AR.
    Oversize {
        /// The first bytes, at most 64 KiB; the MSH is among them.
        head: Vec<u8>,
        /// Its end was found and the stream goes on; otherwise answer, shut down writing, close. The decoder takes
        /// nothing more then.
        back_in_step: bool,
    },
    /// Close the connection; the decoder takes nothing more.
    Close(CloseCause),
}

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// It speaks another protocol.
    NotMllp,
    /// It speaks TLS on a plain port.
    TlsOnPlain,
    /// More junk than a mistake explains.
    Junk,
    /// Silence inside a frame for `message_timeout`.
    MessageTimeout,
    /// A frame that takes too long altogether.
    FrameTooOld,
}

impl CloseCause {
    /// For a log line.
    pub fn describe(self) -> &'static str {
        match self {
            CloseCause::NotMllp => "it does not speak MLLP",
            CloseCause::TlsOnPlain => "it speaks TLS on a plain port",
            CloseCause::Junk => "too many bytes outside frames",
            CloseCause::MessageTimeout => "silence inside a frame",
            CloseCause::FrameTooOld => "a frame without an end",
        }
    }
}

#[cfg(test)]
mod tests;
