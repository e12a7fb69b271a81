//! The first words of a TDS connection, as bytes: packets, the pre-login, which encryption it settles on. Pure.
//!
//! MS-TDS 2.2.6.5: a table of options, five bytes each (token, offset, length), then their values.

use std::io;

/// Bytes of a packet's header.
pub(super) const HEADER_BYTES: usize = 8;
/// Kind of a pre-login packet.
pub(super) const PRELOGIN: u8 = 0x12;
/// Kind of a server's packet.
pub(super) const ANSWER: u8 = 0x04;

/// What a packet carries at most until a login settles on another size.
const PAYLOAD_BYTES: usize = 4_096 - HEADER_BYTES;
/// The last packet of a message.
const LAST: u8 = 1;

const VERSION: u8 = 0;
const ENCRYPTION: u8 = 1;
const INSTANCE: u8 = 2;
const THREAD: u8 = 3;
const MARS: u8 = 4;
const END: u8 = 0xff;

/// What one side says of encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// For the login alone; we take it as none.
    Off,
    On,
    NotSupported,
    Required,
}

impl Encryption {
    fn code(self) -> u8 {
        match self {
            Encryption::Off => 0,
            Encryption::On => 1,
            Encryption::NotSupported => 2,
            Encryption::Required => 3,
        }
    }
}

/// A client's pre-login.
pub(super) fn request(wanted: Encryption) -> Vec<u8> {
    options(&[
        (VERSION, &[0; 6]),
        (ENCRYPTION, &[wanted.code()]),
        // Whichever instance listens there.
        (INSTANCE, &[0]),
        (THREAD, &[0; 4]),
        (MARS, &[0]),
    ])
}

/// The answer, in its packet, of a server that knows no encryption.
pub(super) fn answer_without_encryption() -> Vec<u8> {
    let options = options(&[(VERSION, &[0; 6]), (ENCRYPTION, &[Encryption::NotSupported.code()])]);
    in_packets(ANSWER, &options)
}

/// What the server's answer says of encryption.
pub(super) fn encryption(answer: &[u8]) -> Result<Encryption, &'static str> {
    let value = option(answer, ENCRYPTION).ok_or("its pre-login says nothing of encryption")?;
    match value.first() {
        Some(0) => Ok(Encryption::Off),
        Some(1) => Ok(Encryption::On),
        Some(2) => Ok(Encryption::NotSupported),
        Some(3) => Ok(Encryption::Required),
        // 0x80 and more want a client certificate.
        Some(_) | None => Err("its pre-login asks for an encryption that we do not know"),
    }
}

/// A pre-login message cut into packets.
pub(super) fn packets(payload: &[u8]) -> Vec<u8> {
    in_packets(PRELOGIN, payload)
}

/// How many bytes follow a packet's header, where it is of one of these kinds.
pub(super) fn payload_bytes(header: [u8; HEADER_BYTES], kinds: &[u8]) -> io::Result<usize> {
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    match length.checked_sub(HEADER_BYTES) {
        Some(bytes) if kinds.contains(&header[0]) => Ok(bytes),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Whether these bytes hold a whole packet.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_BYTES && bytes.len() >= usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))
}

fn in_packets(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + HEADER_BYTES);
    let mut parts = payload.chunks(PAYLOAD_BYTES).peekable();
    while let Some(part) = parts.next() {
        let length = u16::try_from(part.len() + HEADER_BYTES).expect("a part is under 4 KiB").to_be_bytes();
        let status = if parts.peek().is_none() { LAST } else { 0 };
        bytes.extend([kind, status, length[0], length[1], 0, 0, 0, 0]);
        bytes.extend_from_slice(part);
    }
    bytes
}

fn options(options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut table = Vec::new();
    let mut values = Vec::new();
    for (token, value) in options {
        let offset =
            u16::try_from(options.len() * 5 + 1 + values.len()).expect("a pre-login is some 40 bytes");
        let length = u16::try_from(value.len()).expect("an option's value is at most 6 bytes");
        table.push(*token);
        table.extend(offset.to_be_bytes());
        table.extend(length.to_be_bytes());
        values.extend_from_slice(value);
    }
    table.push(END);
    table.extend(values);
    table
}

fn option(message: &[u8], wanted: u8) -> Option<&[u8]> {
    for option in message.chunks_exact(5) {
        if option[0] == END {
            return None;
        }
        if option[0] == wanted {
            let offset = usize::from(u16::from_be_bytes([option[1], option[2]]));
            let length = usize::from(u16::from_be_bytes([option[3], option[4]]));
            return message.get(offset..offset + length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_which_encryption_it_takes() {
        for level in [Encryption::Off, Encryption::On, Encryption::NotSupported, Encryption::Required] {
            assert_eq!(encryption(&request(level)), Ok(level));
        }
    }

    #[test]
    fn an_answer_cut_off_or_bent_is_an_error_and_no_panic() {
        let whole = request(Encryption::On);
        for end in 0..whole.len() {
            let _ = encryption(&whole[..end]);
        }
        assert!(encryption(&[]).is_err());
        assert!(encryption(&[1, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(encryption(&[1, 0, 5, 0, 0]).is_err());
        assert!(encryption(&[1, 0, 6, 0, 1, 0xff, 0x81]).is_err());
        assert!(encryption(&[0xff, 1, 0, 6, 0, 1]).is_err());
    }

    #[test]
    fn a_long_message_is_cut_and_only_its_last_packet_says_so() {
        let bytes = packets(&[9; PAYLOAD_BYTES + 1]);
        assert_eq!(&bytes[..4], &[PRELOGIN, 0, 0x10, 0x00]);
        assert_eq!(&bytes[4_096..4_100], &[PRELOGIN, LAST, 0, 9]);
        assert_eq!(bytes.len(), PAYLOAD_BYTES + 1 + 2 * HEADER_BYTES);
    }

    #[test]
    fn a_packet_shorter_than_its_header_or_of_another_kind_is_refused() {
        assert!(payload_bytes([ANSWER, 1, 0, 7, 0, 0, 0, 0], &[ANSWER]).is_err());
        assert!(payload_bytes([b'H', b'T', b'T', b'P', 0, 0, 0, 0], &[ANSWER]).is_err());
        assert_eq!(payload_bytes([ANSWER, 1, 0xff, 0xff, 0, 0, 0, 0], &[ANSWER]).unwrap(), 65_527);
        assert!(!is_whole(&[PRELOGIN, 1, 0, 9, 0, 0, 0, 0]));
        assert!(is_whole(&[PRELOGIN, 1, 0, 9, 0, 0, 0, 0, 1]));
    }
}
