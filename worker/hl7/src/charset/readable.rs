//! A body whose header and batch segments can be read byte by byte, and the way back for its answer.

use super::wide::Wide;
use super::{BYTE_ORDER_MARK, Encoding};
use crate::header::{Header, HeaderFault};
use std::borrow::Cow;

/// Read of a wide body for its header: as many bytes as are kept of an oversize message.
const START_BYTES_MAX: usize = 64 << 10;

/// A body, or the start of one, in an encoding whose delimiters are bytes.
#[derive(Clone, Debug)]
pub struct Readable<'a> {
    bytes: Cow<'a, [u8]>,
    encoding: Encoding,
    wide: Option<Wide>,
}

impl Readable<'_> {
    /// What the header is to be read from: of a body in UTF-16 or UTF-32 its start in UTF-8, of others the body itself.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The header, with the bytes of its characters told from delimiters.
    pub fn header(&self) -> Result<Header<'_>, HeaderFault> {
        Header::parse_in(&self.bytes, self.encoding)
    }

    /// An acknowledgment or batch answer written for [`header`](Self::header), in the message's own encoding: as wide
    /// as it came, in its byte order, with a byte order mark where it had one.
    pub fn answer(&self, body: Vec<u8>) -> Vec<u8> {
        match self.wide {
            Some(wide) => wide.encode(&String::from_utf8_lossy(&body)),
            None => body,
        }
    }
}

/// Makes the header of a whole body readable in the encoding the channel is set to.
///
/// A body in UTF-16 or UTF-32 has to be whole: a whole number of units that ends with a segment's end. Frames are cut
/// at bytes, and a character may look like the end of one; what it cut off is [`HeaderFault::Unreadable`].
pub fn transcode_header(body: &[u8], encoding: Encoding) -> Result<Readable<'_>, HeaderFault> {
    if let Some((wide, text)) = Wide::of(body, encoding) {
        let last = text.len().checked_sub(wide.unit_bytes).and_then(|at| wide.units(&text[at..]).next());
        let whole = matches!(last, Some(0x0A | 0x0D)) && text.len().is_multiple_of(wide.unit_bytes);
        if !whole && !text.is_empty() {
            return Err(HeaderFault::Unreadable);
        }
    }
    transcode_start(body, encoding)
}

/// The same for the start of a body that was cut on purpose, such as an oversize one.
pub fn transcode_start(body: &[u8], encoding: Encoding) -> Result<Readable<'_>, HeaderFault> {
    let Some((wide, text)) = Wide::of(body, encoding) else {
        return Ok(Readable { bytes: Cow::Borrowed(body), encoding, wide: None });
    };
    let start = &text[..text.len().min(START_BYTES_MAX) / wide.unit_bytes * wide.unit_bytes];
    let decoded = wide.decode(start).text.into_owned();
    let first = decoded.trim_start().split(['\r', '\n']).next().unwrap_or_default();
    // Nothing of a header may be lost on the way to its acknowledgment.
    if first.contains(char::REPLACEMENT_CHARACTER) || first.as_bytes().starts_with(BYTE_ORDER_MARK) {
        return Err(HeaderFault::Unreadable);
    }
    Ok(Readable { bytes: Cow::Owned(decoded.into_bytes()), encoding: Encoding::Utf8, wide: Some(wide) })
}
