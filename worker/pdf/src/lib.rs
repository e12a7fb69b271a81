//! Metadata stamped into PDF documents, and plain text laid out as one. Bytes in, bytes out: no HL7, no files, no
//! clock, no chance; the same call gives the same bytes.
//!
//! [`stamp`] writes `name: value` lines on the first page or on all, red and small in the upper left corner of the page
//! as it is displayed, or invisible and found by search; and sets the same in the Info dictionary and in XMP. It
//! appends an incremental update (ISO 32000-1 § 7.5.6): the original's bytes stand unchanged in front, signatures
//! included. Only a document whose cross-reference is damaged is rewritten whole. What cannot be stamped is an
//! [`Unstamped`] with its reason, and its bytes are the caller's own.
//!
//! lopdf gives the object model, the filters, decryption and the recovery of damaged files. Reading and appending are
//! done here: its loader reads all of a file where a stamp needs ten objects, and its writer drops encryption.

#![warn(missing_docs)]

mod content;
mod edit;
mod embedded;
mod encryption;
mod file;
mod geometry;
mod layout;
mod lexer;
mod limits;
mod metadata;
mod pages;
mod recovery;
mod stamp;
mod stream;
mod text;
mod truetype;
mod win_ansi;
mod writer;
mod xref;

pub use layout::layout;
pub use limits::Limits;
pub use stamp::{How, Look, Pages, Reason, Stamped, Unstamped, stamp};
