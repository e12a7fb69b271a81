//! HL7 v2 without input or output: MLLP frames, message headers, field paths, text, acknowledgments.
//!
//! Everything here works over bytes or text that somebody else read, with the time as an argument; no sockets, files,
//! clock, settings or log. A fault is always the peer's and comes back as data: nothing in this crate panics on input.
//!
//! The way of a message: [`mllp::Decoder`] cuts the stream into frames, [`batch::split`] a frame into messages,
//! [`charset::transcode_header`] makes the MSH readable in any encoding, [`header::Header`] reads of it what admission
//! needs, [`ack`] writes the answer; later, from the journal, [`charset::decode`] makes text of the body,
//! [`message::Message`] answers [`path::FieldPath`]s and [`escape`] turns values into plain text.

pub mod ack;
pub mod batch;
pub mod charset;
pub mod delimiters;
pub mod escape;
pub mod header;
pub mod message;
pub mod mllp;
pub mod names;
pub mod path;
pub mod segments;
